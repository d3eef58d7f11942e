// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - views: the descriptor of a snapshot, through which it is mapped, read
 * and asked.
 *
 * A view is read-only and belongs to nobody: whoever has the descriptor, in any
 * process, may map it.  Entries are put there by faults, a block of pages at a
 * time, and taken away by exmap_snapshot_unview (snapshot.c has the argument).
 * Each snapshot has an inode of its own, so that its mappings can be found.
 */
#include <linux/fadvise.h>
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "exmap.h"

#define EXMAP_MAGIC		0x65786d70
#define EXMAP_VIEW_BLOCK	64	/* pages that one fault maps */

static struct vfsmount *view_mount;

static int view_init_fs_context(struct fs_context *context)
{
	return init_pseudo(context, EXMAP_MAGIC) ? 0 : -ENOMEM;
}

/* No owner: its only mount is the module's own. */
static struct file_system_type view_fs = {
	.name			= "exmap",
	.init_fs_context	= view_init_fs_context,
	.kill_sb		= kill_anon_super,
};

int exmap_view_init(void)
{
	view_mount = kern_mount(&view_fs);
	return PTR_ERR_OR_ZERO(view_mount);
}

void exmap_view_exit(void)
{
	kern_unmount(view_mount);
	/* free_snapshot */
	rcu_barrier();
}

/* Unmap a chunk from all mappings of a snapshot, and flush their TLBs. */
void exmap_view_unmap(struct exmap_snapshot *snap, u64 nr)
{
	loff_t offset = (loff_t)(nr - snap->first) * EXMAP_CHUNK_PAGES << PAGE_SHIFT;

	if (snap->mapping && mapping_mapped(snap->mapping))
		unmap_mapping_range(snap->mapping, offset, PMD_SIZE, 1);
}

/* A run of pages of one chunk, as a snapshot has them. */
struct view_block {
	u32 words[EXMAP_CHUNK_PAGES];
	unsigned int nr;
};

/* What the snapshot holds from its page @index on, to the end of the chunk at most. */
static int look_up(struct exmap_snapshot *snap, u64 index, unsigned int nr,
		   struct view_block *block)
{
	u64 page = snap->start + index, chunk_nr = page / EXMAP_CHUNK_PAGES;
	struct exmap_chunk *chunk = snap->region->chunks[chunk_nr];
	unsigned int i, first = page % EXMAP_CHUNK_PAGES;

	block->nr = min3((u64)nr, (u64)EXMAP_CHUNK_PAGES - first, snap->nr_pages - index);
	if (!chunk) {
		memset(block->words, 0, block->nr * sizeof(*block->words));
		return READ_ONCE(snap->broken) ? -ENODATA : 0;
	}
	rcu_read_lock();
	spin_lock(&chunk->lock);
	for (i = 0; i < block->nr; i++)
		block->words[i] = exmap_snapshot_resolve(snap, chunk_nr, first + i);
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	/* what a broken one leaves is not its content; see exmap_snapshot_break */
	return READ_ONCE(snap->broken) ? -ENODATA : 0;
}

/* Like look_up, for entries: the live region will ask before it changes a page. */
static unsigned int look_up_pfns(struct exmap_snapshot *snap, u64 page, unsigned int nr,
				 unsigned long *pfns)
{
	struct exmap_region *region = snap->region;
	u64 chunk_nr = page / EXMAP_CHUNK_PAGES;
	struct exmap_chunk *chunk = region->chunks[chunk_nr];
	unsigned int i;

	lockdep_assert_held(&chunk->view_lock);
	rcu_read_lock();
	spin_lock(&chunk->lock);
	for (i = 0; i < nr && !READ_ONCE(snap->broken); i++) {
		u32 word = exmap_snapshot_resolve(snap, chunk_nr, page % EXMAP_CHUNK_PAGES + i);

		pfns[i] = 0;
		if (!word)
			continue;
		pfns[i] = page_to_pfn(READ_ONCE(region->pool.pages)[EXMAP_RES_FRAME(word)]);
		chunk->viewed |= !!(word & EXMAP_RES_SNAPSHOT);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return i;
}

struct view_entries {
	const unsigned long *pfns;	/* of each page from @addr on, 0: absent */
	unsigned long addr;
	pgprot_t prot;
	struct mm_struct *mm;
};

/* With the page-table lock held, and view_lock, without which no entry goes. */
static int put_entry(pte_t *pte, unsigned long addr, void *data)
{
	const struct view_entries *entries = data;
	unsigned long pfn = entries->pfns[(addr - entries->addr) >> PAGE_SHIFT];

	if (pfn && pte_none(*pte))
		set_pte_at(entries->mm, addr, pte,
			   pte_mkyoung(pte_mkspecial(pfn_pte(pfn, entries->prot))));
	return 0;
}

/* Pages of the snapshot. */
struct view_range {
	u64 first;
	u64 end;
};

/* The block around a fault, as far as it is in the mapping. */
static struct view_range block_around(struct vm_fault *vmf, struct exmap_snapshot *snap)
{
	u64 first = round_down(vmf->pgoff, EXMAP_VIEW_BLOCK);
	u64 start = vmf->vma->vm_pgoff;

	return (struct view_range){
		.first = max(first, start),
		.end = min3(first + EXMAP_VIEW_BLOCK, start + vma_pages(vmf->vma), snap->nr_pages),
	};
}

/* Map what is there of the block. */
static vm_fault_t map_block(struct vm_fault *vmf, struct exmap_snapshot *snap,
			    struct view_range block)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long pfns[EXMAP_VIEW_BLOCK];
	unsigned int nr = look_up_pfns(snap, snap->start + block.first, block.end - block.first,
				       pfns);
	struct view_entries entries = {
		.pfns = pfns,
		.addr = vma->vm_start + ((block.first - vma->vm_pgoff) << PAGE_SHIFT),
		.prot = vma->vm_page_prot,
		.mm = vma->vm_mm,
	};

	if (vmf->pgoff - block.first >= nr || !pfns[vmf->pgoff - block.first])
		return VM_FAULT_SIGBUS;
	/* without memory for a table he tries again, after his signals; OOM would be logged */
	apply_to_page_range(vma->vm_mm, entries.addr, (u64)nr << PAGE_SHIFT, put_entry, &entries);
	return VM_FAULT_NOPAGE;
}

static vm_fault_t view_fault(struct vm_fault *vmf)
{
	struct exmap_snapshot *snap = vmf->vma->vm_private_data;
	struct view_range block = block_around(vmf, snap);
	struct exmap_chunk *chunk;
	vm_fault_t ret;

	if (vmf->pgoff >= snap->nr_pages)
		return VM_FAULT_SIGBUS;
	chunk = snap->region->chunks[(snap->start + vmf->pgoff) / EXMAP_CHUNK_PAGES];
	if (!chunk)
		return VM_FAULT_SIGBUS;
	if (snap->readers_copy)
		exmap_op_copy_read(snap, snap->start + block.first, snap->start + block.end);
	mutex_lock(&chunk->view_lock);
	ret = map_block(vmf, snap, block);
	mutex_unlock(&chunk->view_lock);
	return ret;
}

static const struct vm_operations_struct view_vm_ops = {
	.fault = view_fault,
};

static int view_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct exmap_snapshot *snap = file->private_data;

	if (vma->vm_pgoff + vma_pages(vma) > snap->nr_pages)
		return -EINVAL;
	/* the core has taken VM_SHARED away, as from every file that is open for reading */
	if (!(vma->vm_flags & VM_MAYSHARE) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC | VM_MAYWRITE);
	vma->vm_private_data = snap;
	vma->vm_ops = &view_vm_ops;
	return 0;
}

/* Copy a page as it was; -ENOENT if it was absent. */
static int copy_page_out(struct exmap_snapshot *snap, u64 index, struct page *to)
{
	u64 page = snap->start + index, nr = page / EXMAP_CHUNK_PAGES;
	struct exmap_region *region = snap->region;
	struct exmap_chunk *chunk = region->chunks[nr];
	u32 word = 0;
	int ret = 0;

	if (!chunk)
		return -ENOENT;
	rcu_read_lock();
	spin_lock(&chunk->lock);
	if (READ_ONCE(snap->broken))
		ret = -ENODATA;
	else
		word = exmap_snapshot_resolve(snap, nr, page % EXMAP_CHUNK_PAGES);
	if (word)
		copy_highpage(to, READ_ONCE(region->pool.pages)[EXMAP_RES_FRAME(word)]);
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	if (!word && !ret)
		ret = -ENOENT;
	return ret;
}

/* By way of a page of our own: user memory cannot be touched while ours is held still. */
static ssize_t read_pages(struct exmap_snapshot *snap, loff_t pos, struct iov_iter *iter,
			  struct page *bounce)
{
	loff_t size = (loff_t)snap->nr_pages << PAGE_SHIFT;
	ssize_t done = 0;

	while (iov_iter_count(iter) && pos < size) {
		size_t offset = offset_in_page(pos), copied;
		size_t len = min_t(size_t, PAGE_SIZE - offset, iov_iter_count(iter));
		int ret = copy_page_out(snap, pos >> PAGE_SHIFT, bounce);

		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		if (ret)
			return done ?: ret;
		copied = copy_page_to_iter(bounce, offset, len, iter);
		done += copied;
		pos += copied;
		if (copied < len)
			return done ?: -EFAULT;
		cond_resched();
	}
	return done;
}

static ssize_t view_read_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	struct exmap_snapshot *snap = kiocb->ki_filp->private_data;
	struct page *bounce = alloc_page(EXMAP_GFP);
	ssize_t ret;

	if (!bounce)
		return -ENOMEM;
	ret = read_pages(snap, kiocb->ki_pos, iter, bounce);
	if (ret > 0)
		kiocb->ki_pos += ret;
	__free_page(bounce);
	return ret;
}

static loff_t view_llseek(struct file *file, loff_t offset, int whence)
{
	struct exmap_snapshot *snap = file->private_data;

	return fixed_size_llseek(file, offset, whence, (loff_t)snap->nr_pages << PAGE_SHIFT);
}

static long view_info(struct exmap_snapshot *snap, void __user *arg)
{
	struct exmap_snapshot_info info;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	if (info.flags)
		return -EINVAL;
	memset(&info, 0, sizeof(info));
	info.id = snap->id;
	info.region = snap->region->id;
	info.start = snap->start;
	info.count = snap->nr_pages;
	info.broken = READ_ONCE(snap->broken);
	info.reserve = READ_ONCE(snap->nr_reserve);
	info.frames = exmap_snapshot_frames(snap);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static int check_pages(const struct exmap_snapshot *snap, u64 flags, u64 start, u64 count)
{
	if (flags)
		return -EINVAL;
	if (start > snap->nr_pages || count > snap->nr_pages - start)
		return -EFAULT;
	return 0;
}

static long view_pages(struct exmap_snapshot *snap, void __user *arg)
{
	struct exmap_snapshot_pages args;
	struct view_block *block;
	u64 done;
	int ret;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	ret = check_pages(snap, args.flags, args.start, args.count);
	if (ret)
		return ret;
	block = kmalloc(sizeof(*block), GFP_KERNEL);
	if (!block)
		return -ENOMEM;
	for (done = 0; done < args.count && !ret; done += block->nr) {
		u32 __user *out = (u32 __user *)u64_to_user_ptr(args.words) + done;

		ret = fatal_signal_pending(current) ? -EINTR : 0;
		if (!ret)
			ret = look_up(snap, args.start + done,
				      min_t(u64, args.count - done, EXMAP_CHUNK_PAGES), block);
		if (!ret && copy_to_user(out, block->words, block->nr * sizeof(u32)))
			ret = -EFAULT;
		cond_resched();
	}
	kfree(block);
	return ret;
}

static const struct file_operations view_fops;

/* Does a page have the same content in both?  The chunk's lock is held. */
static bool same_page(struct exmap_snapshot *a, struct exmap_snapshot *b, u64 page)
{
	u64 nr = page / EXMAP_CHUNK_PAGES;
	unsigned int i = page % EXMAP_CHUNK_PAGES;

	return exmap_snapshot_resolve(a, nr, i) == exmap_snapshot_resolve(b, nr, i);
}

/* Compare a run of pages within a chunk into a bitmap; returns its length. */
static unsigned int compare_run(struct exmap_snapshot *a, struct exmap_snapshot *b, u64 page,
				u64 left, unsigned long *differs)
{
	struct exmap_chunk *chunk = a->region->chunks[page / EXMAP_CHUNK_PAGES];
	unsigned int i, nr = min_t(u64, left, EXMAP_CHUNK_PAGES - page % EXMAP_CHUNK_PAGES);

	bitmap_zero(differs, EXMAP_CHUNK_PAGES);
	if (!chunk)
		return nr;
	rcu_read_lock();
	spin_lock(&chunk->lock);
	for (i = 0; i < nr; i++) {
		if (!same_page(a, b, page + i))
			__set_bit(i, differs);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return nr;
}

static bool in_both(const struct exmap_snapshot *a, const struct exmap_snapshot *b, u64 start,
		    u64 count)
{
	return start >= a->start && start >= b->start &&
	       start + count <= a->start + a->nr_pages && start + count <= b->start + b->nr_pages;
}

/* @args->start counts from the region's first page, since the two may begin elsewhere. */
static long compare(struct exmap_snapshot *a, struct exmap_snapshot *b,
		    const struct exmap_snapshot_diff *args)
{
	DECLARE_BITMAP(differs, EXMAP_CHUNK_PAGES);
	u8 __user *out = u64_to_user_ptr(args->bitmap);
	u64 done;

	if (a->region != b->region)
		return -EXDEV;
	if (args->start % BITS_PER_BYTE || args->start + args->count < args->start)
		return -EINVAL;
	if (!in_both(a, b, args->start, args->count))
		return -EFAULT;
	for (done = 0; done < args->count;) {
		unsigned int nr = compare_run(a, b, args->start + done, args->count - done,
					      differs);

		if (READ_ONCE(a->broken) || READ_ONCE(b->broken))
			return -ENODATA;
		if (copy_to_user(out + done / BITS_PER_BYTE, differs,
				 DIV_ROUND_UP(nr, BITS_PER_BYTE)))
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		done += nr;
		cond_resched();
	}
	return 0;
}

static long view_diff(struct exmap_snapshot *snap, void __user *arg)
{
	struct exmap_snapshot_diff args;
	struct file *other;
	long ret = -EINVAL;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags || args.reserved)
		return -EINVAL;
	other = fget(args.fd);
	if (!other)
		return -EBADF;
	if (other->f_op == &view_fops)
		ret = compare(snap, other->private_data, &args);
	fput(other);
	return ret;
}

static long view_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct exmap_snapshot *snap = file->private_data;
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case EXMAP_IOCTL_SNAPSHOT_INFO:
		return view_info(snap, user);
	case EXMAP_IOCTL_SNAPSHOT_PAGES:
		return view_pages(snap, user);
	case EXMAP_IOCTL_SNAPSHOT_DIFF:
		return view_diff(snap, user);
	default:
		return -ENOTTY;
	}
}

static int view_release(struct inode *inode, struct file *file)
{
	exmap_snapshot_destroy(file->private_data);
	return 0;
}

/*
 * Copy ahead of a reader, in blocks: a freeze waits for one of them at most.  What
 * is copied early spares writers more than what is copied just before it is read.
 */
static int will_need(struct exmap_snapshot *snap, u64 page, u64 end)
{
	for (; page < end; page += EXMAP_VIEW_BLOCK) {
		if (fatal_signal_pending(current))
			return -EINTR;
		exmap_op_copy_read(snap, snap->start + page,
				   snap->start + min(page + EXMAP_VIEW_BLOCK, end));
		cond_resched();
	}
	return 0;
}

static int view_fadvise(struct file *file, loff_t offset, loff_t len, int advice)
{
	struct exmap_snapshot *snap = file->private_data;
	u64 size = snap->nr_pages << PAGE_SHIFT;

	if (offset < 0 || len < 0 || advice < POSIX_FADV_NORMAL || advice > POSIX_FADV_NOREUSE)
		return -EINVAL;
	if (advice != POSIX_FADV_WILLNEED || !snap->readers_copy || offset >= size)
		return 0;
	if (!len || len > size - offset)
		len = size - offset;
	return will_need(snap, offset >> PAGE_SHIFT, DIV_ROUND_UP(offset + len, PAGE_SIZE));
}

static const struct file_operations view_fops = {
	.owner		= THIS_MODULE,
	.release	= view_release,
	.mmap		= view_mmap,
	.read_iter	= view_read_iter,
	.llseek		= view_llseek,
	.unlocked_ioctl	= view_ioctl,
	.fadvise	= view_fadvise,
};

/**
 * exmap_view_file - a file with an inode of its own, so that its mappings can be found
 * @name: what /proc shows
 * @flags: O_RDONLY or O_RDWR
 * @fops: its operations
 * @private: its private_data
 *
 * Returns the file, or an ERR_PTR.  It holds the module.
 */
struct file *exmap_view_file(const char *name, int flags, const struct file_operations *fops,
			     void *private)
{
	struct inode *inode = alloc_anon_inode(view_mount->mnt_sb);
	struct file *file;

	if (IS_ERR(inode))
		return ERR_CAST(inode);
	file = alloc_file_pseudo(inode, view_mount, name, flags, fops);
	if (IS_ERR(file)) {
		iput(inode);
		return file;
	}
	__module_get(THIS_MODULE);	/* the last fput puts it */
	file->private_data = private;
	return file;
}

/**
 * exmap_view_open - a descriptor for a snapshot that is about to be taken
 * @snap: the file owns it from now on
 *
 * Returns the file, or an ERR_PTR, and then the snapshot is still the caller's.
 */
struct file *exmap_view_open(struct exmap_snapshot *snap)
{
	struct file *file = exmap_view_file("[exmap-snapshot]", O_RDONLY, &view_fops, snap);

	if (IS_ERR(file))
		return file;
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD;
	snap->mapping = file->f_mapping;
	return file;
}
