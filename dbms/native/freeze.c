// SPDX-License-Identifier: MIT
/* The resident pages as they were at one moment: a snapshot of the region. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "buffer.h"

/**
 * struct exdb_freeze - the pages that were resident
 * @db: the database, which outlives it
 * @snap: the snapshot
 * @count: pages that there were, resident or not
 * @words: residency words of its pages
 * @pages: how many of them were resident
 * @limit: the database's own, to be restored
 * @copies: the region's counter, just before
 * @nanoseconds: that the snapshot took
 */
struct exdb_freeze {
	struct exdb *db;
	struct exmap_snapshot *snap;
	uint64_t count;
	uint32_t *words;
	uint64_t pages;
	uint64_t limit;
	uint64_t copies;
	uint64_t nanoseconds;
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

static int take_snapshot(struct exdb_freeze *f)
{
	uint64_t count = f->count;
	struct exmap *ex = f->db->ex;
	uint64_t start;
	int ret;

	count = (count + EXMAP_CHUNK_PAGES - 1) / EXMAP_CHUNK_PAGES * EXMAP_CHUNK_PAGES;
	if (count > ex->region_pages)
		count = ex->region_pages;
	start = now();
	ret = exmap_snapshot_open(ex, 0, count, 0, 0, &f->snap);
	f->nanoseconds = now() - start;
	return ret;
}

static int read_words(struct exdb_freeze *f)
{
	uint64_t i;
	int ret;

	f->words = calloc(f->snap->count, sizeof(*f->words));
	if (!f->words)
		return -ENOMEM;
	ret = exmap_snapshot_words(f->snap, 0, f->snap->count, f->words);
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

static void destroy(struct exdb_freeze *f)
{
	if (f->snap)
		exmap_snapshot_close(f->snap);
	set_limit(f->db, f->limit);
	f->db->frozen = false;
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
	f = calloc(1, sizeof(*f));
	if (!f)
		goto out;
	f->db = db;
	f->count = db->next_page;
	f->limit = db->limit;
	db->frozen = true;
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
	};
	return 0;
}
