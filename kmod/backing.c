// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - the backing of a region: READ and WRITE against a file, a block device,
 * or an NVMe controller that the kernel drives.
 *
 * Page n of the region is block n of the backing, or the one that the call names.
 * Consecutive blocks make one request, and if that fails one each, so that a bad
 * block is the matter of its page alone.  No interface is held while the I/O runs:
 * pages that are being read are BUSY in the residency map, pages that are being
 * written have a reference.
 */
#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "backing.h"
#include "ptable.h"

#define NR_BLOCKS	((u64)LLONG_MAX >> PAGE_SHIFT)	/* that an offset can name */

/* Take a reference on a file that can back a region; *backing is NULL for fd -1. */
int exmap_backing_open(int fd, struct file **backing)
{
	struct file *file;
	umode_t mode;

	*backing = NULL;
	if (fd < 0)
		return 0;
	file = fget(fd);
	if (!file)
		return -EBADF;
	if (exmap_nvme_is_backing(file)) {
		*backing = file;
		return 0;
	}
	mode = file_inode(file)->i_mode;
	if (!(file->f_mode & FMODE_READ))
		goto err_file;
	if ((!S_ISBLK(mode) && !S_ISREG(mode)) || (file->f_flags & O_APPEND))
		goto err_file;
	if (!file->f_op->read_iter)
		goto err_file;
	*backing = file;
	return 0;

err_file:
	fput(file);
	return -EBADF;
}

static loff_t backing_size(const struct exmap_region *region)
{
	return i_size_read(region->backing->f_mapping->host);
}

u64 exmap_backing_pages(const struct exmap_region *region)
{
	return region->backing ? DIV_ROUND_UP(backing_size(region), PAGE_SIZE) : 0;
}

void exmap_backing_free_io(struct exmap_io *io)
{
	kvfree(io);
}

static struct exmap_io *get_io(struct exmap_region *region, struct exmap_interface *itf)
{
	lockdep_assert_held(&itf->io_lock);
	if (!itf->io)
		itf->io = kvzalloc(sizeof(*itf->io), EXMAP_GFP);
	if (itf->io)
		exmap_op_init(&itf->io->op, region, itf);
	return itf->io;
}

/* Make runs of consecutive blocks, @most at a time, out of the batch. */
static void make_runs(struct exmap_io *io, unsigned int most)
{
	struct exmap_io_run *run = NULL;
	unsigned int i;

	io->nr_runs = 0;
	for (i = 0; i < io->nr; i++) {
		if (run && run->nr < most && io->slots[i].block == io->slots[i - 1].block + 1) {
			run->nr++;
			continue;
		}
		run = &io->runs[io->nr_runs++];
		run->io = io;
		run->first = i;
		run->nr = 1;
	}
}

static void submit_and_wait(struct exmap_region *region, struct exmap_io *io,
			    struct exmap_io_run *runs, unsigned int nr, bool write)
{
	io->lost = false;
	if (exmap_nvme_is_backing(region->backing))
		exmap_nvme_backing_transfer(region, io, runs, nr, write);
	else
		exmap_backing_file_transfer(region, io, runs, nr, write);
}

/* What became of page @i of a run: 0, or an error.  Zeroes the tail of a cut page. */
static int read_result(struct exmap_region *region, const struct exmap_io_run *run, unsigned int i)
{
	loff_t pos = (loff_t)run->io->slots[run->first + i].block << PAGE_SHIFT;
	long got = run->ret - ((long)i << PAGE_SHIFT);

	if (run->ret < 0)
		return run->ret;
	if (got >= (long)PAGE_SIZE)
		return 0;
	if (pos >= backing_size(region))
		return -ENXIO;
	if (got <= 0 || pos + got < backing_size(region))
		return -EIO;
	memzero_page(run->io->bvecs[run->first + i].bv_page, got, PAGE_SIZE - got);
	return 0;
}

static int write_result(const struct exmap_io_run *run, unsigned int i)
{
	if (run->ret < 0)
		return run->ret;
	return run->ret >= ((long)(i + 1) << PAGE_SHIFT) ? 0 : -EIO;
}

static int page_result(struct exmap_region *region, const struct exmap_io_run *run, unsigned int i,
		       bool write)
{
	return write ? write_result(run, i) : read_result(region, run, i);
}

/* A page of a run that failed, by itself. */
static int try_again(struct exmap_region *region, struct exmap_io *io, unsigned int slot,
		     bool write)
{
	struct exmap_io_run *run = &io->single;

	if (fatal_signal_pending(current))
		return -EINTR;
	run->io = io;
	run->first = slot;
	run->nr = 1;
	submit_and_wait(region, io, run, 1, write);
	return page_result(region, run, 0, write);
}

/* Do the I/O of a batch, wait for it, and find out what became of each page. */
static void transfer(struct exmap_region *region, struct exmap_io *io, bool write)
{
	unsigned int r, i;

	make_runs(io, exmap_nvme_backing_most(region->backing));
	submit_and_wait(region, io, io->runs, io->nr_runs, write);
	for (r = 0; r < io->nr_runs; r++) {
		struct exmap_io_run *run = &io->runs[r];

		for (i = 0; i < run->nr; i++) {
			int res = page_result(region, run, i, write);

			if (res && res != -ENXIO && run->nr > 1 && !io->lost)
				res = try_again(region, io, run->first + i, write);
			io->slots[run->first + i].res = res;
		}
	}
}

static void add_slot(struct exmap_io *io, u64 page, u32 frame)
{
	struct page *p = io->op.region->pool.pages[frame];

	io->slots[io->nr].block = page + io->to_block;
	io->slots[io->nr].page = page;
	io->slots[io->nr].frame = frame;
	io->bvecs[io->nr].bv_page = p;
	io->bvecs[io->nr].bv_len = PAGE_SIZE;
	io->bvecs[io->nr].bv_offset = 0;
	io->nr++;
}

/* Claim a page for reading: a step.  1 if it is ours now, 0 if it is mapped. */
static int claim(struct exmap_op *op, u64 page)
{
	struct exmap_io *io = container_of(op, struct exmap_io, op);
	struct exmap_frame *frames = op->region->pool.frames;
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 old, frame;
	int ret;

	do {
		old = READ_ONCE(*word); /* LAZY may become 0 at any time, 0 a mapped page */
		frame = EXMAP_RES_FRAME(old);
		if (EXMAP_RES_MAPPED(old))
			return 0;
		if (old & EXMAP_RES_BUSY)
			return -EAGAIN;
		if ((old & EXMAP_RES_LAZY) && exmap_quarantine_rescue(&frames[frame], page)) {
			op->itf->counts.quarantine--;
			WRITE_ONCE(*word, EXMAP_RES_BUSY | (frame + 1));
			break;
		}
		ret = exmap_op_claim(op, word, old, EXMAP_RES_BUSY, &frame);
		if (ret && ret != -EEXIST)
			return ret;
	} while (ret);
	op->itf->counts.busy++;
	add_slot(io, page, frame);
	return 1;
}

/* The page has been read: map it.  A step. */
static int map_read(struct exmap_op *op, u64 page)
{
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 frame = EXMAP_RES_FRAME(*word);

	if (exmap_pte_map(&op->walk, page, op->region->pool.pages[frame]))
		op->stale = true;
	WRITE_ONCE(*word, frame + 1);
	op->itf->counts.busy--;
	op->itf->counts.mapped++;
	exmap_count(&op->itf->counts.allocs, 1);
	exmap_count(&op->itf->counts.reads, 1);
	return 1;
}

/* It could not be read: into quarantine, since it may have come from there.  A step. */
static int unclaim(struct exmap_op *op, u64 page)
{
	u32 *word = exmap_walk_word(&op->walk, page);
	u32 frame = EXMAP_RES_FRAME(*word);

	WRITE_ONCE(*word, EXMAP_RES_LAZY | (frame + 1));
	exmap_quarantine_add(op->region, op->itf, frame, page);
	op->itf->counts.busy--;
	return 0;
}

/*
 * The chunk lost its page table, or the region died, while the page was read:
 * both have flushed, so that the frame is free as soon as nobody refers to it.
 */
static void abandon(struct exmap_op *op, const struct exmap_io_slot *slot)
{
	struct exmap_region *region = op->region;
	struct exmap_chunk *chunk = region->chunks[slot->page / EXMAP_CHUNK_PAGES];

	exmap_op_leave(op);
	mutex_lock(&op->itf->lock);
	if (!region->dead)
		WRITE_ONCE(chunk->words[slot->page % EXMAP_CHUNK_PAGES], 0);
	op->itf->counts.busy--;
	exmap_pool_return(&region->pool, slot->frame);
	mutex_unlock(&op->itf->lock);
}

static void end_read(struct exmap_io *io, const struct exmap_io_slot *slot)
{
	int res = slot->res, ret = exmap_op_enter(&io->op);

	if (!ret) {
		exmap_op_make_room(&io->op);
		ret = exmap_op_step(&io->op, slot->page, res ? unclaim : map_read);
	}
	if (ret < 0) {
		abandon(&io->op, slot);
		res = res ?: ret;
	}
	io->changed[slot->iov] += ret == 1;
	if (res && !io->res[slot->iov])
		io->res[slot->iov] = res;
}

/* Read what has been claimed, and map it. */
static void read_batch(struct exmap_region *region, struct exmap_io *io)
{
	unsigned int i;

	exmap_op_leave(&io->op);
	if (!io->nr)
		return;
	transfer(region, io, false);
	for (i = 0; i < io->nr; i++)
		end_read(io, &io->slots[i]);
	io->nr = 0;
	exmap_op_leave(&io->op);
	wake_up_all(&region->wait);
}

/* Take a reference on a mapped page, to write it: a step. */
static int hold(struct exmap_op *op, u64 page)
{
	struct exmap_io *io = container_of(op, struct exmap_io, op);
	u32 word = READ_ONCE(*exmap_walk_word(&op->walk, page));

	if (!EXMAP_RES_MAPPED(word))
		return -ENOENT;
	get_page(op->region->pool.pages[EXMAP_RES_FRAME(word)]);
	add_slot(io, page, EXMAP_RES_FRAME(word));
	return 1;
}

static void write_batch(struct exmap_region *region, struct exmap_io *io)
{
	unsigned int i;

	exmap_op_leave(&io->op);
	if (!io->nr)
		return;
	transfer(region, io, true);
	for (i = 0; i < io->nr; i++) {
		struct exmap_io_slot *slot = &io->slots[i];

		put_page(io->bvecs[i].bv_page);
		exmap_count(&io->op.itf->counts.writes, !slot->res);
		io->changed[slot->iov] += !slot->res;
		if (slot->res && !io->res[slot->iov])
			io->res[slot->iov] = slot->res;
	}
	io->nr = 0;
}

typedef void (*batch_fn)(struct exmap_region *region, struct exmap_io *io);

/* Collect the pages of iov @i, from @block on, running a batch whenever it is full. */
static int collect(struct exmap_region *region, struct exmap_io *io, unsigned int i,
		   struct exmap_iov vec, u64 block, exmap_step_fn step, batch_fn batch)
{
	unsigned int n;

	if ((u64)vec.page + vec.len > region->nr_pages)
		return -EFAULT;
	if (block > NR_BLOCKS - vec.len)
		return -EINVAL;
	io->to_block = block - vec.page;
	for (n = 0; n < vec.len; n++) {
		int ret;

		if (io->nr == EXMAP_IO_PAGES)
			batch(region, io);
		io->slots[io->nr].iov = i;
		ret = exmap_op_step(&io->op, vec.page + n, step);
		/* frames in our own hands may be what the pool lacks */
		if (ret == -ENOMEM && io->nr) {
			batch(region, io);
			ret = exmap_op_step(&io->op, vec.page + n, step);
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

static long run_vector_locked(struct exmap_region *region, struct exmap_interface *itf,
			      struct exmap_iov *iov, unsigned int len,
			      const struct exmap_iov *blocks, exmap_step_fn step, batch_fn batch)
{
	struct exmap_io *io = get_io(region, itf);
	unsigned int i;
	long failed = 0;

	if (!io)
		return -ENOMEM;
	io->nr = 0;
	memset(io->res, 0, len * sizeof(*io->res));
	memset(io->changed, 0, len * sizeof(*io->changed));
	for (i = 0; i < len; i++) {
		struct exmap_iov vec = { .value = READ_ONCE(iov[i].value) };
		u64 block = blocks ? READ_ONCE(blocks[i].value) : vec.page;
		int res = collect(region, io, i, vec, block, step, batch);

		if (res && !io->res[i])
			io->res[i] = res;
	}
	batch(region, io);
	exmap_op_finish(&io->op, true);

	for (i = 0; i < len; i++) {
		struct exmap_iov result = { .res = io->res[i], .pages = io->changed[i] };

		WRITE_ONCE(iov[i].value, result.value);
		failed += io->res[i] < 0;
	}
	return failed;
}

static long run_vector(struct exmap_region *region, struct exmap_interface *itf,
		       struct exmap_iov *iov, unsigned int len, u64 flags, exmap_step_fn step,
		       batch_fn batch)
{
	const struct exmap_iov *blocks = NULL;
	long failed;

	if (flags & EXMAP_AT_BLOCKS) {
		if (len > EXMAP_AT_BLOCKS_MAX)
			return -EINVAL;
		blocks = iov + EXMAP_AT_BLOCKS_MAX;
	}

	if (mutex_lock_killable(&itf->io_lock))
		return -EINTR;
	failed = run_vector_locked(region, itf, iov, len, blocks, step, batch);
	mutex_unlock(&itf->io_lock);
	return failed;
}

long exmap_backing_read(struct exmap_region *region, struct exmap_interface *itf,
			struct exmap_iov *iov, unsigned int len, u64 flags)
{
	if (!region->backing)
		return -ENODEV;
	return run_vector(region, itf, iov, len, flags, claim, read_batch);
}

long exmap_backing_write(struct exmap_region *region, struct exmap_interface *itf,
			 struct exmap_iov *iov, unsigned int len, u64 flags)
{
	if (!region->backing)
		return -ENODEV;
	if (!(region->backing->f_mode & FMODE_WRITE) || !region->backing->f_op->write_iter)
		return -EBADF;
	return run_vector(region, itf, iov, len, flags, hold, write_batch);
}
