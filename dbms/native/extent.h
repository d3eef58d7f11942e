/* SPDX-License-Identifier: MIT */
/*
 * Extents: values that do not fit a row.
 *
 * An extent is a run of pages whose numbers follow one another, so that its bytes are
 * contiguous in the region.  Its pages are *raw*: they have no header, and their checksums
 * are in the page map alone.  A row has references to its extents at its end, and nothing
 * else leads to them: who has latched the row's leaf keeps them.
 *
 * Runs that nothing uses are in a tree, in the order of their places and in that of their
 * lengths (runs.c).  They have no frames and no blocks.
 */
#ifndef EXDB_EXTENT_H
#define EXDB_EXTENT_H

#include <string.h>

#include "btree.h"

#define RUNS_TREE	0u	/* its number in the directory; tables begin with 1 */

/* Pages of a value. */
static inline uint64_t extent_pages(uint64_t length)
{
	return (length + PAGE_SIZE - 1) / PAGE_SIZE;
}

/* The @i-th reference of a value. */
static inline struct extent_ref extent_ref_at(const uint8_t *value, unsigned int value_length,
					      unsigned int nr_large, unsigned int i)
{
	struct extent_ref ref;

	memcpy(&ref, value + value_length - (nr_large - i) * sizeof(ref), sizeof(ref));
	return ref;
}

/* Bytes of all large values together. */
static inline uint64_t extent_total(const uint8_t *value, unsigned int value_length,
				    unsigned int nr_large)
{
	uint64_t total = 0;
	unsigned int i;

	for (i = 0; i < nr_large; i++)
		total += extent_ref_at(value, value_length, nr_large, i).length;
	return total;
}

/* Copy a value out.  -EBADMSG, -EUCLEAN; -EAGAIN for a worker that does not read. */
int extent_read(struct exdb_worker *w, const struct extent_ref *ref, uint8_t *out);

/* What follows wants exdb.commit. */

/* Give the large values at @large pages, and the value at @value, which has their lengths, their places. */
int extent_place(struct exdb_worker *w, uint8_t *value, unsigned int value_length,
		 unsigned int nr_large, const uint8_t *large);

/* Give up the extents of a value, but for those without a place. */
int extent_release(struct exdb_worker *w, const uint8_t *value, unsigned int value_length,
		   unsigned int nr_large);

/* Let a row that is latched go: its extents are given up by extent_drop_all(). */
int extent_note_dropped(struct exdb *db, const struct btree_row *row);
int extent_drop_all(struct exdb_worker *w);

/* runs.c: pages that follow one another, of a run that is free or behind all others; -ENOSPC. */
int runs_take(struct exdb_worker *w, uint64_t n, uint64_t *first);
int runs_give(struct exdb_worker *w, uint64_t first, uint64_t n);

/* runs.c: call @fn for each free run. */
typedef int (*run_fn)(void *arg, uint64_t first, uint64_t n);
int runs_each(struct exdb_worker *w, run_fn fn, void *arg);

/* runs.c: count the pages of free runs, when the directory has been read. */
int runs_load(struct exdb_worker *w);

#endif /* EXDB_EXTENT_H */
