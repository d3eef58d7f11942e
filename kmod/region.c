// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - regions: set-up, mapping, and how they end.
 */
#include <linux/file.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "exmap.h"
#include "ptable.h"
#include "uapi/exmap_netlink.h"

/* All interfaces: nobody maps or unmaps a page until thaw. */
void exmap_region_freeze(struct exmap_region *region)
{
	u32 i;

	mutex_lock(&region->world);
	mutex_lock_nest_lock(&region->ctl->lock, &region->world);
	for (i = 0; i < region->nr_interfaces; i++)
		mutex_lock_nest_lock(&region->interfaces[i]->lock, &region->world);
}

void exmap_region_thaw(struct exmap_region *region)
{
	u32 i = region->nr_interfaces;

	while (i--)
		mutex_unlock(&region->interfaces[i]->lock);
	mutex_unlock(&region->ctl->lock);
	mutex_unlock(&region->world);
}

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
	region->ctl->counts.frees++;
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
		counts->frees++;
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

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start	= notifier_start,
	.invalidate_range_end	= notifier_end,
	.release		= notifier_release,
};

/* Ids rise along the list: a dump goes on after the last one that it has shown. */
static void add_to_list(struct exmap_region *region)
{
	static u32 last_id;

	mutex_lock(&exmap_regions_lock);
	region->id = ++last_id;
	list_add_tail(&region->node, &exmap_regions);
	exmap_regions_seq++;
	mutex_unlock(&exmap_regions_lock);
}

/**
 * exmap_region_create - a region without pool and mapping, for this process
 * @device: the inode through which it is opened
 *
 * Returns a reference, or an ERR_PTR.
 */
struct exmap_region *exmap_region_create(const struct inode *device)
{
	struct exmap_region *region = kzalloc(sizeof(*region), EXMAP_GFP);
	int ret = -ENOMEM;

	if (!region)
		return ERR_PTR(-ENOMEM);
	kref_init(&region->ref);
	mutex_init(&region->setup);
	mutex_init(&region->world);
	spin_lock_init(&region->gate);
	init_waitqueue_head(&region->wait);
	INIT_LIST_HEAD(&region->snapshots);
	init_rwsem(&region->snapshots_lock);
	exmap_tlb_init(&region->tlb);
	region->flush_threshold = exmap_default_threshold;
	region->pid = task_tgid_nr(current);
	get_task_comm(region->comm, current->group_leader);
	region->device_uid = device->i_uid;
	region->device_gid = device->i_gid;
	region->device_mode = device->i_mode;
	exmap_netlink_region_init(region);
	region->ctl = exmap_interface_create();
	if (!region->ctl)
		goto err_region;

	region->mm = current->mm;
	region->notifier.ops = &notifier_ops;
	ret = mmu_notifier_register(&region->notifier, region->mm);
	if (ret)
		goto err_ctl;
	mmgrab(region->mm);

	add_to_list(region);
	return region;

err_ctl:
	exmap_interface_destroy(region->ctl);
err_region:
	kfree(region);
	return ERR_PTR(ret);
}

static void destroy_interfaces(struct exmap_interface **interfaces, u32 nr)
{
	u32 i;

	for (i = 0; interfaces && i < nr; i++)
		exmap_interface_destroy(interfaces[i]);
	kvfree(interfaces);
}

static void free_chunks(struct exmap_region *region)
{
	u64 i;

	for (i = 0; region->chunks && i < exmap_region_chunks(region); i++) {
		struct exmap_chunk *chunk = region->chunks[i];

		if (chunk && chunk->exported)
			put_page(chunk->exported);
		kfree(chunk);
	}
	for (i = 0; region->residency && i < DIV_ROUND_UP(region->nr_pages, EXMAP_RESIDENCY_WORDS);
	     i++) {
		if (region->residency[i])
			put_page(region->residency[i]);
	}
	kvfree(region->chunks);
	kvfree(region->residency);
}

static void uncharge(struct exmap_region *region)
{
	if (!region->charged || !mmget_not_zero(region->mm))
		return;
	account_locked_vm(region->mm, region->charged, false);
	mmput(region->mm);
}

static void region_release(struct kref *ref)
{
	struct exmap_region *region = container_of(ref, struct exmap_region, ref);

	mutex_lock(&exmap_regions_lock);
	list_del(&region->node);
	exmap_regions_seq++;
	mutex_unlock(&exmap_regions_lock);

	uncharge(region);
	/* runs notifier_release if the address space is still there */
	mmu_notifier_unregister(&region->notifier, region->mm);
	exmap_netlink_region_exit(region);
	exmap_pool_destroy(&region->pool);
	destroy_interfaces(region->interfaces, region->nr_interfaces);
	exmap_interface_destroy(region->ctl);
	free_chunks(region);
	if (region->backing)
		fput(region->backing);
	mmdrop(region->mm);
	kfree(region);
}

void exmap_region_put(struct exmap_region *region)
{
	kref_put(&region->ref, region_release);
}

static int create_interfaces(struct exmap_interface ***interfaces, u32 nr)
{
	u32 i;

	*interfaces = kvcalloc(nr, sizeof(**interfaces), EXMAP_GFP);
	if (!*interfaces)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		(*interfaces)[i] = exmap_interface_create();
		if (!(*interfaces)[i]) {
			destroy_interfaces(*interfaces, nr);
			return -ENOMEM;
		}
	}
	return 0;
}

static int check_setup(const struct exmap_ioctl_setup *setup)
{
	if (setup->flags & ~(u64)(EXMAP_FAULT_ALLOC | EXMAP_FAULT_ZERO | EXMAP_SNAPSHOTS))
		return -EINVAL;
	if ((setup->flags & EXMAP_FAULT_ALLOC) && (setup->flags & EXMAP_FAULT_ZERO))
		return -EINVAL;
	if (setup->max_interfaces < 1 || setup->max_interfaces > EXMAP_MAX_INTERFACES)
		return -EINVAL;
	if (!setup->buffer_size || setup->buffer_size > EXMAP_POOL_MAX_PAGES)
		return -EINVAL;
	return 0;
}

/* Flags for which the mapping needs operations of its own. */
#define MAPPING_FLAGS	(EXMAP_FAULT_ZERO | EXMAP_SNAPSHOTS)

/* Make everything visible at once, or -EBUSY if the mapping came too early for its flags. */
static int publish(struct exmap_region *region, const struct exmap_ioctl_setup *setup,
		   struct exmap_pool *pool, struct exmap_interface **interfaces)
{
	int ret = 0;

	mutex_lock(&region->world);
	if ((setup->flags & MAPPING_FLAGS) && region->nr_pages) {
		ret = -EBUSY;
	} else {
		region->flags = setup->flags;
		region->pool = *pool;
		spin_lock_init(&region->pool.lock);
		region->nr_interfaces = setup->max_interfaces;
		exmap_quarantine_set_limit(region);
		/* pairs with smp_load_acquire in check_call */
		smp_store_release(&region->interfaces, interfaces);
	}
	mutex_unlock(&region->world);
	return ret;
}

static int setup_locked(struct exmap_region *region, const struct exmap_ioctl_setup *setup)
{
	struct exmap_interface **interfaces;
	struct exmap_pool pool = { };
	struct file *backing = NULL;
	int ret;

	if (region->interfaces)
		return -EBUSY;
	ret = exmap_backing_open(setup->fd, &backing);
	if (ret)
		return ret;
	ret = account_locked_vm(region->mm, setup->buffer_size, true);
	if (ret)
		goto err_backing;
	ret = exmap_pool_create(&pool, setup->buffer_size);
	if (ret)
		goto err_charge;
	ret = create_interfaces(&interfaces, setup->max_interfaces);
	if (ret)
		goto err_pool;

	ret = exmap_nvme_backing_attach(region, &pool, backing);
	if (ret)
		goto err_interfaces;
	region->backing = backing;
	region->charged = setup->buffer_size;
	ret = publish(region, setup, &pool, interfaces);
	if (ret)
		goto err_publish;
	return 0;

err_publish:
	region->backing = NULL;
	region->charged = 0;
	exmap_nvme_region_release(region);
err_interfaces:
	destroy_interfaces(interfaces, setup->max_interfaces);
err_pool:
	exmap_pool_destroy(&pool);
err_charge:
	account_locked_vm(region->mm, setup->buffer_size, false);
err_backing:
	if (backing)
		fput(backing);
	return ret;
}

int exmap_region_setup(struct exmap_region *region, const struct exmap_ioctl_setup *setup)
{
	int ret = check_setup(setup);

	if (ret)
		return ret;
	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	ret = setup_locked(region, setup);
	mutex_unlock(&region->setup);
	if (!ret)
		exmap_netlink_region_event(region, EXMAP_GENL_CMD_REGION_CREATED);
	return ret;
}

static int grow(struct exmap_region *region, u64 nr)
{
	int ret = account_locked_vm(region->mm, nr, true);

	if (ret)
		return ret;
	ret = exmap_pool_grow(region, nr);
	if (ret)
		account_locked_vm(region->mm, nr, false);
	else
		region->charged += nr;
	return ret;
}

static int shrink(struct exmap_region *region, u64 nr)
{
	int ret = exmap_pool_shrink(region, nr);

	if (ret)
		return ret;
	account_locked_vm(region->mm, nr, false);
	region->charged -= nr;
	return 0;
}

/* Change the pool to @nr_pages frames. */
int exmap_region_resize(struct exmap_region *region, u64 nr_pages)
{
	int ret = 0;

	if (!nr_pages || nr_pages > EXMAP_POOL_MAX_PAGES)
		return -EINVAL;
	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	if (!region->interfaces)
		ret = -EBADF;
	else if (region->dead)
		ret = -EPROTO;
	else if (nr_pages > region->pool.total)
		ret = grow(region, nr_pages - region->pool.total);
	else if (nr_pages < region->pool.total)
		ret = shrink(region, region->pool.total - nr_pages);
	if (!ret)
		exmap_quarantine_set_limit(region);
	mutex_unlock(&region->setup);
	return ret;
}

/* Change the flush threshold; may come before SETUP. */
void exmap_region_tune(struct exmap_region *region, u32 flush_threshold)
{
	mutex_lock(&region->setup);
	WRITE_ONCE(region->flush_threshold, flush_threshold);
	if (region->interfaces)
		exmap_quarantine_set_limit(region);
	mutex_unlock(&region->setup);
}

/* Flush, and move what every interface has in quarantine to its cache. */
static void flush_and_drain(struct exmap_region *region, enum exmap_flush_reason reason)
{
	u32 i;

	exmap_tlb_flush(region, &region->ctl->counts, reason);
	for (i = 0; i < region->nr_interfaces; i++)
		exmap_quarantine_drain(region, region->interfaces[i]);
	exmap_pool_unpin(&region->pool);
}

static bool anything_to_reclaim(struct exmap_region *region, bool *in_quarantine)
{
	bool found = region->pool.nr_free || region->pool.nr_pinned || region->pool.nr_spare;
	u32 i;

	*in_quarantine = false;
	for (i = 0; i < region->nr_interfaces; i++) {
		found |= region->interfaces[i]->nr_cache;
		*in_quarantine |= exmap_quarantine_length(region->interfaces[i]);
	}
	return found || *in_quarantine;
}

static void reclaim_held(struct exmap_region *region)
{
	bool in_quarantine;
	u32 i;

	if (region->dead || !anything_to_reclaim(region, &in_quarantine))
		return;
	if (in_quarantine)
		flush_and_drain(region, EXMAP_FLUSH_RECLAIM);
	exmap_pool_unpin(&region->pool);
	for (i = 0; i < region->nr_interfaces; i++) {
		struct exmap_interface *itf = region->interfaces[i];

		exmap_pool_spill(&region->pool, itf, itf->nr_cache);
	}
}

/*
 * Bring every free and freed frame into the pool.  The caller holds no
 * interface.  -ENOMEM if none was found.
 */
int exmap_region_reclaim(struct exmap_region *region)
{
	int ret = -ENOMEM;

	exmap_region_freeze(region);
	reclaim_held(region);
	if (!region->dead && (region->pool.nr_free || region->pool.nr_spare))
		ret = 0;
	exmap_region_thaw(region);
	return ret;
}

/* Take @nr frames out of the pool for a snapshot, or none: -ENOMEM. */
int exmap_region_take_frames(struct exmap_region *region, u32 *frames, u32 nr)
{
	int ret = -EPROTO;

	exmap_region_freeze(region);
	if (!region->dead) {
		reclaim_held(region);
		ret = exmap_pool_take(&region->pool, frames, nr);
	}
	if (!ret)
		region->ctl->counts.snapshot += nr;
	exmap_region_thaw(region);
	return ret;
}

int exmap_region_barrier(struct exmap_region *region)
{
	int ret = -EPROTO;

	exmap_region_freeze(region);
	if (region->nr_pages && !region->dead) {
		flush_and_drain(region, EXMAP_FLUSH_BARRIER);
		ret = 0;
	}
	exmap_region_thaw(region);
	return ret;
}

static void add_counts(struct exmap_counters *counters, const struct exmap_interface *itf)
{
	const struct exmap_counts *c = &itf->counts;

	counters->free += itf->nr_cache;
	counters->mapped += c->mapped;
	counters->quarantine += c->quarantine;
	counters->busy += c->busy;
	counters->snapshot += c->snapshot;
	counters->allocs += c->allocs;
	counters->frees += c->frees;
	counters->reads += c->reads;
	counters->writes += c->writes;
	counters->faults += c->faults;
	counters->rescues += c->rescues;
	counters->flushes += c->flushes;
	counters->flushes_ranged += c->flushes_ranged;
	counters->flush_ipis += c->flush_ipis;
	counters->copies += c->copies;
}

void exmap_region_counters(struct exmap_region *region, struct exmap_counters *counters)
{
	u32 i;

	memset(counters, 0, sizeof(*counters));
	exmap_region_freeze(region);
	exmap_pool_unpin(&region->pool);
	add_counts(counters, region->ctl);
	for (i = 0; i < region->nr_interfaces; i++)
		add_counts(counters, region->interfaces[i]);
	counters->total = region->pool.total;
	counters->free += region->pool.nr_free + region->pool.nr_spare;
	counters->pinned = region->pool.nr_pinned;
	counters->quarantine += region->pool.nr_pinned;
	exmap_region_thaw(region);
}

static vm_fault_t region_fault(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;
	u64 page = (vmf->address - vmf->vma->vm_start) >> PAGE_SHIFT;

	/* a copy of the mapping in a child of fork */
	if (vmf->vma->vm_mm != region->mm)
		return VM_FAULT_SIGSEGV;
	return exmap_interface_fault(region, page, vmf->flags & FAULT_FLAG_WRITE);
}

/* A write to the zero page that EXMAP_FAULT_ZERO has mapped. */
static vm_fault_t region_pfn_mkwrite(struct vm_fault *vmf)
{
	return VM_FAULT_SIGSEGV;
}

/* A write to a frame's page: its entry is read-only because of a snapshot. */
static vm_fault_t region_page_mkwrite(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;

	if (vmf->vma->vm_mm != region->mm)
		return VM_FAULT_SIGSEGV;
	return exmap_interface_mkwrite(region, (vmf->address - vmf->vma->vm_start) >> PAGE_SHIFT);
}

static int region_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static int region_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static int region_mprotect(struct vm_area_struct *vma, unsigned long start, unsigned long end,
			   unsigned long newflags)
{
	return -EACCES;
}

#ifdef CONFIG_NUMA
/* Having a policy, if only this one, keeps NUMA balancing away. */
static struct mempolicy *region_get_policy(EXMAP_GET_POLICY_ARGS)
{
	return NULL;
}

#define REGION_GET_POLICY .get_policy = region_get_policy,
#else
#define REGION_GET_POLICY
#endif

/*
 * Nothing is mapped around a page.  Since Linux 6.6 the core calls fault and
 * mkwrite under the lock of the vma alone if there is a map_pages, and without
 * it goes back for mmap_lock each time.
 */
static vm_fault_t region_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end)
{
	return 0;
}

static const struct vm_operations_struct region_vm_ops = {
	.fault		= region_fault,
	.map_pages	= region_map_pages,
	.may_split	= region_may_split,
	.mremap		= region_mremap,
	.mprotect	= region_mprotect,
	REGION_GET_POLICY
};

/* mkwrite forbids long-term pins for writing, so only those regions have it that need it */
static const struct vm_operations_struct region_mkwrite_vm_ops = {
	.fault		= region_fault,
	.map_pages	= region_map_pages,
	.page_mkwrite	= region_page_mkwrite,
	.pfn_mkwrite	= region_pfn_mkwrite,
	.may_split	= region_may_split,
	.mremap		= region_mremap,
	.mprotect	= region_mprotect,
	REGION_GET_POLICY
};

static int check_mapping(struct exmap_region *region, struct vm_area_struct *vma)
{
	if (vma->vm_mm != region->mm)
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	if (!IS_ALIGNED(vma->vm_start, PMD_SIZE) || vma_pages(vma) > EXMAP_REGION_MAX_PAGES)
		return -EINVAL;
	return 0;
}

static void set_mapping(struct exmap_region *region, struct vm_area_struct *vma)
{
	vma->vm_private_data = region;
	vma->vm_ops = region->flags & MAPPING_FLAGS ? &region_mkwrite_vm_ops : &region_vm_ops;

	WRITE_ONCE(region->start, vma->vm_start);
	/* vma->vm_page_prot may lack the write bit, for page_mkwrite */
	region->prot = vm_get_page_prot(vma->vm_flags);
	region->pte_bits = pte_val(pte_mkyoung(pfn_pte(0, region->prot)));
	/* pairs with the lock in exmap_interface_enter */
	smp_store_release(&region->nr_pages, vma_pages(vma));
}

int exmap_region_mmap(struct exmap_region *region, struct vm_area_struct *vma)
{
	u64 nr_pages = vma_pages(vma);
	struct exmap_chunk **chunks;
	struct page **residency;
	int ret = check_mapping(region, vma);

	if (ret)
		return ret;
	ret = -ENOMEM;
	chunks = kvcalloc(DIV_ROUND_UP(nr_pages, EXMAP_CHUNK_PAGES), sizeof(*chunks),
			  EXMAP_GFP);
	residency = kvcalloc(DIV_ROUND_UP(nr_pages, EXMAP_RESIDENCY_WORDS), sizeof(*residency),
			     EXMAP_GFP);
	if (!chunks || !residency)
		goto out;

	/* takes the vma's lock, under which faults take the interfaces' */
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP | VM_NOHUGEPAGE, VM_MAYEXEC);
	exmap_region_freeze(region);
	ret = -EBUSY;
	if (!region->nr_pages && !region->dead) {
		swap(region->chunks, chunks);
		swap(region->residency, residency);
		set_mapping(region, vma);
		ret = 0;
	}
	exmap_region_thaw(region);
out:
	kvfree(chunks);
	kvfree(residency);
	return ret;
}
