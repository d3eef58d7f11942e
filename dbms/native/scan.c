// SPDX-License-Identifier: MIT
/*
 * Scans of a tree to the right.  A scan follows the leaves' links; every so
 * many leaves it descends once more to learn from an inner page which leaves
 * come next, and has those that are absent read with one vector.
 */
#include <errno.h>
#include <string.h>

#include "btree.h"

#define CACHE_LINE	64u

/* A leaf under a shared latch. */
struct position {
	uint64_t page;
	const struct node *leaf;
	unsigned int ahead; /* leaves to the right that have been prefetched */
	unsigned int empty; /* leaves without a row that have been passed since the last one */
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

/* From the page above the leaves to the leaf of cursor->low, reading that and its neighbours. */
static int step_down(struct exdb_worker *w, const struct btree_cursor *cursor,
		     const struct node *node, struct position *at)
{
	const unsigned int i = node_upper_bound(node, cursor->low.bytes, cursor->low.length);
	const uint64_t child = node_child(node, i), parent = at->page;
	uint64_t pages[PREFETCH_MAX];
	unsigned int n = children_ahead(node, i, cursor, pages);
	int ret = buffer_prefetch(w, pages, n);

	if (!ret)
		ret = btree_fix(w, child, 0, &at->leaf);
	buffer_unfix_shared(w, parent);
	at->page = child;
	at->ahead = n ? n - 1 : 0;
	return ret;
}

static int seek(struct exdb_worker *w, const struct btree_cursor *cursor, struct position *at)
{
	const struct btree_way way = {
		.root = cursor->root,
		.key = cursor->low.bytes,
		.length = cursor->low.length,
		.level = 1,
	};
	const struct node *node;
	int ret = btree_descend(w, &way, &at->page, &node);

	at->leaf = node;
	at->empty = 0;
	at->ahead = 0;
	if (!ret && !node_is_leaf(node))
		ret = step_down(w, cursor, node, at);
	return ret;
}

/* The slot behind the last row that the cursor wants. */
static unsigned int end_of(const struct btree_cursor *cursor, const struct node *leaf)
{
	const struct exdb_key *high = &cursor->high;
	bool found;

	if (!cursor->bounded || !leaf->count ||
	    node_compare(leaf, leaf->count - 1, high->bytes, high->length) > 0)
		return leaf->count;
	return node_lower_bound(leaf, high->bytes, high->length, &found);
}

/* Rows of a leaf one by one: how many were taken, and in *ret why no more. */
static unsigned int take_rows(const struct node *leaf, unsigned int from, unsigned int n,
			      btree_row_fn fn, void *arg, int *ret)
{
	struct exdb_key room;
	unsigned int i;

	for (i = 0; i < n; i++) {
		const struct btree_row row = btree_row_at(leaf, from + i, &room);

		*ret = fn(arg, &row);
		if (*ret)
			break;
	}
	return i;
}

/*
 * Have a page in the processor's cache: it is quick to read one from its beginning to its end,
 * and slow to read rows, which lie backwards in it.
 */
static void touch(const void *page)
{
	const volatile uint8_t *line = page;
	unsigned int i;

	for (i = 0; i < PAGE_SIZE; i += CACHE_LINE)
		(void)line[i];
}

/* All rows of a leaf at once: likewise. */
static unsigned int take_leaf(const struct btree_cursor *cursor, const struct node *leaf,
			      unsigned int from, unsigned int n, void *arg, int *ret)
{
	unsigned int done = 0;
	long taken;

	if (n == leaf->count)
		touch(leaf);
	while (done < n) {
		taken = cursor->leaf_fn(arg, leaf, from + done, n - done);
		if (taken <= 0) {
			*ret = taken ? (int)taken : 1;
			break;
		}
		done += taken;
	}
	return done;
}

/* Rows of one leaf from slot @i on.  0 at its end, 1 if the scan is to stop, or -errno. */
static int scan_leaf(struct btree_cursor *cursor, const struct node *leaf, unsigned int i,
		     btree_row_fn fn, void *arg)
{
	const unsigned int end = end_of(cursor, leaf), n = end > i ? end - i : 0;
	unsigned int taken;
	int ret = 0;

	taken = cursor->leaf_fn ? take_leaf(cursor, leaf, i, n, arg, &ret) :
				  take_rows(leaf, i, n, fn, arg, &ret);
	if (ret) {
		node_copy_key(&cursor->low, leaf, i + taken);
		return ret;
	}
	cursor->done = end < leaf->count;
	return cursor->done;
}

/* Whether a leaf that the last one links to can lie there: links that lead back have no end. */
static bool is_right_of(const struct exdb_worker *w, const struct node *leaf, struct position *at)
{
	const struct node *last = at->leaf;
	struct exdb_key key;

	if (!leaf->count || !last->count)
		return ++at->empty < w->db->next_page;
	at->empty = 0;
	node_copy_key(&key, last, last->count - 1);
	return node_compare(leaf, 0, key.bytes, key.length) < 0;
}

/* Go to the right neighbour; 1 at the end of the tree. */
static int step(struct exdb_worker *w, struct btree_cursor *cursor, struct position *at)
{
	const uint64_t next = at->leaf->link;
	const struct node *leaf;
	int ret;

	if (!next) {
		cursor->done = true;
		return 1;
	}
	ret = btree_fix(w, next, 0, &leaf);
	if (ret)
		return ret;
	if (!is_right_of(w, leaf, at)) {
		buffer_unfix_shared(w, next);
		w->error_page = next;
		return -EUCLEAN;
	}
	buffer_unfix_shared(w, at->page);
	at->page = next;
	at->leaf = leaf;
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
		if (ret == -EUCLEAN)
			w->error_page = at.page;
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
