// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - NVMe controllers: a PCI driver that takes one only when driver_override
 * says so, and gives it back; the list of those that it has.
 */
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/slab.h>

#include "nvme.h"

static LIST_HEAD(controllers);
static DECLARE_RWSEM(controllers_lock); /* protects controllers; outside of their locks */

static void free_controller(struct kref *ref)
{
	struct exmap_nvme_controller *ctrl = container_of(ref, struct exmap_nvme_controller, ref);

	exmap_nvme_channels_free(ctrl);
	kfree(ctrl);
}

void exmap_nvme_controller_put(struct exmap_nvme_controller *ctrl)
{
	kref_put(&ctrl->ref, free_controller);
}

static bool is_at(const struct pci_dev *pdev, u32 segment, u8 bus, unsigned int devfn)
{
	return pci_domain_nr(pdev->bus) == segment && pdev->bus->number == bus &&
	       pdev->devfn == devfn;
}

/* Returns a reference, or NULL. */
struct exmap_nvme_controller *exmap_nvme_controller_find(u32 segment, u8 bus, u8 device,
							 u8 function)
{
	struct exmap_nvme_controller *ctrl, *found = NULL;

	down_read(&controllers_lock);
	list_for_each_entry(ctrl, &controllers, node) {
		if (is_at(ctrl->pdev, segment, bus, PCI_DEVFN(device, function))) {
			kref_get(&ctrl->ref);
			found = ctrl;
			break;
		}
	}
	up_read(&controllers_lock);
	return found;
}

/*
 * Call @fn, with its lock held, for each controller that a region's pool is mapped
 * for, until it returns an error.  The caller sees to it that no other one joins
 * them meanwhile.
 */
int exmap_nvme_visit_pools(struct exmap_region *region, exmap_nvme_pool_fn fn, void *arg)
{
	struct exmap_nvme_controller *ctrl;
	struct exmap_nvme_pool *pool;
	int ret = 0;

	down_read(&controllers_lock);
	list_for_each_entry(ctrl, &controllers, node) {
		/* does not wait for the troubles of others */
		if (!exmap_nvme_pool_find(ctrl, region))
			continue;
		mutex_lock(&ctrl->lock);
		pool = exmap_nvme_pool_find(ctrl, region);
		if (pool)
			ret = fn(ctrl, pool, arg);
		mutex_unlock(&ctrl->lock);
		if (ret)
			break;
	}
	up_read(&controllers_lock);
	return ret;
}

static int map_registers(struct exmap_nvme_controller *ctrl)
{
	struct pci_dev *pdev = ctrl->pdev;
	int ret = pci_enable_device_mem(pdev);

	if (ret)
		return ret;
	ret = pci_request_mem_regions(pdev, "exmap-nvme");
	if (ret)
		goto err_device;
	ret = -ENODEV;
	if (pci_resource_len(pdev, 0) < NVME_REG_DBS + PAGE_SIZE)
		goto err_regions;
	ctrl->bar = pci_iomap(pdev, 0, 0);
	if (!ctrl->bar)
		goto err_regions;
	return 0;

err_regions:
	pci_release_mem_regions(pdev);
err_device:
	pci_disable_device(pdev);
	return ret;
}

static void unmap_registers(struct exmap_nvme_controller *ctrl)
{
	pci_iounmap(ctrl->pdev, ctrl->bar);
	pci_release_mem_regions(ctrl->pdev);
	pci_disable_device(ctrl->pdev);
}

static void free_admin(struct exmap_nvme_controller *ctrl)
{
	exmap_nvme_block_unmap(ctrl, &ctrl->admin.sq);
	exmap_nvme_block_unmap(ctrl, &ctrl->admin.cq);
	exmap_nvme_block_free(&ctrl->admin.sq);
	exmap_nvme_block_free(&ctrl->admin.cq);
}

static int create_admin(struct exmap_nvme_controller *ctrl)
{
	int ret = exmap_nvme_block_create(ctrl, &ctrl->admin.sq, 1, EXMAP_NVME_WINDOWS,
					  IOMMU_READ);

	if (!ret)
		ret = exmap_nvme_block_create(ctrl, &ctrl->admin.cq, 1,
					      EXMAP_NVME_WINDOWS + EXMAP_NVME_WINDOW_CQ,
					      IOMMU_WRITE);
	if (ret)
		free_admin(ctrl);
	return ret;
}

static int take_controller(struct exmap_nvme_controller *ctrl)
{
	int ret = map_registers(ctrl);

	if (ret)
		return ret;
	ret = exmap_nvme_controller_probe(ctrl);
	if (ret)
		goto err_registers;
	pci_intx(ctrl->pdev, 0);
	/* whoever had it before may have left it running, with memory that is ours no more */
	pci_clear_master(ctrl->pdev);
	ret = exmap_nvme_dma_attach(ctrl);
	if (ret)
		goto err_registers;
	ret = create_admin(ctrl);
	if (ret)
		goto err_dma;
	mutex_lock(&ctrl->lock);
	ret = exmap_nvme_controller_start(ctrl);
	mutex_unlock(&ctrl->lock);
	if (ret)
		goto err_admin;
	return 0;

err_admin:
	pci_clear_master(ctrl->pdev);
	free_admin(ctrl);
err_dma:
	exmap_nvme_dma_detach(ctrl);
err_registers:
	unmap_registers(ctrl);
	return ret;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct exmap_nvme_controller *ctrl;
	int ret;

	if (pdev->class != PCI_CLASS_STORAGE_EXPRESS)
		return -ENODEV;
	ctrl = kzalloc(sizeof(*ctrl), GFP_KERNEL);
	if (!ctrl)
		return -ENOMEM;
	kref_init(&ctrl->ref);
	mutex_init(&ctrl->lock);
	INIT_LIST_HEAD(&ctrl->queues);
	exmap_nvme_events_init(ctrl);
	ctrl->pdev = pdev;
	ret = take_controller(ctrl);
	if (ret) {
		exmap_nvme_controller_put(ctrl);
		return ret;
	}
	pci_set_drvdata(pdev, ctrl);
	down_write(&controllers_lock);
	list_add_tail(&ctrl->node, &controllers);
	up_write(&controllers_lock);
	return 0;
}

static void give_back(struct pci_dev *pdev)
{
	struct exmap_nvme_controller *ctrl = pci_get_drvdata(pdev);

	exmap_nvme_controller_stop(ctrl);
	exmap_nvme_events_flush(ctrl);
	down_write(&controllers_lock);
	list_del(&ctrl->node);
	up_write(&controllers_lock);

	pci_clear_master(pdev);
	exmap_nvme_interrupts_exit(ctrl);
	free_admin(ctrl);
	exmap_nvme_dma_detach(ctrl);
	unmap_registers(ctrl);
	exmap_nvme_controller_put(ctrl);
}

/* The machine goes down, or another kernel takes over. */
static void power_off(struct pci_dev *pdev)
{
	exmap_nvme_controller_stop(pci_get_drvdata(pdev));
	pci_clear_master(pdev);
}

/* The function is about to be reset by somebody else: nobody starts it meanwhile. */
static void reset_prepare(struct pci_dev *pdev)
{
	struct exmap_nvme_controller *ctrl = pci_get_drvdata(pdev);

	mutex_lock(&ctrl->lock);
	exmap_nvme_controller_fail(ctrl, -EIO);
}

static void reset_done(struct pci_dev *pdev)
{
	struct exmap_nvme_controller *ctrl = pci_get_drvdata(pdev);

	mutex_unlock(&ctrl->lock);
}

static const struct pci_error_handlers error_handlers = {
	.reset_prepare	= reset_prepare,
	.reset_done	= reset_done,
};

/* Matches nothing: only driver_override binds a device. */
static const struct pci_device_id no_ids[] = {
	{ }
};

static struct pci_driver exmap_nvme_driver = {
	.name			= "exmap-nvme",
	.id_table		= no_ids,
	.probe			= probe,
	.remove			= give_back,
	.shutdown		= power_off,
	.err_handler		= &error_handlers,
	.driver_managed_dma	= true,
};

int exmap_nvme_init(void)
{
	return pci_register_driver(&exmap_nvme_driver);
}

void exmap_nvme_exit(void)
{
	pci_unregister_driver(&exmap_nvme_driver);
	exmap_nvme_events_exit();
}
