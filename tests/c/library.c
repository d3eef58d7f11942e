// SPDX-License-Identifier: MIT
/* The C API of libexmap, from a C program.  Usage: library kernel|posix BACKING */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exmap_user.h"

#define PAGES 4096
#define POOL 1024
#define THREADS 4
#define EACH (PAGES / THREADS)
#define CHUNK EXMAP_CHUNK_PAGES

#define CHECK(condition)                                                                   \
	do {                                                                               \
		if (!(condition)) {                                                        \
			printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);             \
			exit(1);                                                           \
		}                                                                          \
	} while (0)

struct job {
	struct exmap *ex;
	unsigned int number;
};

static void *churn(void *arg)
{
	const struct job *job = arg;
	uint64_t pages[100];
	unsigned int round, i;

	for (round = 0; round < 200; round++) {
		uint64_t flags = round % 3 ? EXMAP_FREE_LAZY : 0;

		for (i = 0; i < 100; i++)
			pages[i] = job->number * EACH + (round * 7 + i * 9) % EACH;
		CHECK(exmap_vector(job->ex, job->number, EXMAP_OP_ALLOC, pages, 100, 0, NULL) >= 0);
		for (i = 0; i < 100; i++) {
			CHECK(exmap_is_mapped(job->ex, pages[i]));
			memset(exmap_page(job->ex, pages[i]), (int)i, EXMAP_PAGE_SIZE);
		}
		CHECK(exmap_vector(job->ex, job->number, EXMAP_OP_FREE, pages, 100, flags, NULL) >= 0);
	}
	return NULL;
}

static void check_conserved(struct exmap *ex)
{
	struct exmap_counters c;

	CHECK(exmap_counters(ex, &c) == 0);
	CHECK(c.total == c.free + c.mapped + c.quarantine + c.busy + c.snapshot);
	CHECK(c.mapped == 0);
}

static void threads(struct exmap *ex)
{
	pthread_t ids[THREADS];
	struct job jobs[THREADS];
	unsigned int i;

	for (i = 0; i < THREADS; i++) {
		jobs[i] = (struct job){ ex, i };
		CHECK(!pthread_create(&ids[i], NULL, churn, &jobs[i]));
	}
	for (i = 0; i < THREADS; i++)
		CHECK(!pthread_join(ids[i], NULL));
	check_conserved(ex);
}

static void vectors(struct exmap *ex)
{
	uint64_t *pages = malloc(PAGES * sizeof(*pages));
	size_t done;
	uint64_t i;

	for (i = 0; i < PAGES; i++)
		pages[i] = i;
	CHECK(exmap_vector(ex, 0, EXMAP_OP_ALLOC, pages, PAGES, 0, &done) == -ENOMEM);
	CHECK(done == POOL);
	CHECK(exmap_vector(ex, 0, EXMAP_OP_FREE, pages, PAGES, 0, &done) == POOL);
	pages[3] = UINT64_MAX;
	CHECK(exmap_vector(ex, 0, EXMAP_OP_ALLOC, pages, 8, 0, &done) == -EFAULT);
	CHECK(done == 7);
	CHECK(exmap_vector(ex, 0, EXMAP_OP_FREE, pages, 8, 0, &done) == -EFAULT && done == 7);
	CHECK(exmap_vector(ex, THREADS, EXMAP_OP_FREE, pages, 8, 0, &done) == -EINVAL && !done);
	free(pages);
	check_conserved(ex);
}

static void backing(struct exmap *ex)
{
	uint64_t pages[] = { 3, 4, 5, 9 };
	struct exmap_info info;

	CHECK(exmap_info(ex, &info) == 0);
	CHECK(info.abi_version == EXMAP_ABI_VERSION && info.backing_pages == 16);
	CHECK(exmap_vector(ex, 1, EXMAP_OP_READ, pages, 4, 0, NULL) == 4);
	CHECK(*(uint8_t *)exmap_page(ex, 9) == 9);
	memset(exmap_page(ex, 4), 0xee, EXMAP_PAGE_SIZE);
	CHECK(exmap_vector(ex, 1, EXMAP_OP_WRITE, pages, 4, 0, NULL) == 4);
	CHECK(exmap_vector(ex, 1, EXMAP_OP_FREE, pages, 4, 0, NULL) == 4);
	CHECK(exmap_vector(ex, 1, EXMAP_OP_READ, pages, 4, 0, NULL) == 4);
	CHECK(((uint8_t *)exmap_page(ex, 4))[4095] == 0xee);
	CHECK(exmap_vector(ex, 1, EXMAP_OP_FREE, pages, 4, 0, NULL) == 4);
	CHECK(exmap_barrier(ex) == 0);
	CHECK(exmap_resize(ex, POOL / 2) == 0 && exmap_resize(ex, POOL) == 0);
	check_conserved(ex);
}

static void map_and_fill(struct exmap *ex, uint64_t start, uint64_t count, int value)
{
	uint64_t pages[100], i;

	for (i = 0; i < count; i++)
		pages[i] = start + i;
	CHECK(exmap_vector(ex, 0, EXMAP_OP_ALLOC, pages, count, 0, NULL) == (long)count);
	memset(exmap_page(ex, start), value, count * EXMAP_PAGE_SIZE);
}

static uint8_t first_byte(struct exmap_snapshot *snap, uint64_t page)
{
	uint8_t byte;

	CHECK(exmap_snapshot_pread(snap, &byte, 1, page * EXMAP_PAGE_SIZE) == 1);
	CHECK(*(const uint8_t *)exmap_snapshot_page(snap, page) == byte);
	return byte;
}

static void snapshot_refusals(struct exmap *ex)
{
	struct exmap_snapshot *snap = (void *)ex;

	CHECK(exmap_snapshot_open(ex, 1, CHUNK, 0, 0, &snap) == -EINVAL && !snap);
	CHECK(exmap_snapshot_open(ex, 0, 1, 0, 0, &snap) == -EINVAL);
	CHECK(exmap_snapshot_open(ex, 0, 0, 0, 0, &snap) == -EFAULT);
	CHECK(exmap_snapshot_open(ex, 0, PAGES + CHUNK, 0, 0, &snap) == -EFAULT);
	CHECK(exmap_snapshot_open(ex, CHUNK, UINT64_MAX - 10, 0, 0, &snap) == -EFAULT);
	CHECK(exmap_snapshot_open(ex, 0, CHUNK, POOL + 1, 0, &snap) == -ENOMEM && !snap);
	exmap_snapshot_close(NULL);
}

/* Pages 600 to 609 are 1 in the snapshot, which starts at 512. */
static void check_reads(struct exmap_snapshot *snap)
{
	static uint8_t buffer[20 * EXMAP_PAGE_SIZE];
	uint32_t words[12];
	int i;

	CHECK(snap->start == CHUNK && snap->count == 2 * CHUNK);
	for (i = 88; i < 98; i++)
		CHECK(first_byte(snap, (uint64_t)i) == 1);
	CHECK(exmap_snapshot_pread(snap, buffer, sizeof(buffer), 90 * EXMAP_PAGE_SIZE - 5) ==
	      8 * EXMAP_PAGE_SIZE + 5);
	CHECK(exmap_snapshot_pread(snap, buffer, 1, 98 * EXMAP_PAGE_SIZE) == -ENOENT);
	CHECK(exmap_snapshot_pread(snap, buffer, 1, 2ull * CHUNK * EXMAP_PAGE_SIZE) == 0);
	CHECK(exmap_snapshot_words(snap, 87, 12, words) == 0);
	for (i = 0; i < 12; i++)
		CHECK(EXMAP_RES_MAPPED(words[i]) == (i > 0 && i < 11));
	CHECK(exmap_snapshot_words(snap, 2 * CHUNK, 1, words) == -EFAULT);
	CHECK(!exmap_snapshot_will_need(snap, 0, 2 * CHUNK));
	CHECK(!exmap_snapshot_will_need(snap, 2 * CHUNK, 0));
	CHECK(exmap_snapshot_will_need(snap, 1, 2 * CHUNK) == -EFAULT);
	CHECK(exmap_snapshot_will_need(snap, 1, UINT64_MAX) == -EFAULT);
	CHECK(exmap_snapshot_words(snap, 1, UINT64_MAX, words) == -EFAULT);
}

static void check_diff(struct exmap_snapshot *old, struct exmap_snapshot *new)
{
	uint8_t bits[CHUNK / 4];
	uint64_t i;

	CHECK(exmap_snapshot_diff(old, new, 0, 2 * CHUNK, bits) == 0);
	for (i = 0; i < 2 * CHUNK; i++) {
		bool want = i == 88 || i == 89 || i == 92 || i == 700;

		/* the kernel copies neighbours ahead, and takes those for changed */
		if (want || old->backend == EXMAP_BACKEND_POSIX || i < 88 || i > 97)
			CHECK((bits[i / 8] >> i % 8 & 1) == want);
	}
	CHECK(exmap_snapshot_diff(new, old, CHUNK + 200, 1, bits) == 0 && !bits[0]);
	CHECK(exmap_snapshot_diff(old, new, 4, 8, bits) == -EINVAL);
	CHECK(exmap_snapshot_diff(old, new, 8, 2 * CHUNK, bits) == -EFAULT);
	CHECK(exmap_snapshot_diff(new, old, 0, CHUNK, bits) == -EFAULT);
}

/* Two generations; the older one outlives the newer, and the region. */
static struct exmap_snapshot *snapshots(struct exmap *ex)
{
	struct exmap_snapshot *old, *new;
	struct exmap_snapshot_info info;
	uint64_t pages[] = { 602, 604, 605 };
	long copied;

	map_and_fill(ex, 600, 10, 1);
	CHECK(exmap_snapshot_open(ex, CHUNK, 2 * CHUNK, 20, 0, &old) == 0);
	memset(exmap_page(ex, 600), 2, 2 * EXMAP_PAGE_SIZE);
	CHECK(exmap_vector(ex, 0, EXMAP_OP_FREE, pages + 1, 1, EXMAP_FREE_LAZY, NULL) == 1);
	map_and_fill(ex, 512 + 700, 1, 1);
	check_reads(old);

	CHECK(exmap_snapshot_open(ex, 0, 4 * CHUNK, 0, 0, &new) == 0);
	check_diff(old, new);
	copied = exmap_vector(ex, 1, EXMAP_OP_UNSHARE, pages, 3, 0, NULL);
	CHECK(copied == (ex->backend == EXMAP_BACKEND_KERNEL ? 2 : 0));
	pages[2] = PAGES;
	CHECK(exmap_vector(ex, 1, EXMAP_OP_UNSHARE, pages, 3, 0, NULL) == -EFAULT);
	memset(exmap_page(ex, 602), 3, EXMAP_PAGE_SIZE);
	CHECK(first_byte(new, 600) == 2 && first_byte(new, 602) == 1);
	exmap_snapshot_close(new);
	CHECK(exmap_snapshot_info(old, &info) == 0);
	CHECK(info.start == CHUNK && info.count == 2 * CHUNK && info.id && !info.broken);
	/* what the newer one had to copy came out of its own, which was none */
	CHECK(ex->backend == EXMAP_BACKEND_KERNEL ? info.reserve <= 18 : info.reserve == 20);
	CHECK(exmap_snapshot_open(ex, 0, PAGES, EXMAP_RESERVE_ALL, 0, &new) == 0);
	CHECK(exmap_snapshot_info(new, &info) == 0 && info.reserve == 10);
	exmap_snapshot_close(new);
	return old;
}

/* On posix the backing serves as the disk; the kernel's side is in tests/vm. */
static void nvme(struct exmap *ex, const char *path)
{
	struct exmap_nvme_config config = { .device = path, .depth = 4 };
	uint64_t pages[] = { 1, 2, 3, 4, 5, 6 }, lbas[] = { 0, 8, 16, 24, 32, 120 };
	struct exmap_nvme_queue *queue;
	size_t done;

	config.depth = 1;
	CHECK(exmap_nvme_open(ex, &config, &queue) == -EINVAL && !queue);
	config.depth = 4;
	if (ex->backend == EXMAP_BACKEND_KERNEL) {
		CHECK(exmap_nvme_open(ex, &config, &queue) == -EINVAL && !queue);
		config.device = "0000:ff:1f.7";
		CHECK(exmap_nvme_open(ex, &config, &queue) == -ENODEV && !queue);
		return;
	}
	map_and_fill(ex, 1, 6, 9);
	CHECK(exmap_nvme_open(ex, &config, &queue) == 0);
	CHECK(exmap_nvme_vector(queue, EXMAP_NVME_READ, pages, lbas, 6, 1, 1000000000, &done) == 6);
	CHECK(done == 6 && *(uint8_t *)exmap_page(ex, 6) == 15);
	lbas[3] = 128;
	CHECK(exmap_nvme_vector(queue, EXMAP_NVME_READ, pages, lbas, 6, 1, 1000000000, &done) ==
	      -ENXIO);
	CHECK(done >= 3 && queue->free == 3);
	CHECK(exmap_nvme_submit_flush(queue, 0) == 0);
	CHECK(exmap_nvme_vector(queue, EXMAP_NVME_READ, pages, lbas, 1, 1, 0, NULL) == -EBUSY);
	exmap_nvme_close(queue);
	exmap_nvme_close(NULL);
	CHECK(exmap_vector(ex, 0, EXMAP_OP_FREE, pages, 6, 0, NULL) == 6);
}

int main(int argc, char **argv)
{
	struct exmap_snapshot *snap;
	struct exmap_config config = {
		.interfaces = THREADS,
		.region_pages = PAGES,
		.pool_pages = POOL,
		.flags = EXMAP_SNAPSHOTS,
	};
	struct exmap *ex;

	CHECK(argc == 3);
	config.backend = strcmp(argv[1], "kernel") ? EXMAP_BACKEND_POSIX : EXMAP_BACKEND_KERNEL;
	config.backing_fd = open(argv[2], O_RDWR);
	CHECK(config.backing_fd >= 0);
	CHECK(exmap_open(&config, &ex) == 0);
	close(config.backing_fd);
	vectors(ex);
	backing(ex);
	nvme(ex, argv[2]);
	threads(ex);
	snapshot_refusals(ex);
	snap = snapshots(ex);
	exmap_close(ex);
	check_reads(snap);
	exmap_snapshot_close(snap);

	/* a snapshot that goes first, and a region without any */
	config.backing_fd = -1;
	CHECK(exmap_open(&config, &ex) == 0);
	CHECK(exmap_snapshot_open(ex, 0, PAGES, 0, 0, &snap) == 0);
	exmap_snapshot_close(snap);
	exmap_close(ex);
	config.flags = 0;
	CHECK(exmap_open(&config, &ex) == 0);
	CHECK(exmap_snapshot_open(ex, 0, PAGES, 0, 0, &snap) == -EOPNOTSUPP && !snap);
	exmap_close(ex);
	puts("library: ok");
	return 0;
}
