// SPDX-License-Identifier: MIT
/*
 * The way from a root to a node.  Inner pages are read without latches, each until the state of
 * the next one has been looked at, and the node at the end is latched before its parent is seen to
 * be what it was.  If a page is absent, or changed again and again, all are latched instead; only
 * that way waits, reads inner pages, and finds damage.  It uses the same functions on a page, which
 * believe nothing that they read.
 */
#include <errno.h>

#include "latch.h"
#include "optimistic.h"

#define RESTART		1
#define GIVE_UP		2
#define AT_ROOT		3
#define RESTARTS	8

#define CACHE_LINE	64u
#define LEAF_LINES	7u /* the header, and 32 slots */

#define SLOTS_MAX	(NODE_SPACE / (unsigned int)sizeof(struct node_slot))

/* Where a separator is, in any case in the page. */
struct place {
	unsigned int offset;
	unsigned int length;
};

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

static struct place place_of(const struct node *node, unsigned int i)
{
	const unsigned int offset = least(optimistic_load16(&node->slots[i].offset), PAGE_SIZE);
	const unsigned int length = optimistic_load16(&node->slots[i].key_length);

	return (struct place){
		.offset = offset,
		.length = least(length, least(PAGE_SIZE - offset, EXDB_KEY_MAX)),
	};
}

/* Order of a key and a separator; under the thread sanitizer by loads that it does not see. */
static int compare(const uint8_t *key, unsigned int length, const struct node *node, unsigned int i)
{
	const struct place place = place_of(node, i);
	const uint8_t *separator = (const uint8_t *)node + place.offset;
#ifdef __SANITIZE_THREAD__
	uint8_t copy[EXDB_KEY_MAX];

	optimistic_copy(copy, node, place.offset, place.length);
	separator = copy;
#endif
	return key_compare(key, length, separator, place.length);
}

/* Order of a key and all separators, or 0 if it is like them, of which @i is one, up to their heads. */
static int compare_with_heads(const uint8_t *key, unsigned int length, const struct node *node,
			      unsigned int i, unsigned int head_at)
{
	const struct place place = place_of(node, i);

	return optimistic_compare_beginning(key, length, node, place.offset,
					    least(place.length, head_at));
}

/* The slot left of whose separator the way leads, from @low on, which has the first head that is not less. */
static unsigned int choose_from(const struct node *node, unsigned int low, unsigned int high,
				uint32_t head, const struct btree_way *way)
{
	unsigned int middle = low;

	while (low < high) {
		const uint32_t other = optimistic_load32(&node->slots[middle].head);
		int order = head < other ? -1 : 1;

		if (head == other)
			order = compare(way->key, way->length, node, middle);
		if (order < 0 || (!order && way->before))
			high = middle;
		else
			low = middle + 1;
		middle = (low + high) / 2;
	}
	return low;
}

/* The same of all @count. */
static unsigned int choose(const struct node *node, unsigned int count, const struct btree_way *way)
{
	const unsigned int head_at = optimistic_load16(&node->head_at);
	unsigned int i;
	uint32_t head;
	int outside;

	if (!way->key || !count)
		return count;
	head = node_head_behind(way->key, way->length, head_at);
	i = optimistic_find_head(node->slots, count, head);
	outside = compare_with_heads(way->key, way->length, node, least(i, count - 1), head_at);
	if (outside)
		return outside < 0 ? 0 : count;
	return choose_from(node, i, count, head, way);
}

static void take_fence(struct fence *fence, const struct node *node, unsigned int i)
{
	const struct place place = place_of(node, i);

	fence->bounded = true;
	fence->length = place.length;
	optimistic_copy(fence->key, node, place.offset, place.length);
}

/* The child that the way leads to, and its fences. */
static uint64_t follow(const struct node *node, const struct btree_way *way)
{
	const unsigned int count = least(optimistic_load16(&node->count), SLOTS_MAX);
	const unsigned int i = choose(node, count, way);
	struct place place;

	if (way->above && i < count)
		take_fence(way->above, node, i);
	if (way->below && i)
		take_fence(way->below, node, i - 1);
	if (i == count)
		return optimistic_load64(&node->link);
	place = place_of(node, i);
	return optimistic_bytes(node, least(place.offset + place.length, PAGE_SIZE - NODE_CHILD),
				NODE_CHILD);
}

static void forget_fences(const struct btree_way *way)
{
	if (way->above)
		way->above->bounded = false;
	if (way->below)
		way->below->bounded = false;
}

/* Latch the node that the way ends at. */
static int arrive(struct exdb_worker *w, const struct btree_way *way, uint64_t page, int level,
		  const struct node **out)
{
	struct latched l;
	int ret;

	if (!way->exclusive)
		return btree_fix(w, page, level, out);
	ret = latch(w, page, level, &l);
	*out = l.node;
	return ret;
}

static void leave(struct exdb_worker *w, const struct btree_way *way, uint64_t page)
{
	if (way->exclusive)
		buffer_unfix_exclusive(w, page, false);
	else
		buffer_unfix_shared(w, page);
}

/* The same of a root that was not above the wanted level; RESTART if it is by now. */
static int arrive_at_root(struct exdb_worker *w, const struct btree_way *way, uint64_t *page,
			  const struct node **out)
{
	int ret = arrive(w, way, way->root, NODE_ROOT, out);

	*page = way->root;
	if (ret || (*out)->header.level <= way->level)
		return ret;
	leave(w, way, way->root);
	return RESTART;
}

/* A page whose version is known, and the state word to compare it with. */
struct sight {
	const struct node *node;
	uint64_t *word;
	uint64_t version;
};

static bool look_at(const struct exdb *db, uint64_t page, struct sight *out)
{
	if (page >= __atomic_load_n(&db->next_page, __ATOMIC_RELAXED))
		return false;
	out->word = page_state(db, page);
	out->node = exmap_page(db->ex, page);
	return optimistic_begin(out->word, &out->version);
}

static bool is_still(const struct sight *at)
{
	return optimistic_is_valid(at->word, at->version);
}

/* RESTART if what was read may not be so, GIVE_UP if it is. */
static int doubt(const struct sight *at)
{
	return is_still(at) ? GIVE_UP : RESTART;
}

/* From the parent, which is @at, to the node that it has led to. */
static int last_step(struct exdb_worker *w, const struct btree_way *way, const struct sight *at,
		     uint64_t page, const struct node **out)
{
	int ret;

	/* a page that is not the child must not be read from the disk */
	if (!is_still(at))
		return RESTART;
	ret = arrive(w, way, page, way->level, out);
	if (is_still(at))
		return ret;
	if (!ret)
		leave(w, way, page);
	return RESTART;
}

/* Look at the parent of the node; the root, if that is no higher than the node would be. */
static int look_at_parent(struct exdb_worker *w, const struct btree_way *way, struct sight *at)
{
	struct sight next;
	unsigned int level, hits = 1;

	if (!look_at(w->db, way->root, at))
		return GIVE_UP;
	level = optimistic_load8(&at->node->header.level);
	if (level <= way->level)
		return is_still(at) ? AT_ROOT : RESTART;
	for (;; level--, hits++) {
		if (optimistic_load8(&at->node->header.type) != PAGE_INNER ||
		    optimistic_load8(&at->node->header.level) != level)
			return doubt(at);
		if (level == way->level + 1u)
			break;
		if (!look_at(w->db, follow(at->node, way), &next))
			return doubt(at);
		/* now: it was its child when its version was read */
		if (!is_still(at))
			return RESTART;
		*at = next;
	}
	count_up(&w->counts.hits, hits);
	return 0;
}

/* The processor fetches what latching a leaf and searching it will need, all at a time. */
static void prefetch_leaf(const struct exdb *db, uint64_t page)
{
	const uint8_t *leaf = exmap_page(db->ex, page);
	unsigned int i;

	__builtin_prefetch(page_state(db, page), 1);
	for (i = 0; i < LEAF_LINES; i++)
		__builtin_prefetch(leaf + CACHE_LINE * i);
}

static int descend_optimistically(struct exdb_worker *w, const struct btree_way *way,
				  uint64_t *page, const struct node **out)
{
	struct sight at;
	int ret = look_at_parent(w, way, &at);

	if (ret == AT_ROOT)
		return arrive_at_root(w, way, page, out);
	if (ret)
		return ret;
	*page = follow(at.node, way);
	if (!way->level && is_still(&at))
		prefetch_leaf(w->db, *page);
	return last_step(w, way, &at, *page, out);
}

void btree_approach(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		    struct btree_hint *hint)
{
	const struct btree_way way = { .root = root, .key = key->bytes, .length = key->length };
	struct sight at;

	hint->page = 0;
	if (w->view || look_at_parent(w, &way, &at))
		return;
	*hint = (struct btree_hint){
		.page = follow(at.node, &way), .word = at.word, .version = at.version
	};
	if (is_still(&at))
		prefetch_leaf(w->db, hint->page);
	else
		hint->page = 0;
}

void btree_peek(const struct exdb_worker *w, const struct exdb_key *key, struct btree_hint *hint)
{
	const struct node *leaf;
	struct sight at;
	unsigned int count, behind, i;
	const uint8_t *row;

	/* reading what is absent may be a fault */
	if (!hint->page || !look_at(w->db, hint->page, &at))
		return;
	leaf = at.node;
	count = least(optimistic_load16(&leaf->count), SLOTS_MAX);
	if (!count)
		return;
	behind = optimistic_load16(&leaf->prefix_length) + optimistic_load16(&leaf->head_at);
	i = optimistic_find_head(leaf->slots, count,
				 node_head_behind(key->bytes, key->length, behind));
	hint->slot = least(i, count - 1);
	row = (const uint8_t *)leaf + place_of(leaf, hint->slot).offset;
	__builtin_prefetch(row);
	__builtin_prefetch(row + CACHE_LINE);
}

/* Where an approach has led to, if that is still where the way leads. */
static int take_hint(struct exdb_worker *w, const struct btree_way *way, uint64_t *page,
		     const struct node **out)
{
	const struct btree_hint *hint = way->hint;
	const struct sight parent = { .word = hint->word, .version = hint->version };

	*page = hint->page;
	return last_step(w, way, &parent, *page, out);
}

static int descend_latched(struct exdb_worker *w, const struct btree_way *way, uint64_t *page,
			   const struct node **out)
{
	const struct node *node, *next;
	uint64_t child;
	int level, ret = btree_fix(w, way->root, NODE_ROOT, &node);

	*page = way->root;
	if (ret)
		return ret;
	if (node->header.level <= way->level) {
		buffer_unfix_shared(w, way->root);
		return arrive_at_root(w, way, page, out);
	}
	for (level = node->header.level - 1; level >= way->level; level--, node = next) {
		child = follow(node, way);
		if (level == way->level)
			ret = arrive(w, way, child, level, &next);
		else
			ret = btree_fix(w, child, level, &next);
		buffer_unfix_shared(w, *page);
		if (ret)
			return ret;
		*page = child;
	}
	*out = node;
	return 0;
}

int btree_descend(struct exdb_worker *w, const struct btree_way *way, uint64_t *page,
		  const struct node **out)
{
	/* what a view shows of a page need not be where the page is */
	unsigned int tries = w->view ? RESTARTS : 0;
	int ret = RESTART;

	if (way->hint && way->hint->page)
		ret = take_hint(w, way, page, out);
	while (ret > 0) {
		forget_fences(way);
		if (tries < RESTARTS)
			ret = descend_optimistically(w, way, page, out);
		else
			ret = descend_latched(w, way, page, out);
		tries = ret == GIVE_UP ? RESTARTS : tries + 1;
	}
	return ret;
}
