// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - what is told of NVMe controllers and their queues: see uapi/exmap_netlink.h.
 *
 * Errors of queues are added up where they happen and told later, once in an event
 * interval: a disk that rots has thousands of them, and who meets one has a lock.
 */
#include <linux/xarray.h>

#include "nvme.h"

/* Addresses of controllers that are lost; what is bound again is another object. */
static DEFINE_XARRAY(lost);

/**
 * exmap_nvme_tell_lost - tell that a controller is lost, unless that was told before
 * @ctrl: locked
 * @error: why
 */
void exmap_nvme_tell_lost(struct exmap_nvme_controller *ctrl, int error)
{
	u32 id = exmap_nvme_controller_id(ctrl);

	lockdep_assert_held(&ctrl->lock);
	/* without memory for it nobody is told that it is back */
	if (xa_insert(&lost, id, xa_mk_value(0), GFP_KERNEL) == -EBUSY)
		return;
	exmap_netlink_controller_event(EXMAP_GENL_CMD_CONTROLLER_LOST, id, error,
				       ctrl->owner ? ctrl->owner->region : NULL);
}

/* Tell that a controller works again, if it was lost. */
void exmap_nvme_tell_back(struct exmap_nvme_controller *ctrl)
{
	u32 id = exmap_nvme_controller_id(ctrl);

	if (xa_erase(&lost, id))
		exmap_netlink_controller_event(EXMAP_GENL_CMD_CONTROLLER_BACK, id, 0, NULL);
}

static void tell_failures(struct work_struct *work)
{
	struct exmap_nvme_controller *ctrl = container_of(to_delayed_work(work),
							  struct exmap_nvme_controller, teller);
	struct exmap_queue_failure failure;
	u32 qid;

	WRITE_ONCE(ctrl->told, jiffies);
	for (qid = 1; qid <= EXMAP_NVME_QUEUES; qid++) {
		spin_lock(&ctrl->failures_lock);
		failure = ctrl->failures[qid];
		memset(&ctrl->failures[qid], 0, sizeof(failure));
		spin_unlock(&ctrl->failures_lock);
		if (failure.commands || failure.error)
			exmap_netlink_queue_event(exmap_nvme_controller_id(ctrl), qid, &failure);
	}
}

/* Add to what will be told of a queue; any lock may be held. */
void exmap_nvme_note_failure(struct exmap_nvme_controller *ctrl, u16 qid,
			     const struct exmap_queue_failure *failure)
{
	struct exmap_queue_failure *sum = &ctrl->failures[qid];

	spin_lock(&ctrl->failures_lock);
	sum->commands += failure->commands;
	if (failure->status)
		sum->status = failure->status;
	if (failure->error) {
		sum->error = failure->error;
		sum->region = failure->region;
		sum->pid = failure->pid;
	}
	spin_unlock(&ctrl->failures_lock);
	queue_delayed_work(system_unbound_wq, &ctrl->teller,
			   exmap_netlink_wait(READ_ONCE(ctrl->told)));
}

void exmap_nvme_events_init(struct exmap_nvme_controller *ctrl)
{
	spin_lock_init(&ctrl->failures_lock);
	INIT_DELAYED_WORK(&ctrl->teller, tell_failures);
	ctrl->told = jiffies - msecs_to_jiffies(EXMAP_GENL_EVENT_INTERVAL_MAX);
}

/* Tell what is left to tell, now; no queue can fail any more. */
void exmap_nvme_events_flush(struct exmap_nvme_controller *ctrl)
{
	flush_delayed_work(&ctrl->teller);
}

/* No controller is ours any more. */
void exmap_nvme_events_exit(void)
{
	xa_destroy(&lost);
}
