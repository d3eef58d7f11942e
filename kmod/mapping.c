// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - a region's mapping: mmap, faults, and what may not be done to it.
 */
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "exmap.h"

static vm_fault_t region_fault(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;
	u64 page = (vmf->address - vmf->vma->vm_start) >> PAGE_SHIFT;

	/* a copy of the mapping in a child of fork */
	if (vmf->vma->vm_mm != region->mm)
		return VM_FAULT_SIGSEGV;
	return exmap_interface_fault(region, page, vmf->flags & FAULT_FLAG_WRITE);
}

/* A write to the zero page that EXMAP_FAULT_ZERO has mapped. */
static vm_fault_t region_pfn_mkwrite(struct vm_fault *vmf)
{
	return VM_FAULT_SIGSEGV;
}

/* A write to a frame's page: its entry is read-only because of a snapshot. */
static vm_fault_t region_page_mkwrite(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;

	if (vmf->vma->vm_mm != region->mm)
		return VM_FAULT_SIGSEGV;
	return exmap_interface_mkwrite(region, (vmf->address - vmf->vma->vm_start) >> PAGE_SHIFT);
}

static int region_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static int region_mremap(struct vm_area_struct *vma)
{
	return -EINVAL;
}

static int region_mprotect(struct vm_area_struct *vma, unsigned long start, unsigned long end,
			   unsigned long newflags)
{
	return -EACCES;
}

#ifdef CONFIG_NUMA
/* Having a policy, if only this one, keeps NUMA balancing away. */
static struct mempolicy *region_get_policy(EXMAP_GET_POLICY_ARGS)
{
	return NULL;
}

#define REGION_GET_POLICY .get_policy = region_get_policy,
#else
#define REGION_GET_POLICY
#endif

/*
 * Nothing is mapped around a page.  Since Linux 6.6 the core calls fault and
 * mkwrite under the lock of the vma alone if there is a map_pages, and without
 * it goes back for mmap_lock each time.
 */
static vm_fault_t region_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end)
{
	return 0;
}

static const struct vm_operations_struct region_vm_ops = {
	.fault		= region_fault,
	.map_pages	= region_map_pages,
	.may_split	= region_may_split,
	.mremap		= region_mremap,
	.mprotect	= region_mprotect,
	REGION_GET_POLICY
};

/* mkwrite forbids long-term pins for writing, so only those regions have it that need it */
static const struct vm_operations_struct region_mkwrite_vm_ops = {
	.fault		= region_fault,
	.map_pages	= region_map_pages,
	.page_mkwrite	= region_page_mkwrite,
	.pfn_mkwrite	= region_pfn_mkwrite,
	.may_split	= region_may_split,
	.mremap		= region_mremap,
	.mprotect	= region_mprotect,
	REGION_GET_POLICY
};

static int check_mapping(struct exmap_region *region, struct vm_area_struct *vma)
{
	if (vma->vm_mm != region->mm)
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	if (!IS_ALIGNED(vma->vm_start, PMD_SIZE) || vma_pages(vma) > EXMAP_REGION_MAX_PAGES)
		return -EINVAL;
	return 0;
}

static void set_mapping(struct exmap_region *region, struct vm_area_struct *vma)
{
	vma->vm_private_data = region;
	vma->vm_ops = region->flags & EXMAP_MAPPING_FLAGS ? &region_mkwrite_vm_ops : &region_vm_ops;

	WRITE_ONCE(region->start, vma->vm_start);
	/* vma->vm_page_prot may lack the write bit, for page_mkwrite */
	region->prot = vm_get_page_prot(vma->vm_flags);
	region->pte_bits = pte_val(pte_mkyoung(pfn_pte(0, region->prot)));
	/* pairs with the lock in exmap_interface_enter */
	smp_store_release(&region->nr_pages, vma_pages(vma));
}

int exmap_region_mmap(struct exmap_region *region, struct vm_area_struct *vma)
{
	u64 nr_pages = vma_pages(vma);
	struct exmap_chunk **chunks;
	struct page **residency;
	int ret = check_mapping(region, vma);

	if (ret)
		return ret;
	ret = -ENOMEM;
	chunks = kvcalloc(DIV_ROUND_UP(nr_pages, EXMAP_CHUNK_PAGES), sizeof(*chunks),
			  EXMAP_GFP);
	residency = kvcalloc(DIV_ROUND_UP(nr_pages, EXMAP_RESIDENCY_WORDS), sizeof(*residency),
			     EXMAP_GFP);
	if (!chunks || !residency)
		goto out;

	/* takes the vma's lock, under which faults take the interfaces' */
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP | VM_NOHUGEPAGE, VM_MAYEXEC);
	exmap_region_freeze(region);
	ret = -EBUSY;
	if (!region->nr_pages && !region->dead) {
		swap(region->chunks, chunks);
		swap(region->residency, residency);
		set_mapping(region, vma);
		ret = 0;
	}
	exmap_region_thaw(region);
out:
	kvfree(chunks);
	kvfree(residency);
	return ret;
}
