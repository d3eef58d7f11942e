/* SPDX-License-Identifier: MIT */
/* Page 0 as it lies on the disk: see meta.c. */
#ifndef EXDB_META_H
#define EXDB_META_H

#include "checkpoint.h"
#include "map.h"
#include "page.h"

#define META_FORMAT	6u
#define META_COPIES	2u

/**
 * struct meta_page - page 0
 * @header: as in every page
 * @format: META_FORMAT
 * @page_size: 4096
 * @log_blocks: length of the log, which begins in block 2; pages come behind it
 * @log_id: its number
 * @state: the image, and from where the log is replayed on it
 * @roots: blocks of the map's roots
 */
struct meta_page {
	struct page_header header;
	uint32_t format;
	uint32_t page_size;
	uint32_t log_blocks;
	uint32_t log_id;
	struct meta_state state;
	uint32_t roots[MAP_ROOTS_MAX];
};

static_assert(offsetof(struct meta_page, roots) == 104, "on-disk format");
static_assert(sizeof(struct meta_page) <= PAGE_SIZE, "on-disk format");

#endif /* EXDB_META_H */
