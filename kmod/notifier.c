// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - what the core does to a region's range (madvise, munmap, exit): mmu
 * notifiers empty our entries before it looks at them.
 *
 * GATE    While a range is being invalidated nobody may map a page of the region:
 * calls wait for the gate to open (exmap_interface_enter), and a table that was
 * made meanwhile is not published (ptable.c).
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "exmap.h"
#include "ptable.h"

bool exmap_region_gate_closed(struct exmap_region *region)
{
	bool closed;

	spin_lock(&region->gate);
	closed = region->invalidations;
	spin_unlock(&region->gate);
	return closed;
}

/* A page whose entry is gone, into quarantine. */
static void quarantine_page(struct exmap_region *region, u64 page, u32 *word)
{
	exmap_quarantine_bind(region, EXMAP_RES_FRAME(*word), page);
	WRITE_ONCE(*word, (*word & EXMAP_RES_FRAME_MASK) | EXMAP_RES_LAZY);
	region->ctl->counts.quarantine++;
	exmap_count(&region->ctl->counts.frees, 1);
}

static void unmap_page(struct exmap_region *region, struct exmap_walk *walk, u64 page)
{
	struct exmap_counts *counts = &region->ctl->counts;
	u32 *word = exmap_walk_word(walk, page);
	int gained = -ENOENT;

	exmap_pte_clear(walk, page);	/* also of the zero page */
	if (!EXMAP_RES_MAPPED(*word) || region->dead)
		return;
	counts->mapped--;
	if (*word & EXMAP_RES_SNAPSHOT)
		gained = exmap_snapshot_keep(region, walk, page, *word);
	if (gained >= 0) {
		WRITE_ONCE(*word, 0);
		counts->snapshot += gained;
		exmap_count(&counts->frees, 1);
	} else {
		quarantine_page(region, page, word);
	}
}

/* Unmap everything in a range, into quarantine.  All interfaces are held. */
static void unmap_range(struct exmap_region *region, u64 first, u64 last)
{
	struct exmap_walk walk = { .region = region };
	u64 page;

	for (page = first; page < last; page++) {
		if (!(page % EXMAP_CHUNK_PAGES)) {
			exmap_walk_end(&walk);
			cond_resched();
		}
		if (!exmap_walk_to(&walk, page)) {
			page |= EXMAP_CHUNK_PAGES - 1;
			continue;
		}
		unmap_page(region, &walk, page);
	}
	exmap_walk_end(&walk);
}

/*
 * Parked tables come back, so that the core mm finds them.  Only if there is no
 * memory for a record a chunk stays as it is, out of the core's sight.
 */
static void attach_tables(struct exmap_region *region, u64 first, u64 last)
{
	u64 nr;

	for (nr = first / EXMAP_CHUNK_PAGES; nr * EXMAP_CHUNK_PAGES < last; nr++) {
		struct exmap_record *record;

		if (!exmap_chunk_parked(region, nr))
			continue;
		if (region->dead) {
			exmap_chunk_plug(region, nr);
			continue;
		}
		/* a notifier may not wait for reclaim, which calls notifiers */
		record = exmap_snapshot_alloc_record(GFP_ATOMIC | __GFP_ACCOUNT |
						     __GFP_NOWARN);
		exmap_snapshot_attach(region, nr, &record);
		kfree(record);
	}
}

/* What a dead region has mapped is for its snapshots, or for nobody. */
static void leave_to_snapshots(struct exmap_region *region)
{
	u64 nr;

	for (nr = 0; nr < exmap_region_chunks(region); nr++) {
		if (region->chunks[nr])
			exmap_snapshot_leave_chunk(region, nr, quarantine_page);
		cond_resched();
	}
}

/* Tables that lie wholly in the range may be taken away by the core. */
static void forget_tables(struct exmap_region *region, u64 first, u64 last)
{
	u64 nr = DIV_ROUND_UP(first, EXMAP_CHUNK_PAGES);

	for (; (nr + 1) * EXMAP_CHUNK_PAGES <= last; nr++) {
		struct exmap_chunk *chunk = region->chunks[nr];

		if (!chunk || !chunk->ptes)
			continue;
		WRITE_ONCE(chunk->ptes, NULL);
		WRITE_ONCE(chunk->table, NULL);
	}
}

/* FREE, flush and retire a range.  All interfaces are held. */
static void clear_range(struct exmap_region *region, u64 first, u64 last)
{
	attach_tables(region, first, last);
	unmap_range(region, first, last);
	if (region->dead)
		leave_to_snapshots(region);
	exmap_tlb_flush(region, &region->ctl->counts, EXMAP_FLUSH_NOTIFIER);
	exmap_quarantine_sweep(region, first, last);
	forget_tables(region, first, last);
}

static void region_die(struct exmap_region *region)
{
	exmap_region_freeze(region);
	if (!region->dead) {
		WRITE_ONCE(region->dead, true);
		clear_range(region, 0, region->nr_pages);
	}
	exmap_region_thaw(region);
}

/* Does a notifier's range touch the region, in a way that takes pages away? */
static bool affects(struct exmap_region *region, const struct mmu_notifier_range *range)
{
	unsigned long start = READ_ONCE(region->start);
	u64 nr_pages = READ_ONCE(region->nr_pages);

	if (range->event != MMU_NOTIFY_UNMAP && range->event != MMU_NOTIFY_CLEAR)
		return false;
	return nr_pages && range->start < start + (nr_pages << PAGE_SHIFT) && range->end > start;
}

static void close_gate(struct exmap_region *region)
{
	spin_lock(&region->gate);
	WRITE_ONCE(region->invalidations, region->invalidations + 1);
	region->inval_seq++;
	spin_unlock(&region->gate);
}

static int notifier_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct exmap_region *region = container_of(mn, struct exmap_region, notifier);
	unsigned long start = region->start;
	u64 first = 0, last = region->nr_pages;

	if (!affects(region, range))
		return 0;
	if (!mmu_notifier_range_blockable(range))
		return -EAGAIN;

	if (range->event == MMU_NOTIFY_UNMAP) {
		region_die(region);
		return 0;
	}
	if (range->start > start)
		first = (range->start - start) >> PAGE_SHIFT;
	last = min_t(u64, last, DIV_ROUND_UP(range->end - start, PAGE_SIZE));

	exmap_region_freeze(region);
	close_gate(region);
	clear_range(region, first, last);
	exmap_region_thaw(region);
	return 0;
}

static void notifier_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct exmap_region *region = container_of(mn, struct exmap_region, notifier);

	if (!affects(region, range) || range->event == MMU_NOTIFY_UNMAP)
		return;
	spin_lock(&region->gate);
	if (!WARN_ON_ONCE(!region->invalidations))
		WRITE_ONCE(region->invalidations, region->invalidations - 1);
	spin_unlock(&region->gate);
	wake_up_all(&region->wait);
}

static void check_conservation(struct exmap_region *region)
{
	struct exmap_counters c;
	u64 found;

	exmap_region_counters(region, &c);
	found = c.free + c.mapped + c.quarantine + c.busy + c.snapshot;
	if (c.total != found)
		pr_warn("exmap: leaked frames in region %u: %llu of %llu found\n", region->id,
			found, c.total);
}

/* The address space is gone, and with it every thread that could make a call. */
static void notifier_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct exmap_region *region = container_of(mn, struct exmap_region, notifier);
	u32 i;

	exmap_nvme_region_release(region);
	region_die(region);
	check_conservation(region);
	exmap_region_freeze(region);
	for (i = 0; i < region->nr_interfaces; i++)
		exmap_pool_spill(&region->pool, region->interfaces[i],
				 region->interfaces[i]->nr_cache);
	exmap_pool_trim(&region->pool);
	exmap_region_thaw(region);
}

const struct mmu_notifier_ops exmap_notifier_ops = {
	.invalidate_range_start	= notifier_start,
	.invalidate_range_end	= notifier_end,
	.release		= notifier_release,
};
