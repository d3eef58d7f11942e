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

int main(int argc, char **argv)
{
	struct exmap_config config = {
		.interfaces = THREADS,
		.region_pages = PAGES,
		.pool_pages = POOL,
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
	threads(ex);
	exmap_close(ex);
	puts("library: ok");
	return 0;
}
