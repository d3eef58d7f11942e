// SPDX-License-Identifier: MIT
/*
 * Scans of a tree to the left.  Leaves have no link to the left, and nobody
 * latches leftwards: each leaf is come to from the root, and the separator that
 * led there says where the next one ends.
 */
#include <errno.h>
#include <string.h>

#include "btree.h"

/**
 * struct arrival - a leaf under a shared latch
 * @page: its number
 * @leaf: its content
 * @from: its keys are not less than this one
 */
struct arrival {
	uint64_t page;
	const struct node *leaf;
	struct fence from;
};

/* First slot whose key the cursor does not want because it is too great. */
static unsigned int end_of(const struct node *node, const struct btree_cursor *cursor)
{
	bool found;

	if (!cursor->bounded)
		return node->count;
	return node_lower_bound(node, cursor->high.bytes, cursor->high.length, &found);
}

/* Whether no key below separator @i is wanted. */
static bool is_unwanted_below(const struct btree_cursor *cursor, const struct node *node,
			      unsigned int i)
{
	return node_compare(node, i, cursor->low.bytes, cursor->low.length) >= 0;
}

/* Read child @i and those to its left that the scan will want. */
static int read_ahead(struct exdb_worker *w, struct btree_cursor *cursor, const struct node *node,
		      unsigned int i)
{
	uint64_t pages[PREFETCH_MAX];
	unsigned int n = 0;

	if (cursor->ahead) {
		cursor->ahead--;
		return 0;
	}
	while (n < cursor->prefetch) {
		pages[n++] = node_child(node, i);
		if (!i || is_unwanted_below(cursor, node, i - 1))
			break;
		i--;
	}
	cursor->ahead = n ? n - 1 : 0;
	return buffer_prefetch(w, pages, n);
}

/* From the page above the leaves to the leaf of the greatest key that is wanted. */
static int step_down(struct exdb_worker *w, struct btree_cursor *cursor, const struct node *node,
		     struct arrival *at)
{
	const unsigned int i = end_of(node, cursor);
	const uint64_t child = node_child(node, i), parent = at->page;
	int ret;

	if (i)
		fence_take(&at->from, node, i - 1);
	ret = read_ahead(w, cursor, node, i);
	if (!ret)
		ret = btree_fix(w, child, 0, &at->leaf);
	buffer_unfix_shared(w, parent);
	at->page = child;
	return ret;
}

static int seek(struct exdb_worker *w, struct btree_cursor *cursor, struct arrival *at)
{
	const struct btree_way way = {
		.root = cursor->root,
		.key = cursor->bounded ? cursor->high.bytes : NULL,
		.length = cursor->high.length,
		.before = true,
		.level = 1,
		.below = &at->from,
	};
	const struct node *node;
	int ret = btree_descend(w, &way, &at->page, &node);

	at->leaf = node;
	if (!ret && !node_is_leaf(node))
		ret = step_down(w, cursor, node, at);
	return ret;
}

/* Rows of the leaf, backwards.  0 if all were taken, 1 if the scan is to stop, or -errno. */
static int scan_leaf(struct btree_cursor *cursor, const struct node *leaf, btree_row_fn fn,
		     void *arg)
{
	unsigned int i, end = end_of(leaf, cursor);
	struct exdb_key room;
	int ret;

	for (i = end; i > 0; i--) {
		const struct btree_row row = btree_row_at(leaf, i - 1, &room);

		if (node_compare(leaf, i - 1, cursor->low.bytes, cursor->low.length) > 0) {
			cursor->done = true;
			return 1;
		}
		ret = fn(arg, &row);
		if (!ret)
			continue;
		if (i < end) {
			node_copy_key(&cursor->high, leaf, i);
			cursor->bounded = true;
		}
		/* the same leaf again */
		cursor->ahead += cursor->prefetch > 0;
		return ret;
	}
	return 0;
}

int btree_scan_leaf_reverse(struct exdb_worker *w, struct btree_cursor *cursor, btree_row_fn fn,
			    void *arg)
{
	struct arrival at;
	int ret = seek(w, cursor, &at);

	if (ret)
		return ret;
	ret = scan_leaf(cursor, at.leaf, fn, arg);
	if (ret == -EUCLEAN)
		w->error_page = at.page;
	buffer_unfix_shared(w, at.page);
	if (ret)
		return ret;
	if (!at.from.bounded || !fence_is_above(&at.from, cursor->low.bytes, cursor->low.length)) {
		cursor->done = true;
		return 0;
	}
	cursor->high.length = at.from.length;
	memcpy(cursor->high.bytes, at.from.key, at.from.length);
	cursor->bounded = true;
	return 0;
}
