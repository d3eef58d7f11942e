// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - presence: the residency map, the accessed and dirty bits, and the
 * read-only export of the page tables.
 */
#include <linux/bitmap.h>
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "exmap.h"
#include "ptable.h"

/* A page of the residency map, made when it is first needed; owned by the region. */
struct page *exmap_residency_page(struct exmap_region *region, u64 index)
{
	struct page *page, *old;

	page = smp_load_acquire(&region->residency[index]); /* pairs with the cmpxchg below */
	if (page)
		return page;
	page = alloc_page(EXMAP_GFP | __GFP_ZERO);
	if (!page)
		return NULL;
	old = cmpxchg(&region->residency[index], NULL, page);
	if (old) {
		put_page(page);
		return old;
	}
	return page;
}

static vm_fault_t residency_fault(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;
	u64 index = vmf->pgoff - (EXMAP_OFF_RESIDENCY >> PAGE_SHIFT);
	struct page *page;

	if (index >= DIV_ROUND_UP(region->nr_pages, EXMAP_RESIDENCY_WORDS))
		return VM_FAULT_SIGBUS;
	page = exmap_residency_page(region, index);
	if (!page)
		return VM_FAULT_SIGBUS;
	get_page(page);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct residency_vm_ops = {
	.fault = residency_fault,
};

/* What both read-only mappings ask for. */
static int check_readonly(struct exmap_region *region, struct vm_area_struct *vma)
{
	if (vma->vm_mm != region->mm)
		return -EPERM;
	if (!smp_load_acquire(&region->nr_pages)) /* pairs with set_mapping */
		return -EPROTO;
	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EACCES;
	return 0;
}

int exmap_residency_mmap(struct exmap_region *region, struct vm_area_struct *vma)
{
	u64 first = vma->vm_pgoff - (EXMAP_OFF_RESIDENCY >> PAGE_SHIFT);
	int ret = check_readonly(region, vma);

	if (ret)
		return ret;
	if (first + vma_pages(vma) > DIV_ROUND_UP(region->nr_pages, EXMAP_RESIDENCY_WORDS))
		return -EINVAL;
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_private_data = region;
	vma->vm_ops = &residency_vm_ops;
	return 0;
}

static vm_fault_t export_fault(struct vm_fault *vmf)
{
	struct exmap_region *region = vmf->vma->vm_private_data;
	u64 nr = vmf->pgoff - (EXMAP_OFF_PTEXPORT >> PAGE_SHIFT);
	struct vm_area_struct *vma = vma_lookup(region->mm, region->start);
	struct page *table;

	/* mmap_lock is held, but the region itself may have been unmapped */
	if (!vma || vma->vm_private_data != region || exmap_chunk_populate(region, nr))
		return VM_FAULT_SIGBUS;
	if (exmap_interface_enter(region, region->ctl))
		return VM_FAULT_SIGBUS;
	table = exmap_chunk_table(region, nr);
	exmap_interface_leave(region->ctl);
	if (!table)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address, page_to_pfn(table));
}

static const struct vm_operations_struct export_vm_ops = {
	.fault = export_fault,
};

/*
 * Only chunks that are the region's alone may be seen: the table of a cut one
 * has entries of its neighbours.
 */
int exmap_residency_export_mmap(struct exmap_region *region, struct vm_area_struct *vma)
{
	u64 first = vma->vm_pgoff - (EXMAP_OFF_PTEXPORT >> PAGE_SHIFT);
	int ret;

	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	ret = check_readonly(region, vma);
	if (ret)
		return ret;
	if (!IS_ALIGNED(region->nr_pages, EXMAP_CHUNK_PAGES))
		return -EFAULT;
	if (first + vma_pages(vma) > exmap_region_chunks(region))
		return -EOVERFLOW;
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP,
		     VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_private_data = region;
	vma->vm_ops = &export_vm_ops;
	return 0;
}

#define SCAN_BLOCK	EXMAP_CHUNK_PAGES

struct scan_block {
	u64 pages[SCAN_BLOCK];
	unsigned int nr;
	DECLARE_BITMAP(present, SCAN_BLOCK);
	DECLARE_BITMAP(accessed, SCAN_BLOCK);
	DECLARE_BITMAP(dirty, SCAN_BLOCK);
};

static int fill_block(struct exmap_region *region, const struct exmap_scan *scan, u64 done,
		      struct scan_block *block)
{
	const u64 __user *vector = u64_to_user_ptr(scan->vector);
	unsigned int i;

	block->nr = min_t(u64, scan->count - done, SCAN_BLOCK);
	if (scan->flags & EXMAP_SCAN_VECTOR) {
		if (copy_from_user(block->pages, vector + done, block->nr * sizeof(u64)))
			return -EFAULT;
	} else {
		for (i = 0; i < block->nr; i++)
			block->pages[i] = scan->start + done + i;
	}
	for (i = 0; i < block->nr; i++) {
		if (block->pages[i] >= region->nr_pages)
			return -EFAULT;
	}
	return 0;
}

/* In a parked chunk too: its entries keep their bits. */
static bool is_mapped(struct exmap_walk *walk, u64 page)
{
	return exmap_walk_to_table(walk, page) &&
	       EXMAP_RES_MAPPED(READ_ONCE(*exmap_walk_word(walk, page)));
}

static void read_page(struct exmap_walk *walk, struct scan_block *block, unsigned int i)
{
	u64 page = block->pages[i];

	if (!is_mapped(walk, page))
		return;
	__set_bit(i, block->present);
	if (exmap_pte_accessed(walk, page))
		__set_bit(i, block->accessed);
	if (exmap_pte_dirty(walk, page))
		__set_bit(i, block->dirty);
}

static int read_block(struct exmap_region *region, struct scan_block *block)
{
	struct exmap_walk walk = { .region = region };
	unsigned int i;
	int ret;

	bitmap_zero(block->present, SCAN_BLOCK);
	bitmap_zero(block->accessed, SCAN_BLOCK);
	bitmap_zero(block->dirty, SCAN_BLOCK);
	ret = exmap_interface_enter(region, region->ctl);
	if (ret)
		return ret;
	for (i = 0; i < block->nr; i++)
		read_page(&walk, block, i);
	exmap_walk_end(&walk);
	exmap_interface_leave(region->ctl);
	return 0;
}

/* Clear the bits that were reported, and no others. */
static int clear_block(struct exmap_region *region, struct scan_block *block, u64 flags)
{
	struct exmap_walk walk = { .region = region };
	unsigned int i;
	int ret;

	ret = exmap_interface_enter(region, region->ctl);
	if (ret)
		return ret;
	for_each_set_bit(i, block->present, block->nr) {
		u64 page = block->pages[i];

		if (!is_mapped(&walk, page))
			continue;
		if ((flags & EXMAP_SCAN_CLEAR_ACCESSED) && test_bit(i, block->accessed))
			exmap_pte_clear_accessed(&walk, page);
		if ((flags & EXMAP_SCAN_CLEAR_DIRTY) && test_bit(i, block->dirty))
			exmap_pte_clear_dirty(&walk, page);
	}
	exmap_walk_end(&walk);
	exmap_interface_leave(region->ctl);
	return 0;
}

static int put_bitmap(u64 user, u64 done, const unsigned long *bitmap, unsigned int nr)
{
	u8 __user *out = u64_to_user_ptr(user);

	if (user && copy_to_user(out + done / BITS_PER_BYTE, bitmap,
				 DIV_ROUND_UP(nr, BITS_PER_BYTE)))
		return -EFAULT;
	return 0;
}

static int scan_one_block(struct exmap_region *region, const struct exmap_scan *scan, u64 done,
			  struct scan_block *block)
{
	int ret = fill_block(region, scan, done, block);

	if (ret)
		return ret;
	ret = read_block(region, block);
	if (ret)
		return ret;
	if (put_bitmap(scan->present, done, block->present, block->nr) ||
	    put_bitmap(scan->accessed, done, block->accessed, block->nr) ||
	    put_bitmap(scan->dirty, done, block->dirty, block->nr))
		return -EFAULT;
	if (scan->flags & (EXMAP_SCAN_CLEAR_ACCESSED | EXMAP_SCAN_CLEAR_DIRTY))
		ret = clear_block(region, block, scan->flags);
	return ret;
}

static int check_scan(const struct exmap_scan *scan)
{
	const u64 known = EXMAP_SCAN_VECTOR | EXMAP_SCAN_CLEAR_ACCESSED | EXMAP_SCAN_CLEAR_DIRTY;

	if (scan->flags & ~known || scan->reserved)
		return -EINVAL;
	if (scan->flags & EXMAP_SCAN_VECTOR ? scan->start : scan->vector)
		return -EINVAL;
	if ((scan->flags & EXMAP_SCAN_CLEAR_ACCESSED) && !scan->accessed)
		return -EINVAL;
	if ((scan->flags & EXMAP_SCAN_CLEAR_DIRTY) && !scan->dirty)
		return -EINVAL;
	if (scan->start + scan->count < scan->start)
		return -EINVAL;
	return 0;
}

int exmap_residency_scan(struct exmap_region *region, const struct exmap_scan *scan)
{
	struct scan_block *block;
	u64 done;
	int ret = check_scan(scan);

	if (ret)
		return ret;
	block = kmalloc(sizeof(*block), GFP_KERNEL);
	if (!block)
		return -ENOMEM;

	for (done = 0; done < scan->count && !ret; done += SCAN_BLOCK) {
		ret = fatal_signal_pending(current) ? -EINTR : 0;
		if (!ret)
			ret = scan_one_block(region, scan, done, block);
		cond_resched();
	}
	/* also after an error: earlier blocks have been cleared */
	if ((scan->flags & EXMAP_SCAN_CLEAR_DIRTY) && done &&
	    !exmap_interface_enter(region, region->ctl)) {
		exmap_tlb_flush(region, &region->ctl->counts, EXMAP_FLUSH_SCAN);
		exmap_interface_leave(region->ctl);
	}
	kfree(block);
	return ret;
}
