/* SPDX-License-Identifier: MIT */
/*
 * Rows as bytes.  The key columns are the key (see key.h); the value has the
 * other columns:
 *
 *	u8: the version of the table's columns that it was written with
 *	a bit for each of them, 1 for null, in whole bytes
 *	the fixed-width columns, in order, little-endian; 0 where null
 *	a u16 for each text or bytes column: where it ends, counted from the first one
 *	the texts and bytes
 *	a struct extent_ref for each value that is large, in the order of their columns
 *
 * Where a row would be longer than EXDB_ROW_MAX with its key, its longest values become
 * large, one after another: they have no bytes among the texts, and ROW_LARGE in their end.
 *
 * Columns come and go: version v of the columns has those that were added in it or
 * before, and dropped after it.  Rows stay as they were written; a column that they
 * have not is null.
 *
 * Batches of rows come and go as vectors, one for each column that there is, laid out as in
 * Arrow but for the validity and bools, which are a byte for each row: fixed-width values
 * in `values`; texts one after another in `values`, from offsets[i] to
 * offsets[i + 1]; `valid` may be NULL for "all valid" on the way in.  A vector
 * whose `values` are NULL on the way out is a column that is not wanted.
 */
#ifndef EXDB_ROW_H
#define EXDB_ROW_H

#include "btree.h"

#define NO_PLACE	UINT16_MAX

/**
 * struct row_place - where a column's value is
 * @bit: its null bit, counted from the value's start, or NO_PLACE: it is not in this version
 * @place: offset in the value if of fixed width, else its number among the texts
 */
struct row_place {
	uint16_t bit;
	uint16_t place;
};

/**
 * struct row_shape - how the rows of one version are laid out
 * @nr_text: text and bytes columns of the value
 * @ends: offset of the ends of texts in the value
 * @places: of all columns
 */
struct row_shape {
	unsigned int nr_text;
	unsigned int ends;
	struct row_place places[EXDB_COLUMNS_MAX];
};

/**
 * struct row_column - a column, one that was dropped included
 * @type: enum exdb_type
 * @in_key: it is part of the key
 * @vector: its number among those that there are, or NO_PLACE
 */
struct row_column {
	uint8_t type;
	bool in_key;
	uint16_t vector;
};

/**
 * struct row_index - a secondary index; see index.h
 * @tree: its entries
 * @unique: no two rows have the same values, unless one of them is null
 * @nr_columns: length of @columns
 * @columns: numbers among all columns
 */
struct row_index {
	uint32_t tree;
	bool unique;
	unsigned int nr_columns;
	uint16_t columns[EXDB_INDEX_COLUMNS_MAX];
};

/**
 * struct exdb_layout - how the rows of a table are laid out
 * @schema: db->schema when the catalog was read
 * @version: of the columns, now
 * @nr_columns: all that there ever were, in the order in which they were added
 * @nr_key: columns of the key
 * @key_width: bytes of a key, or 0 if that depends on its values
 * @nr_indexes: length of @indexes
 * @key: the key's columns, in order
 * @columns: all columns
 * @indexes: of the table
 * @shapes: of all versions
 */
struct exdb_layout {
	uint64_t schema;
	unsigned int version;
	unsigned int nr_columns;
	unsigned int nr_key;
	unsigned int key_width;
	unsigned int nr_indexes;
	uint16_t key[EXDB_COLUMNS_MAX];
	struct row_column columns[EXDB_COLUMNS_MAX];
	struct row_index indexes[EXDB_INDEXES_MAX];
	struct row_shape shapes[];
};

/**
 * struct row_large - the large values of a row that is encoded
 * @nr: how many
 * @bytes: of all of them
 * @texts: where they are
 * @lengths: bytes of each
 */
struct row_large {
	unsigned int nr;
	uint64_t bytes;
	const uint8_t *texts[EXDB_LARGE_MAX];
	uint32_t lengths[EXDB_LARGE_MAX];
};

/* Encode row @i; @value has room for EXDB_ROW_MAX bytes.  -EMSGSIZE or -EDOM. */
int row_encode(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
	       struct exdb_key *key, uint8_t *value, unsigned int *value_length,
	       struct row_large *large);

/* The key of row @i alone; only the key's columns need values.  -EMSGSIZE or -EDOM. */
int row_encode_key(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
		   struct exdb_key *key);

/*
 * Decode into row @i of the vectors; 1 if text columns have no room for it, and vectors say what they need;
 * -EUCLEAN, -ESTALE, and what extent_read says.
 */
int row_decode(struct exdb_worker *w, const struct exdb_layout *layout,
	       const struct btree_row *row, struct exdb_vector *columns, uint64_t i);

/* The @place-th text of a row, which is large, to @out, or its length alone. */
uint32_t row_large_length(const struct row_shape *shape, const struct btree_row *row,
			  unsigned int place);
int row_read_large(struct exdb_worker *w, const struct row_shape *shape,
		   const struct btree_row *row, unsigned int place, uint8_t *out);

/*
 * decode.c: the same for up to @n rows of a leaf, from slot @from on, into those of the vectors from @at on.
 * How many were taken; 0 if a text of the first one has no room.
 */
long row_decode_run(struct exdb_worker *w, const struct exdb_layout *layout,
		    const struct node *leaf, unsigned int from, unsigned int n,
		    struct exdb_vector *columns, uint64_t at);

/*
 * The shape of a row that can be decoded.  -ESTALE if it was written with columns that the layout
 * does not know, -EUCLEAN if its bytes are no row of this table.
 */
int row_shape(const struct exdb_layout *layout, const struct btree_row *row,
	      const struct row_shape **shape);

/* Behind a part of a key; NULL if that goes beyond @end. */
const uint8_t *row_skip_part(unsigned int type, const uint8_t *at, const uint8_t *end);

/* Bytes of a value, or 0 if that depends on the value. */
unsigned int row_width(unsigned int type);

#define ROW_LARGE	0x8000u	/* in the end of a text that has no bytes in the row */

static inline unsigned int row_text_mark(const struct row_shape *shape, const uint8_t *value,
					 unsigned int place)
{
	uint16_t mark;

	memcpy(&mark, value + shape->ends + 2 * place, sizeof(mark));
	return mark;
}

static inline unsigned int row_text_end(const struct row_shape *shape, const uint8_t *value,
					unsigned int place)
{
	return row_text_mark(shape, value, place) & ~ROW_LARGE;
}

static inline bool row_text_is_large(const struct row_shape *shape, const uint8_t *value,
				     unsigned int place)
{
	return row_text_mark(shape, value, place) & ROW_LARGE;
}

/* A text or bytes value. */
static inline const uint8_t *row_text(const struct row_shape *shape, const uint8_t *value,
				      unsigned int place, unsigned int *length)
{
	const unsigned int from = place ? row_text_end(shape, value, place - 1) : 0;

	*length = row_text_end(shape, value, place) - from;
	return value + shape->ends + 2 * shape->nr_text + from;
}

/* Whether the texts follow one another within the value. */
static inline bool row_has_sound_texts(const struct row_shape *shape, const struct btree_row *row)
{
	const unsigned int texts = shape->ends + 2 * shape->nr_text;
	const unsigned int refs = row->nr_large * EXTENT_REF;
	unsigned int i, from = 0, to, large = 0;

	if (row->value_length < texts + refs)
		return false;
	for (i = 0; i < shape->nr_text; i++, from = to) {
		const bool is_large = row_text_is_large(shape, row->value, i);

		to = row_text_end(shape, row->value, i);
		if (to < from || (is_large && to > from))
			return false;
		large += is_large;
	}
	return large == row->nr_large && from <= row->value_length - texts - refs;
}

#endif /* EXDB_ROW_H */
