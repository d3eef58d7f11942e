// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - interrupts of NVMe queues: a vector for each queue that wants one, which
 * signals an eventfd.  Vectors are made with the first of them: a controller whose
 * queues are polled has none.  Vector 0 is the admin queue's whether we want it or not
 * (Base 3.3.1.2), and stays masked.
 */
#include <linux/interrupt.h>

#include "nvme.h"

static irqreturn_t signal_event(int irq, void *arg)
{
	struct exmap_nvme_pair *pair = arg;

	exmap_eventfd_signal(pair->event);
	return IRQ_HANDLED;
}

static int alloc_vectors(struct exmap_nvme_controller *ctrl)
{
	int nr;

	if (ctrl->nr_vectors)
		return 0;
	nr = pci_alloc_irq_vectors(ctrl->pdev, 2, EXMAP_NVME_VECTORS, PCI_IRQ_MSIX);
	if (nr < 0)
		return -EOPNOTSUPP;
	ctrl->nr_vectors = nr;
	return 0;
}

/* A vector for a pair that has an event; the controller is to learn of it with the queue. */
int exmap_nvme_interrupt_request(struct exmap_nvme_pair *pair)
{
	struct exmap_nvme_controller *ctrl = pair->ctrl;
	int ret = alloc_vectors(ctrl);

	lockdep_assert_held(&ctrl->lock);
	if (ret)
		return ret;
	pair->vector = find_next_zero_bit(ctrl->vectors, ctrl->nr_vectors, 1);
	if (pair->vector >= ctrl->nr_vectors)
		return -ENOSPC;
	ret = request_irq(pci_irq_vector(ctrl->pdev, pair->vector), signal_event, 0, "exmap-nvme",
			  pair);
	if (!ret)
		set_bit(pair->vector, ctrl->vectors);
	return ret;
}

/* The queue is dead: whoever waits is to find out. */
void exmap_nvme_interrupt_free(struct exmap_nvme_pair *pair)
{
	struct exmap_nvme_controller *ctrl = pair->ctrl;

	lockdep_assert_held(&ctrl->lock);
	free_irq(pci_irq_vector(ctrl->pdev, pair->vector), pair);
	clear_bit(pair->vector, ctrl->vectors);
	exmap_eventfd_signal(pair->event);
}

/* No queue is left. */
void exmap_nvme_interrupts_exit(struct exmap_nvme_controller *ctrl)
{
	if (ctrl->nr_vectors)
		pci_free_irq_vectors(ctrl->pdev);
	ctrl->nr_vectors = 0;
}
