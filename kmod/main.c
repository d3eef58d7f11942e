// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - explicit page mapping for database systems: the module and its device.
 *
 * The specification is uapi/exmap.h.
 */
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>

#include "exmap.h"
#include "trace.h"

LIST_HEAD(exmap_regions);
DEFINE_MUTEX(exmap_regions_lock); /* protects exmap_regions and its seq */
u32 exmap_regions_seq = 1; /* changes of the list, for netlink */

unsigned int exmap_default_threshold = 8192;

static int set_threshold(const char *value, const struct kernel_param *param)
{
	return param_set_uint_minmax(value, param, 1, EXMAP_FLUSH_THRESHOLD_MAX);
}

static const struct kernel_param_ops threshold_ops = {
	.set = set_threshold,
	.get = param_get_uint,
};
module_param_cb(flush_threshold, &threshold_ops, &exmap_default_threshold, 0644);
MODULE_PARM_DESC(flush_threshold,
		 "pages that an interface frees lazily before it flushes, for new regions");

static int exmap_open(struct inode *inode, struct file *file)
{
	struct exmap_handle *handle = kzalloc(sizeof(*handle), EXMAP_GFP);

	if (!handle)
		return -ENOMEM;
	handle->own = exmap_region_create(inode);
	if (IS_ERR(handle->own)) {
		int ret = PTR_ERR(handle->own);

		kfree(handle);
		return ret;
	}
	handle->region = handle->own;
	file->private_data = handle;
	return 0;
}

static int exmap_release(struct inode *inode, struct file *file)
{
	struct exmap_handle *handle = file->private_data;

	if (handle->region != handle->own)
		exmap_region_put(handle->region);
	exmap_region_put(handle->own);
	kfree(handle);
	return 0;
}

static int exmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct exmap_region *region = exmap_file_region(file);
	unsigned long pgoff = vma->vm_pgoff;

	if (pgoff == EXMAP_OFF_EXMAP >> PAGE_SHIFT)
		return exmap_region_mmap(region, vma);
	if (pgoff >= EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT &&
	    pgoff < EXMAP_OFF_INTERFACE_MAX >> PAGE_SHIFT)
		return exmap_interface_mmap(region, vma);
	if (pgoff >= EXMAP_OFF_RESIDENCY >> PAGE_SHIFT &&
	    pgoff < EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT)
		return exmap_residency_mmap(region, vma);
	if (pgoff >= EXMAP_OFF_PTEXPORT >> PAGE_SHIFT &&
	    pgoff < EXMAP_OFF_RESIDENCY >> PAGE_SHIFT)
		return exmap_residency_export_mmap(region, vma);
	return -EINVAL;
}

/*
 * The region gets an address of its own chunks.  Refusing a second one here,
 * rather than in mmap, also refuses mremap before it has moved anything.
 */
static unsigned long exmap_get_unmapped_area(struct file *file, unsigned long addr,
					     unsigned long len, unsigned long pgoff,
					     unsigned long flags)
{
	struct exmap_region *region = exmap_file_region(file);

	if (pgoff != EXMAP_OFF_EXMAP >> PAGE_SHIFT)
		return exmap_mm_unmapped_area(file, addr, len, pgoff, flags);
	if (READ_ONCE(region->nr_pages))
		return -EBUSY;
	if (flags & MAP_FIXED)
		return addr;
	if (len > TASK_SIZE - PMD_SIZE)
		return -ENOMEM;
	addr = exmap_mm_unmapped_area(file, round_down(addr, PMD_SIZE),
				      len + PMD_SIZE - PAGE_SIZE, pgoff, flags);
	return IS_ERR_VALUE(addr) ? addr : round_up(addr, PMD_SIZE);
}

static long ioctl_setup(struct exmap_region *region, void __user *arg)
{
	struct exmap_ioctl_setup setup;

	if (copy_from_user(&setup, arg, sizeof(setup)))
		return -EFAULT;
	if (current->mm != region->mm)
		return -EPERM;
	return exmap_region_setup(region, &setup);
}

/* The one call that is made for single pages: copy_from_user would be felt. */
static bool read_params(struct exmap_action_params *params, void __user *arg)
{
	u64 __user *words = arg;
	u64 head, flags;

	BUILD_BUG_ON(sizeof(*params) != 2 * sizeof(u64));
	BUILD_BUG_ON(offsetof(struct exmap_action_params, flags) != sizeof(u64));
	if (!user_read_access_begin(words, sizeof(*params)))
		return false;
	unsafe_get_user(head, words, fault);
	unsafe_get_user(flags, words + 1, fault);
	user_read_access_end();

	params->interface = head;
	params->iov_len = head >> 16;
	params->opcode = head >> 32;
	params->flags = flags;
	return true;

fault:
	user_read_access_end();
	return false;
}

static long ioctl_action(struct exmap_region *region, void __user *arg)
{
	struct exmap_action_params params;

	if (!read_params(&params, arg))
		return -EFAULT;
	return exmap_interface_action(region, params.interface, params.opcode, NULL,
				      params.iov_len, params.flags);
}

static bool unused(struct exmap_region *region)
{
	return !region->interfaces && !region->nr_pages;
}

static long clone_region(struct file *file, struct file *other)
{
	struct exmap_handle *handle = file->private_data;
	struct exmap_region *target;
	long ret = -EINVAL;

	if (other->f_op != &exmap_fops)
		return -EINVAL;
	target = exmap_file_region(other);
	if (target->mm != handle->own->mm || target->mm != current->mm)
		return -EPERM;
	if (mutex_lock_killable(&handle->own->setup))
		return -EINTR;
	if (handle->region == handle->own && target != handle->own && unused(handle->own)) {
		kref_get(&target->ref);
		/* pairs with smp_load_acquire in exmap_file_region */
		smp_store_release(&handle->region, target);
		ret = 0;
	}
	mutex_unlock(&handle->own->setup);
	return ret;
}

static long ioctl_clone(struct file *file, unsigned long arg)
{
	struct file *other = fget(arg);
	long ret;

	if (!other)
		return -EBADF;
	ret = clone_region(file, other);
	fput(other);
	return ret;
}

static long ioctl_stats(struct exmap_region *region, void __user *arg)
{
	struct exmap_ioctl_stats stats;
	struct exmap_counters counters;

	exmap_region_counters(region, &counters);
	memset(&stats, 0, sizeof(stats));
	stats.flags = region->flags;
	stats.buffer_size = counters.total;
	stats.alloc_count = counters.total - counters.free;
	stats.max_interfaces = region->nr_interfaces;
	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static long ioctl_info(struct exmap_region *region, void __user *arg)
{
	struct exmap_info info;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	if (info.flags)
		return -EINVAL;
	memset(&info, 0, sizeof(info));
	info.abi_version = EXMAP_ABI_VERSION;
	info.page_size = PAGE_SIZE;
	info.features = EXMAP_FEATURE_RESIDENCY | EXMAP_FEATURE_SCAN | EXMAP_FEATURE_LAZY |
			EXMAP_FEATURE_RESIZE | EXMAP_FEATURE_FILE_BACKING |
			EXMAP_FEATURE_FAULT_ZERO | EXMAP_FEATURE_SNAPSHOT |
			EXMAP_FEATURE_NVME | EXMAP_FEATURE_NVME_BACKING |
			EXMAP_FEATURE_AT_BLOCKS;
	info.chunk_pages = EXMAP_CHUNK_PAGES;
	info.region_pages = READ_ONCE(region->nr_pages);
	info.flush_threshold = READ_ONCE(region->flush_threshold);
	if (smp_load_acquire(&region->interfaces)) { /* pairs with exmap_region_setup */
		info.setup_flags = region->flags;
		info.pool_pages = READ_ONCE(region->pool.total);
		info.max_interfaces = region->nr_interfaces;
		info.backing_pages = exmap_backing_pages(region);
	}
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long ioctl_counters(struct exmap_region *region, void __user *arg)
{
	struct exmap_counters counters;
	u64 flags;

	if (get_user(flags, (u64 __user *)arg))
		return -EFAULT;
	if (flags)
		return -EINVAL;
	exmap_region_counters(region, &counters);
	return copy_to_user(arg, &counters, sizeof(counters)) ? -EFAULT : 0;
}

/* What SCAN, RESIZE, BARRIER and TUNE have in common. */
static long check_region(struct exmap_region *region)
{
	if (!smp_load_acquire(&region->interfaces)) /* pairs with exmap_region_setup */
		return -EBADF;
	if (current->mm != region->mm)
		return -EPERM;
	return 0;
}

static long ioctl_scan(struct exmap_region *region, void __user *arg)
{
	struct exmap_scan scan;
	long ret = check_region(region);

	if (ret)
		return ret;
	if (copy_from_user(&scan, arg, sizeof(scan)))
		return -EFAULT;
	if (READ_ONCE(region->dead) || !smp_load_acquire(&region->nr_pages)) /* set_mapping */
		return -EPROTO;
	return exmap_residency_scan(region, &scan);
}

static long ioctl_resize(struct exmap_region *region, void __user *arg)
{
	struct exmap_resize resize;
	long ret = check_region(region);

	if (ret)
		return ret;
	if (copy_from_user(&resize, arg, sizeof(resize)))
		return -EFAULT;
	if (resize.flags || memchr_inv(resize.reserved, 0, sizeof(resize.reserved)))
		return -EINVAL;
	ret = exmap_region_resize(region, resize.pool_pages);
	if (ret)
		return ret;
	resize.pool_pages = READ_ONCE(region->pool.total);
	return copy_to_user(arg, &resize, sizeof(resize)) ? -EFAULT : 0;
}

static long ioctl_barrier(struct exmap_region *region, void __user *arg)
{
	struct exmap_barrier barrier;
	long ret = check_region(region);

	if (ret)
		return ret;
	if (copy_from_user(&barrier, arg, sizeof(barrier)))
		return -EFAULT;
	if (memchr_inv(&barrier, 0, sizeof(barrier)))
		return -EINVAL;
	return exmap_region_barrier(region);
}

static long ioctl_tune(struct exmap_region *region, void __user *arg)
{
	struct exmap_tune tune;

	if (current->mm != region->mm)
		return -EPERM;
	if (copy_from_user(&tune, arg, sizeof(tune)))
		return -EFAULT;
	if (tune.flags || memchr_inv(tune.reserved, 0, sizeof(tune.reserved)) ||
	    tune.flush_threshold > EXMAP_FLUSH_THRESHOLD_MAX)
		return -EINVAL;
	if (tune.flush_threshold)
		exmap_region_tune(region, tune.flush_threshold);
	tune.flush_threshold = READ_ONCE(region->flush_threshold);
	return copy_to_user(arg, &tune, sizeof(tune)) ? -EFAULT : 0;
}

static long ioctl_snapshot(struct exmap_region *region, void __user *arg)
{
	struct exmap_snapshot_create create;
	struct exmap_snapshot *snap;
	struct file *file;
	long ret = check_region(region);
	int fd;

	if (ret)
		return ret;
	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	snap = exmap_snapshot_alloc(region, &create);
	ret = PTR_ERR(snap);
	if (IS_ERR(snap))
		goto err_fd;
	file = exmap_view_open(snap);
	ret = PTR_ERR(file);
	if (IS_ERR(file))
		goto err_snapshot;
	ret = exmap_snapshot_freeze(snap, create.reserve);
	if (ret)
		goto err_file;
	fd_install(fd, file);
	return fd;

err_file:
	fput(file);
	goto err_fd;
err_snapshot:
	exmap_snapshot_destroy(snap);
err_fd:
	put_unused_fd(fd);
	return ret;
}

static long ioctl_nvme_open(struct exmap_region *region, void __user *arg)
{
	struct exmap_nvme_open args;
	long ret = check_region(region);

	if (ret)
		return ret;
	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	return exmap_nvme_queue_open(region, &args);
}

static long ioctl_nvme_backing(void __user *arg)
{
	struct exmap_nvme_backing args;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	return exmap_nvme_backing_open(&args);
}

static long exmap_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct exmap_region *region = exmap_file_region(file);
	void __user *user = (void __user *)arg;

	if (likely(cmd == EXMAP_IOCTL_ACTION))
		return ioctl_action(region, user);
	switch (cmd) {
	case EXMAP_IOCTL_SETUP:
		return ioctl_setup(region, user);
	case EXMAP_IOCTL_CLONE:
		return ioctl_clone(file, arg);
	case EXMAP_IOCTL_STATS:
		return ioctl_stats(region, user);
	case EXMAP_IOCTL_INFO:
		return ioctl_info(region, user);
	case EXMAP_IOCTL_COUNTERS:
		return ioctl_counters(region, user);
	case EXMAP_IOCTL_SCAN:
		return ioctl_scan(region, user);
	case EXMAP_IOCTL_RESIZE:
		return ioctl_resize(region, user);
	case EXMAP_IOCTL_BARRIER:
		return ioctl_barrier(region, user);
	case EXMAP_IOCTL_TUNE:
		return ioctl_tune(region, user);
	case EXMAP_IOCTL_SNAPSHOT:
		return ioctl_snapshot(region, user);
	case EXMAP_IOCTL_NVME_OPEN:
		return ioctl_nvme_open(region, user);
	case EXMAP_IOCTL_NVME_BACKING:
		return ioctl_nvme_backing(user);
	default:
		return -ENOTTY;
	}
}

const struct file_operations exmap_fops = {
	.owner			= THIS_MODULE,
	.open			= exmap_open,
	.release		= exmap_release,
	.mmap			= exmap_mmap,
	.get_unmapped_area	= exmap_get_unmapped_area,
	.unlocked_ioctl		= exmap_ioctl,
	.read_iter		= exmap_interface_read_iter,
	.uring_cmd		= exmap_interface_uring_cmd,
	.llseek			= noop_llseek,
};

static struct miscdevice exmap_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "exmap",
	.fops	= &exmap_fops,
	.mode	= 0660,
};

static int __init exmap_init(void)
{
	int ret;

	/* page tables belong to the hypervisor there, and we write entries directly */
	if (cpu_feature_enabled(X86_FEATURE_XENPV)) {
		pr_err("exmap: Xen PV guests are not supported\n");
		return -ENODEV;
	}
	ret = exmap_view_init();
	if (ret)
		return ret;
	ret = exmap_netlink_init();
	if (ret)
		goto err_view;
	ret = exmap_nvme_init();
	if (ret)
		goto err_netlink;
	ret = exmap_selftest();
	if (ret)
		goto err_nvme;
	ret = misc_register(&exmap_device);
	if (ret)
		goto err_nvme;
	return 0;

err_nvme:
	exmap_nvme_exit();
err_netlink:
	exmap_netlink_exit();
err_view:
	exmap_view_exit();
	return ret;
}

static void __exit exmap_exit(void)
{
	misc_deregister(&exmap_device);
	exmap_nvme_exit();
	exmap_netlink_exit();
	exmap_view_exit();
}

module_init(exmap_init);
module_exit(exmap_exit);

MODULE_DESCRIPTION("Explicit page mapping for database systems");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
