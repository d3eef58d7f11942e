/* SPDX-License-Identifier: MIT */
/*
 * Slotted pages: the nodes of a B+-tree.
 *
 *	header | slots, sorted by key -> ... free ... <- keys and values | prefix | end
 *
 * The keys of a leaf begin with its prefix, of which it has one copy; its slots have the rest of
 * each key.  The prefix is at most what all keys that are in the leaf have in common, which is what
 * the first and the last one have.  An inner page has none.  "Key" means all of a key.
 *
 * A leaf maps keys to values; its link is the next leaf to the right, 0 at the
 * end.  An inner page maps separators to page numbers (8 bytes): the child of
 * slot i has the keys that are less than separator i and not less than
 * separator i - 1; its link is the child right of all separators.  Keys are
 * compared as strings of bytes.
 */
#ifndef EXDB_NODE_H
#define EXDB_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "exdb.h"
#include "page.h"

/**
 * struct node_slot - where an entry is
 * @offset: of the rest of the key in the page; the value follows it
 * @key_length: bytes of that rest
 * @value_length: bytes
 * @nr_large: references to extents at the end of the value (extent.h)
 * @reserved: 0
 * @head: four bytes of it as a number, to compare quickly; see node.head_at
 */
struct node_slot {
	uint16_t offset;
	uint16_t key_length;
	uint16_t value_length;
	uint8_t nr_large;
	uint8_t reserved;
	uint32_t head;
};

/**
 * struct node - a leaf or inner page
 * @header: as in every page
 * @link: see above
 * @reserved_link: reserved, 0
 * @count: slots
 * @begin: offset of the lowest byte of keys and values
 * @garbage: bytes between @begin and the prefix that belong to no slot
 * @prefix_length: bytes of the prefix, the last ones of the page; 0 if there is no slot
 * @head_at: where heads begin in the rests of keys, all of which are alike up to there
 * @reserved: 0
 * @slots: sorted by key
 */
struct node {
	struct page_header header;
	uint64_t link;
	uint64_t reserved_link;
	uint16_t count;
	uint16_t begin;
	uint16_t garbage;
	uint16_t prefix_length;
	uint16_t head_at;
	uint16_t reserved[3];
	struct node_slot slots[];
};

#define NODE_SPACE	(PAGE_SIZE - (unsigned int)sizeof(struct node))
#define EXTENT_REF	16u	/* bytes of a reference */
#define NODE_CHILD	((unsigned int)sizeof(uint64_t))

/* What an inner page needs to take any separator. */
#define NODE_INNER_RESERVE	(EXDB_KEY_MAX + NODE_CHILD + (unsigned int)sizeof(struct node_slot))

/* No tree comes near it. */
#define NODE_LEVEL_MAX	32u

static_assert(sizeof(struct node_slot) == 12, "on-disk format");
static_assert(sizeof(struct node) == 64, "on-disk format");
static_assert(4 * (EXDB_ROW_MAX + sizeof(struct node_slot)) <= NODE_SPACE,
	      "half of a leaf takes any entry");

/* Keys are strings of bytes; a beginning comes before what it is the beginning of. */
static inline int key_compare(const uint8_t *a, unsigned int a_length, const uint8_t *b,
			      unsigned int b_length)
{
	uint64_t x, y;
	int order;

	/* numbers differ in their first eight bytes or not at all: spare them the call */
	if (a_length >= sizeof(x) && b_length >= sizeof(y)) {
		memcpy(&x, a, sizeof(x));
		memcpy(&y, b, sizeof(y));
		if (x != y)
			return __builtin_bswap64(x) < __builtin_bswap64(y) ? -1 : 1;
	}
	order = memcmp(a, b, a_length < b_length ? a_length : b_length);
	return order ? order : (int)a_length - (int)b_length;
}

/* Bytes that two keys have in common. */
static inline unsigned int key_common(const uint8_t *a, unsigned int a_length, const uint8_t *b,
				      unsigned int b_length)
{
	unsigned int i = 0;

	while (i < a_length && i < b_length && a[i] == b[i])
		i++;
	return i;
}

/* Order of a key and all keys that begin so; 0 if it is one of them. */
static inline int key_compare_beginning(const uint8_t *key, unsigned int length,
					const uint8_t *beginning, unsigned int n)
{
	const int order = memcmp(key, beginning, length < n ? length : n);

	return order || length >= n ? order : -1;
}

/* The first four bytes of what is left of a key, as a number; those behind its end are 0. */
static inline uint32_t node_head(const uint8_t *key, unsigned int length)
{
	uint32_t head = 0;
	unsigned int i;

	if (length >= sizeof(head)) {
		memcpy(&head, key, sizeof(head));
		return __builtin_bswap32(head);
	}
	for (i = 0; i < length; i++)
		head |= (uint32_t)key[i] << (24 - 8 * i);
	return head;
}

/* The same behind the first @at bytes of a key, without a branch on how much that leaves. */
static inline uint32_t node_head_behind(const uint8_t *key, unsigned int length, unsigned int at)
{
	const unsigned int last = length - (unsigned int)sizeof(uint32_t);
	const unsigned int behind = at < length ? at : length;
	const unsigned int from = behind < last ? behind : last;

	if (length < sizeof(uint32_t))
		return node_head(key + behind, length - behind);
	return (uint32_t)((uint64_t)node_head(key + from, sizeof(uint32_t)) << 8 * (behind - from));
}

void node_init(struct node *node, uint64_t number, unsigned int level);

/* Whether everything below may be done to it, and it can be latched with its neighbours. */
bool node_is_sound(const struct node *node);

/* 0 if a page is what was written as page @number, and a sound node or free; else -EBADMSG, -EUCLEAN. */
int node_verify(const void *page, uint64_t number);

/* Whether the page is a node, and of this level; any if that is NODE_ROOT. */
#define NODE_ROOT	(-1)
bool node_is_at(const struct node *node, int level);

static inline bool node_is_leaf(const struct node *node)
{
	return node->header.level == 0;
}

static inline const uint8_t *node_prefix(const struct node *node)
{
	return (const uint8_t *)node + PAGE_SIZE - node->prefix_length;
}

/* What follows the prefix. */
static inline const uint8_t *node_rest(const struct node *node, unsigned int i)
{
	return (const uint8_t *)node + node->slots[i].offset;
}

static inline unsigned int node_key_length(const struct node *node, unsigned int i)
{
	return node->prefix_length + node->slots[i].key_length;
}

static inline const uint8_t *node_value(const struct node *node, unsigned int i)
{
	return node_rest(node, i) + node->slots[i].key_length;
}

static inline void node_copy_key(struct exdb_key *to, const struct node *node, unsigned int i)
{
	to->length = node_key_length(node, i);
	memcpy(to->bytes, node_prefix(node), node->prefix_length);
	memcpy(to->bytes + node->prefix_length, node_rest(node, i), node->slots[i].key_length);
}

/* A key where it lies if that is in one place, or else in @room. */
static inline const uint8_t *node_key(const struct node *node, unsigned int i,
				      struct exdb_key *room)
{
	if (!node->prefix_length)
		return node_rest(node, i);
	node_copy_key(room, node, i);
	return room->bytes;
}

/* Bytes that are free, together or not. */
unsigned int node_free_space(const struct node *node);

static inline unsigned int node_entry_size(unsigned int key_length, unsigned int value_length)
{
	return key_length + value_length + (unsigned int)sizeof(struct node_slot);
}

/* What an entry takes of the page, its share of the prefix apart. */
static inline unsigned int node_slot_size(const struct node *node, unsigned int i)
{
	return node_entry_size(node->slots[i].key_length, node->slots[i].value_length);
}

/* Numbers are spared the call. */
static inline bool key_is_same(const uint8_t *a, const uint8_t *b, unsigned int n)
{
	return n == sizeof(uint64_t) ? !memcmp(a, b, sizeof(uint64_t)) : !memcmp(a, b, n);
}

/* Is there a slot @i, and is this its key? */
static inline bool node_has_key(const struct node *node, unsigned int i, const uint8_t *key,
				unsigned int length)
{
	const unsigned int prefix = node->prefix_length;

	return i < node->count && node->slots[i].key_length + prefix == length &&
	       key_is_same(node_rest(node, i), key + prefix, length - prefix) &&
	       (!prefix || !memcmp(node_prefix(node), key, prefix));
}

/* Order of a key and the key of slot @i: less than, equal to or greater than 0. */
int node_compare(const struct node *node, unsigned int i, const uint8_t *key, unsigned int length);

/* First slot whose key is not less than @key; *found if it is equal. */
unsigned int node_lower_bound(const struct node *node, const uint8_t *key, unsigned int length,
			      bool *found);

/* First slot whose key is greater than @key. */
unsigned int node_upper_bound(const struct node *node, const uint8_t *key, unsigned int length);

/* The child left of separator @i; that of i == count is the link. */
uint64_t node_child(const struct node *node, unsigned int i);
void node_set_child(struct node *node, unsigned int i, uint64_t child);

/* Insert at slot @i, if need be behind a shorter prefix.  The caller has seen that it fits. */
void node_insert(struct node *node, unsigned int i, const uint8_t *key, unsigned int key_length,
		 const void *value, unsigned int value_length);
void node_remove(struct node *node, unsigned int i);

/* Leave nothing but a prefix, which does not lie in the node, its header and its link. */
void node_reset(struct node *node, const uint8_t *prefix, unsigned int length);

/* Copy slots [@first, @end) behind those of @to, with whose prefix their keys begin. */
void node_copy(const struct node *from, unsigned int first, unsigned int end, struct node *to);

/* Remove the slots from @i on. */
void node_truncate(struct node *node, unsigned int i);

/* First slot of the right half, by bytes: 1 to count - 1. */
unsigned int node_middle(const struct node *node);

/* prefix.c: length of what a key and the prefix have in common. */
unsigned int node_shared(const struct node *node, const uint8_t *key, unsigned int length);

/* prefix.c: likewise of the keys of slots [@first, @end), which are some, and of @key unless it is NULL. */
unsigned int node_common(const struct node *node, unsigned int first, unsigned int end,
			 const uint8_t *key, unsigned int length);

/* prefix.c: have a prefix of another length, with which all keys begin; there are some. */
void node_set_prefix(struct node *node, unsigned int length);

/* prefix.c: have no gaps between entries. */
void node_compact(struct node *node);

/* prefix.c: whether an entry fits once @freed bytes are, behind the prefix or what is left of it. */
bool node_fits(const struct node *node, const uint8_t *key, unsigned int key_length,
	       unsigned int value_length, unsigned int freed);

/*
 * prefix.c: move the slots from @i on, which are some, to an empty leaf, behind a prefix if that is worth it
 * with @key, unless NULL, in the leaf.
 */
void node_move_tail(struct node *node, unsigned int i, struct node *to, const uint8_t *key,
		    unsigned int length);

/*
 * prefix.c: have a prefix that is as long as it can be with @key, unless NULL, in the node.  Nothing is
 * done, and false is the answer, where that frees too little to be worth it, or less than @need bytes.
 */
bool node_squeeze(struct node *node, const uint8_t *key, unsigned int length, unsigned int need);

#endif /* EXDB_NODE_H */
