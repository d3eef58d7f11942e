// SPDX-License-Identifier: MIT
/*
 * Is a page there?  The residency map and SCAN against the kernel's own ways.
 *
 * Every other page of a region, chosen at random, is mapped; all ways are asked
 * about the same pages of that region in the same random order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#ifndef PAGEMAP_SCAN /* linux/fs.h before 6.7 */
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

#define PAGEMAP_SCAN	_IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_PRESENT	(1 << 3)
#endif

#define PAGEMAP_PRESENT	(1ull << 63)
#define RESIDENCY_BATCH	65536u
#define CALLS_BATCH	64u

struct presence_bench {
	struct exmap *ex;
	int pagemap;
	uint32_t pages;
	uint32_t random;	/* see next_page */
	uint64_t found;		/* keeps the compiler from dropping the checks */
	uint8_t *expected;	/* 1 where a page is mapped */
	uint64_t entries[PRESENCE_RANGE];
};

/* Bit i of the bitmap speaks of page first + i. */
static int scan(struct presence_bench *bench, uint32_t first, uint32_t n, uint8_t *bitmap)
{
	const struct exmap_scan request = { .start = first, .count = n,
					    .present = (uintptr_t)bitmap };

	if (bench->ex->fd >= 0)
		return ioctl(bench->ex->fd, EXMAP_IOCTL_SCAN, &request) ? -errno : 0;
	return exmap_scan(bench->ex, &request);
}

static int read_pagemap(struct presence_bench *bench, uint32_t first, uint32_t n)
{
	uint64_t page = (uintptr_t)exmap_page(bench->ex, first) / EXMAP_PAGE_SIZE;
	size_t size = n * sizeof(bench->entries[0]);
	ssize_t ret = pread(bench->pagemap, bench->entries, size,
			    (off_t)(page * sizeof(bench->entries[0])));

	if (ret < 0)
		return -errno;
	return (size_t)ret == size ? 0 : -EIO;
}

static int check_residency(struct presence_bench *bench, uint32_t page)
{
	return exmap_is_mapped(bench->ex, page);
}

static int check_scan(struct presence_bench *bench, uint32_t page)
{
	uint8_t bitmap = 0;
	int ret = scan(bench, page, 1, &bitmap);

	return ret ? ret : bitmap & 1;
}

static int check_pagemap(struct presence_bench *bench, uint32_t page)
{
	int ret = read_pagemap(bench, page, 1);

	return ret ? ret : !!(bench->entries[0] & PAGEMAP_PRESENT);
}

static int check_mincore(struct presence_bench *bench, uint32_t page)
{
	unsigned char present;

	if (mincore(exmap_page(bench->ex, page), EXMAP_PAGE_SIZE, &present))
		return -errno;
	return present & 1;
}

static int check_pagemap_scan(struct presence_bench *bench, uint32_t page)
{
	struct page_region found;
	struct pm_scan_arg request = {
		.size = sizeof(request),
		.start = (uintptr_t)exmap_page(bench->ex, page),
		.end = (uintptr_t)exmap_page(bench->ex, page) + EXMAP_PAGE_SIZE,
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};
	int ret = ioctl(bench->pagemap, PAGEMAP_SCAN, &request);

	return ret < 0 ? -errno : ret;
}

static int range_scan(struct presence_bench *bench, uint32_t first, uint8_t *present)
{
	uint8_t bitmap[PRESENCE_RANGE / 8] = { 0 };
	uint32_t i;
	int ret = scan(bench, first, PRESENCE_RANGE, bitmap);

	for (i = 0; i < PRESENCE_RANGE && !ret; i++)
		present[i] = bitmap[i / 8] >> i % 8 & 1;
	return ret;
}

static int range_pagemap(struct presence_bench *bench, uint32_t first, uint8_t *present)
{
	uint32_t i;
	int ret = read_pagemap(bench, first, PRESENCE_RANGE);

	for (i = 0; i < PRESENCE_RANGE && !ret; i++)
		present[i] = !!(bench->entries[i] & PAGEMAP_PRESENT);
	return ret;
}

/* A way answers for one page, or for PRESENCE_RANGE of them at once. */
struct way {
	int (*one)(struct presence_bench *bench, uint32_t page);
	int (*range)(struct presence_bench *bench, uint32_t first, uint8_t *present);
};

static const struct way ways[] = {
	[PRESENCE_RESIDENCY] = { .one = check_residency },
	[PRESENCE_SCAN] = { .one = check_scan },
	[PRESENCE_SCAN_RANGE] = { .range = range_scan },
	[PRESENCE_PAGEMAP] = { .one = check_pagemap },
	[PRESENCE_PAGEMAP_RANGE] = { .range = range_pagemap },
	[PRESENCE_MINCORE] = { .one = check_mincore },
	[PRESENCE_PAGEMAP_SCAN] = { .one = check_pagemap_scan },
};

#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

struct job {
	struct presence_bench *bench;
	const struct way *way;
};

/* A full-period generator (Knuth): costs less than reading an order from memory. */
static inline uint32_t next_page(uint32_t *random, uint32_t pages)
{
	*random = *random * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)*random * pages >> 32);
}

/* The loop that an optimistic reader would run: loads only. */
static long residency_batch(void *arg, unsigned int thread)
{
	struct presence_bench *bench = ((struct job *)arg)->bench;
	const struct exmap view = *bench->ex; /* ours, so that its fields stay in registers */
	uint32_t i, random = bench->random, pages = bench->pages;
	uint64_t found = 0;

	(void)thread;
#pragma GCC unroll 16
	for (i = 0; i < RESIDENCY_BATCH; i++)
		found += exmap_is_mapped(&view, next_page(&random, pages));
	bench->random = random;
	bench->found += found;
	return RESIDENCY_BATCH;
}

static long calls_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct presence_bench *bench = job->bench;
	uint32_t i;
	int ret;

	(void)thread;
	for (i = 0; i < CALLS_BATCH; i++) {
		ret = job->way->one(bench, next_page(&bench->random, bench->pages));
		if (ret < 0)
			return ret;
		bench->found += (uint64_t)ret;
	}
	return CALLS_BATCH;
}

static long range_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct presence_bench *bench = job->bench;
	uint32_t first = next_page(&bench->random, bench->pages) / PRESENCE_RANGE * PRESENCE_RANGE;
	uint8_t present[PRESENCE_RANGE];
	int ret = job->way->range(bench, first, present);

	(void)thread;
	bench->found += present[0];
	return ret ? ret : (long)PRESENCE_RANGE;
}

static bench_batch batch_of(unsigned int how)
{
	if (how == PRESENCE_RESIDENCY)
		return residency_batch;
	return ways[how].range ? range_batch : calls_batch;
}

static int map_page(struct presence_bench *bench, uint32_t nr)
{
	uint64_t page = nr;
	long ret = exmap_vector(bench->ex, 0, EXMAP_OP_ALLOC, &page, 1, 0, NULL);

	if (ret < 0)
		return (int)ret;
	*(volatile uint64_t *)exmap_page(bench->ex, page) = page;
	bench->expected[page] = 1;
	return 0;
}

static int map_half(struct presence_bench *bench, uint64_t seed)
{
	uint32_t i, *order;
	int ret = 0;

	bench->expected = calloc(bench->pages, 1);
	order = malloc((size_t)bench->pages * sizeof(*order));
	if (!bench->expected || !order) {
		free(order);
		return -ENOMEM;
	}
	for (i = 0; i < bench->pages; i++)
		order[i] = i;
	bench_shuffle(order, bench->pages, seed);
	for (i = 0; i < bench->pages / 2 && !ret; i++)
		ret = map_page(bench, order[i]);
	free(order);
	return ret;
}

static int open_region(struct presence_bench *bench, uint32_t backend)
{
	const struct exmap_config config = {
		.backend = backend,
		.interfaces = 1,
		.region_pages = bench->pages,
		.pool_pages = bench->pages / 2,
		.backing_fd = -1,
	};

	bench->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (bench->pagemap < 0)
		return -errno;
	return exmap_open(&config, &bench->ex);
}

int presence_open(uint32_t backend, uint64_t region_pages, uint64_t seed,
		  struct presence_bench **out)
{
	struct presence_bench *bench;
	int ret;

	if (region_pages < PRESENCE_RANGE || region_pages > UINT32_MAX)
		return -EINVAL;
	bench = calloc(1, sizeof(*bench));
	if (!bench)
		return -ENOMEM;
	bench->pagemap = -1;
	bench->pages = (uint32_t)(region_pages / PRESENCE_RANGE * PRESENCE_RANGE);
	bench->random = (uint32_t)seed;
	ret = open_region(bench, backend);
	if (!ret)
		ret = map_half(bench, seed);
	if (ret)
		goto err_close;
	*out = bench;
	return 0;

err_close:
	presence_close(bench);
	return ret;
}

void presence_close(struct presence_bench *bench)
{
	if (bench->ex)
		exmap_close(bench->ex);
	if (bench->pagemap >= 0)
		close(bench->pagemap);
	free(bench->expected);
	free(bench);
}

bool presence_supported(struct presence_bench *bench, unsigned int how)
{
	if (how == PRESENCE_PAGEMAP_SCAN)
		return check_pagemap_scan(bench, 0) >= 0;
	return how < NR_WAYS;
}

uint32_t presence_backend(const struct presence_bench *bench)
{
	return bench->ex->backend;
}

const struct exmap *presence_region(const struct presence_bench *bench)
{
	return bench->ex;
}

int presence_run(struct presence_bench *bench, unsigned int how, int cpu,
		 const struct bench_time *time, struct bench_result *result)
{
	struct job job = { .bench = bench };

	if (how >= NR_WAYS)
		return -EINVAL;
	job.way = &ways[how];
	return bench_run(batch_of(how), &job, &cpu, 1, time, result);
}

static long verify_pages(struct presence_bench *bench, const struct way *way)
{
	uint32_t page;
	long wrong = 0;
	int ret;

	for (page = 0; page < bench->pages; page++) {
		ret = way->one(bench, page);
		if (ret < 0)
			return ret;
		wrong += ret != bench->expected[page];
	}
	return wrong;
}

static long verify_ranges(struct presence_bench *bench, const struct way *way)
{
	uint8_t present[PRESENCE_RANGE];
	uint32_t first, i;
	long wrong = 0;
	int ret;

	for (first = 0; first < bench->pages; first += PRESENCE_RANGE) {
		ret = way->range(bench, first, present);
		if (ret)
			return ret;
		for (i = 0; i < PRESENCE_RANGE; i++)
			wrong += present[i] != bench->expected[first + i];
	}
	return wrong;
}

long presence_verify(struct presence_bench *bench, unsigned int how)
{
	if (how >= NR_WAYS)
		return -EINVAL;
	return ways[how].range ? verify_ranges(bench, &ways[how]) : verify_pages(bench, &ways[how]);
}
