// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "node.h"

void node_init(struct node *node, uint64_t number, unsigned int level)
{
	page_init(node, number, level ? PAGE_INNER : PAGE_LEAF, level);
	node->begin = PAGE_SIZE;
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

	if (slot->offset < node->begin || slot->offset > PAGE_SIZE ||
	    size > PAGE_SIZE - slot->offset || slot->key_length > EXDB_KEY_MAX)
		return false;
	if (!node_is_leaf(node))
		return slot->value_length == NODE_CHILD && !slot->nr_large;
	return size <= EXDB_ROW_MAX && slot->nr_large * EXTENT_REF <= slot->value_length;
}

/* Whether the entries lie in the page, without overlap in sum. */
static bool has_sound_slots(const struct node *node)
{
	unsigned int i, used = 0;

	if (node->count > NODE_SPACE / sizeof(struct node_slot) ||
	    node->begin < slots_end(node) || node->begin > PAGE_SIZE)
		return false;
	for (i = 0; i < node->count; i++) {
		const struct node_slot *slot = &node->slots[i];

		if (!is_sound_slot(node, slot))
			return false;
		used += slot->key_length + slot->value_length;
	}
	return used + node->garbage == PAGE_SIZE - node->begin;
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

static int compare_with_head(const struct node *node, unsigned int i, uint32_t head,
			     const uint8_t *key, unsigned int length)
{
	const struct node_slot *slot = &node->slots[i];

	if (head != slot->head)
		return head < slot->head ? -1 : 1;
	return key_compare(key, length, node_key(node, i), slot->key_length);
}

int node_compare(const struct node *node, unsigned int i, const uint8_t *key, unsigned int length)
{
	return compare_with_head(node, i, node_head(key, length), key, length);
}

static bool has_sound_keys(const struct node *node)
{
	unsigned int i;

	for (i = 0; i < node->count; i++) {
		const struct node_slot *slot = &node->slots[i];

		if (slot->head != node_head(node_key(node, i), slot->key_length))
			return false;
		if (i && node_compare(node, i - 1, node_key(node, i), slot->key_length) <= 0)
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
	       has_sound_slots(node) && has_sound_links(node) && has_sound_keys(node);
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
	const uint32_t head = node_head(key, length);
	unsigned int low = 0, high = node->count;

	*found = false;
	while (low < high) {
		unsigned int middle = (low + high) / 2;
		int order = compare_with_head(node, middle, head, key, length);

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

/* Put all entries at the end, without gaps. */
static void compact(struct node *node)
{
	uint8_t copy[PAGE_SIZE];
	unsigned int i;

	memcpy(copy, node, PAGE_SIZE);
	node->begin = PAGE_SIZE;
	node->garbage = 0;
	for (i = 0; i < node->count; i++) {
		struct node_slot *slot = &node->slots[i];
		unsigned int length = slot->key_length + slot->value_length;

		node->begin -= length;
		memcpy((uint8_t *)node + node->begin, copy + slot->offset, length);
		slot->offset = node->begin;
	}
}

void node_insert(struct node *node, unsigned int i, const uint8_t *key, unsigned int key_length,
		 const void *value, unsigned int value_length)
{
	uint8_t *to;

	if (slots_end(node) + node_entry_size(key_length, value_length) > node->begin)
		compact(node);
	memmove(&node->slots[i + 1], &node->slots[i],
		(node->count - i) * sizeof(struct node_slot));
	node->begin -= key_length + value_length;
	to = (uint8_t *)node + node->begin;
	memcpy(to, key, key_length);
	memcpy(to + key_length, value, value_length);
	node->slots[i] = (struct node_slot){
		.offset = node->begin,
		.key_length = key_length,
		.value_length = value_length,
		.head = node_head(key, key_length),
	};
	node->count++;
}

void node_remove(struct node *node, unsigned int i)
{
	node->garbage += node->slots[i].key_length + node->slots[i].value_length;
	node->count--;
	memmove(&node->slots[i], &node->slots[i + 1],
		(node->count - i) * sizeof(struct node_slot));
}

void node_move_tail(struct node *node, unsigned int i, struct node *to)
{
	unsigned int k;

	for (k = i; k < node->count; k++) {
		const struct node_slot *slot = &node->slots[k];

		node_insert(to, to->count, node_key(node, k), slot->key_length,
			    node_value(node, k), slot->value_length);
		to->slots[to->count - 1].nr_large = slot->nr_large;
		node->garbage += slot->key_length + slot->value_length;
	}
	node->count = i;
}

unsigned int node_middle(const struct node *node)
{
	unsigned int half = (NODE_SPACE - node_free_space(node)) / 2;
	unsigned int i, sum = 0;

	for (i = 0; i < node->count - 1u; i++) {
		sum += node_entry_size(node->slots[i].key_length, node->slots[i].value_length);
		if (sum >= half)
			break;
	}
	return i + 1 < node->count ? i + 1 : node->count - 1u;
}
