// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reads.h"
#include "row.h"
#include "txn.h"

#define CHUNK		65536u
#define TREES_MAX	16u

/* Memory that lives as long as the transaction. */
struct chunk {
	struct chunk *next;
	size_t used;
	size_t size;
	uint8_t bytes[];
};

/* What a write has replaced. */
struct undo {
	struct own *own;
	struct own_value before;
};

/* A tree to drop, and the length of the undo list when that was said. */
struct drop {
	uint32_t tree;
	size_t undo;
};

/**
 * struct exdb_txn - a running transaction; one thread at a time uses it
 * @db: its database
 * @chunks: memory
 * @head: before the first element of the skip list, with all levels
 * @random: for the levels of the next one
 * @undo: what rolls writes back, in their order
 * @nr_undo: length
 * @undo_room: allocated
 * @reads: what it has read
 * @schema: of the layouts that were used, or 0
 * @trees: that it creates
 * @tree_undo: @nr_undo when it did; what writes them down comes behind
 * @nr_trees: length of both
 * @drops: trees that it drops
 * @nr_drops: length
 * @drops_room: allocated
 */
struct exdb_txn {
	struct exdb *db;
	struct chunk *chunks;
	struct own *head;
	uint32_t random;
	struct undo *undo;
	size_t nr_undo;
	size_t undo_room;
	struct reads reads;
	uint64_t schema;
	uint32_t trees[TREES_MAX];
	size_t tree_undo[TREES_MAX];
	unsigned int nr_trees;
	struct drop *drops;
	size_t nr_drops;
	size_t drops_room;
};

static void *take(struct exdb_txn *txn, size_t size)
{
	struct chunk *chunk = txn->chunks;
	size_t room = size > CHUNK ? size : CHUNK;
	void *mem;

	size = (size + 7) / 8 * 8;
	if (!chunk || chunk->used + size > chunk->size) {
		room = (room + 7) / 8 * 8;
		chunk = malloc(sizeof(*chunk) + room);
		if (!chunk)
			return NULL;
		*chunk = (struct chunk){ .next = txn->chunks, .size = room };
		txn->chunks = chunk;
	}
	mem = chunk->bytes + chunk->used;
	chunk->used += size;
	return mem;
}

static const uint8_t *copy(struct exdb_txn *txn, const uint8_t *bytes, size_t size)
{
	uint8_t *mem = take(txn, size + 1);

	if (mem && size)
		memcpy(mem, bytes, size);
	return mem;
}

static int grow(void *array, size_t *room, size_t nr, size_t size)
{
	void **at = array, *grown;

	if (nr < *room)
		return 0;
	*room = *room ? 2 * *room : 64;
	grown = realloc(*at, *room * size);
	if (!grown)
		return -ENOMEM;
	*at = grown;
	return 0;
}

int exdb_txn_begin(struct exdb_worker *w, struct exdb_txn **out)
{
	const size_t levels = TXN_LEVELS * sizeof(struct own *);
	struct exdb_txn *txn = calloc(1, sizeof(*txn));

	if (!txn)
		return -ENOMEM;
	txn->head = take(txn, sizeof(*txn->head) + levels);
	if (!txn->head) {
		free(txn);
		return -ENOMEM;
	}
	memset(txn->head, 0, sizeof(*txn->head) + levels);
	txn->db = w->db;
	txn->random = 1;
	reads_init(&txn->reads);
	pthread_mutex_lock(&w->db->commit);
	history_enter(w->db);
	pthread_mutex_unlock(&w->db->commit);
	*out = txn;
	return 0;
}

/* Give back numbers of trees that it will not create after all; the commit lock is held. */
static void unclaim(struct exdb_txn *txn, unsigned int kept)
{
	while (txn->nr_trees > kept)
		tree_unclaim(txn->db, txn->trees[--txn->nr_trees]);
}

void exdb_txn_end(struct exdb_txn *txn)
{
	struct exdb *db = txn->db;

	pthread_mutex_lock(&db->commit);
	history_leave(db);
	unclaim(txn, 0);
	pthread_mutex_unlock(&db->commit);
	while (txn->chunks) {
		struct chunk *next = txn->chunks->next;

		free(txn->chunks);
		txn->chunks = next;
	}
	free(txn->undo);
	reads_free(&txn->reads);
	free(txn->drops);
	free(txn);
}

static int compare(const struct own *own, uint32_t tree, const uint8_t *key, unsigned int length)
{
	if (own->tree != tree)
		return own->tree < tree ? -1 : 1;
	return key_compare(own->key, own->key_length, key, length);
}

/* The last element less than the key, on each level. */
static struct own *descend(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
			   unsigned int length, struct own **before)
{
	struct own *at = txn->head;
	unsigned int level;

	for (level = TXN_LEVELS; level-- > 0;) {
		while (at->next[level] && compare(at->next[level], tree, key, length) < 0)
			at = at->next[level];
		if (before)
			before[level] = at;
	}
	return at;
}

const struct own *txn_find(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
			   unsigned int length, bool after)
{
	const struct own *own = descend(txn, tree, key, length, NULL)->next[0];

	if (after && own && !compare(own, tree, key, length))
		own = own->next[0];
	while (own && own->tree == tree && own->now.state == OWN_NONE)
		own = own->next[0];
	return own && own->tree == tree ? own : NULL;
}

const struct own *txn_find_before(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
				  unsigned int length)
{
	const struct own *own;

	own = key ? descend(txn, tree, key, length, NULL) :
		    descend(txn, tree + 1, (const uint8_t *)"", 0, NULL);
	while (own != txn->head && own->tree == tree && own->now.state == OWN_NONE)
		own = own->prev;
	return own != txn->head && own->tree == tree ? own : NULL;
}

const struct own *txn_own(const struct exdb_txn *txn, uint32_t tree, const uint8_t *key,
			  unsigned int length)
{
	const struct own *own = descend(txn, tree, key, length, NULL)->next[0];

	return own && !compare(own, tree, key, length) && own->now.state != OWN_NONE ? own : NULL;
}

static unsigned int choose_levels(struct exdb_txn *txn)
{
	unsigned int levels = 1;

	/* xorshift; each level has a quarter of the one below */
	txn->random ^= txn->random << 13;
	txn->random ^= txn->random >> 17;
	txn->random ^= txn->random << 5;
	while (levels < TXN_LEVELS && !(txn->random >> 2 * levels & 3))
		levels++;
	return levels;
}

static struct own *add(struct exdb_txn *txn, struct own **before, uint32_t tree,
		       const struct btree_entry *entry)
{
	unsigned int i, levels = choose_levels(txn);
	struct own *own = take(txn, sizeof(*own) + levels * sizeof(*own->next));

	if (!own)
		return NULL;
	*own = (struct own){
		.prev = before[0],
		.key = copy(txn, entry->key, entry->key_length),
		.tree = tree,
		.key_length = entry->key_length,
	};
	if (!own->key)
		return NULL;
	for (i = 0; i < levels; i++) {
		own->next[i] = before[i]->next[i];
		before[i]->next[i] = own;
	}
	if (own->next[0])
		own->next[0]->prev = own;
	return own;
}

static const uint8_t *copy_value(struct exdb_txn *txn, const struct btree_entry *entry)
{
	const size_t small = entry->value_length;
	const size_t large = extent_total(entry->value, small, entry->nr_large);
	uint8_t *mem = take(txn, small + large + 1);

	if (mem && small)
		memcpy(mem, entry->value, small);
	if (mem && large)
		memcpy(mem + small, entry->large, large);
	return mem;
}

int txn_write(struct exdb_txn *txn, enum own_state state, uint32_t tree,
	      const struct btree_entry *entry)
{
	struct own *before[TXN_LEVELS], *own;
	const uint8_t *value = copy_value(txn, entry);
	int ret = grow(&txn->undo, &txn->undo_room, txn->nr_undo, sizeof(*txn->undo));

	if (ret || !value)
		return -ENOMEM;
	own = descend(txn, tree, entry->key, entry->key_length, before)->next[0];
	if (!own || compare(own, tree, entry->key, entry->key_length))
		own = add(txn, before, tree, entry);
	if (!own)
		return -ENOMEM;
	txn->undo[txn->nr_undo++] = (struct undo){ .own = own, .before = own->now };
	own->now = (struct own_value){
		.bytes = value,
		.length = entry->value_length,
		.nr_large = entry->nr_large,
		.state = state,
	};
	return 0;
}

uint64_t exdb_txn_savepoint(const struct exdb_txn *txn)
{
	return txn->nr_undo;
}

int exdb_txn_rollback(struct exdb_txn *txn, uint64_t savepoint)
{
	unsigned int trees = txn->nr_trees;

	if (savepoint > txn->nr_undo)
		return -EINVAL;
	while (txn->nr_undo > savepoint) {
		const struct undo *undo = &txn->undo[--txn->nr_undo];

		undo->own->now = undo->before;
	}
	while (txn->nr_drops && txn->drops[txn->nr_drops - 1].undo >= savepoint)
		txn->nr_drops--;
	while (trees && txn->tree_undo[trees - 1] >= savepoint)
		trees--;
	if (trees < txn->nr_trees) {
		pthread_mutex_lock(&txn->db->commit);
		unclaim(txn, trees);
		pthread_mutex_unlock(&txn->db->commit);
	}
	return 0;
}

int txn_read_key(struct exdb_txn *txn, uint32_t tree, const uint8_t *key, unsigned int length)
{
	return reads_add_key(&txn->reads, txn->db, tree, key, length);
}

int txn_read_range(struct exdb_txn *txn, uint32_t tree, const struct exdb_key *low,
		   const struct exdb_key *high)
{
	return reads_add_range(&txn->reads, txn->db, tree, low, high);
}

int txn_use(struct exdb_txn *txn, const struct exdb_layout *layout)
{
	if (!txn->schema)
		txn->schema = layout->schema;
	return layout->schema && txn->schema != layout->schema ? -ECANCELED : 0;
}

int txn_create_tree(struct exdb_txn *txn, uint32_t *tree)
{
	int ret;

	if (txn->nr_trees == TREES_MAX)
		return -E2BIG;
	pthread_mutex_lock(&txn->db->commit);
	ret = tree_claim(txn->db, tree);
	pthread_mutex_unlock(&txn->db->commit);
	if (ret)
		return ret;
	txn->trees[txn->nr_trees] = *tree;
	txn->tree_undo[txn->nr_trees++] = txn->nr_undo;
	return 0;
}

int exdb_tree_drop(struct exdb_txn *txn, uint32_t tree)
{
	int ret = grow(&txn->drops, &txn->drops_room, txn->nr_drops, sizeof(*txn->drops));

	if (!ret)
		txn->drops[txn->nr_drops++] = (struct drop){ .tree = tree, .undo = txn->nr_undo };
	return ret;
}

int txn_validate(const struct exdb_txn *txn)
{
	if (txn->schema && txn->schema != txn->db->schema)
		return -ECANCELED;
	return reads_hold(&txn->reads, txn->db) ? 0 : -ECANCELED;
}

static int list_ops(const struct exdb_txn *txn, struct op_list *ops)
{
	const struct btree_entry none = { 0 };
	const struct own *own;
	unsigned int i;
	size_t drop;
	int ret = 0;

	for (i = 0; i < txn->nr_trees && !ret; i++)
		ret = op_list_add(ops, OP_CREATE, txn->trees[i], &none);
	for (own = txn->head->next[0]; own && !ret; own = own->next[0]) {
		const bool put = own->now.state == OWN_PUT;
		const struct btree_entry entry = {
			.key = own->key,
			.value = own->now.bytes,
			.key_length = own->key_length,
			.value_length = put ? own->now.length : 0,
			.nr_large = put ? own->now.nr_large : 0,
			.large = own->now.bytes + own->now.length,
		};

		if (own->now.state != OWN_NONE)
			ret = op_list_add(ops, put ? OP_PUT : OP_DELETE, own->tree, &entry);
	}
	for (drop = 0; drop < txn->nr_drops && !ret; drop++)
		ret = op_list_add(ops, OP_DROP, txn->drops[drop].tree, &none);
	return ret;
}

int exdb_txn_commit(struct exdb_worker *w, struct exdb_txn *txn)
{
	struct op_list ops = { 0 };
	struct commit_result result;
	int ret = list_ops(txn, &ops);

	if (!ret)
		ret = commit(w, &ops, txn, &result);
	op_list_free(&ops);
	/* they are trees now, and others may have dropped them */
	if (!ret)
		txn->nr_trees = 0;
	return ret;
}

int exdb_txn_check(struct exdb_worker *w, const struct exdb_txn *txn)
{
	int ret;

	pthread_mutex_lock(&w->db->commit);
	ret = txn_validate(txn);
	pthread_mutex_unlock(&w->db->commit);
	return ret;
}
