// SPDX-License-Identifier: MIT
/* Tables: trees of rows, filled and read in batches of columns. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "key.h"
#include "row.h"

/* Where an encoded row is: the entries' bytes move while the batch grows. */
struct batch_row {
	size_t key;
	size_t value;
};

/**
 * struct batch - encoded rows, to be sorted and inserted
 * @bytes: keys and values
 * @size: used
 * @room: allocated
 * @rows: of the caller
 * @entries: the same, with pointers, as soon as all bytes have found their place
 */
struct batch {
	uint8_t *bytes;
	size_t size;
	size_t room;
	struct batch_row *rows;
	struct btree_entry *entries;
};

static void batch_free(struct batch *batch)
{
	free(batch->bytes);
	free(batch->rows);
	free(batch->entries);
}

static int batch_init(struct batch *batch, uint64_t rows)
{
	*batch = (struct batch){
		.rows = calloc(rows, sizeof(*batch->rows)),
		.entries = calloc(rows, sizeof(*batch->entries)),
	};
	if (batch->rows && batch->entries)
		return 0;
	batch_free(batch);
	return -ENOMEM;
}

static int make_space(struct batch *batch, size_t n)
{
	uint8_t *bytes;

	if (batch->size + n <= batch->room)
		return 0;
	batch->room = 2 * batch->room + n + 65536;
	bytes = realloc(batch->bytes, batch->room);
	if (!bytes)
		return -ENOMEM;
	batch->bytes = bytes;
	return 0;
}

static int encode_one(struct batch *batch, const struct exdb_layout *layout,
		      const struct exdb_vector *columns, uint64_t i)
{
	struct btree_entry *entry = &batch->entries[i];
	struct exdb_key key;
	unsigned int value_length;
	int ret = make_space(batch, EXDB_KEY_MAX + EXDB_ROW_MAX);

	if (ret)
		return ret;
	ret = row_encode(layout, columns, i, &key, batch->bytes + batch->size + EXDB_KEY_MAX,
			 &value_length);
	if (ret)
		return ret;
	batch->rows[i].key = batch->size;
	memcpy(batch->bytes + batch->size, key.bytes, key.length);
	batch->size += key.length;
	batch->rows[i].value = batch->size;
	memmove(batch->bytes + batch->size, batch->bytes + batch->rows[i].key + EXDB_KEY_MAX,
		value_length);
	batch->size += value_length;
	*entry = (struct btree_entry){
		.key_length = key.length,
		.value_length = value_length,
		.row = i,
	};
	return 0;
}

static int encode_key(struct batch *batch, const struct exdb_layout *layout,
		      const struct exdb_vector *columns, uint64_t i)
{
	struct exdb_key key;
	int ret = make_space(batch, EXDB_KEY_MAX);

	if (!ret)
		ret = row_encode_key(layout, columns, i, &key);
	if (ret)
		return ret;
	batch->rows[i].key = batch->size;
	memcpy(batch->bytes + batch->size, key.bytes, key.length);
	batch->size += key.length;
	batch->entries[i] = (struct btree_entry){ .key_length = key.length, .row = i };
	return 0;
}

static int compare_keys(const struct btree_entry *x, const struct btree_entry *y)
{
	unsigned int common = x->key_length < y->key_length ? x->key_length : y->key_length;
	int order = memcmp(x->key, y->key, common);

	return order ? order : (int)x->key_length - (int)y->key_length;
}

static int compare_entries(const void *a, const void *b)
{
	const struct btree_entry *x = a, *y = b;
	int order = compare_keys(x, y);

	/* the later of two equal keys comes last, and wins a replace */
	return order ? order : (x->row > y->row) - (x->row < y->row);
}

static void sort_entries(struct batch *batch, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		batch->entries[i].key = batch->bytes + batch->rows[i].key;
		batch->entries[i].value = batch->bytes + batch->rows[i].value;
	}
	for (i = 1; i < n; i++) {
		if (compare_entries(&batch->entries[i - 1], &batch->entries[i]) > 0) {
			qsort(batch->entries, n, sizeof(*batch->entries), compare_entries);
			return;
		}
	}
}

int exdb_table_create(struct exdb_worker *w, uint32_t *tree)
{
	const struct btree_entry none = { 0 };
	struct op_list ops = { 0 };
	struct commit_result result;
	int ret;

	*tree = __atomic_fetch_add(&w->db->next_tree, 1, __ATOMIC_RELAXED);
	if (*tree >= EXDB_TREES_MAX)
		return -ENOSPC;
	ret = op_list_add(&ops, OP_CREATE, *tree, &none);
	if (!ret)
		ret = commit(w, &ops, &result);
	op_list_free(&ops);
	return ret;
}

/* One transaction for all entries. */
static int commit_entries(struct exdb_worker *w, enum op_kind kind, uint32_t tree,
			  const struct btree_entry *entries, uint64_t n,
			  struct commit_result *result)
{
	struct op_list ops = { 0 };
	uint64_t i;
	int ret = 0;

	*result = (struct commit_result){ 0 };
	for (i = 0; i < n && !ret; i++) {
		result->op = i;
		if (kind == OP_INSERT && i && !compare_keys(&entries[i - 1], &entries[i]))
			ret = -EEXIST;
		else
			ret = op_list_add(&ops, kind, tree, &entries[i]);
	}
	if (!ret)
		ret = commit(w, &ops, result);
	op_list_free(&ops);
	return ret;
}

/* Atomic.  *row is the one that an error is about. */
int exdb_table_insert(struct exdb_worker *w, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, bool replace,
		      uint64_t *row)
{
	struct commit_result result;
	struct batch batch;
	int ret;

	*row = 0;
	if (!rows)
		return 0;
	if (rows > UINT32_MAX)
		return -E2BIG;
	ret = batch_init(&batch, rows);
	if (ret)
		return ret;
	for (*row = 0; *row < rows; (*row)++) {
		ret = encode_one(&batch, layout, columns, *row);
		if (ret)
			goto out;
	}
	sort_entries(&batch, rows);
	ret = commit_entries(w, replace ? OP_PUT : OP_INSERT, tree, batch.entries, rows, &result);
	*row = result.op < rows ? batch.entries[result.op].row : 0;
out:
	batch_free(&batch);
	return ret;
}

/* Atomic.  *deleted counts the keys that were there. */
int exdb_table_delete(struct exdb_worker *w, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, uint64_t *deleted)
{
	struct commit_result result = { 0 };
	struct batch batch;
	uint64_t i;
	int ret;

	*deleted = 0;
	if (!rows)
		return 0;
	if (rows > UINT32_MAX)
		return -E2BIG;
	ret = batch_init(&batch, rows);
	if (ret)
		return ret;
	for (i = 0; i < rows && !ret; i++)
		ret = encode_key(&batch, layout, columns, i);
	if (!ret) {
		sort_entries(&batch, rows);
		ret = commit_entries(w, OP_DELETE, tree, batch.entries, rows, &result);
	}
	*deleted = result.removed;
	batch_free(&batch);
	return ret;
}

/* Rows on their way out of a tree. */
struct sink {
	const struct exdb_layout *layout;
	struct exdb_vector *columns;
	uint64_t rows;
	uint64_t room;
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

int exdb_table_get(struct exdb_worker *w, const struct exdb_layout *layout, uint32_t tree,
		   const struct exdb_key *key, struct exdb_vector *columns)
{
	struct sink sink = { .layout = layout, .columns = columns, .room = 1 };
	int ret = btree_lookup(w, tree_root(w->db, tree), key, take_row, &sink);

	return ret == 1 ? -EMSGSIZE : ret;
}

/**
 * struct exdb_scan - a scan of a table
 * @layout: of the table
 * @tree: its rows
 * @cursor: where it is
 */
struct exdb_scan {
	const struct exdb_layout *layout;
	uint32_t tree;
	struct btree_cursor cursor;
};

struct exdb_scan *exdb_scan_new(const struct exdb_layout *layout, uint32_t tree,
				const struct exdb_key *low, const struct exdb_key *high,
				uint32_t prefetch, bool reverse)
{
	struct exdb_scan *scan = calloc(1, sizeof(*scan));

	if (!scan)
		return NULL;
	scan->layout = layout;
	scan->tree = tree;
	scan->cursor.prefetch = prefetch;
	scan->cursor.reverse = reverse;
	if (low)
		scan->cursor.low = *low;
	if (high) {
		scan->cursor.high = *high;
		scan->cursor.bounded = true;
	}
	return scan;
}

void exdb_scan_free(struct exdb_scan *scan)
{
	free(scan);
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
	ret = btree_scan(w, &scan->cursor, take_row, &sink);
	if (ret)
		return ret;
	if (!sink.rows && !scan->cursor.done)
		return -EMSGSIZE;
	return sink.rows;
}
