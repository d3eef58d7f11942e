// SPDX-License-Identifier: MIT
/* Pages of extents in the buffer: they come all at once, never change, and go all at once. */
#include <string.h>

#include "buffer.h"

/* Latch pages exclusively that nobody comes to, but the clock and those who write them back. */
static void claim_all(struct exdb *db, const uint64_t *pages, unsigned int n)
{
	unsigned int i, spins = 0;

	for (i = 0; i < n; i++) {
		uint64_t *word = page_state(db, pages[i]);

		for (;;) {
			const uint64_t v = state_load(word);
			const unsigned int state = state_of(v);

			if ((state == STATE_EVICTED || state == STATE_UNLOCKED ||
			     state == STATE_MARKED) &&
			    state_try_exclusive(word, v))
				break;
			buffer_wait(&spins);
		}
	}
}

int buffer_fill_raw(struct exdb_worker *w, uint64_t first, const uint8_t *from, size_t length)
{
	struct exdb *db = w->db;
	const unsigned int n = (length + PAGE_SIZE - 1) / PAGE_SIZE;
	uint64_t pages[PREFETCH_MAX] = { 0 };
	uint8_t *mem = exmap_page(db->ex, first);
	unsigned int i;
	int ret = buffer_reserve(w, n);

	if (ret)
		return ret;
	for (i = 0; i < n; i++)
		pages[i] = first + i;
	claim_all(db, pages, n);
	ret = buffer_populate(w, pages, n);
	for (i = 0; i < n && ret; i++)
		buffer_abandon(w, pages[i]);
	if (ret)
		return ret;
	memcpy(mem, from, length);
	memset(mem + length, 0, (size_t)n * PAGE_SIZE - length);
	for (i = 0; i < n; i++) {
		buffer_note_resident(db, pages[i]);
		state_set_raw(page_state(db, pages[i]), true);
		buffer_unfix_exclusive(w, pages[i], true);
	}
	return 0;
}

/* Give back the frames of pages, once a running checkpoint has what it wants of them. */
static int free_frames(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	struct exdb *db = w->db;
	uint64_t resident[PREFETCH_MAX];
	unsigned int i, nr = 0, freed = 0;
	long ret = 0;

	for (i = 0; i < n && !ret; i++) {
		if (state_is_pending(state_load(page_state(db, pages[i])), db->epoch))
			ret = checkpoint_save(w, pages[i]);
		if (exmap_is_mapped(db->ex, pages[i]))
			resident[nr++] = pages[i];
	}
	if (ret || !nr)
		return ret;
	ret = exmap_vector(db->ex, w->itf, EXMAP_OP_FREE, resident, nr, EXMAP_FREE_LAZY, NULL);
	for (i = 0; i < nr; i++)
		freed += !exmap_is_mapped(db->ex, resident[i]);
	__atomic_sub_fetch(&db->used, freed, __ATOMIC_RELAXED);
	w->error_page = pages[0];
	return ret < 0 ? ret : 0;
}

static int discard(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	struct exdb *db = w->db;
	unsigned int i;
	int ret;

	claim_all(db, pages, n);
	ret = free_frames(w, pages, n);
	pthread_mutex_lock(&db->blocks.lock);
	for (i = 0; i < n; i++) {
		uint64_t *word = page_state(db, pages[i]);
		const bool mapped = exmap_is_mapped(db->ex, pages[i]);

		if (!mapped) {
			__atomic_fetch_and(word, ~(STATE_DIRTY | STATE_RAW), __ATOMIC_ACQ_REL);
			if (map_get(db, pages[i]).block)
				map_set(db, pages[i], (struct map_slot){ 0 }, false);
		}
		state_release_exclusive(word, mapped ? STATE_UNLOCKED : STATE_EVICTED);
	}
	pthread_mutex_unlock(&db->blocks.lock);
	return ret;
}

int buffer_discard_raw(struct exdb_worker *w, uint64_t first, uint64_t n)
{
	uint64_t pages[PREFETCH_MAX] = { 0 };
	unsigned int i, window;
	int ret = 0;

	for (; n && !ret; first += window, n -= window) {
		window = n < w->db->prefetch ? (unsigned int)n : w->db->prefetch;
		for (i = 0; i < window; i++)
			pages[i] = first + i;
		ret = discard(w, pages, window);
	}
	return ret;
}
