// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - I/O of a region's pages on a file or block device: frames are given to it
 * as they are (bvec iterators), asynchronously if it was opened with O_DIRECT.
 */
#include <linux/blkdev.h>
#include <linux/uio.h>

#include "backing.h"

static void run_ended(struct exmap_io_run *run, long ret)
{
	run->ret = ret;
	if (atomic_dec_and_test(&run->io->pending))
		complete(&run->io->done);
}

static void run_complete(struct kiocb *kiocb, long ret)
{
	run_ended(container_of(kiocb, struct exmap_io_run, kiocb), ret);
}

static void submit_run(struct file *file, struct exmap_io_run *run, bool write)
{
	struct exmap_io *io = run->io;
	struct iov_iter iter;
	ssize_t ret;

	init_sync_kiocb(&run->kiocb, file);
	run->kiocb.ki_pos = (loff_t)io->slots[run->first].block << PAGE_SHIFT;
	run->kiocb.ki_complete = run_complete;
	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, &io->bvecs[run->first], run->nr,
		      (size_t)run->nr << PAGE_SHIFT);
	atomic_inc(&io->pending);
	if (write)
		ret = file->f_op->write_iter(&run->kiocb, &iter);
	else
		ret = vfs_iocb_iter_read(file, &run->kiocb, &iter);
	if (ret != -EIOCBQUEUED)
		run_ended(run, ret);
}

void exmap_backing_file_transfer(struct exmap_region *region, struct exmap_io *io,
				 struct exmap_io_run *runs, unsigned int nr, bool write)
{
	struct file *file = region->backing;
	struct blk_plug plug;
	unsigned int i;

	init_completion(&io->done);
	atomic_set(&io->pending, 1);
	if (write)
		file_start_write(file);
	blk_start_plug(&plug);
	for (i = 0; i < nr; i++)
		submit_run(file, &runs[i], write);
	blk_finish_plug(&plug);
	if (!atomic_dec_and_test(&io->pending))
		wait_for_completion_io(&io->done);
	if (write)
		file_end_write(file);
}
