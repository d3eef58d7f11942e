// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "btree.h"

/* A node that is latched exclusively. */
struct latched {
	uint64_t page;
	struct node *node;
	bool dirty;
};

/* What a leaf may take: keys that are less than this one. */
struct fence {
	unsigned int length;
	bool bounded;
	uint8_t key[EXDB_KEY_MAX];
};

static int latch(struct exdb_worker *w, uint64_t page, struct latched *l)
{
	void *mem;
	int ret = buffer_fix_exclusive(w, page, &mem);

	*l = (struct latched){ .page = page, .node = ret ? NULL : mem };
	return ret;
}

static void unlatch(struct exdb_worker *w, const struct latched *l)
{
	buffer_unfix_exclusive(w, l->page, l->dirty);
}

static int latch_new(struct exdb_worker *w, struct latched *l)
{
	void *mem;
	int ret = buffer_allocate(w, &l->page, &mem);

	l->node = ret ? NULL : mem;
	l->dirty = true;
	return ret;
}

int btree_create(struct exdb_worker *w, uint64_t *root)
{
	struct latched leaf;
	int ret = latch_new(w, &leaf);

	if (ret)
		return ret;
	node_init(leaf.node, leaf.page, 0);
	unlatch(w, &leaf);
	*root = leaf.page;
	return 0;
}

static void set_fence(struct fence *fence, const struct node *node, unsigned int i)
{
	if (!fence || i == node->count)
		return;
	fence->bounded = true;
	fence->length = node->slots[i].key_length;
	memcpy(fence->key, node_key(node, i), fence->length);
}

/* The leaf for @key, latched exclusively, and the keys that it may take. */
static int find_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		     struct latched *leaf, struct fence *fence)
{
	const struct node *node, *next;
	const void *mem;
	uint64_t page = root, child;
	unsigned int i;
	int ret;

restart:
	ret = buffer_fix_shared(w, root, &mem);
	if (ret)
		return ret;
	node = mem;
	if (node_is_leaf(node)) {
		buffer_unfix_shared(w, root);
		ret = latch(w, root, leaf);
		if (ret || node_is_leaf(leaf->node))
			return ret;
		unlatch(w, leaf);
		goto restart;
	}
	while (node->header.level > 1) {
		i = node_upper_bound(node, entry->key, entry->key_length);
		set_fence(fence, node, i);
		child = node_child(node, i);
		ret = buffer_fix_shared(w, child, &mem);
		next = mem;
		buffer_unfix_shared(w, page);
		if (ret)
			return ret;
		node = next;
		page = child;
	}
	i = node_upper_bound(node, entry->key, entry->key_length);
	set_fence(fence, node, i);
	ret = latch(w, node_child(node, i), leaf);
	buffer_unfix_shared(w, page);
	return ret;
}

#define LEAF_FULL 1

/* 0, -EEXIST, or LEAF_FULL. */
static int put(struct latched *leaf, const struct btree_entry *entry, bool replace)
{
	struct node *node = leaf->node;
	unsigned int size = node_entry_size(entry->key_length, entry->value_length);
	unsigned int freed = 0;
	bool found;
	unsigned int i = node_lower_bound(node, entry->key, entry->key_length, &found);

	if (found && !replace)
		return -EEXIST;
	if (found)
		freed = node_entry_size(node->slots[i].key_length, node->slots[i].value_length);
	if (node_free_space(node) + freed < size)
		return LEAF_FULL;
	if (found)
		node_remove(node, i);
	node_insert(node, i, entry->key, entry->key_length, entry->value, entry->value_length);
	leaf->dirty = true;
	return 0;
}

static bool below(const struct fence *fence, const struct btree_entry *entry)
{
	unsigned int common;
	int order;

	if (!fence->bounded)
		return true;
	common = fence->length < entry->key_length ? fence->length : entry->key_length;
	order = memcmp(entry->key, fence->key, common);
	return order < 0 || (!order && entry->key_length < fence->length);
}

/* Length of the shortest prefix of @right that is greater than @left. */
static unsigned int separator_length(const uint8_t *left, unsigned int left_length,
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
 * A leaf in two.  Where keys arrive in order it is cut just before @entry, so
 * that the left half stays full; else in the middle.
 */
static void split_leaf(struct latched *left, struct latched *right,
		       const struct btree_entry *entry, const struct btree_entry *previous,
		       struct fence *separator)
{
	struct node *node = left->node;
	unsigned int cut = node_middle(node);
	const uint8_t *first = node_key(node, cut);
	unsigned int length = node->slots[cut].key_length;
	bool found;
	unsigned int i = node_lower_bound(node, entry->key, entry->key_length, &found);

	if (!found && is_ascending(node, i, cut, previous)) {
		cut = i;
		first = entry->key;
		length = entry->key_length;
	}
	separator->length = separator_length(node_key(node, cut - 1),
					     node->slots[cut - 1].key_length, first, length);
	memcpy(separator->key, first, separator->length);
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
	separator->length = node->slots[up].key_length;
	memcpy(separator->key, node_key(node, up), separator->length);
	node_init(right->node, right->page, node->header.level);
	node_move_tail(node, up + 1, right->node);
	right->node->link = node->link;
	node->link = node_child(node, up);
	node_remove(node, up);
}

/* Split @child, which is child @i of @parent; *child becomes the half for @entry. */
static int split_child(struct exdb_worker *w, struct latched *parent, unsigned int i,
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
	separator.bounded = true;
	rest = below(&separator, entry) ? &right : child;
	unlatch(w, rest);
	if (rest == child)
		*child = right;
	return 0;
}

/* Give the root's content to a new page, which becomes the root's only child. */
static int grow_root(struct exdb_worker *w, struct latched *root)
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

static bool is_full(const struct node *node, const struct btree_entry *entry)
{
	unsigned int need = NODE_INNER_RESERVE;

	if (node_is_leaf(node))
		need = node_entry_size(entry->key_length, entry->value_length);
	return node_free_space(node) < need;
}

/* Make room for @entry, which follows @previous or NULL, in its leaf: from the root down. */
static int make_room(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		     const struct btree_entry *previous)
{
	struct latched parent, child;
	int ret = latch(w, root, &parent);

	if (ret)
		return ret;
	if (is_full(parent.node, entry))
		ret = grow_root(w, &parent);
	while (!ret && !node_is_leaf(parent.node)) {
		unsigned int i = node_upper_bound(parent.node, entry->key, entry->key_length);

		ret = latch(w, node_child(parent.node, i), &child);
		if (ret)
			break;
		if (is_full(child.node, entry))
			ret = split_child(w, &parent, i, &child, entry, previous);
		unlatch(w, &parent);
		parent = child;
	}
	unlatch(w, &parent);
	return ret;
}

/* Put as many entries as belong into the leaf of the first; LEAF_FULL if they do not fit. */
static int fill_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		     size_t n, bool replace, size_t *done)
{
	struct fence fence = { .bounded = false };
	struct latched leaf;
	int ret = find_leaf(w, root, entries, &leaf, &fence);

	*done = 0;
	if (ret)
		return ret;
	while (!ret && *done < n && below(&fence, &entries[*done])) {
		ret = put(&leaf, &entries[*done], replace);
		*done += !ret;
	}
	unlatch(w, &leaf);
	return ret;
}

int btree_insert(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		 size_t n, bool replace, size_t *done)
{
	int ret = 0;

	*done = 0;
	pthread_rwlock_rdlock(&w->db->gate);
	while (!ret && *done < n) {
		size_t put_now;

		ret = fill_leaf(w, root, entries + *done, n - *done, replace, &put_now);
		*done += put_now;
		if (ret == LEAF_FULL)
			ret = make_room(w, root, entries + *done,
					*done ? entries + *done - 1 : NULL);
	}
	pthread_rwlock_unlock(&w->db->gate);
	return ret;
}

int btree_lookup(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		 btree_row_fn fn, void *arg)
{
	const struct node *node;
	const void *mem;
	uint64_t page = root;
	unsigned int i;
	bool found;
	int ret = buffer_fix_shared(w, root, &mem);

	if (ret)
		return ret;
	for (node = mem; !node_is_leaf(node); node = mem) {
		uint64_t child;

		child = node_child(node, node_upper_bound(node, key->bytes, key->length));
		ret = buffer_fix_shared(w, child, &mem);
		buffer_unfix_shared(w, page);
		if (ret)
			return ret;
		page = child;
	}
	ret = -ENOENT;
	i = node_lower_bound(node, key->bytes, key->length, &found);
	if (found) {
		const struct btree_row row = {
			.key = node_key(node, i),
			.value = node_value(node, i),
			.key_length = node->slots[i].key_length,
			.value_length = node->slots[i].value_length,
		};

		ret = fn(arg, &row);
	}
	buffer_unfix_shared(w, page);
	return ret;
}
