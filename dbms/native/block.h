/* SPDX-License-Identifier: MIT */
/*
 * Blocks of 4096 bytes in the backing: which are free.
 *
 * A page is never written where it lay at the last checkpoint.  A block that
 * got its page in this epoch is *fresh*: no checkpoint has it, so it is free as
 * soon as its page has moved on.  Any other is *retired*: free when a checkpoint
 * has completed that began after the page moved.
 */
#ifndef EXDB_BLOCK_H
#define EXDB_BLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCKS_MAX	INT32_MAX	/* the map has 31 bits for them */

/* A block that the image of epoch @epoch, or an older one, may still need. */
struct retired_block {
	uint32_t block;
	uint64_t epoch;
};

/**
 * struct blocks - the allocator
 * @lock: protects it, and the page map
 * @used: a bit for each block
 * @fresh: likewise
 * @first: first block that may hold a page
 * @count: blocks of the backing
 * @hand: where to look next
 * @nr_free: free blocks
 * @retired: in the order of their epochs
 * @nr_retired: length
 * @room: allocated
 */
struct blocks {
	pthread_mutex_t lock;
	uint64_t *used;
	uint64_t *fresh;
	uint64_t first;
	uint64_t count;
	uint64_t hand;
	uint64_t nr_free;
	struct retired_block *retired;
	size_t nr_retired;
	size_t room;
};

int blocks_init(struct blocks *b, uint64_t first, uint64_t count);
void blocks_exit(struct blocks *b);

/* Ascending, neighbours if that is possible; false if there are not so many. */
bool block_allocate(struct blocks *b, uint32_t *blocks, unsigned int n, bool fresh);

/* At open: the block is in use.  False if it is already, or cannot be. */
bool block_take(struct blocks *b, uint64_t block);

/* A block that nothing refers to, and never did. */
void block_free(struct blocks *b, uint32_t block);

/* The running checkpoint has the block. */
void block_keep(struct blocks *b, uint32_t block);

/* A block whose page has moved, in @epoch. */
void block_retire(struct blocks *b, uint32_t block, uint64_t epoch);

/* A new epoch begins: no block is fresh. */
void block_begin_epoch(struct blocks *b);

/* Free what was retired before @epoch. */
void block_reclaim(struct blocks *b, uint64_t epoch);

#endif /* EXDB_BLOCK_H */
