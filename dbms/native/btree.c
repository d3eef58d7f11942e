// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "extent.h"
#include "latch.h"

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

int btree_fix(struct exdb_worker *w, uint64_t page, int level, const struct node **out)
{
	const void *mem;
	int ret = buffer_fix_shared(w, page, &mem);

	if (ret)
		return ret;
	if (!node_is_at(mem, level)) {
		buffer_unfix_shared(w, page);
		w->error_page = page;
		return -EUCLEAN;
	}
	*out = mem;
	return 0;
}

int btree_latch_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entry,
		     struct latched *leaf, struct fence *fence)
{
	const struct btree_way way = {
		.root = root,
		.key = entry->key,
		.length = entry->key_length,
		.exclusive = true,
		.above = fence,
	};
	const struct node *node;
	int ret = btree_descend(w, &way, &leaf->page, &node);

	leaf->node = (struct node *)node;
	leaf->dirty = false;
	return ret;
}

#define LEAF_FULL 1

/* Whether an entry fits once @freed bytes are, perhaps behind a longer prefix. */
static bool has_room(struct latched *leaf, const struct btree_entry *entry, unsigned int freed)
{
	struct node *node = leaf->node;
	unsigned int need;

	if (node_fits(node, entry->key, entry->key_length, entry->value_length, freed))
		return true;
	/* what lacks behind this prefix; where the key has only a part of it, no longer one is to be had */
	need = node_entry_size(entry->key_length, entry->value_length) - node->prefix_length -
	       node_free_space(node) - freed;
	if (!node_squeeze(node, entry->key, entry->key_length, need))
		return false;
	leaf->dirty = true;
	return true;
}

static int note_dropped(struct exdb *db, const struct node *node, unsigned int i)
{
	struct exdb_key room;
	const struct btree_row row = btree_row_at(node, i, &room);

	return extent_note_dropped(db, &row);
}

/* 0, -EEXIST, -ENOMEM, or LEAF_FULL. */
static int put(struct exdb *db, struct latched *leaf, const struct btree_entry *entry, bool replace)
{
	struct node *node = leaf->node;
	bool found, same_size;
	unsigned int i = node_lower_bound(node, entry->key, entry->key_length, &found);
	int ret = 0;

	if (found && !replace)
		return -EEXIST;
	same_size = found && node->slots[i].value_length == entry->value_length;
	if (!same_size && !has_room(leaf, entry, found ? node_slot_size(node, i) : 0))
		return LEAF_FULL;
	if (found)
		ret = note_dropped(db, node, i);
	if (ret)
		return ret;
	if (same_size) {
		memcpy((uint8_t *)node_value(node, i), entry->value, entry->value_length);
	} else {
		if (found)
			node_remove(node, i);
		node_insert(node, i, entry->key, entry->key_length, entry->value,
			    entry->value_length);
	}
	node->slots[i].nr_large = entry->nr_large;
	leaf->dirty = true;
	return 0;
}

/* Put as many entries as belong into the leaf of the first; LEAF_FULL if they do not fit. */
static int fill_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		     size_t n, bool replace, size_t *done)
{
	struct fence fence;
	struct latched leaf;
	int ret = btree_latch_leaf(w, root, entries, &leaf, &fence);

	*done = 0;
	if (ret)
		return ret;
	for (; !ret && *done < n; *done += !ret) {
		const struct btree_entry *entry = &entries[*done];

		if (!fence_is_above(&fence, entry->key, entry->key_length))
			break;
		ret = put(w->db, &leaf, entry, replace);
	}
	unlatch(w, &leaf);
	return ret;
}

int btree_insert(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		 size_t n, bool replace, size_t *done)
{
	int ret = 0;

	*done = 0;
	while (!ret && *done < n) {
		size_t put_now;

		ret = fill_leaf(w, root, entries + *done, n - *done, replace, &put_now);
		*done += put_now;
		if (ret == LEAF_FULL)
			ret = btree_make_room(w, root, entries + *done,
					      *done ? entries + *done - 1 : NULL);
	}
	return ret;
}

/* Those of the entries that belong into the leaf of the first. */
static int probe_leaf(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries,
		      size_t n, bool absent, size_t *done, uint64_t *found_page)
{
	struct fence fence;
	const struct btree_way way = {
		.root = root,
		.key = entries->key,
		.length = entries->key_length,
		.above = &fence,
	};
	const struct node *leaf;
	uint64_t page;
	int ret = btree_descend(w, &way, &page, &leaf);

	*done = 0;
	if (ret)
		return ret;
	while (*done < n) {
		const struct btree_entry *entry = &entries[*done];
		bool found = false;

		if (*done && !fence_is_above(&fence, entry->key, entry->key_length))
			break;
		if (absent)
			node_lower_bound(leaf, entry->key, entry->key_length, &found);
		if (found) {
			ret = -EEXIST;
			break;
		}
		(*done)++;
	}
	*found_page = page;
	buffer_unfix_shared(w, page);
	return ret;
}

void btree_unshare(struct exdb_worker *w, struct btree_touched *touched)
{
	/* what is not copied is when it is written to */
	if (touched->nr)
		exmap_vector(w->db->ex, w->itf, EXMAP_OP_UNSHARE, touched->shared, touched->nr, 0,
			     NULL);
	touched->nr = 0;
}

static void touch(struct exdb_worker *w, struct btree_touched *touched, uint64_t page)
{
	const uint32_t word = __atomic_load_n(&w->db->ex->residency[page], __ATOMIC_RELAXED);

	touched->leaves++;
	if (!(word & EXMAP_RES_SNAPSHOT))
		return;
	touched->shared[touched->nr++] = page;
	if (touched->nr == PREFETCH_MAX)
		btree_unshare(w, touched);
}

int btree_probe(struct exdb_worker *w, uint64_t root, const struct btree_entry *entries, size_t n,
		bool absent, size_t *seen, struct btree_touched *touched)
{
	uint64_t page;
	int ret = 0;

	*seen = 0;
	while (!ret && *seen < n) {
		size_t done;

		ret = probe_leaf(w, root, entries + *seen, n - *seen, absent, &done, &page);
		*seen += done;
		if (!ret)
			touch(w, touched, page);
	}
	return ret;
}

int btree_find_leaf(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		    uint64_t *leaf)
{
	const struct btree_way way = {
		.root = root, .key = key->bytes, .length = key->length, .level = 1
	};
	const struct node *node;
	uint64_t page;
	int ret = btree_descend(w, &way, &page, &node);

	if (ret)
		return ret;
	*leaf = page;
	if (!node_is_leaf(node))
		*leaf = node_child(node, node_upper_bound(node, key->bytes, key->length));
	buffer_unfix_shared(w, page);
	return 0;
}

/* The slot of a key in its leaf: the one that was seen before, or that of a search. */
static bool find_slot(const struct node *leaf, const struct exdb_key *key,
		      const struct btree_hint *hint, unsigned int *i)
{
	bool found;

	if (hint && hint->page && node_has_key(leaf, hint->slot, key->bytes, key->length)) {
		*i = hint->slot;
		return true;
	}
	*i = node_lower_bound(leaf, key->bytes, key->length, &found);
	return found;
}

int btree_lookup(struct exdb_worker *w, uint64_t root, const struct exdb_key *key,
		 const struct btree_hint *hint, btree_row_fn fn, void *arg)
{
	const struct btree_way way = {
		.root = root, .key = key->bytes, .length = key->length, .hint = hint
	};
	const struct node *node;
	uint64_t page;
	unsigned int i;
	int ret = btree_descend(w, &way, &page, &node);

	if (ret)
		return ret;
	ret = -ENOENT;
	if (find_slot(node, key, hint, &i)) {
		const struct btree_row row = {
			.key = key->bytes,
			.value = node_value(node, i),
			.key_length = key->length,
			.value_length = node->slots[i].value_length,
			.nr_large = node->slots[i].nr_large,
		};

		ret = fn(arg, &row);
		if (ret == -EUCLEAN)
			w->error_page = page;
	}
	buffer_unfix_shared(w, page);
	return ret;
}
