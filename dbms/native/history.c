// SPDX-License-Identifier: MIT
#include <stdlib.h>
#include <string.h>

#include "txn.h"

static void clear(struct history *h, uint64_t floor)
{
	while (h->nr)
		free(h->past[--h->nr].ops);
	h->bytes = 0;
	h->floor = floor;
}

void history_enter(struct exdb *db)
{
	if (!db->history.running++)
		clear(&db->history, db->seq);
}

void history_leave(struct exdb *db)
{
	if (!--db->history.running)
		clear(&db->history, db->seq);
}

void history_free(struct exdb *db)
{
	clear(&db->history, 0);
	free(db->history.past);
}

/* Forget the older half: who began before that cannot be validated any more. */
static void forget_half(struct history *h)
{
	size_t i, n = (h->nr + 1) / 2;

	for (i = 0; i < n; i++) {
		h->bytes -= h->past[i].size;
		h->floor = h->past[i].seq;
		free(h->past[i].ops);
	}
	memmove(h->past, h->past + n, (h->nr - n) * sizeof(*h->past));
	h->nr -= n;
}

static bool make_room(struct history *h)
{
	size_t room = h->room ? 2 * h->room : 256;
	struct past *grown;

	if (h->nr < h->room)
		return true;
	grown = realloc(h->past, room * sizeof(*grown));
	if (!grown)
		return false;
	h->past = grown;
	h->room = room;
	return true;
}

/* The operations without their values, to @to unless NULL: how many bytes. */
static size_t copy_keys(const struct op_list *ops, uint8_t *to)
{
	const uint8_t *at = ops->bytes, *end = at + ops->size;
	size_t size = 0;

	while (at < end) {
		struct op_header op;
		const uint8_t *key = at + sizeof(op);

		memcpy(&op, at, sizeof(op));
		at += op_size(&op, key);
		op.value_length = 0;
		op.nr_large = 0;
		if (to) {
			memcpy(to + size, &op, sizeof(op));
			memcpy(to + size + sizeof(op), key, op.key_length);
		}
		size += sizeof(op) + op.key_length;
	}
	return size;
}

/* Before db->seq says that it was committed. */
void history_add(struct exdb *db, const struct op_list *ops)
{
	struct history *h = &db->history;
	const size_t size = copy_keys(ops, NULL);
	uint8_t *copy;

	if (!h->running)
		return;
	while (h->nr && h->bytes + size > HISTORY_BYTES)
		forget_half(h);
	copy = size > HISTORY_BYTES || !make_room(h) ? NULL : malloc(size);
	if (!copy) {
		clear(h, db->seq + 1);
		return;
	}
	copy_keys(ops, copy);
	h->past[h->nr++] = (struct past){ .seq = db->seq + 1, .size = size, .ops = copy };
	h->bytes += size;
}

static bool any_op(const struct past *past, history_fn fn, const void *arg)
{
	const uint8_t *at = past->ops, *end = past->ops + past->size;
	struct op_header op;

	for (; at < end; at += sizeof(op) + op.key_length) {
		memcpy(&op, at, sizeof(op));
		if (fn(arg, past->seq, &op, at + sizeof(op)))
			return true;
	}
	return false;
}

bool history_any(const struct exdb *db, uint64_t seq, history_fn fn, const void *arg)
{
	const struct history *h = &db->history;
	size_t i;

	if (seq < h->floor)
		return true;
	for (i = h->nr; i > 0 && h->past[i - 1].seq > seq; i--)
		if (any_op(&h->past[i - 1], fn, arg))
			return true;
	return false;
}
