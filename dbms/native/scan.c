// SPDX-License-Identifier: MIT
/*
 * Scans of a tree to the right.  A scan follows the leaves' links; every so
 * many leaves it descends once more to learn from an inner page which leaves
 * come next, and has those that are absent read with one vector.
 */
#include <errno.h>
#include <string.h>

#include "btree.h"

/* A leaf under a shared latch. */
struct position {
	uint64_t page;
	const struct node *leaf;
	unsigned int ahead; /* leaves to the right that have been prefetched */
};

/* The children from @i on that the scan will want. */
static unsigned int children_ahead(const struct node *node, unsigned int i,
				   const struct btree_cursor *cursor, uint64_t *pages)
{
	const struct exdb_key *high = &cursor->high;
	unsigned int n = 0;

	for (; i <= node->count && n < cursor->prefetch; i++) {
		pages[n++] = node_child(node, i);
		if (i < node->count && cursor->bounded &&
		    node_compare(node, i, high->bytes, high->length) <= 0)
			break;
	}
	return n;
}

/* Find the leaf of cursor->low, reading it and its neighbours. */
static int seek(struct exdb_worker *w, const struct btree_cursor *cursor, struct position *at)
{
	uint64_t pages[PREFETCH_MAX];
	const struct node *node;
	const void *mem;
	unsigned int n = 0;
	int ret = buffer_fix_shared(w, cursor->root, &mem);

	if (ret)
		return ret;
	at->page = cursor->root;
	for (node = mem; !node_is_leaf(node); node = mem) {
		unsigned int i = node_upper_bound(node, cursor->low.bytes, cursor->low.length);
		uint64_t child = node_child(node, i);

		if (node->header.level == 1) {
			n = children_ahead(node, i, cursor, pages);
			ret = buffer_prefetch(w, pages, n);
		}
		if (!ret)
			ret = buffer_fix_shared(w, child, &mem);
		buffer_unfix_shared(w, at->page);
		if (ret)
			return ret;
		at->page = child;
	}
	at->leaf = node;
	at->ahead = n ? n - 1 : 0;
	return 0;
}

/* Rows of one leaf from slot @i on.  0 at its end, 1 if the scan is to stop, or -errno. */
static int scan_leaf(struct btree_cursor *cursor, const struct node *leaf, unsigned int i,
		     btree_row_fn fn, void *arg)
{
	const struct exdb_key *high = &cursor->high;
	int ret;

	for (; i < leaf->count; i++) {
		const struct btree_row row = btree_row_at(leaf, i);

		if (cursor->bounded && node_compare(leaf, i, high->bytes, high->length) <= 0) {
			cursor->done = true;
			return 1;
		}
		ret = fn(arg, &row);
		if (ret) {
			node_copy_key(&cursor->low, leaf, i);
			return ret;
		}
	}
	return 0;
}

/* Go to the right neighbour; 1 at the end of the tree. */
static int step(struct exdb_worker *w, struct btree_cursor *cursor, struct position *at)
{
	uint64_t next = at->leaf->link;
	const void *mem;
	int ret;

	if (!next) {
		cursor->done = true;
		return 1;
	}
	ret = buffer_fix_shared(w, next, &mem);
	if (ret)
		return ret;
	buffer_unfix_shared(w, at->page);
	at->page = next;
	at->leaf = mem;
	at->ahead -= at->ahead > 0;
	return 0;
}

/* Leaves from the cursor on, as far as has been prefetched, but at least two. */
static int scan_run(struct exdb_worker *w, struct btree_cursor *cursor, btree_row_fn fn, void *arg)
{
	struct position at;
	unsigned int i;
	bool more, found;
	int ret = seek(w, cursor, &at);

	if (ret)
		return ret;
	i = node_lower_bound(at.leaf, cursor->low.bytes, cursor->low.length, &found);
	do {
		more = at.ahead > 0 || !cursor->prefetch;
		ret = scan_leaf(cursor, at.leaf, i, fn, arg);
		if (!ret)
			ret = step(w, cursor, &at);
		i = 0;
	} while (!ret && (more || !at.leaf->count));
	if (!ret)
		node_copy_key(&cursor->low, at.leaf, 0);
	buffer_unfix_shared(w, at.page);
	return ret;
}

int btree_scan(struct exdb_worker *w, struct btree_cursor *cursor, btree_row_fn fn, void *arg)
{
	int ret = 0;

	while (!ret && !cursor->done) {
		if (cursor->reverse)
			ret = btree_scan_leaf_reverse(w, cursor, fn, arg);
		else
			ret = scan_run(w, cursor, fn, arg);
	}
	return ret < 0 ? ret : 0;
}
