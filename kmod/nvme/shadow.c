// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - shadow doorbells: Base 5.8, Doorbell Buffer Config.
 *
 * An emulated controller pays for each doorbell with an exit to its emulator.  It may
 * offer to take doorbells from a page of memory instead, and say in a second page, the
 * EventIdx, which of them it wants to be rung all the same.  Both pages are the
 * controller's, not a queue's: whoever can write to the first can move the doorbells
 * of all queues, the admin queue's included.  The owner of the controller can do that
 * already, by its doorbells; so he gets the pages as he gets those, by page frame
 * number, so that nobody can pin them, and they are taken away with them.  Nobody else
 * has a queue of that controller.
 *
 * Only a reset makes the controller forget the pages.
 */
#include "nvme.h"

/* Identify Controller, OACS: Doorbell Buffer Config is supported */
#define OACS_DOORBELL_BUFFER	BIT(8)

/* All doorbells have to fit into a page. */
bool exmap_nvme_shadow_offered(const struct exmap_nvme_controller *ctrl)
{
	return (ctrl->oacs & OACS_DOORBELL_BUFFER) &&
	       exmap_nvme_doorbell(ctrl, ctrl->nr_queues + 1, false) <= PAGE_SIZE;
}

static __le32 *entry(struct exmap_nvme_block *block, u64 offset)
{
	return page_address(block->pages) + offset;
}

void exmap_nvme_shadow_store(struct exmap_nvme_controller *ctrl, unsigned int qid, bool cq,
			     u32 value)
{
	if (ctrl->shadow.nr)
		WRITE_ONCE(*entry(&ctrl->shadow, exmap_nvme_doorbell(ctrl, qid, cq)),
			   cpu_to_le32(value));
}

/* What the last queue of that number has left; no such queue exists. */
void exmap_nvme_shadow_clear(struct exmap_nvme_controller *ctrl, unsigned int qid)
{
	u64 offset = exmap_nvme_doorbell(ctrl, qid, false);

	if (!ctrl->shadow.nr)
		return;
	memset(entry(&ctrl->shadow, offset), 0, 2 * ctrl->stride);
	memset(entry(&ctrl->event_idx, offset), 0, 2 * ctrl->stride);
}

static void free_pages_of(struct exmap_nvme_controller *ctrl)
{
	exmap_nvme_block_unmap(ctrl, &ctrl->shadow);
	exmap_nvme_block_unmap(ctrl, &ctrl->event_idx);
	exmap_nvme_block_free(&ctrl->shadow);
	exmap_nvme_block_free(&ctrl->event_idx);
}

static int create_pages(struct exmap_nvme_controller *ctrl)
{
	u64 iova = EXMAP_NVME_WINDOWS + EXMAP_NVME_WINDOW_SHADOW;
	/* QEMU's controller writes shadows of the admin queue, too */
	int ret = exmap_nvme_block_create(ctrl, &ctrl->shadow, 1, iova, IOMMU_READ | IOMMU_WRITE);

	if (!ret)
		ret = exmap_nvme_block_create(ctrl, &ctrl->event_idx, 1, iova + PAGE_SIZE,
					      IOMMU_WRITE);
	if (ret)
		free_pages_of(ctrl);
	return ret;
}

/* Have a controller without queues take doorbells from memory. */
int exmap_nvme_shadow_start(struct exmap_nvme_controller *ctrl)
{
	struct nvme_command cmd = { .common.opcode = nvme_admin_dbbuf };
	int ret;

	lockdep_assert_held(&ctrl->lock);
	if (!exmap_nvme_shadow_offered(ctrl))
		return -EOPNOTSUPP;
	ret = create_pages(ctrl);
	if (ret)
		return ret;
	cmd.common.dptr.prp1 = cpu_to_le64(ctrl->shadow.addr);
	cmd.common.dptr.prp2 = cpu_to_le64(ctrl->event_idx.addr);
	ret = exmap_nvme_controller_admin(ctrl, &cmd, NULL);
	/* whoever owns it has it end, with a reset */
	return ret ? -EIO : 0;
}

/* No queue is left, nor a mapping of the pages. */
void exmap_nvme_shadow_stop(struct exmap_nvme_controller *ctrl)
{
	lockdep_assert_held(&ctrl->lock);
	if (!ctrl->shadow.nr)
		return;
	exmap_nvme_controller_rest(ctrl);
	free_pages_of(ctrl);
}
