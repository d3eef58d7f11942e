// SPDX-License-Identifier: MIT
/*
 * All pages as they were at one moment: a snapshot of the region, page map and all.
 * What was resident is read from it; what was not, from the blocks that its map
 * names, which nothing is written to before the thaw.  Nobody waits for that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "buffer.h"
#include "node.h"

#define CACHE_PAGES	64u

/* A page that was read, for whoever has it pinned. */
struct cached {
	uint64_t page;
	unsigned int pins;
	bool used;
};

/**
 * struct exdb_freeze - the pages that were resident
 * @db: the database, which outlives it
 * @snap: the snapshot
 * @count: pages that there were, resident or not
 * @free_page: the first of the free list
 * @nr_free: its length
 * @words: residency words of its pages
 * @pages: how many of them were resident
 * @limit: the database's own, to be restored
 * @copies: the region's counter, just before
 * @nanoseconds: that the snapshot took
 * @worker: the channel of the one who reads it
 * @cache: pages that were read, the content of the i-th at memory + i * PAGE_SIZE
 * @memory: see @cache
 * @hand: where to look for one that can go
 */
struct exdb_freeze {
	struct exdb *db;
	struct exmap_snapshot *snap;
	uint64_t count;
	uint64_t free_page;
	uint64_t nr_free;
	uint32_t *words;
	uint64_t pages;
	uint64_t limit;
	uint64_t copies;
	uint64_t nanoseconds;
	struct exdb_worker worker;
	struct cached cache[CACHE_PAGES];
	uint8_t *memory;
	unsigned int hand;
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void set_limit(struct exdb *db, uint64_t limit)
{
	__atomic_store_n(&db->limit, limit, __ATOMIC_RELAXED);
}

/*
 * The snapshot is taken when no page is half loaded and the map does not move, and
 * from then on the blocks that the map names are kept.
 */
static int take_snapshot(struct exdb_freeze *f)
{
	struct exdb *db = f->db;
	uint64_t start;
	int ret;

	pthread_rwlock_wrlock(&db->loading);
	pthread_mutex_lock(&db->blocks.lock);
	block_begin_epoch(&db->blocks);
	db->frozen_epoch = db->epoch;
	start = now();
	ret = exmap_snapshot_open(db->ex, 0, db->ex->region_pages, 0, 0, &f->snap);
	f->nanoseconds = now() - start;
	pthread_mutex_unlock(&db->blocks.lock);
	pthread_rwlock_unlock(&db->loading);
	return ret;
}

static int read_words(struct exdb_freeze *f)
{
	uint64_t i;
	int ret;

	f->words = calloc(f->count, sizeof(*f->words));
	f->memory = aligned_alloc(PAGE_SIZE, CACHE_PAGES * PAGE_SIZE);
	if (!f->words || !f->memory)
		return -ENOMEM;
	ret = exmap_snapshot_words(f->snap, 0, f->count, f->words);
	for (i = 0; i < f->count && !ret; i++)
		f->pages += EXMAP_RES_MAPPED(f->words[i]);
	return ret;
}

/* No tree changes: the caller holds the commit lock. */
static int freeze(struct exdb_worker *w, struct exdb_freeze *f)
{
	struct exmap_counters counters = { 0 };
	struct exdb *db = w->db;
	int ret;

	/* each frozen page, copied or freed, may hold a frame besides those that are in use */
	set_limit(db, f->limit / 2);
	ret = buffer_reserve(w, 0);
	/* what has been evicted is free only after a flush */
	if (!ret)
		ret = exmap_barrier(db->ex);
	if (!ret)
		ret = exmap_counters(db->ex, &counters);
	f->copies = counters.copies;
	if (!ret)
		ret = take_snapshot(f);
	return ret ? ret : read_words(f);
}

static void set_frozen(struct exdb *db, bool frozen)
{
	pthread_mutex_lock(&db->blocks.lock);
	db->frozen = frozen;
	pthread_mutex_unlock(&db->blocks.lock);
}

static void destroy(struct exdb_freeze *f)
{
	if (f->snap)
		exmap_snapshot_close(f->snap);
	set_limit(f->db, f->limit);
	set_frozen(f->db, false);
	free(f->memory);
	free(f->words);
	free(f);
}

int exdb_freeze(struct exdb_worker *w, struct exdb_freeze **out)
{
	struct exdb *db = w->db;
	struct exdb_freeze *f;
	int ret = -EBUSY;

	pthread_mutex_lock(&db->commit);
	if (db->frozen)
		goto out;
	ret = -ENOMEM;
	f = aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);
	if (!f)
		goto out;
	*f = (struct exdb_freeze){ 0 };
	f->db = db;
	f->count = db->next_page;
	f->free_page = db->free_page;
	f->nr_free = db->nr_free;
	f->limit = db->limit;
	f->worker = (struct exdb_worker){ .db = db, .error_page = UINT64_MAX, .view = f };
	set_frozen(db, true);
	ret = freeze(w, f);
	if (ret)
		destroy(f);
	else
		*out = f;
out:
	pthread_mutex_unlock(&db->commit);
	return ret;
}

void exdb_thaw(struct exdb_freeze *f)
{
	struct exdb *db = f->db;

	pthread_mutex_lock(&db->commit);
	destroy(f);
	pthread_mutex_unlock(&db->commit);
}

void exdb_freeze_pages(const struct exdb_freeze *f, uint64_t *pages)
{
	uint64_t i;

	for (i = 0; i < f->count; i++)
		if (EXMAP_RES_MAPPED(f->words[i]))
			*pages++ = i;
}

int exdb_freeze_read(const struct exdb_freeze *f, uint64_t page, void *out)
{
	long ret;

	if (page >= f->count)
		return -ENOENT;
	ret = exmap_snapshot_pread(f->snap, out, PAGE_SIZE, page * PAGE_SIZE);
	if (ret < 0)
		return ret;
	return ret == PAGE_SIZE ? 0 : -EIO;
}

int exdb_freeze_stats(const struct exdb_freeze *f, struct exdb_freeze_stats *stats)
{
	struct exmap_counters counters = { 0 };
	int ret = exmap_counters(f->db->ex, &counters);

	if (ret)
		return ret;
	*stats = (struct exdb_freeze_stats){
		.pages = f->pages,
		.copied = counters.copies - f->copies,
		.nanoseconds = f->nanoseconds,
		.count = f->count,
		.free_page = f->free_page,
		.nr_free = f->nr_free,
	};
	return 0;
}

struct exdb_worker *exdb_freeze_worker(struct exdb_freeze *f)
{
	return &f->worker;
}

/* The block that a page had, from the frozen map. */
static int frozen_block(struct exdb_freeze *f, uint64_t page, uint32_t *block)
{
	const struct map *map = &f->db->map;
	const uint64_t place = map->first + page / MAP_SLOTS;
	uint64_t offset = place * PAGE_SIZE + offsetof(struct map_page, blocks);
	long ret;

	offset += page % MAP_SLOTS * sizeof(*block);
	ret = exmap_snapshot_pread(f->snap, block, sizeof(*block), offset);
	if (ret < 0)
		return ret;
	return ret == sizeof(*block) && *block ? 0 : -EUCLEAN;
}

static int load(struct exdb_freeze *f, uint64_t page, void *mem)
{
	unsigned int done;
	uint32_t block;
	int ret;

	if (EXMAP_RES_MAPPED(f->words[page]))
		return exdb_freeze_read(f, page, mem);
	ret = frozen_block(f, page, &block);
	if (!ret)
		ret = disk_read(f->db->backing_fd, &block, &mem, 1, &done);
	if (ret)
		return ret == -ENXIO ? -EUCLEAN : ret;
	count_up(&f->worker.counts.read, 1);
	return node_verify(mem, page);
}

int exdb_freeze_load(struct exdb_freeze *f, uint64_t first, uint64_t n, void *out)
{
	uint64_t i;
	int ret = 0;

	if (!first || first > f->count || n > f->count - first)
		return -EINVAL;
	for (i = 0; i < n && !ret; i++) {
		struct page_header *header = (void *)((uint8_t *)out + i * PAGE_SIZE);

		f->worker.error_page = first + i;
		ret = load(f, first + i, header);
		header->crc = 0;
	}
	return ret;
}

static struct cached *find(struct exdb_freeze *f, uint64_t page)
{
	unsigned int i;

	for (i = 0; i < CACHE_PAGES; i++)
		if (f->cache[i].page == page)
			return &f->cache[i];
	return NULL;
}

/* A place that nobody has pinned, and that was not used lately. */
static struct cached *find_victim(struct exdb_freeze *f)
{
	unsigned int steps;

	for (steps = 0; steps < 3 * CACHE_PAGES; steps++) {
		struct cached *slot = &f->cache[f->hand++ % CACHE_PAGES];

		if (slot->pins)
			continue;
		if (!slot->used)
			return slot;
		slot->used = false;
	}
	return NULL;
}

int freeze_fix(struct exdb_worker *w, uint64_t page, const void **out)
{
	struct exdb_freeze *f = w->view;
	struct cached *slot;
	int ret = -EUCLEAN;

	w->error_page = page;
	if (page >= f->count)
		return ret;
	slot = find(f, page);
	if (!slot) {
		slot = find_victim(f);
		if (!slot)
			return -ENOBUFS;
		slot->page = 0;
		ret = load(f, page, f->memory + (slot - f->cache) * PAGE_SIZE);
		if (ret)
			return ret;
		slot->page = page;
	}
	slot->pins++;
	slot->used = true;
	*out = f->memory + (slot - f->cache) * PAGE_SIZE;
	return 0;
}

void freeze_unfix(struct exdb_worker *w, uint64_t page)
{
	find(w->view, page)->pins--;
}
