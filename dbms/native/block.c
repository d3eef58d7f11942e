// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block.h"

#define BITS	64u

static size_t bitmap_bytes(const struct blocks *b)
{
	return (b->count + BITS - 1) / BITS * sizeof(uint64_t);
}

/* As long as the backing may become, so only what is touched may cost memory. */
static uint64_t *map_bits(const struct blocks *b)
{
	void *mem = mmap(NULL, bitmap_bytes(b), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

int blocks_init(struct blocks *b, uint64_t first, uint64_t count)
{
	if (count <= first)
		return -ENOSPC;
	if (count > BLOCKS_MAX)
		count = BLOCKS_MAX;
	b->first = first;
	b->count = count;
	b->hand = first;
	b->nr_free = count - first;
	b->used = map_bits(b);
	b->fresh = map_bits(b);
	return b->used && b->fresh ? 0 : -ENOMEM;
}

void blocks_exit(struct blocks *b)
{
	if (b->used)
		munmap(b->used, bitmap_bytes(b));
	if (b->fresh)
		munmap(b->fresh, bitmap_bytes(b));
	free(b->retired);
}

static bool is_set(const uint64_t *bits, uint64_t i)
{
	return bits[i / BITS] >> i % BITS & 1;
}

static void set(uint64_t *bits, uint64_t i)
{
	bits[i / BITS] |= 1ULL << i % BITS;
}

static void clear(uint64_t *bits, uint64_t i)
{
	bits[i / BITS] &= ~(1ULL << i % BITS);
}

/* The first free block from @i on, or count. */
static uint64_t next_free(const struct blocks *b, uint64_t i)
{
	for (; i < b->count; i++) {
		if (b->used[i / BITS] == UINT64_MAX)
			i |= BITS - 1;
		else if (!is_set(b->used, i))
			return i;
	}
	return b->count;
}

static uint64_t run_length(const struct blocks *b, uint64_t i, unsigned int most)
{
	uint64_t n = 0;

	while (n < most && i + n < b->count && !is_set(b->used, i + n))
		n++;
	return n;
}

#define TRIES	16u	/* runs that are too short before any will do */

/* Where a run of @n is free, as far as a short look tells; else any free block. */
static uint64_t find_run(const struct blocks *b, unsigned int n)
{
	uint64_t first = next_free(b, b->hand), at = first, length;
	unsigned int tries;

	for (tries = 0; at < b->count && tries < TRIES; tries++) {
		length = run_length(b, at, n);
		if (length == n)
			return at;
		at = next_free(b, at + length);
	}
	return first < b->count ? first : next_free(b, b->first);
}

bool block_allocate(struct blocks *b, uint32_t *blocks, unsigned int n, bool fresh)
{
	uint64_t at;
	unsigned int i;

	if (b->nr_free < n)
		return false;
	at = find_run(b, n);
	for (i = 0; i < n; i++) {
		at = next_free(b, at);
		if (at == b->count)
			at = next_free(b, b->first);
		set(b->used, at);
		if (fresh)
			set(b->fresh, at);
		blocks[i] = at++;
	}
	b->nr_free -= n;
	b->hand = at < b->count ? at : b->first;
	return true;
}

bool block_take(struct blocks *b, uint64_t block)
{
	if (block < b->first || block >= b->count || is_set(b->used, block))
		return false;
	set(b->used, block);
	b->nr_free--;
	return true;
}

void block_free(struct blocks *b, uint32_t block)
{
	clear(b->used, block);
	clear(b->fresh, block);
	b->nr_free++;
	if (block < b->hand)
		b->hand = block;
}

void block_keep(struct blocks *b, uint32_t block)
{
	clear(b->fresh, block);
}

void block_retire(struct blocks *b, uint32_t block, uint64_t epoch)
{
	struct retired_block *grown;

	if (is_set(b->fresh, block)) {
		block_free(b, block);
		return;
	}
	if (b->nr_retired == b->room) {
		size_t room = b->room ? 2 * b->room : 1024;

		grown = realloc(b->retired, room * sizeof(*grown));
		/* the block is lost until the database is opened again */
		if (!grown)
			return;
		b->retired = grown;
		b->room = room;
	}
	b->retired[b->nr_retired++] = (struct retired_block){ .block = block, .epoch = epoch };
}

void block_begin_epoch(struct blocks *b)
{
	/* a big bitmap has mostly pages that were never touched; zeros of those cost nothing */
	if (bitmap_bytes(b) > 1 << 20)
		madvise(b->fresh, bitmap_bytes(b), MADV_DONTNEED);
	else
		memset(b->fresh, 0, bitmap_bytes(b));
}

void block_reclaim(struct blocks *b, uint64_t epoch)
{
	size_t i, kept = 0;

	for (i = 0; i < b->nr_retired; i++) {
		if (b->retired[i].epoch < epoch)
			block_free(b, b->retired[i].block);
		else
			b->retired[kept++] = b->retired[i];
	}
	b->nr_retired = kept;
}
