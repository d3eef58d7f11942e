// SPDX-License-Identifier: MIT
/*
 * libexmap: READ and WRITE of the posix backend, as the kernel does them: a batch of
 * pages is claimed under the lock, requests are made of those whose blocks are
 * neighbours, and what failed is tried again page by page.  One request runs at a time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "posix.h"

#define BATCH_PAGES	512u
#define NR_BLOCKS	((uint64_t)INT64_MAX / EXMAP_PAGE_SIZE)	/* that an offset can name */

/**
 * struct slot - a page of a batch
 * @block: where it is in the backing, in pages
 * @page: of the region
 * @frame: that it has, or will have
 * @iov: which one asked for it
 * @res: what became of it: 0 or an error
 */
struct slot {
	uint64_t block;
	uint32_t page;
	uint32_t frame;
	uint32_t iov;
	int res;
};

/**
 * struct batch - pages of a call that are claimed (READ) or held (WRITE)
 * @p: its lock is held, but for the time of I/O
 * @write: whether it is a WRITE
 * @nr: how many there are
 * @slots: the pages
 * @res: what became of each iov
 * @changed: pages of each iov that were transferred
 */
struct batch {
	struct posix *p;
	bool write;
	unsigned int nr;
	struct slot slots[BATCH_PAGES];
	int res[EXMAP_USER_INTERFACE_PAGES];
	unsigned int changed[EXMAP_USER_INTERFACE_PAGES];
};

int exmap_posix_backing_bytes(const struct posix *p, uint64_t *bytes)
{
	struct stat st;

	if (fstat(p->backing, &st))
		return -errno;
	*bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(p->backing, BLKGETSIZE64, bytes))
		return -errno;
	return 0;
}

static uint8_t *memory_of(const struct batch *b, const struct slot *slot)
{
	return b->p->base.pub.base + (uint64_t)slot->page * EXMAP_PAGE_SIZE;
}

/* One request: fully, as far as there is a file; bytes, or an error if there are none. */
static ssize_t transfer(const struct batch *b, const struct slot *slots, unsigned int n)
{
	struct iovec vec[BATCH_PAGES];
	size_t done = 0, len = (size_t)n * EXMAP_PAGE_SIZE;

	while (done < len) {
		unsigned int i, first = (unsigned int)(done / EXMAP_PAGE_SIZE);
		off_t offset = (off_t)(slots->block * EXMAP_PAGE_SIZE + done);
		size_t skip = done % EXMAP_PAGE_SIZE;
		ssize_t ret;

		for (i = first; i < n; i++)
			vec[i - first] = (struct iovec){ memory_of(b, &slots[i]), EXMAP_PAGE_SIZE };
		vec[0].iov_base = (uint8_t *)vec[0].iov_base + skip;
		vec[0].iov_len -= skip;
		ret = b->write ? pwritev(b->p->backing, vec, (int)(n - first), offset) :
				 preadv(b->p->backing, vec, (int)(n - first), offset);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0)
			return done ? (ssize_t)done : -errno;
		if (!ret)
			break;
		done += (size_t)ret;
	}
	return (ssize_t)done;
}

/* What became of a page of which @got bytes were read, or less than none.  Zeroes the tail of a cut page. */
static int read_result(const struct batch *b, const struct slot *slot, ssize_t got)
{
	uint64_t size, start = slot->block * EXMAP_PAGE_SIZE;
	int ret = exmap_posix_backing_bytes(b->p, &size);

	if (ret)
		return ret;
	if (start >= size)
		return -ENXIO;
	if (got <= 0 || start + (uint64_t)got < size)
		return -EIO;
	memset(memory_of(b, slot) + got, 0, EXMAP_PAGE_SIZE - (size_t)got);
	return 0;
}

/* What became of page @i of a request of which @got bytes were transferred. */
static int page_result(const struct batch *b, const struct slot *slots, unsigned int i, ssize_t got)
{
	ssize_t here = got - (ssize_t)i * EXMAP_PAGE_SIZE;

	if (got < 0)
		return (int)got;
	if (here >= (ssize_t)EXMAP_PAGE_SIZE)
		return 0;
	return b->write ? -EIO : read_result(b, &slots[i], here);
}

/* One request, and what failed of it once more, so that a bad block is the matter of its page alone. */
static void run_request(const struct batch *b, struct slot *slots, unsigned int n)
{
	ssize_t got = transfer(b, slots, n);
	unsigned int i;

	for (i = 0; i < n; i++) {
		int res = page_result(b, slots, i, got);

		if (res && res != -ENXIO && n > 1)
			res = page_result(b, &slots[i], 0, transfer(b, &slots[i], 1));
		slots[i].res = res;
	}
}

/* A READ of the page has ended: map it, or give its frame back. */
static void end_read(struct posix *p, const struct slot *slot)
{
	p->c.busy--;
	if (slot->res) {
		exmap_posix_drop(p, slot->frame);
		return;
	}
	exmap_posix_set_word(p, slot->page, slot->frame + 1);
	p->c.mapped++;
	p->c.allocs++;
	p->c.reads++;
}

static void end_slot(struct batch *b, const struct slot *slot)
{
	struct posix *p = b->p;

	if (b->write) {
		p->frames[slot->frame].holds--;
		p->c.writes += !slot->res;
	} else {
		end_read(p, slot);
	}
	b->changed[slot->iov] += !slot->res;
	if (slot->res && !b->res[slot->iov])
		b->res[slot->iov] = slot->res;
}

/* Transfer what has been gathered. */
static void run_batch(struct batch *b)
{
	unsigned int first, n, i;

	pthread_mutex_unlock(&b->p->lock);
	for (first = 0; first < b->nr; first += n) {
		struct slot *slots = &b->slots[first];

		for (n = 1; first + n < b->nr && slots[n].block == slots->block + n; n++)
			;
		run_request(b, slots, n);
	}
	pthread_mutex_lock(&b->p->lock);
	for (i = 0; i < b->nr; i++)
		end_slot(b, &b->slots[i]);
	b->nr = 0;
}

/* Make an absent page BUSY: 1, with its frame, or 0 if it is mapped, or an error. */
static int claim(struct posix *p, uint64_t page, uint32_t *frame)
{
	uint32_t word = p->words[page];
	int ret = 0;

	*frame = EXMAP_RES_FRAME(word);
	if (EXMAP_RES_MAPPED(word))
		return 0;
	if (word & EXMAP_RES_BUSY)
		return -EAGAIN;
	if (!(word & EXMAP_RES_LAZY))
		ret = exmap_posix_take_frame(p, frame);
	else if (p->frames[*frame].holds)
		return -EAGAIN;
	else
		p->c.quarantine--;
	if (ret)
		return ret;
	p->frames[*frame].lazy = false;
	p->frames[*frame].page = (uint32_t)page;
	exmap_posix_set_word(p, page, EXMAP_RES_BUSY | (*frame + 1));
	p->c.busy++;
	return 1;
}

/* Keep the frame of a mapped page from being retired: 1, or an error. */
static int hold(struct posix *p, uint64_t page, uint32_t *frame)
{
	if (!EXMAP_RES_MAPPED(p->words[page]))
		return -ENOENT;
	*frame = EXMAP_RES_FRAME(p->words[page]);
	p->frames[*frame].holds++;
	return 1;
}

static int add_page(struct batch *b, unsigned int iov, uint64_t page, uint64_t block)
{
	struct slot *slot;
	int ret;

	if (b->nr == BATCH_PAGES)
		run_batch(b);
	slot = &b->slots[b->nr];
	ret = b->write ? hold(b->p, page, &slot->frame) : claim(b->p, page, &slot->frame);
	if (ret <= 0)
		return ret;
	slot->block = block;
	slot->page = (uint32_t)page;
	slot->iov = iov;
	b->nr++;
	return 0;
}

static int add_pages(struct batch *b, unsigned int iov, struct exmap_iov vec, uint64_t block)
{
	unsigned int i;
	int ret = 0;

	if ((uint64_t)vec.page + vec.len > b->p->base.pub.region_pages)
		return -EFAULT;
	if (block > NR_BLOCKS - vec.len)
		return -EINVAL;
	for (i = 0; i < vec.len && !ret; i++)
		ret = add_page(b, iov, vec.page + i, block + i);
	return ret;
}

int exmap_posix_transfer(struct posix *p, struct exmap_iov *iov, unsigned int len, bool write,
			 uint64_t flags)
{
	struct batch b; /* 20 KiB, of which most calls use little */
	unsigned int i;
	int failed = 0;

	b.p = p;
	b.write = write;
	b.nr = 0;
	for (i = 0; i < len; i++) {
		struct exmap_iov vec = { .value = __atomic_load_n(&iov[i].value, __ATOMIC_RELAXED) };
		uint64_t block = vec.page;
		int res;

		b.res[i] = 0;
		b.changed[i] = 0;
		if (flags & EXMAP_AT_BLOCKS)
			block = __atomic_load_n(&iov[EXMAP_AT_BLOCKS_MAX + i].value, __ATOMIC_RELAXED);
		res = add_pages(&b, i, vec, block);
		if (res && !b.res[i])
			b.res[i] = res;
	}
	run_batch(&b);
	for (i = 0; i < len; i++) {
		struct exmap_iov result = { .res = b.res[i], .pages = (int16_t)b.changed[i] };

		__atomic_store_n(&iov[i].value, result.value, __ATOMIC_RELAXED);
		failed += b.res[i] < 0;
	}
	return failed;
}
