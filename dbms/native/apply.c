// SPDX-License-Identifier: MIT
/* Operations of a transaction, applied to the trees. */
#include <errno.h>
#include <string.h>

#include "commit.h"

#define RUN_MAX	256u

/* Operations on one tree that follow each other, of one kind and sorted. */
struct run {
	enum op_kind kind;
	uint32_t tree;
	size_t n;
	struct btree_entry entries[RUN_MAX];
};

static bool is_of_rows(enum op_kind kind)
{
	return kind == OP_INSERT || kind == OP_PUT || kind == OP_DELETE;
}

/* The operation at @at; false if it is none, or goes beyond @end. */
static bool read_op(const uint8_t *at, const uint8_t *end, struct op_header *op)
{
	const size_t left = end - at;

	if (left < sizeof(*op))
		return false;
	memcpy(op, at, sizeof(*op));
	if (left - sizeof(*op) < (size_t)op->key_length + op->value_length || !op->tree ||
	    op->tree >= EXDB_TREES_MAX || op->nr_large * EXTENT_REF > op->value_length)
		return false;
	return op_size(op, at + sizeof(*op)) <= left;
}

/* Take the operation at @*at into the run; 0 if it is not one of it, or -EUCLEAN. */
static int take_op(struct run *run, const uint8_t **at, const uint8_t *end)
{
	struct btree_entry *entry = &run->entries[run->n];
	struct op_header op;

	if (!read_op(*at, end, &op))
		return -EUCLEAN;
	*entry = (struct btree_entry){
		.key = *at + sizeof(op),
		.value = *at + sizeof(op) + op.key_length,
		.key_length = op.key_length,
		.value_length = op.value_length,
		.nr_large = op.nr_large,
	};
	if (run->n && (run->kind != op.kind || run->tree != op.tree || !is_of_rows(op.kind) ||
		       btree_compare(entry - 1, entry) > 0))
		return 0;
	run->kind = op.kind;
	run->tree = op.tree;
	run->n++;
	*at += op_size(&op, *at + sizeof(op));
	return 1;
}

/* The next run; 0 at the end, or -errno. */
static int next_run(struct run *run, const uint8_t **at, const uint8_t *end)
{
	int ret = 1;

	run->n = 0;
	while (ret > 0 && *at < end && run->n < RUN_MAX)
		ret = take_op(run, at, end);
	return ret < 0 ? ret : run->n > 0;
}

/* A change of rows in a tree that there is. */
static int apply_rows(struct exdb_worker *w, const struct run *run, size_t *removed)
{
	const uint64_t root = tree_root(w, run->tree);
	size_t i, done = 0;
	int ret = 0;

	if (!root)
		return -EUCLEAN;
	for (i = 0; i < run->n && !ret; i++)
		if (run->entries[i].nr_large)
			ret = tree_note_large(w, run->tree);
	if (ret)
		return ret;
	if (run->kind != OP_DELETE)
		return btree_insert(w, root, run->entries, run->n, true, &done);
	ret = btree_remove(w, root, run->entries, run->n, &done);
	*removed += done;
	return ret == BTREE_UNMENDED ? 0 : ret;
}

static int apply_run(struct exdb_worker *w, const struct run *run, size_t *removed)
{
	int ret;

	switch (run->kind) {
	case OP_CREATE:
		return tree_create(w, run->tree);
	case OP_DROP:
		return tree_drop(w, run->tree);
	case OP_TRIM:
		ret = tree_trim(w, run->tree);
		*removed += ret > 0;
		return ret < 0 ? ret : 0;
	case OP_INSERT:
	case OP_PUT:
	case OP_DELETE:
		return apply_rows(w, run, removed);
	default:
		return -EUCLEAN;
	}
}

int apply_ops(struct exdb_worker *w, const uint8_t *bytes, size_t size, size_t *removed)
{
	const uint8_t *at = bytes;
	struct run run;
	int ret;

	while ((ret = next_run(&run, &at, bytes + size)) > 0) {
		ret = apply_run(w, &run, removed);
		if (!ret)
			ret = extent_drop_all(w);
		if (ret)
			return ret;
	}
	return ret;
}

static int probe_run(struct exdb_worker *w, const struct run *run, size_t *seen,
		     struct btree_touched *touched)
{
	const uint64_t root = tree_root(w, run->tree);

	/* gives pages back, and takes none */
	if (run->kind == OP_TRIM)
		return tree_trim_probe(w, run->tree);
	touched->leaves += 2;
	if (run->kind == OP_DROP)
		return tree_drop_probe(w, run->tree);
	/* a tree without a root is one that these operations create */
	return root ? btree_probe(w, root, run->entries, run->n, run->kind == OP_INSERT, seen,
				  touched) :
		      0;
}

/* Call a function for the values of all operations that have large ones. */
static int each_large(struct exdb_worker *w, uint8_t *bytes, size_t size,
		      int (*fn)(struct exdb_worker *w, const struct op_header *op, uint8_t *value))
{
	uint8_t *at = bytes, *end = bytes + size;
	struct op_header op;
	int ret = 0;

	for (; at < end && !ret; at += op_size(&op, at + sizeof(op))) {
		memcpy(&op, at, sizeof(op));
		if (op.nr_large)
			ret = fn(w, &op, at + sizeof(op) + op.key_length);
	}
	return ret;
}

static int place(struct exdb_worker *w, const struct op_header *op, uint8_t *value)
{
	return extent_place(w, value, op->value_length, op->nr_large, value + op->value_length);
}

static int unplace(struct exdb_worker *w, const struct op_header *op, uint8_t *value)
{
	return extent_release(w, value, op->value_length, op->nr_large);
}

int apply_check(const uint8_t *bytes, size_t size)
{
	const uint8_t *at = bytes, *end = bytes + size;
	struct op_header op;

	for (; at < end; at += op_size(&op, at + sizeof(op)))
		if (!read_op(at, end, &op))
			return -EUCLEAN;
	return 0;
}

int apply_place(struct exdb_worker *w, uint8_t *bytes, size_t size)
{
	return each_large(w, bytes, size, place);
}

int apply_unplace(struct exdb_worker *w, uint8_t *bytes, size_t size)
{
	return each_large(w, bytes, size, unplace);
}

int apply_probe(struct exdb_worker *w, const uint8_t *bytes, size_t size, size_t *op,
		struct btree_touched *touched)
{
	const uint8_t *at = bytes;
	struct run run;
	int ret;

	*op = 0;
	while ((ret = next_run(&run, &at, bytes + size)) > 0) {
		size_t seen = run.n;

		ret = probe_run(w, &run, &seen, touched);
		*op += seen;
		if (ret < 0)
			return ret;
	}
	return ret;
}
