/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Force-included before everything else.  The module is written for the newest
 * supported kernel; what older ones lack is defined here.
 */
#ifndef _EXMAP_COMPAT_H
#define _EXMAP_COMPAT_H

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/uio.h>
#include <linux/version.h>
#include <net/genetlink.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags &= ~flags;
}

static inline void vm_flags_mod(struct vm_area_struct *vma, unsigned long set,
				unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

/* 5e31275cc997: page faults take the lock of the vma alone */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
static inline void vma_start_write(struct vm_area_struct *vma)
{
}
#endif

/* 2f8b54447a14: pte_mkwrite takes the vma; the plain one became _novma */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
static inline pte_t pte_mkwrite_novma(pte_t pte)
{
	return pte_mkwrite(pte);
}
#endif

/* de5f84338970: iter_iov_addr and iter_iov_len */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
static inline void exmap_iter_segment(const struct iov_iter *iter, void __user **addr, size_t *len)
{
	if (iter_is_ubuf(iter)) {
		*addr = iter->ubuf + iter->iov_offset;
		*len = iov_iter_count(iter);
	} else {
		struct iovec segment = iov_iter_iovec(iter);

		*addr = segment.iov_base;
		*len = segment.iov_len;
	}
}
#else
static inline void exmap_iter_segment(const struct iov_iter *iter, void __user **addr, size_t *len)
{
	*addr = iter_iov_addr(iter);
	*len = min(iter_iov_len(iter), iov_iter_count(iter));
}
#endif

/* a5e72a6bac14: IOMMU_CAP_INTR_REMAP, which was of devices, became isolated MSI, of groups */
static inline bool exmap_msi_is_isolated(struct device *dev)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	return device_iommu_capable(dev, IOMMU_CAP_INTR_REMAP);
#else
	struct iommu_group *group = iommu_group_get(dev);
	bool isolated = group && iommu_group_has_isolated_msi(group);

	iommu_group_put(group);
	return isolated;
#endif
}

/* 3652117f8548: eventfd_signal always adds 1 */
static inline void exmap_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx, 1);
#else
	eventfd_signal(ctx);
#endif
}

/* 529ce23a764f: mm_get_unmapped_area; that of 7.2 is of the caller's memory, that of 6.12 of any */
static inline unsigned long exmap_mm_unmapped_area(struct file *file, unsigned long addr,
						   unsigned long len, unsigned long pgoff,
						   unsigned long flags)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 10, 0)
	return current->mm->get_unmapped_area(file, addr, len, pgoff, flags);
#elif LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	return mm_get_unmapped_area(current->mm, file, addr, len, pgoff, flags);
#else
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
#endif
}

/* ddc1a5cbc05d: get_policy has the interleave index */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
#define EXMAP_GET_POLICY_ARGS	struct vm_area_struct *vma, unsigned long addr
#else
#define EXMAP_GET_POLICY_ARGS	struct vm_area_struct *vma, unsigned long addr, pgoff_t *ilx
#endif

#include <linux/io_uring.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
#include <linux/io_uring/cmd.h>
#endif

/* fd9b8547bc5c: the command is read through the sqe */
static inline const void *exmap_uring_payload(const struct io_uring_cmd *cmd)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	return cmd->cmd;
#else
	return cmd->sqe->cmd;
#endif
}

static inline int exmap_uring_import(u64 addr, size_t len, int rw, struct iov_iter *iter,
				     struct io_uring_cmd *cmd, unsigned int issue_flags)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
	return io_uring_cmd_import_fixed(addr, len, rw, iter, cmd);
#else
	return io_uring_cmd_import_fixed(addr, len, rw, iter, cmd, issue_flags);
#endif
}

/* 6.1 takes a positive result of ->uring_cmd for a failure of the request */
static inline int exmap_uring_result(struct io_uring_cmd *cmd, int ret, unsigned int issue_flags)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	if (ret > 0) {
		io_uring_cmd_done(cmd, ret, 0, issue_flags);
		return -EIOCBQUEUED;
	}
#endif
	return ret;
}

/* 7288dd2fd488: a dump has a struct genl_info */
static inline struct nlattr **exmap_genl_dump_attrs(struct netlink_callback *cb)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	return genl_dumpit_info(cb)->attrs;
#else
	return genl_info_dump(cb)->attrs;
#endif
}

/*
 * From 6.15 on, AMD processors with INVLPGB may give a process a global ASID,
 * whose translations stay behind on CPUs that are no longer in mm_cpumask.
 */
static inline bool exmap_tlb_needs_every_cpu(void)
{
#ifdef X86_FEATURE_INVLPGB
	return cpu_feature_enabled(X86_FEATURE_INVLPGB);
#else
	return false;
#endif
}

/*
 * Is a CPU in lazy TLB mode?  The variable is exported, but asm/tlbflush.h shows
 * it to built-in code alone.  Where its layout has not been checked every CPU
 * counts as active, which costs interrupts and nothing else.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
struct tlb_state_shared {
	bool is_lazy;
};

DECLARE_PER_CPU_SHARED_ALIGNED(struct tlb_state_shared, cpu_tlbstate_shared);

static inline bool exmap_cpu_is_lazy(int cpu)
{
	return per_cpu(cpu_tlbstate_shared.is_lazy, cpu);
}
#else
static inline bool exmap_cpu_is_lazy(int cpu)
{
	return false;
}
#endif

/* the line "TLB" of /proc/interrupts; its counters became an array after 6.12 */
static inline void exmap_count_tlb_interrupt(void)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	inc_irq_stat(irq_tlb_count);
#else
	inc_irq_stat(TLB);
#endif
}

#include <linux/iommu.h>
#include <linux/pci.h>

/* 1369459b2e21: iommu_map says how to allocate */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline int exmap_iommu_map(struct iommu_domain *domain, unsigned long iova,
				  phys_addr_t addr, size_t size, int prot)
{
	return iommu_map(domain, iova, addr, size, prot);
}
#else
static inline int exmap_iommu_map(struct iommu_domain *domain, unsigned long iova,
				  phys_addr_t addr, size_t size, int prot)
{
	return iommu_map(domain, iova, addr, size, prot, GFP_KERNEL_ACCOUNT);
}
#endif

/* a domain for a device, rather than a bus */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static inline struct iommu_domain *iommu_paging_domain_alloc(struct device *dev)
{
	struct iommu_domain *domain = iommu_domain_alloc(dev->bus);

	return domain ?: ERR_PTR(-ENOMEM);
}
#endif

#endif /* _EXMAP_COMPAT_H */
