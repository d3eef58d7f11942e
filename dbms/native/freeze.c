// SPDX-License-Identifier: MIT
/*
 * All pages as they were at one moment: a snapshot of the region, page map and all.
 * What was resident is read from it; what was not, from the blocks that its map
 * names, which nothing is written to before the thaw.  Nobody waits for that.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "freeze.h"
#include "state.h"
#include "trees.h"

#define LIMIT_MIN	(EXDB_POOL_MIN / 2 - 1)
#define MIN(a, b)	((a) < (b) ? (a) : (b))

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
	start = now();
	ret = exmap_snapshot_open(db->ex, 0, db->ex->region_pages, 0, 0, &f->snap);
	f->nanoseconds = now() - start;
	if (!ret) {
		block_begin_epoch(&db->blocks);
		f->epoch = db->epoch;
		f->next = db->freezes;
		db->freezes = f;
	}
	pthread_mutex_unlock(&db->blocks.lock);
	pthread_rwlock_unlock(&db->loading);
	return ret;
}

uint64_t freeze_oldest_epoch(const struct exdb *db)
{
	const struct exdb_freeze *f;
	uint64_t epoch = db->epoch;

	for (f = db->freezes; f; f = f->next)
		epoch = f->epoch < epoch ? f->epoch : epoch;
	return epoch;
}

static int read_words(struct exdb_freeze *f)
{
	uint64_t i;
	int ret;

	f->words = calloc(f->count, sizeof(*f->words));
	f->memory = aligned_alloc(PAGE_SIZE, (ALL_PAGES + BOUNCE_PAGES) * PAGE_SIZE);
	if (!f->words || !f->memory)
		return -ENOMEM;
	ret = exmap_snapshot_words(f->snap, 0, f->count, f->words);
	for (i = 0; i < f->count && !ret; i++)
		f->pages += EXMAP_RES_MAPPED(f->words[i]);
	return ret;
}

/*
 * What older freezes hold they keep, and each page that is frozen now, copied or freed, may
 * come to hold a frame besides the one in use: evict until all of that fits the pool.  Pages
 * that are evicted may stay with the older ones.
 */
static int make_room(struct exdb_worker *w, struct exmap_counters *counters)
{
	struct exdb *db = w->db;
	uint64_t limit = db->full_limit / 2, held;
	int ret;

	do {
		set_limit(db, limit);
		ret = buffer_reserve(w, 0);
		/* what has been evicted is free only after a flush */
		if (!ret)
			ret = exmap_barrier(db->ex);
		if (!ret)
			ret = exmap_counters(db->ex, counters);
		held = counters->snapshot + 2 * limit;
		if (ret || held <= db->full_limit)
			return ret;
		limit -= MIN(limit, (held - db->full_limit + 1) / 2);
	} while (limit >= LIMIT_MIN);
	return -EBUSY;
}

/* Whoever changes, evicts or loads a page gives back an exclusive latch, and its version grows. */
static int remember_states(struct exdb_freeze *f)
{
	uint64_t i;

	f->states = malloc(f->count * sizeof(*f->states));
	if (!f->states)
		return -ENOMEM;
	for (i = 0; i < f->count; i++)
		f->states[i] = state_load(page_state(f->db, i));
	return 0;
}

/* Between two transactions. */
static int freeze(struct exdb_worker *w, struct exdb_freeze *f)
{
	struct exmap_counters counters = { 0 };
	struct exdb *db = w->db;
	uint64_t limit;
	int ret;

	pthread_mutex_lock(&db->commit);
	limit = db->limit;
	ret = make_room(w, &counters);
	f->copies = counters.copies;
	f->count = db->next_page;
	f->free_page = db->free_page;
	f->nr_free = db->nr_free;
	f->schema = db->schema;
	f->nr_trees = db->nr_trees;
	f->roots = trees_copy(db);
	if (!f->roots && !ret)
		ret = -ENOMEM;
	if (!ret)
		ret = remember_states(f);
	if (!ret)
		ret = take_snapshot(f);
	if (ret)
		set_limit(db, limit);
	pthread_mutex_unlock(&db->commit);
	return ret;
}

static void forget(struct exdb_freeze *f)
{
	struct exdb *db = f->db;
	struct exdb_freeze **at;

	pthread_mutex_lock(&db->commit);
	pthread_mutex_lock(&db->blocks.lock);
	for (at = &db->freezes; *at; at = &(*at)->next) {
		if (*at == f) {
			*at = f->next;
			break;
		}
	}
	/* others go on holding frames */
	if (!db->freezes)
		set_limit(db, db->full_limit);
	pthread_mutex_unlock(&db->blocks.lock);
	pthread_mutex_unlock(&db->commit);
}

void exdb_thaw(struct exdb_freeze *f)
{
	if (f->snap)
		exmap_snapshot_close(f->snap);
	forget(f);
	free(f->memory);
	free(f->words);
	free(f->states);
	free(f->roots);
	free(f);
}

int exdb_freeze(struct exdb_worker *w, struct exdb_freeze **out)
{
	struct exdb_freeze *f = aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);
	int ret;

	if (!f)
		return -ENOMEM;
	*f = (struct exdb_freeze){ 0 };
	f->db = w->db;
	f->worker = (struct exdb_worker){ .db = w->db, .error_page = UINT64_MAX, .view = f };
	ret = freeze(w, f);
	if (!ret)
		ret = read_words(f);
	if (ret)
		exdb_thaw(f);
	else
		*out = f;
	return ret;
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

uint64_t freeze_root(const struct exdb_freeze *f, uint32_t number)
{
	return number < f->nr_trees ? f->roots[number] : 0;
}

uint64_t exdb_freeze_schema(const struct exdb_freeze *f)
{
	return f->schema;
}

struct exdb_worker *exdb_freeze_worker(struct exdb_freeze *f)
{
	return &f->worker;
}
