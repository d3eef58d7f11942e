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

/* Before db->seq says that it was committed. */
void history_add(struct exdb *db, const struct op_list *ops)
{
	struct history *h = &db->history;
	uint8_t *copy;

	if (!h->running)
		return;
	while (h->nr && h->bytes + ops->size > HISTORY_BYTES)
		forget_half(h);
	copy = ops->size > HISTORY_BYTES || !make_room(h) ? NULL : malloc(ops->size);
	if (!copy) {
		clear(h, db->seq + 1);
		return;
	}
	memcpy(copy, ops->bytes, ops->size);
	h->past[h->nr++] = (struct past){ .seq = db->seq + 1, .size = ops->size, .ops = copy };
	h->bytes += ops->size;
}

static bool any_op(const struct past *past, history_fn fn, const void *arg)
{
	const uint8_t *at = past->ops, *end = past->ops + past->size;
	struct op_header op;

	for (; at < end; at += sizeof(op) + op.key_length + op.value_length) {
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
