// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - NVMe I/O queue pairs that user space drives.
 *
 * The order of death: the queue is deleted at the controller, or else the
 * controller is reset, or else it loses the right to access memory; then its
 * memory and the pool's frames leave the IOMMU domain; then they may be freed.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "nvme.h"

#define ADDRESSES	64	/* that one step of NVME_ADDRESSES copies */

static unsigned int pages_for(u32 depth, size_t entry)
{
	return DIV_ROUND_UP(depth * entry, PAGE_SIZE);
}

/* From the page of the first doorbell to the end of the page of the last. */
static u64 doorbell_start(const struct exmap_nvme_queue *queue)
{
	return round_down(exmap_nvme_doorbell(queue->ctrl, queue->qid, false), PAGE_SIZE);
}

static u64 doorbell_bytes(const struct exmap_nvme_queue *queue)
{
	u64 last = exmap_nvme_doorbell(queue->ctrl, queue->qid, true);

	return round_down(last, PAGE_SIZE) + PAGE_SIZE - doorbell_start(queue);
}

/* Take the doorbells away from user space, which sees ordinary memory from now on. */
static void revoke(struct exmap_nvme_queue *queue)
{
	mutex_lock(&queue->map_lock);
	queue->revoked = true;
	mutex_unlock(&queue->map_lock);
	if (queue->mapping)
		unmap_mapping_range(queue->mapping, EXMAP_NVME_OFF_DOORBELLS,
				    doorbell_bytes(queue), 1);
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

/* The end of a queue, unless it is dead.  The controller may be reset for it. */
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

/* While @region->setup is held its pool keeps its size. */
static int create_queue(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct exmap_region *region = queue->region;
	int ret = -EPROTO;

	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	mutex_lock(&queue->ctrl->lock);
	if (!region->dead)
		ret = create_locked(queue, prp_pages);
	mutex_unlock(&queue->ctrl->lock);
	mutex_unlock(&region->setup);
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

/* What is left when the controller has forgotten the queue. */
static void free_queue(struct exmap_nvme_queue *queue)
{
	uncharge(queue);
	free_blocks(queue);
	__free_page(queue->dummy);
	exmap_region_put(queue->region);
	exmap_nvme_controller_put(queue->ctrl);
	kfree(queue);
}

static struct exmap_nvme_queue *alloc_queue(struct exmap_region *region,
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

static int queue_release(struct inode *inode, struct file *file)
{
	struct exmap_nvme_queue *queue = file->private_data;

	mutex_lock(&queue->ctrl->lock);
	delete_queue(queue);
	mutex_unlock(&queue->ctrl->lock);
	free_queue(queue);
	return 0;
}

/* The pages behind an offset, or NULL: the doorbells. */
static const struct exmap_nvme_block *find_block(struct exmap_nvme_queue *queue,
						 unsigned long pgoff, unsigned long *index)
{
	static const u64 area = EXMAP_NVME_OFF_CQ >> PAGE_SHIFT;

	*index = pgoff % area;
	switch (pgoff / area) {
	case EXMAP_NVME_OFF_SQ / EXMAP_NVME_OFF_CQ:
		return &queue->sq;
	case EXMAP_NVME_OFF_CQ / EXMAP_NVME_OFF_CQ:
		return &queue->cq;
	case EXMAP_NVME_OFF_PRP / EXMAP_NVME_OFF_CQ:
		return &queue->prp;
	default:
		return NULL;
	}
}

/* A doorbell's page, or that which stands for it. */
static vm_fault_t fault_doorbell(struct vm_fault *vmf, struct exmap_nvme_queue *queue,
				 unsigned long index)
{
	u64 start = queue->ctrl->doorbells + doorbell_start(queue);
	struct vm_area_struct *vma = vmf->vma;
	vm_fault_t ret;

	mutex_lock(&queue->map_lock);
	if (queue->revoked)
		ret = vmf_insert_pfn(vma, vmf->address, page_to_pfn(queue->dummy));
	else
		ret = vmf_insert_pfn_prot(vma, vmf->address, PHYS_PFN(start) + index,
					  pgprot_noncached(vma->vm_page_prot));
	mutex_unlock(&queue->map_lock);
	return ret;
}

static vm_fault_t queue_fault(struct vm_fault *vmf)
{
	struct exmap_nvme_queue *queue = vmf->vma->vm_private_data;
	const struct exmap_nvme_block *block;
	unsigned long index;

	/* a copy of the mapping in a child of fork */
	if (vmf->vma->vm_mm != queue->region->mm)
		return VM_FAULT_SIGBUS;
	block = find_block(queue, vmf->pgoff, &index);
	if (!block)
		return fault_doorbell(vmf, queue, index);
	if (index >= block->nr)
		return VM_FAULT_SIGBUS;
	vmf->page = block->pages + index;
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct queue_vm_ops = {
	.fault = queue_fault,
};

static int queue_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct exmap_nvme_queue *queue = file->private_data;
	const struct exmap_nvme_block *block;
	unsigned long index, nr;

	if (vma->vm_mm != queue->region->mm)
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	if (vma->vm_pgoff >= (EXMAP_NVME_OFF_PRP + EXMAP_NVME_OFF_CQ) >> PAGE_SHIFT)
		return -EINVAL;
	block = find_block(queue, vma->vm_pgoff, &index);
	nr = block ? block->nr : doorbell_bytes(queue) >> PAGE_SHIFT;
	if (index + vma_pages(vma) > nr)
		return -EINVAL;
	if (block == &queue->cq && (vma->vm_flags & VM_WRITE))
		return -EACCES;

	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	if (block == &queue->cq)
		vm_flags_clear(vma, VM_MAYWRITE);
	if (!block)
		vm_flags_set(vma, VM_IO | VM_PFNMAP);
	vma->vm_private_data = queue;
	vma->vm_ops = &queue_vm_ops;
	return 0;
}

static void fill_info(struct exmap_nvme_queue *queue, struct exmap_nvme_info *info)
{
	struct exmap_nvme_controller *ctrl = queue->ctrl;
	u64 start = doorbell_start(queue);

	memset(info, 0, sizeof(*info));
	mutex_lock(&ctrl->lock);
	exmap_nvme_controller_check(ctrl);
	info->features = ctrl->domain ? EXMAP_NVME_IOMMU : 0;
	info->features |= ctrl->vwc ? EXMAP_NVME_WRITE_CACHE : 0;
	info->error = -queue->error;
	info->nsid = ctrl->nsid;
	info->lba_size = 1u << ctrl->lba_shift;
	info->max_transfer = ctrl->max_transfer;
	info->namespace_lbas = ctrl->nr_lbas;
	info->oncs = ctrl->oncs;
	mutex_unlock(&ctrl->lock);
	info->qid = queue->qid;
	info->depth = queue->depth;
	info->iova_base = EXMAP_NVME_POOL;
	info->prp_base = queue->prp.nr ? queue->prp.addr : 0;
	info->prp_pages = queue->prp.nr;
	info->doorbell_stride = ctrl->stride;
	info->sq_doorbell = exmap_nvme_doorbell(ctrl, queue->qid, false) - start;
	info->cq_doorbell = exmap_nvme_doorbell(ctrl, queue->qid, true) - start;
	info->doorbell_bytes = doorbell_bytes(queue);
}

static long queue_info(struct exmap_nvme_queue *queue, void __user *arg)
{
	struct exmap_nvme_info info;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	if (info.flags)
		return -EINVAL;
	fill_info(queue, &info);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long queue_reset(struct exmap_nvme_queue *queue, void __user *arg)
{
	struct exmap_nvme_reset reset;
	long ret;

	if (copy_from_user(&reset, arg, sizeof(reset)))
		return -EFAULT;
	if (memchr_inv(&reset, 0, sizeof(reset)))
		return -EINVAL;
	mutex_lock(&queue->ctrl->lock);
	ret = queue->error;
	if (!ret)
		exmap_nvme_controller_fail(queue->ctrl, -EIO);
	mutex_unlock(&queue->ctrl->lock);
	return ret;
}

/* Where the controller sees a frame; 0 if there is none. */
static u64 frame_address(struct exmap_nvme_queue *queue, u64 frame, bool iommu)
{
	struct exmap_pool *pool = &queue->region->pool;

	if (frame >= pool->capacity || !pool->pages[frame])
		return 0;
	return iommu ? EXMAP_NVME_POOL + (frame << PAGE_SHIFT) : page_to_phys(pool->pages[frame]);
}

/* -ENODEV or -EIO for a dead queue: then it is not ours to tell. */
static int look_up(struct exmap_nvme_queue *queue, u64 start, unsigned int nr, u64 *addresses)
{
	struct exmap_region *region = queue->region;
	unsigned int i;
	int ret;

	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	mutex_lock(&queue->ctrl->lock);
	ret = queue->error;
	for (i = 0; !ret && i < nr; i++)
		addresses[i] = frame_address(queue, start + i, queue->ctrl->domain);
	mutex_unlock(&queue->ctrl->lock);
	mutex_unlock(&region->setup);
	return ret;
}

static long queue_addresses(struct exmap_nvme_queue *queue, void __user *arg)
{
	struct exmap_nvme_addresses args;
	u64 addresses[ADDRESSES];
	u64 done;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags || args.start > EXMAP_POOL_MAX_PAGES || args.count > EXMAP_POOL_MAX_PAGES)
		return -EINVAL;
	for (done = 0; done < args.count; done += ADDRESSES) {
		unsigned int nr = min_t(u64, args.count - done, ADDRESSES);
		int ret = look_up(queue, args.start + done, nr, addresses);

		if (ret)
			return ret;
		if (copy_to_user((u64 __user *)u64_to_user_ptr(args.addresses) + done, addresses,
				 nr * sizeof(u64)))
			return -EFAULT;
	}
	return 0;
}

static long queue_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct exmap_nvme_queue *queue = file->private_data;
	void __user *user = (void __user *)arg;

	if (current->mm != queue->region->mm)
		return -EPERM;
	switch (cmd) {
	case EXMAP_IOCTL_NVME_INFO:
		return queue_info(queue, user);
	case EXMAP_IOCTL_NVME_RESET:
		return queue_reset(queue, user);
	case EXMAP_IOCTL_NVME_ADDRESSES:
		return queue_addresses(queue, user);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations queue_fops = {
	.owner		= THIS_MODULE,
	.release	= queue_release,
	.mmap		= queue_mmap,
	.unlocked_ioctl	= queue_ioctl,
	.llseek		= noop_llseek,
};

static int check_args(const struct exmap_nvme_open *args)
{
	if (args->flags || args->reserved8 ||
	    memchr_inv(args->reserved, 0, sizeof(args->reserved)))
		return -EINVAL;
	if (args->device > 31 || args->function > 7)
		return -EINVAL;
	if (args->depth < 2 || args->depth > EXMAP_NVME_MAX_DEPTH ||
	    args->prp_pages > EXMAP_NVME_MAX_PRP_PAGES)
		return -EINVAL;
	return 0;
}

/* A file that owns the queue; queue_release undoes what has been done so far. */
static struct file *open_file(struct exmap_nvme_queue *queue, u32 prp_pages)
{
	struct file *file = exmap_view_file("[exmap-nvme]", O_RDWR, &queue_fops, queue);
	int ret;

	if (IS_ERR(file)) {
		free_queue(queue);
		return file;
	}
	queue->mapping = file->f_mapping;
	ret = charge(queue, prp_pages);
	if (!ret)
		ret = create_queue(queue, prp_pages);
	if (ret) {
		fput(file);
		return ERR_PTR(ret);
	}
	return file;
}

/* EXMAP_IOCTL_NVME_OPEN: returns a descriptor. */
int exmap_nvme_queue_open(struct exmap_region *region, const struct exmap_nvme_open *args)
{
	struct exmap_nvme_queue *queue;
	struct file *file;
	int fd, ret = check_args(args);

	if (ret)
		return ret;
	queue = alloc_queue(region, args);
	if (IS_ERR(queue))
		return PTR_ERR(queue);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		free_queue(queue);
		return fd;
	}
	file = open_file(queue, args->prp_pages);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}
