// SPDX-License-Identifier: MIT
/*
 * Map, touch and unmap scattered pages: exmap's calls against madvise.
 *
 * Every thread owns a part of the region and walks through a fixed random
 * order of its pages.  The part is several times larger than its share of the
 * pool, so that a page has long left the quarantine when its turn comes again:
 * ALLOC out of quarantine needs no flush and would flatter the figure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench.h"

/*
 * What a way works on.  Each keeps its own place in the order, so that the
 * region's pages are not met again early because madvise has moved on.
 */
enum memory { REGION, ANONYMOUS, NR_MEMORIES };

struct part {
	uint32_t *order;	/* pages of the region */
	uint32_t next[NR_MEMORIES];
} __attribute__((aligned(128)));

struct pages_bench {
	struct exmap *ex;
	uint8_t *anon;		/* as long as the region */
	int pidfd;
	bool process_madvise;
	unsigned int threads;
	uint32_t part_pages;
	struct part parts[BENCH_MAX_THREADS];
};

struct job {
	struct pages_bench *bench;
	struct pages_way way;
};

/* The next @n pages, which follow each other in the order. */
static const uint32_t *next_pages(struct pages_bench *bench, unsigned int thread,
				  enum memory memory, uint32_t n)
{
	struct part *part = &bench->parts[thread];
	uint32_t *next = &part->next[memory];
	const uint32_t *pages;

	if (*next + n > bench->part_pages)
		*next = 0;
	pages = part->order + *next;
	*next += n;
	return pages;
}

static void touch(uint8_t *base, uint32_t page)
{
	*(volatile uint64_t *)(base + (uint64_t)page * EXMAP_PAGE_SIZE) = page;
}

static int first_error(const struct exmap_user_interface *itf, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		if (itf->iov[i].res)
			return itf->iov[i].res;
	return -EIO;
}

static int act(struct exmap *ex, unsigned int interface, unsigned int opcode,
	       const uint32_t *pages, unsigned int n, uint64_t flags)
{
	struct exmap_action_params params = { .interface = (uint16_t)interface,
					      .iov_len = (uint16_t)n,
					      .opcode = (uint16_t)opcode,
					      .flags = flags };
	struct exmap_user_interface *itf = ex->itf[interface];
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++)
		itf->iov[i].value = (uint64_t)pages[i] | 1ull << (64 - EXMAP_PAGE_LEN_BITS);
	if (ex->fd >= 0) {
		ret = ioctl(ex->fd, EXMAP_IOCTL_ACTION, &params);
		if (ret < 0)
			ret = -errno;
	} else {
		ret = exmap_action(ex, interface, opcode, n, flags);
	}
	return ret > 0 ? first_error(itf, n) : ret;
}

static long exmap_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct pages_bench *bench = job->bench;
	uint32_t i, n = job->way.vector;
	const uint32_t *pages = next_pages(bench, thread, REGION, n);
	int ret;

	ret = act(bench->ex, thread, EXMAP_OP_ALLOC, pages, n, 0);
	if (ret)
		return ret;
	for (i = 0; i < n; i++)
		touch(bench->ex->base, pages[i]);
	ret = act(bench->ex, thread, EXMAP_OP_FREE, pages, n, job->way.flags);
	return ret ? ret : (long)n;
}

static int drop(struct pages_bench *bench, uint32_t page, uint32_t n)
{
	uint8_t *start = bench->anon + (uint64_t)page * EXMAP_PAGE_SIZE;

	return madvise(start, (size_t)n * EXMAP_PAGE_SIZE, MADV_DONTNEED) ? -errno : 0;
}

static long madvise_page_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct pages_bench *bench = job->bench;
	uint32_t i, n = job->way.vector;
	const uint32_t *pages = next_pages(bench, thread, ANONYMOUS, n);
	int ret = 0;

	for (i = 0; i < n; i++)
		touch(bench->anon, pages[i]);
	for (i = 0; i < n && !ret; i++)
		ret = drop(bench, pages[i], 1);
	return ret ? ret : (long)n;
}

/* One call cannot name scattered pages: give it what it does best, a run of pages. */
static long madvise_range_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct pages_bench *bench = job->bench;
	uint32_t i, n = job->way.vector;
	uint32_t first = *next_pages(bench, thread, ANONYMOUS, 1) & ~(n - 1);
	int ret;

	for (i = 0; i < n; i++)
		touch(bench->anon, first + i);
	ret = drop(bench, first, n);
	return ret ? ret : (long)n;
}

static long drop_vector(struct pages_bench *bench, const struct iovec *iov, uint32_t n)
{
	long ret = syscall(SYS_process_madvise, bench->pidfd, iov, (size_t)n, MADV_DONTNEED, 0u);

	if (ret < 0)
		return -errno;
	return ret == (long)n * (long)EXMAP_PAGE_SIZE ? (long)n : -EIO;
}

static long process_madvise_batch(void *arg, unsigned int thread)
{
	const struct job *job = arg;
	struct pages_bench *bench = job->bench;
	uint32_t i, n = job->way.vector;
	const uint32_t *pages = next_pages(bench, thread, ANONYMOUS, n);
	struct iovec iov[EXMAP_USER_INTERFACE_PAGES];

	for (i = 0; i < n; i++) {
		touch(bench->anon, pages[i]);
		iov[i].iov_base = bench->anon + (uint64_t)pages[i] * EXMAP_PAGE_SIZE;
		iov[i].iov_len = EXMAP_PAGE_SIZE;
	}
	return drop_vector(bench, iov, n);
}

static const bench_batch batches[] = {
	[PAGES_EXMAP] = exmap_batch,
	[PAGES_MADVISE_PAGE] = madvise_page_batch,
	[PAGES_MADVISE_RANGE] = madvise_range_batch,
	[PAGES_PROCESS_MADVISE] = process_madvise_batch,
};

#define NR_HOWS (sizeof(batches) / sizeof(batches[0]))

/* Tries it: kernels from 6.13 on can, if the caller means itself. */
static bool probe_process_madvise(struct pages_bench *bench)
{
	struct iovec iov = { .iov_base = bench->anon, .iov_len = EXMAP_PAGE_SIZE };

	bench->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	return bench->pidfd >= 0 && drop_vector(bench, &iov, 1) == 1;
}

/* Page tables are made once and stay: their making is not what is measured. */
static int make_tables(struct pages_bench *bench)
{
	uint32_t page, end = bench->part_pages * bench->threads;
	int ret = 0;

	for (page = 0; page < end && !ret; page += EXMAP_CHUNK_PAGES) {
		touch(bench->anon, page);
		ret = drop(bench, page, 1);
		if (!ret)
			ret = act(bench->ex, 0, EXMAP_OP_ALLOC, &page, 1, 0);
		if (!ret)
			ret = act(bench->ex, 0, EXMAP_OP_FREE, &page, 1, 0);
	}
	return ret;
}

static int make_orders(struct pages_bench *bench, uint64_t seed)
{
	unsigned int thread;
	uint32_t i;

	for (thread = 0; thread < bench->threads; thread++) {
		struct part *part = &bench->parts[thread];

		part->order = malloc((size_t)bench->part_pages * sizeof(*part->order));
		if (!part->order)
			return -ENOMEM;
		for (i = 0; i < bench->part_pages; i++)
			part->order[i] = thread * bench->part_pages + i;
		bench_shuffle(part->order, bench->part_pages, seed + thread);
	}
	return 0;
}

static int map_anonymous(struct pages_bench *bench)
{
	size_t size = (size_t)bench->part_pages * bench->threads * EXMAP_PAGE_SIZE;
	void *anon = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (anon == MAP_FAILED)
		return -errno;
	bench->anon = anon;
	/* EINVAL: a kernel without huge pages */
	return madvise(anon, size, MADV_NOHUGEPAGE) && errno != EINVAL ? -errno : 0;
}

static int open_region(struct pages_bench *bench, const struct pages_config *config)
{
	const struct exmap_config region = {
		.backend = config->backend,
		.interfaces = bench->threads,
		.region_pages = (uint64_t)bench->part_pages * bench->threads,
		.pool_pages = config->pool_pages,
		.backing_fd = -1,
	};

	return exmap_open(&region, &bench->ex);
}

int pages_open(const struct pages_config *config, struct pages_bench **out)
{
	struct pages_bench *bench;
	uint64_t part_pages;
	int ret;

	if (!config->threads || config->threads > BENCH_MAX_THREADS)
		return -EINVAL;
	part_pages = config->region_pages / config->threads / EXMAP_CHUNK_PAGES * EXMAP_CHUNK_PAGES;
	if (!part_pages || config->region_pages > UINT32_MAX)
		return -EINVAL;
	bench = aligned_alloc(128, sizeof(*bench));
	if (!bench)
		return -ENOMEM;
	memset(bench, 0, sizeof(*bench));
	bench->pidfd = -1;
	bench->threads = config->threads;
	bench->part_pages = (uint32_t)part_pages;
	ret = make_orders(bench, config->seed);
	if (!ret)
		ret = map_anonymous(bench);
	if (!ret)
		ret = open_region(bench, config);
	if (!ret)
		ret = make_tables(bench);
	if (ret)
		goto err_close;
	bench->process_madvise = probe_process_madvise(bench);
	*out = bench;
	return 0;

err_close:
	pages_close(bench);
	return ret;
}

void pages_close(struct pages_bench *bench)
{
	unsigned int thread;

	if (bench->pidfd >= 0)
		close(bench->pidfd);
	if (bench->ex)
		exmap_close(bench->ex);
	if (bench->anon)
		munmap(bench->anon,
		       (size_t)bench->part_pages * bench->threads * EXMAP_PAGE_SIZE);
	for (thread = 0; thread < bench->threads; thread++)
		free(bench->parts[thread].order);
	free(bench);
}

bool pages_supported(const struct pages_bench *bench, unsigned int how)
{
	return how < NR_HOWS && (how != PAGES_PROCESS_MADVISE || bench->process_madvise);
}

uint32_t pages_backend(const struct pages_bench *bench)
{
	return bench->ex->backend;
}

int pages_counters(struct pages_bench *bench, struct exmap_counters *counters)
{
	return exmap_counters(bench->ex, counters);
}

int pages_run(struct pages_bench *bench, const struct pages_way *way, const int *cpus,
	      unsigned int threads, const struct bench_time *time, struct bench_result *result)
{
	struct job job = { .bench = bench, .way = *way };
	uint32_t n = way->vector;
	int ret;

	if (!pages_supported(bench, way->how) || threads > bench->threads)
		return -EINVAL;
	if (!n || n > EXMAP_USER_INTERFACE_PAGES || n & (n - 1))
		return -EINVAL;
	/* what the last way left in quarantine is not this one's */
	ret = exmap_barrier(bench->ex);
	if (ret)
		return ret;
	return bench_run(batches[way->how], &job, cpus, threads, time, result);
}
