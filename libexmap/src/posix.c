// SPDX-License-Identifier: MIT
/*
 * libexmap: the backend for any Linux, over anonymous memory.
 *
 * It keeps the books of uapi/exmap.h exactly (residency, frames, quarantine,
 * errors) and the memory as nearly as user space can.  What it cannot do:
 *
 *  - An absent page does not trap: reading it gives zeros or old content, what
 *    is written to it is lost.  (Protecting single pages would need a mapping
 *    for each run, and Linux allows 65,530.)
 *  - EXMAP_FAULT_ALLOC cannot see faults: -EOPNOTSUPP.
 *  - SCAN says "accessed" and "dirty" of every mapped page, and clears nothing.
 *  - A snapshot copies its pages when it is made; see posix_snapshot.c.
 *
 * One lock keeps the books; it is not held during I/O, when pages are BUSY
 * (READ) or held (WRITE).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "posix.h"

#define DEFAULT_THRESHOLD 8192u
#define SMALLEST_LIMIT 32u

static size_t words_bytes(const struct exmap *ex)
{
	return (ex->region_pages * sizeof(uint32_t) + EXMAP_PAGE_SIZE - 1) &
	       ~(size_t)(EXMAP_PAGE_SIZE - 1);
}

static void set_word(struct posix *p, uint64_t page, uint32_t word)
{
	__atomic_store_n(&p->words[page], word, __ATOMIC_RELEASE);
}

/* Give the memory of a page back; it reads as zeros afterwards. */
static void drop_page(struct posix *p, uint64_t page)
{
	madvise(p->base.pub.base + page * EXMAP_PAGE_SIZE, EXMAP_PAGE_SIZE, MADV_DONTNEED);
}

static void retire(struct posix *p, uint32_t frame)
{
	struct frame *f = &p->frames[frame];

	drop_page(p, f->page);
	set_word(p, f->page, 0);
	f->lazy = false;
	p->free[p->nr_free++] = frame;
	p->c.quarantine--;
}

/* Retire one interface's quarantine, but for frames that a WRITE uses. */
static void flush_interface(struct posix *p, struct interface_state *itf)
{
	size_t i, kept = 0;

	for (i = 0; i < itf->nr_quarantine; i++) {
		uint32_t frame = itf->quarantine[i];

		if (!p->frames[frame].lazy)
			continue;
		if (p->frames[frame].holds)
			itf->quarantine[kept++] = frame;
		else
			retire(p, frame);
	}
	itf->nr_quarantine = kept;
}

void exmap_posix_flush(struct posix *p)
{
	uint32_t i;

	p->c.flushes++;
	for (i = 0; i < p->base.pub.interfaces; i++)
		flush_interface(p, &p->interfaces[i]);
}

static uint32_t limit(const struct posix *p)
{
	uint32_t share = (uint32_t)(p->c.total / 4 / p->base.pub.interfaces);

	if (share < SMALLEST_LIMIT)
		share = SMALLEST_LIMIT;
	return p->threshold < share ? p->threshold : share;
}

static int make_room(struct interface_state *itf)
{
	size_t capacity = itf->capacity ? itf->capacity * 2 : 1024;
	uint32_t *grown;

	if (itf->nr_quarantine < itf->capacity)
		return 0;
	grown = realloc(itf->quarantine, capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	itf->quarantine = grown;
	itf->capacity = capacity;
	return 0;
}

static int take_frame(struct posix *p, uint32_t *frame)
{
	if (!p->nr_free && p->c.quarantine)
		exmap_posix_flush(p);
	if (!p->nr_free)
		return -ENOMEM;
	*frame = p->free[--p->nr_free];
	return 0;
}

/* ALLOC of one page: 1 if it was mapped, 0 if it is already, or an error. */
static int alloc_one(struct posix *p, uint64_t page)
{
	uint32_t word = p->words[page], frame;
	int ret;

	if (EXMAP_RES_MAPPED(word))
		return 0;
	if (word & EXMAP_RES_BUSY)
		return -EAGAIN;
	if (word & EXMAP_RES_LAZY) {
		frame = EXMAP_RES_FRAME(word);
		p->frames[frame].lazy = false;
		p->c.quarantine--;
		p->c.rescues++;
	} else {
		ret = take_frame(p, &frame);
		if (ret)
			return ret;
		p->frames[frame].page = (uint32_t)page;
	}
	set_word(p, page, frame + 1);
	p->c.mapped++;
	p->c.allocs++;
	return 1;
}

static int free_one(struct posix *p, struct interface_state *itf, uint64_t page)
{
	uint32_t word = p->words[page], frame = EXMAP_RES_FRAME(word);
	int ret;

	if (!EXMAP_RES_MAPPED(word))
		return 0;
	ret = make_room(itf);
	if (ret)
		return ret;
	p->frames[frame].lazy = true;
	itf->quarantine[itf->nr_quarantine++] = frame;
	set_word(p, page, word | EXMAP_RES_LAZY);
	p->c.mapped--;
	p->c.quarantine++;
	p->c.frees++;
	return 1;
}

static bool outside(const struct posix *p, struct exmap_iov vec)
{
	return (uint64_t)vec.page + vec.len > p->base.pub.region_pages;
}

static int alloc_iov(struct posix *p, struct exmap_iov vec, uint64_t flags, int *changed)
{
	unsigned int i;

	for (i = 0; i < vec.len; i++) {
		int ret = alloc_one(p, vec.page + i);

		if (ret < 0)
			return ret;
		if (!i && !ret && (flags & EXMAP_ALLOC_PROBE))
			return 0;
		*changed += ret;
	}
	return 0;
}

static int free_iov(struct posix *p, struct interface_state *itf, struct exmap_iov vec, int *changed)
{
	unsigned int i;

	for (i = 0; i < vec.len; i++) {
		int ret = free_one(p, itf, vec.page + i);

		if (ret < 0)
			return ret;
		*changed += ret;
	}
	return 0;
}

/* READ: claim up to @len pages from @page on; returns how many follow each other. */
static unsigned int claim_run(struct posix *p, uint64_t page, unsigned int len, int *error)
{
	unsigned int n;

	for (n = 0; n < len; n++) {
		uint32_t word = p->words[page + n], frame = EXMAP_RES_FRAME(word);

		if (EXMAP_RES_MAPPED(word))
			break;
		if (word & EXMAP_RES_BUSY)
			*error = -EAGAIN;
		else if (!(word & EXMAP_RES_LAZY))
			*error = take_frame(p, &frame);
		else if (p->frames[frame].holds)
			*error = -EAGAIN;
		else
			p->c.quarantine--;
		if (*error)
			break;
		p->frames[frame].lazy = false;
		p->frames[frame].page = (uint32_t)(page + n);
		set_word(p, page + n, EXMAP_RES_BUSY | (frame + 1));
		p->c.busy++;
	}
	return n;
}

static int backing_bytes(const struct posix *p, uint64_t *bytes)
{
	struct stat st;

	if (fstat(p->backing, &st))
		return -errno;
	*bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(p->backing, BLKGETSIZE64, bytes))
		return -errno;
	return 0;
}

/* Read or write @len bytes fully, as far as there is a file; returns bytes or an error. */
static ssize_t transfer(const struct posix *p, uint64_t page, size_t len, bool write)
{
	uint8_t *address = p->base.pub.base + page * EXMAP_PAGE_SIZE;
	size_t done = 0;

	while (done < len) {
		off_t offset = (off_t)(page * EXMAP_PAGE_SIZE + done);
		ssize_t n = write ? pwrite(p->backing, address + done, len - done, offset) :
				    pread(p->backing, address + done, len - done, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* What became of page @i of a run of which @got bytes were read. */
static int read_result(struct posix *p, uint64_t page, ssize_t got, unsigned int i)
{
	uint64_t size, start = page * EXMAP_PAGE_SIZE;
	ssize_t here = got - (ssize_t)i * EXMAP_PAGE_SIZE;
	int ret;

	if (here >= (ssize_t)EXMAP_PAGE_SIZE)
		return 0;
	ret = backing_bytes(p, &size);
	if (got < 0 || ret)
		return got < 0 ? (int)got : ret;
	if (start >= size)
		return -ENXIO;
	if (here <= 0 || start + (uint64_t)here < size)
		return -EIO;
	memset(p->base.pub.base + start + here, 0, EXMAP_PAGE_SIZE - (size_t)here);
	return 0;
}

/* Map what was read, put the rest into quarantine; the lock is held. */
static int end_run(struct posix *p, struct interface_state *itf, uint64_t page, unsigned int n,
		   ssize_t got, int *changed)
{
	int first_error = 0;
	unsigned int i;

	for (i = 0; i < n; i++) {
		uint32_t frame = EXMAP_RES_FRAME(p->words[page + i]);
		int ret = read_result(p, page + i, got, i);

		p->c.busy--;
		set_word(p, page + i, frame + 1);
		p->c.mapped++;
		if (!ret) {
			p->c.allocs++;
			p->c.reads++;
			(*changed)++;
			continue;
		}
		first_error = first_error ? first_error : ret;
		if (free_one(p, itf, page + i) == 1)
			p->c.frees--;
	}
	return first_error;
}

static int read_iov(struct posix *p, struct interface_state *itf, struct exmap_iov vec, int *changed)
{
	unsigned int i = 0;

	while (i < vec.len) {
		uint64_t page = vec.page + i;
		int error = 0, io_error = 0;
		unsigned int n = claim_run(p, page, vec.len - i, &error);

		if (n) {
			ssize_t got;

			pthread_mutex_unlock(&p->lock);
			got = transfer(p, page, (size_t)n * EXMAP_PAGE_SIZE, false);
			pthread_mutex_lock(&p->lock);
			io_error = end_run(p, itf, page, n, got, changed);
		}
		if (io_error || error)
			return io_error ? io_error : error;
		i += n ? n : 1;
	}
	return 0;
}

/* Keep the frames of mapped pages from being retired; returns how many pages that were. */
static unsigned int hold_run(struct posix *p, uint64_t page, unsigned int len, uint32_t *held)
{
	unsigned int n;

	for (n = 0; n < len && EXMAP_RES_MAPPED(p->words[page + n]); n++) {
		held[n] = EXMAP_RES_FRAME(p->words[page + n]);
		p->frames[held[n]].holds++;
	}
	return n;
}

static int write_iov(struct posix *p, struct exmap_iov vec, int *changed)
{
	uint32_t held[EXMAP_PAGE_MAX_PAGES];
	unsigned int i, whole, n = hold_run(p, vec.page, vec.len, held);
	ssize_t put;

	pthread_mutex_unlock(&p->lock);
	put = transfer(p, vec.page, (size_t)n * EXMAP_PAGE_SIZE, true);
	pthread_mutex_lock(&p->lock);
	for (i = 0; i < n; i++)
		p->frames[held[i]].holds--;

	whole = put < 0 ? 0 : (unsigned int)((size_t)put / EXMAP_PAGE_SIZE);
	*changed += (int)whole;
	p->c.writes += whole;
	if (whole < n)
		return put < 0 ? (int)put : -EIO;
	return n < vec.len ? -ENOENT : 0;
}

static int check_action(const struct posix *p, unsigned int interface, unsigned int opcode,
			unsigned int iov_len, uint64_t flags)
{
	uint64_t known = opcode == EXMAP_OP_ALLOC ? EXMAP_ALLOC_PROBE :
			 opcode == EXMAP_OP_FREE  ? EXMAP_FREE_LAZY :
						    0;

	if (interface >= p->base.pub.interfaces || opcode > EXMAP_OP_UNSHARE || (flags & ~known) ||
	    iov_len > EXMAP_USER_INTERFACE_PAGES)
		return -EINVAL;
	if (opcode != EXMAP_OP_READ && opcode != EXMAP_OP_WRITE)
		return 0;
	if (p->backing < 0)
		return -ENODEV;
	return opcode == EXMAP_OP_WRITE && p->backing_mode == O_RDONLY ? -EBADF : 0;
}

static int run_iov(struct posix *p, struct interface_state *itf, unsigned int opcode,
		   struct exmap_iov vec, uint64_t flags, int *changed)
{
	if (outside(p, vec))
		return -EFAULT;
	switch (opcode) {
	case EXMAP_OP_READ:
		return read_iov(p, itf, vec, changed);
	case EXMAP_OP_ALLOC:
		return alloc_iov(p, vec, flags, changed);
	case EXMAP_OP_FREE:
		return free_iov(p, itf, vec, changed);
	case EXMAP_OP_UNSHARE:
		return 0; /* a snapshot shares nothing */
	default:
		return write_iov(p, vec, changed);
	}
}

static int posix_action(struct exmap *ex, unsigned int interface, unsigned int opcode,
			unsigned int iov_len, uint64_t flags)
{
	struct posix *p = posix_of(ex);
	struct interface_state *itf;
	int failed = 0, freed = 0;
	unsigned int i;
	int ret = check_action(p, interface, opcode, iov_len, flags);

	if (ret)
		return ret;
	itf = &p->interfaces[interface];
	pthread_mutex_lock(&p->lock);
	for (i = 0; i < iov_len; i++) {
		struct exmap_iov *iov = &ex->itf[interface]->iov[i];
		struct exmap_iov vec = { .value = __atomic_load_n(&iov->value, __ATOMIC_RELAXED) };
		struct exmap_iov result = { .value = 0 };
		int changed = 0;

		result.res = run_iov(p, itf, opcode, vec, flags, &changed);
		result.pages = (int16_t)changed;
		freed += opcode == EXMAP_OP_FREE ? changed : 0;
		failed += result.res < 0;
		__atomic_store_n(&iov->value, result.value, __ATOMIC_RELAXED);
	}
	if (freed && (!(flags & EXMAP_FREE_LAZY) || itf->nr_quarantine >= limit(p)))
		exmap_posix_flush(p);
	pthread_mutex_unlock(&p->lock);
	return failed;
}

static int posix_barrier(struct exmap *ex)
{
	struct posix *p = posix_of(ex);

	pthread_mutex_lock(&p->lock);
	exmap_posix_flush(p);
	pthread_mutex_unlock(&p->lock);
	return 0;
}

/* Make free frames out of holes, or new ones. */
static int grow(struct posix *p, uint64_t pool_pages)
{
	struct frame *frames = p->frames;
	uint32_t *free = p->free;
	uint32_t i;

	if (pool_pages > p->capacity) {
		frames = realloc(p->frames, pool_pages * sizeof(*frames));
		if (!frames)
			return -ENOMEM;
		p->frames = frames;
		free = realloc(p->free, pool_pages * sizeof(*free));
		if (!free)
			return -ENOMEM;
		p->free = free;
		for (i = p->capacity; i < pool_pages; i++)
			frames[i] = (struct frame){ .hole = true };
		p->capacity = (uint32_t)pool_pages;
	}
	for (i = p->capacity; i-- && p->c.total < pool_pages;) {
		if (!frames[i].hole)
			continue;
		frames[i].hole = false;
		free[p->nr_free++] = i;
		p->c.total++;
	}
	return 0;
}

static int shrink(struct posix *p, uint64_t pool_pages)
{
	if (p->nr_free < p->c.total - pool_pages)
		exmap_posix_flush(p);
	if (p->nr_free < p->c.total - pool_pages)
		return -EBUSY;
	while (p->c.total > pool_pages) {
		p->frames[p->free[--p->nr_free]].hole = true;
		p->c.total--;
	}
	return 0;
}

static int posix_resize(struct exmap *ex, uint64_t pool_pages)
{
	struct posix *p = posix_of(ex);
	int ret;

	if (!pool_pages || pool_pages > EXMAP_POOL_MAX_PAGES)
		return -EINVAL;
	pthread_mutex_lock(&p->lock);
	ret = pool_pages >= p->c.total ? grow(p, pool_pages) : shrink(p, pool_pages);
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static int posix_tune(struct exmap *ex, struct exmap_tune *tune)
{
	struct posix *p = posix_of(ex);

	if (tune->flags || tune->reserved[0] || tune->reserved[1] ||
	    tune->flush_threshold > EXMAP_FLUSH_THRESHOLD_MAX)
		return -EINVAL;
	pthread_mutex_lock(&p->lock);
	if (tune->flush_threshold)
		p->threshold = (uint32_t)tune->flush_threshold;
	tune->flush_threshold = p->threshold;
	pthread_mutex_unlock(&p->lock);
	return 0;
}

static void set_bit(uint64_t bitmap, uint64_t i, bool value)
{
	uint8_t *bytes = (uint8_t *)(uintptr_t)bitmap;

	if (!bytes)
		return;
	if (i % 8 == 0)
		bytes[i / 8] = 0;
	bytes[i / 8] = (uint8_t)(bytes[i / 8] | (value << i % 8));
}

static int check_scan(const struct exmap_scan *scan)
{
	bool vector = scan->flags & EXMAP_SCAN_VECTOR;

	if (scan->flags & ~(uint64_t)(EXMAP_SCAN_VECTOR | EXMAP_SCAN_CLEAR_ACCESSED |
				      EXMAP_SCAN_CLEAR_DIRTY))
		return -EINVAL;
	if (scan->reserved || (vector ? scan->start : scan->vector))
		return -EINVAL;
	if ((scan->flags & EXMAP_SCAN_CLEAR_ACCESSED) && !scan->accessed)
		return -EINVAL;
	if ((scan->flags & EXMAP_SCAN_CLEAR_DIRTY) && !scan->dirty)
		return -EINVAL;
	return scan->start + scan->count < scan->start ? -EINVAL : 0;
}

static int posix_scan(struct exmap *ex, const struct exmap_scan *scan)
{
	const uint64_t *vector = (const uint64_t *)(uintptr_t)scan->vector;
	struct posix *p = posix_of(ex);
	uint64_t i;
	int ret = check_scan(scan);

	pthread_mutex_lock(&p->lock);
	for (i = 0; !ret && i < scan->count; i++) {
		uint64_t page = scan->flags & EXMAP_SCAN_VECTOR ? vector[i] : scan->start + i;
		bool mapped;

		if (page >= ex->region_pages) {
			ret = -EFAULT;
			break;
		}
		mapped = EXMAP_RES_MAPPED(p->words[page]);
		set_bit(scan->present, i, mapped);
		set_bit(scan->accessed, i, mapped);
		set_bit(scan->dirty, i, mapped);
	}
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static int posix_info(struct exmap *ex, struct exmap_info *info)
{
	struct posix *p = posix_of(ex);
	uint64_t bytes = 0;

	info->abi_version = EXMAP_ABI_VERSION;
	info->page_size = EXMAP_PAGE_SIZE;
	info->features = EXMAP_FEATURE_RESIDENCY | EXMAP_FEATURE_LAZY | EXMAP_FEATURE_RESIZE |
			 EXMAP_FEATURE_FILE_BACKING | EXMAP_FEATURE_SNAPSHOT;
	info->setup_flags = p->flags;
	info->region_pages = ex->region_pages;
	info->max_interfaces = ex->interfaces;
	info->chunk_pages = EXMAP_CHUNK_PAGES;
	pthread_mutex_lock(&p->lock);
	info->pool_pages = p->c.total;
	info->flush_threshold = p->threshold;
	pthread_mutex_unlock(&p->lock);
	if (p->backing >= 0 && !backing_bytes(p, &bytes))
		info->backing_pages = (bytes + EXMAP_PAGE_SIZE - 1) / EXMAP_PAGE_SIZE;
	return 0;
}

static int posix_counters(struct exmap *ex, struct exmap_counters *counters)
{
	struct posix *p = posix_of(ex);

	pthread_mutex_lock(&p->lock);
	*counters = p->c;
	counters->free = p->nr_free;
	pthread_mutex_unlock(&p->lock);
	return 0;
}

void exmap_posix_put(struct posix *p)
{
	bool last = !--p->refs;

	pthread_mutex_unlock(&p->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void posix_close(struct exmap *ex)
{
	struct posix *p = posix_of(ex);
	unsigned int i;

	for (i = 0; p->interfaces && i < ex->interfaces; i++)
		free(p->interfaces[i].quarantine);
	for (i = 0; ex->itf && i < ex->interfaces; i++)
		free(ex->itf[i]);
	free(p->interfaces);
	free(ex->itf);
	free(p->frames);
	free(p->free);
	if (p->words)
		munmap(p->words, words_bytes(ex));
	if (ex->residency)
		munmap((void *)ex->residency, words_bytes(ex));
	if (ex->base)
		munmap(ex->base, ex->region_pages * EXMAP_PAGE_SIZE);
	if (p->backing >= 0)
		close(p->backing);
	pthread_mutex_lock(&p->lock);
	p->closed = true;
	exmap_posix_put(p);
}

static const struct exmap_ops posix_ops = {
	.close = posix_close,
	.action = posix_action,
	.barrier = posix_barrier,
	.resize = posix_resize,
	.tune = posix_tune,
	.scan = posix_scan,
	.info = posix_info,
	.counters = posix_counters,
	.snapshot = exmap_posix_snapshot,
	.nvme = exmap_posix_nvme,
};

/* The words twice: for us to write, for the user to read. */
static int map_words(struct posix *p)
{
	struct exmap *ex = &p->base.pub;
	size_t bytes = words_bytes(ex);
	int fd = memfd_create("exmap-residency", MFD_CLOEXEC);
	void *words, *view;
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes)) {
		ret = -errno;
		goto out;
	}
	words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words != MAP_FAILED)
		p->words = words;
	view = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (view != MAP_FAILED)
		ex->residency = view;
	if (words == MAP_FAILED || view == MAP_FAILED)
		ret = -ENOMEM;
out:
	close(fd);
	return ret;
}

static int map_region(struct exmap *ex)
{
	size_t bytes = ex->region_pages * EXMAP_PAGE_SIZE;
	void *base;

	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	madvise(base, bytes, MADV_NOHUGEPAGE);
	ex->base = base;
	return 0;
}

static int make_interfaces(struct posix *p)
{
	struct exmap *ex = &p->base.pub;
	unsigned int i;

	p->interfaces = calloc(ex->interfaces, sizeof(*p->interfaces));
	ex->itf = calloc(ex->interfaces, sizeof(*ex->itf));
	if (!p->interfaces || !ex->itf)
		return -ENOMEM;
	for (i = 0; i < ex->interfaces; i++) {
		ex->itf[i] = aligned_alloc(EXMAP_PAGE_SIZE, EXMAP_PAGE_SIZE);
		if (!ex->itf[i])
			return -ENOMEM;
		memset(ex->itf[i], 0, EXMAP_PAGE_SIZE);
	}
	return 0;
}

static int check_config(const struct exmap_config *config, int *mode)
{
	struct stat st;

	if (config->flags & ~(uint64_t)(EXMAP_FAULT_ALLOC | EXMAP_FAULT_ZERO | EXMAP_SNAPSHOTS))
		return -EINVAL;
	if ((config->flags & EXMAP_FAULT_ALLOC) && (config->flags & EXMAP_FAULT_ZERO))
		return -EINVAL;
	if (!config->interfaces || config->interfaces > EXMAP_MAX_INTERFACES ||
	    !config->pool_pages || config->pool_pages > EXMAP_POOL_MAX_PAGES ||
	    config->flush_threshold > EXMAP_FLUSH_THRESHOLD_MAX)
		return -EINVAL;
	if (config->flags & EXMAP_FAULT_ALLOC)
		return -EOPNOTSUPP;
	if (config->backing_fd < 0)
		return 0;
	*mode = fcntl(config->backing_fd, F_GETFL);
	if (*mode < 0 || fstat(config->backing_fd, &st) || (*mode & O_APPEND))
		return -EBADF;
	*mode &= O_ACCMODE;
	return *mode == O_WRONLY || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) ? -EBADF : 0;
}

int exmap_posix_open(const struct exmap_config *config, struct exmap **out)
{
	static uint32_t last_id;
	struct posix *p;
	int mode = 0;
	int ret = check_config(config, &mode);

	if (ret)
		return ret;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->refs = 1;
	p->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
	p->base.ops = &posix_ops;
	p->base.pub.backend = EXMAP_BACKEND_POSIX;
	p->base.pub.fd = -1;
	p->base.pub.region_pages = config->region_pages;
	p->base.pub.interfaces = config->interfaces;
	p->backing = -1;
	p->backing_mode = mode;
	p->flags = config->flags;
	p->threshold = config->flush_threshold ? config->flush_threshold : DEFAULT_THRESHOLD;

	ret = map_region(&p->base.pub);
	if (!ret && config->backing_fd >= 0) {
		p->backing = fcntl(config->backing_fd, F_DUPFD_CLOEXEC, 3);
		ret = p->backing < 0 ? -errno : 0;
	}
	if (!ret)
		ret = map_words(p);
	if (!ret)
		ret = make_interfaces(p);
	if (!ret)
		ret = grow(p, config->pool_pages);
	if (ret) {
		posix_close(&p->base.pub);
		return ret;
	}
	*out = &p->base.pub;
	return 0;
}
