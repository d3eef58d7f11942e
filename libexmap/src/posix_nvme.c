// SPDX-License-Identifier: MIT
/*
 * libexmap: NVMe queues over a file or block device.
 *
 * The queues are the same memory with the same entries; ringing the doorbell runs a
 * controller in software, which carries out each command by preadv, pwritev,
 * fdatasync or fallocate before it returns.  It sees pages at their own addresses.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

/* Generic status codes: Base 2.0, 3.3.3.2.1 */
#define INVALID_OPCODE	0x001
#define INVALID_FIELD	0x002
#define INTERNAL_ERROR	0x006

/**
 * struct posix_nvme - a queue, and the controller behind it
 * @cq: the completion queue, for writing
 * @head: next command to carry out
 * @tail: where the next completion goes
 * @phase: its phase tag
 * @dead: it was reset
 * @doorbell: stands for the completion queue's
 */
struct posix_nvme {
	struct exmap_nvme_base base;
	struct exmap_nvme_completion *cq;
	uint32_t head;
	uint32_t tail;
	uint16_t phase;
	bool dead;
	uint32_t doorbell;
};

static void posix_nvme_close(struct exmap_nvme_queue *queue)
{
	struct posix_nvme *self = (struct posix_nvme *)queue;

	if (queue->fd >= 0)
		close(queue->fd);
	free(queue->sq);
	free(self->cq);
	free(queue->lists);
	exmap_nvme_exit(queue);
	free(self);
}

static int posix_nvme_check(struct exmap_nvme_queue *queue)
{
	return ((struct posix_nvme *)queue)->dead ? -EIO : 0;
}

static int posix_nvme_reset(struct exmap_nvme_queue *queue)
{
	struct posix_nvme *self = (struct posix_nvme *)queue;

	if (self->dead)
		return -EIO;
	self->dead = true;
	return 0;
}

static uint64_t posix_nvme_address(const struct exmap_nvme_queue *queue, uint64_t page,
				   uint32_t word)
{
	(void)word;
	return queue->iova_base + page * EXMAP_PAGE_SIZE;
}

static uint16_t status_of(int error)
{
	switch (error) {
	case 0:
		return 0;
	case EOPNOTSUPP:
		return INVALID_OPCODE;
	case EINVAL:
		return INVALID_FIELD;
	default:
		return INTERNAL_ERROR;
	}
}

static unsigned int gather(const struct exmap_nvme_command *command, size_t bytes,
			   struct iovec *iov)
{
	const uint64_t *list = (const uint64_t *)(uintptr_t)command->prp2;
	unsigned int i, nr = (unsigned int)(bytes / EXMAP_PAGE_SIZE);

	for (i = 0; i < nr; i++) {
		uint64_t address = command->prp1;

		if (i)
			address = nr == 2 ? command->prp2 : list[i - 1];
		iov[i].iov_base = (void *)(uintptr_t)address;
		iov[i].iov_len = EXMAP_PAGE_SIZE;
	}
	return nr;
}

/* Go on after a short transfer; the end of the file is none that we know. */
static int transfer(int fd, bool write, struct iovec *iov, unsigned int nr, off_t offset)
{
	while (nr) {
		ssize_t done = write ? pwritev(fd, iov, (int)nr, offset) :
				       preadv(fd, iov, (int)nr, offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : EIO;
		offset += done;
		for (; nr && (size_t)done >= iov->iov_len; nr--, iov++)
			done -= (ssize_t)iov->iov_len;
		if (nr) {
			iov->iov_base = (uint8_t *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

static int write_zeroes(int fd, off_t offset, off_t bytes)
{
	static const uint8_t zeroes[16 * EXMAP_PAGE_SIZE] __attribute__((aligned(4096)));

	if (!fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, bytes))
		return 0;
	while (bytes) {
		size_t step = (size_t)bytes < sizeof(zeroes) ? (size_t)bytes : sizeof(zeroes);
		struct iovec iov = { .iov_base = (void *)zeroes, .iov_len = step };
		int error = transfer(fd, true, &iov, 1, offset);

		if (error)
			return error;
		offset += (off_t)step;
		bytes -= (off_t)step;
	}
	return 0;
}

/* A hint: a file system that has no holes keeps the blocks. */
static int deallocate(struct exmap_nvme_queue *queue, const struct exmap_nvme_command *command)
{
	const uint64_t *range = (const uint64_t *)(uintptr_t)command->prp1;
	uint64_t blocks = range[0] >> 32, lba = range[1];

	if (lba > queue->lbas || blocks > queue->lbas - lba)
		return ENXIO;
	if (fallocate(queue->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(lba * queue->lba_size), (off_t)(blocks * queue->lba_size)) &&
	    errno != EOPNOTSUPP)
		return errno;
	return 0;
}

static int run(struct exmap_nvme_queue *queue, const struct exmap_nvme_command *command)
{
	struct iovec iov[EXMAP_NVME_LIST_ENTRIES];
	uint64_t blocks = (uint64_t)command->length + 1;
	off_t offset = (off_t)(command->lba * queue->lba_size);
	size_t bytes = blocks * queue->lba_size;

	if (command->opcode == EXMAP_NVME_FLUSH)
		return fdatasync(queue->fd) ? errno : 0;
	if (command->opcode == EXMAP_NVME_DEALLOCATE)
		return deallocate(queue, command);
	if (command->lba > queue->lbas || blocks > queue->lbas - command->lba)
		return ENXIO;
	if (command->opcode == EXMAP_NVME_WRITE_ZEROES)
		return write_zeroes(queue->fd, offset, (off_t)bytes);
	if (command->opcode != EXMAP_NVME_READ && command->opcode != EXMAP_NVME_WRITE)
		return EOPNOTSUPP;
	return transfer(queue->fd, command->opcode == EXMAP_NVME_WRITE, iov,
			gather(command, bytes, iov), offset);
}

static void complete(struct posix_nvme *self, const struct exmap_nvme_command *command, int error)
{
	struct exmap_nvme_completion *completion = &self->cq[self->tail];
	uint16_t status = error == ENXIO ? EXMAP_NVME_STATUS_LBA_RANGE : status_of(error);

	completion->id = command->id;
	completion->sq_head = (uint16_t)self->head;
	/* pairs with exmap_nvme_reap's load of the phase tag */
	exmap_store_release(&completion->status, (uint16_t)(status << 1 | self->phase));
	if (++self->tail == self->base.pub.depth) {
		self->tail = 0;
		self->phase ^= 1;
	}
}

static void posix_nvme_ring(struct exmap_nvme_queue *queue)
{
	struct posix_nvme *self = (struct posix_nvme *)queue;

	while (self->head != queue->tail && !self->dead) {
		const struct exmap_nvme_command *command = &queue->sq[self->head];

		self->head = self->head + 1 == queue->depth ? 0 : self->head + 1;
		complete(self, command, run(queue, command));
	}
	if (queue->event >= 0)
		eventfd_write(queue->event, 1);
}

static const struct exmap_nvme_ops posix_nvme_ops = {
	.close = posix_nvme_close,
	.check = posix_nvme_check,
	.reset = posix_nvme_reset,
	.address = posix_nvme_address,
	.ring = posix_nvme_ring,
};

static int alloc_pages(size_t bytes, void *out)
{
	size_t whole = (bytes + EXMAP_PAGE_SIZE - 1) & ~(size_t)(EXMAP_PAGE_SIZE - 1);
	void *memory = aligned_alloc(EXMAP_PAGE_SIZE, whole);

	if (!memory)
		return -ENOMEM;
	*(void **)out = memset(memory, 0, whole);
	return 0;
}

static int alloc_queues(struct posix_nvme *self)
{
	struct exmap_nvme_queue *queue = &self->base.pub;
	int ret = alloc_pages(queue->depth * sizeof(*queue->sq), &queue->sq);

	if (!ret)
		ret = alloc_pages(queue->depth * sizeof(*queue->cq), &self->cq);
	if (!ret)
		ret = alloc_pages(queue->depth * EXMAP_NVME_LIST_ENTRIES * sizeof(uint64_t),
				  &queue->lists);
	queue->cq = self->cq;
	queue->cq_doorbell = &self->doorbell;
	queue->list_base = (uintptr_t)queue->lists;
	return ret;
}

/* Find out how large it is, and its blocks. */
static int measure(struct exmap_nvme_queue *queue, uint32_t lba_size)
{
	struct stat st;
	off_t end = lseek(queue->fd, 0, SEEK_END);
	int sector = 512;

	if (end < 0 || fstat(queue->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EINVAL;
	if (S_ISBLK(st.st_mode) && ioctl(queue->fd, BLKSSZGET, &sector))
		return -errno;
	queue->lba_size = lba_size ? lba_size : (uint32_t)sector;
	if ((queue->lba_size != 512 && queue->lba_size != 4096) || queue->lba_size < (uint32_t)sector)
		return -EINVAL;
	queue->lbas = (uint64_t)end / queue->lba_size;
	queue->page_blocks = EXMAP_PAGE_SIZE / queue->lba_size;
	return 0;
}

/* Direct I/O where the file system has it. */
static int open_device(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int exmap_posix_nvme(struct exmap *ex, const struct exmap_nvme_config *config,
		     struct exmap_nvme_queue **out)
{
	struct posix_nvme *self = calloc(1, sizeof(*self));
	struct exmap_nvme_queue *queue;
	int ret;

	if (!self)
		return -ENOMEM;
	queue = &self->base.pub;
	self->base.ops = &posix_nvme_ops;
	self->phase = 1;
	ret = exmap_nvme_init(queue, ex, config);
	if (ret) {
		free(self);
		return ret;
	}
	queue->iova_base = (uintptr_t)ex->base;
	queue->max_pages = EXMAP_NVME_LIST_ENTRIES;
	queue->nsid = 1;
	queue->slow = 1;
	queue->fd = open_device(config->device);
	ret = queue->fd < 0 ? queue->fd : measure(queue, config->lba_size);
	if (!ret)
		ret = alloc_queues(self);
	if (ret) {
		posix_nvme_close(queue);
		return ret;
	}
	*out = queue;
	return 0;
}
