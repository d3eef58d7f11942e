// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "crc32c.h"
#include "node.h"

#define GROUP	32u	/* map pages in one write */

static struct map_page *page_of(const struct exdb *db, uint64_t i)
{
	return exmap_page(db->ex, db->map.first + i);
}

int map_init(struct exdb *db, uint64_t first, uint64_t max)
{
	db->map.first = first;
	db->map.max = max;
	db->map.entries = calloc(max, sizeof(*db->map.entries));
	return db->map.entries ? 0 : -ENOMEM;
}

void map_exit(struct exdb *db)
{
	map_end(db);
	free(db->map.entries);
}

/* One map page more, of zeros. */
static int add_page(struct exdb_worker *w)
{
	struct map *map = &w->db->map;
	void *mem;
	int ret;

	if (map->nr == map->max)
		return -ENOSPC;
	ret = buffer_pin(w, map->first + map->nr, &mem);
	if (ret)
		return ret;
	page_init(mem, map->nr, PAGE_MAP, 0);
	pthread_mutex_lock(&w->db->blocks.lock);
	map->entries[map->nr].changed = true;
	__atomic_store_n(&map->nr, map->nr + 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&w->db->blocks.lock);
	return 0;
}

int map_extend(struct exdb_worker *w, uint64_t page)
{
	int ret = 0;

	while (!ret && page / MAP_SLOTS >= w->db->map.nr)
		ret = add_page(w);
	return ret;
}

struct map_slot map_get(const struct exdb *db, uint64_t page)
{
	struct map_slot slot = { 0 };
	uint64_t i = page / MAP_SLOTS;

	if (i < __atomic_load_n(&db->map.nr, __ATOMIC_ACQUIRE))
		__atomic_load(&page_of(db, i)->slots[page % MAP_SLOTS], &slot, __ATOMIC_RELAXED);
	return slot;
}

int map_verify(struct map_slot slot, const void *mem, uint64_t page)
{
	if (slot.raw)
		return crc32c(0, mem, PAGE_SIZE) == slot.crc ? 0 : -EBADMSG;
	return page_crc(mem) == slot.crc ? node_verify(mem, page) : -EBADMSG;
}

/* The first change since the checkpoint began: keep what it wants. */
static void keep_image(struct exdb *db, uint64_t i)
{
	struct map_entry *entry = &db->map.entries[i];

	if (!db->map.running || i >= db->map.image_nr || entry->image)
		return;
	entry->image = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	if (entry->image)
		memcpy(entry->image, page_of(db, i), PAGE_SIZE);
	else
		db->map.error = -ENOMEM;
}

void map_set(struct exdb *db, uint64_t page, struct map_slot slot, bool pending)
{
	uint64_t i = page / MAP_SLOTS;
	struct map_entry *entry = &db->map.entries[i];
	struct map_slot *place = &page_of(db, i)->slots[page % MAP_SLOTS];
	const uint32_t old = place->block;

	keep_image(db, i);
	__atomic_store(place, &slot, __ATOMIC_RELAXED);
	entry->changed = true;
	if (pending && entry->image) {
		entry->image->slots[page % MAP_SLOTS] = slot;
		entry->wanted = true;
	}
	if (old)
		block_retire(&db->blocks, old, db->epoch);
}

void map_begin(struct exdb *db)
{
	struct map *map = &db->map;
	uint64_t i;

	for (i = 0; i < map->nr; i++) {
		map->entries[i].wanted = map->entries[i].changed;
		map->entries[i].changed = false;
	}
	map->image_nr = map->nr;
	map->running = true;
}

void map_end(struct exdb *db)
{
	struct map *map = &db->map;
	uint64_t i;

	for (i = 0; i < map->image_nr; i++) {
		free(map->entries[i].image);
		map->entries[i].image = NULL;
		map->entries[i].wanted = false;
	}
	map->running = false;
	map->image_nr = 0;
}

/* Seal @n pages and write them to new blocks; the old ones belong to the last checkpoint. */
static int write_group(struct exdb *db, void *pages, uint32_t *const *places, unsigned int n)
{
	void *memory[GROUP];
	uint32_t blocks[GROUP];
	unsigned int i, done;
	bool room;

	pthread_mutex_lock(&db->blocks.lock);
	room = block_allocate(&db->blocks, blocks, n, false);
	for (i = 0; room && i < n; i++) {
		if (*places[i])
			block_retire(&db->blocks, *places[i], db->epoch - 1);
		*places[i] = blocks[i];
	}
	pthread_mutex_unlock(&db->blocks.lock);
	for (i = 0; i < n; i++) {
		memory[i] = (uint8_t *)pages + i * PAGE_SIZE;
		page_seal(memory[i]);
	}
	return room ? disk_write(db->backing_fd, blocks, memory, n, &done) : -ENOSPC;
}

/* A group of map pages from @*next on. */
static int write_pages(struct exdb *db, struct map_page *buffer, uint64_t *next)
{
	struct map *map = &db->map;
	uint32_t *places[GROUP];
	unsigned int n = 0;

	pthread_mutex_lock(&db->blocks.lock);
	for (; *next < map->image_nr && n < GROUP; (*next)++) {
		struct map_entry *entry = &map->entries[*next];

		if (!entry->wanted)
			continue;
		memcpy(&buffer[n], entry->image ? entry->image : page_of(db, *next), PAGE_SIZE);
		places[n++] = &entry->block;
	}
	pthread_mutex_unlock(&db->blocks.lock);
	return n ? write_group(db, buffer, places, n) : 0;
}

static int write_root(struct exdb *db, struct map_root *buffer, unsigned int i)
{
	uint32_t *place = &db->map.roots[i];
	uint64_t k, first = (uint64_t)i * MAP_BLOCKS;

	page_init(buffer, i, PAGE_MAP_ROOT, 0);
	for (k = 0; k < MAP_BLOCKS && first + k < db->map.image_nr; k++)
		buffer->blocks[k] = db->map.entries[first + k].block;
	return write_group(db, buffer, &place, 1);
}

int map_write(struct exdb *db)
{
	struct map *map = &db->map;
	void *buffer = aligned_alloc(PAGE_SIZE, GROUP * PAGE_SIZE);
	uint64_t next = 0;
	unsigned int i;
	int ret = map->error;

	if (!buffer)
		return -ENOMEM;
	while (!ret && next < map->image_nr)
		ret = write_pages(db, buffer, &next);
	map->nr_roots = map_roots_for(map->image_nr);
	for (i = 0; !ret && i < map->nr_roots; i++)
		ret = write_root(db, buffer, i);
	free(buffer);
	return ret;
}

static int read_page(struct exdb_worker *w, uint32_t block, void *mem, uint64_t number,
		     enum page_type type)
{
	const struct page_header *header = mem;
	unsigned int done;
	int ret = -EBADMSG;

	w->error_page = 0;
	if (block_take(&w->db->blocks, block))
		ret = disk_read(w->db->backing_fd, &block, &mem, 1, &done);
	if (!ret)
		ret = page_verify(mem, number);
	if (!ret && header->type != type)
		ret = -EBADMSG;
	return ret == -ENXIO ? -EUCLEAN : ret;
}

/* The blocks of pages are in use, and they exist. */
static int take_blocks(struct exdb_worker *w, uint64_t i, uint64_t pages, uint64_t end)
{
	const struct map_page *page = page_of(w->db, i);
	unsigned int k;

	for (k = 0; k < MAP_SLOTS; k++) {
		uint32_t block = page->slots[k].block;

		if (!block)
			continue;
		w->error_page = i * MAP_SLOTS + k;
		if (w->error_page >= pages || block >= end || !block_take(&w->db->blocks, block))
			return -EUCLEAN;
	}
	return 0;
}

static int load_page(struct exdb_worker *w, uint32_t block, uint64_t pages, uint64_t end)
{
	struct map *map = &w->db->map;
	void *mem;
	int ret = add_page(w);

	if (ret)
		return ret;
	mem = page_of(w->db, map->nr - 1);
	ret = read_page(w, block, mem, map->nr - 1, PAGE_MAP);
	map->entries[map->nr - 1].block = block;
	map->entries[map->nr - 1].changed = false;
	return ret ? ret : take_blocks(w, map->nr - 1, pages, end);
}

int map_load(struct exdb_worker *w, uint64_t nr, uint64_t pages)
{
	struct exdb *db = w->db;
	struct map_root *root = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	struct exmap_info info = { 0 };
	int ret = exmap_info(db->ex, &info);

	if (!root)
		return -ENOMEM;
	while (!ret && db->map.nr < nr) {
		unsigned int i = db->map.nr % MAP_BLOCKS;
		unsigned int r = db->map.nr / MAP_BLOCKS;

		if (!i)
			ret = read_page(w, db->map.roots[r], root, r, PAGE_MAP_ROOT);
		if (!ret)
			ret = load_page(w, root->blocks[i], pages, info.backing_pages);
	}
	free(root);
	return ret;
}
