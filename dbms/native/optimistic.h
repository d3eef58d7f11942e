/* SPDX-License-Identifier: MIT */
/*
 * Reading a page without a latch: note its version, read, and see that the version is still the
 * same (Leis et al., "Optimistic Lock Coupling", IEEE Data Eng. Bull. 42(1), 2019).  What was read
 * counts only then; until then it may be anything, so that offsets and lengths are clamped to the
 * page before they are used, and nothing is followed or returned.
 *
 * Why a version that is the same proves it (Boehm, "Can Seqlocks Get Along With Programming
 * Language Memory Models?", MSPC 2012):
 *
 *	reader					writer
 *	v = load_acquire(state)		(1)	CAS(state, exclusive)		(a)
 *	relaxed loads of the page	(2)	fence(release)			(b)
 *	fence(acquire)			(3)	stores to the page		(c)
 *	load_relaxed(state) == v?	(4)	store_release(state, version+1)	(d)
 *
 * Who sees a store (c) at (2) has synchronised with the writer from (b) to (3), so that (4) sees
 * (a) or something later: the latch, or another version.  Who saw (d) at (1) sees all of (c).  An
 * eviction is a writer too: a page that is free, or another one's frame, has another version.
 *
 * The loads of (2) are atomic, or volatile where bytes need not be aligned, and whatever an address
 * or a length depends on is loaded once.  Only the bytes of keys, whose order may turn out to be
 * anything, are left to memcmp().  The stores of (c) are those of memmove(), of a disk's DMA or of
 * the kernel that maps a frame, of which C knows nothing.  That much is undefined by the letter; no
 * compiler can make anything of it, since it sees no store where it sees the loads.  The thread
 * sanitizer is kept from the loads of (2), and from nothing else.
 */
#ifndef EXDB_OPTIMISTIC_H
#define EXDB_OPTIMISTIC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "node.h"
#include "state.h"

#ifdef __SANITIZE_THREAD__
/* helpers are not inlined into what is instrumented */
#define OPTIMISTIC	static __attribute__((no_sanitize_thread, noinline, unused))
#else
#define OPTIMISTIC	static inline
#endif

/* A version to read under; false if there is none just now: absent, or somebody changes it. */
static inline bool optimistic_begin(uint64_t *word, uint64_t *version)
{
	const uint64_t v = state_load(word);

	*version = v;
	if (state_of(v) == STATE_EVICTED || state_of(v) == STATE_EXCLUSIVE)
		return false;
	/* the clock has passed: it shall see that the page is used; once is enough */
	if (state_of(v) == STATE_MARKED)
		state_cas(word, v, state_with(v, STATE_UNLOCKED));
	return true;
}

/* Whether all that was read since is what the page had then. */
static inline bool optimistic_is_valid(uint64_t *word, uint64_t version)
{
	uint64_t v;

#ifdef __SANITIZE_THREAD__
	v = __atomic_fetch_add(word, 0, __ATOMIC_ACQ_REL); /* it knows no fences */
#else
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	v = __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
	return !((v ^ version) & STATE_VERSION) && state_of(v) != STATE_EXCLUSIVE;
}

OPTIMISTIC uint8_t optimistic_load8(const uint8_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

OPTIMISTIC uint16_t optimistic_load16(const uint16_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

OPTIMISTIC uint32_t optimistic_load32(const uint32_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

typedef uint64_t unaligned_word __attribute__((may_alias, aligned(1)));

/* Anywhere, so that it cannot be atomic; volatile has it read once, and by one load where there is one. */
OPTIMISTIC uint64_t optimistic_load64(const void *at)
{
	return *(const volatile unaligned_word *)at;
}

/* @n bytes, 1 to 8, that lie in the page; those behind them are 0. */
static inline uint64_t optimistic_bytes(const void *page, unsigned int offset, unsigned int n)
{
	const unsigned int last = PAGE_SIZE - sizeof(uint64_t);
	const unsigned int from = offset < last ? offset : last;
	const uint64_t v = optimistic_load64((const uint8_t *)page + from);

	return v >> 8 * (offset - from) & UINT64_MAX >> (64 - 8 * n);
}

/* Any number of bytes that lie in the page. */
static inline void optimistic_copy(uint8_t *to, const void *page, unsigned int offset,
				   unsigned int n)
{
	while (n) {
		const unsigned int part = n < 8 ? n : 8;
		const uint64_t v = optimistic_bytes(page, offset, part);

		memcpy(to, &v, part);
		to += part;
		offset += part;
		n -= part;
	}
}

/* As key_compare_beginning(), with @n bytes that lie in the page. */
static inline int optimistic_compare_beginning(const uint8_t *key, unsigned int length,
					       const void *page, unsigned int offset,
					       unsigned int n)
{
	uint8_t copy[EXDB_KEY_MAX];
	uint64_t x, y;

	if (!n)
		return 0;
	if (n > sizeof(x) || length < sizeof(x)) {
		optimistic_copy(copy, page, offset, n);
		return key_compare_beginning(key, length, copy, n);
	}
	memcpy(&x, key, sizeof(x));
	x &= UINT64_MAX >> (64 - 8 * n);
	y = optimistic_bytes(page, offset, n);
	if (x == y)
		return 0;
	return __builtin_bswap64(x) < __builtin_bswap64(y) ? -1 : 1;
}

/* First slot of @count whose head is not less than @head; no branch depends on what the page has. */
OPTIMISTIC unsigned int optimistic_find_head(const struct node_slot *slots, unsigned int count,
					     uint32_t head)
{
	unsigned int low = 0, half;

	if (!count)
		return 0;
	for (; count > 1; count -= half) {
		half = count / 2;
		low += half & -(unsigned int)(optimistic_load32(&slots[low + half - 1].head) < head);
	}
	return low + (optimistic_load32(&slots[low].head) < head);
}

#endif /* EXDB_OPTIMISTIC_H */
