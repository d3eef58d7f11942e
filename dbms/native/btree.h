/* SPDX-License-Identifier: MIT */
/*
 * A clustered B+-tree: the rows lie in its leaves.  Its root page never moves.
 * Who changes trees holds exdb.commit.
 *
 * Readers and writers descend with shared latches, one or two at a time, and
 * latch the leaf as they need it.  Who finds a leaf full, or leaves one nearly
 * empty, lets go and descends again with exclusive latches, splitting every
 * full page or mending every underfull one on the way down, so that neither has
 * to climb.
 */
#ifndef EXDB_BTREE_H
#define EXDB_BTREE_H

#include "buffer.h"
#include "node.h"

/**
 * struct btree_entry - something to insert
 * @key: bytes
 * @value: bytes
 * @key_length: up to EXDB_KEY_MAX
 * @value_length: with the key up to EXDB_ROW_MAX
 * @nr_large: references at the end of the value
 * @row: the caller's number for it
 * @large: the values that they stand for, one after another
 */
struct btree_entry {
	const uint8_t *key;
	const uint8_t *value;
	uint16_t key_length;
	uint16_t value_length;
	uint8_t nr_large;
	uint32_t row;
	const uint8_t *large;
};

static inline int btree_compare(const struct btree_entry *a, const struct btree_entry *b)
{
	return key_compare(a->key, a->key_length, b->key, b->key_length);
}

/* An entry as it lies in a leaf that is latched, or, if it has @large, on its way there. */
struct btree_row {
	const uint8_t *key;
	const uint8_t *value;
	unsigned int key_length;
	unsigned int value_length;
	unsigned int nr_large;
	const uint8_t *large;
};

/* @room: for its key, if that does not lie in one place */
static inline struct btree_row btree_row_at(const struct node *leaf, unsigned int i,
					    struct exdb_key *room)
{
	return (struct btree_row){
		.key = node_key(leaf, i, room),
		.value = node_value(leaf, i),
		.key_length = node_key_length(leaf, i),
		.value_length = leaf->slots[i].value_length,
		.nr_large = leaf->slots[i].nr_large,
	};
}

/* 0 to go on, 1 to stop before this row, or -errno. */
typedef int (*btree_row_fn)(void *arg, const struct btree_row *row);

/* Rows of a leaf that is latched, from slot @from on: how many of @n were taken, or -errno. */
typedef long (*btree_leaf_fn)(void *arg, const struct node *leaf, unsigned int from,
			      unsigned int n);

/**
 * struct btree_cursor - where a scan is; holds no latch between calls
 * @root: of the tree
 * @low: rows before this key have been seen, or are not wanted
 * @high: nor are, if @bounded, those from this key on
 * @bounded: see @high
 * @reverse: from the greatest key to the least
 * @done: nothing is left
 * @ahead: leaves to the left that have been read ahead
 * @prefetch: leaves to read ahead, 0 for none
 * @leaf_fn: takes rows in place of btree_scan's function, unless NULL or @reverse
 */
struct btree_cursor {
	uint64_t root;
	struct exdb_key low;
	struct exdb_key high;
	bool bounded;
	bool reverse;
	bool done;
	unsigned int ahead;
	unsigned int prefetch;
	btree_leaf_fn leaf_fn;
};

/* A key that bounds those of a node: they are less than this one. */
struct fence {
	unsigned int length;
	bool bounded;
	uint8_t key[EXDB_KEY_MAX];
};

static inline void fence_set(struct fence *fence, const uint8_t *key, unsigned int length)
{
	fence->bounded = true;
	fence->length = length;
	memcpy(fence->key, key, length);
}

/* The key of slot @i. */
static inline void fence_take(struct fence *fence, const struct node *node, unsigned int i)
{
	struct exdb_key room;

	fence_set(fence, node_key(node, i, &room), node_key_length(node, i));
}

static inline bool fence_is_above(const struct fence *fence, const uint8_t *key,
				  unsigned int length)
{
	return !fence->bounded || key_compare(key, length, fence->key, fence->length) < 0;
}

/**
 * struct btree_hint - where the way of a key has led to
 * @page: of the leaf, or 0
 * @word: the state of its parent
 * @version: that it had; if it still has, the key belongs into that leaf
 * @slot: of the leaf, where the key may be
 */
struct btree_hint {
	uint64_t page;
	uint64_t *word;
	uint64_t version;
	unsigned int slot;
};

/**
 * struct btree_way - the way from a root to a node
 * @root: page number
 * @key: what the node is for, or NULL: the greatest key that there is
 * @length: of @key
 * @before: what is just before @key, rather than @key itself
 * @exclusive: latch the node exclusively
 * @level: of the node; or the root, if that is no higher
 * @hint: of this key's way to a leaf, or NULL
 * @above: unless NULL, becomes what all keys below the node are less than
 * @below: unless NULL, becomes what none of them is less than
 */
struct btree_way {
	uint64_t root;
	const uint8_t *key;
	unsigned int length;
	bool before;
	bool exclusive;
	uint8_t level;
	const struct btree_hint *hint;
	struct fence *above;
	struct fence *below;
};

/* descend.c: the node that the way leads to, latched, and its page. */
int btree_descend(struct exdb_worker *w, const struct btree_way *way, uint64_t *page,
		  const struct node **out);

/* A node under a shared latch; -EUCLEAN if the page is none of this level, or of any if that is NODE_ROOT. */
int btree_fix(struct exdb_worker *w, uint64_t page, int level, const struct node **out);

int btree_create(struct exdb_worker *w, uint64_t *root);

/*
 * Insert entries that are sorted by key; *done is the number that went in.
 * -EEXIST if a key is there already (unless @replace) or twice in the batch.
 */
int btree_insert(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		 size_t n, bool replace, size_t *done);

#define BTREE_UNMENDED	1

/*
 * Remove what there is of keys that are sorted; *removed is the number of rows that
 * went.  BTREE_UNMENDED if all did, but a page that is nearly empty now could not be
 * merged with another: whoever removes from it next tries again.
 */
int btree_remove(struct exdb_worker *w, uint64_t root, const struct btree_entry *keys, size_t n,
		 size_t *removed);

/*
 * Give back a part of the pages of a tree that nobody uses any more: 1 if there is more, 0 if the root is
 * an empty leaf, and the only page.  Bring in what that will need.  @large: rows may have extents.
 */
int btree_trim(struct exdb_worker *w, uint64_t root, bool large);
int btree_trim_probe(struct exdb_worker *w, uint64_t root, bool large);

/**
 * struct btree_touched - leaves that a transaction is about to change
 * @leaves: how many
 * @nr: length of @shared
 * @shared: some that a snapshot shares, so that writing them would fault
 */
struct btree_touched {
	size_t leaves;
	unsigned int nr;
	uint64_t shared[PREFETCH_MAX];
};

/* Have the pages of @shared copied with one vector, which costs less than a fault for each. */
void btree_unshare(struct exdb_worker *w, struct btree_touched *touched);

/*
 * Come to the leaves of keys that are sorted, and add them to @touched.  With @absent
 * they stop at the first key that is there: -EEXIST, and *seen is its place.
 */
int btree_probe(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries, size_t n,
		bool absent, size_t *seen, struct btree_touched *touched);

/* The leaf that has a key if any has; none is read, but that of a tree that has one page. */
int btree_find_leaf(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		    uint64_t *leaf);

/*
 * descend.c: go up to the leaf of a key that will be looked up soon, and have the processor fetch it meanwhile.
 * Nothing is latched or read from the disk: where that would have to be there is no hint.
 */
void btree_approach(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		    struct btree_hint *hint);

/* Look for the row, too, once the leaf is there, and have the processor fetch it, or what is in its place. */
void btree_peek(const struct exdb_worker *w, const struct exdb_key *key, struct btree_hint *hint);

/* Call @fn for the row with this key; -ENOENT if there is none.  @hint: of an approach, or NULL. */
int btree_lookup(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		 const struct btree_hint *hint, btree_row_fn fn, void *arg);

/* Call @fn for the rows from the cursor on, in its order, until it stops or the end. */
int btree_scan(struct exdb_worker *w, struct btree_cursor *cursor, btree_row_fn fn, void *arg);

/* scan_reverse.c: the same for the rows of one leaf, backwards. */
int btree_scan_leaf_reverse(struct exdb_worker *w, struct btree_cursor *cursor, btree_row_fn fn,
			    void *arg);

#endif /* EXDB_BTREE_H */
