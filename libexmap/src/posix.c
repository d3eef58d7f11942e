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
#include <stdlib.h>
#include <string.h>
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

/* The page's memory reads as zeros afterwards. */
void exmap_posix_drop(struct posix *p, uint32_t frame)
{
	const uint64_t page = p->frames[frame].page;

	madvise(p->base.pub.base + page * EXMAP_PAGE_SIZE, EXMAP_PAGE_SIZE, MADV_DONTNEED);
	exmap_posix_set_word(p, page, 0);
	p->free[p->nr_free++] = frame;
}

static void retire(struct posix *p, uint32_t frame)
{
	exmap_posix_drop(p, frame);
	p->frames[frame].lazy = false;
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

int exmap_posix_take_frame(struct posix *p, uint32_t *frame)
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
		ret = exmap_posix_take_frame(p, &frame);
		if (ret)
			return ret;
		p->frames[frame].page = (uint32_t)page;
	}
	exmap_posix_set_word(p, page, frame + 1);
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
	exmap_posix_set_word(p, page, word | EXMAP_RES_LAZY);
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

static bool is_transfer(unsigned int opcode)
{
	return opcode == EXMAP_OP_READ || opcode == EXMAP_OP_WRITE;
}

static int check_action(const struct posix *p, unsigned int interface, unsigned int opcode,
			unsigned int iov_len, uint64_t flags)
{
	uint64_t known = opcode == EXMAP_OP_ALLOC ? EXMAP_ALLOC_PROBE :
			 opcode == EXMAP_OP_FREE  ? EXMAP_FREE_LAZY :
			 is_transfer(opcode)	  ? EXMAP_AT_BLOCKS :
						    0;
	unsigned int most = flags & EXMAP_AT_BLOCKS ? EXMAP_AT_BLOCKS_MAX : EXMAP_USER_INTERFACE_PAGES;

	if (interface >= p->base.pub.interfaces || opcode > EXMAP_OP_UNSHARE || (flags & ~known) ||
	    iov_len > most)
		return -EINVAL;
	if (!is_transfer(opcode))
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
	case EXMAP_OP_ALLOC:
		return alloc_iov(p, vec, flags, changed);
	case EXMAP_OP_FREE:
		return free_iov(p, itf, vec, changed);
	default:
		return 0; /* UNSHARE: a snapshot shares nothing */
	}
}

/* ALLOC, FREE or UNSHARE; how many iovs failed.  The lock is held. */
static int run_vector(struct posix *p, struct interface_state *itf, unsigned int opcode,
		      struct exmap_iov *iov, unsigned int len, uint64_t flags)
{
	int failed = 0, freed = 0;
	unsigned int i;

	for (i = 0; i < len; i++) {
		struct exmap_iov vec = { .value = __atomic_load_n(&iov[i].value, __ATOMIC_RELAXED) };
		struct exmap_iov result = { .value = 0 };
		int changed = 0;

		result.res = run_iov(p, itf, opcode, vec, flags, &changed);
		result.pages = (int16_t)changed;
		freed += opcode == EXMAP_OP_FREE ? changed : 0;
		failed += result.res < 0;
		__atomic_store_n(&iov[i].value, result.value, __ATOMIC_RELAXED);
	}
	if (freed && (!(flags & EXMAP_FREE_LAZY) || itf->nr_quarantine >= limit(p)))
		exmap_posix_flush(p);
	return failed;
}

static int posix_action(struct exmap *ex, unsigned int interface, unsigned int opcode,
			unsigned int iov_len, uint64_t flags)
{
	struct posix *p = posix_of(ex);
	struct exmap_iov *iov;
	int ret = check_action(p, interface, opcode, iov_len, flags);

	if (ret)
		return ret;
	iov = ex->itf[interface]->iov;
	pthread_mutex_lock(&p->lock);
	if (is_transfer(opcode))
		ret = exmap_posix_transfer(p, iov, iov_len, opcode == EXMAP_OP_WRITE, flags);
	else
		ret = run_vector(p, &p->interfaces[interface], opcode, iov, iov_len, flags);
	pthread_mutex_unlock(&p->lock);
	return ret;
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
			 EXMAP_FEATURE_FILE_BACKING | EXMAP_FEATURE_SNAPSHOT | EXMAP_FEATURE_AT_BLOCKS;
	info->setup_flags = p->flags;
	info->region_pages = ex->region_pages;
	info->max_interfaces = ex->interfaces;
	info->chunk_pages = EXMAP_CHUNK_PAGES;
	pthread_mutex_lock(&p->lock);
	info->pool_pages = p->c.total;
	info->flush_threshold = p->threshold;
	pthread_mutex_unlock(&p->lock);
	if (p->backing >= 0 && !exmap_posix_backing_bytes(p, &bytes))
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
