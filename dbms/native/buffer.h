/* SPDX-License-Identifier: MIT */
/*
 * The buffer manager: which pages have a frame.
 *
 * Page n is at base + n * 4096, resident or not: the MMU translates.  Whoever
 * touches a page has fixed it before, which makes it resident and latches it;
 * a page that is absent is read by an explicit READ, never by a fault.  Frames
 * are won back by a clock over the pool's frames.
 *
 * Latches are taken root to leaf and left to right; the clock only tries.  Who
 * latches a page exclusively to change it holds exdb.commit.
 */
#ifndef EXDB_BUFFER_H
#define EXDB_BUFFER_H

#include <pthread.h>

#include "background.h"
#include "block.h"
#include "checkpoint.h"
#include "disk.h"
#include "exdb.h"
#include "exmap_user.h"
#include "history.h"
#include "log.h"
#include "map.h"
#include "page.h"
#include "state.h"

#define BATCH_MAX	512u	/* pages in one vector of ours */
#define EVICT_BATCH	64u	/* pages that one turn of the clock frees */
#define WORKERS_OWN	2u	/* channels beyond those that are lent */
#define PREFETCH_MAX	64u	/* pages that a scan reads ahead */

/* Counters of a worker; written by it alone. */
struct worker_counts {
	uint64_t hits;
	uint64_t misses;
	uint64_t prefetched;
	uint64_t read;
	uint64_t written;
	uint64_t evicted;
	uint64_t eviction_batches;
};

/* A reference to an extent, at the end of a row's value; see extent.h. */
struct extent_ref {
	uint64_t page;
	uint32_t length;
	uint32_t reserved;
};

static_assert(sizeof(struct extent_ref) == 16, "on-disk format");

/* Extents that rows have let go of and that are to be given up. */
struct dropped {
	struct extent_ref *refs;
	size_t nr;
	size_t room;
};

/* Atomic for exdb_stats, which reads them meanwhile. */
static inline void count_up(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/**
 * struct exdb_worker - a channel for one thread at a time
 * @db: the database
 * @itf: its exmap interface
 * @error_page: the page that the last failure was about
 * @error_index: the index that it was about
 * @view: it reads what a freeze has kept, and nothing else; NULL for all but its own
 * @resident_only: it neither waits for latches nor brings pages in
 * @looks_ahead: its last lookups had pages to read
 * @counts: what it has done
 */
struct exdb_worker {
	struct exdb *db;
	unsigned int itf;
	uint64_t error_page;
	uint32_t error_index;
	struct exdb_freeze *view;
	bool resident_only;
	bool looks_ahead;
	struct worker_counts counts;
} __attribute__((aligned(64)));

/**
 * struct exdb - an open database
 * @ex: the region: the pages of the trees, then those of the page map
 * @states: a state word for each page of the region
 * @frames: the last page known in each frame; 0 for none (there is no page 0)
 * @trees: what their numbers mean
 * @pool_pages: number of frames
 * @used: frames that are taken or reserved
 * @limit: evict beyond this number; less while freezes hold frames
 * @full_limit: what it is if there is none
 * @freezes: those that there are, the newest first; written under @commit and blocks.lock
 * @loading: shared while a page has a frame and not yet its content; a freeze keeps it out
 * @evict_batch: pages that one turn of the clock frees
 * @prefetch: leaves that a scan may read ahead
 * @hand: the clock's hand
 * @data_pages: pages that trees may have
 * @next_page: the first page that was never allocated
 * @free_page: the first page of the free list, 0 for none; protected by @commit
 * @nr_free: its length; likewise
 * @run_pages: pages of free runs; likewise
 * @in_runs: their tree is being changed; likewise
 * @dropped: extents of rows that are gone; likewise
 * @schema: grows with each change of the catalog; written under @commit
 * @nr_trees: the first number that no tree has had; written under @commit
 * @free_tree: no number below it is free; likewise
 * @backing_fd: the caller's
 * @level: enum exdb_durability
 * @blocks: where pages may be written
 * @map: where they were
 * @log: what was committed since the last checkpoint, and more
 * @log_open: records may be appended; if not, a checkpoint has to say so first
 * @epoch: checkpoints that have begun; written under @commit and blocks.lock
 * @saved: copies that writers have left to the running checkpoint; blocks.lock
 * @checkpoint: the last one that was completed; under @checkpointing
 * @checkpoints: that were made
 * @commits: transactions
 * @seq: the number of the last one; written under @commit
 * @history: for those that are running
 * @recovered: transactions that were replayed at open
 * @failed: the first error after which nothing may change any more, or 0
 * @failed_page: the page it was about
 * @trimming: one thread at a time gives back what was dropped; taken before @checkpointing
 * @checkpointing: one checkpoint at a time; taken before @commit
 * @commit: whoever changes trees: one transaction at a time is validated, logged and applied
 * @keeper: the housekeeping thread; its channel is behind those that are lent
 * @background: the thread for scans in the background
 * @nr_workers: channels that are lent
 * @workers: those, the keeper's, and exdb_resident_worker
 */
struct exdb {
	struct exmap *ex;
	uint64_t *states;
	uint64_t *frames;
	struct tree *trees;
	uint64_t pool_pages;
	uint64_t used;
	uint64_t limit;
	uint64_t full_limit;
	struct exdb_freeze *freezes;
	pthread_rwlock_t loading;
	unsigned int evict_batch;
	unsigned int prefetch;
	uint64_t hand;
	uint64_t data_pages;
	uint64_t next_page;
	uint64_t free_page;
	uint64_t nr_free;
	uint64_t run_pages;
	bool in_runs;
	struct dropped dropped;
	uint64_t schema;
	uint32_t nr_trees;
	uint32_t free_tree;
	int backing_fd;
	uint32_t level;
	struct blocks blocks;
	struct map map;
	struct log log;
	bool log_open;
	uint64_t epoch;
	struct saved_page *saved;
	struct meta_state checkpoint;
	uint64_t checkpoints;
	uint64_t commits;
	uint64_t seq;
	struct history history;
	uint64_t recovered;
	int failed;
	uint64_t failed_page;
	pthread_mutex_t trimming;
	pthread_mutex_t checkpointing;
	pthread_mutex_t commit;
	struct keeper keeper;
	struct background background;
	unsigned int nr_workers;
	struct exdb_worker workers[EXDB_WORKERS_MAX + WORKERS_OWN];
};

static inline uint64_t *page_state(const struct exdb *db, uint64_t page)
{
	return &db->states[page];
}

/* Make @page resident and latch it.  -EBADMSG, -EUCLEAN, -ENOBUFS or an error of I/O. */
int buffer_fix_shared(struct exdb_worker *w, uint64_t page, const void **out);
int buffer_fix_exclusive(struct exdb_worker *w, uint64_t page, void **out);

/*
 * As buffer_fix_exclusive, for who overwrites the page: 1 if it was absent, and has a frame now with
 * anything in it.
 */
int buffer_fix_unread(struct exdb_worker *w, uint64_t page, void **out);

void buffer_unfix_shared(struct exdb_worker *w, uint64_t page);
void buffer_unfix_exclusive(struct exdb_worker *w, uint64_t page, bool dirty);

/* Allocate a page; it comes latched exclusively and undefined. */
int buffer_allocate(struct exdb_worker *w, uint64_t *page, void **out);

/* Latch a page of an extent; unfix as any other.  -EUCLEAN if it is none. */
int buffer_fix_raw(struct exdb_worker *w, uint64_t page);

/*
 * Fill pages of an extent that nobody can come to, from @first on; up to db->prefetch of them.
 * The last one ends in zeros.
 */
int buffer_fill_raw(struct exdb_worker *w, uint64_t first, const uint8_t *from, size_t length);

/* Let go of frames and blocks of pages that nobody can come to any more. */
int buffer_discard_raw(struct exdb_worker *w, uint64_t first, uint64_t n);

/* A frame for such a page, which becomes one of a tree; it comes latched exclusively and undefined. */
int buffer_renew(struct exdb_worker *w, uint64_t page, void **out);

/* A frame for a page beyond the trees', which stays latched for ever. */
int buffer_pin(struct exdb_worker *w, uint64_t page, void **out);

/* Give up a page that the caller has latched exclusively and nobody can come to any more. */
void buffer_release(struct exdb_worker *w, uint64_t page, void *mem);

/* Read those of the pages that are absent with one vector.  Failures are left to fix. */
int buffer_prefetch(struct exdb_worker *w, const uint64_t *pages, unsigned int n);

/* Ascending, so that neighbours become one request. */
void buffer_sort_pages(uint64_t *pages, size_t n);

/* While a latch is waited for. */
void buffer_wait(unsigned int *spins);

/* ALLOC of pages whose words we hold exclusively and whose frames are reserved. */
int buffer_populate(struct exdb_worker *w, const uint64_t *pages, unsigned int n);

/* Give back a page that we hold exclusively and that could not be had. */
void buffer_abandon(struct exdb_worker *w, uint64_t page);

/* Reserve @n frames, evicting if need be; the reservation is part of db->used. */
int buffer_reserve(struct exdb_worker *w, unsigned int n);

/* Note that @page has a frame now, so that the clock finds it. */
void buffer_note_resident(struct exdb *db, uint64_t page);

/* clock.c: the map's entry of a page as it is to be written: sealed, unless it is raw. */
struct map_slot clock_slot(const void *mem, uint32_t block, bool raw);

/* clock.c: free some frames; the number of pages evicted. */
int clock_evict(struct exdb_worker *w);

/*
 * clock.c: seal pages that the caller has latched by state_try_writing, and write
 * them to blocks that no checkpoint has; up to BATCH_MAX.  They are clean then.
 */
int clock_write_back(struct exdb_worker *w, const uint64_t *pages, unsigned int n);

/* clock.c: the page in a frame, or 0. */
uint64_t clock_page_in_frame(const struct exdb *db, uint64_t frame);

/* freeze.c: blocks retired since then are needed by a freeze; blocks.lock is held. */
uint64_t freeze_oldest_epoch(const struct exdb *db);

/* view.c: the same as buffer_fix_shared and its counterpart, of a worker with a view. */
int freeze_fix(struct exdb_worker *w, uint64_t page, const void **out);
void freeze_unfix(struct exdb_worker *w, uint64_t page);

/* view.c: the same as buffer_prefetch. */
void freeze_prefetch(struct exdb_worker *w, const uint64_t *pages, unsigned int n);

/* view.c: copy pages of an extent out. */
int freeze_read_raw(struct exdb_worker *w, uint64_t first, size_t length, uint8_t *out);

/* runs.c: see that trees have pages, as long as there are free runs. */
int runs_spare(struct exdb_worker *w);

/* free.c: the first page of the free list, latched exclusively: 1, 0 if there is none, or -errno. */
int free_list_take(struct exdb_worker *w, uint64_t *page, void **out);

#endif /* EXDB_BUFFER_H */
