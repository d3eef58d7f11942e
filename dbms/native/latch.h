/* SPDX-License-Identifier: MIT */
/*
 * Changing a tree: nodes under exclusive latches, and the steps from the root
 * down that make room before an insertion and mend pages after a removal.
 *
 * Latches are taken root to leaf and left to right.  Who holds the parent of a
 * node exclusively is alone in coming to that node from above; scans come from
 * its left neighbour, so that two neighbours are latched left first.
 */
#ifndef EXDB_LATCH_H
#define EXDB_LATCH_H

#include <errno.h>
#include <string.h>

#include "btree.h"

/* A node that is latched exclusively. */
struct latched {
	uint64_t page;
	struct node *node;
	bool dirty;
};

/* As btree_fix(). */
static inline int latch(struct exdb_worker *w, uint64_t page, int level, struct latched *l)
{
	void *mem;
	int ret = buffer_fix_exclusive(w, page, &mem);

	if (!ret && !node_is_at(mem, level)) {
		buffer_unfix_exclusive(w, page, false);
		w->error_page = page;
		ret = -EUCLEAN;
	}
	*l = (struct latched){ .page = page, .node = ret ? NULL : mem };
	return ret;
}

static inline void unlatch(struct exdb_worker *w, const struct latched *l)
{
	buffer_unfix_exclusive(w, l->page, l->dirty);
}

static inline int latch_new(struct exdb_worker *w, struct latched *l)
{
	void *mem;
	int ret = buffer_allocate(w, &l->page, &mem);

	l->node = ret ? NULL : mem;
	l->dirty = true;
	return ret;
}

/* btree.c: the leaf for an entry, and what its keys are less than. */
int btree_latch_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		     struct latched *leaf, struct fence *fence);

/*
 * split.c: what goes down from the root for @entry; its value has no bytes if
 * it is only a place to go to.  @previous came before it in the batch, or NULL.
 */
bool btree_is_full(const struct node *node, const struct btree_entry *entry);
int btree_grow_root(struct exdb_worker *w, struct latched *root);
int btree_split_child(struct exdb_worker *w, struct latched *parent, unsigned int i,
		      struct latched *child, const struct btree_entry *entry,
		      const struct btree_entry *previous);
int btree_make_room(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		    const struct btree_entry *previous);

/* split.c: length of the shortest prefix of @right that is greater than @left. */
unsigned int btree_separator_length(const uint8_t *left, unsigned int left_length,
				    const uint8_t *right, unsigned int right_length);

/* balance.c: whether all keys of one leaf come before those of the other one, as they do unless pages are damaged. */
bool btree_leaves_ascend(const struct node *left, const struct node *right);

/*
 * balance.c: whether the entries of two leaves, which ascend, fit into one, which becomes the left one; or,
 * where they do not, have entries of the fuller one go to the other as long as that does not become it.
 */
bool btree_leaves_fit(const struct node *left, const struct node *right);
void btree_join_leaves(struct node *left, const struct node *right);
void btree_balance_leaves(struct node *left, struct node *right, struct fence *separator);

#endif /* EXDB_LATCH_H */
