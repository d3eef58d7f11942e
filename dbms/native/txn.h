/* SPDX-License-Identifier: MIT */
/*
 * Transactions of several calls: optimistic, with backward validation (Kung and
 * Robinson, "On Optimistic Methods for Concurrency Control", TODS 1981).
 *
 * A transaction keeps what it writes to itself until it commits.  It remembers what
 * it has read, keys and ranges (also of keys that were not there), and how many
 * transactions had committed before each read.  It may commit if none that has
 * committed since a read has written what was read: then all its reads hold at the
 * moment of its commit, and the order of commits is a serial order.  Nobody ever
 * waits for a transaction, and there are no deadlocks.
 */
#ifndef EXDB_TXN_H
#define EXDB_TXN_H

#include "commit.h"

#define TXN_LEVELS	16u

enum own_state {
	OWN_NONE,	/* it was rolled back: as if there were no entry */
	OWN_PUT,
	OWN_DELETED,
};

/* Bytes, and behind them those of large values. */
struct own_value {
	const uint8_t *bytes;
	uint16_t length;
	uint8_t nr_large;
	enum own_state state;
};

/**
 * struct own - a key that a transaction has written; an element of a skip list
 * @prev: the one before it
 * @key: bytes
 * @now: what is under it
 * @tree: its tree
 * @key_length: bytes
 * @next: the one after it on each level that it has
 */
struct own {
	struct own *prev;
	const uint8_t *key;
	struct own_value now;
	uint32_t tree;
	uint16_t key_length;
	struct own *next[];
};

/* The first own key of a tree that is not less than (or, if @after, greater than) a key. */
const struct own *txn_find(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
			   unsigned int length, bool after);

/* The last own key of a tree that is less than a key; all are if it is NULL. */
const struct own *txn_find_before(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
				  unsigned int length);

/* What the transaction has written under this key, or NULL. */
const struct own *txn_own(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
			  unsigned int length);

int txn_write(struct exdb_txn *txn, enum own_state state, uint32_t tree,
	      const struct btree_entry *entry);

/* Call before a key, or the keys from @low to @high (NULL: to the end), are read from the tree. */
int txn_read_key(struct exdb_txn *txn, uint32_t tree, const uint8_t *key, unsigned int length);
int txn_read_range(struct exdb_txn *txn, uint32_t tree, const struct exdb_key *low,
		   const struct exdb_key *high);

/* Call before the layout is used: -ECANCELED if another one was, of another catalog. */
int txn_use(struct exdb_txn *txn, const struct exdb_layout *layout);

int txn_create_tree(struct exdb_txn *txn, uint32_t *tree);

/* With the commit lock held: 0, or -ECANCELED if something that was read has been written since. */
int txn_validate(const struct exdb_txn *txn);

/*
 * history.c: what has been committed since the oldest running transaction began.
 * All with the commit lock held.
 */
void history_enter(struct exdb *db);
void history_leave(struct exdb *db);
void history_add(struct exdb *db, const struct op_list *ops);
void history_free(struct exdb *db);

/* Whether @fn says yes to an operation that was committed after @seq, or what was is not known. */
typedef bool (*history_fn)(const void *arg, uint64_t seq, const struct op_header *op,
			   const uint8_t *key);
bool history_any(const struct exdb *db, uint64_t seq, history_fn fn, const void *arg);

#endif /* EXDB_TXN_H */
