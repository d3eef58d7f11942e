// SPDX-License-Identifier: MIT
/*
 * libexmap: snapshots of the posix backend.
 *
 * Every mapped page of the range is copied to a memfd at once.  ALLOC, FREE and
 * READ wait for that; plain stores to mapped pages cannot be kept out, so that
 * writers who go on during exmap_snapshot_open may find pages torn or of
 * different moments.  Frames of the pool are taken for the reservation alone,
 * and kept until the snapshot is closed: nothing is copied out later, and no
 * snapshot ever breaks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "posix.h"

/**
 * struct posix_snapshot - what it was made of
 * @base: the public part, and the operations
 * @region: a reference
 * @id: its own
 * @words: for each page 0, or a number that no other copy has
 * @reserve: frames taken out of the pool
 * @nr_reserve: how many
 */
struct posix_snapshot {
	struct exmap_snapshot_base base;
	struct posix *region;
	uint32_t id;
	uint32_t *words;
	uint32_t *reserve;
	uint32_t nr_reserve;
};

static struct posix_snapshot *snapshot_of(struct exmap_snapshot *snap)
{
	return (struct posix_snapshot *)snap;
}

static void give_reserve(struct posix_snapshot *s)
{
	struct posix *p = s->region;
	uint32_t i;

	if (p->closed)
		return;
	for (i = 0; i < s->nr_reserve; i++)
		p->free[p->nr_free++] = s->reserve[i];
	p->c.snapshot -= s->nr_reserve;
}

static void snapshot_close(struct exmap_snapshot *snap)
{
	struct posix_snapshot *s = snapshot_of(snap);

	pthread_mutex_lock(&s->region->lock);
	give_reserve(s);
	exmap_posix_put(s->region);
	if (snap->base)
		munmap((void *)snap->base, snap->count * EXMAP_PAGE_SIZE);
	if (snap->fd >= 0)
		close(snap->fd);
	free(s->reserve);
	free(s->words);
	free(s);
}

static long snapshot_pread(struct exmap_snapshot *snap, void *buffer, size_t len, uint64_t offset)
{
	struct posix_snapshot *s = snapshot_of(snap);
	uint64_t end = snap->count * EXMAP_PAGE_SIZE, stop;

	if (offset >= end || !len)
		return 0;
	if (len < end - offset)
		end = offset + len;
	for (stop = offset; stop < end && s->words[stop / EXMAP_PAGE_SIZE];)
		stop = (stop / EXMAP_PAGE_SIZE + 1) * EXMAP_PAGE_SIZE;
	if (stop > end)
		stop = end;
	if (stop == offset)
		return -ENOENT;
	memcpy(buffer, snap->base + offset, stop - offset);
	return (long)(stop - offset);
}

static int snapshot_words(struct exmap_snapshot *snap, uint64_t start, uint64_t count,
			  uint32_t *words)
{
	if (start > snap->count || count > snap->count - start)
		return -EFAULT;
	memcpy(words, snapshot_of(snap)->words + start, count * sizeof(*words));
	return 0;
}

static bool covers(const struct exmap_snapshot *snap, uint64_t start, uint64_t count)
{
	return start >= snap->start && start + count <= snap->start + snap->count;
}

static bool same_page(struct exmap_snapshot *a, struct exmap_snapshot *b, uint64_t page)
{
	uint64_t i = page - a->start, j = page - b->start;

	if (!snapshot_of(a)->words[i] || !snapshot_of(b)->words[j])
		return !snapshot_of(a)->words[i] && !snapshot_of(b)->words[j];
	return !memcmp(exmap_snapshot_page(a, i), exmap_snapshot_page(b, j), EXMAP_PAGE_SIZE);
}

static int snapshot_diff(struct exmap_snapshot *snap, struct exmap_snapshot *other, uint64_t start,
			 uint64_t count, uint8_t *bitmap)
{
	uint64_t i;

	if (snapshot_of(snap)->region != snapshot_of(other)->region)
		return -EXDEV;
	if (start % 8)
		return -EINVAL;
	if (!covers(snap, start, count) || !covers(other, start, count))
		return -EFAULT;
	memset(bitmap, 0, (count + 7) / 8);
	for (i = 0; i < count; i++)
		if (!same_page(snap, other, start + i))
			bitmap[i / 8] |= (uint8_t)(1u << i % 8);
	return 0;
}

static int snapshot_info(struct exmap_snapshot *snap, struct exmap_snapshot_info *info)
{
	struct posix_snapshot *s = snapshot_of(snap);

	info->start = snap->start;
	info->count = snap->count;
	info->reserve = s->nr_reserve;
	info->id = s->id;
	info->region = s->region->id;
	return 0;
}

static const struct exmap_snapshot_ops snapshot_ops = {
	.close = snapshot_close,
	.pread = snapshot_pread,
	.words = snapshot_words,
	.diff = snapshot_diff,
	.info = snapshot_info,
};

static int check_range(const struct posix *p, const struct exmap_snapshot_create *create)
{
	uint64_t pages = p->base.pub.region_pages, end = create->start + create->count;

	if (create->flags & ~(uint64_t)EXMAP_READERS_COPY)
		return -EINVAL;
	if (!(p->flags & EXMAP_SNAPSHOTS))
		return -EOPNOTSUPP;
	if (!create->count || end < create->start || end > pages)
		return -EFAULT;
	if (create->start % EXMAP_CHUNK_PAGES || (end % EXMAP_CHUNK_PAGES && end != pages))
		return -EINVAL;
	return 0;
}

/* The region's lock is held. */
static int take_reserve(struct posix_snapshot *s, uint64_t wanted)
{
	struct posix *p = s->region;

	if (wanted == EXMAP_RESERVE_ALL)
		wanted = p->c.mapped < s->base.pub.count ? p->c.mapped : s->base.pub.count;
	if (wanted > p->nr_free && p->c.quarantine)
		exmap_posix_flush(p);
	if (wanted > p->nr_free)
		return -ENOMEM;
	if (!wanted)
		return 0;
	s->reserve = malloc(wanted * sizeof(*s->reserve));
	if (!s->reserve)
		return -ENOMEM;
	while (s->nr_reserve < wanted)
		s->reserve[s->nr_reserve++] = p->free[--p->nr_free];
	p->c.snapshot += wanted;
	return 0;
}

static int write_fully(int fd, const uint8_t *from, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, from, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		from += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Number the run of mapped pages at @i; returns its length. */
static uint64_t number_run(struct posix_snapshot *s, uint64_t i)
{
	struct exmap_snapshot *snap = &s->base.pub;
	struct posix *p = s->region;
	uint64_t n;

	for (n = 0; i + n < snap->count && EXMAP_RES_MAPPED(p->words[snap->start + i + n]); n++)
		s->words[i + n] = 1 + (uint32_t)(p->c.copies++ % EXMAP_RES_FRAME_MASK);
	return n;
}

/* The region's lock is held. */
static int copy_pages(struct posix_snapshot *s)
{
	struct exmap_snapshot *snap = &s->base.pub;
	uint64_t i, run;
	int ret = 0;

	for (i = 0; i < snap->count && !ret; i += run ? run : 1) {
		run = number_run(s, i);
		ret = write_fully(snap->fd, exmap_page(&s->region->base.pub, snap->start + i),
				  run * EXMAP_PAGE_SIZE, i * EXMAP_PAGE_SIZE);
	}
	return ret;
}

static int make_memory(struct posix_snapshot *s)
{
	struct exmap_snapshot *snap = &s->base.pub;

	s->words = calloc(snap->count, sizeof(*s->words));
	if (!s->words)
		return -ENOMEM;
	snap->fd = memfd_create("exmap-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (snap->fd < 0 || ftruncate(snap->fd, (off_t)(snap->count * EXMAP_PAGE_SIZE)))
		return -errno;
	return 0;
}

/* From now on it can only be read, also by those whom it is passed to. */
static int map_view(struct exmap_snapshot *snap)
{
	int seals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	void *view;

	if (fcntl(snap->fd, F_ADD_SEALS, seals))
		return -errno;
	view = mmap(NULL, snap->count * EXMAP_PAGE_SIZE, PROT_READ, MAP_SHARED, snap->fd, 0);
	if (view == MAP_FAILED)
		return -errno;
	snap->base = view;
	return 0;
}

int exmap_posix_snapshot(struct exmap *ex, const struct exmap_snapshot_create *create,
			 struct exmap_snapshot **out)
{
	static uint32_t last_id;
	struct posix *p = posix_of(ex);
	struct posix_snapshot *s;
	int ret = check_range(p, create);

	if (ret)
		return ret;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base.ops = &snapshot_ops;
	s->base.pub.backend = EXMAP_BACKEND_POSIX;
	s->base.pub.start = create->start;
	s->base.pub.count = create->count;
	s->base.pub.fd = -1;
	s->region = p;
	s->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);

	ret = make_memory(s);
	pthread_mutex_lock(&p->lock);
	p->refs++;
	if (!ret)
		ret = take_reserve(s, create->reserve);
	if (!ret)
		ret = copy_pages(s);
	pthread_mutex_unlock(&p->lock);
	if (!ret)
		ret = map_view(&s->base.pub);
	if (ret) {
		snapshot_close(&s->base.pub);
		return ret;
	}
	*out = &s->base.pub;
	return 0;
}
