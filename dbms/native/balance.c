// SPDX-License-Identifier: MIT
/*
 * Two neighbouring leaves as one row of entries, of which each leaf gets a part, behind the prefix that
 * this part has in common.
 */
#include "latch.h"

#define ENTRIES_MAX	(2 * NODE_SPACE / (unsigned int)sizeof(struct node_slot))

union copy {
	struct node node;
	uint8_t bytes[PAGE_SIZE];
};

/**
 * struct pair - two leaves as they were
 * @left: has the first entries
 * @right: has the others
 * @n: entries
 * @sums: bytes of those before each one, with all of their keys
 */
struct pair {
	union copy left;
	union copy right;
	unsigned int n;
	unsigned int sums[ENTRIES_MAX + 1];
};

static const struct node *leaf_of(const struct pair *pair, unsigned int *i)
{
	const unsigned int count = pair->left.node.count;

	if (*i < count)
		return &pair->left.node;
	*i -= count;
	return &pair->right.node;
}

static void copy_key(struct exdb_key *to, const struct pair *pair, unsigned int i)
{
	const struct node *leaf = leaf_of(pair, &i);

	node_copy_key(to, leaf, i);
}

static void pair_init(struct pair *pair, const struct node *left, const struct node *right)
{
	unsigned int i;

	memcpy(&pair->left, left, PAGE_SIZE);
	memcpy(&pair->right, right, PAGE_SIZE);
	pair->n = left->count + right->count;
	pair->sums[0] = 0;
	for (i = 0; i < pair->n; i++) {
		unsigned int at = i;
		const struct node *leaf = leaf_of(pair, &at);

		pair->sums[i + 1] =
			pair->sums[i] + node_slot_size(leaf, at) + leaf->prefix_length;
	}
}

/* What entries [@first, @end) begin with: its length, and a key that does. */
static unsigned int prefix_of(const struct pair *pair, unsigned int first, unsigned int end,
			      struct exdb_key *key)
{
	struct exdb_key last;

	copy_key(key, pair, first);
	copy_key(&last, pair, end - 1);
	return key_common(key->bytes, key->length, last.bytes, last.length);
}

/* What they use of a leaf. */
static unsigned int size_of(const struct pair *pair, unsigned int first, unsigned int end)
{
	struct exdb_key key;

	if (first == end)
		return 0;
	return pair->sums[end] - pair->sums[first] -
	       (end - first - 1) * prefix_of(pair, first, end, &key);
}

static void write_leaf(const struct pair *pair, unsigned int first, unsigned int end,
		       struct node *leaf)
{
	const unsigned int count = pair->left.node.count;
	struct exdb_key key;

	node_reset(leaf, NULL, 0);
	if (first == end)
		return;
	node_reset(leaf, key.bytes, prefix_of(pair, first, end, &key));
	if (first < count)
		node_copy(&pair->left.node, first, end < count ? end : count, leaf);
	if (end > count)
		node_copy(&pair->right.node, first > count ? first - count : 0, end - count, leaf);
}

bool btree_leaves_ascend(const struct node *left, const struct node *right)
{
	struct exdb_key last;

	if (!left->count || !right->count)
		return true;
	node_copy_key(&last, left, left->count - 1);
	return node_compare(right, 0, last.bytes, last.length) < 0;
}

bool btree_leaves_fit(const struct node *left, const struct node *right)
{
	struct pair pair;

	pair_init(&pair, left, right);
	return size_of(&pair, 0, pair.n) <= NODE_SPACE;
}

void btree_join_leaves(struct node *left, const struct node *right)
{
	struct pair pair;

	pair_init(&pair, left, right);
	write_leaf(&pair, 0, pair.n, left);
}

/* The first entry of the right one. */
static unsigned int cut_pair(const struct pair *pair)
{
	unsigned int cut = pair->left.node.count;

	if (size_of(pair, 0, cut) < size_of(pair, cut, pair->n)) {
		while (size_of(pair, 0, cut + 1) <= size_of(pair, cut + 1, pair->n))
			cut++;
	} else {
		while (size_of(pair, cut - 1, pair->n) <= size_of(pair, 0, cut - 1))
			cut--;
	}
	return cut;
}

void btree_balance_leaves(struct node *left, struct node *right, struct fence *separator)
{
	struct exdb_key last, first;
	struct pair pair;
	unsigned int cut;

	pair_init(&pair, left, right);
	cut = cut_pair(&pair);
	copy_key(&last, &pair, cut - 1);
	copy_key(&first, &pair, cut);
	fence_set(separator, first.bytes,
		  btree_separator_length(last.bytes, last.length, first.bytes, first.length));
	write_leaf(&pair, 0, cut, left);
	write_leaf(&pair, cut, pair.n, right);
}
