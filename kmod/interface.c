// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - interfaces: the calls that user space makes.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>

#include "exmap.h"
#include "ptable.h"
#include "trace.h"

#define EXMAP_PREAD_IOVS	64

struct exmap_interface *exmap_interface_create(void)
{
	struct exmap_interface *itf = kvzalloc(sizeof(*itf), EXMAP_GFP);

	if (!itf)
		return NULL;
	mutex_init(&itf->io_lock);
	mutex_init(&itf->lock);
	itf->user = (void *)get_zeroed_page(EXMAP_GFP);
	if (!itf->user)
		goto err_itf;
	itf->ring = kvcalloc(EXMAP_RING_ENTRIES, sizeof(*itf->ring), EXMAP_GFP);
	if (!itf->ring)
		goto err_user;
	return itf;

err_user:
	free_page((unsigned long)itf->user);
err_itf:
	kvfree(itf);
	return NULL;
}

void exmap_interface_destroy(struct exmap_interface *itf)
{
	if (!itf)
		return;
	exmap_backing_free_io(itf->io);
	kvfree(itf->ring);
	/* a mapping of it holds a reference of its own */
	put_page(virt_to_page(itf->user));
	kvfree(itf);
}

/**
 * exmap_interface_enter - take an interface for a step of a call
 * @region: may be in any state
 * @itf: of the region
 *
 * On success no page is mapped or unmapped by others through this interface,
 * the region is alive, and no range of it is being invalidated, until
 * exmap_interface_leave.  Errors: -EPROTO, -EINTR.
 */
int exmap_interface_enter(struct exmap_region *region, struct exmap_interface *itf)
{
	for (;;) {
		mutex_lock(&itf->lock);
		if (unlikely(region->dead || !region->nr_pages)) {
			mutex_unlock(&itf->lock);
			return -EPROTO;
		}
		if (likely(!READ_ONCE(region->invalidations)))
			return 0;
		mutex_unlock(&itf->lock);
		wait_event(region->wait, !exmap_region_gate_closed(region));
	}
}

void exmap_interface_leave(struct exmap_interface *itf)
{
	mutex_unlock(&itf->lock);
}

static long run_opcode(struct exmap_region *region, struct exmap_interface *itf,
		       unsigned int opcode, struct exmap_iov *iov, unsigned int len, u64 flags)
{
	struct exmap_op op;
	long failed;

	switch (opcode) {
	case EXMAP_OP_READ:
		return exmap_backing_read(region, itf, iov, len, flags);
	case EXMAP_OP_WRITE:
		return exmap_backing_write(region, itf, iov, len, flags);
	}
	exmap_op_init(&op, region, itf);
	if (opcode == EXMAP_OP_ALLOC)
		failed = exmap_op_alloc(&op, iov, len, flags);
	else if (opcode == EXMAP_OP_FREE)
		failed = exmap_op_free(&op, iov, len);
	else
		failed = exmap_op_unshare(&op, iov, len);
	exmap_op_finish(&op, flags & EXMAP_FREE_LAZY);
	return failed;
}

static const u64 opcode_flags[] = {
	[EXMAP_OP_READ] = EXMAP_AT_BLOCKS,
	[EXMAP_OP_ALLOC] = EXMAP_ALLOC_PROBE,
	[EXMAP_OP_FREE] = EXMAP_FREE_LAZY,
	[EXMAP_OP_WRITE] = EXMAP_AT_BLOCKS,
	[EXMAP_OP_UNSHARE] = 0,
};

/* What can be said without a lock; the region may still die at any time. */
static int check_call(struct exmap_region *region, unsigned int nr, unsigned int opcode, u64 flags)
{
	/* pairs with smp_store_release in exmap_region_setup */
	if (!smp_load_acquire(&region->interfaces))
		return -EBADF;
	if (current->mm != region->mm)
		return -EPERM;
	if (READ_ONCE(region->dead) || !READ_ONCE(region->nr_pages))
		return -EPROTO;
	if (nr >= region->nr_interfaces || opcode >= ARRAY_SIZE(opcode_flags))
		return -EINVAL;
	if (flags & ~opcode_flags[opcode])
		return -EINVAL;
	return 0;
}

/**
 * exmap_interface_action - run one opcode over a vector
 * @region: in any state
 * @nr: interface
 * @opcode: enum exmap_opcode
 * @iov: in kernel memory, but user space may write it at any time
 * @len: its length, at most EXMAP_USER_INTERFACE_PAGES; NULL @iov means the
 *	interface's own page
 * @flags: enum exmap_flags; EXMAP_AT_BLOCKS if @iov is a whole page
 *
 * Returns the number of iovs that failed, or an error.
 */
long exmap_interface_action(struct exmap_region *region, unsigned int nr, unsigned int opcode,
			    struct exmap_iov *iov, unsigned int len, u64 flags)
{
	struct exmap_interface *itf;
	long ret = check_call(region, nr, opcode, flags);

	if (ret)
		return ret;
	if (len > EXMAP_USER_INTERFACE_PAGES)
		return -EINVAL;
	itf = region->interfaces[nr];
	if (!iov)
		iov = itf->user->iov;

	trace_exmap_op_begin(region->id, nr, opcode, len, 0);
	ret = run_opcode(region, itf, opcode, iov, len, flags);
	trace_exmap_op_end(region->id, nr, opcode, len, ret);
	return ret;
}

int exmap_interface_mmap(struct exmap_region *region, struct vm_area_struct *vma)
{
	u64 nr = vma->vm_pgoff - (EXMAP_OFF_INTERFACE_BASE >> PAGE_SHIFT);

	if (!smp_load_acquire(&region->interfaces)) /* pairs with exmap_region_setup */
		return -ENXIO;
	if (nr >= region->nr_interfaces)
		return -ENXIO;
	if (vma->vm_end - vma->vm_start != PAGE_SIZE || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	return vm_insert_page(vma, vma->vm_start, virt_to_page(region->interfaces[nr]->user));
}

/* A read of an absent page, with EXMAP_FAULT_ZERO: a step. */
static int map_zero_page(struct exmap_op *op, u64 page)
{
	if (EXMAP_RES_MAPPED(READ_ONCE(*exmap_walk_word(&op->walk, page))))
		return 0;
	return exmap_pte_map_zero(&op->walk, page);
}

/* Has somebody mapped it meanwhile?  A step. */
static int look(struct exmap_op *op, u64 page)
{
	return EXMAP_RES_MAPPED(READ_ONCE(*exmap_walk_word(&op->walk, page))) ? 0 : -EFAULT;
}

static bool page_busy(struct exmap_region *region, u64 page)
{
	struct exmap_chunk *chunk = region->chunks[page / EXMAP_CHUNK_PAGES];

	return READ_ONCE(chunk->words[page % EXMAP_CHUNK_PAGES]) & EXMAP_RES_BUSY;
}

static vm_fault_t fault_result(struct exmap_region *region, u64 page, int ret)
{
	switch (ret) {
	case 0:
	case 1:
		return VM_FAULT_NOPAGE;
	case -EAGAIN:
		/* being read: the fault is taken again afterwards, or the signal */
		wait_event_killable(region->wait, !page_busy(region, page));
		return VM_FAULT_NOPAGE;
	case -EINTR:
		return VM_FAULT_NOPAGE;
	case -ENOMEM:
		/* not VM_FAULT_OOM: the core would try again for ever */
		return VM_FAULT_SIGBUS;
	default:
		return VM_FAULT_SIGSEGV;
	}
}

/* A fault in the region, through any interface that is near. */
vm_fault_t exmap_interface_fault(struct exmap_region *region, u64 page, bool write)
{
	exmap_step_fn fn = look;
	struct exmap_op op;
	unsigned int nr;
	int ret;

	if (!smp_load_acquire(&region->interfaces)) /* pairs with exmap_region_setup */
		return VM_FAULT_SIGSEGV;
	if (region->flags & EXMAP_FAULT_ALLOC)
		fn = exmap_op_alloc_page;
	else if ((region->flags & EXMAP_FAULT_ZERO) && !write)
		fn = map_zero_page;

	nr = raw_smp_processor_id() % region->nr_interfaces;
	exmap_op_init(&op, region, region->interfaces[nr]);
	op.in_fault = true;
	ret = exmap_op_step(&op, page, fn);
	if (ret == 1)
		exmap_count(&op.itf->counts.faults, 1);
	exmap_op_finish(&op, true);
	trace_exmap_fault(region, page, write, false, ret);
	return fault_result(region, page, ret);
}

/* A write to a page that is read-only for a snapshot's sake. */
vm_fault_t exmap_interface_mkwrite(struct exmap_region *region, u64 page)
{
	unsigned int nr = raw_smp_processor_id() % region->nr_interfaces;
	struct exmap_op op;
	int ret;

	exmap_op_init(&op, region, region->interfaces[nr]);
	op.in_fault = true;
	ret = exmap_op_unshare_page(&op, page);
	exmap_op_finish(&op, true);
	trace_exmap_fault(region, page, true, true, ret);
	/* the entry is writable now, or the page is gone: either way the CPU tries again */
	return ret < 0 && ret != -EINTR ? VM_FAULT_SIGSEGV : VM_FAULT_NOPAGE;
}

/* The ranges at the front of @iter as iovs; returns how many, or an error. */
static int gather_segments(struct exmap_region *region, struct iov_iter *iter,
			   struct exmap_iov *iov, size_t *bytes)
{
	int n = 0;

	while (n < EXMAP_PREAD_IOVS && iov_iter_count(iter)) {
		void __user *base;
		unsigned long addr;
		size_t len;

		exmap_iter_segment(iter, &base, &len);
		addr = (unsigned long)base;
		if (!PAGE_ALIGNED(addr) || !PAGE_ALIGNED(len))
			return n ?: -EINVAL;
		if (addr < region->start)
			return n ?: -EFAULT;
		len = min_t(size_t, len, (size_t)(EXMAP_PAGE_MAX_PAGES - 1) << PAGE_SHIFT);
		iov[n].value = 0;
		iov[n].page = (addr - region->start) >> PAGE_SHIFT;
		iov[n].len = len >> PAGE_SHIFT;
		bytes[n++] = len;
		iov_iter_advance(iter, len);
	}
	return n;
}

/* pread and preadv: ALLOC or READ the pages at the given addresses. */
ssize_t exmap_interface_read_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	struct exmap_region *region = exmap_file_region(kiocb->ki_filp);
	unsigned int nr = kiocb->ki_pos & 0xff;
	unsigned int opcode = (kiocb->ki_pos >> 8) & 0xff;
	struct exmap_iov iov[EXMAP_PREAD_IOVS];
	size_t bytes[EXMAP_PREAD_IOVS];
	ssize_t total = 0;

	if (kiocb->ki_pos >> 16 || (opcode != EXMAP_OP_READ && opcode != EXMAP_OP_ALLOC))
		return -EINVAL;
	if (!iter_is_ubuf(iter) && !iter_is_iovec(iter))
		return -EINVAL;
	if (kiocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;

	while (iov_iter_count(iter)) {
		int i, n = gather_segments(region, iter, iov, bytes);
		long ret = n;

		if (n > 0)
			ret = exmap_interface_action(region, nr, opcode, iov, n, 0);
		if (ret < 0)
			return total ?: ret;
		for (i = 0; i < n; i++) {
			if (iov[i].res < 0)
				return total ?: iov[i].res;
			total += bytes[i];
		}
	}
	return total;
}

/* A range of the region; returns the bytes that changed. */
static long uring_range(struct exmap_region *region, unsigned int nr, unsigned int opcode,
			unsigned long base, unsigned long len)
{
	struct exmap_iov iov = { };
	long total = 0;

	if (!PAGE_ALIGNED(base) || !PAGE_ALIGNED(len))
		return -EINVAL;
	if (base < region->start)
		return -EFAULT;
	while (len) {
		unsigned long piece = min(len, (EXMAP_PAGE_MAX_PAGES - 1UL) << PAGE_SHIFT);
		long ret;

		iov.value = 0;
		iov.page = (base - region->start) >> PAGE_SHIFT;
		iov.len = piece >> PAGE_SHIFT;
		ret = exmap_interface_action(region, nr, opcode, &iov, 1, 0);
		if (ret < 0)
			return total ?: ret;
		total += (long)iov.pages << PAGE_SHIFT;
		if (iov.res < 0)
			return total ?: iov.res;
		base += piece;
		len -= piece;
	}
	return total;
}

/* A vector of iovs in a registered buffer; returns how many failed. */
static long uring_vector(struct exmap_region *region, unsigned int nr, unsigned int opcode,
			 struct io_uring_cmd *cmd, unsigned long base, unsigned long len,
			 unsigned int issue_flags)
{
	struct iov_iter in, out;
	struct exmap_iov *iov;
	long ret;

	if (!len || len % sizeof(*iov) || len > sizeof(struct exmap_user_interface))
		return -EINVAL;
	ret = exmap_uring_import(base, len, ITER_SOURCE, &in, cmd, issue_flags);
	if (ret < 0)
		return ret;
	ret = exmap_uring_import(base, len, ITER_DEST, &out, cmd, issue_flags);
	if (ret < 0)
		return ret;

	iov = kmalloc(len, GFP_KERNEL);
	if (!iov)
		return -ENOMEM;
	ret = -EFAULT;
	if (!copy_from_iter_full(iov, len, &in))
		goto out;
	ret = exmap_interface_action(region, nr, opcode, iov, len / sizeof(*iov), 0);
	if (ret >= 0 && copy_to_iter(iov, len, &out) != len)
		ret = -EFAULT;
out:
	kfree(iov);
	return ret;
}

int exmap_interface_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct exmap_region *region = exmap_file_region(cmd->file);
	const struct iovec *payload = exmap_uring_payload(cmd);
	unsigned long base = (unsigned long)READ_ONCE(payload->iov_base);
	unsigned long len = READ_ONCE(payload->iov_len);
	unsigned int nr = cmd->cmd_op & 0xff;
	unsigned int opcode = (cmd->cmd_op >> 8) & 0xff;
	long ret;

	if (cmd->cmd_op >> 16)
		return -EINVAL;
	/* what may wait for I/O is done by a worker */
	if ((issue_flags & IO_URING_F_NONBLOCK) &&
	    (opcode == EXMAP_OP_READ || opcode == EXMAP_OP_WRITE))
		return -EAGAIN;
	if (cmd->flags & IORING_URING_CMD_FIXED)
		ret = uring_vector(region, nr, opcode, cmd, base, len, issue_flags);
	else
		ret = uring_range(region, nr, opcode, base, len);
	return exmap_uring_result(cmd, min_t(long, ret, INT_MAX), issue_flags);
}
