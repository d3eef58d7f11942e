/* SPDX-License-Identifier: MIT */
/*
 * Secondary indexes: trees whose entries lead to rows.  An entry's key is
 *
 *	for each column a byte, 0 for null, or 1 and the value as in keys (key.h)
 *	the row's key; not in a unique index, unless one of the columns is null
 *
 * and its value
 *
 *	u16: bytes of its key that belong to the columns
 *	the row's key, if it is not in the entry's
 *
 * Entries change in the transaction that changes their row.
 */
#ifndef EXDB_INDEX_H
#define EXDB_INDEX_H

#include "row.h"
#include "txn.h"

/**
 * struct index_entry - an entry on its way into an index
 * @key: of the entry
 * @value: of the entry
 * @value_length: bytes
 * @exclusive: no other row may have this key
 */
struct index_entry {
	struct exdb_key key;
	uint8_t value[sizeof(uint16_t) + EXDB_KEY_MAX];
	unsigned int value_length;
	bool exclusive;
};

/* The entry of a row that is latched.  -EMSGSIZE, -EDOM, -ESTALE, and what extent_read says. */
int index_encode(struct exdb_worker *w, const struct exdb_layout *layout,
		 const struct row_index *index, const struct btree_row *row,
		 struct index_entry *entry);

/* The key of the row that an entry leads to; -EUCLEAN. */
int index_row_key(const struct btree_row *entry, struct exdb_key *key);

/* The entries of the row with this key, one for each index: 1, 0 if there is no row, or -errno. */
int index_find(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
	       uint32_t tree, const struct btree_entry *entry, struct index_entry *entries);

/*
 * Let the transaction write what becomes of the entries @old when their row becomes @new; either
 * may be NULL.  -ENOTUNIQ, and what index_encode says.
 */
int index_update(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		 const struct index_entry *old, const struct btree_row *new);

/* Let the transaction write the entry of a row in one index. */
int index_add(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
	      uint32_t index, const struct btree_row *row);

#endif /* EXDB_INDEX_H */
