// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "node.h"

void node_init(struct node *node, uint64_t number, unsigned int level)
{
	page_init(node, number, level ? PAGE_INNER : PAGE_LEAF, level);
	node->begin = PAGE_SIZE;
}

/* Where keys and values end. */
static unsigned int entries_end(const struct node *node)
{
	return PAGE_SIZE - node->prefix_length;
}

static unsigned int slots_end(const struct node *node)
{
	return sizeof(*node) + node->count * sizeof(struct node_slot);
}

unsigned int node_free_space(const struct node *node)
{
	return node->begin - slots_end(node) + node->garbage;
}

/* Whether an entry lies in the page, and is not larger than any may be. */
static bool is_sound_slot(const struct node *node, const struct node_slot *slot)
{
	const unsigned int size = slot->key_length + slot->value_length;
	const unsigned int prefix = node->prefix_length, end = entries_end(node);

	if (slot->offset < node->begin || slot->offset > end || size > end - slot->offset ||
	    prefix + slot->key_length > EXDB_KEY_MAX)
		return false;
	if (!node_is_leaf(node))
		return slot->value_length == NODE_CHILD && !slot->nr_large;
	return prefix + size <= EXDB_ROW_MAX && slot->nr_large * EXTENT_REF <= slot->value_length;
}

/* A prefix has been taken from keys that are there. */
static bool has_sound_prefix(const struct node *node)
{
	return !node->prefix_length || (node_is_leaf(node) && node->count);
}

/* Whether the entries lie in the page, without overlap in sum. */
static bool has_sound_slots(const struct node *node)
{
	unsigned int i, used = 0;

	if (node->count > NODE_SPACE / sizeof(struct node_slot) ||
	    node->begin < slots_end(node) || node->begin > entries_end(node))
		return false;
	for (i = 0; i < node->count; i++) {
		const struct node_slot *slot = &node->slots[i];

		if (!is_sound_slot(node, slot))
			return false;
		used += slot->key_length + slot->value_length;
	}
	return used + node->garbage == entries_end(node) - node->begin;
}

/* Pages are latched with their neighbours and children: none of these is another one of them. */
static bool has_sound_links(const struct node *node)
{
	unsigned int i;

	if (node->link == node->header.number)
		return false;
	for (i = 0; !node_is_leaf(node) && i < node->count; i++) {
		const uint64_t child = node_child(node, i);

		if (child == node->header.number || child == node_child(node, i + 1))
			return false;
	}
	return true;
}

/* Order of a key and the prefix; 0 if it begins with that. */
static int compare_with_prefix(const struct node *node, const uint8_t *key, unsigned int length)
{
	const unsigned int n = node->prefix_length;
	const int order = memcmp(key, node_prefix(node), length < n ? length : n);

	return order || length >= n ? order : -1;
}

/* Order of the rest of a key and that of slot @i. */
static int compare_rest(const struct node *node, unsigned int i, uint32_t head, const uint8_t *rest,
			unsigned int length)
{
	const struct node_slot *slot = &node->slots[i];

	if (head != slot->head)
		return head < slot->head ? -1 : 1;
	/* one of them is in its head, and the beginning of the other one */
	if (length <= sizeof(head) || slot->key_length <= sizeof(head))
		return (int)length - (int)slot->key_length;
	return key_compare(rest, length, node_rest(node, i), slot->key_length);
}

/* That of the rest of a key that begins with the prefix, without a branch on how much that leaves. */
static uint32_t rest_head(const uint8_t *key, unsigned int length, unsigned int prefix)
{
	const unsigned int last = length - sizeof(uint32_t);
	const unsigned int from = prefix < last ? prefix : last;

	if (length < sizeof(uint32_t))
		return node_head(key + prefix, length - prefix);
	return (uint32_t)((uint64_t)node_head(key + from, sizeof(uint32_t)) << 8 * (prefix - from));
}

int node_compare(const struct node *node, unsigned int i, const uint8_t *key, unsigned int length)
{
	const unsigned int prefix = node->prefix_length;
	const int order = prefix ? compare_with_prefix(node, key, length) : 0;

	if (order)
		return order;
	return compare_rest(node, i, rest_head(key, length, prefix), key + prefix, length - prefix);
}

static bool has_sound_keys(const struct node *node)
{
	unsigned int i;

	for (i = 0; i < node->count; i++) {
		const struct node_slot *slot = &node->slots[i];
		const uint8_t *rest = node_rest(node, i);

		if (slot->head != node_head(rest, slot->key_length))
			return false;
		if (i && compare_rest(node, i - 1, slot->head, rest, slot->key_length) <= 0)
			return false;
	}
	return true;
}

bool node_is_at(const struct node *node, int level)
{
	if (node->header.type != (node_is_leaf(node) ? PAGE_LEAF : PAGE_INNER))
		return false;
	return level == NODE_ROOT || node->header.level == level;
}

bool node_is_sound(const struct node *node)
{
	return node_is_at(node, NODE_ROOT) && node->header.level <= NODE_LEVEL_MAX &&
	       has_sound_prefix(node) && has_sound_slots(node) && has_sound_links(node) &&
	       has_sound_keys(node);
}

int node_verify(const void *page, uint64_t number)
{
	const struct node *node = page;
	int ret = page_verify(page, number);

	if (ret || node->header.type == PAGE_FREE)
		return ret;
	return node_is_sound(node) ? 0 : -EUCLEAN;
}

unsigned int node_lower_bound(const struct node *node, const uint8_t *key, unsigned int length,
			      bool *found)
{
	const unsigned int prefix = node->prefix_length;
	const int outside = prefix ? compare_with_prefix(node, key, length) : 0;
	unsigned int low = 0, high = node->count;
	uint32_t head;

	*found = false;
	if (outside)
		return outside < 0 ? 0 : high;
	head = rest_head(key, length, prefix);
	key += prefix;
	length -= prefix;
	while (low < high) {
		unsigned int middle = (low + high) / 2;
		int order = compare_rest(node, middle, head, key, length);

		if (!order) {
			*found = true;
			return middle;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

unsigned int node_upper_bound(const struct node *node, const uint8_t *key, unsigned int length)
{
	bool found;
	const unsigned int i = node_lower_bound(node, key, length, &found);

	return i + found;
}

uint64_t node_child(const struct node *node, unsigned int i)
{
	uint64_t child;

	if (i == node->count)
		return node->link;
	memcpy(&child, node_value(node, i), sizeof(child));
	return child;
}

void node_set_child(struct node *node, unsigned int i, uint64_t child)
{
	if (i == node->count)
		node->link = child;
	else
		memcpy((uint8_t *)node_value(node, i), &child, sizeof(child));
}

/* Make a slot for an entry, and return where its rest and its value go. */
static uint8_t *add_slot(struct node *node, unsigned int i, unsigned int key_length,
			 unsigned int value_length)
{
	memmove(&node->slots[i + 1], &node->slots[i],
		(node->count - i) * sizeof(struct node_slot));
	node->begin -= key_length + value_length;
	node->slots[i] = (struct node_slot){
		.offset = node->begin,
		.key_length = key_length,
		.value_length = value_length,
	};
	node->count++;
	return (uint8_t *)node + node->begin;
}

void node_insert(struct node *node, unsigned int i, const uint8_t *key, unsigned int key_length,
		 const void *value, unsigned int value_length)
{
	const unsigned int prefix = node_shared(node, key, key_length);
	const unsigned int length = key_length - prefix;
	uint8_t *to;

	if (prefix < node->prefix_length ||
	    slots_end(node) + node_entry_size(length, value_length) > node->begin)
		node_set_prefix(node, prefix);
	to = add_slot(node, i, length, value_length);
	memcpy(to, key + prefix, length);
	memcpy(to + length, value, value_length);
	node->slots[i].head = node_head(to, length);
}

void node_remove(struct node *node, unsigned int i)
{
	node->garbage += node->slots[i].key_length + node->slots[i].value_length;
	node->count--;
	memmove(&node->slots[i], &node->slots[i + 1],
		(node->count - i) * sizeof(struct node_slot));
	if (!node->count)
		node_reset(node, NULL, 0);
}

void node_reset(struct node *node, const uint8_t *prefix, unsigned int length)
{
	node->count = 0;
	node->garbage = 0;
	node->prefix_length = length;
	node->begin = entries_end(node);
	if (length)
		memcpy((uint8_t *)node + node->begin, prefix, length);
}

/* The same key behind a prefix that may be longer or shorter. */
static void append(const struct node *from, unsigned int i, struct node *to)
{
	const struct node_slot *slot = &from->slots[i];
	const unsigned int old = from->prefix_length, new = to->prefix_length;
	const unsigned int more = old > new ? old - new : 0, less = new > old ? new - old : 0;
	const unsigned int kept = slot->key_length - less;
	const unsigned int at = to->count;
	uint8_t *bytes = add_slot(to, at, more + kept, slot->value_length);

	if (more)
		memcpy(bytes, node_prefix(from) + new, more);
	memcpy(bytes + more, node_rest(from, i) + less, kept + slot->value_length);
	to->slots[at].nr_large = slot->nr_large;
	to->slots[at].head = old == new ? slot->head : node_head(bytes, more + kept);
}

void node_copy(const struct node *from, unsigned int first, unsigned int end, struct node *to)
{
	unsigned int i;

	for (i = first; i < end; i++)
		append(from, i, to);
}

void node_truncate(struct node *node, unsigned int i)
{
	unsigned int k;

	for (k = i; k < node->count; k++)
		node->garbage += node->slots[k].key_length + node->slots[k].value_length;
	node->count = i;
	if (!i)
		node_reset(node, NULL, 0);
}

unsigned int node_middle(const struct node *node)
{
	unsigned int half = (NODE_SPACE - node_free_space(node)) / 2;
	unsigned int i, sum = 0;

	for (i = 0; i < node->count - 1u; i++) {
		sum += node_slot_size(node, i);
		if (sum >= half)
			break;
	}
	return i + 1 < node->count ? i + 1 : node->count - 1u;
}
