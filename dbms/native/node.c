// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "optimistic.h"

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
	return key_compare_beginning(key, length, node_prefix(node), node->prefix_length);
}

/* Order of the rest of a key and that of slot @i, where they are alike up to their heads. */
static int compare_rest(const struct node *node, unsigned int i, uint32_t head, const uint8_t *rest,
			unsigned int length)
{
	const struct node_slot *slot = &node->slots[i];
	const unsigned int behind = node->head_at + (unsigned int)sizeof(head);

	if (head != slot->head)
		return head < slot->head ? -1 : 1;
	/* one of them ends in its head, and is the beginning of the other one */
	if (length <= behind || slot->key_length <= behind)
		return (int)length - (int)slot->key_length;
	return key_compare(rest + behind, length - behind, node_rest(node, i) + behind,
			   slot->key_length - behind);
}

int node_compare(const struct node *node, unsigned int i, const uint8_t *key, unsigned int length)
{
	const unsigned int prefix = node->prefix_length;
	const int order = prefix ? compare_with_prefix(node, key, length) : 0;

	if (order)
		return order;
	return key_compare(key + prefix, length - prefix, node_rest(node, i),
			   node->slots[i].key_length);
}

static unsigned int common_of(const struct node *node, unsigned int i, unsigned int k)
{
	return key_common(node_rest(node, i), node->slots[i].key_length, node_rest(node, k),
			  node->slots[k].key_length);
}

static uint32_t head_of(const struct node *node, unsigned int i)
{
	return node_head_behind(node_rest(node, i), node->slots[i].key_length, node->head_at);
}

static bool has_sound_keys(const struct node *node)
{
	unsigned int i;

	for (i = 0; i < node->count; i++) {
		const struct node_slot *slot = &node->slots[i];

		if (slot->head != head_of(node, i))
			return false;
		if (i && key_compare(node_rest(node, i - 1), slot[-1].key_length,
				     node_rest(node, i), slot->key_length) >= 0)
			return false;
	}
	/* what the first and the last one have in common is in all of them */
	return !node->head_at || (i && common_of(node, 0, i - 1) >= node->head_at);
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

/* Order of the rest of a key and all rests there are; 0 if it is like them up to the heads. */
static int compare_with_heads(const struct node *node, unsigned int i, const uint8_t *rest,
			      unsigned int length)
{
	/* any of them would do: this one is looked at anyhow */
	return optimistic_compare_beginning(rest, length, node, node->slots[i].offset,
					    node->head_at);
}

/* The same for the rest of a key, from slot @low on, which has the first head that is not less. */
static unsigned int find_rest(const struct node *node, unsigned int low, uint32_t head,
			      const uint8_t *rest, unsigned int length, bool *found)
{
	unsigned int middle = low, high = node->count;

	while (low < high) {
		const int order = compare_rest(node, middle, head, rest, length);

		if (!order) {
			*found = true;
			return middle;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
		middle = (low + high) / 2;
	}
	return low;
}

unsigned int node_lower_bound(const struct node *node, const uint8_t *key, unsigned int length,
			      bool *found)
{
	const unsigned int prefix = node->prefix_length, count = node->count;
	int outside = prefix ? compare_with_prefix(node, key, length) : 0;
	unsigned int i = 0;
	uint32_t head = 0;

	*found = false;
	if (!count)
		return 0;
	if (!outside) {
		head = node_head_behind(key, length, prefix + node->head_at);
		key += prefix;
		length -= prefix;
		i = optimistic_find_head(node->slots, count, head);
		outside = compare_with_heads(node, i < count ? i : count - 1, key, length);
	}
	if (outside)
		return outside < 0 ? 0 : count;
	return find_rest(node, i, head, key, length, found);
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

/* Have the heads of all keys begin behind what they have in common. */
static void set_heads(struct node *node)
{
	unsigned int i;

	node->head_at = node->count > 1 ? common_of(node, 0, node->count - 1) : 0;
	for (i = 0; i < node->count; i++)
		node->slots[i].head = head_of(node, i);
}

/* Have the head of a new slot, if need be all of them where that one's key is like the others. */
static void set_head(struct node *node, unsigned int i)
{
	if (node->count <= 2 || common_of(node, i, i ? i - 1 : 1) < node->head_at)
		set_heads(node);
	else
		node->slots[i].head = head_of(node, i);
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
	set_head(node, i);
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
	node->head_at = 0;
	node->prefix_length = length;
	node->begin = entries_end(node);
	if (length)
		memcpy((uint8_t *)node + node->begin, prefix, length);
}

/* The same key, as yet without a head, behind a prefix that may be longer or shorter. */
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
}

void node_copy(const struct node *from, unsigned int first, unsigned int end, struct node *to)
{
	unsigned int i;

	for (i = first; i < end; i++)
		append(from, i, to);
	set_heads(to);
}

void node_truncate(struct node *node, unsigned int i)
{
	unsigned int k;

	for (k = i; k < node->count; k++)
		node->garbage += node->slots[k].key_length + node->slots[k].value_length;
	node->count = i;
	if (i)
		set_heads(node);
	else
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
