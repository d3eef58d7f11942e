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

/* Take the doorbells away from user space, which sees ordinary memory from now on. */
static void revoke(struct exmap_nvme_queue *queue)
{
	mutex_lock(&queue->map_lock);
	queue->revoked = true;
	mutex_unlock(&queue->map_lock);
	if (queue->mapping)
		unmap_mapping_range(queue->mapping, EXMAP_NVME_OFF_DOORBELLS,
				    exmap_nvme_doorbell_bytes(queue), 1);
	if (queue->mapping && queue->shadow)
		unmap_mapping_range(queue->mapping, EXMAP_NVME_OFF_SHADOW,
				    EXMAP_NVME_OFF_EVENT_IDX - EXMAP_NVME_OFF_SHADOW + PAGE_SIZE,
				    1);
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
	lockdep_assert_held(&queue->pair.ctrl->lock);
	revoke(queue);
	exmap_nvme_pair_drop(&queue->pair);
	list_del(&queue->node);
	queue->error = error;
}

static void disown(struct exmap_nvme_controller *ctrl)
{
	lockdep_assert_held(&ctrl->lock);
	if (!ctrl->owner || !list_empty(&ctrl->queues))
		return;
	exmap_nvme_shadow_stop(ctrl);
	exmap_nvme_pool_detach(ctrl, ctrl->owner);
	ctrl->owner = NULL;
}

static void note_death(struct exmap_nvme_queue *queue, int error)
{
	const struct exmap_queue_failure failure = {
		.error = error,
		.region = queue->region->id,
		.pid = queue->region->pid,
	};

	exmap_nvme_note_failure(queue->pair.ctrl, queue->pair.qid, &failure);
}

/* The controller has been reset. */
void exmap_nvme_queue_drop_all(struct exmap_nvme_controller *ctrl, int error)
{
	struct exmap_nvme_queue *queue, *next;

	list_for_each_entry_safe(queue, next, &ctrl->queues, node) {
		note_death(queue, error);
		drop_queue(queue, error);
	}
	disown(ctrl);
}

static int create_pair(struct exmap_nvme_queue *queue)
{
	int ret = exmap_nvme_pair_create(&queue->pair);

	/* half a pair, or none: the others have to go with it */
	if (ret)
		exmap_nvme_controller_fail(queue->pair.ctrl, -EIO);
	return ret;
}

/* The controller may be reset for it. */
static void delete_queue(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;

	lockdep_assert_held(&ctrl->lock);
	if (queue->error)
		return;
	revoke(queue);
	if (exmap_nvme_pair_delete(&queue->pair)) {
		exmap_nvme_controller_fail(ctrl, -EIO);
		return;
	}
	drop_queue(queue, -ENODEV);
	disown(ctrl);
}

static int release_pool(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool, void *arg)
{
	struct exmap_nvme_queue *queue;

	if (pool != ctrl->owner) {
		exmap_nvme_pool_detach(ctrl, pool);
		return 0;
	}
	while (!list_empty(&ctrl->queues)) {
		queue = list_first_entry(&ctrl->queues, struct exmap_nvme_queue, node);
		delete_queue(queue);
	}
	return 0;
}

/* The address space is gone, and nobody makes calls: frames are about to be freed. */
void exmap_nvme_region_release(struct exmap_region *region)
{
	exmap_nvme_visit_pools(region, release_pool, NULL);
}

/* Make the region the owner of the controller, and the controller ready. */
static int own(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;
	struct exmap_nvme_pool *pool;
	int ret = 0;

	exmap_nvme_controller_check(ctrl);
	if (ctrl->state == EXMAP_NVME_GONE)
		return -ENODEV;
	if (ctrl->nr_backings || (ctrl->owner && ctrl->owner->region != queue->region))
		return -EBUSY;
	if ((!ctrl->domain && !capable(CAP_SYS_RAWIO)) || !exmap_nvme_dma_is_safe(ctrl))
		return -EPERM;
	if (ctrl->state == EXMAP_NVME_DOWN)
		ret = exmap_nvme_controller_start(ctrl);
	if (ret || ctrl->owner)
		return ret;
	pool = exmap_nvme_pool_attach(ctrl, queue->region, &queue->region->pool, true);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	ctrl->owner = pool;
	return 0;
}

/* The controller looks at the shadows of all its doorbells, or of none. */
static int agree_on_shadows(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;

	if (!list_empty(&ctrl->queues))
		return queue->shadow == !!ctrl->shadow.nr ? 0 : -EINVAL;
	return queue->shadow ? exmap_nvme_shadow_start(ctrl) : 0;
}

static int create_locked(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;
	int ret = own(queue);

	if (ret)
		return ret;
	ret = agree_on_shadows(queue);
	if (!ret)
		ret = exmap_nvme_pair_alloc(&queue->pair, prp_pages);
	if (ret) {
		disown(ctrl);
		return ret;
	}
	list_add_tail(&queue->node, &ctrl->queues);
	/* it fails with all queues, this one among them */
	ret = create_pair(queue);
	if (ret)
		exmap_nvme_pair_free(&queue->pair);
	else
		queue->error = 0;
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
	unsigned long nr = exmap_nvme_pair_pages(queue->pair.depth, prp_pages);
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
	mutex_lock(&queue->pair.ctrl->lock);
	ret = region->dead ? -EPROTO : create_locked(queue, prp_pages);
	mutex_unlock(&queue->pair.ctrl->lock);
	mutex_unlock(&region->setup);
	return ret;
}

/* The end of a queue at the controller, unless it is dead. */
void exmap_nvme_queue_delete(struct exmap_nvme_queue *queue)
{
	mutex_lock(&queue->pair.ctrl->lock);
	delete_queue(queue);
	mutex_unlock(&queue->pair.ctrl->lock);
}

/* What is left when the controller has forgotten the queue. */
void exmap_nvme_queue_free(struct exmap_nvme_queue *queue)
{
	uncharge(queue);
	exmap_nvme_pair_free(&queue->pair);
	if (queue->pair.event)
		eventfd_ctx_put(queue->pair.event);
	__free_page(queue->dummy);
	exmap_region_put(queue->region);
	exmap_nvme_controller_put(queue->pair.ctrl);
	kfree(queue);
}

static int take_event(struct exmap_nvme_queue *queue, const struct exmap_nvme_open *args)
{
	struct eventfd_ctx *event;

	if (!(args->flags & EXMAP_NVME_INTERRUPTS))
		return 0;
	event = eventfd_ctx_fdget(args->eventfd);
	if (IS_ERR(event))
		return PTR_ERR(event);
	queue->pair.event = event;
	return 0;
}

/* A queue of a region that no controller knows yet, or an ERR_PTR. */
struct exmap_nvme_queue *exmap_nvme_queue_alloc(struct exmap_region *region,
						const struct exmap_nvme_open *args)
{
	struct exmap_nvme_queue *queue = kzalloc(sizeof(*queue), EXMAP_GFP);
	int ret = -ENOMEM;

	if (!queue)
		return ERR_PTR(-ENOMEM);
	queue->dummy = alloc_page(EXMAP_GFP | __GFP_ZERO);
	if (!queue->dummy)
		goto err_queue;
	ret = take_event(queue, args);
	if (ret)
		goto err_dummy;
	ret = -ENODEV;
	queue->pair.ctrl = exmap_nvme_controller_find(args->segment, args->bus, args->device,
						      args->function);
	if (!queue->pair.ctrl)
		goto err_event;
	kref_get(&region->ref);
	queue->region = region;
	queue->pair.depth = args->depth;
	queue->shadow = args->flags & EXMAP_NVME_SHADOW;
	queue->error = -ENODEV;
	mutex_init(&queue->map_lock);
	return queue;

err_event:
	if (queue->pair.event)
		eventfd_ctx_put(queue->pair.event);
err_dummy:
	__free_page(queue->dummy);
err_queue:
	kfree(queue);
	return ERR_PTR(ret);
}
