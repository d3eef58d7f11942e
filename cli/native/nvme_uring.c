// SPDX-License-Identifier: MIT
/* io_uring, without a library: one ring for each thread. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/nvme_ioctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "nvme.h"

/**
 * struct nvme_ring - a ring and what it sends
 * @how: NVME_URING, NVME_URING_FIXED or NVME_PASSTHROUGH
 * @polled: completions have to be asked for
 * @fd: of the ring
 * @device: of the device
 * @nsid: its namespace, and @lba_shift the size of a block
 * @sqe_shift: log2 of the size of an entry
 * @cqe_shift: the same
 */
struct nvme_ring {
	uint32_t how;
	bool polled;
	int fd;
	int device;
	uint32_t nsid;
	uint32_t lba_shift;
	unsigned int sqe_shift;
	unsigned int cqe_shift;
	struct io_uring_params params;
	uint8_t *sqes;
	uint8_t *rings;
	size_t rings_bytes;
	size_t sqes_bytes;
	unsigned int *sq_tail;
	unsigned int *cq_head;
	unsigned int *cq_tail;
	uint8_t *cqes;
};

static int enter(struct nvme_ring *ring, unsigned int submit, unsigned int min, unsigned int flags)
{
	long ret = syscall(SYS_io_uring_enter, ring->fd, submit, min, flags, NULL, 0);

	return ret < 0 ? -errno : (int)ret;
}

static int set_up(struct nvme_ring *ring)
{
	struct io_uring_params *params = &ring->params;

	if (ring->polled)
		params->flags |= IORING_SETUP_IOPOLL;
	if (ring->how == NVME_PASSTHROUGH)
		params->flags |= IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
	ring->sqe_shift = ring->how == NVME_PASSTHROUGH ? 7 : 6;
	ring->cqe_shift = ring->how == NVME_PASSTHROUGH ? 5 : 4;
	ring->fd = (int)syscall(SYS_io_uring_setup, NVME_MAX_DEPTH, params);
	return ring->fd < 0 ? -errno : 0;
}

static void *map_ring(struct nvme_ring *ring, size_t bytes, off_t offset)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			    ring->fd, offset);

	return memory == MAP_FAILED ? NULL : memory;
}

static int map_rings(struct nvme_ring *ring)
{
	const struct io_uring_params *params = &ring->params;
	size_t sq = params->sq_off.array + params->sq_entries * sizeof(unsigned int);
	size_t cq = params->cq_off.cqes + ((size_t)params->cq_entries << ring->cqe_shift);
	unsigned int i, *array;

	ring->rings_bytes = sq > cq ? sq : cq;
	ring->sqes_bytes = (size_t)params->sq_entries << ring->sqe_shift;
	ring->rings = map_ring(ring, ring->rings_bytes, IORING_OFF_SQ_RING);
	ring->sqes = map_ring(ring, ring->sqes_bytes, IORING_OFF_SQES);
	if (!ring->rings || !ring->sqes || !(params->features & IORING_FEAT_SINGLE_MMAP))
		return -ENOMEM;
	ring->sq_tail = (unsigned int *)(ring->rings + params->sq_off.tail);
	ring->cq_head = (unsigned int *)(ring->rings + params->cq_off.head);
	ring->cq_tail = (unsigned int *)(ring->rings + params->cq_off.tail);
	ring->cqes = ring->rings + params->cq_off.cqes;
	array = (unsigned int *)(ring->rings + params->sq_off.array);
	for (i = 0; i < params->sq_entries; i++)
		array[i] = i;
	return 0;
}

static int register_all(struct nvme_ring *ring, void *memory)
{
	struct iovec iov = { .iov_base = memory, .iov_len = NVME_MAX_DEPTH * EXMAP_PAGE_SIZE };

	if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &iov, 1) ||
	    syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_FILES, &ring->device, 1))
		return -errno;
	return 0;
}

/* What a command to the character device has to say itself. */
static int ask_namespace(struct nvme_ring *ring)
{
	uint8_t identify[4096] __attribute__((aligned(4096)));
	struct nvme_admin_cmd command = {
		.opcode = 0x06, /* Identify, CNS 0: Base 2.0, 5.17 */
		.addr = (uintptr_t)identify,
		.data_len = sizeof(identify),
	};
	int nsid = ioctl(ring->device, NVME_IOCTL_ID);
	uint32_t format;

	if (nsid < 0)
		return -errno;
	ring->nsid = command.nsid = (uint32_t)nsid;
	if (ioctl(ring->device, NVME_IOCTL_ADMIN_CMD, &command))
		return -EIO;
	memcpy(&format, identify + 128 + 4 * (identify[26] & 0xf), sizeof(format));
	ring->lba_shift = format >> 16 & 0xff;
	return 0;
}

int nvme_ring_open(const struct nvme_config *config, int fd, void *memory, struct nvme_ring **out)
{
	struct nvme_ring *ring = calloc(1, sizeof(*ring));
	int ret;

	if (!ring)
		return -ENOMEM;
	*out = ring;
	ring->how = config->how;
	ring->polled = config->polled;
	ring->fd = -1;
	ring->device = fd;
	ret = ring->how == NVME_PASSTHROUGH ? ask_namespace(ring) : 0;
	if (!ret)
		ret = set_up(ring);
	if (!ret)
		ret = map_rings(ring);
	if (!ret && ring->how != NVME_URING)
		ret = register_all(ring, memory);
	return ret;
}

void nvme_ring_close(struct nvme_ring *ring)
{
	if (!ring)
		return;
	if (ring->rings)
		munmap(ring->rings, ring->rings_bytes);
	if (ring->sqes)
		munmap(ring->sqes, ring->sqes_bytes);
	if (ring->fd >= 0)
		close(ring->fd);
	free(ring);
}

static void fill_block(struct nvme_ring *ring, struct io_uring_sqe *sqe, bool write, void *memory,
		       uint64_t page)
{
	memset(sqe, 0, sizeof(*sqe));
	sqe->addr = (uintptr_t)memory;
	sqe->len = EXMAP_PAGE_SIZE;
	sqe->off = page * EXMAP_PAGE_SIZE;
	sqe->fd = ring->device;
	sqe->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
	if (ring->how == NVME_URING_FIXED) {
		sqe->opcode = write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
		sqe->flags = IOSQE_FIXED_FILE;
		sqe->fd = 0;
	}
}

static void fill_passthrough(struct nvme_ring *ring, struct io_uring_sqe *sqe, bool write,
			     void *memory, uint64_t page)
{
	struct nvme_uring_cmd *command = (struct nvme_uring_cmd *)sqe->cmd;
	uint64_t lba = page << (12 - ring->lba_shift);

	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = NVME_URING_CMD_IO;
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	command->opcode = write ? EXMAP_NVME_WRITE : EXMAP_NVME_READ;
	command->nsid = ring->nsid;
	command->addr = (uintptr_t)memory;
	command->data_len = EXMAP_PAGE_SIZE;
	command->cdw10 = (uint32_t)lba;
	command->cdw11 = (uint32_t)(lba >> 32);
	command->cdw12 = (1u << (12 - ring->lba_shift)) - 1;
}

int nvme_ring_submit(struct nvme_thread *thread, unsigned int n)
{
	struct nvme_ring *ring = thread->ring;
	unsigned int i, tail = *ring->sq_tail, mask = ring->params.sq_entries - 1;

	for (i = 0; i < n; i++, tail++) {
		struct io_uring_sqe *sqe = (void *)(ring->sqes +
						    ((size_t)(tail & mask) << ring->sqe_shift));
		unsigned int slot;
		uint64_t page = nvme_next(thread, &slot);
		void *memory = thread->memory + slot * EXMAP_PAGE_SIZE;

		if (ring->how == NVME_PASSTHROUGH)
			fill_passthrough(ring, sqe, thread->write, memory, page);
		else
			fill_block(ring, sqe, thread->write, memory, page);
		sqe->user_data = slot;
	}
	__atomic_store_n(ring->sq_tail, tail, __ATOMIC_RELEASE);
	while (n) {
		int ret = enter(ring, n, 0, 0);

		thread->calls++;
		if (ret < 0)
			return ret;
		n -= (unsigned int)ret;
	}
	return 0;
}

/* A block transfer says how many bytes, a command its status. */
static bool succeeded(const struct nvme_ring *ring, int res)
{
	return ring->how == NVME_PASSTHROUGH ? res == 0 : res == EXMAP_PAGE_SIZE;
}

long nvme_ring_reap(struct nvme_thread *thread, unsigned int min)
{
	struct nvme_ring *ring = thread->ring;
	unsigned int head = *ring->cq_head, mask = ring->params.cq_entries - 1, tail;
	unsigned int there = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) - head;
	long n = 0;

	if (there < min || ring->polled) {
		int ret = enter(ring, 0, min > there ? min : 0, IORING_ENTER_GETEVENTS);

		thread->calls++;
		if (ret < 0 && ret != -EINTR)
			return ret;
	}
	tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
	for (; head != tail; head++, n++) {
		const struct io_uring_cqe *cqe = (void *)(ring->cqes +
							  ((size_t)(head & mask) << ring->cqe_shift));

		if (!succeeded(ring, cqe->res))
			return cqe->res < 0 ? cqe->res : -EIO;
		nvme_done(thread, cqe->user_data);
	}
	__atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
	return n;
}
