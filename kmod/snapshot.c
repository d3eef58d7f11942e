// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - snapshots: how they begin, break and end.
 *
 * FREEZE  With all interfaces held, each chunk of the range is *parked*: its
 * page table is unplugged from the tree and kept (ptable.c).  One flush ends
 * the freeze.  Whoever touches a parked chunk first write-protects the 512
 * entries and plugs the table in again (attach).
 *
 * WHY A VIEW NEVER SHOWS NEW CONTENT  A view maps a live frame only while
 * chunk->view_lock is held, and sets chunk->viewed first, under chunk->lock and
 * after it has found the page SAME.  A copy-out that finds chunk->viewed set
 * unmaps the chunk from all views, under view_lock, and flushes their TLBs,
 * before it makes the live entry writable.  So at the time of the first write
 * no view has an entry of the frame, in any TLB.  A copy-out of a chunk that no
 * view has read flushes nothing: stale live entries are read-only and name the
 * right frame, and cost their CPU a fault at most.
 *
 * READERS COPY  If the snapshot asks for it, a view copies what it is about to
 * map (exmap_op_copy_read), in a chunk that no view shares.  Afterwards it maps
 * copies, and does not set chunk->viewed.
 */
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "exmap.h"
#include "ptable.h"
#include "trace.h"
#include "uapi/exmap_netlink.h"

atomic_t exmap_snapshots_seq = ATOMIC_INIT(0); /* changes of the lists, for netlink */

/* Give the frames of a record, which no page table and no TLB has, back to the pool. */
static void free_record(struct exmap_region *region, struct exmap_record *record)
{
	u32 nr = record->nr_frames;

	mutex_lock(&region->ctl->lock);
	region->ctl->counts.snapshot -= nr;
	exmap_pool_absorb(&region->pool, record);
	mutex_unlock(&region->ctl->lock);
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
		record = exmap_snapshot_detach_chunk(snap, nr);
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
	if (frozen) {
		trace_exmap_snapshot_gone(snap);
		exmap_netlink_snapshot_event(snap, EXMAP_GENL_CMD_SNAPSHOT_GONE);
	}
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
		if (!exmap_snapshot_covers(snap, nr) || snap->broken)
			continue;
		WRITE_ONCE(snap->broken, true);
		/* the oldest first: it leaves nothing to a broken one */
		detach(snap);
		give_reserve(snap);
		trace_exmap_snapshot_broken(snap);
		exmap_netlink_snapshot_event(snap, EXMAP_GENL_CMD_SNAPSHOT_BROKEN);
	}
	up_write(&region->snapshots_lock);
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
		if (exmap_snapshot_covers(snap, nr))
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
		exmap_snapshot_prepare(&walk, record);
		exmap_walk_end(&walk);
	} else {
		exmap_snapshot_set_absent(snap, nr);
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
			exmap_snapshot_set_absent(snap, nr);
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

	if ((args->flags & ~EXMAP_READERS_COPY) ||
	    memchr_inv(args->reserved, 0, sizeof(args->reserved)))
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
	snap->readers_copy = args->flags & EXMAP_READERS_COPY;
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
