/* SPDX-License-Identifier: MIT */
/* exmapctl's hot loops: random 4 KiB I/O on an NVMe device. */
#ifndef EXMAPCTL_NVME_H
#define EXMAPCTL_NVME_H

#include "bench.h"

#define NVME_MAX_DEPTH	1024u
#define NVME_ORDER	4096u	/* entries of a thread's list of random pages, a power of two */
#define NVME_PATTERN	256u	/* first pages of the device, which hold what nvme_verify expects */

enum nvme_how {
	NVME_USER = 0,		/* owned queue */
	NVME_PREAD = 1,		/* pread and pwrite, O_DIRECT */
	NVME_URING = 2,		/* io_uring, O_DIRECT */
	NVME_URING_FIXED = 3,	/* the same, registered buffers and file */
	NVME_PASSTHROUGH = 4,	/* io_uring commands to the character device, registered as well */
	NVME_KERNEL = 5,	/* READ and WRITE of a region whose backing the kernel drives */
	NVME_USER_SHADOW = 6,	/* owned queue, shadow doorbells */
};

/**
 * struct nvme_config - a way, and what it works on
 * @how: enum nvme_how
 * @threads: most threads of a run
 * @polled: with IOPOLL, where io_uring does it
 * @device: PCI address, block device or character device, as @how wants it
 * @pages: length of the device
 * @seed: of the pages' order
 */
struct nvme_config {
	uint32_t how;
	uint32_t threads;
	uint32_t polled;
	const char *device;
	uint64_t pages;
	uint64_t seed;
};

/**
 * struct nvme_thread - one thread's I/O
 * @memory: a page for each slot
 * @slots: stack of those that are free
 * @free: how many
 * @next: counts transfers
 * @order: pages of the device
 * @calls: system calls made
 * @write: writes, not reads
 * @queue: of an owned controller
 * @ring: of io_uring
 * @fd: for pread; with a region the thread's number
 * @ex: the region that the kernel does I/O for
 * @wanted: pages of the device for the next call, and @wanted_slots
 * @copy: the slots' memory is what counts, not the region's
 * @started: when each slot's transfer began, in ns, if @latencies is not NULL
 * @latencies: of each transfer, in ns
 * @nr_latencies: how many
 */
struct nvme_thread {
	uint8_t *memory;
	uint16_t slots[NVME_MAX_DEPTH];
	uint32_t free;
	uint32_t next;
	uint32_t order[NVME_ORDER];
	uint64_t calls;
	bool write;
	struct exmap_nvme_queue *queue;
	struct nvme_ring *ring;
	int fd;
	struct exmap *ex;
	uint64_t wanted[NVME_MAX_DEPTH];
	uint16_t wanted_slots[NVME_MAX_DEPTH];
	unsigned int nr_wanted;
	bool copy;
	uint64_t started[NVME_MAX_DEPTH];
	uint64_t *latencies;
	size_t nr_latencies;
} __attribute__((aligned(128)));

/**
 * struct nvme_path - how a way does it
 * @submit: start so many transfers; 0 or -errno
 * @reap: finish what is there, at least @min; the number or -errno
 */
struct nvme_path {
	int (*submit)(struct nvme_thread *thread, unsigned int n);
	long (*reap)(struct nvme_thread *thread, unsigned int min);
};

/**
 * struct nvme_bench - an open way
 * @depth: of the run
 * @backing: of @ex, or -1
 */
struct nvme_bench {
	struct nvme_config config;
	struct nvme_path path;
	struct exmap *ex;
	int backing;
	unsigned int depth;
	struct nvme_thread threads[];
};

int nvme_open(const struct nvme_config *config, struct nvme_bench **out);
void nvme_close(struct nvme_bench *bench);
/* Writes the pattern (an owned queue), reads it; the number of wrong pages or -errno. */
long nvme_verify(struct nvme_bench *bench);
/* Run with @depth transfers in flight per thread; *calls_per_io counts system calls. */
int nvme_run(struct nvme_bench *bench, bool write, unsigned int depth, const int *cpus,
	     unsigned int threads, const struct bench_time *time, struct bench_result *result,
	     double *calls_per_io);
/*
 * CPU time of submitting and of reaping, in one thread, @rounds times @depth transfers;
 * what finds nothing, and waiting, is left out.
 */
int nvme_count(struct nvme_bench *bench, bool write, unsigned int depth, unsigned int rounds,
	       struct bench_result *result);
/* Percentiles of how long a transfer takes from its submission until it is found complete, in ns. */
struct nvme_latency {
	double p50;
	double p99;
	double p999;
	double max;
};

/* Time @transfers transfers in one thread, @depth at a time. */
int nvme_time(struct nvme_bench *bench, bool write, unsigned int depth, size_t transfers,
	      struct nvme_latency *latency);
/* System calls of so many reads in a thread that traps them all. */
int nvme_prove(struct nvme_bench *bench, unsigned int depth, uint64_t transfers,
	       struct bench_proof *proof);

/* nvme.c: at least one transfer is in flight; the number that has ended. */
long nvme_turn(struct nvme_bench *bench, struct nvme_thread *thread, unsigned int depth);
int nvme_drain(struct nvme_bench *bench, struct nvme_thread *thread);

/* nvme_uring.c */
int nvme_ring_open(const struct nvme_config *config, int fd, void *memory, struct nvme_ring **out);
void nvme_ring_close(struct nvme_ring *ring);
int nvme_ring_submit(struct nvme_thread *thread, unsigned int n);
long nvme_ring_reap(struct nvme_thread *thread, unsigned int min);

/* nvme_kernel.c */
int nvme_kernel_open(struct nvme_thread *thread, struct exmap *ex, unsigned int number);
int nvme_kernel_submit(struct nvme_thread *thread, unsigned int n);
long nvme_kernel_reap(struct nvme_thread *thread, unsigned int min);

static inline bool nvme_is_owned(const struct nvme_config *config)
{
	return config->how == NVME_USER || config->how == NVME_USER_SHADOW;
}

/* The next page of the device, and where to put it. */
static inline uint64_t nvme_next(struct nvme_thread *thread, unsigned int *slot)
{
	*slot = thread->slots[--thread->free];
	if (thread->latencies)
		thread->started[*slot] = bench_now();
	return thread->order[thread->next++ % NVME_ORDER];
}

static inline void nvme_done(struct nvme_thread *thread, uint64_t slot)
{
	if (thread->latencies)
		thread->latencies[thread->nr_latencies++] = bench_now() - thread->started[slot];
	thread->slots[thread->free++] = (uint16_t)slot;
}

#endif /* EXMAPCTL_NVME_H */
