// SPDX-License-Identifier: MIT
/*
 * Random 4 KiB I/O: an owned NVMe queue against pread and io_uring.
 *
 * Each thread has its own queue, ring or descriptor, and memory for its transfers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "nvme.h"

#define BATCH	256u
#define WAIT_NS	100000u

static int user_submit(struct nvme_thread *thread, unsigned int n)
{
	unsigned int opcode = thread->write ? EXMAP_NVME_WRITE : EXMAP_NVME_READ;
	struct exmap_nvme_queue *queue = thread->queue;
	uint64_t first = (uint64_t)thread->fd * NVME_MAX_DEPTH;

	while (n--) {
		unsigned int slot;
		uint64_t page = nvme_next(thread, &slot);
		int ret = exmap_nvme_submit(queue, opcode, first + slot, 1,
					    page * queue->page_blocks, slot);

		if (ret)
			return ret;
	}
	exmap_nvme_ring(queue);
	return 0;
}

static long user_reap(struct nvme_thread *thread, unsigned int min)
{
	struct exmap_nvme_result results[BATCH];
	size_t i, n = 0;

	for (;;) {
		n += exmap_nvme_reap(thread->queue, results + n, BATCH - n);
		if (n >= min)
			break;
		__builtin_ia32_pause();
	}
	for (i = 0; i < n; i++) {
		if (results[i].status)
			return -EIO;
		nvme_done(thread, results[i].tag);
	}
	return (long)n;
}

static int pread_submit(struct nvme_thread *thread, unsigned int n)
{
	(void)thread;
	return n == 1 ? 0 : -EINVAL;
}

static long pread_reap(struct nvme_thread *thread, unsigned int min)
{
	unsigned int slot;
	off_t offset = (off_t)(nvme_next(thread, &slot) * EXMAP_PAGE_SIZE);
	void *memory = thread->memory + slot * EXMAP_PAGE_SIZE;
	ssize_t ret = thread->write ? pwrite(thread->fd, memory, EXMAP_PAGE_SIZE, offset) :
				      pread(thread->fd, memory, EXMAP_PAGE_SIZE, offset);

	(void)min;
	nvme_done(thread, slot);
	thread->calls++;
	if (ret < 0)
		return -errno;
	return ret == EXMAP_PAGE_SIZE ? 1 : -EIO;
}

static struct nvme_path path_of(uint32_t how)
{
	switch (how) {
	case NVME_USER:
	case NVME_USER_SHADOW:
		return (struct nvme_path){ user_submit, user_reap };
	case NVME_PREAD:
		return (struct nvme_path){ pread_submit, pread_reap };
	case NVME_KERNEL:
		return (struct nvme_path){ nvme_kernel_submit, nvme_kernel_reap };
	default:
		return (struct nvme_path){ nvme_ring_submit, nvme_ring_reap };
	}
}

/* Is the page among those that may be in flight together with entry @i? */
static bool is_near(const struct nvme_thread *thread, unsigned int i, uint32_t page)
{
	unsigned int back, wrapped = i + BATCH > NVME_ORDER ? i + BATCH - NVME_ORDER : 0;

	for (back = 1; back <= BATCH && back <= i; back++)
		if (thread->order[i - back] == page)
			return true;
	while (wrapped--)
		if (thread->order[wrapped] == page)
			return true;
	return false;
}

/* Threads have pages of their own: a page is not transferred twice at a time. */
static void fill_order(struct nvme_bench *bench, unsigned int number)
{
	struct nvme_thread *thread = &bench->threads[number];
	uint64_t seed = bench->config.seed + number;
	uint64_t share = (bench->config.pages - NVME_PATTERN) / bench->config.threads;
	unsigned int i;

	for (i = 0; i < NVME_ORDER; i++) {
		do
			thread->order[i] = (uint32_t)(NVME_PATTERN + number * share +
						      bench_random(&seed) % share);
		while (is_near(thread, i, thread->order[i]));
	}
	for (i = 0; i < NVME_MAX_DEPTH; i++)
		thread->slots[i] = (uint16_t)i;
	thread->free = NVME_MAX_DEPTH;
}

/* A page of the region is a page of the device; frames go round. */
static int open_backed_region(struct nvme_bench *bench)
{
	struct exmap_config config = {
		.backend = EXMAP_BACKEND_KERNEL,
		.interfaces = bench->config.threads,
		.region_pages = bench->config.pages,
		.pool_pages = (uint64_t)bench->config.threads * 4 * NVME_MAX_DEPTH,
	};

	bench->backing = exmap_nvme_backing(bench->config.device, 0);
	if (bench->backing < 0)
		return bench->backing;
	config.backing_fd = bench->backing;
	return exmap_open(&config, &bench->ex);
}

static int open_region(struct nvme_bench *bench)
{
	uint64_t i, frames = (uint64_t)bench->config.threads * NVME_MAX_DEPTH;
	struct exmap_config config = {
		.backend = EXMAP_BACKEND_KERNEL,
		.interfaces = 1,
		.region_pages = frames,
		.pool_pages = frames,
		.backing_fd = -1,
	};
	int ret = exmap_open(&config, &bench->ex);

	for (i = 0; !ret && i < frames; i++) {
		long changed = exmap_vector(bench->ex, 0, EXMAP_OP_ALLOC, &i, 1, 0, NULL);

		ret = changed < 0 ? (int)changed : 0;
	}
	return ret;
}

/* The number of its first page stands in fd. */
static int open_user(struct nvme_bench *bench, unsigned int number)
{
	struct exmap_nvme_config config = { .device = bench->config.device,
					    .depth = NVME_MAX_DEPTH,
					    .shadow = bench->config.how == NVME_USER_SHADOW };
	struct nvme_thread *thread = &bench->threads[number];

	thread->fd = (int)number;
	thread->memory = exmap_page(bench->ex, (uint64_t)number * NVME_MAX_DEPTH);
	return exmap_nvme_open(bench->ex, &config, &thread->queue);
}

static int open_vanilla(struct nvme_bench *bench, unsigned int number)
{
	struct nvme_thread *thread = &bench->threads[number];
	int flags = bench->config.how == NVME_PASSTHROUGH ? O_RDWR : O_RDWR | O_DIRECT;

	thread->memory = mmap(NULL, NVME_MAX_DEPTH * EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (thread->memory == MAP_FAILED) {
		thread->memory = NULL;
		return -ENOMEM;
	}
	thread->fd = open(bench->config.device, flags | O_CLOEXEC);
	if (thread->fd < 0)
		return -errno;
	if (bench->config.how == NVME_PREAD)
		return 0;
	return nvme_ring_open(&bench->config, thread->fd, thread->memory, &thread->ring);
}

static int open_thread(struct nvme_bench *bench, unsigned int number)
{
	fill_order(bench, number);
	switch (bench->config.how) {
	case NVME_USER:
	case NVME_USER_SHADOW:
		return open_user(bench, number);
	case NVME_KERNEL:
		return nvme_kernel_open(&bench->threads[number], bench->ex, number);
	default:
		return open_vanilla(bench, number);
	}
}

static void close_thread(struct nvme_bench *bench, struct nvme_thread *thread)
{
	if (nvme_is_owned(&bench->config)) {
		exmap_nvme_close(thread->queue);
		return;
	}
	if (bench->config.how == NVME_KERNEL) {
		free(thread->memory);
		return;
	}
	nvme_ring_close(thread->ring);
	if (thread->fd >= 0)
		close(thread->fd);
	if (thread->memory)
		munmap(thread->memory, NVME_MAX_DEPTH * EXMAP_PAGE_SIZE);
}

void nvme_close(struct nvme_bench *bench)
{
	unsigned int i;

	for (i = 0; i < bench->config.threads; i++)
		close_thread(bench, &bench->threads[i]);
	exmap_close(bench->ex);
	if (bench->backing >= 0)
		close(bench->backing);
	free(bench);
}

int nvme_open(const struct nvme_config *config, struct nvme_bench **out)
{
	size_t size = sizeof(struct nvme_bench) + config->threads * sizeof(struct nvme_thread);
	struct nvme_bench *bench = aligned_alloc(128, (size + 127) & ~(size_t)127);
	unsigned int i;
	int ret;

	*out = NULL;
	if (!bench)
		return -ENOMEM;
	memset(bench, 0, size);
	bench->config = *config;
	bench->backing = -1;
	bench->path = path_of(config->how);
	/* each thread has a share that is longer than what is_near looks at, twice */
	ret = config->threads && config->pages / config->threads > 4 * BATCH ? 0 : -EINVAL;
	for (i = 0; i < config->threads; i++)
		bench->threads[i].fd = -1;
	if (!ret && nvme_is_owned(config))
		ret = open_region(bench);
	if (!ret && config->how == NVME_KERNEL)
		ret = open_backed_region(bench);
	for (i = 0; i < config->threads && !ret; i++)
		ret = open_thread(bench, i);
	if (ret) {
		nvme_close(bench);
		return ret;
	}
	*out = bench;
	return 0;
}

long nvme_turn(struct nvme_bench *bench, struct nvme_thread *thread, unsigned int depth)
{
	unsigned int in_flight = NVME_MAX_DEPTH - thread->free;
	int ret = in_flight < depth ? bench->path.submit(thread, depth - in_flight) : 0;

	/* a quarter of them at a time: fewer system calls, fewer doorbells */
	return ret ? ret : bench->path.reap(thread, depth / 4 ? depth / 4 : 1);
}

int nvme_drain(struct nvme_bench *bench, struct nvme_thread *thread)
{
	while (thread->free < NVME_MAX_DEPTH) {
		long n = bench->path.reap(thread, 1);

		if (n < 0)
			return (int)n;
	}
	return 0;
}

static uint64_t pattern(uint64_t page)
{
	return (page + 1) * 0x9e3779b97f4a7c15u;
}

/* One transfer of a page of the pattern, with slot 0 of the first thread. */
static long transfer_pattern(struct nvme_bench *bench, uint64_t page, bool write)
{
	struct nvme_thread *thread = &bench->threads[0];
	unsigned int slot = thread->slots[thread->free - 1];
	uint64_t *words = (uint64_t *)(thread->memory + slot * EXMAP_PAGE_SIZE);
	uint32_t first = thread->order[0];
	unsigned int i;
	long ret;

	thread->write = write;
	thread->order[0] = (uint32_t)page;
	thread->next = 0;
	for (i = 0; i < EXMAP_PAGE_SIZE / 8; i++)
		words[i] = write ? pattern(page) + i : 0;
	thread->copy = true;
	ret = nvme_turn(bench, thread, 1);
	if (ret >= 0)
		ret = nvme_drain(bench, thread);
	thread->copy = false;
	thread->order[0] = first;
	for (i = 0; i < EXMAP_PAGE_SIZE / 8 && !ret; i++)
		ret = words[i] != pattern(page) + i;
	return ret;
}

long nvme_verify(struct nvme_bench *bench)
{
	long ret, wrong = 0;
	uint64_t page;

	for (page = 0; page < NVME_PATTERN && nvme_is_owned(&bench->config); page++) {
		ret = transfer_pattern(bench, page, true);
		if (ret < 0)
			return ret;
	}
	for (page = 0; page < NVME_PATTERN; page++) {
		ret = transfer_pattern(bench, page, false);
		if (ret < 0)
			return ret;
		wrong += ret;
	}
	return wrong;
}

static long batch(void *arg, unsigned int thread)
{
	struct nvme_bench *bench = arg;

	return nvme_turn(bench, &bench->threads[thread], bench->depth);
}

int nvme_run(struct nvme_bench *bench, bool write, unsigned int depth, const int *cpus,
	     unsigned int threads, const struct bench_time *time, struct bench_result *result,
	     double *calls_per_io)
{
	uint64_t calls = 0, transfers = 0;
	unsigned int i;
	int ret;

	if (!depth || depth >= NVME_MAX_DEPTH || threads > bench->config.threads)
		return -EINVAL;
	for (i = 0; i < threads; i++) {
		bench->threads[i].write = write;
		bench->threads[i].calls = 0;
		bench->threads[i].next = 0;
	}
	bench->depth = depth;
	ret = bench_run(batch, bench, cpus, threads, time, result);
	for (i = 0; i < threads; i++) {
		int drained = nvme_drain(bench, &bench->threads[i]);

		ret = ret ? ret : drained;
		calls += bench->threads[i].calls;
		transfers += bench->threads[i].next;
	}
	*calls_per_io = (double)calls / (double)(transfers ? transfers : 1);
	return ret;
}

static uint64_t cpu_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* What reading the clock adds to a difference. */
static uint64_t clock_cost(void)
{
	uint64_t least = UINT64_MAX;
	int i;

	for (i = 0; i < 100; i++) {
		uint64_t begin = cpu_now(), cost = cpu_now() - begin;

		least = cost < least ? cost : least;
	}
	return least;
}

static int count_round(struct nvme_bench *bench, unsigned int depth, uint64_t cost, uint64_t *sum)
{
	struct nvme_thread *thread = &bench->threads[0];
	uint64_t begin = cpu_now();
	unsigned int left = depth;
	int ret = bench->path.submit(thread, depth);

	*sum += cpu_now() - begin - cost;
	while (left && !ret) {
		long n;

		/* all of them, if possible */
		if (bench->config.how != NVME_PREAD)
			bench_pause(WAIT_NS);
		begin = cpu_now();
		n = bench->path.reap(thread, 0);
		if (n < 0)
			return (int)n;
		if (n)
			*sum += cpu_now() - begin - cost;
		left -= (unsigned int)n;
	}
	return ret;
}

/* Once around the queue: who is first to touch a page of it takes a fault. */
static int warm_up(struct nvme_bench *bench, unsigned int depth)
{
	uint32_t first = bench->threads[0].next;
	long ret = 0;

	while (ret >= 0 && bench->threads[0].next - first < NVME_MAX_DEPTH)
		ret = nvme_turn(bench, &bench->threads[0], depth);
	return ret < 0 ? (int)ret : nvme_drain(bench, &bench->threads[0]);
}

int nvme_count(struct nvme_bench *bench, bool write, unsigned int depth, unsigned int rounds,
	       struct bench_result *result)
{
	uint64_t cost = clock_cost();
	unsigned int i;
	int ret;

	if (!depth || depth > BATCH)
		return -EINVAL;
	*result = (struct bench_result){ .wall_ns = 1 };
	bench->threads[0].write = write;
	ret = warm_up(bench, depth);
	for (i = 0; i < rounds && !ret; i++) {
		/* nor is the first one counted: it takes the faults of the counting */
		if (i == 1)
			result->cpu_ns = result->ops = 0;
		ret = count_round(bench, depth, cost, &result->cpu_ns);
		result->ops += depth;
	}
	return ret;
}

struct proof_work {
	struct nvme_bench *bench;
	unsigned int depth;
	uint64_t transfers;
	long ret;
};

static void transfer_trapped(void *arg)
{
	struct proof_work *work = arg;
	uint64_t done = 0;

	do {
		work->ret = nvme_turn(work->bench, &work->bench->threads[0], work->depth);
		done += work->ret > 0 ? (uint64_t)work->ret : 0;
	} while (work->ret >= 0 && done < work->transfers);
}

int nvme_prove(struct nvme_bench *bench, unsigned int depth, uint64_t transfers,
	       struct bench_proof *proof)
{
	struct proof_work work = { .bench = bench, .depth = depth, .transfers = transfers };
	int ret;

	bench->threads[0].write = false;
	ret = bench_prove(transfer_trapped, &work, proof);
	if (!ret && work.ret < 0)
		ret = (int)work.ret;
	return ret ? ret : nvme_drain(bench, &bench->threads[0]);
}
