// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "txn.h"

/* Pages that are left to who makes room, which may take some first. */
#define RESERVE	32u

void op_list_free(struct op_list *ops)
{
	free(ops->bytes);
}

static int grow(struct op_list *ops, size_t n)
{
	size_t room = 2 * ops->room + n + 4096;
	uint8_t *bytes;

	if (ops->size + n <= ops->room)
		return 0;
	bytes = realloc(ops->bytes, room);
	if (!bytes)
		return -ENOMEM;
	ops->bytes = bytes;
	ops->room = room;
	return 0;
}

int op_list_add(struct op_list *ops, enum op_kind kind, uint32_t tree,
		const struct btree_entry *entry)
{
	const struct op_header op = {
		.tree = tree,
		.key_length = entry->key_length,
		.value_length = entry->value_length,
		.kind = kind,
		.nr_large = entry->nr_large,
	};
	const size_t small = sizeof(op) + op.key_length + op.value_length;
	const size_t large = extent_total(entry->value, op.value_length, op.nr_large);
	unsigned int i;
	uint8_t *to;
	int ret = grow(ops, small + large);

	if (ret)
		return ret;
	to = ops->bytes + ops->size;
	memcpy(to, &op, sizeof(op));
	if (op.key_length)
		memcpy(to + sizeof(op), entry->key, op.key_length);
	if (op.value_length)
		memcpy(to + sizeof(op) + op.key_length, entry->value, op.value_length);
	if (large)
		memcpy(to + small, entry->large, large);
	ops->size += small + large;
	ops->large_bytes += large;
	for (i = 0; i < op.nr_large; i++)
		ops->large_pages += extent_pages(
			extent_ref_at(entry->value, op.value_length, op.nr_large, i).length);
	ops->catalog |= tree == EXDB_TABLES_TREE;
	ops->grows |= kind == OP_CREATE || kind == OP_INSERT || kind == OP_PUT;
	ops->drops |= kind == OP_DROP;
	return 0;
}

/* Blocks may run short on a device; a checkpoint gives back those of the last one. */
static bool blocks_are_low(struct exdb *db, uint64_t pages)
{
	uint64_t need = pages + db->pool_pages + db->log.size / PAGE_SIZE + 2 * db->map.nr + 64;
	bool low;

	pthread_mutex_lock(&db->blocks.lock);
	low = db->blocks.nr_free < need;
	pthread_mutex_unlock(&db->blocks.lock);
	return low;
}

/*
 * Take the commit lock when there is room for the record, making a checkpoint if there
 * is none.
 */
static int lock_with_room(struct exdb_worker *w, const struct op_list *ops)
{
	struct exdb *db = w->db;
	unsigned int tries = 0;
	int ret = 0;

	while (!ret) {
		bool low, open;

		pthread_mutex_lock(&db->commit);
		if (__atomic_load_n(&db->failed, __ATOMIC_ACQUIRE)) {
			ret = -EROFS;
			break;
		}
		low = blocks_are_low(db, ops->large_pages);
		open = __atomic_load_n(&db->log_open, __ATOMIC_ACQUIRE);
		if (open && !low && log_has_room(&db->log, ops->size))
			return 0;
		w->error_page = db->next_page;
		pthread_mutex_unlock(&db->commit);
		if (low && tries++ > 1)
			return -ENOSPC;
		/* what was retired since the last one began is free after the next but one */
		ret = checkpoint_run(w, low || !open ? CHECKPOINT_ALWAYS : CHECKPOINT_IF_NEEDED);
		if (ret)
			return ret;
	}
	pthread_mutex_unlock(&db->commit);
	return ret;
}

/*
 * Nothing may go wrong once the record is in the log, so look first: at the leaves,
 * and whether there are pages for the worst that these operations can do.
 */
static int validate(struct exdb_worker *w, const struct op_list *ops, size_t *op)
{
	struct exdb *db = w->db;
	struct btree_touched touched = { .nr = 0 };
	int ret = apply_probe(w, ops->bytes, ops->size, op, &touched);
	size_t pages;

	if (ret)
		return ret;
	if (!touched.leaves)
		return 0;
	/* one alone faults as quickly */
	if (touched.nr > 1)
		btree_unshare(w, &touched);
	pages = touched.leaves + 4 * (ops->size - ops->large_bytes) / NODE_SPACE;
	pages += pages / 4 + 8;
	if (ops->grows && !ops->drops)
		pages += RESERVE;
	if (db->data_pages - db->next_page + db->nr_free + db->run_pages >= pages)
		return 0;
	w->error_page = db->next_page;
	return -ENOSPC;
}

/*
 * Give large values their pages while nothing has been promised yet, so that it does no harm if there are
 * none, and see that trees have theirs.
 */
static int prepare(struct exdb_worker *w, const struct op_list *ops, size_t *op)
{
	int ret, error = ops->large_pages ? apply_place(w, ops->bytes, ops->size) : 0;

	if (!error)
		error = validate(w, ops, op);
	if (!error || !ops->large_pages)
		return error;
	ret = apply_unplace(w, ops->bytes, ops->size);
	return ret ? checkpoint_fail(w->db, ret, w->error_page) : error;
}

/* The commit lock is held. */
static int log_and_apply(struct exdb_worker *w, const struct op_list *ops,
			 const struct exdb_txn *txn, struct commit_result *result, uint64_t *end)
{
	struct exdb *db = w->db;
	int ret = txn ? txn_validate(txn) : 0;

	if (!ret && ops->schema && ops->schema != db->schema)
		ret = -ESTALE;
	if (!ret)
		ret = prepare(w, ops, &result->op);
	*end = log_tail(&db->log);
	/* who has read what is not on the disk yet waits for it as well */
	if (ret || !ops->size)
		return ret;
	ret = log_append(&db->log, ops->bytes, ops->size, end);
	if (ret) {
		w->error_page = UINT64_MAX;
		return checkpoint_fail(db, ret, UINT64_MAX);
	}
	ret = apply_ops(w, ops->bytes, ops->size, &result->removed);
	if (ret) {
		checkpoint_fail(db, ret, w->error_page);
		return -ENOTRECOVERABLE;
	}
	history_add(db, ops);
	__atomic_store_n(&db->schema, db->schema + ops->catalog, __ATOMIC_RELEASE);
	__atomic_store_n(&db->seq, db->seq + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&db->commits, db->commits + 1, __ATOMIC_RELAXED);
	return 0;
}

int commit(struct exdb_worker *w, const struct op_list *ops, const struct exdb_txn *txn,
	   struct commit_result *result)
{
	struct exdb *db = w->db;
	uint64_t end;
	int ret;

	*result = (struct commit_result){ 0 };
	if (ops->size > log_record_max(&db->log))
		return -E2BIG;
	ret = ops->size ? lock_with_room(w, ops) : pthread_mutex_lock(&db->commit);
	if (ret)
		return ret;
	ret = log_and_apply(w, ops, txn, result, &end);
	pthread_mutex_unlock(&db->commit);
	if (!ret && !ops->relaxed && db->level != EXDB_ASYNC) {
		ret = log_wait(&db->log, end);
		if (ret) {
			checkpoint_fail(db, ret, UINT64_MAX);
			ret = -ENOTRECOVERABLE;
		}
	}
	keeper_wake(db);
	return ret;
}

static int replay_one(void *arg, uint8_t *payload, uint32_t length)
{
	struct exdb_worker *w = arg;
	size_t removed = 0;

	int ret = apply_check(payload, length);

	w->db->recovered++;
	if (!ret)
		ret = apply_place(w, payload, length);
	return ret ? ret : apply_ops(w, payload, length, &removed);
}

int recover(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	uint64_t lsn = db->checkpoint.lsn, end = lsn;
	int ret;

	w->error_page = UINT64_MAX;
	log_start(&db->log, lsn);
	if (db->checkpoint.clean)
		return 0;
	ret = log_replay(&db->log, lsn, replay_one, w, &end);
	if (ret)
		return ret;
	log_start(&db->log, end);
	return checkpoint_run(w, CHECKPOINT_ALWAYS);
}
