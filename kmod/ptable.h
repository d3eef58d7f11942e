/* SPDX-License-Identifier: GPL-2.0 */
/*
 * exmap - page tables: what is done for every page of a vector.
 */
#ifndef _EXMAP_PTABLE_H
#define _EXMAP_PTABLE_H

#include <linux/mm.h>
#include <linux/pgtable.h>

#include "exmap.h"

static __always_inline void exmap_walk_end(struct exmap_walk *walk)
{
	if (!walk->chunk)
		return;
	__acquire(walk->chunk->ptl);
	spin_unlock(walk->chunk->ptl);
	walk->chunk = NULL;
}

/*
 * The chunk and its table, if it has one.  The caller holds an interface, so
 * that the table stays where it is.
 */
static __always_inline struct exmap_chunk *exmap_chunk_ready(struct exmap_region *region, u64 nr,
							     pte_t **table)
{
	struct exmap_chunk *chunk;

	chunk = smp_load_acquire(&region->chunks[nr]); /* pairs with make_chunk */
	if (unlikely(!chunk))
		return NULL;
	*table = smp_load_acquire(&chunk->ptes); /* pairs with publish_table */
	return likely(*table) ? chunk : NULL;
}

/**
 * exmap_walk_to - move to a page and lock its chunk
 * @walk: position, with a chunk locked or not
 * @page: inside the region
 *
 * The caller holds an interface.  Returns the chunk, or NULL, and holds no
 * chunk's lock, if it has no table yet.
 */
static __always_inline struct exmap_chunk *exmap_walk_to(struct exmap_walk *walk, u64 page)
{
	u64 nr = page / EXMAP_CHUNK_PAGES;
	struct exmap_chunk *chunk;
	pte_t *table;

	if (walk->chunk && walk->nr == nr)
		return walk->chunk;
	exmap_walk_end(walk);

	chunk = exmap_chunk_ready(walk->region, nr, &table);
	if (unlikely(!chunk))
		return NULL;
	spin_lock(chunk->ptl);
	__release(chunk->ptl); /* for sparse: the walk carries the lock */
	walk->chunk = chunk;
	walk->nr = nr;
	return chunk;
}

static __always_inline u32 *exmap_walk_word(struct exmap_walk *walk, u64 page)
{
	lockdep_assert_held(walk->chunk->ptl);
	return &walk->chunk->words[page % EXMAP_CHUNK_PAGES];
}

/* Like exmap_walk_to, but also to a parked chunk, whose entries no CPU sees. */
static inline struct exmap_chunk *exmap_walk_to_table(struct exmap_walk *walk, u64 page)
{
	u64 nr = page / EXMAP_CHUNK_PAGES;
	struct exmap_chunk *chunk;

	if (walk->chunk && walk->nr == nr)
		return walk->chunk;
	exmap_walk_end(walk);

	chunk = smp_load_acquire(&walk->region->chunks[nr]); /* pairs with make_chunk */
	if (!chunk || !smp_load_acquire(&chunk->table)) /* pairs with publish_table */
		return NULL;
	spin_lock(chunk->ptl);
	__release(chunk->ptl); /* for sparse: the walk carries the lock */
	walk->chunk = chunk;
	walk->nr = nr;
	return chunk;
}

static __always_inline pte_t *exmap_pte_of(struct exmap_walk *walk, u64 page)
{
	lockdep_assert_held(walk->chunk->ptl);
	return walk->chunk->table + page % EXMAP_CHUNK_PAGES;
}

/* Map a frame, accessed and clean, where there is no entry. */
static __always_inline void exmap_pte_set(struct exmap_region *region, pte_t *table, u64 page,
					  struct page *frame)
{
	set_pte_at(region->mm, exmap_region_address(region, page),
		   table + page % EXMAP_CHUNK_PAGES,
		   __pte(region->pte_bits | (page_to_pfn(frame) << PAGE_SHIFT)));
}

/*
 * The same where the zero page may be mapped: then returns true, and the caller
 * has to flush the TLBs.
 */
static __always_inline bool exmap_pte_map(struct exmap_walk *walk, u64 page, struct page *frame)
{
	struct exmap_region *region = walk->region;
	pte_t *ptep = exmap_pte_of(walk, page);
	bool stale = false;

	if (unlikely(!pte_none(*ptep)))
		stale = pte_present(ptep_get_and_clear(region->mm,
						       exmap_region_address(region, page), ptep));
	exmap_pte_set(region, walk->chunk->table, page, frame);
	return stale;
}

/* No TLB has the entry, and no processor sets bits in a table that is not in the tree. */
static __always_inline void exmap_pte_protect_parked(struct exmap_walk *walk, u64 page)
{
	pte_t *ptep = exmap_pte_of(walk, page);

	WRITE_ONCE(*ptep, pte_wrprotect(*ptep));
}

static __always_inline pte_t exmap_pte_clear(struct exmap_walk *walk, u64 page)
{
	return ptep_get_and_clear(walk->region->mm, exmap_region_address(walk->region, page),
				  exmap_pte_of(walk, page));
}

/* The page's word says that it is mapped; the entry may be a moment late (alloc_lockless). */
static __always_inline void exmap_pte_unmap(struct exmap_walk *walk, u64 page)
{
	while (unlikely(pte_none(exmap_pte_clear(walk, page))))
		cpu_relax();
}

#endif /* _EXMAP_PTABLE_H */
