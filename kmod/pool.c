// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - the frame pool of a region.
 *
 * Frames are ordinary, zeroed, unmovable pages, charged to the memory cgroup.
 * The pool holds one reference on each for its whole life.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "exmap.h"

static void free_page_list(struct list_head *pages)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		put_page(page);
		cond_resched();
	}
}

static int alloc_page_list(struct list_head *pages, u32 nr)
{
	while (nr--) {
		struct page *page;

		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_page(EXMAP_GFP | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		list_add(&page->lru, pages);
		cond_resched();
	}
	return 0;
}

static void pin_locked(struct exmap_pool *pool, u32 frame)
{
	lockdep_assert_held(&pool->lock);
	pool->frames[frame].bind = pool->pinned;
	pool->pinned = frame;
	pool->nr_pinned++;
}

struct tables {
	struct page **pages;
	struct exmap_frame *frames;
	u32 *free;
};

static void free_tables(struct tables *tables)
{
	vfree(tables->pages);
	vfree(tables->frames);
	vfree(tables->free);
}

static int alloc_tables(u32 capacity, struct tables *tables)
{
	const gfp_t gfp = EXMAP_GFP | __GFP_ZERO;

	tables->pages = __vmalloc(array_size(capacity, sizeof(*tables->pages)), gfp);
	tables->frames = __vmalloc(array_size(capacity, sizeof(*tables->frames)), gfp);
	tables->free = __vmalloc(array_size(capacity, sizeof(*tables->free)), gfp);
	if (tables->pages && tables->frames && tables->free)
		return 0;
	free_tables(tables);
	return -ENOMEM;
}

/* Exchange the tables of a pool for others; all interfaces are held. */
static void swap_tables(struct exmap_pool *pool, struct tables *tables)
{
	swap(pool->pages, tables->pages);
	swap(pool->frames, tables->frames);
	swap(pool->free, tables->free);
}

/* Put the pages of a list into the holes of the table. */
static void fill_holes(struct exmap_pool *pool, struct list_head *pages)
{
	u32 frame = pool->capacity;

	while (frame-- && !list_empty(pages)) {
		struct page *page;

		if (pool->pages[frame])
			continue;
		page = list_first_entry(pages, struct page, lru);
		list_del(&page->lru);
		pool->pages[frame] = page;
		pool->free[pool->nr_free++] = frame;
		pool->total++;
	}
}

int exmap_pool_create(struct exmap_pool *pool, u32 nr)
{
	struct tables tables;
	LIST_HEAD(pages);
	int ret;

	spin_lock_init(&pool->lock);
	pool->pinned = EXMAP_NO_FRAME;
	ret = alloc_tables(nr, &tables);
	if (ret)
		return ret;
	swap_tables(pool, &tables);
	pool->capacity = nr;
	ret = alloc_page_list(&pages, nr);
	if (ret)
		goto err_pages;
	fill_holes(pool, &pages);
	return 0;

err_pages:
	free_page_list(&pages);
	exmap_pool_destroy(pool);
	return ret;
}

/* The free frames of a record go to the stack. */
static void unpack_locked(struct exmap_pool *pool)
{
	struct exmap_record *record = pool->spares;
	unsigned int i;

	lockdep_assert_held(&pool->lock);
	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 frame = EXMAP_RES_FRAME(record->words[i]);

		if (!record->words[i] || record->words[i] == EXMAP_RES_SNAPSHOT)
			continue;
		if (record->pinned && page_ref_count(pool->pages[frame]) != 1)
			pin_locked(pool, frame);
		else
			pool->free[pool->nr_free++] = frame;
	}
	pool->spares = record->next;
	pool->nr_spare -= record->nr_frames;
	kfree(record);
}

static void unpack_all(struct exmap_pool *pool)
{
	spin_lock(&pool->lock);
	while (pool->spares)
		unpack_locked(pool);
	spin_unlock(&pool->lock);
}

/* Take the frames of a record, when somebody needs them: a snapshot ends in no time. */
void exmap_pool_absorb(struct exmap_pool *pool, struct exmap_record *record)
{
	spin_lock(&pool->lock);
	record->next = pool->spares;
	pool->spares = record;
	pool->nr_spare += record->nr_frames;
	spin_unlock(&pool->lock);
}

/* Take @nr frames off the stack, or none: -ENOMEM.  All interfaces are held. */
int exmap_pool_take(struct exmap_pool *pool, u32 *frames, u32 nr)
{
	unpack_all(pool);
	if (pool->nr_free < nr)
		return -ENOMEM;
	pool->nr_free -= nr;
	memcpy(frames, pool->free + pool->nr_free, nr * sizeof(*frames));
	return 0;
}

/* Take some for somebody who can do without: an eighth stays for the others. */
u32 exmap_pool_take_spare(struct exmap_pool *pool, u32 *frames, u32 nr)
{
	u32 kept = pool->total / 8, all;

	spin_lock(&pool->lock);
	all = pool->nr_free + pool->nr_spare;
	nr = all > kept ? min(nr, all - kept) : 0;
	/* all frames of a record may turn out to be pinned */
	while (pool->nr_free < nr && pool->spares)
		unpack_locked(pool);
	nr = min(nr, pool->nr_free);
	pool->nr_free -= nr;
	memcpy(frames, pool->free + pool->nr_free, nr * sizeof(*frames));
	spin_unlock(&pool->lock);
	return nr;
}

/* Give them back. */
void exmap_pool_give(struct exmap_pool *pool, const u32 *frames, u32 *nr)
{
	if (!*nr)
		return;
	spin_lock(&pool->lock);
	memcpy(pool->free + pool->nr_free, frames, *nr * sizeof(*frames));
	pool->nr_free += *nr;
	*nr = 0;
	spin_unlock(&pool->lock);
}

/*
 * Give all frames back to the kernel, wherever they are: nothing maps them any
 * more, and a foreign reference keeps its page alive by itself.
 */
void exmap_pool_destroy(struct exmap_pool *pool)
{
	struct tables tables = { };
	u32 frame;

	for (frame = 0; frame < pool->capacity; frame++) {
		if (pool->pages[frame])
			put_page(pool->pages[frame]);
		cond_resched();
	}
	swap_tables(pool, &tables);
	free_tables(&tables);
	pool->capacity = 0;
	pool->total = 0;
	pool->nr_free = 0;
	pool->nr_pinned = 0;
	pool->pinned = EXMAP_NO_FRAME;
	pool->nr_spare = 0;
	while (pool->spares) {
		struct exmap_record *record = pool->spares;

		pool->spares = record->next;
		kfree(record);
	}
}

/* A region is dead, and only snapshots will ever use its frames: give the others back. */
void exmap_pool_trim(struct exmap_pool *pool)
{
	unpack_all(pool);
	while (pool->nr_free) {
		u32 frame = pool->free[--pool->nr_free];

		put_page(pool->pages[frame]);
		pool->pages[frame] = NULL;
		pool->total--;
		cond_resched();
	}
}

/* Take on larger tables, and leave the old ones in their place; all interfaces are held. */
static void enlarge(struct exmap_pool *pool, u32 capacity, struct tables *tables)
{
	memcpy(tables->pages, pool->pages, pool->capacity * sizeof(*pool->pages));
	memcpy(tables->frames, pool->frames, pool->capacity * sizeof(*pool->frames));
	memcpy(tables->free, pool->free, pool->nr_free * sizeof(*pool->free));
	swap_tables(pool, tables);
	pool->capacity = capacity;
}

int exmap_pool_grow(struct exmap_region *region, u32 nr)
{
	struct exmap_pool *pool = &region->pool;
	u32 capacity = pool->total + nr;
	struct tables tables = { };
	LIST_HEAD(pages);
	int ret;

	lockdep_assert_held(&region->setup);
	if (capacity > pool->capacity) {
		ret = alloc_tables(capacity, &tables);
		if (ret)
			return ret;
	}
	ret = alloc_page_list(&pages, nr);
	if (!ret)
		ret = exmap_nvme_pool_grow(region, max(capacity, pool->capacity), &pages);
	if (!ret) {
		exmap_region_freeze(region);
		if (tables.pages)
			enlarge(pool, capacity, &tables);
		fill_holes(pool, &pages);
		exmap_region_thaw(region);
		/* readers of snapshots, and of NVMe backings, may be looking at the old table */
		if (!list_empty(&region->snapshots) || region->backing)
			synchronize_rcu();
	}
	free_page_list(&pages);
	free_tables(&tables);
	return ret;
}

/* -EBUSY if fewer than @nr frames are free; all interfaces are held. */
static int take_frames(struct exmap_pool *pool, u32 nr, struct list_head *pages)
{
	unpack_all(pool);
	if (pool->nr_free < nr)
		return -EBUSY;
	while (nr--) {
		u32 frame = pool->free[--pool->nr_free];

		list_add(&pool->pages[frame]->lru, pages);
		pool->pages[frame] = NULL;
		pool->total--;
	}
	return 0;
}

int exmap_pool_shrink(struct exmap_region *region, u32 nr)
{
	LIST_HEAD(pages);
	int ret;

	lockdep_assert_held(&region->setup);
	ret = exmap_nvme_pool_may_shrink(region);
	if (ret)
		return ret;
	exmap_region_reclaim(region);
	exmap_region_freeze(region);
	ret = take_frames(&region->pool, nr, &pages);
	exmap_region_thaw(region);
	exmap_nvme_pool_shrink(region);
	free_page_list(&pages);
	return ret;
}

/* Move the retired frames whose last foreign reference is gone to the stack. */
static void unpin_locked(struct exmap_pool *pool)
{
	u32 frame = pool->pinned;

	lockdep_assert_held(&pool->lock);
	pool->pinned = EXMAP_NO_FRAME;
	while (frame != EXMAP_NO_FRAME) {
		struct exmap_frame *f = &pool->frames[frame];
		u32 next = exmap_bind_page(f->bind);

		if (page_ref_count(pool->pages[frame]) == 1) {
			pool->free[pool->nr_free++] = frame;
			pool->nr_pinned--;
		} else {
			f->bind = pool->pinned;
			pool->pinned = frame;
		}
		frame = next;
	}
}

void exmap_pool_unpin(struct exmap_pool *pool)
{
	if (!READ_ONCE(pool->nr_pinned))
		return;
	spin_lock(&pool->lock);
	unpin_locked(pool);
	spin_unlock(&pool->lock);
}

/* A frame that has been flushed, but that the kernel still uses for I/O. */
void exmap_pool_pin(struct exmap_pool *pool, u32 frame)
{
	spin_lock(&pool->lock);
	pin_locked(pool, frame);
	spin_unlock(&pool->lock);
}

/* A frame that no page table and no TLB has. */
void exmap_pool_return(struct exmap_pool *pool, u32 frame)
{
	/* pairs with the reference that get_user_pages takes before it looks at the entry again */
	if (page_ref_count(pool->pages[frame]) == 1)
		exmap_pool_push(pool, frame);
	else
		exmap_pool_pin(pool, frame);
}

void exmap_pool_push(struct exmap_pool *pool, u32 frame)
{
	spin_lock(&pool->lock);
	pool->free[pool->nr_free++] = frame;
	spin_unlock(&pool->lock);
}

/* Fill an empty cache, with half of what there is at most.  False: pool dry. */
bool exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *itf)
{
	bool few;
	u32 nr;

	lockdep_assert_held(&itf->lock);
	spin_lock(&pool->lock);
	if (!pool->nr_free && pool->spares)
		unpack_locked(pool);
	if (!pool->nr_free)
		unpin_locked(pool);
	nr = min_t(u32, EXMAP_REFILL_FRAMES, DIV_ROUND_UP(pool->nr_free, 2));
	pool->nr_free -= nr;
	memcpy(itf->cache, pool->free + pool->nr_free, nr * sizeof(*itf->cache));
	few = pool->nr_free < exmap_pool_low_mark(pool);
	spin_unlock(&pool->lock);
	itf->nr_cache = nr;
	if (unlikely(few))
		exmap_netlink_watch(container_of(pool, struct exmap_region, pool));
	return nr;
}

/* Give @nr frames of a cache back. */
void exmap_pool_spill(struct exmap_pool *pool, struct exmap_interface *itf, u32 nr)
{
	lockdep_assert_held(&itf->lock);
	if (!nr)
		return;
	itf->nr_cache -= nr;
	spin_lock(&pool->lock);
	memcpy(pool->free + pool->nr_free, itf->cache + itf->nr_cache, nr * sizeof(*itf->cache));
	pool->nr_free += nr;
	spin_unlock(&pool->lock);
}
