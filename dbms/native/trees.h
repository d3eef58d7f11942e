/* SPDX-License-Identifier: MIT */
/*
 * The numbers of trees, and the directory, a tree without a number, which has their roots.
 *
 * A tree that is dropped is nobody's any more.  Its pages are given back in parts (trim.c), but for
 * its root, which ends as an empty leaf and serves the next tree of that number.  So a page that was
 * a root once is never anything else: whoever has looked a root up and comes to it after the drop finds
 * a sound node, and is told afterwards that the number means something else now (tree_has_changed).
 */
#ifndef EXDB_TREES_H
#define EXDB_TREES_H

#include "buffer.h"

#define DIRECTORY_ROOT	1u

/* In the directory, and in tree.root: the page is the root of a tree that was dropped. */
#define TREE_DROPPED	(1ULL << 63)
/* Its rows have had large values, so that its leaves are read before they are given back. */
#define TREE_LARGE	(1ULL << 62)
#define TREE_PAGE	(TREE_LARGE - 1)

/**
 * struct tree - what a number means; written under exdb.commit
 * @root: as the directory has it, 0 for none
 * @since: the first catalog for which that is so
 * @empty: it was dropped, and nothing but the root is left
 * @claimed: a transaction is about to make it
 */
struct tree {
	uint64_t root;
	uint64_t since;
	bool empty;
	bool claimed;
};

/* freeze.c: the same as tree_root of a worker with a view. */
uint64_t freeze_root(const struct exdb_freeze *freeze, uint32_t number);

/* The root of a tree that there is for this worker, or 0. */
static inline uint64_t tree_root(const struct exdb_worker *w, uint32_t number)
{
	uint64_t root;

	if (w->view)
		return freeze_root(w->view, number);
	root = __atomic_load_n(&w->db->trees[number].root, __ATOMIC_ACQUIRE);
	return root & TREE_DROPPED ? 0 : root & TREE_PAGE;
}

/*
 * Ask after reading from the tree: whether the number has come to mean something else since the catalog had
 * the number @schema, which is 0 if that does not matter.
 */
static inline bool tree_has_changed(const struct exdb_worker *w, uint32_t number, uint64_t schema)
{
	if (w->view || !schema)
		return false;
	return __atomic_load_n(&w->db->trees[number].since, __ATOMIC_ACQUIRE) > schema;
}

/* With exdb.commit held: a number that is free, for a transaction, until it is unclaimed; -ENFILE. */
int tree_claim(struct exdb *db, uint32_t *number);
void tree_unclaim(struct exdb *db, uint32_t number);

/* For recovery, and with exdb.commit held.  -EUCLEAN if there is no such tree, or (create) there is. */
int tree_create(struct exdb_worker *w, uint32_t number);
int tree_drop(struct exdb_worker *w, uint32_t number);
int tree_note_large(struct exdb_worker *w, uint32_t number);
/* Give back a part of what was dropped: 1 if there is more. */
int tree_trim(struct exdb_worker *w, uint32_t number);

/* Bring in what the above will need. */
int tree_drop_probe(struct exdb_worker *w, uint32_t number);
int tree_trim_probe(struct exdb_worker *w, uint32_t number);

/* For a freeze, with exdb.commit held: the roots of the trees that there are; free() it. */
uint64_t *trees_copy(const struct exdb *db);

int directory_create(struct exdb_worker *w);
int directory_load(struct exdb_worker *w);

#endif /* EXDB_TREES_H */
