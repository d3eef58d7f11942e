// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - what an NVMe controller can reach: an IOMMU domain of its own, in which
 * the frames of a pool lie one after the other, frame n at n * 4096.
 *
 * Frames are mapped one by one, never as a larger page, since RESIZE takes single
 * ones away again.  Without an IOMMU, which only unsafe_noiommu=1 permits, the
 * controller reaches all memory by its physical addresses.
 */
#include <linux/cc_platform.h>
#include <linux/module.h>
#include <linux/panic.h>
#include <linux/slab.h>

#include "nvme.h"

static bool unsafe_noiommu;
module_param(unsafe_noiommu, bool, 0444);
MODULE_PARM_DESC(unsafe_noiommu,
		 "own NVMe controllers without an IOMMU: owners can read and write all memory");

static bool unsafe_interrupts;
module_param(unsafe_interrupts, bool, 0444);
MODULE_PARM_DESC(unsafe_interrupts,
		 "own NVMe controllers whose interrupts are not remapped: owners can raise any interrupt");

static const int frame_prot = IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE;

static u64 frame_iova(const struct exmap_nvme_pool *pool, u32 frame)
{
	return pool->base + ((u64)frame << PAGE_SHIFT);
}

/* Do it without an IOMMU, if that has been asked for. */
static int attach_unsafe(struct exmap_nvme_controller *ctrl)
{
	if (!unsafe_noiommu || cc_platform_has(CC_ATTR_MEM_ENCRYPT)) {
		pci_err(ctrl->pdev,
			"exmap: no IOMMU protects memory from this controller; refused\n");
		return -EOPNOTSUPP;
	}
	pci_warn(ctrl->pdev,
		 "exmap: no IOMMU: whoever owns a queue can read and write all memory\n");
	add_taint(TAINT_USER, LOCKDEP_STILL_OK);
	return 0;
}

/*
 * A write to the address of the interrupt controllers is an interrupt, whatever the domain
 * maps.  Where no table says which of them a device may raise, the data that it writes,
 * which the owner chooses, does: any vector, NMI and INIT included.
 */
bool exmap_nvme_dma_is_safe(struct exmap_nvme_controller *ctrl)
{
	return !ctrl->domain || unsafe_interrupts || exmap_msi_is_isolated(&ctrl->pdev->dev);
}

/* The end of what can be mapped: of the aperture, or the first hole after our start. */
static u64 find_limit(struct exmap_nvme_controller *ctrl)
{
	struct iommu_group *group = iommu_group_get(&ctrl->pdev->dev);
	u64 limit = ctrl->domain->geometry.aperture_end;
	struct iommu_resv_region *region, *next;
	LIST_HEAD(regions);

	if (!group)
		return 0;
	if (iommu_get_group_resv_regions(group, &regions))
		limit = 0;
	list_for_each_entry_safe(region, next, &regions, list) {
		if (region->start + region->length > EXMAP_NVME_WINDOWS)
			limit = min_t(u64, limit, region->start);
		kfree(region);
	}
	iommu_group_put(group);
	return limit;
}

/* Put the controller into a domain of its own.  It must be alone in its group. */
int exmap_nvme_dma_attach(struct exmap_nvme_controller *ctrl)
{
	struct device *dev = &ctrl->pdev->dev;
	struct iommu_domain *domain;
	int ret;

	if (!device_iommu_mapped(dev))
		return attach_unsafe(ctrl);
	domain = iommu_paging_domain_alloc(dev);
	if (IS_ERR(domain))
		return PTR_ERR(domain);
	ret = iommu_attach_device(domain, dev);
	if (ret) {
		pci_err(ctrl->pdev, "exmap: no IOMMU domain of its own: %d\n", ret);
		goto err_domain;
	}
	ctrl->domain = domain;
	ctrl->limit = find_limit(ctrl);
	ret = -ENOSPC;
	if (ctrl->limit <= EXMAP_NVME_POOL)
		goto err_attach;
	return 0;

err_attach:
	ctrl->domain = NULL;
	iommu_detach_device(domain, dev);
err_domain:
	iommu_domain_free(domain);
	return ret;
}

void exmap_nvme_dma_detach(struct exmap_nvme_controller *ctrl)
{
	if (!ctrl->domain)
		return;
	iommu_detach_device(ctrl->domain, &ctrl->pdev->dev);
	iommu_domain_free(ctrl->domain);
	ctrl->domain = NULL;
}

/**
 * exmap_nvme_block_create - zeroed, contiguous memory for the controller
 * @ctrl: whose
 * @block: becomes it
 * @nr: pages
 * @iova: where the controller is to see it, with an IOMMU
 * @prot: what it may do with it
 */
int exmap_nvme_block_create(struct exmap_nvme_controller *ctrl, struct exmap_nvme_block *block,
			    unsigned int nr, u64 iova, int prot)
{
	const gfp_t gfp = EXMAP_GFP | __GFP_ZERO;
	unsigned int i, order = get_order((unsigned long)nr << PAGE_SHIFT);
	int ret;

	block->pages = alloc_pages(gfp, order);
	if (!block->pages)
		return -ENOMEM;
	/* user space maps them one by one */
	split_page(block->pages, order);
	for (i = nr; i < 1u << order; i++)
		__free_page(block->pages + i);
	block->nr = nr;
	block->addr = page_to_phys(block->pages);
	if (!ctrl->domain)
		return 0;
	ret = exmap_iommu_map(ctrl->domain, iova, block->addr, (size_t)nr << PAGE_SHIFT,
			      prot | IOMMU_CACHE);
	if (ret)
		exmap_nvme_block_free(block);
	else
		block->addr = iova;
	return ret;
}

/* Out of the controller's reach; the pages stay. */
void exmap_nvme_block_unmap(struct exmap_nvme_controller *ctrl, struct exmap_nvme_block *block)
{
	if (ctrl->domain && block->nr)
		iommu_unmap(ctrl->domain, block->addr, (size_t)block->nr << PAGE_SHIFT);
}

void exmap_nvme_block_free(struct exmap_nvme_block *block)
{
	unsigned int i;

	for (i = 0; i < block->nr; i++)
		put_page(block->pages + i);
	block->nr = 0;
}

static int map_frame(struct exmap_nvme_controller *ctrl, const struct exmap_nvme_pool *pool,
		     u32 frame, struct page *page)
{
	return exmap_iommu_map(ctrl->domain, frame_iova(pool, frame), page_to_phys(page), PAGE_SIZE,
			       frame_prot);
}

/* Unmap what is mapped of a pool, which may have holes, below frame @end. */
static void unmap_frames(struct exmap_nvme_controller *ctrl, const struct exmap_nvme_pool *pool,
			 u32 end)
{
	u64 iova = pool->base, last = frame_iova(pool, end);

	while (iova < last) {
		size_t done = iommu_unmap(ctrl->domain, iova, last - iova);

		iova += done ?: PAGE_SIZE;
		cond_resched();
	}
}

static int map_frames(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool,
		      const struct exmap_pool *frames)
{
	u32 frame;
	int ret;

	if (!ctrl->domain)
		return 0;
	if (frame_iova(pool, frames->capacity) > pool->limit)
		return -ENOSPC;
	for (frame = 0; frame < frames->capacity; frame++) {
		if (!frames->pages[frame])
			continue;
		ret = fatal_signal_pending(current) ?
			      -EINTR :
			      map_frame(ctrl, pool, frame, frames->pages[frame]);
		if (ret) {
			unmap_frames(ctrl, pool, frame);
			return ret;
		}
		cond_resched();
	}
	pool->nr_frames = frames->capacity;
	return 0;
}

/* The pool of a region, or, for NULL, a place for one; NULL if there is none. */
struct exmap_nvme_pool *exmap_nvme_pool_find(struct exmap_nvme_controller *ctrl,
					     const struct exmap_region *region)
{
	unsigned int i;

	for (i = 0; i < EXMAP_NVME_POOLS; i++) {
		if (READ_ONCE(ctrl->pools[i].region) == region)
			return &ctrl->pools[i];
	}
	return NULL;
}

/**
 * exmap_nvme_pool_attach - make the frames of a pool reachable
 * @ctrl: locked
 * @region: whose; its setup lock is held
 * @frames: the pool, which SETUP has not published yet
 * @owner: it is the only one, and may have all addresses
 *
 * Returns an ERR_PTR: ENOSPC if there is no place left, or none so large.
 */
struct exmap_nvme_pool *exmap_nvme_pool_attach(struct exmap_nvme_controller *ctrl,
					       struct exmap_region *region,
					       const struct exmap_pool *frames, bool owner)
{
	struct exmap_nvme_pool *pool = exmap_nvme_pool_find(ctrl, NULL);
	u64 share = ctrl->limit - EXMAP_NVME_POOL;
	int ret;

	lockdep_assert_held(&region->setup);
	lockdep_assert_held(&ctrl->lock);
	if (!pool)
		return ERR_PTR(-ENOSPC);
	if (!owner)
		share = round_down(share / EXMAP_NVME_POOLS, PAGE_SIZE);
	pool->base = EXMAP_NVME_POOL + (pool - ctrl->pools) * share;
	pool->limit = pool->base + share;
	ret = map_frames(ctrl, pool, frames);
	if (ret)
		return ERR_PTR(ret);
	WRITE_ONCE(pool->region, region);
	return pool;
}

/* Out of reach; nobody submits commands for it any more. */
void exmap_nvme_pool_detach(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool)
{
	lockdep_assert_held(&ctrl->lock);
	WRITE_ONCE(pool->region, NULL);
	exmap_nvme_channels_sync(ctrl);
	if (ctrl->domain)
		unmap_frames(ctrl, pool, pool->nr_frames);
	pool->nr_frames = 0;
}

struct growth {
	struct exmap_pool *frames;
	u32 capacity;
	struct list_head *pages;
};

/* The frames that are holes in the pool are to be so in the domain. */
static int unmap_holes(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool, void *arg)
{
	const struct exmap_pool *frames = arg;
	u32 frame;

	for (frame = 0; ctrl->domain && frame < pool->nr_frames; frame++) {
		if (frame < frames->capacity && frames->pages[frame])
			continue;
		if (iommu_iova_to_phys(ctrl->domain, frame_iova(pool, frame)))
			iommu_unmap(ctrl->domain, frame_iova(pool, frame), PAGE_SIZE);
		cond_resched();
	}
	return 0;
}

/* Goes through holes and pages in the order of fill_holes (pool.c). */
static int map_growth(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool, void *arg)
{
	struct growth *growth = arg;
	struct exmap_pool *frames = growth->frames;
	u32 frame = growth->capacity;
	struct page *page;
	int ret = 0;

	if (!ctrl->domain)
		return 0;
	if (frame_iova(pool, growth->capacity) > pool->limit)
		return -ENOSPC;
	pool->nr_frames = max(pool->nr_frames, growth->capacity);
	list_for_each_entry(page, growth->pages, lru) {
		do
			frame--;
		while (frame < frames->capacity && frames->pages[frame]);
		ret = map_frame(ctrl, pool, frame, page);
		if (ret)
			break;
		cond_resched();
	}
	return ret;
}

/**
 * exmap_nvme_pool_grow - map pages that are about to become frames of a pool
 * @region: its setup lock is held
 * @capacity: of the pool's tables, after that
 * @pages: in the order in which they will fill holes
 *
 * Before they are frames, since commands may name a frame once it is mapped to a page.
 */
int exmap_nvme_pool_grow(struct exmap_region *region, u32 capacity, struct list_head *pages)
{
	struct growth growth = { .frames = &region->pool, .capacity = capacity, .pages = pages };
	int ret;

	lockdep_assert_held(&region->setup);
	ret = exmap_nvme_visit_pools(region, map_growth, &growth);
	if (ret)
		exmap_nvme_pool_shrink(region);
	return ret;
}

/* Pages have left the pool, and go to the kernel next: out of reach with them. */
void exmap_nvme_pool_shrink(struct exmap_region *region)
{
	lockdep_assert_held(&region->setup);
	exmap_nvme_visit_pools(region, unmap_holes, &region->pool);
}

static int check_shrinkable(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool,
			    void *arg)
{
	return ctrl->domain || pool != ctrl->owner ? 0 : -EBUSY;
}

/* Without an IOMMU only the end of the queues keeps controllers off a frame: -EBUSY. */
int exmap_nvme_pool_may_shrink(struct exmap_region *region)
{
	lockdep_assert_held(&region->setup);
	return exmap_nvme_visit_pools(region, check_shrinkable, NULL);
}
