// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - regions: set-up, their pool as it changes, and how they end.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "exmap.h"
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
	/* a region may die before SETUP gives it a pool */
	spin_lock_init(&region->pool.lock);
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
	region->notifier.ops = &exmap_notifier_ops;
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

/* Make everything visible at once, or -EBUSY if the mapping came too early for its flags. */
static int publish(struct exmap_region *region, const struct exmap_ioctl_setup *setup,
		   struct exmap_pool *pool, struct exmap_interface **interfaces)
{
	int ret = 0;

	mutex_lock(&region->world);
	if ((setup->flags & EXMAP_MAPPING_FLAGS) && region->nr_pages) {
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
