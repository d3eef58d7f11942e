// SPDX-License-Identifier: MIT
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "buffer.h"
#include "node.h"

#define SPINS		64	/* tries before the processor is given away */
#define STALLS		2000	/* turns of the clock without a victim before giving up */
#define STALL_NS	50000

void buffer_wait(unsigned int *spins)
{
	if (++*spins % SPINS == 0)
		sched_yield();
#ifdef __x86_64__
	__builtin_ia32_pause();
#endif
}

static int fail(struct exdb_worker *w, uint64_t page, int error)
{
	w->error_page = page;
	return error;
}

int buffer_reserve(struct exdb_worker *w, unsigned int n)
{
	const struct timespec pause = { .tv_nsec = STALL_NS };
	struct exdb *db = w->db;
	unsigned int stalls = 0;
	int ret = 0;

	__atomic_add_fetch(&db->used, n, __ATOMIC_RELAXED);
	while (__atomic_load_n(&db->used, __ATOMIC_RELAXED) >
	       __atomic_load_n(&db->limit, __ATOMIC_RELAXED)) {
		ret = clock_evict(w);
		if (ret < 0)
			goto err_used;
		if (ret > 0)
			continue;
		ret = -ENOBUFS;
		if (++stalls == STALLS)
			goto err_used;
		nanosleep(&pause, NULL);
	}
	return 0;

err_used:
	__atomic_sub_fetch(&db->used, n, __ATOMIC_RELAXED);
	return ret;
}

void buffer_note_resident(struct exdb *db, uint64_t page)
{
	uint32_t word = __atomic_load_n(&db->ex->residency[page], __ATOMIC_ACQUIRE);
	uint64_t frame = EXMAP_RES_FRAME(word);

	__atomic_store_n(&db->frames[frame], page, __ATOMIC_RELEASE);
}

/*
 * Frames for pages, with what is in @blocks if that is not NULL.  They may still be
 * short for a moment, in the caches of other interfaces or because a reservation
 * raced: then evict, and go on.
 */
static int populate(struct exdb_worker *w, const uint64_t *pages, const uint64_t *blocks,
		    unsigned int n)
{
	struct exmap *ex = w->db->ex;
	unsigned int tries = 0;
	size_t done = 0;
	long ret;

	for (;;) {
		w->error_page = pages[0];
		ret = blocks ? exmap_vector_at(ex, w->itf, EXMAP_OP_READ, pages, blocks, n, &done) :
			       exmap_vector(ex, w->itf, EXMAP_OP_ALLOC, pages, n, 0, NULL);
		count_up(&w->counts.read, done);
		if (ret >= 0)
			return 0;
		if ((ret != -ENOMEM && ret != -EAGAIN) || ++tries == STALLS)
			return ret == -ENOMEM ? -ENOBUFS : ret;
		if (ret == -EAGAIN) {
			sched_yield();
			continue;
		}
		ret = clock_evict(w);
		if (ret < 0)
			return ret;
		if (!ret)
			sched_yield();
	}
}

int buffer_populate(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	return populate(w, pages, NULL, n);
}

void buffer_abandon(struct exdb_worker *w, uint64_t page)
{
	struct exdb *db = w->db;

	if (exmap_is_mapped(db->ex, page))
		exmap_vector(db->ex, w->itf, EXMAP_OP_FREE, &page, 1, 0, NULL);
	__atomic_sub_fetch(&db->used, 1, __ATOMIC_RELAXED);
	state_release_exclusive(page_state(db, page), STATE_EVICTED);
}

/* A frame for a page, with what is where the map says. */
static int read_page(struct exdb_worker *w, uint64_t page)
{
	const struct map_slot slot = map_get(w->db, page);
	const uint64_t block = slot.block;
	int ret = -EUCLEAN;

	if (block)
		ret = populate(w, &page, &block, 1);
	if (ret)
		return ret == -ENXIO ? -EUCLEAN : ret;
	ret = map_verify(slot, exmap_page(w->db->ex, page), page);
	if (!ret)
		state_set_raw(page_state(w->db, page), slot.raw);
	return ret;
}

/*
 * The page fault: the word is exclusive and ours, the page absent.  If it is the
 * eviction that fails, the error is about the page that could not be written.
 */
static int fault(struct exdb_worker *w, uint64_t page, bool read)
{
	struct exdb *db = w->db;
	int ret;

	w->error_page = page;
	ret = buffer_reserve(w, 1);
	if (ret) {
		state_release_exclusive(page_state(db, page), STATE_EVICTED);
		return ret;
	}
	pthread_rwlock_rdlock(&db->loading);
	ret = read ? read_page(w, page) : buffer_populate(w, &page, 1);
	if (ret)
		buffer_abandon(w, page);
	pthread_rwlock_unlock(&db->loading);
	if (ret)
		return ret;
	buffer_note_resident(db, page);
	count_up(&w->counts.misses, read);
	return 0;
}

/* The state word of a page whose number may come from a page, so that it is checked. */
static int find_word(struct exdb_worker *w, uint64_t page, uint64_t **word)
{
	if (page >= __atomic_load_n(&w->db->next_page, __ATOMIC_RELAXED))
		return fail(w, page, -EUCLEAN);
	*word = page_state(w->db, page);
	return 0;
}

/* A page of a tree, or one of an extent: -EUCLEAN if it is the other. */
static int fix_shared(struct exdb_worker *w, uint64_t page, bool raw)
{
	unsigned int spins = 0;
	uint64_t *word;
	int ret = find_word(w, page, &word);

	if (ret)
		return ret;
	for (;;) {
		uint64_t v = state_load(word);
		unsigned int state = state_of(v);

		if (w->resident_only && (state == STATE_EVICTED || state == STATE_EXCLUSIVE))
			return -EAGAIN;
		if (state == STATE_EVICTED) {
			if (!state_try_exclusive(word, v))
				continue;
			ret = fault(w, page, true);
			if (ret)
				return ret;
			state_release_exclusive(word, STATE_SHARED_FIRST);
			break;
		}
		if (state_try_shared(word, v)) {
			count_up(&w->counts.hits, 1);
			break;
		}
		buffer_wait(&spins);
	}
	if (!(state_load(word) & STATE_RAW) == !raw)
		return 0;
	state_release_shared(word);
	return fail(w, page, -EUCLEAN);
}

int buffer_fix_shared(struct exdb_worker *w, uint64_t page, const void **out)
{
	int ret;

	if (w->view)
		return freeze_fix(w, page, out);
	ret = fix_shared(w, page, false);
	if (!ret)
		*out = exmap_page(w->db->ex, page);
	return ret;
}

int buffer_fix_raw(struct exdb_worker *w, uint64_t page)
{
	return fix_shared(w, page, true);
}

int buffer_fix_exclusive(struct exdb_worker *w, uint64_t page, void **out)
{
	unsigned int spins = 0;
	uint64_t *word;
	int ret = find_word(w, page, &word);

	if (ret)
		return ret;
	for (;;) {
		uint64_t v = state_load(word);
		unsigned int state = state_of(v);

		if (state == STATE_EVICTED) {
			if (!state_try_exclusive(word, v))
				continue;
			ret = fault(w, page, true);
			if (ret)
				return ret;
			break;
		}
		if ((state == STATE_UNLOCKED || state == STATE_MARKED) &&
		    state_try_exclusive(word, v)) {
			count_up(&w->counts.hits, 1);
			break;
		}
		buffer_wait(&spins);
	}
	if (state_load(word) & STATE_RAW)
		ret = fail(w, page, -EUCLEAN);
	else if (state_is_pending(state_load(word), w->db->epoch))
		ret = checkpoint_save(w, page);
	if (ret) {
		state_release_exclusive(word, STATE_UNLOCKED);
		return ret;
	}
	*out = exmap_page(w->db->ex, page);
	return 0;
}

int buffer_fix_unread(struct exdb_worker *w, uint64_t page, void **out)
{
	uint64_t *word, v;
	int ret = find_word(w, page, &word);

	if (ret)
		return ret;
	v = state_load(word);
	if (state_of(v) != STATE_EVICTED || !state_try_exclusive(word, v))
		return buffer_fix_exclusive(w, page, out);
	ret = fault(w, page, false);
	*out = exmap_page(w->db->ex, page);
	return ret ? ret : 1;
}

void buffer_unfix_shared(struct exdb_worker *w, uint64_t page)
{
	if (w->view)
		freeze_unfix(w, page);
	else
		state_release_shared(page_state(w->db, page));
}

void buffer_unfix_exclusive(struct exdb_worker *w, uint64_t page, bool dirty)
{
	uint64_t *word = page_state(w->db, page);

	if (dirty)
		state_set_dirty(word, w->db->epoch);
	state_release_exclusive(word, STATE_UNLOCKED);
}

/* A frame for a page that nobody knows yet; it comes latched exclusively. */
static int give_frame(struct exdb_worker *w, uint64_t page, void **out)
{
	struct exdb *db = w->db;
	uint64_t *word = page_state(db, page);
	int ret = buffer_reserve(w, 1);

	if (ret)
		return ret;
	state_try_exclusive(word, state_load(word));
	ret = buffer_populate(w, &page, 1);
	if (ret) {
		buffer_abandon(w, page);
		return ret;
	}
	state_set_raw(word, false);
	buffer_note_resident(db, page);
	*out = exmap_page(db->ex, page);
	return 0;
}

int buffer_renew(struct exdb_worker *w, uint64_t page, void **out)
{
	return give_frame(w, page, out);
}

int buffer_pin(struct exdb_worker *w, uint64_t page, void **out)
{
	return give_frame(w, page, out);
}

static int allocate_next(struct exdb_worker *w, uint64_t *page, void **out)
{
	struct exdb *db = w->db;
	uint64_t number = db->next_page;
	int ret;

	if (number >= db->data_pages)
		return fail(w, number, -ENOSPC);
	ret = map_extend(w, number);
	if (!ret)
		ret = give_frame(w, number, out);
	if (ret)
		return ret;
	__atomic_store_n(&db->next_page, number + 1, __ATOMIC_RELEASE);
	*page = number;
	return 0;
}

int buffer_allocate(struct exdb_worker *w, uint64_t *page, void **out)
{
	int ret = runs_spare(w);

	if (!ret)
		ret = free_list_take(w, page, out);
	if (ret)
		return ret < 0 ? ret : 0;
	return allocate_next(w, page, out);
}

static int compare_pages(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void buffer_sort_pages(uint64_t *pages, size_t n)
{
	qsort(pages, n, sizeof(*pages), compare_pages);
}

/* Latch the absent ones among the pages exclusively. */
static unsigned int claim_absent(struct exdb_worker *w, const uint64_t *pages, unsigned int n,
				 uint64_t *claimed)
{
	unsigned int i, nr = 0;

	for (i = 0; i < n && nr < PREFETCH_MAX; i++) {
		uint64_t *word, v;

		if (find_word(w, pages[i], &word))
			continue;
		v = state_load(word);
		if (state_of(v) == STATE_EVICTED && state_try_exclusive(word, v))
			claimed[nr++] = pages[i];
	}
	return nr;
}

/* What could not be read stays absent. */
static void read_pages(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	uint64_t blocks[PREFETCH_MAX];
	unsigned int i;

	for (i = 0; i < n; i++)
		blocks[i] = map_get(w->db, pages[i]).block;
	populate(w, pages, blocks, n);
}

int buffer_prefetch(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	struct exdb *db = w->db;
	uint64_t claimed[PREFETCH_MAX];
	unsigned int i, nr;
	int ret;

	if (w->view && n)
		freeze_prefetch(w, pages, n);
	if (w->view)
		return 0;
	nr = claim_absent(w, pages, n, claimed);
	if (!nr)
		return 0;
	ret = buffer_reserve(w, nr);
	if (ret) {
		for (i = 0; i < nr; i++)
			state_release_exclusive(page_state(db, claimed[i]), STATE_EVICTED);
		return ret == -ENOBUFS ? 0 : ret;
	}
	buffer_sort_pages(claimed, nr);
	pthread_rwlock_rdlock(&db->loading);
	read_pages(w, claimed, nr);
	for (i = 0; i < nr; i++) {
		const struct map_slot slot = map_get(db, claimed[i]);
		const void *mem = exmap_page(db->ex, claimed[i]);

		if (!exmap_is_mapped(db->ex, claimed[i]) || map_verify(slot, mem, claimed[i])) {
			buffer_abandon(w, claimed[i]);
			continue;
		}
		state_set_raw(page_state(db, claimed[i]), slot.raw);
		buffer_note_resident(db, claimed[i]);
		count_up(&w->counts.prefetched, 1);
		state_release_exclusive(page_state(db, claimed[i]), STATE_UNLOCKED);
	}
	pthread_rwlock_unlock(&db->loading);
	return 0;
}
