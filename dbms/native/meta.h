/* SPDX-License-Identifier: MIT */
/* Page 0 as it lies on the disk: see meta.c. */
#ifndef EXDB_META_H
#define EXDB_META_H

#include "map.h"
#include "page.h"

#define META_FORMAT	3u
#define META_COPIES	2u

/**
 * struct meta_page - page 0
 * @header: as in every page
 * @format: META_FORMAT
 * @page_size: 4096
 * @log_blocks: length of the log, which begins in block 2; pages come behind it
 * @log_id: its number
 * @sequence: of the checkpoint
 * @lsn: records from here on are not in the image
 * @next_page: the first page that was never allocated
 * @free_page: the first page of the free list, 0 for none
 * @nr_free: its length
 * @nr_map: map pages
 * @clean: 1 if nothing was appended to the log from @lsn on, else 0
 * @reserved: 0
 * @roots: blocks of the map's roots
 */
struct meta_page {
	struct page_header header;
	uint32_t format;
	uint32_t page_size;
	uint32_t log_blocks;
	uint32_t log_id;
	uint64_t sequence;
	uint64_t lsn;
	uint64_t next_page;
	uint64_t free_page;
	uint64_t nr_free;
	uint64_t nr_map;
	uint32_t clean;
	uint32_t reserved;
	uint32_t roots[MAP_ROOTS_MAX];
};

static_assert(offsetof(struct meta_page, roots) == 104, "on-disk format");
static_assert(sizeof(struct meta_page) <= PAGE_SIZE, "on-disk format");

#endif /* EXDB_META_H */
