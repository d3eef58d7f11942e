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

/* Flush the pages whose frames went to snapshots; then they are absent. */
static noinline void settle(struct exmap_op *op)
{
	struct exmap_region *region = op->region;
	struct exmap_interface *itf = op->itf;
	u32 i;

	if (itf->nr_moved <= EXMAP_RANGED_PAGES)
		exmap_tlb_flush_pages(region, &itf->counts, itf->moved, itf->nr_moved);
	else
		exmap_tlb_flush(region, &itf->counts, EXMAP_FLUSH_SNAPSHOT);
	for (i = 0; i < itf->nr_moved; i++) {
		struct exmap_chunk *chunk = region->chunks[itf->moved[i] / EXMAP_CHUNK_PAGES];

		WRITE_ONCE(chunk->words[itf->moved[i] % EXMAP_CHUNK_PAGES], 0);
	}
	itf->nr_moved = 0;
}

void exmap_op_leave(struct exmap_op *op)
{
	exmap_walk_end(&op->walk);
	if (op->entered) {
		if (unlikely(op->itf->nr_moved))
			settle(op);
		exmap_interface_leave(op->itf);
	}
	op->entered = false;
}

/* Bring a parked chunk back. */
static int attach(struct exmap_op *op, u64 nr, struct exmap_record *record)
{
	int ret = exmap_op_enter(op);

	if (!ret)
		exmap_snapshot_attach(op->region, nr, &record);
	kfree(record);
	return ret;
}

static int populate(struct exmap_op *op, u64 page)
{
	u64 nr = page / EXMAP_CHUNK_PAGES;
	int ret;

	exmap_op_leave(op);
	/* the record of what was freed so far is the interface's */
	if (op->nr_freed)
		op->nr_freed = EXMAP_RANGED_PAGES + 1;
	if (exmap_chunk_parked(op->region, nr)) {
		struct exmap_record *record = exmap_snapshot_alloc_record(EXMAP_GFP);

		if (!record)
			exmap_snapshot_break(op->region, nr);
		return attach(op, nr, record);
	}
	if (op->in_fault)
		ret = exmap_chunk_populate(op->region, nr);
	else
		ret = exmap_chunk_populate_unlocked(op->region, nr);
	return ret ?: exmap_op_enter(op);
}

/* A step has met views of the chunk. */
static int unview(struct exmap_op *op, u64 page)
{
	exmap_op_leave(op);
	if (fatal_signal_pending(current))
		return -EINTR;
	exmap_snapshot_unview(op->region, page / EXMAP_CHUNK_PAGES);
	return exmap_op_enter(op);
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
	int ret = exmap_op_enter(op);

	while (likely(!ret)) {
		if (likely(exmap_walk_to(&op->walk, page))) {
			ret = fn(op, page);
			if (likely(ret >= 0))
				return ret;
			if (ret == -ENOMEM)
				ret = refill(op);
			else if (ret == -ESTALE)
				ret = unview(op, page);
			else
				return ret;
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
 * @fn: what; -ENOMEM makes it try again with a frame in the cache, -ESTALE
 *	without views of the chunk
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
	struct page *p = op->region->pool.pages[frame];

	if (unlikely(exmap_pte_map(&op->walk, page, p)))
		op->stale = true;
	WRITE_ONCE(*word, frame + 1);
	op->itf->counts.mapped++;
	exmap_count(&op->itf->counts.allocs, 1);
}

/* Map the frame that a page in quarantine had; 0 if it is not there any more. */
static noinline int rescue(struct exmap_op *op, u64 page, u32 *word, u32 frame)
{
	if (!exmap_quarantine_rescue(&op->region->pool.frames[frame], page))
		return 0;
	op->itf->counts.quarantine--;
	exmap_count(&op->itf->counts.rescues, 1);
	map_frame(op, page, word, frame);
	return 1;
}

static __always_inline int alloc_locked(struct exmap_op *op, u64 page)
{
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 old, frame;
	int ret;

	do {
		old = READ_ONCE(*word); /* LAZY may become 0 at any time, 0 a mapped page */
		if (EXMAP_RES_MAPPED(old))
			return 0;
		if (unlikely(old & EXMAP_RES_BUSY))
			return -EAGAIN;
		if ((old & EXMAP_RES_LAZY) && rescue(op, page, word, EXMAP_RES_FRAME(old)))
			return 1;
		ret = exmap_op_claim(op, word, old, 0, &frame);
	} while (unlikely(ret == -EEXIST));
	if (unlikely(ret))
		return ret;
	map_frame(op, page, word, frame);
	return 1;
}

/* ALLOC, one page: a step. */
int exmap_op_alloc_page(struct exmap_op *op, u64 page)
{
	return alloc_locked(op, page);
}

/*
 * ALLOC of an absent page without the page-table lock: calls contend for the
 * word.  Whoever finds the word mapped may wait for its entry (exmap_pte_unmap),
 * hence no preemption between the two.  Returns 1 or 0 like a step, or -ENOENT:
 * then it takes the step.
 */
static __always_inline int alloc_lockless(struct exmap_region *region, struct exmap_interface *itf,
					  u64 page)
{
	struct exmap_chunk *chunk;
	u32 *word, old, frame;
	pte_t *table;

	chunk = exmap_chunk_ready(region, page / EXMAP_CHUNK_PAGES, &table);
	if (unlikely(!chunk || !itf->nr_cache))
		return -ENOENT;
	word = chunk->words + page % EXMAP_CHUNK_PAGES;
	old = READ_ONCE(*word);
	if (unlikely(old))
		return EXMAP_RES_MAPPED(old) ? 0 : -ENOENT;

	frame = itf->cache[itf->nr_cache - 1];
	preempt_disable();
	old = cmpxchg(word, 0, frame + 1);
	if (likely(!old))
		exmap_pte_set(region, table, page, region->pool.pages[frame]);
	preempt_enable();
	if (unlikely(old))
		return -ENOENT;
	itf->nr_cache--;
	itf->counts.mapped++;
	exmap_count(&itf->counts.allocs, 1);
	return 1;
}

/* May pages be mapped without the lock?  A fault puts the zero page there under it. */
static bool may_be_lockless(const struct exmap_op *op)
{
	return op->entered && !(op->region->flags & EXMAP_FAULT_ZERO);
}

static int alloc_one(struct exmap_op *op, u64 page)
{
	int ret = -ENOENT;

	if (may_be_lockless(op))
		ret = alloc_lockless(op->region, op->itf, page);
	if (ret == -ENOENT) {
		ret = step(op, page, alloc_locked);
		exmap_walk_end(&op->walk);
	}
	return ret;
}

/* Store what became of an iov: 0 or an error, and the pages that changed either way. */
static __always_inline int put_result(struct exmap_iov *iov, int res, u32 pages)
{
	WRITE_ONCE(iov->value, (u64)pages << 32 | (u32)res);
	return res < 0;
}

/* ALLOC, any iov.  Returns 1 if it failed. */
static noinline int alloc_iov(struct exmap_op *op, struct exmap_iov *iov, struct exmap_iov vec,
			      u64 flags)
{
	u64 first = vec.page, end = first + vec.len, page;
	u32 changed = 0;
	int ret = 0;

	if (end > op->region->nr_pages)
		return put_result(iov, -EFAULT, 0);
	for (page = first; page < end; page++) {
		ret = alloc_one(op, page);
		if (ret < 0)
			break;
		if ((flags & EXMAP_ALLOC_PROBE) && !ret && page == first)
			break;
		changed += ret;
	}
	return put_result(iov, min(ret, 0), changed);
}

static __always_inline void let_others_run(struct exmap_walk *walk)
{
	if (unlikely(need_resched())) {
		exmap_walk_end(walk);
		cond_resched();
	}
}

/**
 * exmap_op_alloc - ALLOC a vector
 * @op: entered or not
 * @iov: user space may write it meanwhile
 * @len: of @iov
 * @flags: of the call
 *
 * Returns the number of iovs that failed.  This and exmap_op_free are the loops
 * that the whole module is for: at a hundred instructions a page every call and
 * every reload counts, hence the short way for iovs of one page.
 */
long exmap_op_alloc(struct exmap_op *op, struct exmap_iov *iov, unsigned int len, u64 flags)
{
	struct exmap_region *region = op->region;
	struct exmap_interface *itf = op->itf;
	const u64 nr_pages = region->nr_pages;
	struct exmap_iov *end = iov + len;
	bool lockless = len && !exmap_op_enter(op) && may_be_lockless(op);
	long failed = 0;

	for (; iov < end; iov++) {
		struct exmap_iov vec = { .value = READ_ONCE(iov->value) };
		int ret = -ENOENT;

		if (likely(lockless && vec.len == 1 && vec.page < nr_pages))
			ret = alloc_lockless(region, itf, vec.page);
		if (likely(ret >= 0)) {
			put_result(iov, 0, ret);
		} else {
			failed += alloc_iov(op, iov, vec, flags);
			lockless = may_be_lockless(op);
		}
		let_others_run(&op->walk);
	}
	return failed;
}

/* FREE of a page that a snapshot shares, whose entry is gone.  False if none does any more. */
static noinline bool free_shared(struct exmap_op *op, struct exmap_walk *walk, u64 page, u32 *word,
				 u32 old)
{
	struct exmap_interface *itf = op->itf;
	int gained = exmap_snapshot_keep(op->region, walk, page, old);

	if (gained < 0)
		return false;
	/* not to be mapped anew before a flush */
	WRITE_ONCE(*word, EXMAP_RES_BUSY);
	if (itf->nr_moved == EXMAP_MOVED_PAGES)
		settle(op);
	itf->moved[itf->nr_moved++] = page;
	itf->counts.mapped--;
	itf->counts.snapshot += gained;
	exmap_count(&itf->counts.frees, 1);
	return true;
}

/* FREE, one page, into quarantine.  Returns how many that were. */
static __always_inline u32 free_locked(struct exmap_op *op, struct exmap_walk *walk, u64 page)
{
	struct exmap_interface *itf = op->itf;
	u32 *word = exmap_walk_word(walk, page);
	u32 old = READ_ONCE(*word);
	u32 frame = EXMAP_RES_FRAME(old);
	u64 bind;

	if (unlikely(!EXMAP_RES_MAPPED(old)))
		return 0;
	exmap_pte_unmap(walk, page);
	if (unlikely(old & EXMAP_RES_SNAPSHOT) && free_shared(op, walk, page, word, old))
		return 1;
	WRITE_ONCE(*word, EXMAP_RES_LAZY | (frame + 1));
	bind = exmap_quarantine_add(walk->region, itf, frame, page);
	itf->counts.mapped--;
	exmap_count(&itf->counts.frees, 1);

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

/* FREE, any iov.  Returns 1 if it failed. */
static noinline int free_iov(struct exmap_op *op, struct exmap_iov *iov, struct exmap_iov vec)
{
	u64 page = vec.page, end = page + vec.len;
	u32 changed = 0;
	int ret;

	if (end > op->region->nr_pages)
		return put_result(iov, -EFAULT, 0);
	ret = exmap_op_enter(op);
	while (!ret && page < end) {
		exmap_op_make_room(op);
		if (exmap_walk_to(&op->walk, page))
			changed += free_locked(op, &op->walk, page++);
		else if (exmap_chunk_parked(op->region, page / EXMAP_CHUNK_PAGES))
			ret = populate(op, page);
		else /* without a table no page of the chunk is mapped */
			page = round_up(page + 1, EXMAP_CHUNK_PAGES);
	}
	exmap_walk_end(&op->walk);
	return put_result(iov, ret, changed);
}

/**
 * exmap_op_free - FREE a vector, but for the flush, which exmap_op_finish does
 * @op: entered or not
 * @iov: user space may write it meanwhile
 * @len: of @iov
 *
 * Returns the number of iovs that failed.
 */
long exmap_op_free(struct exmap_op *op, struct exmap_iov *iov, unsigned int len)
{
	struct exmap_walk walk = { .region = op->region };
	struct exmap_interface *itf = op->itf;
	const u64 nr_pages = op->region->nr_pages;
	struct exmap_iov *end = iov + len;
	bool entered = len && !exmap_op_enter(op);
	long failed = 0;

	for (; iov < end; iov++) {
		struct exmap_iov vec = { .value = READ_ONCE(iov->value) };

		if (likely(entered && vec.len == 1 && vec.page < nr_pages &&
			   exmap_quarantine_length(itf) < EXMAP_RING_ENTRIES &&
			   exmap_walk_to(&walk, vec.page))) {
			put_result(iov, 0, free_locked(op, &walk, vec.page));
		} else {
			exmap_walk_end(&walk);
			failed += free_iov(op, iov, vec);
			entered = op->entered;
		}
		let_others_run(&walk);
	}
	exmap_walk_end(&walk);
	return failed;
}

/*
 * Make a page writable, copying it out first if a snapshot shares it.  If there
 * is no frame for that the snapshot is broken.  1 if it was copied, 0, or an
 * error, after which @op may not be entered.
 */
int exmap_op_unshare_page(struct exmap_op *op, u64 page)
{
	for (;;) {
		int ret = step(op, page, exmap_snapshot_unshare);

		if (ret != -ENOMEM)
			return ret;
		exmap_op_leave(op);
		exmap_snapshot_break(op->region, page / EXMAP_CHUNK_PAGES);
	}
}

/* Bring a chunk back for a reader, who breaks nothing. */
static int attach_for_reader(struct exmap_op *op, u64 nr)
{
	struct exmap_record *record;

	exmap_op_leave(op);
	if (!exmap_chunk_parked(op->region, nr))
		return -ENOENT;
	record = exmap_snapshot_alloc_record(EXMAP_GFP);
	return record ? attach(op, nr, record) : -ENOMEM;
}

/**
 * exmap_op_copy_read - copy pages out before a view shows them
 * @snap: the view's
 * @page: of the region
 * @end: the first one that does not matter; whole blocks are copied
 *
 * Goes as far as there are frames to spare, and no view that shares.
 */
void exmap_op_copy_read(struct exmap_snapshot *snap, u64 page, u64 end)
{
	struct exmap_op op;
	int ret;

	exmap_op_init(&op, snap->region, snap->region->ctl);
	page = round_down(page, EXMAP_COPY_BLOCK);
	ret = exmap_op_enter(&op);
	while (!ret && page < end) {
		if (exmap_walk_to(&op.walk, page)) {
			ret = exmap_snapshot_copy_read(&op, snap, page);
			page += EXMAP_COPY_BLOCK;
		} else {
			ret = attach_for_reader(&op, page / EXMAP_CHUNK_PAGES);
		}
	}
	exmap_op_leave(&op);
}

static int unshare_iov(struct exmap_op *op, struct exmap_iov *iov)
{
	struct exmap_iov vec = { .value = READ_ONCE(iov->value) };
	u64 page = vec.page, end = page + vec.len;
	u32 changed = 0;
	int ret = 0;

	if (end > op->region->nr_pages)
		return put_result(iov, -EFAULT, 0);
	for (; page < end && ret >= 0; page++) {
		ret = exmap_op_unshare_page(op, page);
		changed += ret > 0;
	}
	return put_result(iov, min(ret, 0), changed);
}

/* UNSHARE a vector.  Returns the number of iovs that failed. */
long exmap_op_unshare(struct exmap_op *op, struct exmap_iov *iov, unsigned int len)
{
	unsigned int i;
	long failed = 0;

	for (i = 0; i < len; i++) {
		failed += unshare_iov(op, &iov[i]);
		let_others_run(&op->walk);
	}
	return failed;
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
