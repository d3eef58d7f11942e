// SPDX-License-Identifier: MIT
/*
 * Queues of the NVMe controller that EXMAP_NVME names: opened, driven with commands
 * of which some are nonsense, reset and closed while others do the same.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

#define COMMAND 64
#define MAX_DEPTH 64

/* NVM Express Base Specification 2.0, 3.3.3.1; the fields that are not left 0 */
struct command {
	uint8_t opcode;
	uint8_t flags;
	uint16_t cid;
	uint32_t nsid;
	uint64_t reserved[2];
	uint64_t prp1;
	uint64_t prp2;
	uint64_t lba;
	uint32_t blocks;
	uint32_t rest[3];
};

struct address {
	unsigned int segment;
	unsigned int bus;
	unsigned int device;
	unsigned int function;
};

static bool find_controller(struct address *at)
{
	const char *name = getenv("EXMAP_NVME");

	return name && sscanf(name, "%x:%x:%x.%x", &at->segment, &at->bus, &at->device,
			      &at->function) == 4;
}

static struct address controller(struct thread *t)
{
	struct address at = { 0, 0, (unsigned int)number(t, 32), (unsigned int)number(t, 2) };

	if (below(t, 8))
		find_controller(&at);
	return at;
}

static struct exmap_nvme_open open_args(struct address at, unsigned int depth)
{
	return (struct exmap_nvme_open){
		.segment = at.segment,
		.bus = (uint8_t)at.bus,
		.device = (uint8_t)at.device,
		.function = (uint8_t)at.function,
		.depth = depth,
	};
}

static int open_queue(struct thread *t)
{
	struct exmap_nvme_open args = open_args(controller(t), (unsigned int)number(t, MAX_DEPTH));
	int event = -1, fd;

	args.flags = flags(t, EXMAP_NVME_INTERRUPTS | EXMAP_NVME_SHADOW);
	args.prp_pages = (uint32_t)number(t, 4);

	if (args.flags & EXMAP_NVME_INTERRUPTS)
		args.eventfd = event = below(t, 8) ? eventfd(0, EFD_CLOEXEC) : (int)number(t, 20) - 1;
	fd = (int)call(t, t->region->fd, EXMAP_IOCTL_NVME_OPEN, &args, sizeof(args));
	if (event >= 0)
		close(event);
	return fd;
}

static void *map(const struct fuzz_queue *queue, size_t size, uint64_t offset)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, queue->fd, (off_t)offset);

	return at == MAP_FAILED ? NULL : at;
}

static void close_queue(struct fuzz_queue *queue)
{
	/* whoever still writes through the mappings is what is being tested */
	if (queue)
		close(queue->fd);
}

/* Neither the struct nor the mappings go away before the process does. */
static void keep_queue(struct thread *t, int fd)
{
	struct fuzz_queue **slot = &t->region->queues[below(t, QUEUES)];
	struct fuzz_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return;
	queue->fd = fd;
	if (queue->fd < 0 || ioctl(queue->fd, EXMAP_IOCTL_NVME_INFO, &queue->info)) {
		if (queue->fd >= 0)
			close(queue->fd);
		free(queue);
		return;
	}
	__atomic_fetch_add(&shared->queues, 1, __ATOMIC_RELAXED);
	queue->sq = map(queue, (queue->info.depth * COMMAND + PAGE - 1) & ~(PAGE - 1),
			EXMAP_NVME_OFF_SQ);
	queue->doorbells = map(queue, queue->info.doorbell_bytes, EXMAP_NVME_OFF_DOORBELLS);
	close_queue(__atomic_exchange_n(slot, queue, __ATOMIC_ACQ_REL));
}

void op_queue_open(struct thread *t)
{
	keep_queue(t, open_queue(t));
}

void open_first_queue(struct thread *t)
{
	struct address at;
	struct exmap_nvme_open args;

	if (!find_controller(&at))
		return;
	args = open_args(at, MAX_DEPTH);
	keep_queue(t, ioctl(t->region->fd, EXMAP_IOCTL_NVME_OPEN, &args));
}

static struct fuzz_queue *queue_of(struct thread *t)
{
	return __atomic_load_n(&t->region->queues[below(t, QUEUES)], __ATOMIC_ACQUIRE);
}

/* Mostly the address of a frame. */
static uint64_t io_address(struct thread *t, const struct exmap_nvme_info *info)
{
	switch (below(t, 8)) {
	case 0:
		return info->prp_base + number(t, 4) * PAGE;
	case 1:
		return number(t, UINT64_MAX);
	default:
		return info->iova_base + number(t, 64) * PAGE;
	}
}

static struct command draw_command(struct thread *t, const struct exmap_nvme_info *info)
{
	/* Flush, Write, Read, Compare, Write Zeroes, Dataset Management */
	static const uint8_t opcodes[] = { 0, 1, 2, 1, 2, 5, 8, 9 };

	return (struct command){
		.opcode = (uint8_t)(rarely(t) ? number(t, 256) : opcodes[below(t, 8)]),
		.flags = (uint8_t)(rarely(t) ? number(t, 256) : 0),
		.cid = (uint16_t)number(t, MAX_DEPTH),
		.nsid = (uint32_t)(rarely(t) ? number(t, 4) : info->nsid),
		.prp1 = io_address(t, info),
		.prp2 = io_address(t, info),
		.lba = number(t, info->namespace_lbas + 8),
		.blocks = (uint32_t)number(t, 32),
	};
}

static void put_command(struct thread *t, struct fuzz_queue *queue)
{
	struct command command = draw_command(t, &queue->info);
	volatile uint64_t *entry =
		(uint64_t *)(queue->sq + below(t, queue->info.depth) * COMMAND);
	uint64_t words[COMMAND / 8];
	unsigned int i;

	memcpy(words, &command, sizeof(words));
	for (i = 0; i < COMMAND / 8; i++)
		entry[i] = words[i];
}

/*
 * Its own doorbells, with what may be a tail or not.  Never those of others: one
 * that the driver's admin queue has would cost the driver ten seconds of waiting.
 */
static void ring(struct thread *t, void *arg)
{
	const struct fuzz_queue *queue = arg;
	uint32_t doorbell = below(t, 4) ? queue->info.sq_doorbell : queue->info.cq_doorbell;

	*(volatile uint32_t *)(queue->doorbells + doorbell) = (uint32_t)number(t, queue->info.depth);
}

/* Doorbells of a dead queue are gone: SIGBUS. */
void op_queue_commands(struct thread *t)
{
	struct fuzz_queue *queue = queue_of(t);
	unsigned int i, n = (unsigned int)below(t, 8);

	if (!queue || !queue->sq || !queue->doorbells)
		return;
	for (i = 0; i < n; i++)
		put_command(t, queue);
	try_access(t, ring, queue);
}

void op_queue_calls(struct thread *t)
{
	static const uint64_t offsets[] = { EXMAP_NVME_OFF_SQ, EXMAP_NVME_OFF_CQ,
					    EXMAP_NVME_OFF_DOORBELLS, EXMAP_NVME_OFF_PRP,
					    EXMAP_NVME_OFF_SHADOW, EXMAP_NVME_OFF_EVENT_IDX };
	struct fuzz_queue *queue = queue_of(t);
	int fd = queue ? queue->fd : t->region->fd;
	struct exmap_nvme_info info = { .flags = flags(t, 0) };
	struct exmap_nvme_reset reset = { .flags = flags(t, 0) };
	struct exmap_nvme_addresses addresses = { .flags = flags(t, 0), .start = number(t, 2048),
						  .count = number(t, 512),
						  .addresses = (uintptr_t)place(t, PAGE) };
	size_t size = (1 + number(t, 4) % 16) * PAGE;
	void *at;

	call(t, fd, EXMAP_IOCTL_NVME_INFO, &info, sizeof(info));
	call(t, fd, EXMAP_IOCTL_NVME_ADDRESSES, &addresses, sizeof(addresses));
	if (rarely(t))
		call(t, fd, EXMAP_IOCTL_NVME_RESET, &reset, sizeof(reset));
	at = mmap(NULL, size, below(t, 2) ? PROT_READ : PROT_READ | PROT_WRITE,
		  below(t, 8) ? MAP_SHARED : MAP_PRIVATE, fd,
		  (off_t)(offsets[below(t, 6)] + (rarely(t) ? number(t, 8) * PAGE : 0)));
	count(at == MAP_FAILED ? -1 : 0);
	if (at != MAP_FAILED)
		munmap(at, size);
}

void op_queue_close(struct thread *t)
{
	close_queue(__atomic_exchange_n(&t->region->queues[below(t, QUEUES)], NULL,
					__ATOMIC_ACQ_REL));
}

static int open_controller(struct thread *t)
{
	struct address at = controller(t);
	struct exmap_nvme_backing args = {
		.flags = flags(t, 0),
		.segment = at.segment,
		.bus = (uint8_t)at.bus,
		.device = (uint8_t)at.device,
		.function = (uint8_t)at.function,
	};
	int device = open("/dev/exmap", O_RDWR | O_CLOEXEC), fd;

	fd = (int)call(t, device, EXMAP_IOCTL_NVME_BACKING, &args, sizeof(args));
	if (device >= 0)
		close(device);
	return fd;
}

static int open_file(void)
{
	int fd = memfd_create("backing", MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, 2048 * PAGE)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int open_backing(struct thread *t)
{
	switch (below(t, 4)) {
	case 0:
		return open_controller(t);
	case 1:
		return open_file();
	default:
		return -1;
	}
}
