// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - quarantine: freed pages that wait for a flush.
 *
 * A freed page's residency word says LAZY and names the frame; the frame is
 * bound to the page.  Neither is used for anything else until a full flush that
 * began after the page was unmapped has ended (exmap_frame.seq against
 * exmap_tlb), or its very page was flushed.  Then the frame is *retired*: it is
 * free, and the page is absent.
 *
 * Each interface remembers what it has freed in a ring.  A flush that any
 * interface makes serves all of them; each retires its own pages when it needs
 * frames.  Retiring takes no chunk's lock.
 */
#include <linux/mm.h>

#include "exmap.h"
#include "ptable.h"
#include "trace.h"

/* After a change of the threshold or the pool. */
void exmap_quarantine_set_limit(struct exmap_region *region)
{
	u32 share = region->pool.total / 4 / region->nr_interfaces;

	WRITE_ONCE(region->quarantine_limit, min(READ_ONCE(region->flush_threshold),
						 max_t(u32, share, EXMAP_RANGED_PAGES)));
}

/*
 * The frame is ours, so that nobody else can make this word out of it; a word
 * that names it still is out of date, also for whoever holds the chunk's lock.
 */
static __always_inline void clear_word(struct exmap_region *region, u64 bind, u32 frame)
{
	u32 page = exmap_bind_page(bind);
	struct exmap_chunk *chunk = region->chunks[page / EXMAP_CHUNK_PAGES];

	cmpxchg(&chunk->words[page % EXMAP_CHUNK_PAGES], EXMAP_RES_LAZY | (frame + 1), 0);
}

/* The frame is ours, and flushed. */
static __always_inline void retire(struct exmap_region *region, struct exmap_interface *itf,
				   u32 frame)
{
	itf->counts.quarantine--;
	/* pairs with the reference that get_user_pages takes before it looks at the entry again */
	if (likely(page_ref_count(region->pool.pages[frame]) == 1))
		exmap_pool_release(&region->pool, itf, frame);
	else
		exmap_pool_pin(&region->pool, frame);
}

/* Retire what flushes have made safe, oldest first. */
void exmap_quarantine_drain(struct exmap_region *region, struct exmap_interface *itf)
{
	u64 done = exmap_tlb_done(&region->tlb);
	u32 head = itf->ring_head;

	lockdep_assert_held(&itf->lock);
	for (; head != itf->ring_tail; head++) {
		u32 frame = itf->ring[head % EXMAP_RING_ENTRIES];
		struct exmap_frame *f = &region->pool.frames[frame];
		u64 bind = smp_load_acquire(&f->bind); /* pairs with exmap_quarantine_add */

		if (unlikely(!(bind & EXMAP_BIND_LAZY)))
			continue;
		if (unlikely(READ_ONCE(f->seq) >= done))
			break;
		if (unlikely(!exmap_quarantine_take(f, bind)))
			continue;
		clear_word(region, bind, frame);
		retire(region, itf, frame);
	}
	trace_exmap_drain(region->id, head - itf->ring_head, itf->ring_tail - head);
	WRITE_ONCE(itf->ring_head, head);
}

/*
 * Retire a frame whose page alone was flushed, if it has not been mapped again
 * since; then whoever frees it next has an entry of his own.
 */
void exmap_quarantine_retire(struct exmap_region *region, struct exmap_interface *itf, u32 frame,
			     u64 bind)
{
	lockdep_assert_held(&itf->lock);
	if (!exmap_quarantine_take(&region->pool.frames[frame], bind))
		return;
	clear_word(region, bind, frame);
	retire(region, itf, frame);
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
		u32 *word, frame;

		if (!(page % EXMAP_CHUNK_PAGES)) {
			exmap_walk_end(&walk);
			cond_resched();
		}
		if (!exmap_walk_to(&walk, page)) {
			page |= EXMAP_CHUNK_PAGES - 1;
			continue;
		}
		word = exmap_walk_word(&walk, page);
		if (EXMAP_RES_MAPPED(*word))
			continue;	/* left to snapshots */
		frame = EXMAP_RES_FRAME(*word);
		if ((*word & EXMAP_RES_LAZY) &&
		    exmap_quarantine_rescue(&region->pool.frames[frame], page))
			retire(region, region->ctl, frame);
		if (!(*word & EXMAP_RES_BUSY) || region->dead)
			WRITE_ONCE(*word, 0);
	}
	exmap_walk_end(&walk);
	exmap_pool_spill(&region->pool, region->ctl, region->ctl->nr_cache);
}
