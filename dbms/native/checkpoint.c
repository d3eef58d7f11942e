// SPDX-License-Identifier: MIT
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "buffer.h"


int checkpoint_fail(struct exdb *db, int error, uint64_t page)
{
	int none = 0;

	if (__atomic_compare_exchange_n(&db->failed, &none, error, false, __ATOMIC_ACQ_REL,
					__ATOMIC_RELAXED))
		__atomic_store_n(&db->failed_page, page, __ATOMIC_RELEASE);
	return error;
}

int checkpoint_save(struct exdb_worker *w, uint64_t page)
{
	struct exdb *db = w->db;
	struct saved_page *saved = malloc(sizeof(*saved));
	void *content = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	const bool raw = state_load(page_state(db, page)) & STATE_RAW;
	struct map_slot slot;
	int ret = -ENOMEM;

	if (!saved || !content)
		goto err;
	memcpy(content, exmap_page(db->ex, page), PAGE_SIZE);
	if (!raw)
		page_seal(content);
	slot = clock_slot(content, 0, raw);
	ret = -ENOSPC;
	pthread_mutex_lock(&db->blocks.lock);
	if (!block_allocate(&db->blocks, &saved->block, 1, false)) {
		pthread_mutex_unlock(&db->blocks.lock);
		goto err;
	}
	saved->content = content;
	saved->next = db->saved;
	db->saved = saved;
	/* it is dirty still, so nobody reads the block before the copy is in it */
	slot.block = saved->block;
	map_set(db, page, slot, true);
	state_set_dirty(page_state(db, page), db->epoch);
	pthread_mutex_unlock(&db->blocks.lock);
	return 0;

err:
	free(saved);
	free(content);
	w->error_page = page;
	return ret;
}

/* Write the copies that writers have left so far. */
static int write_saved(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	struct saved_page *list, *next;
	int ret = 0;

	pthread_mutex_lock(&db->blocks.lock);
	list = db->saved;
	db->saved = NULL;
	pthread_mutex_unlock(&db->blocks.lock);
	for (; list; list = next) {
		unsigned int done;

		next = list->next;
		if (!ret)
			ret = disk_write(db->backing_fd, &list->block, &list->content, 1, &done);
		count_up(&w->counts.written, !ret);
		free(list->content);
		free(list);
	}
	return ret;
}

void checkpoint_drop_saved(struct exdb *db)
{
	while (db->saved) {
		struct saved_page *next = db->saved->next;

		free(db->saved->content);
		free(db->saved);
		db->saved = next;
	}
}

/* Latch the pages in shared mode that are pending still. */
static unsigned int latch_pending(const struct exdb *db, const uint64_t *pages, unsigned int n,
				  uint64_t *latched)
{
	unsigned int i, nr = 0;

	for (i = 0; i < n; i++) {
		uint64_t *word = page_state(db, pages[i]);

		for (;;) {
			uint64_t v = state_load(word);

			if (!state_is_pending(v, db->epoch))
				break;
			if (state_try_writing(word, v)) {
				latched[nr++] = pages[i];
				break;
			}
			/* whoever has it exclusively will leave a copy; or the clock writes it */
			sched_yield();
		}
	}
	return nr;
}

static int write_group(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	uint64_t latched[EVICT_BATCH];
	unsigned int i, nr = latch_pending(w->db, pages, n, latched);
	int ret = clock_write_back(w, latched, nr);

	for (i = 0; i < nr; i++)
		state_release_shared(page_state(w->db, latched[i]));
	return ret ? ret : write_saved(w);
}

/* Write all pages that were dirty when the epoch began. */
static int write_pending(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	uint64_t *pages = malloc(db->pool_pages * sizeof(*pages));
	uint64_t frame, i, n = 0;
	int ret = 0;

	if (!pages)
		return -ENOMEM;
	for (frame = 0; frame < db->pool_pages; frame++) {
		uint64_t page = clock_page_in_frame(db, frame);

		if (page && state_is_pending(state_load(page_state(db, page)), db->epoch))
			pages[n++] = page;
	}
	buffer_sort_pages(pages, n);
	/* no more than the clock takes, so that a small pool is not all latched by us */
	for (i = 0; i < n && !ret; i += db->evict_batch)
		ret = write_group(w, pages + i, n - i < db->evict_batch ? n - i : db->evict_batch);
	free(pages);
	return ret ? ret : write_saved(w);
}

/* The moment: no transaction is being applied. */
static void begin_epoch(struct exdb *db, struct meta_state *state, bool last)
{
	/* records of an earlier life may lie behind the end of the log: leave their LSNs behind */
	if (!db->log_open)
		log_skip_lap(&db->log);
	*state = (struct meta_state){
		.sequence = db->checkpoint.sequence + 1,
		.lsn = log_tail(&db->log),
		.next_page = db->next_page,
		.free_page = db->free_page,
		.nr_free = db->nr_free,
		.nr_map = db->map.nr,
		.clean = last,
	};
	pthread_mutex_lock(&db->blocks.lock);
	__atomic_store_n(&db->epoch, db->epoch + 1, __ATOMIC_RELEASE);
	block_begin_epoch(&db->blocks);
	map_begin(db);
	pthread_mutex_unlock(&db->blocks.lock);
}

static int write_image(struct exdb_worker *w, const struct meta_state *state)
{
	struct exdb *db = w->db;
	int ret = write_pending(w);

	w->error_page = ret ? w->error_page : 0;
	if (!ret)
		ret = map_write(db);
	if (!ret)
		ret = disk_sync(db->backing_fd);
	return ret ? ret : meta_write(db, state);
}

/* The image holds: what only older ones needed is free. */
static void complete(struct exdb *db, const struct meta_state *state)
{
	pthread_mutex_lock(&db->blocks.lock);
	map_end(db);
	/* freezes go by the map as it was then */
	block_reclaim(&db->blocks, freeze_oldest_epoch(db));
	pthread_mutex_unlock(&db->blocks.lock);
	log_truncate(&db->log, state->lsn);
	db->checkpoint = *state;
	__atomic_store_n(&db->log_open, !state->clean, __ATOMIC_RELEASE);
	__atomic_store_n(&db->checkpoints, db->checkpoints + 1, __ATOMIC_RELAXED);
}

static bool is_needed(struct exdb *db, enum checkpoint_kind kind)
{
	const bool changed = log_tail(&db->log) != db->checkpoint.lsn;

	switch (kind) {
	case CHECKPOINT_ALWAYS:
		return true;
	case CHECKPOINT_LAST:
		return changed || !db->checkpoint.clean;
	default:
		return changed;
	}
}

int checkpoint_run(struct exdb_worker *w, enum checkpoint_kind kind)
{
	struct exdb *db = w->db;
	struct meta_state state;
	bool needed = false;
	int ret = 0;

	pthread_mutex_lock(&db->checkpointing);
	pthread_mutex_lock(&db->commit);
	if (__atomic_load_n(&db->failed, __ATOMIC_ACQUIRE))
		ret = -EROFS;
	else
		needed = is_needed(db, kind);
	if (needed)
		begin_epoch(db, &state, kind == CHECKPOINT_LAST);
	pthread_mutex_unlock(&db->commit);
	if (needed) {
		ret = write_image(w, &state);
		if (ret)
			checkpoint_fail(db, ret, w->error_page);
		else
			complete(db, &state);
	}
	pthread_mutex_unlock(&db->checkpointing);
	return ret;
}
