/* SPDX-License-Identifier: MIT */
/*
 * bench snapshot: what a frozen copy of memory costs those who write to it.
 *
 * A way is how the copy is made.  Its memory is a number of pages, all resident.
 * Writers change it, one pinned thread each, while the calling thread freezes
 * it, scans the copy and drops it.  Functions return 0 or -errno.
 */
#ifndef EXMAPCTL_SNAPSHOT_H
#define EXMAPCTL_SNAPSHOT_H

#include "bench.h"

#define SNAPSHOT_BUCKET_NS	10000000u	/* of the timeline */
#define SNAPSHOT_BUCKETS	4096u
#define SNAPSHOT_MAX_WRITERS	32u	/* each has two records of every page at least */

enum snapshot_how {
	SNAPSHOT_EXMAP = 0,
	SNAPSHOT_FORK = 1,	/* of an anonymous mapping; the child holds the copy */
	SNAPSHOT_UFFD = 2,	/* the same mapping, write-protected; a thread copies */
};

enum snapshot_reader {
	SNAPSHOT_READ_NOTHING = 0,	/* nobody looks at the copy */
	SNAPSHOT_READ_VIEW = 1,		/* through a mapping */
	SNAPSHOT_READ_PREAD = 2,	/* by pread, where there is a descriptor */
};

enum snapshot_phase {
	SNAPSHOT_WARMUP = 0,
	SNAPSHOT_BEFORE = 1,
	SNAPSHOT_SCAN = 2,	/* freeze, and scan of the whole copy */
	SNAPSHOT_DROP = 3,
	SNAPSHOT_AFTER = 4,
	SNAPSHOT_PHASES = 5,
};

/* orders.c: which pages the writers visit */

struct snapshot_orders;

/*
 * Draws @len pages of @pages for each writer: page ranks from a zipfian
 * distribution with parameter @theta (0: uniform), scattered over the memory.
 */
int snapshot_orders_make(uint32_t pages, uint32_t writers, uint32_t len, double theta,
			 uint64_t seed, struct snapshot_orders **out);
void snapshot_orders_free(struct snapshot_orders *orders);
const uint32_t *snapshot_order(const struct snapshot_orders *orders, unsigned int writer,
			       uint32_t *len);

/* snapshot.c: memory, and the ways to freeze it */

/**
 * struct snapshot_config - the memory
 * @how: enum snapshot_how
 * @writers: most writers of a run
 * @pages: length, a multiple of EXMAP_CHUNK_PAGES
 * @pool_pages: frames (exmap)
 */
struct snapshot_config {
	uint32_t how;
	uint32_t writers;
	uint32_t pages;
	uint64_t pool_pages;
};

struct snapshot_bench;

int snapshot_open(const struct snapshot_config *config, struct snapshot_bench **out);
void snapshot_close(struct snapshot_bench *bench);
/* Can a way be used on this machine, by this process? */
bool snapshot_supported(uint32_t how);
/* Of the region; for other ways zeros, but for the copies of SNAPSHOT_UFFD. */
int snapshot_counters(struct snapshot_bench *bench, struct exmap_counters *counters);

/**
 * struct snapshot_scan - what a scan found
 * @digest: of all words
 * @torn: pages that show a transaction that was under way at the freeze
 */
struct snapshot_scan {
	uint64_t digest;
	uint64_t torn;
};

/* Adds what is found in some pages. */
void snapshot_scan_memory(const uint8_t *base, uint32_t pages, struct snapshot_scan *scan);
/* @flags: of EXMAP_IOCTL_SNAPSHOT; nothing to the others */
int snapshot_freeze(struct snapshot_bench *bench, uint32_t flags);
int snapshot_scan_copy(struct snapshot_bench *bench, unsigned int reader,
		       struct snapshot_scan *scan);
int snapshot_unmap(struct snapshot_bench *bench);
int snapshot_drop(struct snapshot_bench *bench);
/* Makes pages writable ahead of writes that would fault; as many as a call takes. */
int snapshot_unshare(struct snapshot_bench *bench, unsigned int writer, const uint32_t *pages,
		     unsigned int n);
/* Writes to every page, which ends what an earlier copy has left: the faults of BEFORE are not its. */
void snapshot_settle(struct snapshot_bench *bench);
uint8_t *snapshot_memory(const struct snapshot_bench *bench);
uint32_t snapshot_pages(const struct snapshot_bench *bench);

/**
 * struct snapshot_idle - the cost of a copy that nobody uses, of a memory that nobody writes
 * @freeze_ns: until the call returns
 * @drop_ns: until the copy is gone
 */
struct snapshot_idle {
	uint64_t freeze_ns;
	uint64_t drop_ns;
};

int snapshot_run_idle(struct snapshot_bench *bench, struct snapshot_idle *idle);

/* traffic.c: writers, and what they notice */

/**
 * struct snapshot_plan - one run
 * @reader: enum snapshot_reader
 * @writers: how many; writer i runs on cpus[i]
 * @unshare: transactions that one UNSHARE prepares, 0 for none
 * @flags: of the snapshot
 * @verify: scan twice, the other way round if there is one, and compare
 * @warmup_ns: not counted
 * @before_ns: length of BEFORE, and of SCAN if nobody reads
 * @after_ns: length of AFTER
 */
struct snapshot_plan {
	uint32_t reader;
	uint32_t writers;
	uint32_t unshare;
	uint32_t flags;
	uint32_t verify;
	uint64_t warmup_ns;
	uint64_t before_ns;
	uint64_t after_ns;
};

/**
 * struct snapshot_latency - the transactions that ended in a phase, all writers
 * @ops: their number
 * @wall_ns: length of the phase
 * @p50_ns: quantiles of their latency, at most 6 % above the true ones
 * @p99_ns: the same
 * @p999_ns: the same
 * @max_ns: the longest, exactly
 */
struct snapshot_latency {
	uint64_t ops;
	uint64_t wall_ns;
	uint64_t p50_ns;
	uint64_t p99_ns;
	uint64_t p999_ns;
	uint64_t max_ns;
};

/**
 * struct snapshot_result - what a run measured
 * @flush_ns: a flush of the TLBs and nothing else, while the writers run
 * @freeze_ns: the call, while the writers run
 * @scan_ns: first scan of the copy, from the return of the freeze on
 * @unmap_ns: munmap of the view, or 0
 * @drop_ns: close, or end of the child until it has been waited for
 * @shootdowns: TLB interrupts on the writers' CPUs between the return of the
 *	freeze and the beginning of the drop, or BENCH_NO_COUNT
 * @faults: page faults of the writers
 * @torn: see struct snapshot_scan
 * @unequal: 1 if the second scan did not find what the first had found
 * @frozen_ns: when the freeze began, counted like the timeline
 * @scanned_ns: when the scan ended
 * @dropped_ns: when the drop ended
 * @phases: by enum snapshot_phase
 * @buckets: length of the timeline
 * @timeline: transactions that ended in each SNAPSHOT_BUCKET_NS since BEFORE began
 */
struct snapshot_result {
	uint64_t flush_ns;
	uint64_t freeze_ns;
	uint64_t scan_ns;
	uint64_t unmap_ns;
	uint64_t drop_ns;
	uint64_t shootdowns;
	uint64_t faults;
	uint64_t torn;
	uint64_t unequal;
	uint64_t frozen_ns;
	uint64_t scanned_ns;
	uint64_t dropped_ns;
	struct snapshot_latency phases[SNAPSHOT_PHASES];
	uint32_t buckets;
	uint32_t timeline[SNAPSHOT_BUCKETS];
};

int snapshot_run(struct snapshot_bench *bench, const struct snapshot_orders *orders,
		 const struct snapshot_plan *plan, const int *cpus,
		 struct snapshot_result *result);

/* The place of a latency in a histogram, and the most that this place stands for. */
#define SNAPSHOT_SLOTS	1024u
uint32_t snapshot_slot(uint64_t value);
uint64_t snapshot_slot_end(uint32_t slot);

#endif /* EXMAPCTL_SNAPSHOT_H */
