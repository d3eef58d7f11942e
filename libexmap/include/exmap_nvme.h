/* SPDX-License-Identifier: MIT */
/*
 * libexmap: NVMe queues, driven without system calls.
 *
 * exmap_user.h includes this file.  A queue belongs to a region, and moves pages of
 * the region from and to blocks of a device: on the `kernel` backend those of a
 * controller that is bound to exmap-nvme (see NVME QUEUES in uapi/exmap_nvme_abi.h), on
 * `posix` those of a file or block device, by preadv and pwritev.
 *
 * A queue serves one thread at a time; several threads take a queue each.  While a
 * command is in flight its pages must neither be freed nor, if it is a READ, be
 * touched.  READ writes to the frame whatever shares it: UNSHARE pages first that a
 * snapshot may have.
 */
#ifndef EXMAP_NVME_H
#define EXMAP_NVME_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Ordering, for x86, where queues are cached memory and doorbells are not.  Each use
 * says what it pairs with.
 */
#define exmap_write_once(p, v)	__atomic_store_n(p, v, __ATOMIC_RELAXED)
#define exmap_load_acquire(p)	__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define exmap_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define exmap_dma_wmb()		__asm__ volatile("" ::: "memory")
#define exmap_mb()		__asm__ volatile("mfence" ::: "memory")

/* NVM Command Set Specification 1.0, 3: what exmap_nvme_submit takes */
#define EXMAP_NVME_FLUSH	0x00
#define EXMAP_NVME_WRITE	0x01
#define EXMAP_NVME_READ		0x02
#define EXMAP_NVME_WRITE_ZEROES	0x08
#define EXMAP_NVME_DEALLOCATE	0x09

/*
 * What the last list, which no command has, is for: its first word is this and, in the
 * lower half, the tail that the controller was told.  Who reads a core dump learns from
 * it which entries of the submission queue count.
 */
#define EXMAP_NVME_TAIL_MARK	(UINT64_C(0x65786d71) << 32)

/* PRP entries that each command has room for, besides the first page's */
#define EXMAP_NVME_LIST_ENTRIES	128

/* Status of a completion, type and code: Base 2.0, 3.3.3.2.1 */
#define EXMAP_NVME_STATUS_MASK		0x7ff
#define EXMAP_NVME_STATUS_LBA_RANGE	0x080

/**
 * struct exmap_nvme_command - an entry of a submission queue: Base 2.0, 3.3.3.1
 * @opcode: EXMAP_NVME_READ and so on
 * @flags: 0: PRP entries
 * @id: command identifier
 * @nsid: namespace
 * @unused: dwords 2 to 5, always 0
 * @prp1: first page
 * @prp2: second page, or the list of all but the first
 * @lba: dwords 10 and 11, in most commands the first block
 * @length: dword 12, in most commands the number of blocks, less one
 * @rest: dwords 13 to 15, always 0
 */
struct exmap_nvme_command {
	uint8_t opcode;
	uint8_t flags;
	uint16_t id;
	uint32_t nsid;
	uint64_t unused[2];
	uint64_t prp1;
	uint64_t prp2;
	uint64_t lba;
	uint32_t length;
	uint32_t rest[3];
};

/**
 * struct exmap_nvme_completion - an entry of a completion queue: Base 2.0, 3.3.3.2
 * @result: depends on the command
 * @reserved: nothing
 * @sq_head: how far the controller has fetched commands
 * @sq_id: number of the submission queue
 * @id: of the command
 * @status: phase tag, and from bit 1 on the status
 */
struct exmap_nvme_completion {
	uint32_t result;
	uint32_t reserved;
	uint16_t sq_head;
	uint16_t sq_id;
	uint16_t id;
	uint16_t status;
};

/**
 * struct exmap_nvme_config - what exmap_nvme_open opens
 * @device: PCI address of a controller ("0000:00:04.0"); posix: path of a file or
 *	block device
 * @depth: entries of the queue, 2 to EXMAP_NVME_MAX_DEPTH; one less can be in flight
 * @lba_size: posix: bytes in a block, 512 or 4096, or 0 for 512; else 0
 * @interrupts: not 0: exmap_nvme_wait sleeps until the controller interrupts, and @event
 *	of the queue can be polled
 * @shadow: not 0: store doorbells into memory, and ring them only if the controller asks
 *	for it; all queues of a controller or none (-EINVAL); -EOPNOTSUPP if it does not
 *	offer that; posix ignores it
 */
struct exmap_nvme_config {
	const char *device;
	uint32_t depth;
	uint32_t lba_size;
	uint32_t interrupts;
	uint32_t shadow;
};

/**
 * struct exmap_nvme_result - what became of a command
 * @tag: as submitted
 * @status: 0, or type and code of the error
 */
struct exmap_nvme_result {
	uint64_t tag;
	uint32_t status;
	uint32_t reserved;
};

struct exmap;

/**
 * struct exmap_nvme_queue - an open queue pair; read the fields, never write them
 * @residency: of the region
 * @region_pages: its length
 * @sq: submission queue
 * @cq: completion queue
 * @sq_doorbell: where the tail is told
 * @cq_doorbell: where the head is told
 * @shadows: NULL, or the shadow doorbells, of which @sq_shadow and @cq_shadow are ours
 * @event_idx: in the same places, what the controller asks for
 * @lists: EXMAP_NVME_LIST_ENTRIES PRP entries for each identifier, and once more
 * @tags: of commands in flight, by identifier
 * @ids: stack of free identifiers
 * @iova_base: where the controller sees frame 0
 * @list_base: where it sees @lists
 * @lbas: blocks of the namespace
 * @nsid: the namespace
 * @lba_size: bytes in a block
 * @page_blocks: blocks in a page; with blocks of 4096 bytes 1
 * @max_pages: pages of one command
 * @sq_shadow: index of the submission queue's
 * @cq_shadow: of the completion queue's
 * @depth: entries of each queue
 * @free: commands that can be submitted now
 * @tail: next free entry of @sq
 * @rung: tail that the controller knows
 * @head: next entry of @cq to look at
 * @phase: its phase tag, once it is there
 * @unacked: entries of @cq that were reaped since the controller was told the head
 * @ack_after: at how many of them it is told
 * @slow: not a controller that sees frame f at iova_base + f * 4096
 * @backend: EXMAP_BACKEND_KERNEL or EXMAP_BACKEND_POSIX
 * @fd: of the queue; posix: of the file
 * @event: eventfd that is readable once there is something to reap, which exmap_nvme_wait
 *	empties; -1 without interrupts
 */
struct exmap_nvme_queue {
	const uint32_t *residency;
	uint64_t region_pages;
	struct exmap_nvme_command *sq;
	const struct exmap_nvme_completion *cq;
	uint32_t *sq_doorbell;
	uint32_t *cq_doorbell;
	uint32_t *shadows;
	const uint32_t *event_idx;
	uint64_t *lists;
	uint64_t *tags;
	uint16_t *ids;
	uint64_t iova_base;
	uint64_t list_base;
	uint64_t lbas;
	uint32_t nsid;
	uint32_t lba_size;
	uint32_t page_blocks;
	uint32_t max_pages;
	uint32_t sq_shadow;
	uint32_t cq_shadow;
	uint32_t depth;
	uint32_t free;
	uint32_t tail;
	uint32_t rung;
	uint32_t head;
	uint32_t phase;
	uint32_t unacked;
	uint32_t ack_after;
	uint32_t slow;
	uint32_t backend;
	int fd;
	int event;
};

/*
 * -ENODEV: no such device, or it is not bound to exmap-nvme; -EBUSY: it belongs to
 * another region; -EINVAL; others as EXMAP_IOCTL_NVME_OPEN gives them.  The queue goes
 * before the region does.
 */
int exmap_nvme_open(struct exmap *ex, const struct exmap_nvme_config *config,
		    struct exmap_nvme_queue **out);

/*
 * A descriptor of a controller that the kernel drives, which several processes may
 * have: backing_fd of exmap_config, and for pread, pwrite and fsync.  flags: 0 or
 * EXMAP_NVME_EXCLUSIVE.  Needs no region, but the module.  Or -errno: see
 * EXMAP_IOCTL_NVME_BACKING.
 */
int exmap_nvme_backing(const char *device, uint64_t flags);

/* Commands in flight are waited for by the controller, and forgotten. */
void exmap_nvme_close(struct exmap_nvme_queue *queue);

/* 0, or why the queue is dead: -EIO (the controller failed or was reset), -ENODEV. */
int exmap_nvme_check(struct exmap_nvme_queue *queue);

/* Reset the controller: all its queues are dead, and no command is in flight. */
int exmap_nvme_reset(struct exmap_nvme_queue *queue);

/*
 * Ring, and poll, or with interrupts sleep, until @min results are there or @timeout_ns
 * has passed.  Returns how
 * many there are, at most @max; or why the queue is dead.
 */
long exmap_nvme_wait(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results,
		     size_t min, size_t max, uint64_t timeout_ns);

/*
 * exmap_nvme_submit for page pages[i] and block lbas[i], @each pages at a time, with
 * tags[i], or i if @tags is NULL, as many as fit.  Returns how many, or the error of
 * the first; what comes after an error can be tried again.
 */
long exmap_nvme_submit_vector(struct exmap_nvme_queue *queue, unsigned int opcode,
			      const uint64_t *pages, const uint64_t *lbas, const uint64_t *tags,
			      size_t n, unsigned int each);

/*
 * Submit one command for each of @n runs of @each pages, page pages[i] to or from
 * block lbas[i], as many at a time as fit, and wait for all.  The queue must be idle.
 * Returns @n, or the first error: -ENXIO beyond the namespace, -EIO, or what submit or
 * wait give; nothing is submitted after it, and what has been is waited for.  If
 * nothing completes for @timeout_ns the controller is reset, and the error is
 * -ETIMEDOUT.  *done, if not NULL, is the number of commands that succeeded.
 */
long exmap_nvme_vector(struct exmap_nvme_queue *queue, unsigned int opcode, const uint64_t *pages,
		       const uint64_t *lbas, size_t n, unsigned int each, uint64_t timeout_ns,
		       size_t *done);

/* Parts of the inline functions that are not fast. */
uint64_t exmap_nvme_slow_address(const struct exmap_nvme_queue *queue, uint64_t page, uint32_t word);
void exmap_nvme_slow_ring(struct exmap_nvme_queue *queue);

/* 0, -ENXIO for blocks beyond the namespace, -EIO for anything else. */
static inline int exmap_nvme_error(uint32_t status)
{
	if (!status)
		return 0;
	return status == EXMAP_NVME_STATUS_LBA_RANGE ? -ENXIO : -EIO;
}

/* Where the controller sees a page of the region; 0 if it is absent. */
static inline uint64_t exmap_nvme_address(const struct exmap_nvme_queue *queue, uint64_t page)
{
	/* pairs with the kernel's store of the word, after the frame is mapped */
	uint32_t word = exmap_load_acquire(&queue->residency[page]);

	if (!EXMAP_RES_MAPPED(word))
		return 0;
	if (__builtin_expect(queue->slow, 0))
		return exmap_nvme_slow_address(queue, page, word);
	return queue->iova_base + (uint64_t)EXMAP_RES_FRAME(word) * 4096;
}

/* The second PRP entry of a command of several pages, 0 if one is absent: Base 2.0, 4.1.1 */
static inline uint64_t __exmap_nvme_list(struct exmap_nvme_queue *queue, unsigned int id,
					 uint64_t page, unsigned int pages)
{
	uint64_t *list = queue->lists + id * EXMAP_NVME_LIST_ENTRIES;
	unsigned int i;

	if (pages == 2)
		return exmap_nvme_address(queue, page + 1);
	for (i = 1; i < pages; i++) {
		list[i - 1] = exmap_nvme_address(queue, page + i);
		if (!list[i - 1])
			return 0;
	}
	return queue->list_base + id * EXMAP_NVME_LIST_ENTRIES * sizeof(*list);
}

/* Take an identifier and an entry of the queue.  There is one. */
static inline void __exmap_nvme_push(struct exmap_nvme_queue *queue, unsigned int opcode,
				     uint64_t prp1, uint64_t prp2, uint64_t lba, uint32_t length,
				     uint64_t tag)
{
	struct exmap_nvme_command *command = &queue->sq[queue->tail];
	uint16_t id = queue->ids[--queue->free];

	command->opcode = (uint8_t)opcode;
	command->id = id;
	command->nsid = queue->nsid;
	command->prp1 = prp1;
	command->prp2 = prp2;
	command->lba = lba;
	command->length = length;
	queue->tags[id] = tag;
	queue->tail = queue->tail + 1 == queue->depth ? 0 : queue->tail + 1;
}

/**
 * exmap_nvme_submit - put a transfer into the queue; the controller sees it at the next ring
 * @queue: the queue
 * @opcode: EXMAP_NVME_READ or EXMAP_NVME_WRITE
 * @page: first page of the region, which has to be mapped
 * @pages: how many, up to max_pages
 * @lba: first block
 * @tag: comes back with the result
 *
 * Returns 0; -EAGAIN if the queue is full; -EINVAL; -EFAULT outside of the region;
 * -ENOENT if a page is absent.  Blocks beyond the namespace are an error of the result.
 */
static inline int exmap_nvme_submit(struct exmap_nvme_queue *queue, unsigned int opcode,
				    uint64_t page, unsigned int pages, uint64_t lba, uint64_t tag)
{
	uint64_t prp1, prp2 = 0;

	if (!queue->free)
		return -EAGAIN;
	if (pages - 1 >= queue->max_pages ||
	    (opcode != EXMAP_NVME_READ && opcode != EXMAP_NVME_WRITE))
		return -EINVAL;
	if (page >= queue->region_pages || pages > queue->region_pages - page)
		return -EFAULT;
	prp1 = exmap_nvme_address(queue, page);
	if (!prp1)
		return -ENOENT;
	if (pages > 1) {
		prp2 = __exmap_nvme_list(queue, queue->ids[queue->free - 1], page, pages);
		if (!prp2)
			return -ENOENT;
	}
	__exmap_nvme_push(queue, opcode, prp1, prp2, lba, pages * queue->page_blocks - 1, tag);
	return 0;
}

/* What has completed before it is submitted is durable once it has completed itself. */
static inline int exmap_nvme_submit_flush(struct exmap_nvme_queue *queue, uint64_t tag)
{
	if (!queue->free)
		return -EAGAIN;
	__exmap_nvme_push(queue, EXMAP_NVME_FLUSH, 0, 0, 0, 0, tag);
	return 0;
}

/* Blocks read as zeros afterwards, and no page is needed.  Up to 65,536 of them. */
static inline int exmap_nvme_submit_zeroes(struct exmap_nvme_queue *queue, uint64_t lba,
					   uint32_t blocks, uint64_t tag)
{
	if (!queue->free)
		return -EAGAIN;
	if (blocks - 1 > 0xffff)
		return -EINVAL;
	__exmap_nvme_push(queue, EXMAP_NVME_WRITE_ZEROES, 0, 0, lba, blocks - 1, tag);
	return 0;
}

/*
 * The device may forget blocks; what they read as afterwards is its affair.  The
 * range stands in the identifier's PRP list: NVM Command Set 1.0, 3.2.3.
 */
static inline int exmap_nvme_submit_deallocate(struct exmap_nvme_queue *queue, uint64_t lba,
					       uint32_t blocks, uint64_t tag)
{
	uint64_t *range;
	unsigned int id;

	if (!queue->free)
		return -EAGAIN;
	if (!blocks)
		return -EINVAL;
	id = queue->ids[queue->free - 1];
	range = queue->lists + id * EXMAP_NVME_LIST_ENTRIES;
	range[0] = (uint64_t)blocks << 32;
	range[1] = lba;
	/* dword 10: one range, less one; dword 11: deallocate */
	__exmap_nvme_push(queue, EXMAP_NVME_DEALLOCATE,
			  queue->list_base + id * EXMAP_NVME_LIST_ENTRIES * sizeof(*range), 0,
			  (uint64_t)4 << 32, 0, tag);
	return 0;
}

/*
 * Store a tail or head where the controller finds it; true if the doorbell has to be rung
 * as well: if the event index lies from the old value on and before the new one, modulo
 * 2^16.  Base 2.0, 5.8.
 */
static inline bool __exmap_nvme_store_shadow(struct exmap_nvme_queue *queue, uint32_t index,
					     uint32_t value)
{
	uint16_t old = (uint16_t)queue->shadows[index], event;

	/* pairs with the controller's reading of the shadow, then of the queue */
	exmap_store_release(&queue->shadows[index], value);
	/* pairs with the controller's writing the event index, then looking at the shadow again */
	exmap_mb();
	event = (uint16_t)exmap_load_acquire(&queue->event_idx[index]);
	return (uint16_t)(value - event - 1) < (uint16_t)(value - old);
}

/* Tell the controller of all commands that were submitted: one doorbell. */
static inline void exmap_nvme_ring(struct exmap_nvme_queue *queue)
{
	if (queue->rung == queue->tail)
		return;
	/* pairs with the controller's reading of the doorbell, then of the commands */
	exmap_dma_wmb();
	queue->rung = queue->tail;
	exmap_write_once(&queue->lists[(queue->depth - 1) * EXMAP_NVME_LIST_ENTRIES],
			 EXMAP_NVME_TAIL_MARK | queue->tail);
	if (__builtin_expect(queue->slow, 0))
		exmap_nvme_slow_ring(queue);
	else if (!queue->shadows || __exmap_nvme_store_shadow(queue, queue->sq_shadow, queue->tail))
		exmap_write_once(queue->sq_doorbell, queue->tail);
}

/* Take up to @max results, in the order of completion, without waiting; returns how many. */
static inline size_t exmap_nvme_reap(struct exmap_nvme_queue *queue,
				     struct exmap_nvme_result *results, size_t max)
{
	size_t n;

	for (n = 0; n < max; n++) {
		const struct exmap_nvme_completion *completion = &queue->cq[queue->head];
		/* pairs with the controller's writing the phase tag last */
		uint16_t status = exmap_load_acquire(&completion->status);

		if ((status & 1) != queue->phase)
			break;
		results[n].tag = queue->tags[completion->id];
		results[n].status = status >> 1 & EXMAP_NVME_STATUS_MASK;
		queue->ids[queue->free++] = completion->id;
		if (++queue->head == queue->depth) {
			queue->head = 0;
			queue->phase ^= 1;
		}
	}
	/*
	 * One doorbell for a quarter of the queue: until then the controller has room, and
	 * if it had none, there would be more to reap.  With interrupts each time, since some
	 * controllers raise none while there is something that they have raised one for.  Pairs with the controller's
	 * overwriting what has been read, once it is told.
	 */
	queue->unacked += (uint32_t)n;
	if (queue->unacked >= queue->ack_after) {
		if (!queue->shadows ||
		    __exmap_nvme_store_shadow(queue, queue->cq_shadow, queue->head))
			exmap_store_release(queue->cq_doorbell, queue->head);
		queue->unacked = 0;
	}
	return n;
}

#ifdef __cplusplus
}
#endif

#endif /* EXMAP_NVME_H */
