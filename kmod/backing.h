/* SPDX-License-Identifier: GPL-2.0 */
/* exmap - a READ or WRITE in progress, for those who do its I/O. */
#ifndef _EXMAP_BACKING_H
#define _EXMAP_BACKING_H

#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/fs.h>

#include "exmap.h"

#define EXMAP_IO_PAGES	512	/* pages in flight for one call */

/**
 * struct exmap_io_slot - a page of a batch
 * @block: where it is in the backing, in pages
 * @page: of the region
 * @frame: its frame
 * @iov: which iov asked for it
 * @res: what became of it: 0 or an error
 */
struct exmap_io_slot {
	u64 block;
	u32 page;
	u32 frame;
	u16 iov;
	int res;
};

/* A request: pages whose blocks are consecutive. */
struct exmap_io_run {
	struct kiocb kiocb;
	struct exmap_io *io;
	unsigned int first;
	unsigned int nr;
	long ret;
};

/**
 * struct exmap_io - a READ or WRITE in progress, for one interface
 * @op: its steps over pages
 * @pending: runs in flight, and one for the submitter
 * @done: completed when @pending falls to 0
 * @to_block: what has to be added to the page at hand for its block
 * @nr: pages in the batch
 * @nr_runs: requests made of them
 * @slots: the pages
 * @bvecs: their frames
 * @runs: the requests
 * @single: the request for a page of a run that failed
 * @lost: the device has failed, and it is of no use to try pages by themselves
 * @res: result of each iov
 * @changed: pages of each iov that were transferred
 */
struct exmap_io {
	struct exmap_op op;
	atomic_t pending;
	struct completion done;
	u64 to_block;
	unsigned int nr;
	unsigned int nr_runs;
	struct exmap_io_slot slots[EXMAP_IO_PAGES];
	struct bio_vec bvecs[EXMAP_IO_PAGES];
	struct exmap_io_run runs[EXMAP_IO_PAGES];
	struct exmap_io_run single;
	bool lost;
	int res[EXMAP_USER_INTERFACE_PAGES];
	unsigned int changed[EXMAP_USER_INTERFACE_PAGES];
};

/* Send @nr requests, wait for them, and leave in @ret of each what came of it. */
void exmap_backing_file_transfer(struct exmap_region *region, struct exmap_io *io,
				 struct exmap_io_run *runs, unsigned int nr, bool write);
void exmap_nvme_backing_transfer(struct exmap_region *region, struct exmap_io *io,
				 struct exmap_io_run *runs, unsigned int nr, bool write);

#endif /* _EXMAP_BACKING_H */
