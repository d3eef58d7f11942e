/* SPDX-License-Identifier: MIT */
/*
 * What every page begins with.  Where a page lies in the backing is the page
 * map's affair (map.c); it knows its number, so that a wrong place is noticed.
 */
#ifndef EXDB_PAGE_H
#define EXDB_PAGE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE	4096u
#define PAGE_MAGIC	0x42445845u /* "EXDB" */

enum page_type {
	PAGE_META = 1,
	PAGE_INNER = 2,
	PAGE_LEAF = 3,
	PAGE_FREE = 4,
	PAGE_MAP = 5,
	PAGE_MAP_ROOT = 6,
};

/**
 * struct page_header - the first bytes of a page in the backing
 * @magic: PAGE_MAGIC
 * @crc: CRC32C of the page with this field as 0; true only in the backing
 * @number: the page's own number
 * @lsn: reserved, 0: the log is logical, and is replayed on a checkpoint's image
 * @type: enum page_type
 * @level: 0 for a leaf, its height for an inner page
 * @flags: reserved, 0
 * @reserved: 0
 */
struct page_header {
	uint32_t magic;
	uint32_t crc;
	uint64_t number;
	uint64_t lsn;
	uint8_t type;
	uint8_t level;
	uint16_t flags;
	uint32_t reserved;
};

static_assert(sizeof(struct page_header) == 32, "on-disk format");
static_assert(offsetof(struct page_header, crc) == 4, "on-disk format");

/**
 * struct free_page - a page that nothing uses
 * @header: of type PAGE_FREE
 * @next: the next free page, 0 at the end
 */
struct free_page {
	struct page_header header;
	uint64_t next;
};

static_assert(sizeof(struct free_page) == 40, "on-disk format");

/* Make a fresh page of zeros with a header. */
void page_init(void *page, uint64_t number, enum page_type type, unsigned int level);

static inline uint32_t page_crc(const void *page)
{
	return ((const struct page_header *)page)->crc;
}

/* Write the checksum, before the page goes to the backing. */
void page_seal(void *page);

/* 0, or -EBADMSG if the page is not what was written as page @number.  Of trees: node_verify(). */
int page_verify(const void *page, uint64_t number);

#endif /* EXDB_PAGE_H */
