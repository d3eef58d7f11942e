// SPDX-License-Identifier: MIT
/* Splits, from the root down, so that they never have to climb. */
#include "latch.h"

unsigned int btree_separator_length(const uint8_t *left, unsigned int left_length,
				    const uint8_t *right, unsigned int right_length)
{
	const unsigned int i = key_common(left, left_length, right, right_length);

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

/* Whether the slots before @cut and an entry fit into one leaf, behind what is left of the prefix. */
static bool fits_before(const struct node *node, unsigned int cut, const struct btree_entry *entry)
{
	const unsigned int prefix = node_shared(node, entry->key, entry->key_length);
	unsigned int sum = node_entry_size(entry->key_length, entry->value_length);
	unsigned int i;

	for (i = 0; i < cut; i++)
		sum += node_slot_size(node, i) + node->prefix_length - prefix;
	return sum <= NODE_SPACE;
}

/*
 * Where to cut a leaf: where @entry belongs if keys arrive in order, or if it has so little in common with
 * the first ones that half of them would not do without their prefix; else, and then not *own, in the middle.
 */
static unsigned int cut_leaf(const struct node *node, const struct btree_entry *entry,
			     const struct btree_entry *previous, bool *own)
{
	const unsigned int middle = node_middle(node);
	bool found;
	unsigned int i = node_lower_bound(node, entry->key, entry->key_length, &found);

	*own = !found && (is_ascending(node, i, middle, previous) ||
			  (!i && !fits_before(node, middle, entry)));
	return *own ? i : middle;
}

/* What is greater than all keys that go left: those before @cut, and, with @own, that of @entry. */
static void separate(const struct node *node, unsigned int cut, const struct btree_entry *entry,
		     bool own, struct fence *separator)
{
	struct btree_row last = { .key = entry->key, .key_length = entry->key_length };
	struct btree_row first = last;
	struct exdb_key left, right;

	if (!own || cut == node->count)
		last = btree_row_at(node, cut - 1, &left);
	if (cut < node->count)
		first = btree_row_at(node, cut, &right);
	fence_set(separator, first.key,
		  btree_separator_length(last.key, last.key_length, first.key, first.key_length));
}

/*
 * A leaf in two.  What lies behind @entry where that is cut goes to the right, and the left half is
 * filled up with what comes next; if nothing does, the left half is full, and @entry begins the right one.
 */
static void split_leaf(struct latched *left, struct latched *right,
		       const struct btree_entry *entry, const struct btree_entry *previous,
		       struct fence *separator)
{
	struct node *node = left->node;
	bool own, to_left;
	const unsigned int cut = cut_leaf(node, entry, previous, &own);

	separate(node, cut, entry, own, separator);
	to_left = fence_is_above(separator, entry->key, entry->key_length);
	node_init(right->node, right->page, 0);
	if (cut < node->count) {
		node_move_tail(node, cut, right->node, to_left ? NULL : entry->key,
			       entry->key_length);
		if (cut)
			node_squeeze(node, to_left ? entry->key : NULL, entry->key_length, 0);
	}
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
	fence_take(separator, node, up);
	node_init(right->node, right->page, node->header.level);
	node_copy(node, up + 1, node->count, right->node);
	right->node->link = node->link;
	node->link = node_child(node, up);
	node_truncate(node, up);
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
	if (node_is_leaf(node))
		return !node_fits(node, entry->key, entry->key_length, entry->value_length, 0);
	return node_free_space(node) < NODE_INNER_RESERVE;
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
