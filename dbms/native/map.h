/* SPDX-License-Identifier: MIT */
/*
 * The page map: which block of the backing has which page.
 *
 * It lies in the region itself, behind the pages of the trees, in pages of its own
 * that stay resident while the database is open, so that whoever freezes the region
 * freezes the map as well.  A checkpoint writes what has changed of it as it was
 * when the checkpoint began: the first change of a map page after that moment
 * leaves a copy behind.  Everything here is protected by blocks.lock.
 */
#ifndef EXDB_MAP_H
#define EXDB_MAP_H

#include "page.h"

#define MAP_SLOTS	((PAGE_SIZE - (unsigned int)sizeof(struct page_header)) / 8)
#define MAP_BLOCKS	((PAGE_SIZE - (unsigned int)sizeof(struct page_header)) / 4)
#define MAP_ROOTS_MAX	900u

struct exdb;
struct exdb_worker;

/**
 * struct map_slot - where a page is, and what must be there
 * @block: 0 for nowhere
 * @raw: it is a page of an extent, and has no header
 * @crc: CRC32C of the page as it was written, so that what a write has not replaced is noticed
 */
struct map_slot {
	uint32_t block : 31;
	uint32_t raw : 1;
	uint32_t crc;
} __attribute__((aligned(8)));

static_assert(sizeof(struct map_slot) == 8, "on-disk format");

/**
 * struct map_page - a page of the map
 * @header: its number is its place among its kind
 * @slots: of the pages from number * MAP_SLOTS on
 */
struct map_page {
	struct page_header header;
	struct map_slot slots[MAP_SLOTS];
};

/**
 * struct map_root - a page of the map's roots
 * @header: likewise
 * @blocks: of the map pages from number * MAP_BLOCKS on
 */
struct map_root {
	struct page_header header;
	uint32_t blocks[MAP_BLOCKS];
};

static_assert(sizeof(struct map_page) == PAGE_SIZE, "on-disk format");
static_assert(sizeof(struct map_root) == PAGE_SIZE, "on-disk format");

/**
 * struct map_entry - a map page of an open database
 * @block: where it was written last, 0 for nowhere
 * @changed: since the last checkpoint began
 * @wanted: the running checkpoint has to write it
 * @image: as the running checkpoint wants it, if that is not what is in the region
 */
struct map_entry {
	uint32_t block;
	bool changed;
	bool wanted;
	struct map_page *image;
};

/**
 * struct map - the page map of an open database
 * @first: its first page in the region
 * @nr: map pages that there are
 * @max: that there may be
 * @entries: of map pages
 * @roots: blocks of the roots that the last checkpoint has written
 * @nr_roots: their number
 * @image_nr: map pages that belong to the running checkpoint
 * @running: there is one
 * @error: an image could not be kept
 */
struct map {
	uint64_t first;
	uint64_t nr;
	uint64_t max;
	struct map_entry *entries;
	uint32_t roots[MAP_ROOTS_MAX];
	unsigned int nr_roots;
	uint64_t image_nr;
	bool running;
	int error;
};

static inline uint64_t map_pages_for(uint64_t pages)
{
	return (pages + MAP_SLOTS - 1) / MAP_SLOTS;
}

static inline uint64_t map_roots_for(uint64_t map_pages)
{
	return (map_pages + MAP_BLOCKS - 1) / MAP_BLOCKS;
}

int map_init(struct exdb *db, uint64_t first, uint64_t max);
void map_exit(struct exdb *db);

/* Make the map long enough for @page. */
int map_extend(struct exdb_worker *w, uint64_t page);

/* Where a page is whose latch we hold. */
struct map_slot map_get(const struct exdb *db, uint64_t page);

/* As node_verify(), of a page that was read from where @slot says, which may be raw. */
int map_verify(struct map_slot slot, const void *mem, uint64_t page);

/* The page lies in @slot now, and does for the running checkpoint as well if it is @pending. */
void map_set(struct exdb *db, uint64_t page, struct map_slot slot, bool pending);

/* A checkpoint begins, writes its image of the map, and ends. */
void map_begin(struct exdb *db);
int map_write(struct exdb *db);
void map_end(struct exdb *db);

/* Read the map from roots that were read from page 0, and mark blocks as used. */
int map_load(struct exdb_worker *w, uint64_t nr, uint64_t pages);

#endif /* EXDB_MAP_H */
