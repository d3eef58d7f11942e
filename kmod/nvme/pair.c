// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - pairs of an NVMe submission and completion queue: their memory, and their
 * life at the controller.  Who drives them is the matter of queue.c and channel.c.
 */
#include "nvme.h"

static unsigned int pages_for(u32 depth, size_t entry)
{
	return DIV_ROUND_UP(depth * entry, PAGE_SIZE);
}

/* Pages of memory that a pair needs. */
unsigned long exmap_nvme_pair_pages(u32 depth, u32 prp_pages)
{
	return pages_for(depth, sizeof(struct nvme_command)) +
	       pages_for(depth, sizeof(struct nvme_completion)) + prp_pages;
}

/* Base 5.4: physically (by I/O virtual address) contiguous. */
static int create_cq(struct exmap_nvme_pair *pair)
{
	struct nvme_command cmd = {
		.create_cq.opcode = nvme_admin_create_cq,
		.create_cq.prp1 = cpu_to_le64(pair->cq.addr),
		.create_cq.cqid = cpu_to_le16(pair->qid),
		.create_cq.qsize = cpu_to_le16(pair->depth - 1),
		.create_cq.cq_flags = cpu_to_le16(NVME_QUEUE_PHYS_CONTIG),
	};

	if (pair->event) {
		cmd.create_cq.cq_flags |= cpu_to_le16(NVME_CQ_IRQ_ENABLED);
		cmd.create_cq.irq_vector = cpu_to_le16(pair->vector);
	}
	return exmap_nvme_controller_admin(pair->ctrl, &cmd, NULL);
}

/* Base 5.5 */
static int create_sq(struct exmap_nvme_pair *pair)
{
	struct nvme_command cmd = {
		.create_sq.opcode = nvme_admin_create_sq,
		.create_sq.prp1 = cpu_to_le64(pair->sq.addr),
		.create_sq.sqid = cpu_to_le16(pair->qid),
		.create_sq.qsize = cpu_to_le16(pair->depth - 1),
		.create_sq.sq_flags = cpu_to_le16(NVME_QUEUE_PHYS_CONTIG),
		.create_sq.cqid = cpu_to_le16(pair->qid),
	};

	return exmap_nvme_controller_admin(pair->ctrl, &cmd, NULL);
}

/* Base 5.6 and 5.7: no command of a deleted submission queue is in progress. */
static int delete_one(struct exmap_nvme_pair *pair, u8 opcode)
{
	struct nvme_command cmd = {
		.delete_queue.opcode = opcode,
		.delete_queue.qid = cpu_to_le16(pair->qid),
	};

	return exmap_nvme_controller_admin(pair->ctrl, &cmd, NULL);
}

/*
 * Make a pair known to the controller: 0 or an error.  After an error there may be
 * half a pair, so that the controller has to be reset.
 */
int exmap_nvme_pair_create(struct exmap_nvme_pair *pair)
{
	int ret;

	exmap_nvme_shadow_clear(pair->ctrl, pair->qid);
	ret = create_cq(pair);
	if (!ret)
		ret = create_sq(pair);
	return ret > 0 ? -EIO : ret;
}

/* The same for its end; no command is in progress afterwards. */
int exmap_nvme_pair_delete(struct exmap_nvme_pair *pair)
{
	int ret = delete_one(pair, nvme_admin_delete_sq);

	if (!ret)
		ret = delete_one(pair, nvme_admin_delete_cq);
	return ret > 0 ? -EIO : ret;
}

static int create_blocks(struct exmap_nvme_pair *pair, u32 prp_pages)
{
	struct exmap_nvme_controller *ctrl = pair->ctrl;
	u64 window = EXMAP_NVME_WINDOWS + pair->qid * EXMAP_NVME_WINDOW;
	int ret;

	/* what it need not write it cannot spoil */
	ret = exmap_nvme_block_create(ctrl, &pair->sq,
				      pages_for(pair->depth, sizeof(struct nvme_command)),
				      window, IOMMU_READ);
	if (!ret)
		ret = exmap_nvme_block_create(ctrl, &pair->cq,
					      pages_for(pair->depth,
							sizeof(struct nvme_completion)),
					      window + EXMAP_NVME_WINDOW_CQ, IOMMU_WRITE);
	if (!ret && prp_pages)
		ret = exmap_nvme_block_create(ctrl, &pair->prp, prp_pages,
					      window + EXMAP_NVME_WINDOW_DATA, IOMMU_READ);
	return ret;
}

/**
 * exmap_nvme_pair_alloc - a number and memory for a pair
 * @pair: its @ctrl, locked, and @depth are set
 * @prp_pages: pages of memory for PRP lists
 *
 * EINVAL if the controller has no queues of that depth, ENOSPC if it has none left.
 */
int exmap_nvme_pair_alloc(struct exmap_nvme_pair *pair, u32 prp_pages)
{
	struct exmap_nvme_controller *ctrl = pair->ctrl;
	int ret;

	lockdep_assert_held(&ctrl->lock);
	/* CAP.MQES is zero's based */
	if (pair->depth - 1 > NVME_CAP_MQES(ctrl->cap))
		return -EINVAL;
	pair->qid = find_next_zero_bit(ctrl->qids, ctrl->nr_queues + 1, 1);
	if (pair->qid > ctrl->nr_queues)
		return -ENOSPC;
	ret = pair->event ? exmap_nvme_interrupt_request(pair) : 0;
	if (ret)
		return ret;
	ret = create_blocks(pair, prp_pages);
	set_bit(pair->qid, ctrl->qids);
	if (ret) {
		exmap_nvme_pair_drop(pair);
		exmap_nvme_pair_free(pair);
	}
	return ret;
}

/* The controller does not use it any more, or never did: out of its reach. */
void exmap_nvme_pair_drop(struct exmap_nvme_pair *pair)
{
	struct exmap_nvme_controller *ctrl = pair->ctrl;

	lockdep_assert_held(&ctrl->lock);
	if (pair->event)
		exmap_nvme_interrupt_free(pair);
	exmap_nvme_block_unmap(ctrl, &pair->sq);
	exmap_nvme_block_unmap(ctrl, &pair->cq);
	exmap_nvme_block_unmap(ctrl, &pair->prp);
	clear_bit(pair->qid, ctrl->qids);
}

void exmap_nvme_pair_free(struct exmap_nvme_pair *pair)
{
	exmap_nvme_block_free(&pair->sq);
	exmap_nvme_block_free(&pair->cq);
	exmap_nvme_block_free(&pair->prp);
}
