// SPDX-License-Identifier: MIT
/* libexmap: queues of a controller that is bound to exmap-nvme. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

/**
 * struct kernel_nvme - a queue
 * @doorbells: their mapping
 * @doorbell_bytes: its length
 * @list_bytes: length of the mapping of lists
 */
struct kernel_nvme {
	struct exmap_nvme_base base;
	uint8_t *doorbells;
	size_t doorbell_bytes;
	size_t list_bytes;
};

static size_t whole_pages(size_t bytes)
{
	return (bytes + EXMAP_PAGE_SIZE - 1) & ~(size_t)(EXMAP_PAGE_SIZE - 1);
}

static size_t list_bytes(uint32_t depth)
{
	return whole_pages((size_t)depth * EXMAP_NVME_LIST_ENTRIES * sizeof(uint64_t));
}

static void unmap(const void *address, size_t bytes)
{
	if (address)
		munmap((void *)address, whole_pages(bytes));
}

static void kernel_nvme_close(struct exmap_nvme_queue *queue)
{
	struct kernel_nvme *self = (struct kernel_nvme *)queue;

	unmap(queue->sq, queue->depth * sizeof(*queue->sq));
	unmap(queue->cq, queue->depth * sizeof(*queue->cq));
	unmap(queue->lists, self->list_bytes);
	unmap(self->doorbells, self->doorbell_bytes);
	unmap(queue->shadows, EXMAP_PAGE_SIZE);
	unmap(queue->event_idx, EXMAP_PAGE_SIZE);
	close(queue->fd);
	exmap_nvme_exit(queue);
	free(self);
}

static int get_info(struct exmap_nvme_queue *queue, struct exmap_nvme_info *info)
{
	*info = (struct exmap_nvme_info){ 0 };
	return ioctl(queue->fd, EXMAP_IOCTL_NVME_INFO, info) ? -errno : 0;
}

static int kernel_nvme_check(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_info info;
	int ret = get_info(queue, &info);

	return ret ? ret : -(int)info.error;
}

static int kernel_nvme_reset(struct exmap_nvme_queue *queue)
{
	struct exmap_nvme_reset reset = { 0 };

	return ioctl(queue->fd, EXMAP_IOCTL_NVME_RESET, &reset) ? -errno : 0;
}

/* Without an IOMMU the kernel has to be asked for each page. */
static uint64_t kernel_nvme_address(const struct exmap_nvme_queue *queue, uint64_t page,
				    uint32_t word)
{
	uint64_t address = 0;
	struct exmap_nvme_addresses args = {
		.start = EXMAP_RES_FRAME(word),
		.count = 1,
		.addresses = (uintptr_t)&address,
	};

	(void)page;
	return ioctl(queue->fd, EXMAP_IOCTL_NVME_ADDRESSES, &args) ? 0 : address;
}

static void kernel_nvme_ring(struct exmap_nvme_queue *queue)
{
	if (!queue->shadows || __exmap_nvme_store_shadow(queue, queue->sq_shadow, queue->tail))
		exmap_write_once(queue->sq_doorbell, queue->tail);
}

static const struct exmap_nvme_ops kernel_nvme_ops = {
	.close = kernel_nvme_close,
	.check = kernel_nvme_check,
	.reset = kernel_nvme_reset,
	.address = kernel_nvme_address,
	.ring = kernel_nvme_ring,
};

static int map(struct exmap_nvme_queue *queue, size_t bytes, int protection, uint64_t offset,
	       void *out)
{
	void *address = mmap(NULL, whole_pages(bytes), protection, MAP_SHARED, queue->fd,
			     (off_t)offset);

	if (address == MAP_FAILED)
		return -errno;
	*(void **)out = address;
	return 0;
}

static int map_all(struct kernel_nvme *self)
{
	struct exmap_nvme_queue *queue = &self->base.pub;
	const int rw = PROT_READ | PROT_WRITE;
	int ret = map(queue, queue->depth * sizeof(*queue->sq), rw, EXMAP_NVME_OFF_SQ, &queue->sq);

	if (!ret)
		ret = map(queue, queue->depth * sizeof(*queue->cq), PROT_READ, EXMAP_NVME_OFF_CQ,
			  &queue->cq);
	if (!ret)
		ret = map(queue, self->list_bytes, rw, EXMAP_NVME_OFF_PRP, &queue->lists);
	if (!ret)
		ret = map(queue, self->doorbell_bytes, rw, EXMAP_NVME_OFF_DOORBELLS,
			  &self->doorbells);
	return ret;
}

static int map_shadows(struct kernel_nvme *self, const struct exmap_nvme_info *info)
{
	struct exmap_nvme_queue *queue = &self->base.pub;
	int ret = map(queue, EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_SHADOW,
		      &queue->shadows);

	if (!ret)
		ret = map(queue, EXMAP_PAGE_SIZE, PROT_READ, EXMAP_NVME_OFF_EVENT_IDX,
			  &queue->event_idx);
	queue->sq_shadow = info->sq_doorbell / sizeof(*queue->shadows);
	queue->cq_shadow = info->cq_doorbell / sizeof(*queue->shadows);
	return ret;
}

static int set_up(struct kernel_nvme *self, bool shadow)
{
	struct exmap_nvme_queue *queue = &self->base.pub;
	struct exmap_nvme_info info;
	int ret = get_info(queue, &info);

	if (ret)
		return ret;
	self->doorbell_bytes = info.doorbell_bytes;
	self->list_bytes = list_bytes(queue->depth);
	ret = map_all(self);
	if (!ret && shadow)
		ret = map_shadows(self, &info);
	if (ret)
		return ret;
	queue->sq_doorbell = (uint32_t *)(self->doorbells + info.sq_doorbell);
	queue->cq_doorbell = (uint32_t *)(self->doorbells + info.cq_doorbell);
	queue->iova_base = info.iova_base;
	queue->list_base = info.prp_base;
	queue->lbas = info.namespace_lbas;
	queue->nsid = info.nsid;
	queue->lba_size = info.lba_size;
	queue->page_blocks = EXMAP_PAGE_SIZE / info.lba_size;
	queue->max_pages = info.max_transfer / EXMAP_PAGE_SIZE;
	if (queue->max_pages > EXMAP_NVME_LIST_ENTRIES)
		queue->max_pages = EXMAP_NVME_LIST_ENTRIES;
	queue->slow = !(info.features & EXMAP_NVME_IOMMU);
	return 0;
}

/* "0000:00:04.0", or without the segment */
static int parse_address(const char *text, struct exmap_nvme_open *args)
{
	unsigned int segment, bus, device, function;
	int end = 0;

	if (sscanf(text, "%8x:%2x:%2x.%1x%n", &segment, &bus, &device, &function, &end) != 4) {
		segment = 0;
		if (sscanf(text, "%2x:%2x.%1x%n", &bus, &device, &function, &end) != 3)
			return -EINVAL;
	}
	if (text[end] || bus > 0xff || device > 0x1f || function > 7)
		return -EINVAL;
	args->segment = segment;
	args->bus = (uint8_t)bus;
	args->device = (uint8_t)device;
	args->function = (uint8_t)function;
	return 0;
}

int exmap_nvme_backing(const char *device, uint64_t flags)
{
	struct exmap_nvme_backing args = { .flags = flags };
	struct exmap_nvme_open at;
	int fd, ret = parse_address(device, &at);

	if (ret)
		return ret;
	args.segment = at.segment;
	args.bus = at.bus;
	args.device = at.device;
	args.function = at.function;
	fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = ioctl(fd, EXMAP_IOCTL_NVME_BACKING, &args);
	ret = ret < 0 ? -errno : ret;
	close(fd);
	return ret;
}

int exmap_kernel_nvme(struct exmap *ex, const struct exmap_nvme_config *config,
		      struct exmap_nvme_queue **out)
{
	struct exmap_nvme_open args = {
		.depth = config->depth,
		.prp_pages = (uint32_t)(list_bytes(config->depth) / EXMAP_PAGE_SIZE),
	};
	struct kernel_nvme *self;
	int ret = config->lba_size ? -EINVAL : parse_address(config->device, &args);

	if (ret)
		return ret;
	self = calloc(1, sizeof(*self));
	if (!self)
		return -ENOMEM;
	self->base.ops = &kernel_nvme_ops;
	ret = exmap_nvme_init(&self->base.pub, ex, config);
	if (ret)
		goto err_self;
	if (config->interrupts) {
		args.flags |= EXMAP_NVME_INTERRUPTS;
		args.eventfd = self->base.pub.event;
	}
	if (config->shadow)
		args.flags |= EXMAP_NVME_SHADOW;
	self->base.pub.fd = ioctl(ex->fd, EXMAP_IOCTL_NVME_OPEN, &args);
	ret = -errno;
	if (self->base.pub.fd < 0)
		goto err_queue;
	ret = set_up(self, config->shadow);
	if (ret) {
		kernel_nvme_close(&self->base.pub);
		return ret;
	}
	*out = &self->base.pub;
	return 0;

err_queue:
	exmap_nvme_exit(&self->base.pub);
err_self:
	free(self);
	return ret;
}
