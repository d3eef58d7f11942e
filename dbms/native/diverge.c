// SPDX-License-Identifier: MIT
/*
 * Which pages may have changed between two freezes, without a look at what is in them.
 *
 * A page has not if it was resident both times and the difference of the two snapshots
 * leaves it out: nobody wrote to its frame in between.  The difference says nothing of
 * pages that were evicted or read meanwhile; of them the map does.  As long as the older
 * freeze lives no block that its map names is written to, and what changes a page moves
 * it when it is written back.  So a page that was clean, or absent, at the newer freeze
 * and is still in the same block has not changed either.  It was clean then if it is now
 * and has not moved since: cleaning it would have moved it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "freeze.h"

/* Where a freeze has the pages from @i * MAP_SLOTS on. */
static int read_blocks(const struct exdb_freeze *f, uint64_t i, struct map_page *out)
{
	long ret = exmap_snapshot_pread(f->snap, out, PAGE_SIZE, (f->db->map.first + i) * PAGE_SIZE);

	if (ret < 0)
		return ret;
	return ret == PAGE_SIZE ? 0 : -EIO;
}

/* The page is in its block as it was when it came there; blocks.lock is held. */
static bool is_clean(const struct exdb *db, uint64_t page, uint32_t block)
{
	return !(state_load(page_state(db, page)) & STATE_DIRTY) && map_get(db, page).block == block;
}

static bool is_mapped(const struct exdb_freeze *f, uint64_t page)
{
	return EXMAP_RES_MAPPED(f->words[page]);
}

static void set_bit(uint8_t *bits, uint64_t i, bool value)
{
	bits[i / 8] = (uint8_t)((bits[i / 8] & ~(1u << i % 8)) | (unsigned int)value << i % 8);
}

/* From where the difference of the snapshots is set to what may have changed. */
static void judge(const struct exdb_freeze *f, const struct exdb_freeze *since, uint64_t page,
		  uint32_t block, uint32_t before, uint8_t *bits)
{
	const bool differs = bits[page / 8] >> page % 8 & 1;

	if (is_mapped(f, page) && is_mapped(since, page) && !differs)
		return;
	set_bit(bits, page, !block || block != before ||
			    (is_mapped(f, page) && !is_clean(f->db, page, block)));
}

static int judge_all(const struct exdb_freeze *f, const struct exdb_freeze *since, uint64_t n,
		     struct map_page *pages, uint8_t *bits)
{
	pthread_mutex_t *lock = &f->db->blocks.lock;
	uint64_t page, end;
	int ret = 0;

	for (page = 0; page < n && !ret; page = end) {
		const uint64_t first = page;

		end = n - page < MAP_SLOTS ? n : page + MAP_SLOTS;
		ret = read_blocks(f, first / MAP_SLOTS, &pages[0]);
		if (!ret)
			ret = read_blocks(since, first / MAP_SLOTS, &pages[1]);
		if (ret)
			break;
		pthread_mutex_lock(lock);
		for (; page < end; page++)
			judge(f, since, page, pages[0].slots[page - first].block,
			      pages[1].slots[page - first].block, bits);
		pthread_mutex_unlock(lock);
	}
	return ret;
}

int exdb_freeze_diverged(const struct exdb_freeze *f, const struct exdb_freeze *since,
			 uint8_t *bits)
{
	const uint64_t n = f->count < since->count ? f->count : since->count;
	struct map_page *pages;
	uint64_t i;
	int ret;

	if (f->db != since->db)
		return -EXDEV;
	pages = aligned_alloc(PAGE_SIZE, 2 * PAGE_SIZE);
	if (!pages)
		return -ENOMEM;
	ret = exmap_snapshot_diff(f->snap, since->snap, 0, n, bits);
	if (!ret)
		ret = judge_all(f, since, n, pages, bits);
	for (i = n; i < f->count; i++)
		set_bit(bits, i, true);
	free(pages);
	return ret;
}
