/* SPDX-License-Identifier: MIT */
/*
 * What a transaction has read, keys and ranges, and how many others had committed before each:
 * it may commit if none that has since wrote any of it.
 */
#ifndef EXDB_READS_H
#define EXDB_READS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exdb.h"

struct exdb;

/**
 * struct reads - what was read
 * @points: an open hash table of keys
 * @nr_points: in it
 * @points_size: of it, a power of two or 0
 * @ranges: ranges of keys
 * @nr_ranges: length
 * @ranges_room: allocated
 * @first_seq: transactions that had committed before the first of all
 */
struct reads {
	struct point *points;
	size_t nr_points;
	size_t points_size;
	struct range *ranges;
	size_t nr_ranges;
	size_t ranges_room;
	uint64_t first_seq;
};

void reads_init(struct reads *reads);
void reads_free(struct reads *reads);

/* Call before a key, or the keys from @low to @high (NULL: to the end), are read from the tree. */
int reads_add_key(struct reads *reads, const struct exdb *db, uint32_t tree, const uint8_t *key,
		  unsigned int length);
int reads_add_range(struct reads *reads, const struct exdb *db, uint32_t tree,
		    const struct exdb_key *low, const struct exdb_key *high);

/* With the commit lock held: whether nothing that was read has been written since. */
bool reads_hold(const struct reads *reads, const struct exdb *db);

#endif /* EXDB_READS_H */
