// SPDX-License-Identifier: MIT
/*
 * Memory, and three ways to freeze it: a snapshot of an exmap region; fork with
 * an anonymous mapping, whose child does for its copy what we do for a snapshot,
 * on the same CPU; and userfaultfd with an anonymous mapping.
 *
 * Every page's words sum to zero, and every transaction keeps it so: a page of
 * a copy with another sum shows half a transaction.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "forked.h"
#include "snapshot.h"
#include "uffd.h"

#define PAGE_WORDS	(EXMAP_PAGE_SIZE / sizeof(uint64_t))
#define PREAD_PAGES	16u

struct snapshot_bench {
	struct snapshot_config config;
	uint8_t *base;
	/* exmap */
	int fd;
	struct exmap_user_interface *itf[SNAPSHOT_MAX_WRITERS];
	int snapshot;
	bool readers_copy;
	uint8_t *view;
	/* the others */
	struct forked *forked;
	struct uffd *uffd;
};

static size_t size_of(const struct snapshot_bench *bench)
{
	return (size_t)bench->config.pages * EXMAP_PAGE_SIZE;
}

uint8_t *snapshot_memory(const struct snapshot_bench *bench)
{
	return bench->base;
}

uint32_t snapshot_pages(const struct snapshot_bench *bench)
{
	return bench->config.pages;
}

static void scan_page(const uint64_t *words, struct snapshot_scan *scan)
{
	uint64_t sum = 0, sums = 0;
	unsigned int i;

	for (i = 0; i < PAGE_WORDS; i++) {
		sum += words[i];
		sums += sum;
	}
	scan->digest = scan->digest * 0x9e3779b97f4a7c15u + sums;
	scan->torn += sum != 0;
}

void snapshot_scan_memory(const uint8_t *base, uint32_t pages, struct snapshot_scan *scan)
{
	uint32_t page;

	for (page = 0; page < pages; page++)
		scan_page((const uint64_t *)(base + (size_t)page * EXMAP_PAGE_SIZE), scan);
}

/* exmap */

static int act(struct snapshot_bench *bench, unsigned int interface, unsigned int opcode,
	       unsigned int n)
{
	struct exmap_action_params params = { .interface = (uint16_t)interface,
					      .iov_len = (uint16_t)n,
					      .opcode = (uint16_t)opcode };
	unsigned int i;
	int ret = ioctl(bench->fd, EXMAP_IOCTL_ACTION, &params);

	if (ret < 0)
		return -errno;
	for (i = 0; i < n && ret; i++)
		if (bench->itf[interface]->iov[i].res)
			return bench->itf[interface]->iov[i].res;
	return 0;
}

static int map_region(struct snapshot_bench *bench)
{
	const struct snapshot_config *config = &bench->config;
	struct exmap_ioctl_setup setup = { .fd = -1, .max_interfaces = (int)config->writers,
					   .buffer_size = config->pool_pages,
					   .flags = EXMAP_SNAPSHOTS };
	unsigned int i;
	void *mem;

	bench->fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (bench->fd < 0 || ioctl(bench->fd, EXMAP_IOCTL_SETUP, &setup))
		return -errno;
	mem = mmap(NULL, size_of(bench), PROT_READ | PROT_WRITE, MAP_SHARED, bench->fd,
		   (off_t)EXMAP_OFF_EXMAP);
	if (mem == MAP_FAILED)
		return -errno;
	bench->base = mem;
	for (i = 0; i < config->writers; i++) {
		mem = mmap(NULL, EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, bench->fd,
			   (off_t)EXMAP_OFF_INTERFACE(i));
		if (mem == MAP_FAILED)
			return -errno;
		bench->itf[i] = mem;
	}
	return 0;
}

static int open_region(struct snapshot_bench *bench)
{
	uint32_t page;
	int ret = map_region(bench);

	for (page = 0; page < bench->config.pages && !ret; page += EXMAP_CHUNK_PAGES) {
		struct exmap_iov *iov = &bench->itf[0]->iov[0];

		iov->page = page;
		iov->len = EXMAP_CHUNK_PAGES;
		ret = act(bench, 0, EXMAP_OP_ALLOC, 1);
	}
	return ret;
}

static void close_region(struct snapshot_bench *bench)
{
	unsigned int i;

	for (i = 0; i < bench->config.writers; i++)
		if (bench->itf[i])
			munmap(bench->itf[i], EXMAP_PAGE_SIZE);
	if (bench->fd >= 0)
		close(bench->fd);
}

static int freeze_region(struct snapshot_bench *bench, uint32_t flags)
{
	struct exmap_snapshot_create create = { .flags = flags, .count = bench->config.pages };

	bench->readers_copy = flags & EXMAP_READERS_COPY;
	bench->snapshot = ioctl(bench->fd, EXMAP_IOCTL_SNAPSHOT, &create);
	return bench->snapshot < 0 ? -errno : 0;
}

static int map_view(struct snapshot_bench *bench)
{
	void *view = mmap(NULL, size_of(bench), PROT_READ, MAP_SHARED, bench->snapshot, 0);

	if (view == MAP_FAILED)
		return -errno;
	bench->view = view;
	return 0;
}

static int pread_snapshot(struct snapshot_bench *bench, struct snapshot_scan *scan)
{
	static uint8_t buffer[PREAD_PAGES * EXMAP_PAGE_SIZE] __attribute__((aligned(4096)));
	uint32_t page;

	for (page = 0; page < bench->config.pages; page += PREAD_PAGES) {
		ssize_t n = pread(bench->snapshot, buffer, sizeof(buffer),
				  (off_t)page * EXMAP_PAGE_SIZE);

		if (n != sizeof(buffer))
			return n < 0 ? -errno : -EIO;
		snapshot_scan_memory(buffer, PREAD_PAGES, scan);
	}
	return 0;
}

static int scan_snapshot(struct snapshot_bench *bench, unsigned int reader,
			 struct snapshot_scan *scan)
{
	int ret = 0;

	if (reader == SNAPSHOT_READ_PREAD)
		return pread_snapshot(bench, scan);
	if (bench->readers_copy)
		ret = -posix_fadvise(bench->snapshot, 0, 0, POSIX_FADV_WILLNEED);
	if (ret)
		return ret;
	if (!bench->view)
		ret = map_view(bench);
	if (!ret)
		snapshot_scan_memory(bench->view, bench->config.pages, scan);
	return ret;
}

static int unmap_view(struct snapshot_bench *bench)
{
	uint8_t *view = bench->view;

	bench->view = NULL;
	return view && munmap(view, size_of(bench)) ? -errno : 0;
}

static int drop_snapshot(struct snapshot_bench *bench)
{
	int snapshot = bench->snapshot;

	bench->snapshot = -1;
	return snapshot >= 0 && close(snapshot) ? -errno : 0;
}

static int unshare_pages(struct snapshot_bench *bench, unsigned int writer, const uint32_t *pages,
			 unsigned int n)
{
	struct exmap_iov *iov = bench->itf[writer]->iov;
	unsigned int i;

	for (i = 0; i < n; i++)
		iov[i].value = (uint64_t)pages[i] | 1ull << (64 - EXMAP_PAGE_LEN_BITS);
	return act(bench, writer, EXMAP_OP_UNSHARE, n);
}

/* fork, and userfaultfd */

static int open_anonymous(struct snapshot_bench *bench)
{
	void *mem = mmap(NULL, size_of(bench), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return -errno;
	bench->base = mem;
	/* EINVAL: a kernel without huge pages */
	return madvise(mem, size_of(bench), MADV_NOHUGEPAGE) && errno != EINVAL ? -errno : 0;
}

static int open_forked(struct snapshot_bench *bench)
{
	int ret = open_anonymous(bench);

	return ret ? ret : forked_open(bench->base, bench->config.pages, &bench->forked);
}

static int open_uffd(struct snapshot_bench *bench)
{
	int ret = open_anonymous(bench);

	return ret ? ret : uffd_open(bench->base, bench->config.pages, &bench->uffd);
}

static void scan_uffd(struct snapshot_bench *bench, struct snapshot_scan *scan)
{
	uint32_t page;

	for (page = 0; page < bench->config.pages; page++) {
		scan_page((const uint64_t *)uffd_get(bench->uffd, page), scan);
		uffd_put(bench->uffd, page);
	}
}

/* any of them */

int snapshot_freeze(struct snapshot_bench *bench, uint32_t flags)
{
	switch (bench->config.how) {
	case SNAPSHOT_EXMAP:
		return freeze_region(bench, flags);
	case SNAPSHOT_FORK:
		return forked_freeze(bench->forked);
	default:
		return uffd_freeze(bench->uffd);
	}
}

int snapshot_scan_copy(struct snapshot_bench *bench, unsigned int reader,
		       struct snapshot_scan *scan)
{
	*scan = (struct snapshot_scan){ 0 };
	switch (bench->config.how) {
	case SNAPSHOT_EXMAP:
		return scan_snapshot(bench, reader, scan);
	case SNAPSHOT_FORK:
		return forked_scan(bench->forked, scan);
	default:
		scan_uffd(bench, scan);
		return 0;
	}
}

int snapshot_unmap(struct snapshot_bench *bench)
{
	return unmap_view(bench);
}

int snapshot_drop(struct snapshot_bench *bench)
{
	switch (bench->config.how) {
	case SNAPSHOT_EXMAP:
		return drop_snapshot(bench);
	case SNAPSHOT_FORK:
		return forked_drop(bench->forked);
	default:
		return uffd_drop(bench->uffd);
	}
}

int snapshot_unshare(struct snapshot_bench *bench, unsigned int writer, const uint32_t *pages,
		     unsigned int n)
{
	if (bench->config.how != SNAPSHOT_EXMAP)
		return 0;
	return unshare_pages(bench, writer, pages, n);
}

int snapshot_counters(struct snapshot_bench *bench, struct exmap_counters *counters)
{
	*counters = (struct exmap_counters){ 0 };
	if (bench->config.how == SNAPSHOT_UFFD)
		counters->copies = uffd_copies(bench->uffd);
	if (bench->config.how != SNAPSHOT_EXMAP)
		return 0;
	return ioctl(bench->fd, EXMAP_IOCTL_COUNTERS, counters) ? -errno : 0;
}

/* The first record of each page holds something; its words sum to zero. */
static void fill(struct snapshot_bench *bench)
{
	uint32_t page;

	for (page = 0; page < bench->config.pages; page++) {
		uint64_t *words = (uint64_t *)(bench->base + (size_t)page * EXMAP_PAGE_SIZE);

		memset(words, 0, EXMAP_PAGE_SIZE);
		words[0] = page + 1;
		words[7] = -words[0];
	}
}

static int open_memory(struct snapshot_bench *bench)
{
	switch (bench->config.how) {
	case SNAPSHOT_EXMAP:
		return open_region(bench);
	case SNAPSHOT_FORK:
		return open_forked(bench);
	default:
		return open_uffd(bench);
	}
}

int snapshot_open(const struct snapshot_config *config, struct snapshot_bench **out)
{
	struct snapshot_bench *bench;
	int ret;

	if (config->how > SNAPSHOT_UFFD || !config->pages || config->pages % EXMAP_CHUNK_PAGES ||
	    !config->writers || config->writers > SNAPSHOT_MAX_WRITERS)
		return -EINVAL;
	bench = calloc(1, sizeof(*bench));
	if (!bench)
		return -ENOMEM;
	bench->config = *config;
	bench->fd = -1;
	bench->snapshot = -1;
	ret = open_memory(bench);
	if (ret) {
		snapshot_close(bench);
		return ret;
	}
	fill(bench);
	*out = bench;
	return 0;
}

bool snapshot_supported(uint32_t how)
{
	struct snapshot_config config = { .how = how, .writers = 1, .pages = EXMAP_CHUNK_PAGES,
					  .pool_pages = EXMAP_CHUNK_PAGES };
	struct snapshot_bench *bench;

	if (snapshot_open(&config, &bench))
		return false;
	snapshot_close(bench);
	return true;
}

void snapshot_close(struct snapshot_bench *bench)
{
	unmap_view(bench);
	drop_snapshot(bench);
	forked_close(bench->forked);
	uffd_close(bench->uffd);
	if (bench->base)
		munmap(bench->base, size_of(bench));
	close_region(bench);
	free(bench);
}

static void touch(struct snapshot_bench *bench, uint32_t step)
{
	uint32_t page;

	for (page = 0; page < bench->config.pages; page += step) {
		volatile uint8_t *mem = bench->base + (size_t)page * EXMAP_PAGE_SIZE;

		*mem = *mem;
	}
}

void snapshot_settle(struct snapshot_bench *bench)
{
	touch(bench, 1);
}

int snapshot_run_idle(struct snapshot_bench *bench, struct snapshot_idle *idle)
{
	uint64_t begin;
	int ret;

	/* a chunk that nobody has touched since the last freeze would be frozen more cheaply */
	touch(bench, EXMAP_CHUNK_PAGES);
	begin = bench_now();
	ret = snapshot_freeze(bench, 0);
	idle->freeze_ns = bench_now() - begin;
	if (ret)
		return ret;
	begin = bench_now();
	ret = snapshot_drop(bench);
	idle->drop_ns = bench_now() - begin;
	return ret;
}
