// SPDX-License-Identifier: MIT
/*
 * Reading tables: rows of a tree into vectors.  A transaction sees what it has
 * written itself: its own keys are merged into what comes out of the tree.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

int sink_decode(struct sink *sink, const struct btree_row *row)
{
	int ret;

	if (sink->rows == sink->room)
		return 1;
	ret = row_decode(sink->w, sink->layout, row, sink->columns, sink->rows);
	sink->rows += !ret;
	return ret;
}

static int take_row(void *arg, const struct btree_row *row)
{
	struct sink *sink = arg;

	return sink->take(sink, row);
}

static long take_leaf(void *arg, const struct node *leaf, unsigned int from, unsigned int n)
{
	struct sink *sink = arg;
	const uint64_t room = sink->room - sink->rows;
	long taken;

	if (!room)
		return 0;
	taken = row_decode_run(sink->w, sink->layout, leaf, from, n < room ? n : (unsigned int)room,
			       sink->columns, sink->rows);
	sink->rows += taken > 0 ? taken : 0;
	return taken;
}

static int take_own(struct sink *sink, const struct own *own)
{
	const struct btree_row row = {
		.key = own->key,
		.value = own->now.bytes,
		.key_length = own->key_length,
		.value_length = own->now.length,
		.nr_large = own->now.nr_large,
		.large = own->now.bytes + own->now.length,
	};

	return own->now.state == OWN_PUT ? sink->take(sink, &row) : 0;
}

int table_find(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct exdb_key *key, const struct btree_hint *hint, struct sink *sink)
{
	const uint64_t root = tree_root(w, tree);
	const struct own *own = NULL;
	int ret = 0;

	if (txn) {
		own = txn_own(txn, tree, key->bytes, key->length);
		if (!own)
			ret = txn_read_key(txn, tree, key->bytes, key->length);
	}
	if (ret)
		return ret;
	sink->w = w;
	if (own)
		return own->now.state == OWN_PUT ? take_own(sink, own) : -ENOENT;
	return root ? btree_lookup(w, root, key, hint, take_row, sink) : -ENOENT;
}

static int copy_row(struct sink *sink, const struct btree_row *row)
{
	struct row_copy *copy = sink->arg;

	if (!copy)
		return 0;
	memcpy(copy->bytes, row->key, row->key_length);
	memcpy(copy->bytes + row->key_length, row->value, row->value_length);
	copy->row = *row;
	copy->row.key = copy->bytes;
	copy->row.value = copy->bytes + row->key_length;
	return 0;
}

int table_take(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct btree_entry *entry, struct sink *sink)
{
	struct exdb_key key = { .length = entry->key_length };
	int ret;

	memcpy(key.bytes, entry->key, entry->key_length);
	ret = table_find(w, txn, tree, &key, NULL, sink);
	return ret == -ENOENT ? 0 : ret ? ret : 1;
}

int table_sees(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct btree_entry *entry, struct row_copy *copy)
{
	struct sink sink = { .take = copy_row, .arg = copy };

	return table_take(w, txn, tree, entry, &sink);
}

int table_error(const struct exdb_worker *w, const struct exdb_layout *layout, int ret)
{
	const bool newest = layout->schema && layout->schema == exdb_schema(w->db);

	return ret == -ESTALE && newest ? -EUCLEAN : ret;
}

/* What was read of a tree that was dropped meanwhile may be anything. */
static long table_result(const struct exdb_worker *w, const struct exdb_layout *layout,
			 uint32_t tree, long ret)
{
	return tree_has_changed(w, tree, layout->schema) ? -ESTALE : ret;
}

static int use_layout(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout)
{
	if (txn)
		return txn_use(txn, layout);
	return layout->schema && layout->schema != exdb_schema(w->db) ? -ESTALE : 0;
}

/*
 * Keys of a batch whose leaves are read together: one call for all frames, where each lookup
 * would make its own.
 */
#define WINDOW	32u

/* Keys whose leaves are fetched at a time, by the processor; it can wait for a few lines of each. */
#define GROUP	8u

/* Errors are left to the lookups. */
static void read_leaves(struct exdb_worker *w, const struct exdb_layout *layout, uint64_t root,
			const struct exdb_vector *keys, uint64_t first, unsigned int n)
{
	uint64_t pages[WINDOW];
	unsigned int i, nr = 0;

	for (i = 0; i < n; i++) {
		struct exdb_key key;

		if (!row_encode_key(layout, keys, first + i, &key) &&
		    !btree_find_leaf(w, root, &key, &pages[nr]))
			nr++;
	}
	buffer_prefetch(w, pages, nr);
}

/* Read what the next rows need, if those of the last window were not all there; how many these are. */
static unsigned int look_ahead(struct exdb_worker *w, const struct exdb_layout *layout,
			       uint32_t tree, const struct exdb_vector *keys, uint64_t first,
			       uint64_t rows, uint64_t *read)
{
	const unsigned int most = w->db->prefetch < WINDOW ? w->db->prefetch : WINDOW;
	const uint64_t root = tree_root(w, tree);

	if (first)
		w->looks_ahead = w->counts.read != *read;
	*read = w->counts.read;
	if (w->looks_ahead && root)
		read_leaves(w, layout, root, keys, first, rows < most ? rows : most);
	return most;
}

/**
 * struct lookups - keys of a batch
 * @txn: or NULL
 * @tree: of the rows
 * @keys: columns
 * @found: becomes whether there is a row, for each key
 */
struct lookups {
	struct exdb_txn *txn;
	uint32_t tree;
	const struct exdb_vector *keys;
	uint8_t *found;
};

/* The ways of some keys first, and then their leaves, which the processor has had time to fetch. */
static int find_group(struct exdb_worker *w, const struct lookups *lookups, uint64_t first,
		      unsigned int n, struct sink *sink)
{
	const uint64_t root = tree_root(w, lookups->tree);
	struct btree_hint hints[GROUP];
	struct exdb_key keys[GROUP];
	unsigned int i, nr;
	int bad = 0, ret = 0;

	for (nr = 0; nr < n; nr++) {
		bad = row_encode_key(sink->layout, lookups->keys, first + nr, &keys[nr]);
		if (bad)
			break;
		hints[nr].page = 0;
		if (root)
			btree_approach(w, root, &keys[nr], &hints[nr]);
	}
	for (i = 0; i < nr; i++)
		btree_peek(w, &keys[i], &hints[i]);
	for (i = 0; i < nr && !ret; i++) {
		ret = table_find(w, lookups->txn, lookups->tree, &keys[i], &hints[i], sink);
		lookups->found[first + i] = !ret;
		if (ret == -ENOENT)
			ret = 0;
	}
	return ret ? ret : bad;
}

static unsigned int group_of(uint64_t rows, uint64_t window)
{
	const uint64_t most = window < GROUP ? window : GROUP;

	return (unsigned int)(rows < most ? rows : most);
}

long exdb_table_get_many(struct exdb_worker *w, struct exdb_txn *txn,
			 const struct exdb_layout *layout, uint32_t tree,
			 const struct exdb_vector *keys, uint64_t rows,
			 struct exdb_vector *columns, uint8_t *found)
{
	const struct lookups lookups = { .txn = txn, .tree = tree, .keys = keys, .found = found };
	struct sink sink = { .take = sink_decode, .layout = layout, .columns = columns,
			     .room = rows };
	int ret = use_layout(w, txn, layout);
	uint64_t i, ahead = 0, read = 0;
	unsigned int n;

	for (i = 0; i < rows && !ret; i += n) {
		if (i == ahead)
			ahead += look_ahead(w, layout, tree, keys, i, rows - i, &read);
		n = group_of(rows - i, ahead - i);
		ret = find_group(w, &lookups, i, n, &sink);
	}
	if (ret)
		ret = ret == 1 ? -EMSGSIZE : table_error(w, layout, ret);
	return table_result(w, layout, tree, ret ? ret : (long)sink.rows);
}

int exdb_table_get(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		   uint32_t tree, const struct exdb_key *key, struct exdb_vector *columns)
{
	struct sink sink = { .take = sink_decode, .layout = layout, .columns = columns, .room = 1 };
	int ret = use_layout(w, txn, layout);

	if (!ret)
		ret = table_find(w, txn, tree, key, NULL, &sink);
	ret = ret == 1 ? -EMSGSIZE : table_error(w, layout, ret);
	return (int)table_result(w, layout, tree, ret);
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
	index_scan_free(scan->found);
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
	return sink->take(sink, row);
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
		ret = txn_use(scan->txn, scan->layout);
	if (!scan->begun && !ret)
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

int scan_tree(struct exdb_worker *w, struct exdb_scan *scan, struct sink *sink)
{
	sink->w = w;
	scan->cursor.root = tree_root(w, scan->tree);
	if (scan->cursor.prefetch > w->db->prefetch)
		scan->cursor.prefetch = w->db->prefetch;
	scan->cursor.leaf_fn = scan->txn || sink->take != sink_decode ? NULL : take_leaf;
	if (scan->txn)
		return scan_merged(w, scan, sink);
	return btree_scan(w, &scan->cursor, take_row, sink);
}

/* Up to @rows rows; 0 at the end; -EMSGSIZE if not even one finds room. */
long exdb_scan_next(struct exdb_worker *w, struct exdb_scan *scan, struct exdb_vector *columns,
		    uint64_t rows)
{
	struct sink sink = {
		.take = sink_decode,
		.layout = scan->layout,
		.columns = columns,
		.room = rows,
	};
	long ret;

	if (scan->found) {
		ret = index_scan_next(w, scan, &sink);
		ret = table_result(w, scan->layout, index_scan_rows(scan->found), ret);
	} else {
		ret = scan_tree(w, scan, &sink);
		if (!ret && !sink.rows && !scan->cursor.done)
			ret = 1;
		if (ret >= 0)
			ret = ret && !sink.rows ? -EMSGSIZE : (long)sink.rows;
	}
	ret = ret < 0 ? table_error(w, scan->layout, (int)ret) : ret;
	return table_result(w, scan->layout, scan->tree, ret);
}

long exdb_scan_fill(struct exdb_worker *w, struct exdb_scan *scan, struct exdb_vector **batches,
		    uint64_t *rows, uint32_t n, uint64_t batch_rows)
{
	uint32_t i;

	for (i = 0; i < n; i++) {
		const long taken = exdb_scan_next(w, scan, batches[i], batch_rows);

		if (taken < 0 && !i)
			return taken;
		rows[i] = taken < 0 ? UINT64_MAX : (uint64_t)taken;
		if (taken <= 0)
			break;
	}
	return i;
}
