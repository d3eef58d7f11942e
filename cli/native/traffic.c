// SPDX-License-Identifier: MIT
/*
 * Writers that go on while memory is frozen, scanned and dropped, and a
 * histogram and a timeline of what they notice.
 *
 * A transaction reads the 512 bytes around a record, makes a checksum of them
 * and writes the 64 bytes of the record.  One reading of the time-stamp counter
 * ends it and begins the next, so that nothing goes unnoticed; the clock calls
 * of an emulated guest would cost more than the transaction.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <x86intrin.h>

#include "snapshot.h"

#define RECORD_WORDS	8u
#define PAGE_RECORDS	(EXMAP_PAGE_SIZE / 8 / RECORD_WORDS)
#define AREA_WORDS	64u
#define CALIBRATION_NS	30000000u
#define FLUSHED_PAGES	64u
#define STOP		SNAPSHOT_PHASES

struct histogram {
	uint64_t ops;
	uint64_t max;	/* ticks */
	uint32_t slots[SNAPSHOT_SLOTS];
};

struct traffic;

struct writer {
	struct traffic *traffic;
	unsigned int index;
	int cpu;
	int error;
	long faults;
	int seen;	/* phase in which a transaction has ended, or STOP; atomic */
	pthread_t thread;
	uint32_t len;
	uint32_t next;
	const uint32_t *order;
	struct histogram phases[SNAPSHOT_PHASES];
	uint32_t timeline[SNAPSHOT_BUCKETS];
} __attribute__((aligned(128)));

struct traffic {
	struct snapshot_bench *bench;
	const struct snapshot_plan *plan;
	struct writer *writers;
	uint8_t *base;
	uint32_t *epochs;	/* of each page: the freeze for which it was unshared */
	double ns_per_tick;
	uint64_t ticks_per_bucket;
	uint64_t origin;	/* when BEFORE began; atomic */
	int phase;		/* enum snapshot_phase, or STOP; atomic */
	uint32_t epoch;		/* freezes so far; atomic */
};

/* 16 slots for each power of two. */
uint32_t snapshot_slot(uint64_t value)
{
	unsigned int log;

	if (value < 16)
		return (uint32_t)value;
	log = 63 - (unsigned int)__builtin_clzll(value);
	return (log - 3) * 16 + (value >> (log - 4) & 15);
}

uint64_t snapshot_slot_end(uint32_t slot)
{
	unsigned int log = slot / 16 + 3;

	if (slot < 16)
		return slot;
	return ((16ull + slot % 16 + 1) << (log - 4)) - 1;
}

/* Reads both clocks as nearly at one moment as can be had. */
static void read_clocks(uint64_t *ticks, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;
	int i;

	*ticks = *ns = 0;
	for (i = 0; i < 16; i++) {
		uint64_t begin = __rdtsc(), clock = bench_now(), end = __rdtsc();

		if (end - begin < best) {
			best = end - begin;
			*ticks = begin + best / 2;
			*ns = clock;
		}
	}
}

static int calibrate(struct traffic *traffic)
{
	uint64_t ticks, ns, ticks_end, ns_end;

	read_clocks(&ticks, &ns);
	bench_pause(CALIBRATION_NS);
	read_clocks(&ticks_end, &ns_end);
	if (ticks_end <= ticks || ns_end <= ns)
		return -EIO;
	traffic->ns_per_tick = (double)(ns_end - ns) / (double)(ticks_end - ticks);
	traffic->ticks_per_bucket = (uint64_t)(SNAPSHOT_BUCKET_NS / traffic->ns_per_tick);
	return 0;
}

static uint64_t to_ns(const struct traffic *traffic, uint64_t ticks)
{
	return (uint64_t)((double)ticks * traffic->ns_per_tick);
}

/* No two writers share a record, and a record's words sum to zero. */
static void transact(const struct writer *writer, uint32_t page)
{
	const struct traffic *traffic = writer->traffic;
	uint32_t share = PAGE_RECORDS / traffic->plan->writers;
	uint32_t record = (page * 0x9e3779b1u + writer->next * 0x85ebca6bu) >> 20;
	volatile uint64_t *words = (uint64_t *)(traffic->base + (size_t)page * EXMAP_PAGE_SIZE);
	uint64_t sum = 0, sums = writer->next, total = 0;
	unsigned int i;

	record = record % share + writer->index * share;
	words += record * RECORD_WORDS / AREA_WORDS * AREA_WORDS;
	for (i = 0; i < AREA_WORDS; i++) {
		sum += words[i];
		sums += sum;
	}
	words += record * RECORD_WORDS % AREA_WORDS;
	for (i = 0; i < RECORD_WORDS - 1; i++) {
		sums = sums << 7 ^ sums >> 3 ^ i;
		words[i] = sums;
		total += sums;
	}
	words[RECORD_WORDS - 1] = -total;
}

/*
 * Unshares the pages of the next transactions that no writer has unshared since
 * the freeze, as a database would know from an epoch in its page table.
 */
static int prepare(struct writer *writer, uint32_t epoch)
{
	struct traffic *traffic = writer->traffic;
	uint32_t pages[EXMAP_USER_INTERFACE_PAGES];
	unsigned int i, n = 0;

	for (i = 0; i < traffic->plan->unshare; i++) {
		uint32_t page = writer->order[(writer->next + i) % writer->len];

		if (__atomic_load_n(&traffic->epochs[page], __ATOMIC_RELAXED) == epoch)
			continue;
		__atomic_store_n(&traffic->epochs[page], epoch, __ATOMIC_RELAXED);
		pages[n++] = page;
	}
	return n ? snapshot_unshare(traffic->bench, writer->index, pages, n) : 0;
}

static void account(struct writer *writer, int phase, uint64_t begin, uint64_t end)
{
	const struct traffic *traffic = writer->traffic;
	struct histogram *histogram = &writer->phases[phase];
	uint64_t ticks = end > begin ? end - begin : 0;
	uint64_t origin, bucket;

	histogram->ops++;
	histogram->slots[snapshot_slot(ticks)]++;
	histogram->max = ticks > histogram->max ? ticks : histogram->max;
	if (phase == SNAPSHOT_WARMUP)
		return;
	origin = __atomic_load_n(&traffic->origin, __ATOMIC_RELAXED);
	/* the first may have ended just before the phase began */
	bucket = end > origin ? (end - origin) / traffic->ticks_per_bucket : 0;
	if (bucket < SNAPSHOT_BUCKETS)
		writer->timeline[bucket]++;
}

static int work_on(struct writer *writer)
{
	struct traffic *traffic = writer->traffic;
	uint32_t unshare = traffic->plan->unshare;
	uint64_t begin = __rdtsc(), end;
	int phase, ret;

	for (;; begin = end) {
		uint32_t epoch = __atomic_load_n(&traffic->epoch, __ATOMIC_RELAXED);

		if (epoch && unshare && !(writer->next % unshare)) {
			ret = prepare(writer, epoch);
			if (ret)
				return ret;
		}
		transact(writer, writer->order[writer->next % writer->len]);
		writer->next++;
		end = __rdtsc();
		phase = __atomic_load_n(&traffic->phase, __ATOMIC_ACQUIRE); /* pairs with enter */
		if (phase == STOP)
			return 0;
		account(writer, phase, begin, end);
		__atomic_store_n(&writer->seen, phase, __ATOMIC_RELAXED);
	}
}

static void *start_writer(void *arg)
{
	struct writer *writer = arg;
	int ret = bench_pin(writer->cpu);
	struct rusage usage;

	writer->error = ret ? ret : work_on(writer);
	getrusage(RUSAGE_THREAD, &usage);
	writer->faults = usage.ru_minflt;
	__atomic_store_n(&writer->seen, STOP, __ATOMIC_RELAXED);
	return NULL;
}

static void enter(struct traffic *traffic, int phase)
{
	__atomic_store_n(&traffic->phase, phase, __ATOMIC_RELEASE); /* pairs with work_on */
}

/* A phase in which writers work alone: longer than @ns if the host gave one of them no time. */
static void let_work(struct traffic *traffic, int phase, uint64_t ns)
{
	unsigned int i;

	enter(traffic, phase);
	bench_pause(ns);
	for (i = 0; i < traffic->plan->writers; i++)
		while (__atomic_load_n(&traffic->writers[i].seen, __ATOMIC_RELAXED) < phase)
			bench_pause(1000000);
}

static int scan(struct traffic *traffic, struct snapshot_result *result,
		struct snapshot_scan *found)
{
	uint64_t begin = bench_now();
	int ret = 0;

	if (traffic->plan->reader == SNAPSHOT_READ_NOTHING)
		bench_pause(traffic->plan->before_ns);
	else
		ret = snapshot_scan_copy(traffic->bench, traffic->plan->reader, found);
	result->scan_ns = bench_now() - begin;
	result->torn = found->torn;
	return ret;
}

static int freeze_and_scan(struct traffic *traffic, const int *cpus,
			   struct snapshot_result *result, struct snapshot_scan *found)
{
	const struct snapshot_plan *plan = traffic->plan;
	uint64_t shootdowns, begin;
	int ret;

	begin = bench_now();
	ret = snapshot_freeze(traffic->bench, traffic->plan->flags);
	result->freeze_ns = bench_now() - begin;
	__atomic_store_n(&traffic->epoch, traffic->epoch + 1, __ATOMIC_RELAXED);
	if (ret)
		return ret;
	shootdowns = bench_shootdowns_on(cpus, plan->writers);
	ret = scan(traffic, result, found);
	result->shootdowns = bench_difference(shootdowns,
					      bench_shootdowns_on(cpus, plan->writers));
	return ret;
}

/* Not counted in any phase that is reported: the writers go on as in WARMUP. */
static int verify(struct traffic *traffic, const struct snapshot_scan *found,
		  struct snapshot_result *result)
{
	unsigned int reader = traffic->plan->reader == SNAPSHOT_READ_VIEW ? SNAPSHOT_READ_PREAD :
									    SNAPSHOT_READ_VIEW;
	struct snapshot_scan again;
	int ret;

	enter(traffic, SNAPSHOT_WARMUP);
	ret = snapshot_scan_copy(traffic->bench, reader, &again);
	result->unequal = again.digest != found->digest;
	return ret;
}

static int drop(struct traffic *traffic, struct snapshot_result *result)
{
	uint64_t begin = bench_now();
	int ret = snapshot_unmap(traffic->bench);

	result->unmap_ns = bench_now() - begin;
	begin = bench_now();
	if (!ret)
		ret = snapshot_drop(traffic->bench);
	result->drop_ns = bench_now() - begin;
	return ret;
}

/*
 * What no freeze can do without: other CPUs' TLBs are emptied.  So many pages lose
 * their protection that the kernel does not invalidate them one by one.
 */
static int flush_alone(uint64_t *ns)
{
	const size_t size = FLUSHED_PAGES * EXMAP_PAGE_SIZE;
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint64_t begin = bench_now();
	int ret;

	if (mem == MAP_FAILED)
		return -errno;
	ret = mprotect(mem, size, PROT_READ) ? -errno : 0;
	*ns = bench_now() - begin;
	munmap(mem, size);
	return ret;
}

/* The phases, from the thread that freezes and scans. */
static int conduct(struct traffic *traffic, const int *cpus, struct snapshot_result *result)
{
	const struct snapshot_plan *plan = traffic->plan;
	uint64_t marks[SNAPSHOT_PHASES + 1];
	struct snapshot_scan found = { 0 };
	int ret, phase;

	bench_pause(plan->warmup_ns);
	ret = flush_alone(&result->flush_ns);
	if (ret)
		return ret;
	marks[SNAPSHOT_BEFORE] = bench_now();
	__atomic_store_n(&traffic->origin, __rdtsc(), __ATOMIC_RELAXED);
	let_work(traffic, SNAPSHOT_BEFORE, plan->before_ns);
	marks[SNAPSHOT_SCAN] = bench_now();
	enter(traffic, SNAPSHOT_SCAN);
	ret = freeze_and_scan(traffic, cpus, result, &found);
	result->phases[SNAPSHOT_SCAN].wall_ns = bench_now() - marks[SNAPSHOT_SCAN];
	if (!ret && plan->verify && plan->reader != SNAPSHOT_READ_NOTHING)
		ret = verify(traffic, &found, result);
	marks[SNAPSHOT_DROP] = bench_now();
	enter(traffic, SNAPSHOT_DROP);
	if (!ret)
		ret = drop(traffic, result);
	marks[SNAPSHOT_AFTER] = bench_now();
	if (!ret)
		let_work(traffic, SNAPSHOT_AFTER, plan->after_ns);
	marks[STOP] = bench_now();
	enter(traffic, STOP);
	for (phase = SNAPSHOT_BEFORE; phase < STOP; phase++)
		if (phase != SNAPSHOT_SCAN)
			result->phases[phase].wall_ns = marks[phase + 1] - marks[phase];
	result->frozen_ns = marks[SNAPSHOT_SCAN] - marks[SNAPSHOT_BEFORE];
	result->scanned_ns = result->frozen_ns + result->phases[SNAPSHOT_SCAN].wall_ns;
	result->dropped_ns = marks[SNAPSHOT_AFTER] - marks[SNAPSHOT_BEFORE];
	return ret;
}

static uint64_t quantile(const struct traffic *traffic, const struct histogram *histogram, double q)
{
	uint64_t wanted = (uint64_t)((double)histogram->ops * q), seen = 0;
	uint64_t ticks = 0;
	uint32_t slot;

	for (slot = 0; slot < SNAPSHOT_SLOTS && seen <= wanted && seen < histogram->ops; slot++) {
		seen += histogram->slots[slot];
		ticks = snapshot_slot_end(slot);
	}
	return to_ns(traffic, ticks < histogram->max ? ticks : histogram->max);
}

static void add_histogram(struct histogram *sum, const struct histogram *histogram)
{
	uint32_t slot;

	sum->ops += histogram->ops;
	sum->max = histogram->max > sum->max ? histogram->max : sum->max;
	for (slot = 0; slot < SNAPSHOT_SLOTS; slot++)
		sum->slots[slot] += histogram->slots[slot];
}

static void summarise(const struct traffic *traffic, const struct writer *writers, int phase,
		      struct snapshot_latency *latency)
{
	struct histogram sum = { 0 };
	unsigned int i;

	for (i = 0; i < traffic->plan->writers; i++)
		add_histogram(&sum, &writers[i].phases[phase]);
	latency->ops = sum.ops;
	latency->p50_ns = quantile(traffic, &sum, 0.5);
	latency->p99_ns = quantile(traffic, &sum, 0.99);
	latency->p999_ns = quantile(traffic, &sum, 0.999);
	latency->max_ns = to_ns(traffic, sum.max);
}

static int collect(const struct traffic *traffic, const struct writer *writers,
		   struct snapshot_result *result)
{
	uint32_t i, bucket;
	int phase;

	for (i = 0; i < traffic->plan->writers; i++) {
		if (writers[i].error)
			return writers[i].error;
		result->faults += (uint64_t)writers[i].faults;
		for (bucket = 0; bucket < SNAPSHOT_BUCKETS; bucket++)
			result->timeline[bucket] += writers[i].timeline[bucket];
	}
	for (phase = SNAPSHOT_BEFORE; phase < STOP; phase++)
		summarise(traffic, writers, phase, &result->phases[phase]);
	/* the bucket in which the writers were stopped is not a whole one */
	for (bucket = SNAPSHOT_BUCKETS; bucket && !result->timeline[bucket - 1]; bucket--)
		;
	result->buckets = bucket ? bucket - 1 : 0;
	return 0;
}

/* They begin at once: WARMUP gives all of them the time to. */
static int start_all(struct traffic *traffic, struct writer *writers, const int *cpus,
		     const struct snapshot_orders *orders, unsigned int *started)
{
	int ret = 0;

	for (*started = 0; *started < traffic->plan->writers && !ret; *started += !ret) {
		struct writer *writer = &writers[*started];

		writer->traffic = traffic;
		writer->index = *started;
		writer->cpu = cpus[*started];
		writer->order = snapshot_order(orders, *started, &writer->len);
		ret = pthread_create(&writer->thread, NULL, start_writer, writer);
	}
	return -ret;
}

static bool is_sound(const struct snapshot_plan *plan, const struct snapshot_orders *orders)
{
	uint32_t len;

	return plan->writers && plan->unshare <= EXMAP_USER_INTERFACE_PAGES &&
	       snapshot_order(orders, plan->writers - 1, &len);
}

int snapshot_run(struct snapshot_bench *bench, const struct snapshot_orders *orders,
		 const struct snapshot_plan *plan, const int *cpus, struct snapshot_result *result)
{
	struct traffic traffic = { .bench = bench, .plan = plan, .base = snapshot_memory(bench) };
	unsigned int i, started;
	struct writer *writers;
	int ret;

	*result = (struct snapshot_result){ 0 };
	if (!is_sound(plan, orders))
		return -EINVAL;
	ret = calibrate(&traffic);
	if (ret)
		return ret;
	snapshot_settle(bench);
	writers = aligned_alloc(128, plan->writers * sizeof(*writers));
	traffic.epochs = calloc(snapshot_pages(bench), sizeof(*traffic.epochs));
	if (!writers || !traffic.epochs) {
		ret = -ENOMEM;
		goto out;
	}
	memset(writers, 0, plan->writers * sizeof(*writers));
	traffic.writers = writers;
	ret = start_all(&traffic, writers, cpus, orders, &started);
	if (!ret)
		ret = conduct(&traffic, cpus, result);
	enter(&traffic, STOP);
	for (i = 0; i < started; i++)
		pthread_join(writers[i].thread, NULL);
	if (!ret)
		ret = collect(&traffic, writers, result);
out:
	free(traffic.epochs);
	free(writers);
	return ret;
}
