/* SPDX-License-Identifier: MIT */
/*
 * Transactions as the log has them: one record is a list of operations, and says
 * all that the transaction changes.  They are logical (a key of a tree and its
 * value), so that the same code applies them when they are committed and when they
 * are replayed on the image of a checkpoint.
 */
#ifndef EXDB_COMMIT_H
#define EXDB_COMMIT_H

#include "btree.h"
#include "extent.h"
#include "trees.h"

enum op_kind {
	OP_CREATE = 1,	/* make the tree; no key */
	OP_INSERT = 2,	/* the key must not be there */
	OP_PUT = 3,	/* insert or replace */
	OP_DELETE = 4,	/* whether the key is there or not; no value */
	OP_DROP = 5,	/* the tree is nobody's any more; no key */
	OP_TRIM = 6,	/* give back a part of its pages; no key */
};

/**
 * struct op_header - what an operation begins with; key, value and its large values follow
 * @tree: number of the tree
 * @key_length: bytes
 * @value_length: bytes, the references to large values included
 * @kind: enum op_kind
 * @nr_large: those; the pages that they name are not those that a replay gives them
 * @reserved: 0
 */
struct op_header {
	uint32_t tree;
	uint16_t key_length;
	uint16_t value_length;
	uint8_t kind;
	uint8_t nr_large;
	uint8_t reserved[2];
};

static_assert(sizeof(struct op_header) == 12, "on-disk format");

/**
 * struct op_list - operations, growing
 * @bytes: one after the other; the list owns them
 * @size: used
 * @room: allocated
 * @large_bytes: of @size, those of large values
 * @large_pages: that these will have
 * @schema: db->schema must be this, unless it is 0
 * @catalog: the catalog changes
 * @grows: something is put, or a tree made
 * @drops: a tree goes
 * @relaxed: nobody waits for it to be on the disk
 */
struct op_list {
	uint8_t *bytes;
	size_t size;
	size_t room;
	size_t large_bytes;
	uint64_t large_pages;
	uint64_t schema;
	bool catalog;
	bool grows;
	bool drops;
	bool relaxed;
};

void op_list_free(struct op_list *ops);

int op_list_add(struct op_list *ops, enum op_kind kind, uint32_t tree,
		const struct btree_entry *entry);

/* What came of a commit. */
struct commit_result {
	size_t op;	/* the operation that failed, counted from 0 */
	size_t removed;	/* rows that deletes have found; 1 if there is more to trim */
};

/*
 * Validate (also what @txn has read, if there is one), log and apply the operations, and wait as long as db->level says.  Those
 * of one tree and kind that follow each other should be sorted by key.  -EEXIST: an
 * insert found its key; -ESTALE: see op_list.schema; nothing has changed then.
 */
int commit(struct exdb_worker *w, const struct op_list *ops, const struct exdb_txn *txn,
	   struct commit_result *result);

/* Bytes of an operation, its header included. */
static inline size_t op_size(const struct op_header *op, const uint8_t *body)
{
	return sizeof(*op) + op->key_length + op->value_length +
	       extent_total(body + op->key_length, op->value_length, op->nr_large);
}

/*
 * apply.c: for recovery, and with the commit lock held.  Operations that were read are checked first: -EUCLEAN.
 * Then all their large values are given pages, which the references in @bytes name; unplace takes back what
 * place has given before it failed.
 */
int apply_check(const uint8_t *bytes, size_t size);
int apply_place(struct exdb_worker *w, uint8_t *bytes, size_t size);
int apply_unplace(struct exdb_worker *w, uint8_t *bytes, size_t size);
int apply_ops(struct exdb_worker *w, const uint8_t *bytes, size_t size, size_t *removed);
int apply_probe(struct exdb_worker *w, const uint8_t *bytes, size_t size, size_t *op,
		struct btree_touched *touched);

#endif /* EXDB_COMMIT_H */
