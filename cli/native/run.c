// SPDX-License-Identifier: MIT
/*
 * Pinned threads that start together, run for a time and are measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

enum phase { PHASE_WARMUP, PHASE_MEASURE, PHASE_STOP };

struct run {
	bench_batch batch;
	void *arg;
	pthread_mutex_t gate;
	bool cancelled; /* protected by gate */
	pthread_barrier_t barrier;
	int phase; /* enum phase, atomic */
};

struct worker {
	struct run *run;
	unsigned int index;
	int cpu;
	pthread_t thread;
	uint64_t ops;
	uint64_t begin_ns;
	uint64_t end_ns;
	uint64_t cpu_ns;
	int error;
} __attribute__((aligned(128)));

static uint64_t now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t bench_now(void)
{
	return now(CLOCK_MONOTONIC);
}

void bench_pause(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u),
			       .tv_nsec = (long)(ns % 1000000000u) };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

int bench_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* At least one batch, then more until the phase is over. */
static int work_through(struct worker *worker, enum phase phase, uint64_t *ops)
{
	struct run *run = worker->run;
	long n;

	*ops = 0;
	do {
		n = run->batch(run->arg, worker->index);
		if (n < 0)
			return (int)n;
		*ops += (uint64_t)n;
	} while (__atomic_load_n(&run->phase, __ATOMIC_RELAXED) == (int)phase);
	return 0;
}

static bool passed_gate(struct run *run)
{
	bool cancelled;

	pthread_mutex_lock(&run->gate);
	cancelled = run->cancelled;
	pthread_mutex_unlock(&run->gate);
	return !cancelled;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	uint64_t warmup_ops, cpu_begin;
	int ret;

	if (!passed_gate(worker->run))
		return NULL;
	ret = bench_pin(worker->cpu);
	pthread_barrier_wait(&worker->run->barrier);
	if (!ret)
		ret = work_through(worker, PHASE_WARMUP, &warmup_ops);
	if (!ret) {
		worker->begin_ns = now(CLOCK_MONOTONIC);
		cpu_begin = now(CLOCK_THREAD_CPUTIME_ID);
		ret = work_through(worker, PHASE_MEASURE, &worker->ops);
		worker->cpu_ns = now(CLOCK_THREAD_CPUTIME_ID) - cpu_begin;
		worker->end_ns = now(CLOCK_MONOTONIC);
	}
	worker->error = ret;
	return NULL;
}

static uint64_t sum_counts(char *text)
{
	uint64_t sum = 0, n;
	char *end;

	for (;; text = end) {
		n = strtoull(text, &end, 10);
		if (end == text)
			return sum;
		sum += n;
	}
}

/* Interrupts for TLB shootdowns and function calls, all CPUs, or BENCH_NO_COUNT. */
int bench_interrupts(uint64_t *tlb, uint64_t *call)
{
	char *line = NULL, *name;
	size_t size = 0;
	FILE *file;

	*tlb = *call = BENCH_NO_COUNT;
	file = fopen("/proc/interrupts", "re");
	if (!file)
		return -errno;
	while (getline(&line, &size, file) > 0) {
		name = line + strspn(line, " ");
		if (!strncmp(name, "TLB:", 4))
			*tlb = sum_counts(name + 4);
		else if (!strncmp(name, "CAL:", 4))
			*call = sum_counts(name + 4);
	}
	free(line);
	fclose(file);
	return 0;
}

/* Which of the columns below the line of CPU names belong to @cpus. */
static uint64_t find_columns(const char *names, const int *cpus, unsigned int n)
{
	uint64_t columns = 0;
	unsigned int column, i;

	for (column = 0; column < 64 && (names = strstr(names, "CPU")); column++) {
		int cpu = atoi(names += 3);

		for (i = 0; i < n; i++)
			columns |= (uint64_t)(cpu == cpus[i]) << column;
	}
	return columns;
}

static uint64_t sum_columns(char *text, uint64_t columns)
{
	uint64_t sum = 0;

	for (; columns; columns >>= 1) {
		uint64_t n = strtoull(text, &text, 10);

		sum += columns & 1 ? n : 0;
	}
	return sum;
}

/* Interrupts for TLB shootdowns that @n CPUs have taken, or BENCH_NO_COUNT. */
uint64_t bench_shootdowns_on(const int *cpus, unsigned int n)
{
	uint64_t columns = 0, count = BENCH_NO_COUNT;
	char *line = NULL, *name;
	size_t size = 0;
	FILE *file = fopen("/proc/interrupts", "re");

	if (!file)
		return count;
	if (getline(&line, &size, file) > 0)
		columns = find_columns(line, cpus, n);
	while (columns && getline(&line, &size, file) > 0) {
		name = line + strspn(line, " ");
		if (!strncmp(name, "TLB:", 4))
			count = sum_columns(name + 4, columns);
	}
	free(line);
	fclose(file);
	return count;
}

uint64_t bench_difference(uint64_t before, uint64_t after)
{
	return before == BENCH_NO_COUNT || after == BENCH_NO_COUNT ? BENCH_NO_COUNT
								  : after - before;
}

static void conduct(struct run *run, const struct bench_time *time, struct bench_result *result)
{
	uint64_t tlb, call, tlb_after, call_after;

	pthread_barrier_wait(&run->barrier);
	bench_pause(time->warmup_ns);
	bench_interrupts(&tlb, &call);
	__atomic_store_n(&run->phase, PHASE_MEASURE, __ATOMIC_RELAXED);
	bench_pause(time->measure_ns);
	__atomic_store_n(&run->phase, PHASE_STOP, __ATOMIC_RELAXED);
	bench_interrupts(&tlb_after, &call_after);
	result->tlb_ipis = bench_difference(tlb, tlb_after);
	result->call_ipis = bench_difference(call, call_after);
}

static int collect(const struct worker *workers, unsigned int threads, struct bench_result *result)
{
	uint64_t begin = UINT64_MAX, end = 0;
	unsigned int i;

	for (i = 0; i < threads; i++) {
		if (workers[i].error)
			return workers[i].error;
		result->ops += workers[i].ops;
		result->cpu_ns += workers[i].cpu_ns;
		begin = workers[i].begin_ns < begin ? workers[i].begin_ns : begin;
		end = workers[i].end_ns > end ? workers[i].end_ns : end;
	}
	result->wall_ns = end - begin;
	return 0;
}

/* The gate is closed while threads are made, so that all can turn back if one cannot be made. */
static int start_all(struct run *run, struct worker *workers, const int *cpus,
		     unsigned int threads, unsigned int *started)
{
	int ret = 0;

	pthread_mutex_lock(&run->gate);
	for (*started = 0; *started < threads && !ret; *started += !ret) {
		struct worker *worker = &workers[*started];

		worker->run = run;
		worker->index = *started;
		worker->cpu = cpus[*started];
		ret = pthread_create(&worker->thread, NULL, work, worker);
	}
	run->cancelled = ret != 0;
	pthread_mutex_unlock(&run->gate);
	return -ret;
}

int bench_run(bench_batch batch, void *arg, const int *cpus, unsigned int threads,
	      const struct bench_time *time, struct bench_result *result)
{
	struct run run = { .batch = batch, .arg = arg, .phase = PHASE_WARMUP,
			   .gate = PTHREAD_MUTEX_INITIALIZER };
	struct worker workers[BENCH_MAX_THREADS] = { 0 };
	unsigned int i, started;
	int ret;

	if (!threads || threads > BENCH_MAX_THREADS)
		return -EINVAL;
	ret = -pthread_barrier_init(&run.barrier, NULL, threads + 1);
	if (ret)
		return ret;
	*result = (struct bench_result){ 0 };
	ret = start_all(&run, workers, cpus, threads, &started);
	if (!ret)
		conduct(&run, time, result);
	for (i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	if (!ret)
		ret = collect(workers, threads, result);
	pthread_barrier_destroy(&run.barrier);
	return ret;
}

uint64_t bench_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Fisher and Yates; the same seed gives the same order. */
void bench_shuffle(uint32_t *items, uint32_t n, uint64_t seed)
{
	uint32_t i, j, item;

	for (i = n; i > 1; i--) {
		j = (uint32_t)(bench_random(&seed) % i);
		item = items[i - 1];
		items[i - 1] = items[j];
		items[j] = item;
	}
}
