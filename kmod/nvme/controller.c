// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - NVMe controllers: registers, reset and start, admin commands.
 *
 * Everything here is polled; only queues that ask for it have interrupts.  Every wait has an end: a
 * controller that does not answer is reset, and one that cannot be reset loses
 * the right to access memory.
 */
#include <linux/delay.h>
#include <linux/io-64-nonatomic-lo-hi.h>

#include "nvme.h"
#include "trace.h"

#define ADMIN_SECONDS		10
#define SHUTDOWN_SECONDS	10
#define PRP_LIST_PAGES		512	/* entries of a list that fills a page */

static u32 read_status(struct exmap_nvme_controller *ctrl)
{
	return readl(ctrl->bar + NVME_REG_CSTS);
}

/* What a device that was unplugged reads as. */
static bool is_absent(u32 status)
{
	return status == U32_MAX;
}

/* Base 3.1.3.1, CAP.TO: how long a change of CC.EN may take. */
static unsigned long ready_deadline(const struct exmap_nvme_controller *ctrl)
{
	return jiffies + msecs_to_jiffies((NVME_CAP_TIMEOUT(ctrl->cap) + 1) * 500);
}

/* Base 3.1.3.6, CSTS.RDY */
static int wait_ready(struct exmap_nvme_controller *ctrl, bool ready)
{
	unsigned long deadline = ready_deadline(ctrl);

	for (;;) {
		bool late = time_after(jiffies, deadline);
		u32 status = read_status(ctrl);

		if (is_absent(status))
			return -ENODEV;
		if (!!(status & NVME_CSTS_RDY) == ready)
			return 0;
		if (ready && (status & NVME_CSTS_CFS))
			return -EIO;
		if (late)
			return -ETIMEDOUT;
		usleep_range(100, 200);
	}
}

/*
 * Base 3.7.2, Controller Level Reset: all commands are forgotten.  If it cannot
 * be had, the device is kept from accessing memory altogether.
 */
static int disable_controller(struct exmap_nvme_controller *ctrl)
{
	u32 config = readl(ctrl->bar + NVME_REG_CC);
	int ret;

	writel(config & ~(NVME_CC_ENABLE | NVME_CC_SHN_MASK), ctrl->bar + NVME_REG_CC);
	ret = wait_ready(ctrl, false);
	if (ret) {
		pci_err(ctrl->pdev, "exmap: the controller cannot be reset: %d\n", ret);
		pci_clear_master(ctrl->pdev);
	}
	return ret;
}

/* Base 3.5.1, steps 2 to 6 */
static int enable_controller(struct exmap_nvme_controller *ctrl)
{
	u32 config = NVME_CC_CSS_NVM | NVME_CC_AMS_RR | NVME_CC_SHN_NONE | NVME_CC_IOSQES |
		     NVME_CC_IOCQES | ((PAGE_SHIFT - 12) << NVME_CC_MPS_SHIFT);
	u32 size = EXMAP_NVME_ADMIN_DEPTH - 1;
	struct exmap_nvme_admin *admin = &ctrl->admin;

	memset(page_address(admin->sq.pages), 0, PAGE_SIZE);
	memset(page_address(admin->cq.pages), 0, PAGE_SIZE);
	admin->sq_tail = 0;
	admin->cq_head = 0;
	admin->phase = 1;

	writel(size | size << 16, ctrl->bar + NVME_REG_AQA);
	lo_hi_writeq(admin->sq.addr, ctrl->bar + NVME_REG_ASQ);
	lo_hi_writeq(admin->cq.addr, ctrl->bar + NVME_REG_ACQ);
	/* Base 3.1.3.3: not with MSI-X, which has vectors of queues only */
	if (!ctrl->nr_vectors)
		writel(~0, ctrl->bar + NVME_REG_INTMS);
	writel(config, ctrl->bar + NVME_REG_CC);
	writel(config | NVME_CC_ENABLE, ctrl->bar + NVME_REG_CC);
	return wait_ready(ctrl, true);
}

/* Base 3.6.1: what the cache holds reaches the medium. */
static void shut_down(struct exmap_nvme_controller *ctrl)
{
	unsigned long deadline = jiffies + SHUTDOWN_SECONDS * HZ;
	u32 config = readl(ctrl->bar + NVME_REG_CC) & ~NVME_CC_SHN_MASK;
	u32 status;

	writel(config | NVME_CC_SHN_NORMAL, ctrl->bar + NVME_REG_CC);
	do {
		usleep_range(100, 200);
		status = read_status(ctrl);
		if (is_absent(status))
			return;
		if ((status & NVME_CSTS_SHST_MASK) == NVME_CSTS_SHST_CMPLT)
			return;
	} while (time_before(jiffies, deadline));
	pci_warn(ctrl->pdev, "exmap: the controller does not shut down\n");
}

/* A doorbell of the admin queue; its shadow, if there is one, is the host's to write, too. */
static void ring_admin(struct exmap_nvme_controller *ctrl, bool cq, u16 value)
{
	exmap_nvme_shadow_store(ctrl, 0, cq, value);
	writel(value, ctrl->bar + NVME_REG_DBS + exmap_nvme_doorbell(ctrl, 0, cq));
}

/* Take the next completion, if there is one.  Base 3.3.3.2 (phase tag) */
static bool next_completion(struct exmap_nvme_controller *ctrl, struct nvme_completion *cqe)
{
	struct exmap_nvme_admin *admin = &ctrl->admin;
	struct nvme_completion *cq = page_address(admin->cq.pages);

	if ((le16_to_cpu(READ_ONCE(cq[admin->cq_head].status)) & 1) != admin->phase)
		return false;
	dma_rmb(); /* the phase tag is written last */
	*cqe = cq[admin->cq_head];
	if (++admin->cq_head == EXMAP_NVME_ADMIN_DEPTH) {
		admin->cq_head = 0;
		admin->phase ^= 1;
	}
	ring_admin(ctrl, true, admin->cq_head);
	return true;
}

static int wait_completion(struct exmap_nvme_controller *ctrl, u16 cid,
			   struct nvme_completion *cqe)
{
	unsigned long deadline = jiffies + ADMIN_SECONDS * HZ;

	for (;;) {
		bool late = time_after(jiffies, deadline);
		u32 status;

		/* others are of an owner who rings a doorbell that is not his */
		if (next_completion(ctrl, cqe)) {
			if (cqe->command_id == cid)
				return 0;
			if (!late)
				continue;
		}
		status = read_status(ctrl);
		if (is_absent(status))
			return -ENODEV;
		if (status & NVME_CSTS_CFS)
			return -EIO;
		if (late)
			return -ETIMEDOUT;
		usleep_range(20, 50);
	}
}

/**
 * exmap_nvme_controller_admin - run an admin command
 * @ctrl: locked and LIVE
 * @cmd: all but the command id
 * @result: where dword 0 of the completion goes, or NULL
 *
 * Returns 0, the command's status (positive), or an error of the controller, which
 * then has to be reset.
 */
int exmap_nvme_controller_admin(struct exmap_nvme_controller *ctrl, struct nvme_command *cmd,
				u32 *result)
{
	struct exmap_nvme_admin *admin = &ctrl->admin;
	struct nvme_command *sq = page_address(admin->sq.pages);
	struct nvme_command *slot = &sq[admin->sq_tail];
	struct nvme_completion cqe;
	int ret;

	lockdep_assert_held(&ctrl->lock);
	cmd->common.command_id = ++admin->cid;
	*slot = *cmd;
	admin->sq_tail = (admin->sq_tail + 1) % EXMAP_NVME_ADMIN_DEPTH;
	dma_wmb(); /* the command comes before its doorbell */
	ring_admin(ctrl, false, admin->sq_tail);
	ret = wait_completion(ctrl, admin->cid, &cqe);
	/* deleting queue 0 is an error: what an owner gets who has the doorbell rung again */
	memset(slot, 0, sizeof(*slot));
	if (ret) {
		pci_err(ctrl->pdev, "exmap: admin command %#x: error %d\n", cmd->common.opcode,
			ret);
		return ret;
	}
	if (result)
		*result = le32_to_cpu(cqe.result.u32);
	return le16_to_cpu(cqe.status) >> 1 & 0x7ff;
}

/* Base 5.17 */
static int identify(struct exmap_nvme_controller *ctrl, u8 cns, u32 nsid)
{
	struct nvme_command cmd = {
		.identify.opcode = nvme_admin_identify,
		.identify.nsid = cpu_to_le32(nsid),
		.identify.cns = cns,
		.identify.dptr.prp1 = cpu_to_le64(ctrl->admin.data.addr),
	};
	int ret;

	memset(page_address(ctrl->admin.data.pages), 0, PAGE_SIZE);
	ret = exmap_nvme_controller_admin(ctrl, &cmd, NULL);
	return ret > 0 ? -EIO : ret;
}

/* Base 5.17.2.1, figure "Identify Controller data structure" */
static int identify_controller(struct exmap_nvme_controller *ctrl)
{
	const struct nvme_id_ctrl *id = page_address(ctrl->admin.data.pages);
	/* the first page by PRP1, the rest by a list that fits a page */
	u64 limit = (u64)(1 + PRP_LIST_PAGES) << PAGE_SHIFT;
	int ret = identify(ctrl, NVME_ID_CNS_CTRL, 0);

	if (ret)
		return ret;
	ctrl->oncs = le16_to_cpu(id->oncs);
	ctrl->oacs = le16_to_cpu(id->oacs);
	ctrl->vwc = id->vwc & 1;
	/* in units of CAP.MPSMIN, which is 4 KiB here */
	if (id->mdts && id->mdts < 20)
		limit = min(limit, 1ULL << (12 + id->mdts));
	ctrl->max_transfer = limit;
	return 0;
}

/* The first active namespace: Base 5.17.2.2; before NVMe 1.1 there was no list of them. */
static int find_namespace(struct exmap_nvme_controller *ctrl)
{
	const __le32 *list = page_address(ctrl->admin.data.pages);
	int ret;

	ctrl->nsid = 1;
	if (readl(ctrl->bar + NVME_REG_VS) < NVME_VS(1, 1, 0))
		return 0;
	ret = identify(ctrl, NVME_ID_CNS_NS_ACTIVE_LIST, 0);
	if (ret)
		return ret;
	ctrl->nsid = le32_to_cpu(list[0]);
	if (ctrl->nsid)
		return 0;
	pci_err(ctrl->pdev, "exmap: the controller has no active namespace\n");
	return -ENODEV;
}

static int identify_namespace(struct exmap_nvme_controller *ctrl)
{
	const struct nvme_id_ns *id = page_address(ctrl->admin.data.pages);
	const struct nvme_lbaf *format;
	int ret = find_namespace(ctrl);

	if (!ret)
		ret = identify(ctrl, NVME_ID_CNS_NS, ctrl->nsid);
	if (ret)
		return ret;
	format = &id->lbaf[nvme_lbaf_index(id->flbas)];
	if ((format->ds != 9 && format->ds != 12) || format->ms) {
		pci_err(ctrl->pdev,
			"exmap: namespace %u has blocks of 2^%u bytes and %u bytes of metadata; supported are 512 and 4096 without\n",
			ctrl->nsid, format->ds, le16_to_cpu(format->ms));
		return -EOPNOTSUPP;
	}
	ctrl->lba_shift = format->ds;
	ctrl->nr_lbas = le64_to_cpu(id->nsze);
	return 0;
}

/* Base 5.27.1.5, Number of Queues: zero's based, in both directions. */
static int set_queue_count(struct exmap_nvme_controller *ctrl)
{
	unsigned int wanted = EXMAP_NVME_QUEUES - 1;
	struct nvme_command cmd = {
		.features.opcode = nvme_admin_set_features,
		.features.fid = cpu_to_le32(NVME_FEAT_NUM_QUEUES),
		.features.dword11 = cpu_to_le32(wanted | wanted << 16),
	};
	u64 doorbells = pci_resource_len(ctrl->pdev, 0) - NVME_REG_DBS;
	u32 result;
	int ret = exmap_nvme_controller_admin(ctrl, &cmd, &result);

	if (ret)
		return ret > 0 ? -EIO : ret;
	ctrl->nr_queues = min3((result & 0xffff) + 1, (result >> 16) + 1,
			       (u32)EXMAP_NVME_QUEUES);
	/* as many as have doorbells */
	ctrl->nr_queues = min_t(u64, ctrl->nr_queues, doorbells / (2 * ctrl->stride) - 1);
	return 0;
}

/*
 * Base 3.5.1: reset and enable a controller without queues, and find out what it
 * is.  LIVE, or an error and DOWN.
 */
int exmap_nvme_controller_start(struct exmap_nvme_controller *ctrl)
{
	const int prot = IOMMU_WRITE;
	int ret;

	lockdep_assert_held(&ctrl->lock);
	ctrl->state = EXMAP_NVME_DOWN;
	ret = disable_controller(ctrl);
	if (ret)
		return ret;
	/* mapped no longer than this: owners could write to it */
	ret = exmap_nvme_block_create(ctrl, &ctrl->admin.data, 1,
				      EXMAP_NVME_WINDOWS + EXMAP_NVME_WINDOW_DATA, prot);
	if (ret)
		return ret;
	pci_set_master(ctrl->pdev);
	ret = enable_controller(ctrl);
	if (!ret)
		ret = identify_controller(ctrl);
	if (!ret)
		ret = identify_namespace(ctrl);
	if (!ret)
		ret = set_queue_count(ctrl);
	if (ret)
		disable_controller(ctrl);
	else
		ctrl->state = EXMAP_NVME_LIVE;
	exmap_nvme_block_unmap(ctrl, &ctrl->admin.data);
	exmap_nvme_block_free(&ctrl->admin.data);
	if (!ret)
		exmap_nvme_tell_back(ctrl);
	return ret;
}

/* Reset; every queue is dead on return, for the reason @error. */
void exmap_nvme_controller_fail(struct exmap_nvme_controller *ctrl, int error)
{
	lockdep_assert_held(&ctrl->lock);
	if (ctrl->state != EXMAP_NVME_LIVE)
		return;
	disable_controller(ctrl);
	trace_exmap_nvme_reset(exmap_nvme_controller_id(ctrl), error);
	exmap_nvme_tell_lost(ctrl, error);
	ctrl->state = EXMAP_NVME_DOWN;
	exmap_nvme_channels_drop(ctrl);
	exmap_nvme_queue_drop_all(ctrl, error);
}

/* Without queues, as after a reset: what its cache holds is on the medium, and it is DOWN. */
void exmap_nvme_controller_rest(struct exmap_nvme_controller *ctrl)
{
	lockdep_assert_held(&ctrl->lock);
	if (ctrl->state != EXMAP_NVME_LIVE)
		return;
	shut_down(ctrl);
	disable_controller(ctrl);
	ctrl->state = EXMAP_NVME_DOWN;
}

/* What the status of a controller that was enabled says: Base 3.1.3.6, CSTS.CFS. */
int exmap_nvme_status_error(u32 status)
{
	if (is_absent(status))
		return -ENODEV;
	return (status & NVME_CSTS_CFS) || !(status & NVME_CSTS_RDY) ? -EIO : 0;
}

/* Look whether the controller has failed or vanished. */
void exmap_nvme_controller_check(struct exmap_nvme_controller *ctrl)
{
	int error;

	lockdep_assert_held(&ctrl->lock);
	if (ctrl->state != EXMAP_NVME_LIVE)
		return;
	error = exmap_nvme_status_error(read_status(ctrl));
	if (error)
		exmap_nvme_controller_fail(ctrl, error);
}

static void detach_pools(struct exmap_nvme_controller *ctrl)
{
	unsigned int i;

	for (i = 0; i < EXMAP_NVME_POOLS; i++) {
		if (ctrl->pools[i].region)
			exmap_nvme_pool_detach(ctrl, &ctrl->pools[i]);
	}
}

/* Leave the device quiet.  Queues go first, while regions can still find it. */
void exmap_nvme_controller_stop(struct exmap_nvme_controller *ctrl)
{
	mutex_lock(&ctrl->lock);
	exmap_nvme_controller_check(ctrl);
	exmap_nvme_channels_delete(ctrl);
	if (ctrl->state == EXMAP_NVME_LIVE) {
		exmap_nvme_queue_revoke_all(ctrl);
		shut_down(ctrl);
		exmap_nvme_controller_fail(ctrl, -ENODEV);
	}
	/* one that was at rest has not failed */
	exmap_nvme_tell_lost(ctrl, -ENODEV);
	detach_pools(ctrl);
	ctrl->state = EXMAP_NVME_GONE;
	mutex_unlock(&ctrl->lock);
}

/* Doorbells are mapped by pages: is there an interrupt vector in the same page? */
static bool doorbells_share_a_page(struct exmap_nvme_controller *ctrl)
{
	u64 last = NVME_REG_DBS + exmap_nvme_doorbell(ctrl, EXMAP_NVME_QUEUES + 1, false);
	u32 table;

	if (!ctrl->pdev->msix_cap)
		return false;
	pci_read_config_dword(ctrl->pdev, ctrl->pdev->msix_cap + PCI_MSIX_TABLE, &table);
	if (table & PCI_MSIX_TABLE_BIR)
		return false;
	return (table & PCI_MSIX_TABLE_OFFSET) >> PAGE_SHIFT <= (last - 1) >> PAGE_SHIFT &&
	       (table & PCI_MSIX_TABLE_OFFSET) >= NVME_REG_DBS;
}

/* What it can do, and whether we can use it: Base 3.1.3.1 */
int exmap_nvme_controller_probe(struct exmap_nvme_controller *ctrl)
{
	ctrl->cap = lo_hi_readq(ctrl->bar + NVME_REG_CAP);
	ctrl->stride = 4 << NVME_CAP_STRIDE(ctrl->cap);
	ctrl->doorbells = pci_resource_start(ctrl->pdev, 0) + NVME_REG_DBS;
	if (is_absent(read_status(ctrl)))
		return -ENODEV;
	if (NVME_CAP_MPSMIN(ctrl->cap) || !(NVME_CAP_CSS(ctrl->cap) & NVME_CAP_CSS_NVM)) {
		pci_err(ctrl->pdev, "exmap: no 4 KiB pages, or no NVM command set\n");
		return -EOPNOTSUPP;
	}
	if (doorbells_share_a_page(ctrl)) {
		pci_err(ctrl->pdev, "exmap: doorbells and interrupt vectors share a page\n");
		return -EOPNOTSUPP;
	}
	return 0;
}
