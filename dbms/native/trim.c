// SPDX-License-Identifier: MIT
/*
 * Giving back a tree that nobody wants any more, from its first leaf on.  Who still scans it has
 * latched a page further to the right, and is waited for.
 *
 * A part is one page above the leaves, with its leaves.  These are not read, unless there may be extents
 * that nothing else leads to: what they have does not matter.
 */
#include "extent.h"
#include "latch.h"

/* Pages under exclusive latches, from the root down by first children. */
struct path {
	struct latched nodes[NODE_LEVEL_MAX + 1];
	unsigned int depth;
};

static void unlatch_all(struct exdb_worker *w, struct path *path)
{
	while (path->depth)
		unlatch(w, &path->nodes[--path->depth]);
}

static int latch_path(struct exdb_worker *w, uint64_t root, struct path *path)
{
	int ret = latch(w, root, NODE_ROOT, &path->nodes[0]);

	path->depth = !ret;
	while (!ret && path->nodes[path->depth - 1].node->header.level > 1) {
		const struct node *node = path->nodes[path->depth - 1].node;

		ret = latch(w, node_child(node, 0), node->header.level - 1,
			    &path->nodes[path->depth]);
		path->depth += !ret;
	}
	if (ret)
		unlatch_all(w, path);
	return ret;
}

static int drop_extents(struct exdb_worker *w, const struct node *leaf)
{
	struct exdb_key room;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < leaf->count && !ret; i++) {
		const struct btree_row row = btree_row_at(leaf, i, &room);

		ret = extent_note_dropped(w->db, &row);
	}
	return ret;
}

/* Of a leaf that has extents the content; of others it does not matter what it is. */
static int latch_leaf(struct exdb_worker *w, uint64_t page, bool large, void **mem)
{
	int ret = large ? buffer_fix_exclusive(w, page, mem) : buffer_fix_unread(w, page, mem);

	if (ret < 0)
		return ret;
	if ((large || !ret) && !node_is_at(*mem, 0))
		ret = -EUCLEAN;
	if (!ret && large)
		ret = drop_extents(w, *mem);
	if (ret < 0)
		buffer_unfix_exclusive(w, page, false);
	return ret < 0 ? ret : 0;
}

static int release_leaf(struct exdb_worker *w, const struct path *path, uint64_t page, bool large)
{
	unsigned int i;
	void *mem;
	int ret = 0;

	w->error_page = page;
	for (i = 0; i < path->depth; i++)
		if (path->nodes[i].page == page)
			return -EUCLEAN;
	ret = latch_leaf(w, page, large, &mem);
	if (!ret)
		buffer_release(w, page, mem);
	return ret;
}

/* 1 if that was the last child. */
static int remove_first_child(struct latched *parent)
{
	parent->dirty = true;
	if (!parent->node->count)
		return 1;
	node_remove(parent->node, 0);
	return 0;
}

static int release_leaves(struct exdb_worker *w, struct path *path, bool large)
{
	struct latched *parent = &path->nodes[path->depth - 1];
	int ret = 0;

	while (!ret) {
		ret = release_leaf(w, path, node_child(parent->node, 0), large);
		if (!ret)
			ret = remove_first_child(parent);
	}
	return ret < 0 ? ret : 0;
}

/* The last page of the path has no child left: so it goes, and whoever has no other child; the root stays. */
static void release_path(struct exdb_worker *w, struct path *path)
{
	struct latched *root = &path->nodes[0];
	int last = 1;

	while (last && path->depth > 1) {
		const struct latched *node = &path->nodes[--path->depth];

		buffer_release(w, node->page, node->node);
		last = remove_first_child(&path->nodes[path->depth - 1]);
	}
	if (last)
		node_init(root->node, root->page, 0);
}

int btree_trim(struct exdb_worker *w, uint64_t root, bool large)
{
	struct path path;
	int ret = latch_path(w, root, &path);

	if (ret)
		return ret;
	if (node_is_leaf(path.nodes[0].node)) {
		path.nodes[0].dirty = true;
		ret = drop_extents(w, path.nodes[0].node);
		node_init(path.nodes[0].node, root, 0);
	} else {
		ret = release_leaves(w, &path, large);
		if (!ret)
			release_path(w, &path);
	}
	if (!ret)
		ret = !node_is_leaf(path.nodes[0].node);
	unlatch_all(w, &path);
	return ret;
}

static int probe_leaves(struct exdb_worker *w, const struct node *parent)
{
	const struct node *leaf;
	unsigned int i;
	int ret = 0;

	for (i = 0; i <= parent->count && !ret; i++) {
		ret = btree_fix(w, node_child(parent, i), 0, &leaf);
		if (!ret)
			buffer_unfix_shared(w, node_child(parent, i));
	}
	return ret;
}

int btree_trim_probe(struct exdb_worker *w, uint64_t root, bool large)
{
	const struct node *node, *next;
	uint64_t page = root, child;
	int ret = btree_fix(w, root, NODE_ROOT, &node);

	if (ret)
		return ret;
	while (node->header.level > 1) {
		child = node_child(node, 0);
		ret = btree_fix(w, child, node->header.level - 1, &next);
		buffer_unfix_shared(w, page);
		if (ret)
			return ret;
		node = next;
		page = child;
	}
	if (large && !node_is_leaf(node))
		ret = probe_leaves(w, node);
	buffer_unfix_shared(w, page);
	return ret;
}
