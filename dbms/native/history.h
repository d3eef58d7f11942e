/* SPDX-License-Identifier: MIT */
/* What running transactions are validated against. */
#ifndef EXDB_HISTORY_H
#define EXDB_HISTORY_H

#include <stddef.h>
#include <stdint.h>

#define HISTORY_BYTES	(16u << 20)

/**
 * struct past - a committed transaction
 * @seq: its number
 * @size: of @ops
 * @ops: its operations
 */
struct past {
	uint64_t seq;
	size_t size;
	uint8_t *ops;
};

/**
 * struct history - transactions that have committed since the oldest running one began;
 *	protected by exdb.commit
 * @past: in the order of their numbers
 * @nr: length
 * @room: allocated
 * @bytes: of all operations
 * @running: transactions
 * @floor: what was committed up to this number is forgotten
 */
struct history {
	struct past *past;
	size_t nr;
	size_t room;
	size_t bytes;
	unsigned int running;
	uint64_t floor;
};

#endif /* EXDB_HISTORY_H */
