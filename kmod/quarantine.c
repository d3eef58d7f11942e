// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - quarantine: freed pages that wait for a flush.
 *
 * A freed page's residency word says LAZY and keeps the frame; neither is used
 * again until a full flush that began after the page was unmapped has ended
 * (exmap_frame.seq against exmap_tlb), or its very page was flushed.  Each
 * interface remembers what it has freed in a ring.  A flush that any interface
 * makes serves all of them; each retires its own pages when it needs frames.
 */
#include <linux/mm.h>

#include "exmap.h"
#include "ptable.h"

/* How many pages an interface may gather before it flushes. */
u32 exmap_quarantine_limit(const struct exmap_region *region)
{
	u32 share = region->pool.total / 4 / region->nr_interfaces;

	return min(READ_ONCE(region->flush_threshold), max_t(u32, share, EXMAP_RANGED_PAGES));
}

/* The page's lock is held, its word says LAZY, and it has been flushed. */
static __always_inline void retire(struct exmap_region *region, struct exmap_interface *itf, u32 frame, u32 *word)
{
	WRITE_ONCE(*word, 0);
	itf->counts.quarantine--;
	/* pairs with the reference that get_user_pages takes before it looks at the entry again */
	if (page_count(region->pool.frames[frame].page) == 1)
		exmap_pool_release(&region->pool, itf, frame);
	else
		exmap_pool_pin(&region->pool, frame);
}

/* Lock the page that a frame is bound to; NULL if it is not in quarantine now. */
static __always_inline u32 *lazy_word(struct exmap_walk *walk, u32 frame)
{
	u64 page = READ_ONCE(walk->region->pool.frames[frame].page_nr);
	u32 *word;

	if (page >= walk->region->nr_pages || !exmap_walk_to(walk, page))
		return NULL;
	word = exmap_walk_word(walk, page);
	return *word == (EXMAP_RES_LAZY | (frame + 1)) ? word : NULL;
}

/* Retire what flushes have made safe, oldest first. */
void exmap_quarantine_drain(struct exmap_region *region, struct exmap_interface *itf)
{
	struct exmap_walk walk = { .region = region };
	u64 done = exmap_tlb_done(&region->tlb);

	lockdep_assert_held(&itf->lock);
	while (itf->ring_head != itf->ring_tail) {
		u32 frame = itf->ring[itf->ring_head % EXMAP_RING_ENTRIES];
		u32 *word = lazy_word(&walk, frame);

		if (word && region->pool.frames[frame].seq >= done)
			break;
		if (word)
			retire(region, itf, frame, word);
		WRITE_ONCE(itf->ring_head, itf->ring_head + 1);
	}
	exmap_walk_end(&walk);
}

/*
 * Retire a frame whose page alone was flushed, if it has not been freed again
 * since; then whoever did that has an entry of his own.
 */
void exmap_quarantine_retire(struct exmap_region *region, struct exmap_interface *itf, u32 frame,
			     u32 gen)
{
	struct exmap_walk walk = { .region = region };
	u32 *word = lazy_word(&walk, frame);

	if (word && region->pool.frames[frame].gen == gen)
		retire(region, itf, frame, word);
	exmap_walk_end(&walk);
}

/*
 * Retire every lazy page of a range, after a full flush.  All interfaces are
 * held.  If the region is dead, pages that are being read are dropped too: the
 * call that reads them gives their frames back.
 */
void exmap_quarantine_sweep(struct exmap_region *region, u64 first, u64 last)
{
	struct exmap_walk walk = { .region = region };
	u64 page;

	for (page = first; page < last; page++) {
		u32 *word;

		if (!(page % EXMAP_CHUNK_PAGES)) {
			exmap_walk_end(&walk);
			cond_resched();
		}
		if (!exmap_walk_to(&walk, page)) {
			page |= EXMAP_CHUNK_PAGES - 1;
			continue;
		}
		word = exmap_walk_word(&walk, page);
		if (*word & EXMAP_RES_LAZY)
			retire(region, region->ctl, EXMAP_RES_FRAME(*word), word);
		else if (region->dead)
			WRITE_ONCE(*word, 0);
	}
	exmap_walk_end(&walk);
	exmap_pool_spill(&region->pool, region->ctl, region->ctl->nr_cache);
}
