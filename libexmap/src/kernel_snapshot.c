// SPDX-License-Identifier: MIT
/* libexmap: snapshots of /dev/exmap. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

static int call(const struct exmap_snapshot *snap, unsigned long request, void *arg)
{
	return ioctl(snap->fd, request, arg) < 0 ? -errno : 0;
}

static void snapshot_close(struct exmap_snapshot *snap)
{
	if (snap->base)
		munmap((void *)snap->base, snap->count * EXMAP_PAGE_SIZE);
	close(snap->fd);
	free(snap);
}

static long snapshot_pread(struct exmap_snapshot *snap, void *buffer, size_t len, uint64_t offset)
{
	ssize_t ret = pread(snap->fd, buffer, len, (off_t)offset);

	return ret < 0 ? -errno : ret;
}

static int snapshot_words(struct exmap_snapshot *snap, uint64_t start, uint64_t count,
			  uint32_t *words)
{
	struct exmap_snapshot_pages pages = {
		.start = start,
		.count = count,
		.words = (uintptr_t)words,
	};

	return call(snap, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages);
}

static int snapshot_diff(struct exmap_snapshot *snap, struct exmap_snapshot *other, uint64_t start,
			 uint64_t count, uint8_t *bitmap)
{
	struct exmap_snapshot_diff diff = {
		.fd = other->fd,
		.start = start,
		.count = count,
		.bitmap = (uintptr_t)bitmap,
	};

	return call(snap, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff);
}

static int snapshot_info(struct exmap_snapshot *snap, struct exmap_snapshot_info *info)
{
	return call(snap, EXMAP_IOCTL_SNAPSHOT_INFO, info);
}

static const struct exmap_snapshot_ops snapshot_ops = {
	.close = snapshot_close,
	.pread = snapshot_pread,
	.words = snapshot_words,
	.diff = snapshot_diff,
	.info = snapshot_info,
};

int exmap_kernel_snapshot(struct exmap *ex, const struct exmap_snapshot_create *create,
			  struct exmap_snapshot **out)
{
	struct exmap_snapshot_base *self = calloc(1, sizeof(*self));
	struct exmap_snapshot *snap;
	void *view;
	int ret;

	if (!self)
		return -ENOMEM;
	self->ops = &snapshot_ops;
	snap = &self->pub;
	snap->backend = EXMAP_BACKEND_KERNEL;
	snap->start = create->start;
	snap->count = create->count;
	snap->fd = ioctl(ex->fd, EXMAP_IOCTL_SNAPSHOT, create);
	if (snap->fd < 0) {
		ret = -errno;
		free(self);
		return ret;
	}

	view = mmap(NULL, snap->count * EXMAP_PAGE_SIZE, PROT_READ, MAP_SHARED, snap->fd, 0);
	if (view == MAP_FAILED) {
		ret = -errno;
		snapshot_close(snap);
		return ret;
	}
	snap->base = view;
	*out = snap;
	return 0;
}
