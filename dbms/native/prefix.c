// SPDX-License-Identifier: MIT
/*
 * What the keys of a leaf begin with (Bayer and Unterauer, "Prefix B-Trees", TODS 1977), taken from the
 * keys that are there rather than from the separators around it: a leaf at the edge of its tree has one of
 * those at most.  The prefix becomes longer when a leaf is full or is rebuilt anyhow, and shorter when a key
 * comes that does not begin with it, which is the first one or the last one then.
 */
#include "node.h"

/*
 * What a full page has to gain.  As long as that takes to fill up it is not rebuilt again, and
 * wide rows under short keys do without a prefix, which every search in a page has to look at.
 */
#define WORTHWHILE	(NODE_SPACE / 16)

unsigned int node_shared(const struct node *node, const uint8_t *key, unsigned int length)
{
	const unsigned int n = node->prefix_length;

	if (!n || (length >= n && !memcmp(key, node_prefix(node), n)))
		return n;
	return key_common(key, length, node_prefix(node), n);
}

unsigned int node_common(const struct node *node, unsigned int first, unsigned int end,
			 const uint8_t *key, unsigned int length)
{
	const uint8_t *rest = node_rest(node, first);
	const unsigned int rest_length = node->slots[first].key_length;
	unsigned int shared, n;

	n = key_common(rest, rest_length, node_rest(node, end - 1),
		       node->slots[end - 1].key_length);
	if (!key)
		return node->prefix_length + n;
	shared = node_shared(node, key, length);
	if (shared < node->prefix_length)
		return shared;
	return shared + key_common(rest, n, key + shared, length - shared);
}

void node_set_prefix(struct node *node, unsigned int length)
{
	union {
		struct node node;
		uint8_t bytes[PAGE_SIZE];
	} copy;
	struct exdb_key first;

	memcpy(&copy, node, PAGE_SIZE);
	node_copy_key(&first, &copy.node, 0);
	node_reset(node, first.bytes, length);
	node_copy(&copy.node, 0, copy.node.count, node);
}

void node_compact(struct node *node)
{
	if (node->garbage)
		node_set_prefix(node, node->prefix_length);
}

bool node_fits(const struct node *node, const uint8_t *key, unsigned int key_length,
	       unsigned int value_length, unsigned int freed)
{
	const unsigned int prefix = node_shared(node, key, key_length);
	unsigned int need = node_entry_size(key_length - prefix, value_length);

	if (prefix < node->prefix_length)
		need += (node->prefix_length - prefix) * (node->count - 1u);
	return node_free_space(node) + freed >= need;
}

void node_move_tail(struct node *node, unsigned int i, struct node *to, const uint8_t *key,
		    unsigned int length)
{
	const unsigned int old = node->prefix_length;
	unsigned int prefix = node_common(node, i, node->count, key, length);
	struct exdb_key first;

	/* half of a page has half of that to gain; if @key does not go there, nothing has to grow for it */
	if (prefix < old || (prefix - old) * (node->count - i - 1) < WORTHWHILE / 2)
		prefix = old;
	node_copy_key(&first, node, i);
	node_reset(to, first.bytes, prefix);
	node_copy(node, i, node->count, to);
	node_truncate(node, i);
}

bool node_squeeze(struct node *node, const uint8_t *key, unsigned int length, unsigned int need)
{
	const unsigned int prefix = node_common(node, 0, node->count, key, length);
	unsigned int gain;

	if (prefix <= node->prefix_length)
		return false;
	gain = (prefix - node->prefix_length) * (node->count - 1u);
	if (gain < WORTHWHILE || gain < need)
		return false;
	node_set_prefix(node, prefix);
	return true;
}
