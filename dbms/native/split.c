// SPDX-License-Identifier: MIT
/* Splits, from the root down, so that they never have to climb. */
#include "latch.h"

unsigned int btree_separator_length(const uint8_t *left, unsigned int left_length,
				    const uint8_t *right, unsigned int right_length)
{
	unsigned int i = 0;

	while (i < left_length && i < right_length && left[i] == right[i])
		i++;
	return i < right_length ? i + 1 : right_length;
}

/*
 * Where keys arrive in order: at the end of the leaf, or in its right half just
 * behind the last entry of the same batch.
 */
static bool is_ascending(const struct node *node, unsigned int i, unsigned int middle,
			 const struct btree_entry *previous)
{
	if (i == node->count)
		return true;
	return i >= middle && previous &&
	       !node_compare(node, i - 1, previous->key, previous->key_length);
}

/*
 * A leaf in two.  Where keys arrive in order it is cut where @entry belongs; else in
 * the middle.  What lies behind @entry then goes to the right, and the left half is
 * filled up with what comes next; if nothing does, the left half is full, and @entry
 * begins the right one.
 */
static void split_leaf(struct latched *left, struct latched *right,
		       const struct btree_entry *entry, const struct btree_entry *previous,
		       struct fence *separator)
{
	struct node *node = left->node;
	unsigned int cut = node_middle(node);
	struct btree_row last, first;
	bool found;
	unsigned int i = node_lower_bound(node, entry->key, entry->key_length, &found);
	const bool ascending = !found && is_ascending(node, i, cut, previous);
	const struct btree_row own = { .key = entry->key, .key_length = entry->key_length };

	if (ascending)
		cut = i;
	last = ascending && cut < node->count ? own : btree_row_at(node, cut - 1);
	first = cut < node->count ? btree_row_at(node, cut) : own;
	fence_set(separator, first.key,
		  btree_separator_length(last.key, last.key_length, first.key, first.key_length));
	node_init(right->node, right->page, 0);
	node_move_tail(node, cut, right->node);
	right->node->link = node->link;
	node->link = right->page;
}

/* An inner page in two: its middle separator goes up. */
static void split_inner(struct latched *left, struct latched *right,
			const struct btree_entry *entry, struct fence *separator)
{
	struct node *node = left->node;
	unsigned int last = node->count - 1;
	unsigned int up = node_middle(node) - 1;

	if (node_compare(node, last, entry->key, entry->key_length) >= 0)
		up = last;
	fence_set(separator, node_key(node, up), node->slots[up].key_length);
	node_init(right->node, right->page, node->header.level);
	node_move_tail(node, up + 1, right->node);
	right->node->link = node->link;
	node->link = node_child(node, up);
	node_remove(node, up);
}

/* Split @child, which is child @i of @parent; *child becomes the half for @entry. */
int btree_split_child(struct exdb_worker *w, struct latched *parent, unsigned int i,
		      struct latched *child, const struct btree_entry *entry,
		      const struct btree_entry *previous)
{
	struct fence separator;
	struct latched right, *rest;
	int ret = latch_new(w, &right);

	if (ret)
		return ret;
	if (node_is_leaf(child->node))
		split_leaf(child, &right, entry, previous, &separator);
	else
		split_inner(child, &right, entry, &separator);
	/* what pointed to the child points to its right half now, the separator to the left one */
	node_set_child(parent->node, i, right.page);
	node_insert(parent->node, i, separator.key, separator.length, &child->page, NODE_CHILD);
	parent->dirty = true;
	child->dirty = true;
	rest = fence_is_above(&separator, entry->key, entry->key_length) ? &right : child;
	unlatch(w, rest);
	if (rest == child)
		*child = right;
	return 0;
}

/* Give the root's content to a new page, which becomes the root's only child. */
int btree_grow_root(struct exdb_worker *w, struct latched *root)
{
	struct latched child;
	int ret = latch_new(w, &child);

	if (ret)
		return ret;
	memcpy(child.node, root->node, PAGE_SIZE);
	child.node->header.number = child.page;
	node_init(root->node, root->page, child.node->header.level + 1);
	root->node->link = child.page;
	root->dirty = true;
	unlatch(w, &child);
	return 0;
}

bool btree_is_full(const struct node *node, const struct btree_entry *entry)
{
	unsigned int need = NODE_INNER_RESERVE;

	if (node_is_leaf(node))
		need = node_entry_size(entry->key_length, entry->value_length);
	return node_free_space(node) < need;
}

/* Make room for @entry, which follows @previous or NULL, in its leaf: from the root down. */
int btree_make_room(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		    const struct btree_entry *previous)
{
	struct latched parent, child;
	int ret = latch(w, root, NODE_ROOT, &parent);

	if (ret)
		return ret;
	if (btree_is_full(parent.node, entry))
		ret = btree_grow_root(w, &parent);
	while (!ret && !node_is_leaf(parent.node)) {
		unsigned int i = node_upper_bound(parent.node, entry->key, entry->key_length);

		ret = latch(w, node_child(parent.node, i), parent.node->header.level - 1, &child);
		if (ret)
			break;
		if (btree_is_full(child.node, entry))
			ret = btree_split_child(w, &parent, i, &child, entry, previous);
		unlatch(w, &parent);
		parent = child;
	}
	unlatch(w, &parent);
	return ret;
}
