// SPDX-License-Identifier: MIT
/* Tables: trees of rows, filled in batches of columns. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "key.h"
#include "table.h"

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
	if (rows > UINT32_MAX)
		return -E2BIG;
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
	struct row_large large;
	struct exdb_key key;
	unsigned int value_length, k;
	int ret = make_space(batch, EXDB_KEY_MAX + EXDB_ROW_MAX);

	if (ret)
		return ret;
	ret = row_encode(layout, columns, i, &key, batch->bytes + batch->size + EXDB_KEY_MAX,
			 &value_length, &large);
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
		.nr_large = large.nr,
		.row = i,
	};
	ret = make_space(batch, large.bytes);
	for (k = 0; k < large.nr && !ret; k++) {
		memcpy(batch->bytes + batch->size, large.texts[k], large.lengths[k]);
		batch->size += large.lengths[k];
	}
	return ret;
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

static int compare_entries(const void *a, const void *b)
{
	const struct btree_entry *x = a, *y = b;
	int order = btree_compare(x, y);

	/* the later of two equal keys comes last, and wins a replace */
	return order ? order : (x->row > y->row) - (x->row < y->row);
}

static void sort_entries(struct batch *batch, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		batch->entries[i].key = batch->bytes + batch->rows[i].key;
		batch->entries[i].value = batch->bytes + batch->rows[i].value;
		batch->entries[i].large = batch->entries[i].value + batch->entries[i].value_length;
	}
	for (i = 1; i < n; i++) {
		if (compare_entries(&batch->entries[i - 1], &batch->entries[i]) > 0) {
			qsort(batch->entries, n, sizeof(*batch->entries), compare_entries);
			return;
		}
	}
}

int exdb_table_create(struct exdb_txn *txn, uint32_t *tree)
{
	return txn_create_tree(txn, tree);
}

/* One transaction for all entries. */
static int commit_entries(struct exdb_worker *w, const struct exdb_layout *layout,
			  enum op_kind kind, uint32_t tree, const struct btree_entry *entries,
			  uint64_t n, struct commit_result *result)
{
	struct op_list ops = { .schema = layout->schema };
	uint64_t i;
	int ret = 0;

	*result = (struct commit_result){ 0 };
	for (i = 0; i < n && !ret; i++) {
		result->op = i;
		if (kind == OP_INSERT && i && !btree_compare(&entries[i - 1], &entries[i]))
			ret = -EEXIST;
		else
			ret = op_list_add(&ops, kind, tree, &entries[i]);
	}
	if (!ret)
		ret = commit(w, &ops, NULL, result);
	op_list_free(&ops);
	return ret;
}

static struct btree_row row_of(const struct btree_entry *entry)
{
	return (struct btree_row){
		.key = entry->key,
		.value = entry->value,
		.key_length = entry->key_length,
		.value_length = entry->value_length,
		.nr_large = entry->nr_large,
		.large = entry->large,
	};
}

static int write_entry(struct exdb_worker *w, struct exdb_txn *txn,
		       const struct exdb_layout *layout, enum op_kind kind, uint32_t tree,
		       const struct btree_entry *entry, size_t *removed)
{
	const struct btree_row new = row_of(entry);
	const bool delete = kind == OP_DELETE;
	struct index_entry old[EXDB_INDEXES_MAX];
	int found = 0, ret;

	if (layout->nr_indexes)
		found = index_find(w, txn, layout, tree, entry, old);
	else if (kind != OP_PUT)
		found = table_sees(w, txn, tree, entry, NULL);
	if (found < 0)
		return found;
	if (found && kind == OP_INSERT)
		return -EEXIST;
	*removed += found;
	ret = index_update(w, txn, layout, found ? old : NULL, delete ? NULL : &new);
	return ret ? ret : txn_write(txn, delete ? OWN_DELETED : OWN_PUT, tree, entry);
}

/* The transaction's own copy of what commit_entries would do. */
static int write_entries(struct exdb_worker *w, struct exdb_txn *txn,
			 const struct exdb_layout *layout, enum op_kind kind, uint32_t tree,
			 const struct btree_entry *entries, uint64_t n,
			 struct commit_result *result)
{
	const uint64_t savepoint = exdb_txn_savepoint(txn);
	int ret = txn_use(txn, layout);

	*result = (struct commit_result){ 0 };
	for (; result->op < n && !ret; result->op += !ret)
		ret = write_entry(w, txn, layout, kind, tree, &entries[result->op],
				  &result->removed);
	if (ret)
		exdb_txn_rollback(txn, savepoint);
	return ret;
}

/* With indexes there is something to read first; each conflict means that another one has committed. */
static int write_and_commit(struct exdb_worker *w, const struct exdb_layout *layout,
			    enum op_kind kind, uint32_t tree, const struct btree_entry *entries,
			    uint64_t n, struct commit_result *result)
{
	unsigned int tries = 0;
	struct exdb_txn *txn;
	int ret;

	do {
		if (layout->schema != exdb_schema(w->db))
			return -ESTALE;
		ret = exdb_txn_begin(w, &txn);
		if (ret)
			return ret;
		ret = write_entries(w, txn, layout, kind, tree, entries, n, result);
		if (!ret)
			ret = exdb_txn_commit(w, txn);
		else if (exdb_txn_check(w, txn))
			ret = -ECANCELED;
		exdb_txn_end(txn);
	} while (ret == -ECANCELED && ++tries < 1000);
	return table_error(w, layout, ret);
}

static int change_entries(struct exdb_worker *w, struct exdb_txn *txn,
			  const struct exdb_layout *layout, enum op_kind kind, uint32_t tree,
			  const struct btree_entry *entries, uint64_t n,
			  struct commit_result *result)
{
	if (txn)
		return write_entries(w, txn, layout, kind, tree, entries, n, result);
	if (layout->nr_indexes)
		return write_and_commit(w, layout, kind, tree, entries, n, result);
	return commit_entries(w, layout, kind, tree, entries, n, result);
}

/* Atomic.  *row is the one that an error is about. */
int exdb_table_insert(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, bool replace,
		      uint64_t *row)
{
	struct commit_result result;
	struct batch batch;
	int ret;

	*row = 0;
	if (!rows)
		return 0;
	ret = batch_init(&batch, rows);
	if (ret)
		return ret;
	for (*row = 0; *row < rows; (*row)++) {
		ret = encode_one(&batch, layout, columns, *row);
		if (ret)
			goto out;
	}
	sort_entries(&batch, rows);
	ret = change_entries(w, txn, layout, replace ? OP_PUT : OP_INSERT, tree, batch.entries, rows,
			     &result);
	*row = result.op < rows ? batch.entries[result.op].row : 0;
out:
	batch_free(&batch);
	return ret;
}

/* Atomic.  *deleted counts the keys that were there. */
int exdb_table_delete(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, uint64_t *deleted)
{
	struct commit_result result = { 0 };
	struct batch batch;
	uint64_t i;
	int ret;

	*deleted = 0;
	if (!rows)
		return 0;
	ret = batch_init(&batch, rows);
	if (ret)
		return ret;
	for (i = 0; i < rows && !ret; i++)
		ret = encode_key(&batch, layout, columns, i);
	if (!ret) {
		sort_entries(&batch, rows);
		ret = change_entries(w, txn, layout, OP_DELETE, tree, batch.entries, rows, &result);
	}
	*deleted = result.removed;
	batch_free(&batch);
	return ret;
}

