// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - a call in progress: its steps over pages, and what it does when it
 * has no page table, no frame, or no room at hand.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "exmap.h"
#include "ptable.h"

int exmap_op_enter(struct exmap_op *op)
{
	int ret = 0;

	if (!op->entered)
		ret = exmap_interface_enter(op->region, op->itf);
	op->entered = !ret;
	return ret;
}

void exmap_op_leave(struct exmap_op *op)
{
	exmap_walk_end(&op->walk);
	if (op->entered)
		exmap_interface_leave(op->itf);
	op->entered = false;
}

static int populate(struct exmap_op *op, u64 page)
{
	u64 nr = page / EXMAP_CHUNK_PAGES;
	int ret;

	exmap_op_leave(op);
	if (op->in_fault)
		ret = exmap_chunk_populate(op->region, nr);
	else
		ret = exmap_chunk_populate_unlocked(op->region, nr);
	return ret ?: exmap_op_enter(op);
}

/* Flush, and retire what this interface has in quarantine. */
static void flush_own(struct exmap_op *op, enum exmap_flush_reason reason)
{
	exmap_walk_end(&op->walk);
	exmap_tlb_flush(op->region, &op->itf->counts, reason);
	exmap_quarantine_drain(op->region, op->itf);
}

/* Get a frame into the cache: from our own quarantine, else from all the others. */
static int refill(struct exmap_op *op)
{
	int ret;

	exmap_walk_end(&op->walk);
	exmap_quarantine_drain(op->region, op->itf);
	if (op->itf->nr_cache)
		return 0;
	if (exmap_quarantine_length(op->itf)) {
		flush_own(op, EXMAP_FLUSH_RECLAIM);
		op->nr_freed = EXMAP_RANGED_PAGES + 1;
		if (op->itf->nr_cache)
			return 0;
	}
	exmap_op_leave(op);
	if (fatal_signal_pending(current))
		return -EINTR;
	ret = exmap_region_reclaim(op->region);
	return ret ?: exmap_op_enter(op);
}

static __always_inline int step(struct exmap_op *op, u64 page, exmap_step_fn fn)
{
	int ret = 0;

	if (unlikely(!op->entered))
		ret = exmap_op_enter(op);
	while (likely(!ret)) {
		if (likely(exmap_walk_to(&op->walk, page))) {
			ret = fn(op, page);
			if (likely(ret != -ENOMEM))
				return ret;
			ret = refill(op);
		} else {
			ret = populate(op, page);
		}
	}
	return ret;
}

/**
 * exmap_op_step - do something to a page, with its chunk's lock held
 * @op: entered or not
 * @page: inside the region
 * @fn: what; -ENOMEM makes it try again with a frame in the cache
 *
 * Returns what @fn returned, or an error, after which @op may not be entered.
 */
int exmap_op_step(struct exmap_op *op, u64 page, exmap_step_fn fn)
{
	return step(op, page, fn);
}

/* Map a frame, which is ours, to a page, whose word is not mapped yet. */
static __always_inline void map_frame(struct exmap_op *op, u64 page, u32 *word, u32 frame)
{
	struct page *p = op->region->pool.frames[frame].page;

	if (unlikely(exmap_pte_map(&op->walk, page, p)))
		op->stale = true;
	WRITE_ONCE(*word, frame + 1);
	op->itf->counts.mapped++;
	op->itf->counts.allocs++;
}

/* Map the frame that a page in quarantine had; 0 if it is not there any more. */
static noinline int rescue(struct exmap_op *op, u64 page, u32 *word, u32 frame)
{
	if (!exmap_quarantine_rescue(&op->region->pool.frames[frame], page))
		return 0;
	op->itf->counts.quarantine--;
	op->itf->counts.rescues++;
	map_frame(op, page, word, frame);
	return 1;
}

static __always_inline int alloc_page_locked(struct exmap_op *op, u64 page)
{
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 old = READ_ONCE(*word); /* LAZY may become 0 at any time */
	u32 frame;
	int ret;

	if (EXMAP_RES_MAPPED(old))
		return 0;
	if (unlikely(old & EXMAP_RES_BUSY))
		return -EAGAIN;
	if ((old & EXMAP_RES_LAZY) && rescue(op, page, word, EXMAP_RES_FRAME(old)))
		return 1;
	ret = exmap_op_take_frame(op, page, &frame);
	if (unlikely(ret))
		return ret;
	map_frame(op, page, word, frame);
	return 1;
}

/* ALLOC, one page: a step. */
int exmap_op_alloc_page(struct exmap_op *op, u64 page)
{
	return alloc_page_locked(op, page);
}

/* ALLOC, one iov.  Returns 0 or an error; *changed counts pages either way. */
static __always_inline int alloc_iov(struct exmap_op *op, struct exmap_iov iov, u64 flags,
				     unsigned int *changed)
{
	u64 first = iov.page, end = first + iov.len, page;
	int ret;

	for (page = first; page < end; page++) {
		ret = step(op, page, alloc_page_locked);
		if (unlikely(ret < 0))
			return ret;
		if (unlikely(flags & EXMAP_ALLOC_PROBE) && !ret && page == first)
			return 0;
		*changed += ret;
	}
	return 0;
}

/* FREE, one page, into quarantine.  Returns how many that were. */
static __always_inline unsigned int free_page_locked(struct exmap_op *op, u64 page)
{
	struct exmap_interface *itf = op->itf;
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 old = READ_ONCE(*word);
	u32 frame = EXMAP_RES_FRAME(old);
	u64 bind;

	if (unlikely(!EXMAP_RES_MAPPED(old)))
		return 0;
	exmap_pte_unmap(&op->walk, page);
	WRITE_ONCE(*word, EXMAP_RES_LAZY | (frame + 1));
	bind = exmap_quarantine_add(op->region, itf, frame);
	itf->counts.mapped--;
	itf->counts.frees++;

	if (op->nr_freed < EXMAP_RANGED_PAGES) {
		itf->freed_pages[op->nr_freed] = page;
		itf->freed[op->nr_freed].frame = frame;
		itf->freed[op->nr_freed].bind = bind;
	}
	op->nr_freed++;
	return 1;
}

/* Empty a full ring. */
void exmap_op_empty_ring(struct exmap_op *op)
{
	flush_own(op, EXMAP_FLUSH_THRESHOLD);
	op->nr_freed = EXMAP_RANGED_PAGES + 1;
}

/* FREE, one iov. */
static __always_inline int free_iov(struct exmap_op *op, struct exmap_iov iov, u64 flags,
				    unsigned int *changed)
{
	u64 page = iov.page, end = page + iov.len;
	int ret = 0;

	if (unlikely(!op->entered))
		ret = exmap_op_enter(op);
	while (!ret && page < end) {
		exmap_op_make_room(op);
		if (!exmap_walk_to(&op->walk, page)) {
			/* without a table no page of the chunk is mapped */
			page = round_up(page + 1, EXMAP_CHUNK_PAGES);
			continue;
		}
		*changed += free_page_locked(op, page++);
	}
	return ret;
}

/*
 * The loops over a vector.  They and what they call are inlined into one
 * function for each opcode: at some hundred instructions a page, calls count.
 */
typedef int (*iov_fn)(struct exmap_op *op, struct exmap_iov iov, u64 flags, unsigned int *changed);

static __always_inline long run_iovs(struct exmap_op *op, struct exmap_iov *iov, unsigned int len,
				     u64 flags, iov_fn fn)
{
	u64 nr_pages = op->region->nr_pages;
	unsigned int i;
	long failed = 0;

	for (i = 0; i < len; i++) {
		struct exmap_iov vec = { .value = READ_ONCE(iov[i].value) };
		struct exmap_iov result = { };
		unsigned int changed = 0;
		int res = -EFAULT;

		if (likely((u64)vec.page + vec.len <= nr_pages))
			res = fn(op, vec, flags, &changed);
		failed += res < 0;
		result.res = res;
		result.pages = changed;
		WRITE_ONCE(iov[i].value, result.value);

		if (unlikely(need_resched())) {
			exmap_walk_end(&op->walk);
			cond_resched();
		}
	}
	return failed;
}

/* Returns the number of iovs that failed. */
long exmap_op_alloc(struct exmap_op *op, struct exmap_iov *iov, unsigned int len, u64 flags)
{
	return run_iovs(op, iov, len, flags, alloc_iov);
}

/* Without the flush; exmap_op_finish does it. */
long exmap_op_free(struct exmap_op *op, struct exmap_iov *iov, unsigned int len)
{
	return run_iovs(op, iov, len, 0, free_iov);
}

/* Flush the few pages that this call freed, and retire just them. */
static void finish_ranged(struct exmap_op *op)
{
	struct exmap_interface *itf = op->itf;
	unsigned int i;

	exmap_tlb_flush_pages(op->region, &itf->counts, itf->freed_pages, op->nr_freed);
	/* they are the youngest in the ring: @freed has them as well */
	WRITE_ONCE(itf->ring_tail, itf->ring_tail - op->nr_freed);
	for (i = 0; i < op->nr_freed; i++)
		exmap_quarantine_retire(op->region, itf, itf->freed[i].frame, itf->freed[i].bind);
}

/* Flush as far as the call promised it, and leave. */
void exmap_op_finish(struct exmap_op *op, bool lazy)
{
	struct exmap_region *region = op->region;
	u32 limit = READ_ONCE(region->quarantine_limit);

	exmap_walk_end(&op->walk);
	if (!op->stale && !op->nr_freed)
		goto out;
	if (!op->entered && exmap_op_enter(op))
		return;

	if (op->stale) {
		flush_own(op, EXMAP_FLUSH_ZERO_PAGE);
	} else if (!lazy) {
		if (op->nr_freed > EXMAP_RANGED_PAGES)
			flush_own(op, EXMAP_FLUSH_FREE);
		else
			finish_ranged(op);
	} else if (exmap_quarantine_length(op->itf) >= limit) {
		exmap_quarantine_drain(region, op->itf);
		if (exmap_quarantine_length(op->itf) >= limit)
			flush_own(op, EXMAP_FLUSH_THRESHOLD);
	}
out:
	exmap_op_leave(op);
}
