// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "trees.h"

static uint64_t load_root(const struct exdb *db, uint32_t number)
{
	return __atomic_load_n(&db->trees[number].root, __ATOMIC_ACQUIRE);
}

int tree_claim(struct exdb *db, uint32_t *number)
{
	uint32_t i;

	for (i = db->free_tree; i < EXDB_TREES_MAX; i++) {
		struct tree *tree = &db->trees[i];

		if (tree->claimed || (tree->root && !tree->empty))
			continue;
		tree->claimed = true;
		db->free_tree = i + 1;
		*number = i;
		return 0;
	}
	return -ENFILE;
}

static void offer(struct exdb *db, uint32_t number)
{
	if (number < db->free_tree)
		db->free_tree = number;
}

void tree_unclaim(struct exdb *db, uint32_t number)
{
	db->trees[number].claimed = false;
	offer(db, number);
}

/* Whoever sees the new root, or what becomes of the old one's pages, sees @since as well. */
static void set_root(struct exdb *db, uint32_t number, uint64_t root)
{
	struct tree *tree = &db->trees[number];

	__atomic_store_n(&tree->since, db->schema + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&tree->root, root, __ATOMIC_RELEASE);
	tree->empty = false;
	tree->claimed = false;
	if (number >= db->nr_trees)
		db->nr_trees = number + 1;
}

/* An entry of the directory; its bytes have to stay where they are while it is used. */
struct directory_entry {
	uint32_t key;
	uint64_t value;
	struct btree_entry entry;
};

static void make_entry(struct directory_entry *e, uint32_t number, uint64_t root)
{
	e->key = __builtin_bswap32(number);
	e->value = root;
	e->entry = (struct btree_entry){
		.key = (const uint8_t *)&e->key,
		.value = (const uint8_t *)&e->value,
		.key_length = sizeof(e->key),
		.value_length = sizeof(e->value),
	};
}

static int put_entry(struct exdb_worker *w, uint32_t number, uint64_t root)
{
	struct directory_entry e;
	size_t done;

	make_entry(&e, number, root);
	return btree_insert(w, DIRECTORY_ROOT, &e.entry, 1, true, &done);
}

static int write_entry(struct exdb_worker *w, uint32_t number, uint64_t root)
{
	int ret = put_entry(w, number, root);

	if (!ret)
		set_root(w->db, number, root);
	return ret;
}

int tree_note_large(struct exdb_worker *w, uint32_t number)
{
	const uint64_t root = load_root(w->db, number) | TREE_LARGE;
	int ret = 0;

	if (root == load_root(w->db, number))
		return 0;
	ret = put_entry(w, number, root);
	if (!ret)
		__atomic_store_n(&w->db->trees[number].root, root, __ATOMIC_RELEASE);
	return ret;
}

int tree_create(struct exdb_worker *w, uint32_t number)
{
	uint64_t root = load_root(w->db, number);
	int ret;

	if (root && !(root & TREE_DROPPED))
		return -EUCLEAN;
	if (!root) {
		ret = btree_create(w, &root);
	} else {
		/* it is empty already, unless recovery has come to another shape */
		do {
			ret = btree_trim(w, root & TREE_PAGE, root & TREE_LARGE);
		} while (ret > 0);
		root &= TREE_PAGE;
	}
	return ret ? ret : write_entry(w, number, root);
}

int tree_drop(struct exdb_worker *w, uint32_t number)
{
	const uint64_t root = load_root(w->db, number);

	if (number <= EXDB_INDEXES_TREE || !root || root & TREE_DROPPED)
		return -EUCLEAN;
	return write_entry(w, number, root | TREE_DROPPED);
}

static void set_empty(struct exdb *db, uint32_t number)
{
	db->trees[number].empty = true;
	offer(db, number);
}

int tree_trim(struct exdb_worker *w, uint32_t number)
{
	const uint64_t root = load_root(w->db, number);
	int ret;

	if (!(root & TREE_DROPPED))
		return -EUCLEAN;
	ret = btree_trim(w, root & TREE_PAGE, root & TREE_LARGE);
	if (!ret)
		set_empty(w->db, number);
	return ret;
}

int tree_drop_probe(struct exdb_worker *w, uint32_t number)
{
	struct btree_touched touched = { .nr = 0 };
	struct directory_entry e;
	size_t seen;

	make_entry(&e, number, 0);
	return btree_probe(w, DIRECTORY_ROOT, &e.entry, 1, false, &seen, &touched);
}

int tree_trim_probe(struct exdb_worker *w, uint32_t number)
{
	const uint64_t root = load_root(w->db, number);

	if (!(root & TREE_DROPPED))
		return -EUCLEAN;
	return btree_trim_probe(w, root & TREE_PAGE, root & TREE_LARGE);
}

uint64_t *trees_copy(const struct exdb *db)
{
	uint64_t *roots = malloc(db->nr_trees * sizeof(*roots));
	uint32_t i;

	for (i = 0; roots && i < db->nr_trees; i++)
		roots[i] = db->trees[i].root & TREE_DROPPED ? 0 : db->trees[i].root & TREE_PAGE;
	return roots;
}

/* A spare root needs no record in the log. */
static int is_empty(struct exdb_worker *w, uint32_t number)
{
	const uint64_t root = load_root(w->db, number) & TREE_PAGE;
	const struct node *node;
	int ret = btree_fix(w, root, NODE_ROOT, &node);

	if (ret)
		return ret;
	ret = node_is_leaf(node) && !node->count;
	buffer_unfix_shared(w, root);
	return ret;
}

/* Nobody else trims: what was dropped stays so until it is empty. */
static int trim_all(struct exdb_worker *w, uint32_t number)
{
	const struct btree_entry none = { 0 };
	struct commit_result result = { .removed = 1 };
	int ret = is_empty(w, number);

	if (ret > 0) {
		pthread_mutex_lock(&w->db->commit);
		set_empty(w->db, number);
		pthread_mutex_unlock(&w->db->commit);
		return 0;
	}
	while (!ret && result.removed) {
		struct op_list ops = { .relaxed = true };

		ret = op_list_add(&ops, OP_TRIM, number, &none);
		if (!ret)
			ret = commit(w, &ops, NULL, &result);
		op_list_free(&ops);
	}
	return ret;
}

/* The first tree from @number on that has pages to give back, or EXDB_TREES_MAX. */
static uint32_t next_dropped(struct exdb *db, uint32_t number)
{
	pthread_mutex_lock(&db->commit);
	while (number < db->nr_trees &&
	       (!(db->trees[number].root & TREE_DROPPED) || db->trees[number].empty))
		number++;
	number = number < db->nr_trees ? number : EXDB_TREES_MAX;
	pthread_mutex_unlock(&db->commit);
	return number;
}

int exdb_trees_free(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	uint32_t i = 0;
	int error, ret = 0;

	pthread_mutex_lock(&db->trimming);
	while ((i = next_dropped(db, i)) < EXDB_TREES_MAX) {
		error = trim_all(w, i++);
		ret = ret ? ret : error;
	}
	pthread_mutex_unlock(&db->trimming);
	return ret;
}

int directory_create(struct exdb_worker *w)
{
	uint64_t root;
	int ret = btree_create(w, &root);

	if (ret || root != DIRECTORY_ROOT)
		return ret ? ret : -EUCLEAN;
	return tree_create(w, RUNS_TREE);
}

static int load_tree(void *arg, const struct btree_row *row)
{
	struct exdb *db = arg;
	uint32_t number;

	if (row->key_length != sizeof(number) || row->value_length != sizeof(uint64_t))
		return -EUCLEAN;
	memcpy(&number, row->key, sizeof(number));
	number = __builtin_bswap32(number);
	if (number >= EXDB_TREES_MAX)
		return -EUCLEAN;
	memcpy(&db->trees[number].root, row->value, sizeof(uint64_t));
	db->nr_trees = number + 1;
	return 0;
}

int directory_load(struct exdb_worker *w)
{
	struct btree_cursor cursor = { .root = DIRECTORY_ROOT };
	int ret;

	w->db->nr_trees = 1;
	w->db->free_tree = 1;
	ret = btree_scan(w, &cursor, load_tree, w->db);
	return ret ? ret : runs_load(w);
}
