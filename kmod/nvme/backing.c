// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - an NVMe controller as a medium that the kernel drives: the backing of
 * regions, and a descriptor to read and write at an offset.
 *
 * Frames of regions that have the descriptor as their backing are mapped for the
 * controller, and data goes straight to and from them; any other memory is copied
 * through pages of the channel's.  User memory is pinned before a channel is taken,
 * since nobody may wait for a page fault while he has one.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "backing.h"
#include "nvme/nvme.h"

/**
 * struct medium - what a descriptor stands for
 * @ctrl: a reference
 * @exclusive: it is the only one
 */
struct medium {
	struct exmap_nvme_controller *ctrl;
	bool exclusive;
};

/**
 * struct transfer - a part of a read or write: one or more whole pages of user memory,
 * or anything within one segment
 * @ctrl: the controller
 * @opcode: of the commands
 * @pos: offset on the medium
 * @bytes: how many
 * @first: offset in the first page
 * @nr: pages that are pinned
 * @pages: the pages
 * @users: where user space sees them
 * @addresses: where the controller sees them, if they are frames
 */
struct transfer {
	struct exmap_nvme_controller *ctrl;
	u8 opcode;
	u64 pos;
	size_t bytes;
	unsigned int first;
	unsigned int nr;
	struct page *pages[EXMAP_NVME_COMMAND_PAGES];
	unsigned long users[EXMAP_NVME_COMMAND_PAGES];
	u64 addresses[EXMAP_NVME_COMMAND_PAGES];
};

static const struct file_operations backing_fops;

bool exmap_nvme_is_backing(const struct file *file)
{
	return file->f_op == &backing_fops;
}

static struct exmap_nvme_controller *controller_of(const struct file *file)
{
	const struct medium *medium = file->private_data;

	return medium->ctrl;
}

/* Pages that one request may have. */
unsigned int exmap_nvme_backing_most(const struct file *file)
{
	return exmap_nvme_is_backing(file) ? exmap_nvme_command_pages(controller_of(file)) :
					     UINT_MAX;
}

/**
 * exmap_nvme_backing_attach - map a pool for the controller that backs its region
 * @region: its setup lock is held
 * @pool: that it is about to get
 * @backing: that it is about to get; any file, or NULL
 */
int exmap_nvme_backing_attach(struct exmap_region *region, const struct exmap_pool *pool,
			      struct file *backing)
{
	struct exmap_nvme_controller *ctrl;
	int ret = -ENODEV;

	if (!backing || !exmap_nvme_is_backing(backing))
		return 0;
	ctrl = controller_of(backing);
	mutex_lock(&ctrl->lock);
	if (ctrl->state != EXMAP_NVME_GONE)
		ret = PTR_ERR_OR_ZERO(exmap_nvme_pool_attach(ctrl, region, pool, false));
	mutex_unlock(&ctrl->lock);
	return ret;
}

static void push_run(struct exmap_nvme_channel *ch, struct exmap_nvme_controller *ctrl,
		     struct exmap_io_run *run, u64 size, bool write)
{
	struct exmap_io *io = run->io;
	const struct exmap_nvme_pool *pool = exmap_nvme_pool_find(ctrl, io->op.region);
	u64 pos = io->slots[run->first].block << PAGE_SHIFT;
	u64 addresses[EXMAP_NVME_COMMAND_PAGES];
	unsigned int i;
	size_t len;

	if (!pool) {
		run->ret = -ENODEV;
		return;
	}
	if (pos >= size) {
		run->ret = write ? -ENOSPC : 0;
		return;
	}
	len = min_t(u64, (u64)run->nr << PAGE_SHIFT, size - pos);
	for (i = 0; i < run->nr; i++)
		addresses[i] = exmap_nvme_frame_address(ctrl, pool, io->slots[run->first + i].frame,
							io->bvecs[run->first + i].bv_page);
	exmap_nvme_channel_push(ch, write ? nvme_cmd_write : nvme_cmd_read, pos, len, addresses,
				&run->ret);
}

void exmap_nvme_backing_transfer(struct exmap_region *region, struct exmap_io *io,
				 struct exmap_io_run *runs, unsigned int nr, bool write)
{
	struct exmap_nvme_controller *ctrl = controller_of(region->backing);
	u64 size = i_size_read(file_inode(region->backing));
	struct exmap_nvme_channel *ch = exmap_nvme_channel_get(ctrl);
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (IS_ERR(ch))
			runs[i].ret = PTR_ERR(ch);
		else
			push_run(ch, ctrl, &runs[i], size, write);
	}
	io->lost = IS_ERR(ch);
	if (IS_ERR(ch))
		return;
	exmap_nvme_channel_wait(ch);
	io->lost = exmap_nvme_channel_put(ch);
}

/* The frame that a page is, or EXMAP_NO_FRAME.  It is pinned, and stays what it is. */
static u32 find_frame(struct exmap_region *region, unsigned long user, const struct page *page)
{
	u64 nr_pages = smp_load_acquire(&region->nr_pages); /* set_mapping */
	u64 nr = (user - region->start) >> PAGE_SHIFT;
	const struct exmap_chunk *chunk;
	u32 frame, word = 0;
	bool found;

	if (user < region->start || nr >= nr_pages)
		return EXMAP_NO_FRAME;
	chunk = smp_load_acquire(&region->chunks[nr / EXMAP_CHUNK_PAGES]); /* ptable.c */
	if (chunk)
		/* whoever mapped the frame had seen the table that it is in */
		word = smp_load_acquire(&chunk->words[nr % EXMAP_CHUNK_PAGES]);
	if (!EXMAP_RES_MAPPED(word))
		return EXMAP_NO_FRAME;
	frame = EXMAP_RES_FRAME(word);
	/* RESIZE waits for us before it frees an old table */
	rcu_read_lock();
	found = READ_ONCE(region->pool.pages)[frame] == page;
	rcu_read_unlock();
	return found ? frame : EXMAP_NO_FRAME;
}

/* Are all pages whole frames of one region that is attached? */
static bool find_frames(struct transfer *t, const struct exmap_nvme_pool *pool)
{
	unsigned int i;

	for (i = 0; i < t->nr; i++) {
		u32 frame = find_frame(pool->region, t->users[i], t->pages[i]);

		if (frame == EXMAP_NO_FRAME)
			return false;
		t->addresses[i] = exmap_nvme_frame_address(t->ctrl, pool, frame, t->pages[i]);
	}
	return true;
}

/* The channel that the caller has locked keeps regions from leaving. */
static bool is_direct(struct transfer *t)
{
	unsigned int i;

	if (t->first || t->bytes != (size_t)t->nr << PAGE_SHIFT)
		return false;
	for (i = 0; i < EXMAP_NVME_POOLS; i++) {
		const struct exmap_nvme_pool *pool = &t->ctrl->pools[i];
		const struct exmap_region *region = READ_ONCE(pool->region);

		if (region && region->mm == current->mm && find_frames(t, pool))
			return true;
	}
	return false;
}

/* Copy @bytes from byte @at of the transfer on to, or from, memory of the channel's. */
static void copy_pages(struct transfer *t, size_t at, void *memory, size_t bytes, bool write)
{
	size_t from = t->first + at;

	while (bytes) {
		void *user = page_address(t->pages[from >> PAGE_SHIFT]) + offset_in_page(from);
		size_t n = min_t(size_t, bytes, PAGE_SIZE - offset_in_page(from));

		memcpy(write ? memory : user, write ? user : memory, n);
		memory += n;
		from += n;
		bytes -= n;
	}
}

static long bounce(struct exmap_nvme_channel *ch, struct transfer *t)
{
	const size_t most = min_t(size_t, EXMAP_NVME_BOUNCE_PAGES,
				  exmap_nvme_command_pages(t->ctrl)) << PAGE_SHIFT;
	bool write = t->opcode == nvme_cmd_write;
	void *memory;
	u64 i, address = exmap_nvme_channel_bounce(ch, &memory);
	size_t at, n;
	long ret;

	for (i = 0; i < EXMAP_NVME_BOUNCE_PAGES; i++)
		t->addresses[i] = address + (i << PAGE_SHIFT);
	for (at = 0; at < t->bytes; at += n) {
		n = min(t->bytes - at, most);
		if (write)
			copy_pages(t, at, memory, n, true);
		exmap_nvme_channel_push(ch, t->opcode, t->pos + at, n, t->addresses, &ret);
		exmap_nvme_channel_wait(ch);
		if (ret < 0)
			return at ?: ret;
		if (!write)
			copy_pages(t, at, memory, n, false);
	}
	return t->bytes;
}

/* Do a transfer whose pages are pinned: how many bytes, or an error if there are none. */
static long run_transfer(struct transfer *t)
{
	struct exmap_nvme_channel *ch = exmap_nvme_channel_get(t->ctrl);
	long ret;

	if (IS_ERR(ch))
		return PTR_ERR(ch);
	if (is_direct(t)) {
		exmap_nvme_channel_push(ch, t->opcode, t->pos, t->bytes, t->addresses, &ret);
		exmap_nvme_channel_wait(ch);
	} else {
		ret = bounce(ch, t);
	}
	exmap_nvme_channel_put(ch);
	return ret;
}

/* Pin @nr more pages, or fewer; 0 or an error if there are none. */
static int pin(struct transfer *t, unsigned long user, unsigned int nr)
{
	unsigned int flags = t->opcode == nvme_cmd_read ? FOLL_WRITE : 0;
	int i, got = pin_user_pages_fast(user & PAGE_MASK, nr, flags, t->pages + t->nr);

	if (got <= 0)
		return got ?: -EFAULT;
	for (i = 0; i < got; i++)
		t->users[t->nr++] = (user & PAGE_MASK) + ((unsigned long)i << PAGE_SHIFT);
	return 0;
}

/* What is not whole pages: as much of a segment as is copied at once. */
static int gather_odd(struct transfer *t, struct iov_iter *iter, unsigned long user, size_t len)
{
	size_t room, most = min_t(size_t, EXMAP_NVME_BOUNCE_PAGES,
				  exmap_nvme_command_pages(t->ctrl)) << PAGE_SHIFT;
	int ret;

	t->first = offset_in_page(user);
	len = min(len, most);
	ret = pin(t, user, DIV_ROUND_UP(t->first + len, PAGE_SIZE));
	if (ret)
		return ret;
	room = ((size_t)t->nr << PAGE_SHIFT) - t->first;
	t->bytes = round_down(min(len, room), 1u << t->ctrl->lba_shift);
	iov_iter_advance(iter, t->bytes);
	return t->bytes ? 0 : -EFAULT;
}

/* Pin what the next transfer is for. */
static int gather(struct transfer *t, struct iov_iter *iter)
{
	unsigned int most = exmap_nvme_command_pages(t->ctrl);
	void __user *base;
	int ret = 0;

	t->first = 0;
	t->nr = 0;
	t->bytes = 0;
	while (!ret && iov_iter_count(iter) && t->nr < most) {
		unsigned int before = t->nr;
		size_t len;

		exmap_iter_segment(iter, &base, &len);
		if (len & ((1u << t->ctrl->lba_shift) - 1)) {
			ret = -EINVAL;
		} else if (!offset_in_page(base) && len >= PAGE_SIZE) {
			ret = pin(t, (unsigned long)base,
				  min_t(size_t, len >> PAGE_SHIFT, most - t->nr));
		} else {
			if (t->nr)
				break;
			return gather_odd(t, iter, (unsigned long)base, len);
		}
		iov_iter_advance(iter, (size_t)(t->nr - before) << PAGE_SHIFT);
		t->bytes = (size_t)t->nr << PAGE_SHIFT;
	}
	return t->nr ? 0 : ret;
}

/* The whole of a read or write: bytes, or an error if there are none. */
static ssize_t transfer_all(struct transfer *t, struct iov_iter *iter)
{
	ssize_t done = 0;

	while (iov_iter_count(iter)) {
		long ret = gather(t, iter);

		if (!ret)
			ret = run_transfer(t);
		unpin_user_pages_dirty_lock(t->pages, t->nr, t->opcode == nvme_cmd_read);
		if (ret < 0)
			return done ?: ret;
		done += ret;
		t->pos += ret;
		if (ret < t->bytes)
			break;
	}
	return done;
}

static ssize_t transfer_iter(struct kiocb *kiocb, struct iov_iter *iter, u8 opcode)
{
	struct exmap_nvme_controller *ctrl = controller_of(kiocb->ki_filp);
	u64 size = i_size_read(file_inode(kiocb->ki_filp));
	u64 mask = (1u << ctrl->lba_shift) - 1;
	struct transfer *t;
	ssize_t ret;

	if (!iter_is_ubuf(iter) && !iter_is_iovec(iter))
		return -EINVAL;
	if (kiocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;
	if ((kiocb->ki_pos | iov_iter_count(iter)) & mask)
		return -EINVAL;
	if (kiocb->ki_pos >= size)
		return opcode == nvme_cmd_write && iov_iter_count(iter) ? -ENOSPC : 0;
	iov_iter_truncate(iter, size - kiocb->ki_pos);
	t = kmalloc(sizeof(*t), EXMAP_GFP);
	if (!t)
		return -ENOMEM;
	t->ctrl = ctrl;
	t->opcode = opcode;
	t->pos = kiocb->ki_pos;
	ret = transfer_all(t, iter);
	if (ret > 0)
		kiocb->ki_pos += ret;
	kfree(t);
	return ret;
}

static ssize_t backing_read_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	return transfer_iter(kiocb, iter, nvme_cmd_read);
}

static ssize_t backing_write_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	return transfer_iter(kiocb, iter, nvme_cmd_write);
}

static int backing_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct exmap_nvme_controller *ctrl = controller_of(file);
	struct exmap_nvme_channel *ch;
	long ret;

	if (!ctrl->vwc)
		return 0;
	ch = exmap_nvme_channel_get(ctrl);
	if (IS_ERR(ch))
		return PTR_ERR(ch);
	exmap_nvme_channel_push(ch, nvme_cmd_flush, 0, 0, NULL, &ret);
	exmap_nvme_channel_wait(ch);
	exmap_nvme_channel_put(ch);
	return ret;
}

static loff_t backing_llseek(struct file *file, loff_t offset, int whence)
{
	return fixed_size_llseek(file, offset, whence, i_size_read(file_inode(file)));
}

static long backing_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct exmap_nvme_controller *ctrl = controller_of(file);
	struct exmap_nvme_info info;

	if (cmd != EXMAP_IOCTL_NVME_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, sizeof(info)))
		return -EFAULT;
	if (info.flags)
		return -EINVAL;
	memset(&info, 0, sizeof(info));
	mutex_lock(&ctrl->lock);
	exmap_nvme_controller_check(ctrl);
	exmap_nvme_controller_describe(ctrl, &info);
	info.error = ctrl->state == EXMAP_NVME_GONE ? ENODEV : 0;
	mutex_unlock(&ctrl->lock);
	return copy_to_user((void __user *)arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static int claim_locked(struct medium *medium)
{
	struct exmap_nvme_controller *ctrl = medium->ctrl;
	int ret;

	exmap_nvme_controller_check(ctrl);
	if (ctrl->state == EXMAP_NVME_GONE)
		return -ENODEV;
	if (ctrl->owner || ctrl->exclusive || (medium->exclusive && ctrl->nr_backings))
		return -EBUSY;
	ret = exmap_nvme_channels_alloc(ctrl);
	if (ret)
		return ret;
	ctrl->nr_backings++;
	ctrl->exclusive = medium->exclusive;
	return 0;
}

/* Count a descriptor, unless the controller is somebody else's. */
static int claim(struct medium *medium)
{
	int ret;

	mutex_lock(&medium->ctrl->lock);
	ret = claim_locked(medium);
	mutex_unlock(&medium->ctrl->lock);
	return ret;
}

static void unclaim(struct medium *medium)
{
	struct exmap_nvme_controller *ctrl = medium->ctrl;

	mutex_lock(&ctrl->lock);
	if (medium->exclusive)
		ctrl->exclusive = false;
	if (!--ctrl->nr_backings) {
		exmap_nvme_controller_check(ctrl);
		exmap_nvme_channels_delete(ctrl);
	}
	mutex_unlock(&ctrl->lock);
}

static int backing_release(struct inode *inode, struct file *file)
{
	struct medium *medium = file->private_data;

	unclaim(medium);
	exmap_nvme_controller_put(medium->ctrl);
	kfree(medium);
	return 0;
}

static const struct file_operations backing_fops = {
	.owner		= THIS_MODULE,
	.release	= backing_release,
	.read_iter	= backing_read_iter,
	.write_iter	= backing_write_iter,
	.fsync		= backing_fsync,
	.unlocked_ioctl	= backing_ioctl,
	.llseek		= backing_llseek,
};

/* A descriptor that has @medium from now on. */
static int install(struct medium *medium)
{
	struct exmap_nvme_controller *ctrl = medium->ctrl;
	struct file *file;
	int fd = get_unused_fd_flags(O_CLOEXEC);

	if (fd < 0)
		return fd;
	file = exmap_view_file("[exmap-nvme-backing]", O_RDWR, &backing_fops, medium);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	i_size_write(file_inode(file), ctrl->nr_lbas << ctrl->lba_shift);
	fd_install(fd, file);
	return fd;
}

static int claim_and_install(struct medium *medium)
{
	int ret = claim(medium);

	if (ret)
		return ret;
	ret = install(medium);
	if (ret < 0)
		unclaim(medium);
	return ret;
}

/* EXMAP_IOCTL_NVME_BACKING: returns a descriptor. */
int exmap_nvme_backing_open(const struct exmap_nvme_backing *args)
{
	struct medium *medium;
	int ret = -ENODEV;

	if ((args->flags & ~(u64)EXMAP_NVME_EXCLUSIVE) || args->reserved8 ||
	    memchr_inv(args->reserved, 0, sizeof(args->reserved)) || args->device > 31 ||
	    args->function > 7)
		return -EINVAL;
	medium = kzalloc(sizeof(*medium), EXMAP_GFP);
	if (!medium)
		return -ENOMEM;
	medium->exclusive = args->flags & EXMAP_NVME_EXCLUSIVE;
	medium->ctrl = exmap_nvme_controller_find(args->segment, args->bus, args->device,
						  args->function);
	if (medium->ctrl)
		ret = claim_and_install(medium);
	if (ret >= 0)
		return ret;
	if (medium->ctrl)
		exmap_nvme_controller_put(medium->ctrl);
	kfree(medium);
	return ret;
}
