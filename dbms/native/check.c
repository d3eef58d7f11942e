// SPDX-License-Identifier: MIT
/*
 * Check everything: every page of every tree, its place and its order, the list of
 * free pages, that no page is lost or in two places, and what the disk has of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"

/**
 * struct check - a check that is under way
 * @w: the channel
 * @seen: for each page whether something refers to it
 * @kinds: for each page what it should be: enum exdb_page_kind
 * @leaf: the link of the last leaf
 * @result: counts
 */
struct check {
	struct exdb_worker *w;
	uint8_t *seen;
	uint8_t *kinds;
	uint64_t leaf;
	struct exdb_check *result;
};

static int fail(struct check *c, uint64_t page)
{
	c->w->error_page = page;
	return -EUCLEAN;
}

static int see(struct check *c, uint64_t page)
{
	if (!page || page >= c->w->db->next_page || c->seen[page])
		return fail(c, page);
	c->seen[page] = 1;
	return 0;
}

/* Whether the keys, which ascend, are not below @low and, if there is one, below @high. */
static bool is_within(const struct node *node, const struct exdb_key *low,
		      const struct exdb_key *high)
{
	if (!node->count)
		return true;
	if (node_compare(node, 0, low->bytes, low->length) > 0)
		return false;
	return !high || node_compare(node, node->count - 1, high->bytes, high->length) > 0;
}

static int check_node(struct check *c, uint64_t page, const struct exdb_key *low,
		      const struct exdb_key *high, int level);

static int check_children(struct check *c, const struct node *node, const struct exdb_key *low,
			  const struct exdb_key *high)
{
	struct exdb_key from = *low, to;
	unsigned int i;
	int ret = 0;

	for (i = 0; i <= node->count && !ret; i++) {
		if (i < node->count)
			node_copy_key(&to, node, i);
		ret = check_node(c, node_child(node, i), &from, i < node->count ? &to : high,
				 node->header.level - 1);
		from = to;
	}
	return ret;
}

/* Pages of an extent, or of a run that is free. */
static int see_all(struct check *c, uint64_t first, uint64_t n, enum exdb_page_kind kind)
{
	int ret = 0;

	for (; n && !ret; n--, first++) {
		ret = see(c, first);
		if (!ret)
			c->kinds[first] = kind;
	}
	return ret;
}

static int check_extents(struct check *c, const struct node *node)
{
	struct exdb_key room;
	unsigned int i, k;
	int ret = 0;

	for (i = 0; i < node->count && !ret; i++) {
		const struct btree_row row = btree_row_at(node, i, &room);

		for (k = 0; k < row.nr_large && !ret; k++) {
			const struct extent_ref ref =
				extent_ref_at(row.value, row.value_length, row.nr_large, k);

			ret = see_all(c, ref.page, extent_pages(ref.length), EXDB_PAGE_RAW);
			c->result->extent_pages += extent_pages(ref.length);
		}
	}
	return ret;
}

static int check_leaf(struct check *c, uint64_t page, const struct node *node)
{
	if (c->leaf && c->leaf != page)
		return fail(c, page);
	/* UINT64_MAX: there must be no other one */
	c->leaf = node->link ? node->link : UINT64_MAX;
	c->result->rows += node->count;
	return check_extents(c, node);
}

/* The subtree of a page whose keys must be in [low, high); a level of NODE_ROOT is any. */
static int check_node(struct check *c, uint64_t page, const struct exdb_key *low,
		      const struct exdb_key *high, int level)
{
	const struct node *node;
	int ret = see(c, page);

	if (!ret)
		ret = btree_fix(c->w, page, level, &node);
	if (ret)
		return ret;
	c->result->tree_pages++;
	if (!node_is_sound(node) || !is_within(node, low, high))
		ret = fail(c, page);
	else if (node_is_leaf(node))
		ret = check_leaf(c, page, node);
	else
		ret = check_children(c, node, low, high);
	buffer_unfix_shared(c->w, page);
	return ret;
}

static int check_tree(struct check *c, uint64_t root)
{
	const struct exdb_key low = { 0 };
	int ret;

	c->leaf = 0;
	c->result->trees++;
	ret = check_node(c, root, &low, NULL, NODE_ROOT);
	if (!ret && c->leaf != UINT64_MAX)
		ret = fail(c, root);
	return ret;
}

static int check_free_list(struct check *c)
{
	uint64_t page = c->w->db->free_page;
	const struct free_page *freed;
	const void *mem;
	int ret = 0;

	while (page && !ret) {
		ret = see(c, page);
		if (!ret)
			ret = buffer_fix_shared(c->w, page, &mem);
		if (ret)
			return ret;
		freed = mem;
		if (freed->header.type != PAGE_FREE)
			ret = fail(c, page);
		buffer_unfix_shared(c->w, page);
		page = freed->next;
		c->result->free_pages++;
	}
	return ret || c->result->free_pages == c->w->db->nr_free ? ret : fail(c, c->w->db->free_page);
}

static int check_run(void *arg, uint64_t first, uint64_t n)
{
	struct check *c = arg;

	c->result->free_pages += n;
	return see_all(c, first, n, EXDB_PAGE_UNUSED);
}

static int fix(struct check *c, uint64_t page)
{
	const void *mem;

	if (c->kinds[page] == EXDB_PAGE_RAW)
		return buffer_fix_raw(c->w, page);
	return buffer_fix_shared(c->w, page, &mem);
}

/* What the disk has of a page that is not newer in memory. */
static int check_stored(struct check *c, uint64_t page, void *buffer)
{
	struct exdb *db = c->w->db;
	struct map_slot slot;
	unsigned int done;
	uint32_t block;
	int ret;

	/* nobody has what is free */
	if (c->kinds[page] == EXDB_PAGE_UNUSED)
		return map_get(db, page).block ? fail(c, page) : 0;
	ret = fix(c, page);
	if (ret)
		return ret;
	slot = map_get(db, page);
	block = slot.block;
	if (block && !(state_load(page_state(db, page)) & STATE_DIRTY)) {
		c->w->error_page = page;
		ret = disk_read(db->backing_fd, &block, &buffer, 1, &done);
		if (!ret)
			ret = map_verify(slot, buffer, page);
		c->result->stored_pages++;
	}
	buffer_unfix_shared(c->w, page);
	return ret == -ENXIO ? -EUCLEAN : ret;
}

/* The commit lock is held. */
static int check_all(struct check *c, void *buffer)
{
	struct exdb *db = c->w->db;
	uint64_t page;
	uint32_t tree;
	int ret = check_tree(c, DIRECTORY_ROOT);

	for (tree = RUNS_TREE; tree < db->nr_trees && !ret; tree++)
		if (db->trees[tree].root)
			ret = check_tree(c, db->trees[tree].root & TREE_PAGE);
	if (!ret)
		ret = check_free_list(c);
	if (!ret)
		ret = runs_each(c->w, check_run, c);
	for (page = 1; page < db->next_page && !ret; page++) {
		if (c->seen[page])
			ret = check_stored(c, page, buffer);
		else
			ret = fail(c, page);
	}
	return ret;
}

int exdb_check(struct exdb_worker *w, struct exdb_check *result)
{
	struct check c = { .w = w, .result = result };
	void *buffer = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	int ret = -ENOMEM;

	*result = (struct exdb_check){ 0 };
	pthread_mutex_lock(&w->db->commit);
	c.seen = calloc(w->db->next_page, 1);
	c.kinds = malloc(w->db->next_page);
	if (c.kinds)
		memset(c.kinds, EXDB_PAGE_NODE, w->db->next_page);
	if (c.seen && c.kinds && buffer)
		ret = check_all(&c, buffer);
	pthread_mutex_unlock(&w->db->commit);
	free(c.seen);
	free(c.kinds);
	free(buffer);
	return ret;
}
