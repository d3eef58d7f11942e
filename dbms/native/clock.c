// SPDX-License-Identifier: MIT
/*
 * Eviction and write-back.  A turn of the clock marks unlocked pages and
 * collects those that are still marked from the last time round; the dirty
 * ones among them go to the backing as one vector, then all that nobody has
 * latched meanwhile are freed as one vector, lazily: the flush of the TLBs is
 * shared with many turns.
 */
#include <errno.h>

#include "buffer.h"
#include "crc32c.h"

/* Victims of one turn. */
struct victims {
	unsigned int nr_clean;
	unsigned int nr_dirty;
	uint64_t clean[EVICT_BATCH];
	uint64_t dirty[EVICT_BATCH];
};

uint64_t clock_page_in_frame(const struct exdb *db, uint64_t frame)
{
	uint64_t page = __atomic_load_n(&db->frames[frame], __ATOMIC_ACQUIRE);
	uint32_t word = __atomic_load_n(&db->ex->residency[page], __ATOMIC_ACQUIRE);

	/* the page may have moved to another frame since: let it age there */
	return EXMAP_RES_MAPPED(word) && EXMAP_RES_FRAME(word) == frame ? page : 0;
}

static void collect(struct exdb *db, struct victims *v)
{
	uint64_t steps;

	v->nr_clean = 0;
	v->nr_dirty = 0;
	for (steps = 0; steps < 2 * db->pool_pages; steps++) {
		uint64_t hand = __atomic_fetch_add(&db->hand, 1, __ATOMIC_RELAXED);
		uint64_t page = clock_page_in_frame(db, hand % db->pool_pages);
		uint64_t *word = page_state(db, page);
		uint64_t old = state_load(word);

		if (!page)
			continue;
		if (state_of(old) == STATE_UNLOCKED)
			state_cas(word, old, state_with(old, STATE_MARKED));
		else if (state_of(old) != STATE_MARKED)
			continue;
		else if (!(old & STATE_DIRTY))
			v->clean[v->nr_clean++] = page;
		else if (state_try_writing(word, old))
			v->dirty[v->nr_dirty++] = page;
		if (v->nr_clean + v->nr_dirty == db->evict_batch)
			break;
	}
}

struct map_slot clock_slot(const void *mem, uint32_t block, bool raw)
{
	return (struct map_slot){
		.block = block,
		.raw = raw,
		.crc = raw ? crc32c(0, mem, PAGE_SIZE) : page_crc(mem),
	};
}

static bool is_raw(const struct exdb *db, uint64_t page)
{
	return state_load(page_state(db, page)) & STATE_RAW;
}

/* Pages lie where they were written, for the running checkpoint as well if it wanted them. */
static void note_written(struct exdb *db, const uint64_t *pages, const uint32_t *blocks,
			 unsigned int n)
{
	struct map_slot slots[BATCH_MAX];
	unsigned int i;

	for (i = 0; i < n; i++)
		slots[i] = clock_slot(exmap_page(db->ex, pages[i]), blocks[i],
				      is_raw(db, pages[i]));
	pthread_mutex_lock(&db->blocks.lock);
	for (i = 0; i < n; i++) {
		uint64_t *word = page_state(db, pages[i]);
		bool pending = state_is_pending(state_load(word), db->epoch);

		if (pending)
			block_keep(&db->blocks, blocks[i]);
		map_set(db, pages[i], slots[i], pending);
		state_end_writing(word, true);
	}
	pthread_mutex_unlock(&db->blocks.lock);
}

static void note_failed(struct exdb *db, const uint64_t *pages, const uint32_t *blocks,
			unsigned int n)
{
	unsigned int i;

	pthread_mutex_lock(&db->blocks.lock);
	for (i = 0; i < n; i++) {
		if (blocks)
			block_free(&db->blocks, blocks[i]);
		state_end_writing(page_state(db, pages[i]), false);
	}
	pthread_mutex_unlock(&db->blocks.lock);
}

int clock_write_back(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	struct exdb *db = w->db;
	uint32_t blocks[BATCH_MAX];
	void *memory[BATCH_MAX];
	unsigned int i, done;
	bool room;
	int ret;

	if (!n)
		return 0;
	for (i = 0; i < n; i++)
		memory[i] = exmap_page(db->ex, pages[i]);
	pthread_mutex_lock(&db->blocks.lock);
	room = block_allocate(&db->blocks, blocks, n, true);
	/* a freeze holds this lock, so that it sees no checksum half written */
	for (i = 0; i < n; i++)
		if (!is_raw(db, pages[i]))
			page_seal(memory[i]);
	pthread_mutex_unlock(&db->blocks.lock);
	w->error_page = pages[0];
	if (!room) {
		note_failed(db, pages, NULL, n);
		return checkpoint_fail(db, -ENOSPC, pages[0]);
	}
	ret = disk_write(db->backing_fd, blocks, memory, n, &done);
	count_up(&w->counts.written, done);
	note_written(db, pages, blocks, done);
	if (!ret)
		return 0;
	w->error_page = pages[done];
	note_failed(db, pages + done, blocks + done, n - done);
	return checkpoint_fail(db, ret, pages[done]);
}

/* Latch the victims that nobody has touched since exclusively. */
static unsigned int claim(struct exdb *db, const struct victims *v, uint64_t *pages)
{
	unsigned int i, n = 0;

	for (i = 0; i < v->nr_clean; i++) {
		uint64_t *word = page_state(db, v->clean[i]);
		uint64_t old = state_load(word);

		if (state_of(old) == STATE_MARKED && !(old & STATE_DIRTY) &&
		    state_try_exclusive(word, old))
			pages[n++] = v->clean[i];
	}
	for (i = 0; i < v->nr_dirty; i++) {
		uint64_t *word = page_state(db, v->dirty[i]);
		uint64_t old = state_load(word);

		/* ours is the only latch: upgrade it */
		if (state_of(old) == STATE_SHARED_FIRST && !(old & STATE_DIRTY) &&
		    state_try_exclusive(word, old))
			pages[n++] = v->dirty[i];
		else
			state_release_shared(word);
	}
	return n;
}

static int release(struct exdb_worker *w, uint64_t *pages, unsigned int n)
{
	struct exdb *db = w->db;
	unsigned int i, freed = 0;
	long ret;

	if (!n)
		return 0;
	buffer_sort_pages(pages, n);
	ret = exmap_vector(db->ex, w->itf, EXMAP_OP_FREE, pages, n, EXMAP_FREE_LAZY, NULL);
	for (i = 0; i < n; i++) {
		bool mapped = exmap_is_mapped(db->ex, pages[i]);

		freed += !mapped;
		state_release_exclusive(page_state(db, pages[i]),
					mapped ? STATE_UNLOCKED : STATE_EVICTED);
	}
	__atomic_sub_fetch(&db->used, freed, __ATOMIC_RELAXED);
	count_up(&w->counts.evicted, freed);
	count_up(&w->counts.eviction_batches, 1);
	if (ret < 0)
		w->error_page = pages[0];
	return ret < 0 ? ret : (int)freed;
}

int clock_evict(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	uint64_t pages[EVICT_BATCH];
	struct victims v;
	int ret, error;

	collect(db, &v);
	buffer_sort_pages(v.dirty, v.nr_dirty);
	error = clock_write_back(w, v.dirty, v.nr_dirty);
	ret = release(w, pages, claim(db, &v, pages));
	/* frames without an answer from the disk are frames as well */
	return ret ? ret : error;
}
