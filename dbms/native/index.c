// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "index.h"
#include "table.h"

static int put_bytes(struct exdb_key *key, const uint8_t *bytes, unsigned int length)
{
	if (length > EXDB_KEY_MAX - key->length)
		return -EMSGSIZE;
	memcpy(key->bytes + key->length, bytes, length);
	key->length += length;
	return 0;
}

/* A column of the row's key is there as it has to be. */
static int put_key_part(const struct exdb_layout *layout, unsigned int column,
			const struct btree_row *row, struct exdb_key *key)
{
	const uint8_t *at = row->key, *end = at + row->key_length;
	unsigned int k;

	for (k = 0; layout->key[k] != column; k++)
		at = row_skip_part(layout->columns[layout->key[k]].type, at, end);
	return put_bytes(key, at, row_skip_part(layout->columns[column].type, at, end) - at);
}

static int put_large(struct exdb_worker *w, const struct row_shape *shape, unsigned int place,
		     const struct btree_row *row, struct exdb_key *key)
{
	uint8_t text[EXDB_KEY_MAX];
	const uint32_t length = row_large_length(shape, row, place);
	int ret;

	if (length > sizeof(text))
		return -EMSGSIZE;
	ret = row_read_large(w, shape, row, place, text);
	return ret ? ret : exdb_key_put_text(key, text, length);
}

static int put_value(struct exdb_worker *w, unsigned int type, const struct row_shape *shape,
		     unsigned int place, const struct btree_row *row, struct exdb_key *key)
{
	const uint8_t *value = row->value;
	const uint8_t *text;
	unsigned int length;
	union {
		int32_t int32;
		int64_t int64;
		double float64;
	} number;

	/* a text has a number for a place, and no width */
	memcpy(&number, value + place, row_width(type));
	switch (type) {
	case EXDB_BOOL:
		return exdb_key_put_byte(key, value[place]);
	case EXDB_INT32:
	case EXDB_DATE:
		return exdb_key_put_int32(key, number.int32);
	case EXDB_INT64:
	case EXDB_TIMESTAMP:
	case EXDB_DECIMAL:
		return exdb_key_put_int64(key, number.int64);
	case EXDB_FLOAT64:
		return exdb_key_put_float64(key, number.float64);
	default:
		if (row_text_is_large(shape, value, place))
			return put_large(w, shape, place, row, key);
		text = row_text(shape, value, place, &length);
		return exdb_key_put_text(key, text, length);
	}
}

/* 1 if it is null. */
static int put_column(struct exdb_worker *w, const struct exdb_layout *layout, unsigned int column,
		      const struct row_shape *shape, const struct btree_row *row,
		      struct exdb_key *key)
{
	const struct row_place *place = &shape->places[column];
	const bool in_key = layout->columns[column].in_key;
	bool null = !in_key && place->bit == NO_PLACE;
	int ret;

	if (!in_key && !null)
		null = row->value[place->bit / 8] >> place->bit % 8 & 1;
	ret = exdb_key_put_byte(key, !null);
	if (ret || null)
		return ret ? ret : 1;
	if (in_key)
		return put_key_part(layout, column, row, key);
	return put_value(w, layout->columns[column].type, shape, place->place, row, key);
}

int index_encode(struct exdb_worker *w, const struct exdb_layout *layout,
		 const struct row_index *index, const struct btree_row *row,
		 struct index_entry *entry)
{
	const struct row_shape *shape;
	uint16_t length;
	unsigned int i;
	int ret = row_shape(layout, row, &shape);

	if (ret)
		return ret;
	entry->key.length = 0;
	entry->exclusive = index->unique;
	for (i = 0; i < index->nr_columns; i++) {
		ret = put_column(w, layout, index->columns[i], shape, row, &entry->key);
		if (ret < 0)
			return ret;
		if (ret)
			entry->exclusive = false;
	}
	length = entry->key.length;
	memcpy(entry->value, &length, sizeof(length));
	entry->value_length = sizeof(length);
	if (!entry->exclusive)
		return put_bytes(&entry->key, row->key, row->key_length);
	memcpy(entry->value + sizeof(length), row->key, row->key_length);
	entry->value_length += row->key_length;
	return 0;
}

int index_row_key(const struct btree_row *entry, struct exdb_key *key)
{
	uint16_t length;

	if (entry->value_length < sizeof(length))
		return -EUCLEAN;
	memcpy(&length, entry->value, sizeof(length));
	if (length > entry->key_length)
		return -EUCLEAN;
	key->length = 0;
	if (entry->value_length > sizeof(length))
		return put_bytes(key, entry->value + sizeof(length),
				 entry->value_length - sizeof(length));
	return put_bytes(key, entry->key + length, entry->key_length - length);
}

static struct btree_entry as_entry(const struct index_entry *entry)
{
	return (struct btree_entry){
		.key = entry->key.bytes,
		.value = entry->value,
		.key_length = entry->key.length,
		.value_length = entry->value_length,
	};
}

static bool is_same(const struct index_entry *a, const struct index_entry *b)
{
	return a->value_length == b->value_length &&
	       !key_compare(a->key.bytes, a->key.length, b->key.bytes, b->key.length) &&
	       !memcmp(a->value, b->value, a->value_length);
}

enum presence { ABSENT, OWN_ENTRY, FOREIGN_ENTRY };

/* Whether the key of an entry that excludes others is there, and leads to the same row; or -errno. */
static int find_entry(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
		      const struct index_entry *index_entry)
{
	const struct btree_entry entry = as_entry(index_entry);
	struct row_copy copy;
	int ret = table_sees(w, txn, tree, &entry, &copy);

	if (ret <= 0)
		return ret;
	return copy.row.value_length == entry.value_length &&
			       !memcmp(copy.row.value, entry.value, entry.value_length) ?
		       OWN_ENTRY :
		       FOREIGN_ENTRY;
}

/* While an index is being filled the entry may be there. */
static int insert_entry(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
			const struct index_entry *index_entry)
{
	const struct btree_entry entry = as_entry(index_entry);
	int ret = ABSENT;

	if (index_entry->exclusive)
		ret = find_entry(w, txn, tree, index_entry);
	if (ret != ABSENT)
		return ret == FOREIGN_ENTRY ? -ENOTUNIQ : ret == OWN_ENTRY ? 0 : ret;
	return txn_write(txn, OWN_PUT, tree, &entry);
}

/* While an index is being filled the entry may be another row's, or not there yet. */
static int delete_entry(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
			const struct index_entry *index_entry)
{
	const struct btree_entry entry = as_entry(index_entry);
	int ret = OWN_ENTRY;

	if (index_entry->exclusive)
		ret = find_entry(w, txn, tree, index_entry);
	if (ret != OWN_ENTRY)
		return ret < 0 ? ret : 0;
	return txn_write(txn, OWN_DELETED, tree, &entry);
}

static int update_one(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		      const struct row_index *index, const struct index_entry *before,
		      const struct btree_row *new)
{
	struct index_entry after;
	int ret = new ? index_encode(w, layout, index, new, &after) : 0;

	if (ret || (before && new && is_same(before, &after)))
		return ret;
	if (before)
		ret = delete_entry(w, txn, index->tree, before);
	return !ret && new ? insert_entry(w, txn, index->tree, &after) : ret;
}

int index_add(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
	      uint32_t index, const struct btree_row *row)
{
	w->error_index = index;
	return update_one(w, txn, layout, &layout->indexes[index], NULL, row);
}

/* Where the entries of a row go. */
struct entries {
	const struct exdb_layout *layout;
	struct index_entry *entries;
};

static int encode_all(struct sink *sink, const struct btree_row *row)
{
	const struct entries *to = sink->arg;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < to->layout->nr_indexes && !ret; i++)
		ret = index_encode(sink->w, to->layout, &to->layout->indexes[i], row,
				   &to->entries[i]);
	return ret;
}

int index_find(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
	       uint32_t tree, const struct btree_entry *entry, struct index_entry *entries)
{
	struct entries to = { .layout = layout, .entries = entries };
	struct sink sink = { .take = encode_all, .arg = &to };

	return table_take(w, txn, tree, entry, &sink);
}

int index_update(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		 const struct index_entry *old, const struct btree_row *new)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < layout->nr_indexes && !ret; i++) {
		w->error_index = i;
		ret = update_one(w, txn, layout, &layout->indexes[i], old ? &old[i] : NULL, new);
	}
	return ret;
}
