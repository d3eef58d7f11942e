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

/* Take the operation at @*at into the run; 0 if it is not one of it, or -EUCLEAN. */
static int take_op(struct run *run, const uint8_t **at, const uint8_t *end)
{
	struct btree_entry *entry = &run->entries[run->n];
	struct op_header op;

	if ((size_t)(end - *at) < sizeof(op))
		return -EUCLEAN;
	memcpy(&op, *at, sizeof(op));
	if ((size_t)(end - *at) - sizeof(op) < (size_t)op.key_length + op.value_length ||
	    op.tree >= EXDB_TREES_MAX)
		return -EUCLEAN;
	*entry = (struct btree_entry){
		.key = *at + sizeof(op),
		.value = *at + sizeof(op) + op.key_length,
		.key_length = op.key_length,
		.value_length = op.value_length,
	};
	if (run->n && (run->kind != op.kind || run->tree != op.tree || op.kind == OP_CREATE ||
		       btree_compare(entry - 1, entry) > 0))
		return 0;
	run->kind = op.kind;
	run->tree = op.tree;
	run->n++;
	*at += sizeof(op) + op.key_length + op.value_length;
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

static void directory_key(uint32_t tree, uint8_t key[4])
{
	tree = __builtin_bswap32(tree);
	memcpy(key, &tree, sizeof(tree));
}

static int create_tree(struct exdb_worker *w, uint32_t tree)
{
	struct exdb *db = w->db;
	struct btree_entry entry = { .key_length = 4, .value_length = sizeof(uint64_t) };
	uint8_t key[4];
	uint64_t root;
	size_t done;
	int ret = btree_create(w, &root);

	if (ret)
		return ret;
	directory_key(tree, key);
	entry.key = key;
	entry.value = (const uint8_t *)&root;
	ret = btree_insert(w, DIRECTORY_ROOT, &entry, 1, false, &done);
	if (ret)
		return ret == -EEXIST ? -EUCLEAN : ret;
	__atomic_store_n(&db->roots[tree], root, __ATOMIC_RELEASE);
	if (tree >= db->next_tree)
		db->next_tree = tree + 1;
	return 0;
}

static int apply_run(struct exdb_worker *w, const struct run *run, size_t *removed)
{
	uint64_t root = tree_root(w->db, run->tree);
	size_t done = 0;
	int ret;

	if (run->kind == OP_CREATE)
		return root ? -EUCLEAN : create_tree(w, run->tree);
	if (!root)
		return -EUCLEAN;
	switch (run->kind) {
	case OP_INSERT:
	case OP_PUT:
		return btree_insert(w, root, run->entries, run->n, true, &done);
	case OP_DELETE:
		ret = btree_remove(w, root, run->entries, run->n, &done);
		*removed += done;
		return ret == BTREE_UNMENDED ? 0 : ret;
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
		if (ret)
			return ret;
	}
	return ret;
}

int apply_probe(struct exdb_worker *w, const uint8_t *bytes, size_t size, size_t *op,
		struct btree_touched *touched)
{
	const uint8_t *at = bytes;
	struct run run;
	int ret;

	*op = 0;
	while ((ret = next_run(&run, &at, bytes + size)) > 0) {
		uint64_t root = tree_root(w->db, run.tree);
		size_t seen = run.n;

		touched->leaves += 2;
		/* a tree without a root is one that these operations create */
		if (root)
			ret = btree_probe(w, root, run.entries, run.n, run.kind == OP_INSERT, &seen,
					  touched);
		*op += seen;
		if (ret < 0)
			return ret;
	}
	return ret;
}

int directory_create(struct exdb_worker *w)
{
	uint64_t root;
	int ret = btree_create(w, &root);

	return ret || root == DIRECTORY_ROOT ? ret : -EUCLEAN;
}

static int load_tree(void *arg, const struct btree_row *row)
{
	struct exdb_worker *w = arg;
	struct exdb *db = w->db;
	uint32_t tree;

	if (row->key_length != sizeof(tree) || row->value_length != sizeof(uint64_t))
		return -EUCLEAN;
	memcpy(&tree, row->key, sizeof(tree));
	tree = __builtin_bswap32(tree);
	if (tree >= EXDB_TREES_MAX)
		return -EUCLEAN;
	memcpy(&db->roots[tree], row->value, sizeof(uint64_t));
	db->next_tree = tree + 1;
	return 0;
}

int directory_load(struct exdb_worker *w)
{
	struct btree_cursor cursor = { .root = DIRECTORY_ROOT };

	w->db->next_tree = 1;
	return btree_scan(w, &cursor, load_tree, w);
}
