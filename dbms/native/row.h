/* SPDX-License-Identifier: MIT */
/*
 * Rows as bytes.  The key columns are the key (see key.h); the value has the
 * other columns:
 *
 *	a bit for each of them, 1 for null, in whole bytes
 *	the fixed-width columns, in order, little-endian; 0 where null
 *	a u16 for each text column: where it ends, counted from the first text
 *	the texts
 *
 * Batches of rows come and go as vectors, one for each column, laid out as in
 * Arrow but for the validity, which is a byte for each row: fixed-width values
 * in `values`; texts one after another in `values`, from offsets[i] to
 * offsets[i + 1]; `valid` may be NULL for "all valid" on the way in.  A vector
 * whose `values` are NULL on the way out is a column that is not wanted.
 */
#ifndef EXDB_ROW_H
#define EXDB_ROW_H

#include "btree.h"

#define COLUMNS_MAX	256u

/**
 * struct row_column - where a column's value is
 * @type: enum exdb_type
 * @in_key: it is part of the key
 * @bit: its null bit
 * @place: offset in the value if of fixed width, else its number among the texts
 */
struct row_column {
	uint8_t type;
	bool in_key;
	uint16_t bit;
	uint16_t place;
};

/**
 * struct exdb_layout - how the rows of a table are laid out
 * @nr_columns: in the order of the schema
 * @nr_key: columns of the key
 * @nr_text: text columns of the value
 * @ends: offset of the ends of texts in the value
 * @key: the key's columns, in order
 * @columns: all columns
 */
struct exdb_layout {
	unsigned int nr_columns;
	unsigned int nr_key;
	unsigned int nr_text;
	unsigned int ends;
	uint16_t key[COLUMNS_MAX];
	struct row_column columns[COLUMNS_MAX];
};

/* Encode row @i; @value has room for EXDB_ROW_MAX bytes.  -EMSGSIZE or -EDOM. */
int row_encode(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
	       struct exdb_key *key, uint8_t *value, unsigned int *value_length);

/* The key of row @i alone; only the key's columns need values.  -EMSGSIZE or -EDOM. */
int row_encode_key(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
		   struct exdb_key *key);

/* Decode into row @i of the vectors; 1 if a text column has no room for it. */
int row_decode(const struct exdb_layout *layout, const struct btree_row *row,
	       struct exdb_vector *columns, uint64_t i);

#endif /* EXDB_ROW_H */
