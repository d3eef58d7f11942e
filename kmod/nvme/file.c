// SPDX-License-Identifier: GPL-2.0
/* exmap - NVMe I/O queue pairs: what user space does with the descriptor of one. */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/uaccess.h>

#include "nvme.h"

#define ADDRESSES	64	/* that one step of NVME_ADDRESSES copies */

static int queue_release(struct inode *inode, struct file *file)
{
	struct exmap_nvme_queue *queue = file->private_data;

	exmap_nvme_queue_delete(queue);
	exmap_nvme_queue_free(queue);
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
		return &queue->pair.sq;
	case EXMAP_NVME_OFF_CQ / EXMAP_NVME_OFF_CQ:
		return &queue->pair.cq;
	case EXMAP_NVME_OFF_PRP / EXMAP_NVME_OFF_CQ:
		return &queue->pair.prp;
	default:
		return NULL;
	}
}

/* How many pages there are at an offset that is not in a block. */
static unsigned long count_revocable(const struct exmap_nvme_queue *queue, unsigned long pgoff)
{
	if (pgoff < EXMAP_NVME_OFF_SHADOW >> PAGE_SHIFT)
		return exmap_nvme_doorbell_bytes(queue) >> PAGE_SHIFT;
	return queue->shadow;
}

/* The page of a doorbell, of shadows, or of event indexes; or that which stands for it. */
static vm_fault_t fault_doorbell(struct vm_fault *vmf, struct exmap_nvme_queue *queue,
				 unsigned long index)
{
	u64 start = queue->pair.ctrl->doorbells + exmap_nvme_doorbell_start(queue);
	struct vm_area_struct *vma = vmf->vma;
	vm_fault_t ret;

	mutex_lock(&queue->map_lock);
	if (queue->revoked)
		ret = vmf_insert_pfn(vma, vmf->address, page_to_pfn(queue->dummy));
	else if (vmf->pgoff < EXMAP_NVME_OFF_SHADOW >> PAGE_SHIFT)
		ret = vmf_insert_pfn_prot(vma, vmf->address, PHYS_PFN(start) + index,
					  pgprot_noncached(vma->vm_page_prot));
	else
		ret = vmf_insert_pfn(vma, vmf->address,
				     exmap_nvme_shadow_pfn(queue->pair.ctrl, vmf->pgoff));
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
	bool read_only;

	if (vma->vm_mm != queue->region->mm)
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	if (vma->vm_pgoff >= (EXMAP_NVME_OFF_EVENT_IDX + EXMAP_NVME_OFF_CQ) >> PAGE_SHIFT)
		return -EINVAL;
	block = find_block(queue, vma->vm_pgoff, &index);
	nr = block ? block->nr : count_revocable(queue, vma->vm_pgoff);
	if (index + vma_pages(vma) > nr)
		return -EINVAL;
	read_only = block == &queue->pair.cq ||
		    vma->vm_pgoff >= EXMAP_NVME_OFF_EVENT_IDX >> PAGE_SHIFT;
	if (read_only && (vma->vm_flags & VM_WRITE))
		return -EACCES;

	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	if (read_only)
		vm_flags_clear(vma, VM_MAYWRITE);
	if (!block)
		vm_flags_set(vma, VM_IO | VM_PFNMAP);
	vma->vm_private_data = queue;
	vma->vm_ops = &queue_vm_ops;
	return 0;
}

/* What is said of a controller, whoever asks; it is locked. */
void exmap_nvme_controller_describe(struct exmap_nvme_controller *ctrl,
				    struct exmap_nvme_info *info)
{
	lockdep_assert_held(&ctrl->lock);
	info->features = ctrl->domain ? EXMAP_NVME_IOMMU : 0;
	info->features |= ctrl->vwc ? EXMAP_NVME_WRITE_CACHE : 0;
	info->features |= exmap_nvme_shadow_offered(ctrl) ? EXMAP_NVME_SHADOW_OFFERED : 0;
	info->nsid = ctrl->nsid;
	info->lba_size = 1u << ctrl->lba_shift;
	info->max_transfer = ctrl->max_transfer;
	info->namespace_lbas = ctrl->nr_lbas;
	info->oncs = ctrl->oncs;
}

static void fill_info(struct exmap_nvme_queue *queue, struct exmap_nvme_info *info)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;
	u64 start = exmap_nvme_doorbell_start(queue);

	memset(info, 0, sizeof(*info));
	mutex_lock(&ctrl->lock);
	exmap_nvme_controller_check(ctrl);
	exmap_nvme_controller_describe(ctrl, info);
	info->error = -queue->error;
	mutex_unlock(&ctrl->lock);
	info->qid = queue->pair.qid;
	info->depth = queue->pair.depth;
	info->iova_base = EXMAP_NVME_POOL;
	info->prp_base = queue->pair.prp.nr ? queue->pair.prp.addr : 0;
	info->prp_pages = queue->pair.prp.nr;
	info->doorbell_stride = ctrl->stride;
	info->sq_doorbell = exmap_nvme_doorbell(ctrl, queue->pair.qid, false) - start;
	info->cq_doorbell = exmap_nvme_doorbell(ctrl, queue->pair.qid, true) - start;
	info->doorbell_bytes = exmap_nvme_doorbell_bytes(queue);
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
	mutex_lock(&queue->pair.ctrl->lock);
	ret = queue->error;
	if (!ret)
		exmap_nvme_controller_fail(queue->pair.ctrl, -EIO);
	mutex_unlock(&queue->pair.ctrl->lock);
	return ret;
}

/* Where the controller sees a frame; 0 if there is none. */
static u64 frame_address(struct exmap_nvme_queue *queue, u64 frame)
{
	struct exmap_nvme_controller *ctrl = queue->pair.ctrl;
	struct exmap_pool *pool = &queue->region->pool;

	if (frame >= pool->capacity || !pool->pages[frame])
		return 0;
	return exmap_nvme_frame_address(ctrl, ctrl->owner, frame, pool->pages[frame]);
}

/* -ENODEV or -EIO for a dead queue: then it is not ours to tell. */
static int look_up(struct exmap_nvme_queue *queue, u64 start, unsigned int nr, u64 *addresses)
{
	struct exmap_region *region = queue->region;
	unsigned int i;
	int ret;

	if (mutex_lock_killable(&region->setup))
		return -EINTR;
	mutex_lock(&queue->pair.ctrl->lock);
	ret = queue->error;
	for (i = 0; !ret && i < nr; i++)
		addresses[i] = frame_address(queue, start + i);
	mutex_unlock(&queue->pair.ctrl->lock);
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
	const u64 flags = EXMAP_NVME_INTERRUPTS | EXMAP_NVME_SHADOW;

	if ((args->flags & ~flags) || args->reserved8 || args->reserved32 ||
	    memchr_inv(args->reserved, 0, sizeof(args->reserved)))
		return -EINVAL;
	if (args->device > 31 || args->function > 7)
		return -EINVAL;
	if (args->eventfd && !(args->flags & EXMAP_NVME_INTERRUPTS))
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
		exmap_nvme_queue_free(queue);
		return file;
	}
	queue->mapping = file->f_mapping;
	ret = exmap_nvme_queue_create(queue, prp_pages);
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
	queue = exmap_nvme_queue_alloc(region, args);
	if (IS_ERR(queue))
		return PTR_ERR(queue);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		exmap_nvme_queue_free(queue);
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
