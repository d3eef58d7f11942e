// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - NVMe I/O queue pairs that user space drives.
 *
 * The order of death: the queue is deleted at the controller, or else the
 * controller is reset, or else it loses the right to access memory; then its
 * memory and the pool's frames leave the IOMMU domain; then they may be freed.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "nvme.h"

static unsigned int pages_for(u32 depth, size_t entry)
{
	return DIV_ROUND_UP(depth * entry, PAGE_SIZE);
}

/* Take the doorbells away from user space, which sees ordinary memory from now on. */
static void revoke(struct exmap_nvme_queue *queue)
{
	mutex_lock(&queue->map_lock);
	queue->revoked = true;
	mutex_unlock(&queue->map_lock);
	if (queue->mapping)
		unmap_mapping_range(queue->mapping, EXMAP_NVME_OFF_DOORBELLS,
				    exmap_nvme_doorbell_bytes(queue), 1);
}

void exmap_nvme_queue_revoke_all(struct exmap_nvme_controller *ctrl)
{
	struct exmap_nvme_queue *queue;

	lockdep_assert_held(&ctrl->lock);
	list_for_each_entry(queue, &ctrl->queues, node)
		revoke(queue);
}

/* The controller does not use the queue any more. */
static void drop_queue(struct exmap_nvme_queue *queue, int error)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;

	lockdep_assert_held(&ctrl->lock);
	revoke(queue);
	exmap_nvme_block_unmap(ctrl, &queue->sq);
	exmap_nvme_block_unmap(ctrl, &queue->cq);
	exmap_nvme_block_unmap(ctrl, &queue->prp);
	clear_bit(queue->qid, ctrl->qids);
	list_del(&queue->node);
	queue->error = error;
}

static void disown(struct exmap_nvme_controller *ctrl)
{
	lockdep_assert_held(&ctrl->lock);
	if (!list_empty(&ctrl->queues))
		return;
	exmap_nvme_pool_unmap(ctrl);
	WRITE_ONCE(ctrl->region, NULL);
}

/* The controller has been reset. */
void exmap_nvme_queue_drop_all(struct exmap_nvme_controller *ctrl, int error)
{
	struct exmap_nvme_queue *queue, *next;

	list_for_each_entry_safe(queue, next, &ctrl->queues, node)
		drop_queue(queue, error);
	disown(ctrl);
}

/* Base 5.4: polled, physically (by I/O virtual address) contiguous. */
static int create_cq(struct exmap_nvme_queue *queue)
{
	struct nvme_command cmd = {
		.create_cq.opcode = nvme_admin_create_cq,
		.create_cq.prp1 = cpu_to_le64(queue->cq.addr),
		.create_cq.cqid = cpu_to_le16(queue->qid),
		.create_cq.qsize = cpu_to_le16(queue->depth - 1),
		.create_cq.cq_flags = cpu_to_le16(NVME_QUEUE_PHYS_CONTIG),
	};

	return exmap_nvme_controller_admin(queue->ctrl, &cmd, NULL);
}

/* Base 5.5 */
static int create_sq(struct exmap_nvme_queue *queue)
{
	struct nvme_command cmd = {
		.create_sq.opcode = nvme_admin_create_sq,
		.create_sq.prp1 = cpu_to_le64(queue->sq.addr),
		.create_sq.sqid = cpu_to_le16(queue->qid),
		.create_sq.qsize = cpu_to_le16(queue->depth - 1),
		.create_sq.sq_flags = cpu_to_le16(NVME_QUEUE_PHYS_CONTIG),
		.create_sq.cqid = cpu_to_le16(queue->qid),
	};

	return exmap_nvme_controller_admin(queue->ctrl, &cmd, NULL);
}

/* Base 5.6 and 5.7: no command of a deleted submission queue is in progress. */
static int delete_one(struct exmap_nvme_queue *queue, u8 opcode)
{
	struct nvme_command cmd = {
		.delete_queue.opcode = opcode,
		.delete_queue.qid = cpu_to_le16(queue->qid),
	};

	return exmap_nvme_controller_admin(queue->ctrl, &cmd, NULL);
}

static int create_pair(struct exmap_nvme_queue *queue)
{
	int ret = create_cq(queue);

	if (!ret)
		ret = create_sq(queue);
	/* half a pair, or none: the others have to go with it */
	if (ret)
		exmap_nvme_controller_fail(queue->ctrl, -EIO);
	return ret > 0 ? -EIO : ret;
}

/* The controller may be reset for it. */
static void delete_queue(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;

	lockdep_assert_held(&ctrl->lock);
	if (queue->error)
		return;
	revoke(queue);
	if (delete_one(queue, nvme_admin_delete_sq) || delete_one(queue, nvme_admin_delete_cq)) {
		exmap_nvme_controller_fail(ctrl, -EIO);
		return;
	}
	drop_queue(queue, -ENODEV);
	disown(ctrl);
}

static int release_owned(struct exmap_nvme_controller *ctrl, void *arg)
{
	struct exmap_nvme_queue *queue;

	while (!list_empty(&ctrl->queues)) {
		queue = list_first_entry(&ctrl->queues, struct exmap_nvme_queue, node);
		delete_queue(queue);
	}
	return 0;
}

/* The address space is gone, and nobody makes calls: frames are about to be freed. */
void exmap_nvme_region_release(struct exmap_region *region)
{
	exmap_nvme_visit_owned(region, release_owned, NULL);
}

static void free_blocks(struct exmap_nvme_queue *queue)
{
	exmap_nvme_block_free(&queue->sq);
	exmap_nvme_block_free(&queue->cq);
	exmap_nvme_block_free(&queue->prp);
}

static void unmap_blocks(struct exmap_nvme_queue *queue)
{
	exmap_nvme_block_unmap(queue->ctrl, &queue->sq);
	exmap_nvme_block_unmap(queue->ctrl, &queue->cq);
	exmap_nvme_block_unmap(queue->ctrl, &queue->prp);
}

static int create_blocks(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;
	u64 window = EXMAP_NVME_WINDOWS + queue->qid * EXMAP_NVME_WINDOW;
	int ret;

	/* what it need not write it cannot spoil */
	ret = exmap_nvme_block_create(ctrl, &queue->sq,
				      pages_for(queue->depth, sizeof(struct nvme_command)),
				      window, IOMMU_READ);
	if (!ret)
		ret = exmap_nvme_block_create(ctrl, &queue->cq,
					      pages_for(queue->depth,
							sizeof(struct nvme_completion)),
					      window + EXMAP_NVME_WINDOW_CQ, IOMMU_WRITE);
	if (!ret && prp_pages)
		ret = exmap_nvme_block_create(ctrl, &queue->prp, prp_pages,
					      window + EXMAP_NVME_WINDOW_DATA, IOMMU_READ);
	if (ret) {
		unmap_blocks(queue);
		free_blocks(queue);
	}
	return ret;
}

/* Make the region the owner of the controller, and the controller ready. */
static int own(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;
	int ret = 0;

	exmap_nvme_controller_check(ctrl);
	if (ctrl->state == EXMAP_NVME_GONE)
		return -ENODEV;
	if (ctrl->region && ctrl->region != queue->region)
		return -EBUSY;
	if (!ctrl->domain && !capable(CAP_SYS_RAWIO))
		return -EPERM;
	if (ctrl->state == EXMAP_NVME_DOWN)
		ret = exmap_nvme_controller_start(ctrl);
	if (!ret && !ctrl->region)
		ret = exmap_nvme_pool_map(ctrl, queue->region);
	if (!ret)
		WRITE_ONCE(ctrl->region, queue->region);
	return ret;
}

static int check_limits(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;

	/* CAP.MQES is zero's based */
	if (queue->depth - 1 > NVME_CAP_MQES(ctrl->cap))
		return -EINVAL;
	queue->qid = find_next_zero_bit(ctrl->qids, ctrl->nr_queues + 1, 1);
	return queue->qid > ctrl->nr_queues ? -ENOSPC : 0;
}

static int create_locked(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;
	int ret = own(queue);

	if (ret)
		return ret;
	ret = check_limits(queue);
	if (ret)
		goto err_owner;
	ret = create_blocks(queue, prp_pages);
	if (ret)
		goto err_owner;
	set_bit(queue->qid, ctrl->qids);
	list_add_tail(&queue->node, &ctrl->queues);
	/* it fails with all queues, this one among them */
	ret = create_pair(queue);
	if (ret)
		free_blocks(queue);
	else
		queue->error = 0;
	return ret;

err_owner:
	disown(ctrl);
	return ret;
}

static void uncharge(struct exmap_nvme_queue *queue)
{
	if (!queue->charged || !mmget_not_zero(queue->region->mm))
		return;
	account_locked_vm(queue->region->mm, queue->charged, false);
	mmput(queue->region->mm);
}

static int charge(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	unsigned long nr = pages_for(queue->depth, sizeof(struct nvme_command)) +
			   pages_for(queue->depth, sizeof(struct nvme_completion)) + prp_pages;
	int ret = account_locked_vm(queue->region->mm, nr, true);

	if (!ret)
		queue->charged = nr;
	return ret;
}

/**
 * exmap_nvme_queue_create - give a queue that was allocated to the controller
 * @queue: its @mapping is set
 * @prp_pages: pages of memory for PRP lists
 *
 * While @region->setup is held its pool keeps its size.
 */
int exmap_nvme_queue_create(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct exmap_region *region = queue->region;
	int ret = charge(queue, prp_pages);

	if (ret)
		return ret;
	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	mutex_lock(&queue->ctrl->lock);
	ret = region->dead ? -EPROTO : create_locked(queue, prp_pages);
	mutex_unlock(&queue->ctrl->lock);
	mutex_unlock(&region->setup);
	return ret;
}

/* The end of a queue at the controller, unless it is dead. */
void exmap_nvme_queue_delete(struct exmap_nvme_queue *queue)
{
	mutex_lock(&queue->ctrl->lock);
	delete_queue(queue);
	mutex_unlock(&queue->ctrl->lock);
}

/* What is left when the controller has forgotten the queue. */
void exmap_nvme_queue_free(struct exmap_nvme_queue *queue)
{
	uncharge(queue);
	free_blocks(queue);
	__free_page(queue->dummy);
	exmap_region_put(queue->region);
	exmap_nvme_controller_put(queue->ctrl);
	kfree(queue);
}

/* A queue of a region that no controller knows yet, or an ERR_PTR. */
struct exmap_nvme_queue *exmap_nvme_queue_alloc(struct exmap_region *region,
						const struct exmap_nvme_open *args)
{
	struct exmap_nvme_queue *queue = kzalloc(sizeof(*queue), EXMAP_GFP);

	if (!queue)
		return ERR_PTR(-ENOMEM);
	queue->dummy = alloc_page(EXMAP_GFP | __GFP_ZERO);
	if (!queue->dummy)
		goto err_queue;
	queue->ctrl = exmap_nvme_controller_find(args);
	if (!queue->ctrl)
		goto err_dummy;
	kref_get(&region->ref);
	queue->region = region;
	queue->depth = args->depth;
	queue->error = -ENODEV;
	mutex_init(&queue->map_lock);
	return queue;

err_dummy:
	__free_page(queue->dummy);
	kfree(queue);
	return ERR_PTR(-ENODEV);
err_queue:
	kfree(queue);
	return ERR_PTR(-ENOMEM);
}
