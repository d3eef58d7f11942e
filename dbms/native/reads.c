// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "reads.h"
#include "txn.h"

/* A key that was read, by its hash: two with the same hash conflict needlessly, no more. */
struct point {
	uint64_t hash;
	uint64_t seq;
};

struct range {
	uint32_t tree;
	bool bounded;
	uint64_t seq;
	struct exdb_key low;
	struct exdb_key high;
};

void reads_init(struct reads *r)
{
	*r = (struct reads){ .first_seq = UINT64_MAX };
}

void reads_free(struct reads *r)
{
	free(r->points);
	free(r->ranges);
}

/* FNV-1a. */
static uint64_t hash_of(uint32_t tree, const uint8_t *key, unsigned int length)
{
	uint64_t hash = 14695981039346656037ull ^ tree * 0x9e3779b97f4a7c15ull;
	unsigned int i;

	for (i = 0; i < length; i++)
		hash = (hash ^ key[i]) * 1099511628211ull;
	return hash ? hash : 1;
}

static struct point *slot_of(const struct reads *r, uint64_t hash)
{
	size_t i = (hash ^ hash >> 29) & (r->points_size - 1);

	while (r->points[i].hash && r->points[i].hash != hash)
		i = (i + 1) & (r->points_size - 1);
	return &r->points[i];
}

static int grow_points(struct reads *r)
{
	struct point *old = r->points;
	size_t i, n = r->points_size;

	if (2 * (r->nr_points + 1) <= n)
		return 0;
	r->points_size = n ? 2 * n : 64;
	r->points = calloc(r->points_size, sizeof(*r->points));
	if (!r->points) {
		r->points = old;
		r->points_size = n;
		return -ENOMEM;
	}
	for (i = 0; i < n; i++)
		if (old[i].hash)
			*slot_of(r, old[i].hash) = old[i];
	free(old);
	return 0;
}

static uint64_t note_seq(struct reads *r, const struct exdb *db)
{
	uint64_t seq = __atomic_load_n(&db->seq, __ATOMIC_ACQUIRE);

	if (seq < r->first_seq)
		r->first_seq = seq;
	return seq;
}

int reads_add_key(struct reads *r, const struct exdb *db, uint32_t tree, const uint8_t *key,
		  unsigned int length)
{
	uint64_t seq = note_seq(r, db), hash = hash_of(tree, key, length);
	struct point *point;
	int ret = grow_points(r);

	if (ret)
		return ret;
	point = slot_of(r, hash);
	/* the first read counts: it may be stale when a later one is not */
	if (!point->hash) {
		*point = (struct point){ .hash = hash, .seq = seq };
		r->nr_points++;
	}
	return 0;
}

static int grow_ranges(struct reads *r)
{
	size_t room = r->ranges_room ? 2 * r->ranges_room : 64;
	struct range *grown;

	if (r->nr_ranges < r->ranges_room)
		return 0;
	grown = realloc(r->ranges, room * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	r->ranges = grown;
	r->ranges_room = room;
	return 0;
}

int reads_add_range(struct reads *r, const struct exdb *db, uint32_t tree,
		    const struct exdb_key *low, const struct exdb_key *high)
{
	struct range *range;
	int ret = grow_ranges(r);

	if (ret)
		return ret;
	range = &r->ranges[r->nr_ranges++];
	range->tree = tree;
	range->bounded = high;
	range->seq = note_seq(r, db);
	range->low = *low;
	if (high)
		range->high = *high;
	return 0;
}

static bool range_has(const struct range *range, const struct op_header *op, const uint8_t *key)
{
	if (range->tree != op->tree ||
	    key_compare(key, op->key_length, range->low.bytes, range->low.length) < 0)
		return false;
	return !range->bounded ||
	       key_compare(key, op->key_length, range->high.bytes, range->high.length) < 0;
}

static bool was_read(const void *arg, uint64_t seq, const struct op_header *op, const uint8_t *key)
{
	const struct reads *r = arg;
	size_t i;

	if (r->points_size) {
		const struct point *point = slot_of(r, hash_of(op->tree, key, op->key_length));

		if (point->hash && point->seq < seq)
			return true;
	}
	for (i = 0; i < r->nr_ranges; i++)
		if (r->ranges[i].seq < seq && range_has(&r->ranges[i], op, key))
			return true;
	return false;
}

bool reads_hold(const struct reads *r, const struct exdb *db)
{
	return r->first_seq == UINT64_MAX || !history_any(db, r->first_seq, was_read, r);
}
