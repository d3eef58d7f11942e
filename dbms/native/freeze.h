/* SPDX-License-Identifier: MIT */
/* A freeze, for freeze.c, which takes and drops it, and view.c, which reads it. */
#ifndef EXDB_FREEZE_H
#define EXDB_FREEZE_H

#include "buffer.h"

#define CACHE_PAGES	64u		/* that were asked for one by one */
#define AHEAD_PAGES	PREFETCH_MAX	/* leaves that a scan reads ahead: the places behind those */
#define ALL_PAGES	(CACHE_PAGES + AHEAD_PAGES)
#define BOUNCE_PAGES	PREFETCH_MAX	/* behind those: of extents, on their way */
#define LIVE_PINS	8u		/* a descent has latched two or three */

/* A page that was read, for whoever has it pinned. */
struct cached {
	uint64_t page;
	unsigned int pins;
	bool used;
};

/* A page that has not changed since, latched shared where it is. */
struct live_pin {
	uint64_t page;
	unsigned int pins;
};

/**
 * struct exdb_freeze - the pages that were resident
 * @db: the database, which outlives it
 * @next: an older one that is still there; protected by exdb.commit and blocks.lock
 * @epoch: blocks retired since then stay
 * @snap: the snapshot
 * @count: pages that there were, resident or not
 * @free_page: the first of the free list
 * @nr_free: its length
 * @schema: of the catalog
 * @roots: of the trees that there were
 * @nr_trees: length of it
 * @words: residency words of its pages
 * @states: their state words at that moment, which tell those that have not changed since
 * @pages: how many of them were resident
 * @copies: the region's counter, just before
 * @nanoseconds: that the snapshot took
 * @worker: the channel of the one who reads it
 * @live: pages that are read where they are
 * @cache: pages that were read, the content of the i-th at memory + i * PAGE_SIZE
 * @memory: see @cache
 * @hand: where to look for one that can go
 * @last: the place of the page that was found last
 */
struct exdb_freeze {
	struct exdb *db;
	struct exdb_freeze *next;
	uint64_t epoch;
	struct exmap_snapshot *snap;
	uint64_t count;
	uint64_t free_page;
	uint64_t nr_free;
	uint64_t schema;
	uint64_t *roots;
	uint32_t nr_trees;
	uint32_t *words;
	uint64_t *states;
	uint64_t pages;
	uint64_t copies;
	uint64_t nanoseconds;
	struct exdb_worker worker;
	struct live_pin live[LIVE_PINS];
	struct cached cache[ALL_PAGES];
	uint8_t *memory;
	unsigned int hand;
	unsigned int last;
};

#endif /* EXDB_FREEZE_H */
