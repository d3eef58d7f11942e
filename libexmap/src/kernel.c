// SPDX-License-Identifier: MIT
/* libexmap: the backend over /dev/exmap. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

static int call(struct exmap *ex, unsigned long request, void *arg)
{
	int ret = ioctl(ex->fd, request, arg);

	return ret < 0 ? -errno : ret;
}

static void *map(int fd, size_t length, int protection, uint64_t offset)
{
	void *address = mmap(NULL, length, protection, MAP_SHARED, fd, (off_t)offset);

	return address == MAP_FAILED ? NULL : address;
}

static size_t residency_bytes(const struct exmap *ex)
{
	size_t bytes = ex->region_pages * sizeof(uint32_t);

	return (bytes + EXMAP_PAGE_SIZE - 1) & ~(size_t)(EXMAP_PAGE_SIZE - 1);
}

static void kernel_close(struct exmap *ex)
{
	unsigned int i;

	for (i = 0; ex->itf && i < ex->interfaces; i++)
		if (ex->itf[i])
			munmap(ex->itf[i], EXMAP_PAGE_SIZE);
	free(ex->itf);
	if (ex->residency)
		munmap((void *)ex->residency, residency_bytes(ex));
	if (ex->base)
		munmap(ex->base, ex->region_pages * EXMAP_PAGE_SIZE);
	close(ex->fd);
	free(ex);
}

static int kernel_action(struct exmap *ex, unsigned int interface, unsigned int opcode,
			 unsigned int iov_len, uint64_t flags)
{
	struct exmap_action_params params = {
		.interface = (uint16_t)interface,
		.iov_len = (uint16_t)iov_len,
		.opcode = (uint16_t)opcode,
		.flags = flags,
	};

	if ((interface | opcode | iov_len) >> 16)
		return -EINVAL;
	return call(ex, EXMAP_IOCTL_ACTION, &params);
}

static int kernel_barrier(struct exmap *ex)
{
	struct exmap_barrier barrier = { 0 };

	return call(ex, EXMAP_IOCTL_BARRIER, &barrier);
}

static int kernel_resize(struct exmap *ex, uint64_t pool_pages)
{
	struct exmap_resize resize = { .pool_pages = pool_pages };

	return call(ex, EXMAP_IOCTL_RESIZE, &resize);
}

static int kernel_tune(struct exmap *ex, struct exmap_tune *tune)
{
	return call(ex, EXMAP_IOCTL_TUNE, tune);
}

static int kernel_scan(struct exmap *ex, const struct exmap_scan *scan)
{
	return call(ex, EXMAP_IOCTL_SCAN, (void *)scan);
}

static int kernel_info(struct exmap *ex, struct exmap_info *info)
{
	return call(ex, EXMAP_IOCTL_INFO, info);
}

static int kernel_counters(struct exmap *ex, struct exmap_counters *counters)
{
	return call(ex, EXMAP_IOCTL_COUNTERS, counters);
}

static const struct exmap_ops kernel_ops = {
	.close = kernel_close,
	.action = kernel_action,
	.barrier = kernel_barrier,
	.resize = kernel_resize,
	.tune = kernel_tune,
	.scan = kernel_scan,
	.info = kernel_info,
	.counters = kernel_counters,
	.snapshot = exmap_kernel_snapshot,
	.nvme = exmap_kernel_nvme,
};

/* SETUP, then every mapping.  What was made so far is the caller's to close. */
static int set_up(struct exmap *ex, const struct exmap_config *config)
{
	struct exmap_ioctl_setup setup = {
		.fd = config->backing_fd,
		.max_interfaces = (int)config->interfaces,
		.buffer_size = config->pool_pages,
		.flags = config->flags,
	};
	struct exmap_tune tune = { .flush_threshold = config->flush_threshold };
	unsigned int i;
	int ret;

	ret = call(ex, EXMAP_IOCTL_SETUP, &setup);
	if (!ret && config->flush_threshold)
		ret = call(ex, EXMAP_IOCTL_TUNE, &tune);
	if (ret)
		return ret;

	ex->base = map(ex->fd, ex->region_pages * EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE,
		       EXMAP_OFF_EXMAP);
	if (!ex->base)
		return -errno;
	ex->residency = map(ex->fd, residency_bytes(ex), PROT_READ, EXMAP_OFF_RESIDENCY);
	if (!ex->residency)
		return -errno;
	for (i = 0; i < ex->interfaces; i++) {
		ex->itf[i] = map(ex->fd, EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE,
				 EXMAP_OFF_INTERFACE(i));
		if (!ex->itf[i])
			return -errno;
	}
	return 0;
}

int exmap_kernel_open(const struct exmap_config *config, struct exmap **out)
{
	struct exmap_base *self;
	int ret;

	if (!config->interfaces || config->interfaces > EXMAP_MAX_INTERFACES)
		return -EINVAL;
	self = calloc(1, sizeof(*self));
	if (!self)
		return -ENOMEM;
	self->ops = &kernel_ops;
	self->pub.backend = EXMAP_BACKEND_KERNEL;
	self->pub.region_pages = config->region_pages;
	self->pub.interfaces = config->interfaces;
	self->pub.itf = calloc(config->interfaces, sizeof(*self->pub.itf));
	ret = -ENOMEM;
	if (!self->pub.itf)
		goto err_self;
	self->pub.fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	ret = -errno;
	if (self->pub.fd < 0)
		goto err_itf;

	ret = set_up(&self->pub, config);
	if (ret) {
		kernel_close(&self->pub);
		return ret;
	}
	*out = &self->pub;
	return 0;

err_itf:
	free(self->pub.itf);
err_self:
	free(self);
	return ret;
}
