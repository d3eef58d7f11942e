// SPDX-License-Identifier: MIT
/*
 * Reading tables: rows of a tree into vectors.  A transaction sees what it has
 * written itself: its own keys are merged into what comes out of the tree.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "row.h"
#include "txn.h"

/* Rows on their way out. */
struct sink {
	const struct exdb_layout *layout;
	struct exdb_vector *columns;
	uint64_t rows;
	uint64_t room;
	struct exdb_scan *scan; /* if own keys are to be merged */
};

/**
 * struct exdb_scan - a scan of a table
 * @txn: the transaction that it belongs to, or NULL
 * @layout: of the table
 * @tree: its rows
 * @cursor: where it is
 * @low: the first key that is wanted
 * @high: and the first that is not, if @bounded
 * @bounded: see @high
 * @begun: rows have been asked for
 * @own_done: what own keys come next is before or behind @own_last
 * @own_last: the last own key that was looked at
 */
struct exdb_scan {
	struct exdb_txn *txn;
	const struct exdb_layout *layout;
	uint32_t tree;
	struct btree_cursor cursor;
	struct exdb_key low;
	struct exdb_key high;
	bool bounded;
	bool begun;
	bool own_done;
	struct exdb_key own_last;
};

static int take_row(void *arg, const struct btree_row *row)
{
	struct sink *sink = arg;
	int ret;

	if (sink->rows == sink->room)
		return 1;
	ret = row_decode(sink->layout, row, sink->columns, sink->rows);
	sink->rows += !ret;
	return ret;
}

static int take_own(struct sink *sink, const struct own *own)
{
	const struct btree_row row = {
		.key = own->key,
		.value = own->value,
		.key_length = own->key_length,
		.value_length = own->value_length,
	};

	return own->state == OWN_PUT ? take_row(sink, &row) : 0;
}

int exdb_table_get(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		   uint32_t tree, const struct exdb_key *key, struct exdb_vector *columns)
{
	struct sink sink = { .layout = layout, .columns = columns, .room = 1 };
	const uint64_t root = tree_root(w->db, tree);
	const struct own *own = NULL;
	int ret = 0;

	if (txn) {
		own = txn_own(txn, tree, key->bytes, key->length);
		if (!own)
			ret = txn_read_key(txn, tree, key->bytes, key->length);
	}
	if (ret)
		return ret;
	if (own)
		ret = own->state == OWN_PUT ? take_own(&sink, own) : -ENOENT;
	else
		ret = root ? btree_lookup(w, root, key, take_row, &sink) : -ENOENT;
	return ret == 1 ? -EMSGSIZE : ret;
}

struct exdb_scan *exdb_scan_new(struct exdb_txn *txn, const struct exdb_layout *layout,
				uint32_t tree, const struct exdb_key *low,
				const struct exdb_key *high, uint32_t prefetch, bool reverse)
{
	struct exdb_scan *scan = calloc(1, sizeof(*scan));

	if (!scan)
		return NULL;
	scan->txn = txn;
	scan->layout = layout;
	scan->tree = tree;
	scan->cursor.prefetch = prefetch;
	scan->cursor.reverse = reverse;
	if (low)
		scan->low = *low;
	if (high) {
		scan->high = *high;
		scan->bounded = true;
	}
	scan->cursor.low = scan->low;
	scan->cursor.high = scan->high;
	scan->cursor.bounded = scan->bounded;
	return scan;
}

void exdb_scan_free(struct exdb_scan *scan)
{
	free(scan);
}

static int compare_own(const struct own *own, const uint8_t *key, unsigned int length)
{
	return key_compare(own->key, own->key_length, key, length);
}

/* The next own key in the scan's order, or NULL. */
static const struct own *next_own(const struct exdb_scan *scan)
{
	const struct exdb_key *last = &scan->own_last, *high = &scan->high;
	const struct own *own;

	if (scan->cursor.reverse) {
		if (!scan->own_done)
			last = scan->bounded ? high : NULL;
		own = txn_find_before(scan->txn, scan->tree, last ? last->bytes : NULL,
				      last ? last->length : 0);
		return own && compare_own(own, scan->low.bytes, scan->low.length) >= 0 ? own :
											 NULL;
	}
	if (!scan->own_done)
		last = &scan->low;
	own = txn_find(scan->txn, scan->tree, last->bytes, last->length, scan->own_done);
	if (own && scan->bounded && compare_own(own, high->bytes, high->length) >= 0)
		return NULL;
	return own;
}

static void pass(struct exdb_scan *scan, const struct own *own)
{
	scan->own_done = true;
	scan->own_last.length = own->key_length;
	memcpy(scan->own_last.bytes, own->key, own->key_length);
}

/* A row of the tree, after the own keys that come before it, and unless one takes its place. */
static int take_merged(void *arg, const struct btree_row *row)
{
	struct sink *sink = arg;
	struct exdb_scan *scan = sink->scan;
	const struct own *own;
	int ret, order = 1;

	while ((own = next_own(scan))) {
		order = compare_own(own, row->key, row->key_length);
		if (scan->cursor.reverse)
			order = -order;
		if (order > 0)
			break;
		ret = take_own(sink, own);
		if (ret)
			return ret;
		pass(scan, own);
		if (!order)
			return 0;
	}
	return take_row(sink, row);
}

/* The own keys behind the last row of the tree. */
static int take_rest(struct sink *sink)
{
	const struct own *own;
	int ret = 0;

	while (!ret && (own = next_own(sink->scan))) {
		ret = take_own(sink, own);
		if (!ret)
			pass(sink->scan, own);
	}
	return ret;
}

static int scan_merged(struct exdb_worker *w, struct exdb_scan *scan, struct sink *sink)
{
	int ret = 0;

	sink->scan = scan;
	if (!scan->begun)
		ret = txn_read_range(scan->txn, scan->tree, &scan->low,
				     scan->bounded ? &scan->high : NULL);
	scan->begun = !ret;
	if (ret)
		return ret;
	if (scan->cursor.root)
		ret = btree_scan(w, &scan->cursor, take_merged, sink);
	else
		scan->cursor.done = true;
	if (!ret && scan->cursor.done)
		ret = take_rest(sink);
	return ret;
}

/* Up to @rows rows; 0 at the end; -EMSGSIZE if not even one finds room. */
long exdb_scan_next(struct exdb_worker *w, struct exdb_scan *scan, struct exdb_vector *columns,
		    uint64_t rows)
{
	struct sink sink = { .layout = scan->layout, .columns = columns, .room = rows };
	int ret;

	scan->cursor.root = tree_root(w->db, scan->tree);
	if (scan->cursor.prefetch > w->db->prefetch)
		scan->cursor.prefetch = w->db->prefetch;
	if (scan->txn)
		ret = scan_merged(w, scan, &sink);
	else
		ret = btree_scan(w, &scan->cursor, take_row, &sink);
	if (ret < 0)
		return ret;
	if (!sink.rows && (ret > 0 || !scan->cursor.done))
		return -EMSGSIZE;
	return sink.rows;
}
