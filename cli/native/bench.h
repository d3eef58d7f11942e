/* SPDX-License-Identifier: MIT */
/*
 * exmapctl's hot loops.
 *
 * A bench is a set of *ways* to do one thing.  bench_run() drives one way with
 * pinned threads for a time and says what it cost.  Functions return 0 or
 * -errno.
 */
#ifndef EXMAPCTL_BENCH_H
#define EXMAPCTL_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "exmap_user.h"

#define BENCH_MAX_THREADS	64
#define BENCH_NO_COUNT		UINT64_MAX

/**
 * struct bench_time - how long a run is
 * @warmup_ns: not counted
 * @measure_ns: counted
 */
struct bench_time {
	uint64_t warmup_ns;
	uint64_t measure_ns;
};

/**
 * struct bench_result - what a run cost
 * @ops: operations of all threads
 * @wall_ns: from the first thread's begin to the last one's end
 * @cpu_ns: CPU time of all threads (executed instructions under icount)
 * @tlb_ipis: TLB line of /proc/interrupts, all CPUs, or BENCH_NO_COUNT
 * @call_ipis: the same for the CAL line
 */
struct bench_result {
	uint64_t ops;
	uint64_t wall_ns;
	uint64_t cpu_ns;
	uint64_t tlb_ipis;
	uint64_t call_ipis;
};

/* Does some operations as thread number @thread; their number or -errno. */
typedef long (*bench_batch)(void *arg, unsigned int thread);

int bench_run(bench_batch batch, void *arg, const int *cpus, unsigned int threads,
	      const struct bench_time *time, struct bench_result *result);
int bench_interrupts(uint64_t *tlb, uint64_t *call);
/* The TLB line alone, of @n CPUs: their interrupts, or BENCH_NO_COUNT. */
uint64_t bench_shootdowns_on(const int *cpus, unsigned int n);
/* What has been counted meanwhile; BENCH_NO_COUNT if either is. */
uint64_t bench_difference(uint64_t before, uint64_t after);
void bench_shuffle(uint32_t *items, uint32_t n, uint64_t seed);
uint64_t bench_random(uint64_t *state);
uint64_t bench_now(void);
void bench_pause(uint64_t ns);
int bench_pin(int cpu);

/**
 * struct bench_proof - what a thread that may not make system calls did
 * @syscalls: system calls that it made
 * @control: system calls counted for one getppid() afterwards, to show that
 *	the count works
 */
struct bench_proof {
	uint64_t syscalls;
	uint64_t control;
};

/* Runs @work in a thread that traps its system calls. */
int bench_prove(void (*work)(void *arg), void *arg, struct bench_proof *proof);

/* pages.c: map, touch and unmap pages */

enum pages_how {
	PAGES_EXMAP = 0,
	PAGES_MADVISE_PAGE = 1,		/* one madvise(DONTNEED) a page */
	PAGES_MADVISE_RANGE = 2,	/* one over a run of consecutive pages */
	PAGES_PROCESS_MADVISE = 3,	/* one vectored call over scattered pages */
};

/**
 * struct pages_config - the memory that the ways work on
 * @backend: enum exmap_backend
 * @threads: most threads of a run; the region is divided among so many
 * @pool_pages: frames
 * @region_pages: length of the region and of the anonymous mapping
 * @seed: of the order in which pages are visited
 */
struct pages_config {
	uint32_t backend;
	uint32_t threads;
	uint64_t pool_pages;
	uint64_t region_pages;
	uint64_t seed;
};

/**
 * struct pages_way - one way
 * @how: enum pages_how
 * @vector: pages of a call, a power of two up to 512
 * @flags: of FREE: 0 or EXMAP_FREE_LAZY
 */
struct pages_way {
	uint32_t how;
	uint32_t vector;
	uint64_t flags;
};

struct pages_bench;

int pages_open(const struct pages_config *config, struct pages_bench **out);
void pages_close(struct pages_bench *bench);
bool pages_supported(const struct pages_bench *bench, unsigned int how);
uint32_t pages_backend(const struct pages_bench *bench);
int pages_run(struct pages_bench *bench, const struct pages_way *way, const int *cpus,
	      unsigned int threads, const struct bench_time *time, struct bench_result *result);
int pages_counters(struct pages_bench *bench, struct exmap_counters *counters);

/* presence.c: is a page there? */

#define PRESENCE_RANGE 4096u

enum presence_how {
	PRESENCE_RESIDENCY = 0,
	PRESENCE_SCAN = 1,
	PRESENCE_SCAN_RANGE = 2,
	PRESENCE_PAGEMAP = 3,
	PRESENCE_PAGEMAP_RANGE = 4,
	PRESENCE_MINCORE = 5,
	PRESENCE_PAGEMAP_SCAN = 6,
};

struct presence_bench;

int presence_open(uint32_t backend, uint64_t region_pages, uint64_t seed,
		  struct presence_bench **out);
void presence_close(struct presence_bench *bench);
bool presence_supported(struct presence_bench *bench, unsigned int how);
uint32_t presence_backend(const struct presence_bench *bench);
const struct exmap *presence_region(const struct presence_bench *bench);
int presence_run(struct presence_bench *bench, unsigned int how, int cpu,
		 const struct bench_time *time, struct bench_result *result);
/* Compares @how with what is known, page by page; the number of wrong answers or -errno. */
long presence_verify(struct presence_bench *bench, unsigned int how);

/* Residency checks, under bench_prove. */
int presence_prove(struct presence_bench *bench, uint64_t checks, struct bench_proof *proof);

#endif /* EXMAPCTL_BENCH_H */
