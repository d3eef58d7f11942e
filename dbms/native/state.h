/* SPDX-License-Identifier: MIT */
/*
 * The state word of a page (Leis et al., "Virtual-Memory Assisted Buffer
 * Management", SIGMOD 2023, section 3): everything that threads must agree on
 * about one page, in 64 bits that change by compare-and-swap alone.
 *
 *	bits 63..56	state: evicted, unlocked, shared by n, exclusive, marked
 *	bit 55		dirty: differs from the backing
 *	bit 54		epoch: parity of the checkpoint epoch in which it became dirty
 *	bit 53		writing: one of its readers writes it to the backing
 *	bit 52		raw: a page of an extent, which has no header
 *	bits 51..0	version: grows whenever an exclusive latch is given back
 *
 *	evicted ---- fault ---> exclusive ---> unlocked <---> shared(n)
 *	   ^                     ^    ^            |
 *	   +------ free --------+     +--- marked <+ (clock)
 *
 * Evicted is 0, so that fresh zero pages of the array are right as they are.
 * The latch holder of an exclusive page may store its word; all others CAS.
 */
#ifndef EXDB_STATE_H
#define EXDB_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define STATE_SHIFT	56
#define STATE_DIRTY	(1ULL << 55)
#define STATE_EPOCH	(1ULL << 54)
#define STATE_WRITING	(1ULL << 53)
#define STATE_RAW	(1ULL << 52)
#define STATE_VERSION	(STATE_RAW - 1)

enum state {
	STATE_EVICTED = 0,
	STATE_UNLOCKED = 1,
	STATE_SHARED_FIRST = 2,
	STATE_SHARED_LAST = 253,
	STATE_EXCLUSIVE = 254,
	STATE_MARKED = 255,
};

static inline uint64_t state_load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline unsigned int state_of(uint64_t v)
{
	return v >> STATE_SHIFT;
}

static inline bool state_is_shared(uint64_t v)
{
	return state_of(v) >= STATE_SHARED_FIRST && state_of(v) <= STATE_SHARED_LAST;
}

/* Another state, all else the same. */
static inline uint64_t state_with(uint64_t v, unsigned int state)
{
	return (v & ((1ULL << STATE_SHIFT) - 1)) | (uint64_t)state << STATE_SHIFT;
}

static inline uint64_t state_next_version(uint64_t v)
{
	return (v & ~STATE_VERSION) | ((v + 1) & STATE_VERSION);
}

static inline bool state_cas(uint64_t *word, uint64_t old, uint64_t new)
{
	return __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
}

static inline bool state_try_exclusive(uint64_t *word, uint64_t old)
{
	if (!state_cas(word, old, state_with(old, STATE_EXCLUSIVE)))
		return false;
#ifndef __SANITIZE_THREAD__ /* it knows no fences */
	__atomic_thread_fence(__ATOMIC_RELEASE); /* pairs with optimistic_is_valid */
#endif
	return true;
}

/* From unlocked, marked or shared(n) to one reader more; false if it moved or is full. */
static inline bool state_try_shared(uint64_t *word, uint64_t old)
{
	unsigned int state = state_of(old);

	if (state == STATE_UNLOCKED || state == STATE_MARKED)
		return state_cas(word, old, state_with(old, STATE_SHARED_FIRST));
	if (state_is_shared(old) && state < STATE_SHARED_LAST)
		return state_cas(word, old, state_with(old, state + 1));
	return false;
}

static inline void state_release_shared(uint64_t *word)
{
	uint64_t v;

	do {
		v = state_load(word);
	} while (!state_cas(word, v, state_with(v, state_of(v) - 1)));
}

/* The holder of an exclusive latch ends in @state: unlocked, shared or evicted. */
static inline void state_release_exclusive(uint64_t *word, unsigned int state)
{
	uint64_t v = state_next_version(state_load(word));

	__atomic_store_n(word, state_with(v, state), __ATOMIC_RELEASE);
}

/* The holder of an exclusive latch says that the page became dirty in @epoch. */
static inline void state_set_dirty(uint64_t *word, uint64_t epoch)
{
	uint64_t v = state_load(word) & ~STATE_EPOCH;

	v |= STATE_DIRTY | (epoch & 1 ? STATE_EPOCH : 0);
	__atomic_store_n(word, v, __ATOMIC_RELEASE);
}

/* The holder of an exclusive latch says what the page is. */
static inline void state_set_raw(uint64_t *word, bool raw)
{
	uint64_t v = state_load(word) & ~STATE_RAW;

	__atomic_store_n(word, v | (raw ? STATE_RAW : 0), __ATOMIC_RELEASE);
}

/* Dirty since before @epoch began: the checkpoint that began it needs the page as it is. */
static inline bool state_is_pending(uint64_t v, uint64_t epoch)
{
	return (v & STATE_DIRTY) && !!(v & STATE_EPOCH) != (epoch & 1);
}

/* As one reader more, the only one that may write a dirty page to the backing. */
static inline bool state_try_writing(uint64_t *word, uint64_t old)
{
	unsigned int state = state_of(old);

	if ((old & STATE_WRITING) || !(old & STATE_DIRTY))
		return false;
	if (state == STATE_UNLOCKED || state == STATE_MARKED)
		state = STATE_SHARED_FIRST;
	else if (state_is_shared(old) && state < STATE_SHARED_LAST)
		state++;
	else
		return false;
	return state_cas(word, old, state_with(old, state) | STATE_WRITING);
}

/* It has written it, or failed to; it is a reader still. */
static inline void state_end_writing(uint64_t *word, bool written)
{
	__atomic_fetch_and(word, ~(STATE_WRITING | (written ? STATE_DIRTY : 0)),
			   __ATOMIC_ACQ_REL);
}

#endif /* EXDB_STATE_H */
