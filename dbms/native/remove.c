// SPDX-License-Identifier: MIT
/*
 * Removal.  A page that is less than a quarter full is merged with a neighbour
 * under the same parent or, where both together do not fit, takes entries from
 * it until they are alike: from the root down, so that neither has to climb.
 * That wants room for any separator in every parent, so full ones are split on
 * the same way.
 */
#include "extent.h"
#include "latch.h"

#define UNDERFULL	(NODE_SPACE / 4)

static unsigned int used(const struct node *node)
{
	return NODE_SPACE - node_free_space(node);
}

static bool is_underfull(const struct node *node)
{
	return used(node) < UNDERFULL;
}

/* An inner page has to stay able to take any separator. */
static bool fits_in_one(const struct node *left, const struct node *right,
			const struct fence *separator)
{
	if (node_is_leaf(left))
		return btree_leaves_fit(left, right);
	return used(left) + used(right) + node_entry_size(separator->length, NODE_CHILD) +
		       NODE_INNER_RESERVE <= NODE_SPACE;
}

/* Move the first entry of the right inner page to the end of the left one. */
static void rotate_left(struct node *left, struct node *right, struct fence *separator)
{
	node_insert(left, left->count, separator->key, separator->length, &left->link, NODE_CHILD);
	left->link = node_child(right, 0);
	fence_take(separator, right, 0);
	node_remove(right, 0);
}

/* Move the last entry of the left inner page to the front of the right one. */
static void rotate_right(struct node *left, struct node *right, struct fence *separator)
{
	const unsigned int last = left->count - 1;

	node_insert(right, 0, separator->key, separator->length, &left->link, NODE_CHILD);
	left->link = node_child(left, last);
	fence_take(separator, left, last);
	node_remove(left, last);
}

/* Move entries from the fuller node as long as the other one does not become it. */
static void balance(struct node *left, struct node *right, struct fence *separator)
{
	if (node_is_leaf(left)) {
		btree_balance_leaves(left, right, separator);
	} else if (used(left) < used(right)) {
		while (used(left) + node_slot_size(right, 0) <=
		       used(right) - node_slot_size(right, 0))
			rotate_left(left, right, separator);
	} else {
		while (used(right) + node_slot_size(left, left->count - 1) <=
		       used(left) - node_slot_size(left, left->count - 1))
			rotate_right(left, right, separator);
	}
}

/* Children @i and @i + 1 of @parent become child @i, the right page is given up. */
static void merge(struct exdb_worker *w, struct latched *parent, unsigned int i,
		  struct latched *left, struct latched *right, const struct fence *separator)
{
	struct node *node = left->node;

	if (node_is_leaf(node)) {
		btree_join_leaves(node, right->node);
	} else {
		node_insert(node, node->count, separator->key, separator->length, &node->link,
			    NODE_CHILD);
		node_compact(node);
		node_copy(right->node, 0, right->node->count, node);
	}
	node->link = right->node->link;
	node_set_child(parent->node, i + 1, left->page);
	node_remove(parent->node, i);
	buffer_release(w, right->page, right->node);
}

/*
 * Latch child @i and its right neighbour.  The child is latched already, and
 * lies on the right if it is the last one: then it is let go for its neighbour.
 */
static int latch_neighbours(struct exdb_worker *w, const struct node *parent, unsigned int i,
			    const struct latched *child, struct latched *left,
			    struct latched *right)
{
	const int level = parent->header.level - 1;
	int ret;

	if (child->page == node_child(parent, i)) {
		*left = *child;
	} else {
		unlatch(w, child);
		ret = latch(w, node_child(parent, i), level, left);
		if (ret)
			return ret;
	}
	ret = latch(w, node_child(parent, i + 1), level, right);
	if (ret)
		unlatch(w, left);
	return ret;
}

/* Mend child @i of @parent, which has another one; *child stays the one for its keys. */
static int mend_child(struct exdb_worker *w, struct latched *parent, unsigned int i,
		      struct latched *child)
{
	struct latched left, right;
	struct fence separator;
	const bool last = i == parent->node->count;
	int ret;

	i -= last;
	ret = latch_neighbours(w, parent->node, i, child, &left, &right);
	if (ret)
		return ret;
	if (node_is_leaf(left.node) && !btree_leaves_ascend(left.node, right.node)) {
		w->error_page = right.page;
		unlatch(w, &left);
		unlatch(w, &right);
		return -EUCLEAN;
	}
	parent->dirty = true;
	left.dirty = true;
	right.dirty = true;
	fence_take(&separator, parent->node, i);
	if (fits_in_one(left.node, right.node, &separator)) {
		merge(w, parent, i, &left, &right, &separator);
		*child = left;
		return 0;
	}
	balance(left.node, right.node, &separator);
	node_remove(parent->node, i);
	node_insert(parent->node, i, separator.key, separator.length, &left.page, NODE_CHILD);
	unlatch(w, last ? &left : &right);
	*child = last ? right : left;
	return 0;
}

/* The root's only child becomes the root. */
static void shrink_root(struct exdb_worker *w, struct latched *root, struct latched *child)
{
	memcpy(root->node, child->node, PAGE_SIZE);
	root->node->header.number = root->page;
	root->dirty = true;
	buffer_release(w, child->page, child->node);
}

/* Go down from *parent to *child, child for @key; neither is latched after an error. */
static int mend_step(struct exdb_worker *w, struct latched *parent, const struct btree_entry *key,
		     struct latched *child)
{
	unsigned int i = node_upper_bound(parent->node, key->key, key->key_length);
	int ret = latch(w, node_child(parent->node, i), parent->node->header.level - 1, child);

	if (ret)
		goto err_parent;
	if (!node_is_leaf(child->node) && btree_is_full(child->node, key)) {
		ret = btree_split_child(w, parent, i, child, key, NULL);
		if (ret)
			goto err_child;
		i = node_upper_bound(parent->node, key->key, key->key_length);
	}
	if (is_underfull(child->node) && parent->node->count) {
		ret = mend_child(w, parent, i, child);
		if (ret)
			goto err_parent;
	}
	return 0;

err_child:
	unlatch(w, child);
err_parent:
	unlatch(w, parent);
	return ret;
}

/* Mend what is underfull between the root and the leaf of @key. */
static int mend(struct exdb_worker *w, uint64_t root, const struct btree_entry *key)
{
	struct latched parent, child;
	int ret = latch(w, root, NODE_ROOT, &parent);

	if (!ret && !node_is_leaf(parent.node) && btree_is_full(parent.node, key)) {
		ret = btree_grow_root(w, &parent);
		if (ret)
			unlatch(w, &parent);
	}
	if (ret)
		return ret;
	while (!node_is_leaf(parent.node)) {
		ret = mend_step(w, &parent, key, &child);
		if (ret)
			return ret;
		if (!parent.node->count && parent.page == root) {
			shrink_root(w, &parent, &child);
			continue;
		}
		unlatch(w, &parent);
		parent = child;
	}
	unlatch(w, &parent);
	return 0;
}

/* Remove those of the keys that belong into the leaf of the first; *sparse if few are left. */
static int empty_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *keys,
		      size_t n, size_t *done, size_t *removed, bool *sparse)
{
	struct fence fence;
	struct latched leaf;
	int ret = btree_latch_leaf(w, root, keys, &leaf, &fence);

	if (ret)
		return ret;
	for (; *done < n; (*done)++) {
		const struct btree_entry *key = &keys[*done];
		struct exdb_key room;
		struct btree_row row;
		unsigned int i;
		bool found;

		if (*done && !fence_is_above(&fence, key->key, key->key_length))
			break;
		i = node_lower_bound(leaf.node, key->key, key->key_length, &found);
		if (!found)
			continue;
		row = btree_row_at(leaf.node, i, &room);
		ret = extent_note_dropped(w->db, &row);
		if (ret)
			break;
		node_remove(leaf.node, i);
		leaf.dirty = true;
		(*removed)++;
	}
	/* whatever was removed: who tries again after an error ends what was begun */
	*sparse = leaf.page != root && is_underfull(leaf.node);
	unlatch(w, &leaf);
	return ret;
}

int btree_remove(struct exdb_worker *w, uint64_t root, const struct btree_entry *keys, size_t n,
		 size_t *removed)
{
	int ret = 0, unmended = 0;

	*removed = 0;
	while (!ret && n) {
		bool sparse = false;
		size_t done = 0;

		ret = empty_leaf(w, root, keys, n, &done, removed, &sparse);
		if (!ret && sparse && mend(w, root, keys))
			unmended = BTREE_UNMENDED;
		keys += done;
		n -= done;
	}
	return ret ? ret : unmended;
}
