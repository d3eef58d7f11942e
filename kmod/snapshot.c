// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - snapshots: what they hold of each chunk, and how the live region
 * leaves content to them.
 *
 * FREEZE  With all interfaces held, each chunk of the range is *parked*: its
 * page table is unplugged from the tree and kept (ptable.c).  One flush ends
 * the freeze.  Whoever touches a parked chunk first write-protects the 512
 * entries and plugs the table in again (attach).
 *
 * RECORD  What a snapshot knows of a chunk: one word for each page, which says
 * absent, a frame that is the snapshot's own, or SAME: as in the next newer
 * snapshot of that chunk, or in the live region if there is none.  No record at
 * all means that the chunk has been parked ever since, which is SAME for every
 * page.  Only the newest snapshot of a chunk ever gets anything recorded; the
 * older ones look through it, so that a page is copied once, however many
 * snapshots are alive.
 *
 *	freeze		no record (or all_absent, if the chunk has no table)
 *	attach		a record: SAME for mapped pages, else absent
 *	write		a SAME page is copied out: the copy is recorded, the
 *			writer keeps its frame and gets a writable entry
 *	FREE		a SAME page's frame itself is recorded
 *	close		what the next older snapshot looks through is moved to
 *			it, the rest is free; what remains is all_same
 *
 * WHY A VIEW NEVER SHOWS NEW CONTENT  A view maps a live frame only while
 * chunk->view_lock is held, and sets chunk->viewed first, under chunk->lock and
 * after it has found the page SAME.  A copy-out that finds chunk->viewed set
 * unmaps the chunk from all views, under view_lock, and flushes their TLBs,
 * before it makes the live entry writable.  So at the time of the first write
 * no view has an entry of the frame, in any TLB.  A copy-out of a chunk that no
 * view has read flushes nothing: stale live entries are read-only and name the
 * right frame, and cost their CPU a fault at most.
 */
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "exmap.h"
#include "ptable.h"
#include "trace.h"
#include "uapi/exmap_netlink.h"

#define SAME	EXMAP_RES_SNAPSHOT
#define EXMAP_COPY_AHEAD	8u	/* pages */

atomic_t exmap_snapshots_seq = ATOMIC_INIT(0); /* changes of the lists, for netlink */

static struct exmap_record all_absent;
static struct exmap_record all_same = { .words = { [0 ... EXMAP_CHUNK_PAGES - 1] = SAME } };

static bool is_own(const struct exmap_record *record)
{
	return record && record != &all_absent && record != &all_same;
}

static bool covers(const struct exmap_snapshot *snap, u64 nr)
{
	return nr - snap->first < snap->nr_chunks;
}

static struct exmap_record **record_of(struct exmap_snapshot *snap, u64 nr)
{
	return &snap->records[nr - snap->first];
}

/* The snapshot that gets what a chunk loses, or NULL.  The chunk's lock is held. */
static struct exmap_snapshot *newest(struct exmap_region *region, u64 nr)
{
	struct exmap_snapshot *snap, *found = NULL;

	list_for_each_entry_rcu(snap, &region->snapshots, node, true) {
		if (covers(snap, nr) && *record_of(snap, nr) != &all_same)
			found = snap;
	}
	return found;
}

/* The one that looks through @snap, or NULL. */
static struct exmap_snapshot *next_older(struct exmap_snapshot *snap, u64 nr)
{
	struct exmap_snapshot *other, *found = NULL;

	list_for_each_entry_rcu(other, &snap->region->snapshots, node, true) {
		if (other == snap)
			break;
		if (covers(other, nr) && *record_of(other, nr) != &all_same)
			found = other;
	}
	return found;
}

/* Does the newest snapshot share page @i of a chunk with the live region? */
static bool is_shared(struct exmap_snapshot *snap, u64 nr, unsigned int i)
{
	struct exmap_record *record;

	if (!snap)
		return false;
	record = *record_of(snap, nr);
	return !record || record->words[i] == SAME;
}

/**
 * exmap_snapshot_resolve - what a snapshot holds of a page
 * @snap: the caller's
 * @nr: a chunk that it covers
 * @i: a page of the chunk
 *
 * Returns a residency word: 0 for an absent page, else its frame, with
 * EXMAP_RES_SNAPSHOT if the live region has it too.  The chunk's lock is held.
 */
u32 exmap_snapshot_resolve(struct exmap_snapshot *snap, u64 nr, unsigned int i)
{
	struct exmap_region *region = snap->region;
	struct exmap_snapshot *s = snap;
	struct exmap_record *record;
	u32 word;

	lockdep_assert_held(&region->chunks[nr]->lock);
	list_for_each_entry_from_rcu(s, &region->snapshots, node) {
		record = covers(s, nr) ? *record_of(s, nr) : NULL;
		if (record && record->words[i] != SAME)
			return record->words[i];
	}
	word = READ_ONCE(region->chunks[nr]->words[i]);
	return EXMAP_RES_MAPPED(word) ? word | SAME : 0;
}

/* The chunk as it was at the freeze: nothing has happened to it since. */
static void fill_record(struct exmap_chunk *chunk, struct exmap_record *record)
{
	unsigned int i;

	record->nr_frames = 0;
	record->pinned = false;
	for (i = 0; i < EXMAP_CHUNK_PAGES; i++)
		record->words[i] = EXMAP_RES_MAPPED(READ_ONCE(chunk->words[i])) ? SAME : 0;
}

/* Write-protect what is shared, and say so in the residency words.  Both locks are held. */
static void protect(struct exmap_walk *walk, const struct exmap_record *record)
{
	struct exmap_chunk *chunk = walk->chunk;
	u64 page = walk->nr * EXMAP_CHUNK_PAGES;
	bool parked = !chunk->ptes;
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		if (record->words[i] != SAME)
			continue;
		if (parked)
			exmap_pte_protect_parked(walk, page + i);
		else
			exmap_pte_protect(walk, page + i);
		WRITE_ONCE(chunk->words[i], READ_ONCE(chunk->words[i]) | EXMAP_RES_SNAPSHOT);
	}
}

/* A table is about to be used again.  False if that takes a record and there is none. */
static bool prepare(struct exmap_walk *walk, struct exmap_record **record)
{
	struct exmap_chunk *chunk = walk->chunk;
	struct exmap_snapshot *snap;
	bool ready = true;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(walk->region, walk->nr);
	if (snap && !*record_of(snap, walk->nr)) {
		ready = *record;
		if (ready)
			fill_record(chunk, *record);
		*record_of(snap, walk->nr) = *record;
		*record = NULL;
	}
	if (snap && ready)
		protect(walk, *record_of(snap, walk->nr));
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return ready;
}

/**
 * exmap_snapshot_attach - plug the table of a parked chunk in again
 * @region: an interface of it is held
 * @nr: the chunk
 * @record: of any content, or NULL; set to NULL if it was used
 *
 * The chunk stays parked if it takes a record and there is none.
 */
void exmap_snapshot_attach(struct exmap_region *region, u64 nr, struct exmap_record **record)
{
	struct exmap_walk walk = { .region = region };
	bool ready = true;

	if (!exmap_walk_to_table(&walk, nr * EXMAP_CHUNK_PAGES))
		return;
	if (!walk.chunk->ptes)
		ready = prepare(&walk, record);
	exmap_walk_end(&walk);
	if (!ready)
		return;
	exmap_chunk_plug(region, nr);
	trace_exmap_attach(region->id, nr);
}

struct exmap_record *exmap_snapshot_alloc_record(gfp_t gfp)
{
	return kmalloc(sizeof(struct exmap_record), gfp);
}

/* The copy goes to the reservation's account, else to the interface's. */
static int take_frame(struct exmap_op *op, struct exmap_snapshot *snap, u32 *frame)
{
	struct exmap_pool *pool = &op->region->pool;
	bool found;
	int ret;

	spin_lock(&pool->lock);
	found = snap->nr_reserve;
	if (found)
		*frame = snap->reserve[--snap->nr_reserve];
	spin_unlock(&pool->lock);
	if (found)
		return 0;
	ret = exmap_op_take_frame(op, frame);
	if (!ret)
		op->itf->counts.snapshot++;
	return ret;
}

static int copy_out(struct exmap_op *op, struct exmap_snapshot *snap, u64 page, u32 live)
{
	struct exmap_record *record = *record_of(snap, op->walk.nr);
	struct page **pages = op->region->pool.pages;
	u32 frame;
	int ret;

	if (op->walk.chunk->viewed)
		return -ESTALE;
	ret = take_frame(op, snap, &frame);
	if (ret)
		return ret;
	copy_highpage(pages[frame], pages[live]);
	record->words[page % EXMAP_CHUNK_PAGES] = frame + 1;
	record->nr_frames++;
	op->itf->counts.copies++;
	return 1;
}

/* Writes come one page after the other: copy some ahead, as far as there are frames at hand. */
static void copy_ahead(struct exmap_op *op, struct exmap_snapshot *snap, u64 page)
{
	struct exmap_chunk *chunk = op->walk.chunk;
	struct exmap_record *record = *record_of(snap, op->walk.nr);
	unsigned int i = page % EXMAP_CHUNK_PAGES, end;

	if (!i || record->words[i - 1] == SAME)
		return;
	end = min(i + 1 + EXMAP_COPY_AHEAD, EXMAP_CHUNK_PAGES);
	for (i++; i < end && record->words[i] == SAME; i++) {
		u32 word = READ_ONCE(chunk->words[i]);

		page++;
		if (copy_out(op, snap, page, EXMAP_RES_FRAME(word)) < 0)
			return;
		WRITE_ONCE(chunk->words[i], word & ~EXMAP_RES_SNAPSHOT);
		exmap_pte_unprotect(&op->walk, page);
	}
}

/* No snapshot of the chunk is left: spare the other pages their faults. */
static void unprotect_chunk(struct exmap_walk *walk)
{
	u64 page = walk->nr * EXMAP_CHUNK_PAGES;
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 word = READ_ONCE(walk->chunk->words[i]);

		if (!(word & EXMAP_RES_SNAPSHOT))
			continue;
		WRITE_ONCE(walk->chunk->words[i], word & ~EXMAP_RES_SNAPSHOT);
		exmap_pte_unprotect(walk, page + i);
	}
}

/**
 * exmap_snapshot_unshare - make a page writable, after copying it out: a step
 * @op: with the page's chunk locked
 * @page: mapped or not
 *
 * 1 if it was copied, 0 if there was no need, -ENOMEM, or -ESTALE if the chunk
 * has to be taken out of the views first.
 */
int exmap_snapshot_unshare(struct exmap_op *op, u64 page)
{
	struct exmap_chunk *chunk = op->walk.chunk;
	u32 *word = exmap_walk_word(&op->walk, page);
	struct exmap_snapshot *snap;
	u32 old;
	int ret = 0;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	old = READ_ONCE(*word);
	if (!EXMAP_RES_MAPPED(old) || !(old & EXMAP_RES_SNAPSHOT))
		goto out;
	snap = newest(op->region, op->walk.nr);
	if (!snap) {
		unprotect_chunk(&op->walk);
		goto out;
	}
	if (is_shared(snap, op->walk.nr, page % EXMAP_CHUNK_PAGES))
		ret = copy_out(op, snap, page, EXMAP_RES_FRAME(old));
	if (ret < 0)
		goto out;
	WRITE_ONCE(*word, old & ~EXMAP_RES_SNAPSHOT);
	exmap_pte_unprotect(&op->walk, page);
	if (ret && op->in_fault)
		copy_ahead(op, snap, page);
out:
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return ret;
}

/* A page will not be copied any more: back with the frame that was set aside for it. */
static int unreserve_one(struct exmap_snapshot *snap)
{
	struct exmap_pool *pool = &snap->region->pool;
	int nr;

	spin_lock(&pool->lock);
	nr = snap->reserve_all && snap->nr_reserve;
	if (nr)
		pool->free[pool->nr_free++] = snap->reserve[--snap->nr_reserve];
	spin_unlock(&pool->lock);
	return nr;
}

/**
 * exmap_snapshot_keep - leave the frame of a page to its snapshot
 * @region: an interface of it is held
 * @walk: at the page, whose entry has just been removed
 * @page: its word has EXMAP_RES_SNAPSHOT
 * @old: the word
 *
 * Returns -ENOENT if nobody shares it any more.  Otherwise the caller sees to the
 * word, and the counts: snapshots have gained as many frames as this returns.
 */
int exmap_snapshot_keep(struct exmap_region *region, struct exmap_walk *walk, u64 page, u32 old)
{
	struct exmap_chunk *chunk = walk->chunk;
	u32 frame = EXMAP_RES_FRAME(old);
	struct exmap_record *record;
	struct exmap_snapshot *snap;
	int gained = -ENOENT;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(region, walk->nr);
	if (is_shared(snap, walk->nr, page % EXMAP_CHUNK_PAGES)) {
		record = *record_of(snap, walk->nr);
		record->words[page % EXMAP_CHUNK_PAGES] = frame + 1;
		record->nr_frames++;
		/* get_user_pages may have been faster; see exmap_quarantine_drain */
		record->pinned |= page_ref_count(region->pool.pages[frame]) != 1;
		gained = 1 - unreserve_one(snap);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return gained;
}

/**
 * exmap_snapshot_leave_chunk - what the death of a region leaves to snapshots
 * @region: dead, all interfaces are held
 * @nr: a chunk, whose entries are gone
 * @drop: called for each page that nobody shares
 *
 * The words of the others stay: they are what the snapshots resolve to.
 */
void exmap_snapshot_leave_chunk(struct exmap_region *region, u64 nr,
				void (*drop)(struct exmap_region *region, u64 page, u32 *word))
{
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_counts *counts = &region->ctl->counts;
	struct exmap_snapshot *snap;
	unsigned int i;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(region, nr);
	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 *word = &chunk->words[i];

		if (!EXMAP_RES_MAPPED(*word))
			continue;
		WRITE_ONCE(*word, *word & ~EXMAP_RES_SNAPSHOT);
		counts->mapped--;
		if (is_shared(snap, nr, i))
			counts->snapshot++;
		else
			drop(region, nr * EXMAP_CHUNK_PAGES + i, word);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
}

/* Give the frames of a record, which no page table and no TLB has, back to the pool. */
static void free_record(struct exmap_region *region, struct exmap_record *record)
{
	u32 nr = record->nr_frames;

	mutex_lock(&region->ctl->lock);
	region->ctl->counts.snapshot -= nr;
	exmap_pool_absorb(&region->pool, record);
	mutex_unlock(&region->ctl->lock);
}

/* What an older snapshot looks through a newer one becomes its own. */
static void merge(struct exmap_record *older, struct exmap_record *newer)
{
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 word = newer->words[i];

		if (older->words[i] != SAME || word == SAME)
			continue;
		older->words[i] = word;
		newer->words[i] = SAME;
		older->nr_frames += !!word;
		newer->nr_frames -= !!word;
	}
	older->pinned |= newer->pinned;
}

/* Pages of a dead region that only the snapshot just removed has shared. */
static void free_ghosts(struct exmap_region *region, u64 nr)
{
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_snapshot *snap = newest(region, nr);
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 *word = &chunk->words[i];

		if (!EXMAP_RES_MAPPED(*word) || is_shared(snap, nr, i))
			continue;
		exmap_pool_return(&region->pool, EXMAP_RES_FRAME(*word));
		region->ctl->counts.snapshot--;
		WRITE_ONCE(*word, 0);
	}
}

/*
 * Take a chunk away from a snapshot.  No view of it maps the chunk.  The frames
 * of what is returned are free.
 */
static struct exmap_record *detach_chunk(struct exmap_snapshot *snap, u64 nr)
{
	struct exmap_region *region = snap->region;
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_record *record = *record_of(snap, nr);
	struct exmap_snapshot *older;

	if (!chunk) {
		*record_of(snap, nr) = &all_same;
		return NULL;
	}
	mutex_lock(&region->ctl->lock);
	rcu_read_lock();
	spin_lock(&chunk->lock);
	record = *record_of(snap, nr);
	older = next_older(snap, nr);
	*record_of(snap, nr) = &all_same;
	if (is_own(record) && older) {
		struct exmap_record **inherits = record_of(older, nr);

		if (is_own(*inherits))
			merge(*inherits, record);
		else if (!*inherits)
			swap(*inherits, record);
	}
	if (region->dead)
		free_ghosts(region, nr);
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	mutex_unlock(&region->ctl->lock);
	return is_own(record) ? record : NULL;
}

/* Take everything away from a snapshot. */
static void detach(struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;
	u64 nr;

	lockdep_assert_held_write(&region->snapshots_lock);
	for (nr = snap->first; nr < snap->first + snap->nr_chunks; nr++) {
		struct exmap_chunk *chunk = region->chunks[nr];
		struct exmap_record *record;

		if (chunk)
			mutex_lock(&chunk->view_lock);
		exmap_view_unmap(snap, nr);
		record = detach_chunk(snap, nr);
		if (chunk)
			mutex_unlock(&chunk->view_lock);
		if (record)
			free_record(region, record);
		cond_resched();
	}
}

static void give_reserve(struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;

	mutex_lock(&region->ctl->lock);
	region->ctl->counts.snapshot -= snap->nr_reserve;
	exmap_pool_give(&region->pool, snap->reserve, &snap->nr_reserve);
	mutex_unlock(&region->ctl->lock);
}

static void free_snapshot(struct rcu_head *rcu)
{
	struct exmap_snapshot *snap = container_of(rcu, struct exmap_snapshot, rcu);

	kvfree(snap->records);
	kvfree(snap->reserve);
	kfree(snap);
}

/* True if the region is dead, and no NVMe queue will ever write to its frames. */
static bool is_dead(struct exmap_region *region)
{
	if (!READ_ONCE(region->dead))
		return false;
	/* whoever opens a queue later finds it dead */
	mutex_lock(&region->setup);
	exmap_nvme_region_release(region);
	mutex_unlock(&region->setup);
	return true;
}

/* Nobody will ever use the frames that the snapshot has given back. */
static void trim_dead_region(struct exmap_region *region)
{
	exmap_region_freeze(region);
	exmap_pool_trim(&region->pool);
	exmap_region_thaw(region);
}

/* Nothing refers to it any more but those who walk the list. */
void exmap_snapshot_destroy(struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;
	bool dead = is_dead(region), frozen;

	down_write(&region->snapshots_lock);
	frozen = !list_empty(&snap->node);
	if (frozen) {
		detach(snap);
		list_del_rcu(&snap->node);
		atomic_inc(&exmap_snapshots_seq);
	}
	give_reserve(snap);
	if (dead)
		trim_dead_region(region);
	up_write(&region->snapshots_lock);
	if (frozen)
		exmap_netlink_snapshot_event(snap, EXMAP_GENL_CMD_SNAPSHOT_GONE);
	call_rcu(&snap->rcu, free_snapshot);
	exmap_region_put(region);
}

/**
 * exmap_snapshot_break - there is no frame or memory for what a chunk loses
 * @region: no interface of it is held
 * @nr: the chunk
 *
 * Breaks the snapshot that it would have been for, and the older ones, which
 * look through it.  Their frames return to the pool.
 */
void exmap_snapshot_break(struct exmap_region *region, u64 nr)
{
	struct exmap_snapshot *snap;

	down_write(&region->snapshots_lock);
	list_for_each_entry(snap, &region->snapshots, node) {
		if (!covers(snap, nr) || snap->broken)
			continue;
		WRITE_ONCE(snap->broken, true);
		/* the oldest first: it leaves nothing to a broken one */
		detach(snap);
		give_reserve(snap);
		trace_exmap_snapshot_broken(region->id, snap->id);
		exmap_netlink_snapshot_event(snap, EXMAP_GENL_CMD_SNAPSHOT_BROKEN);
	}
	up_write(&region->snapshots_lock);
}

/* How many frames are a snapshot's own. */
u64 exmap_snapshot_frames(struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;
	u64 nr, frames = 0;

	for (nr = snap->first; nr < snap->first + snap->nr_chunks; nr++) {
		struct exmap_chunk *chunk = region->chunks[nr];
		struct exmap_record *record;

		if (!chunk)
			continue;
		spin_lock(&chunk->lock);
		record = *record_of(snap, nr);
		frames += record ? record->nr_frames : 0;
		spin_unlock(&chunk->lock);
	}
	return frames;
}

/* Take a chunk out of all views, so that a page of it may change. */
void exmap_snapshot_unview(struct exmap_region *region, u64 nr)
{
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_snapshot *snap;

	trace_exmap_unview(region->id, nr);
	down_read(&region->snapshots_lock);
	mutex_lock(&chunk->view_lock);
	list_for_each_entry(snap, &region->snapshots, node) {
		if (covers(snap, nr))
			exmap_view_unmap(snap, nr);
	}
	spin_lock(&chunk->lock);
	chunk->viewed = false;
	spin_unlock(&chunk->lock);
	mutex_unlock(&chunk->view_lock);
	up_read(&region->snapshots_lock);
}

/* At most so many pages are shared at the freeze.  All interfaces are held. */
static u64 mapped_pages(const struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;
	s64 mapped = region->ctl->counts.mapped;
	u32 i;

	for (i = 0; i < region->nr_interfaces; i++)
		mapped += region->interfaces[i]->counts.mapped;
	return min_t(u64, mapped, snap->nr_pages);
}

/* The table of a chunk that the region does not fill has entries of others: it stays. */
static void freeze_cut_chunk(struct exmap_snapshot *snap, u64 nr, struct exmap_record **record)
{
	struct exmap_walk walk = { .region = snap->region };

	if (exmap_walk_to(&walk, nr * EXMAP_CHUNK_PAGES)) {
		prepare(&walk, record);
		exmap_walk_end(&walk);
	} else {
		*record_of(snap, nr) = &all_absent;
	}
}

/* All interfaces are held, and mmap_lock for writing. */
static void freeze_chunks(struct exmap_snapshot *snap, struct exmap_record **record)
{
	struct exmap_parking parking = { .region = snap->region };
	u64 nr, end = snap->first + snap->nr_chunks;
	bool cut = end * EXMAP_CHUNK_PAGES > snap->region->nr_pages;

	for (nr = snap->first; nr < end - cut; nr++) {
		if (!exmap_chunk_park(&parking, nr))
			*record_of(snap, nr) = &all_absent;
	}
	exmap_park_end(&parking);
	if (cut)
		freeze_cut_chunk(snap, nr, record);
}

static int freeze_locked(struct exmap_snapshot *snap, struct exmap_record **record)
{
	struct exmap_region *region = snap->region;
	int ret = 0;

	exmap_region_freeze(region);
	if (region->dead || !region->nr_pages) {
		ret = -EPROTO;
	} else if (snap->reserve_all && snap->nr_reserve < mapped_pages(snap)) {
		ret = -EAGAIN;
	} else {
		list_add_tail_rcu(&snap->node, &region->snapshots);
		atomic_inc(&exmap_snapshots_seq);
		freeze_chunks(snap, record);
		exmap_tlb_flush(region, &region->ctl->counts, EXMAP_FLUSH_SNAPSHOT);
	}
	exmap_region_thaw(region);
	return ret;
}

/*
 * The freeze proper.  mmap_lock keeps page faults and get_user_pages out, which
 * walk the tables that are being unplugged.
 */
static int freeze(struct exmap_snapshot *snap, struct exmap_record **record)
{
	struct exmap_region *region = snap->region;
	struct vm_area_struct *vma;
	int ret = -EPROTO;

	if (mmap_write_lock_killable(region->mm))
		return -EINTR;
	vma = vma_lookup(region->mm, region->start);
	if (vma && vma->vm_private_data == region) {
		vma_start_write(vma);
		u64 start = ktime_get_ns();

		down_write(&region->snapshots_lock);
		ret = freeze_locked(snap, record);
		up_write(&region->snapshots_lock);
		trace_exmap_freeze(region->id, snap->id, snap->start, snap->nr_pages,
				   ktime_get_ns() - start);
	}
	mmap_write_unlock(region->mm);
	return ret;
}

static int check_range(struct exmap_region *region, const struct exmap_snapshot_create *args)
{
	u64 nr_pages = READ_ONCE(region->nr_pages), end = args->start + args->count;

	if (args->flags || memchr_inv(args->reserved, 0, sizeof(args->reserved)))
		return -EINVAL;
	if (!(region->flags & EXMAP_SNAPSHOTS))
		return -EOPNOTSUPP;
	if (!nr_pages)
		return -EPROTO;
	if (!args->count || end < args->start || end > nr_pages)
		return -EFAULT;
	if (args->start % EXMAP_CHUNK_PAGES || (end % EXMAP_CHUNK_PAGES && end != nr_pages))
		return -EINVAL;
	return 0;
}

/* Set frames aside until the snapshot has @nr of them. */
static int reserve(struct exmap_snapshot *snap, u64 nr)
{
	struct exmap_region *region = snap->region;
	u32 *frames;
	int ret;

	if (nr <= snap->nr_reserve)
		return 0;
	if (nr > READ_ONCE(region->pool.total))
		return -ENOMEM;
	frames = kvmalloc_array(nr, sizeof(*frames), EXMAP_GFP);
	if (!frames)
		return -ENOMEM;
	ret = exmap_region_take_frames(region, frames + snap->nr_reserve, nr - snap->nr_reserve);
	if (ret) {
		kvfree(frames);
		return ret;
	}
	if (snap->nr_reserve)
		memcpy(frames, snap->reserve, snap->nr_reserve * sizeof(*frames));
	kvfree(snap->reserve);
	snap->reserve = frames;
	snap->nr_reserve = nr;
	return 0;
}

/**
 * exmap_snapshot_alloc - a snapshot that holds nothing yet
 * @region: of the calling process
 * @args: from user space
 *
 * Returns it, or an ERR_PTR.
 */
struct exmap_snapshot *exmap_snapshot_alloc(struct exmap_region *region,
					    const struct exmap_snapshot_create *args)
{
	static atomic_t last_id;
	struct exmap_snapshot *snap;
	int ret = check_range(region, args);

	if (ret)
		return ERR_PTR(ret);
	snap = kzalloc(sizeof(*snap), EXMAP_GFP);
	if (!snap)
		return ERR_PTR(-ENOMEM);
	snap->id = atomic_inc_return(&last_id);
	snap->start = args->start;
	snap->nr_pages = args->count;
	snap->first = args->start / EXMAP_CHUNK_PAGES;
	snap->nr_chunks = DIV_ROUND_UP(args->count, EXMAP_CHUNK_PAGES);
	INIT_LIST_HEAD(&snap->node);
	snap->records = kvcalloc(snap->nr_chunks, sizeof(*snap->records), EXMAP_GFP);
	if (!snap->records) {
		kfree(snap);
		return ERR_PTR(-ENOMEM);
	}
	kref_get(&region->ref);
	snap->region = region;
	return snap;
}

static u64 frames_to_reserve(struct exmap_snapshot *snap, u64 wanted)
{
	struct exmap_region *region = snap->region;
	u64 mapped;

	if (!snap->reserve_all)
		return wanted;
	exmap_region_freeze(region);
	mapped = mapped_pages(snap);
	exmap_region_thaw(region);
	return mapped;
}

/**
 * exmap_snapshot_freeze - give a new snapshot its content
 * @snap: from exmap_snapshot_alloc
 * @frames: to set aside, or EXMAP_RESERVE_ALL
 *
 * 0 or an error.
 */
int exmap_snapshot_freeze(struct exmap_snapshot *snap, u64 frames)
{
	struct exmap_record *record = exmap_snapshot_alloc_record(EXMAP_GFP);
	int ret;

	if (!record)
		return -ENOMEM;
	snap->reserve_all = frames == EXMAP_RESERVE_ALL;
	do {
		/* pages may be mapped between the two */
		ret = reserve(snap, frames_to_reserve(snap, frames));
		if (!ret)
			ret = freeze(snap, &record);
	} while (ret == -EAGAIN);
	kfree(record);
	if (!ret)
		exmap_netlink_snapshot_event(snap, EXMAP_GENL_CMD_SNAPSHOT_CREATED);
	return ret;
}
