/* SPDX-License-Identifier: GPL-2.0 */
/*
 * exmap - NVMe controllers that user space drives: internal types.
 *
 * "Base" is the NVM Express Base Specification 2.0, "PCIe" the NVMe over PCIe
 * Transport Specification 1.0.
 *
 * Whoever drives a queue can make the controller read and write whatever the
 * controller's IOMMU domain maps.  So a controller is used in one of two ways at a
 * time.  Either one region owns it: then its frames are mapped, its queues, and
 * three pages of ours, of which only the admin completion queue can be written
 * (the owner can forge completions of admin commands, and nothing but the IOMMU
 * stands between a frame that is given back and a controller that lies).  Or only
 * the kernel drives it, through channels: then the frames of many regions are mapped.
 */
#ifndef _EXMAP_NVME_H
#define _EXMAP_NVME_H

#include <linux/bitmap.h>
#include <linux/eventfd.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/nvme.h>
#include <linux/pci.h>

#include "exmap.h"
#include "uapi/exmap_netlink.h"

#define EXMAP_NVME_QUEUES	64	/* I/O queues of a controller, at most */
#define EXMAP_NVME_ADMIN_DEPTH	32
/*
 * I/O virtual addresses: a window for each queue by its id, 0 being ours, then
 * the pool.  All of it lies above what firmware and interrupts use.
 */
#define EXMAP_NVME_WINDOWS	0x100000000ULL
#define EXMAP_NVME_WINDOW	0x1000000ULL
#define EXMAP_NVME_WINDOW_CQ	0x100000ULL
#define EXMAP_NVME_WINDOW_DATA	0x200000ULL
#define EXMAP_NVME_WINDOW_SHADOW	0x300000ULL	/* of id 0: shadow doorbells, EventIdx */
#define EXMAP_NVME_WINDOW_BOUNCE	0x800000ULL
#define EXMAP_NVME_POOL		0x400000000ULL
#define EXMAP_NVME_POOLS	16	/* pools that the kernel may map */

#define EXMAP_NVME_VECTORS	17	/* interrupts, at most; 0 is the admin queue's */
#define EXMAP_NVME_CHANNELS	16	/* queues that the kernel drives, at most */
#define EXMAP_NVME_CHANNEL_DEPTH	1024
#define EXMAP_NVME_COMMAND_PAGES	128	/* pages of a command of ours, at most */
#define EXMAP_NVME_BOUNCE_PAGES	32

/* Base 3.3.3.1 and 3.3.3.2: the sizes that CC.IOSQES and CC.IOCQES declare */
static_assert(sizeof(struct nvme_command) == 64);
static_assert(sizeof(struct nvme_completion) == 16);

/**
 * struct exmap_nvme_block - contiguous memory that the controller uses
 * @pages: the first of @nr pages, each with a reference of its own
 * @nr: how many; 0 if there is none
 * @addr: where the controller sees it
 */
struct exmap_nvme_block {
	struct page *pages;
	unsigned int nr;
	u64 addr;
};

/* The queue of admin commands, one at a time: protected by the controller's lock. */
struct exmap_nvme_admin {
	struct exmap_nvme_block sq;
	struct exmap_nvme_block cq;
	struct exmap_nvme_block data;
	u16 sq_tail;
	u16 cq_head;
	u16 phase;
	u16 cid;
};

/**
 * struct exmap_nvme_pair - a submission queue and its completion queue
 * @ctrl: whose
 * @qid: number of both
 * @depth: entries of each
 * @event: NULL, or what each interrupt signals; a reference
 * @vector: which interrupt that is
 * @sq: submission queue
 * @cq: completion queue
 * @prp: for lists of PRP entries
 */
struct exmap_nvme_pair {
	struct exmap_nvme_controller *ctrl;
	u16 qid;
	u32 depth;
	struct eventfd_ctx *event;
	u16 vector;
	struct exmap_nvme_block sq;
	struct exmap_nvme_block cq;
	struct exmap_nvme_block prp;
};

/**
 * struct exmap_nvme_pool - the frames of a region, as a controller sees them
 * @region: whose; NULL if this place is free
 * @base: where frame 0 is
 * @limit: end of the addresses that it may have
 * @nr_frames: frames that are mapped, and holes
 *
 * Protected by the controller's lock; while a channel is locked, @region does not
 * become NULL.
 */
struct exmap_nvme_pool {
	struct exmap_region *region;
	u64 base;
	u64 limit;
	u32 nr_frames;
};

struct exmap_nvme_channel;

enum exmap_nvme_state {
	EXMAP_NVME_LIVE,	/* enabled */
	EXMAP_NVME_DOWN,	/* reset after an error; the next owner starts it again */
	EXMAP_NVME_GONE,	/* given back, or unplugged */
};

/**
 * struct exmap_nvme_controller - a controller that is bound to exmap-nvme
 * @ref: the driver's, until the controller is given back, and one for each queue
 * @node: in the list of controllers
 * @pdev: the device; valid unless @state is GONE
 * @lock: protects all below but what start_controller has found out
 * @bar: registers
 * @doorbells: physical address of the first doorbell
 * @stride: bytes between doorbells
 * @cap: controller capabilities
 * @domain: what it can reach; NULL without an IOMMU
 * @limit: end of the addresses that it has
 * @nsid: the namespace
 * @lba_shift: its block size
 * @nr_lbas: its size
 * @max_transfer: bytes of one command
 * @oncs: optional NVM commands
 * @oacs: optional admin commands
 * @vwc: there is a volatile write cache
 * @nr_queues: queue ids are 1 to this
 * @state: see above
 * @pools: of the owner, or of the regions that the kernel drives it for
 * @owner: whose queues they are; a reference of each queue keeps its region
 * @queues: that user space drives, and that may be in use by the controller
 * @shadow: doorbells in memory, while an owner has them; see shadow.c
 * @event_idx: which of them the controller wants to be rung
 * @qids: in use
 * @nr_vectors: interrupts that there are, none before a queue wanted one
 * @vectors: in use
 * @nr_backings: descriptors through which the kernel drives it; never with an owner
 * @exclusive: there is to be no other
 * @channels: that the kernel drives
 * @nr_channels: how many of them are alive
 * @failures_lock: protects @failures; the innermost
 * @failures: of queues by their id, since @told
 * @told: when failures were told, in jiffies
 * @teller: tells them
 */
struct exmap_nvme_controller {
	struct kref ref;
	struct list_head node;
	struct pci_dev *pdev;
	struct mutex lock;	/* see above */
	void __iomem *bar;
	phys_addr_t doorbells;
	u32 stride;
	u64 cap;
	struct iommu_domain *domain;
	u64 limit;
	struct exmap_nvme_admin admin;
	u32 nsid;
	u32 lba_shift;
	u64 nr_lbas;
	u32 max_transfer;
	u16 oncs;
	u16 oacs;
	bool vwc;
	unsigned int nr_queues;
	enum exmap_nvme_state state;
	struct exmap_nvme_pool pools[EXMAP_NVME_POOLS];
	struct exmap_nvme_pool *owner;
	struct exmap_nvme_block shadow;
	struct exmap_nvme_block event_idx;
	struct list_head queues;
	DECLARE_BITMAP(qids, EXMAP_NVME_QUEUES + 1);
	int nr_vectors;
	DECLARE_BITMAP(vectors, EXMAP_NVME_VECTORS);
	unsigned int nr_backings;
	bool exclusive;
	struct exmap_nvme_channel *channels[EXMAP_NVME_CHANNELS];
	unsigned int nr_channels;
	spinlock_t failures_lock;	/* see above */
	struct exmap_queue_failure failures[EXMAP_NVME_QUEUES + 1];
	unsigned long told;
	struct delayed_work teller;
};

/**
 * struct exmap_nvme_queue - a pair that user space drives; what its descriptor stands for
 * @node: in controller->queues while @error is 0
 * @pair: with a reference on the controller
 * @region: a reference
 * @mapping: through which its mappings are found
 * @map_lock: protects @revoked; nests in mmap_lock
 * @revoked: the doorbells are no longer ours to give
 * @dummy: what is seen in their place
 * @shadow: its owner writes shadow doorbells; they go the way of @revoked
 * @error: 0, or why the controller has forgotten it; protected by the controller's lock
 * @charged: pages charged to RLIMIT_MEMLOCK
 */
struct exmap_nvme_queue {
	struct list_head node;
	struct exmap_nvme_pair pair;
	struct exmap_region *region;
	struct address_space *mapping;
	struct mutex map_lock;	/* see above */
	bool revoked;
	struct page *dummy;
	bool shadow;
	int error;
	unsigned long charged;
};

typedef int (*exmap_nvme_pool_fn)(struct exmap_nvme_controller *ctrl,
				  struct exmap_nvme_pool *pool, void *arg);

/* pci.c */
struct exmap_nvme_controller *exmap_nvme_controller_find(u32 segment, u8 bus, u8 device,
							 u8 function);
void exmap_nvme_controller_put(struct exmap_nvme_controller *ctrl);
int exmap_nvme_visit_pools(struct exmap_region *region, exmap_nvme_pool_fn fn, void *arg);

/* controller.c */
int exmap_nvme_controller_probe(struct exmap_nvme_controller *ctrl);
void exmap_nvme_controller_stop(struct exmap_nvme_controller *ctrl);
int exmap_nvme_controller_start(struct exmap_nvme_controller *ctrl);
void exmap_nvme_controller_fail(struct exmap_nvme_controller *ctrl, int error);
void exmap_nvme_controller_check(struct exmap_nvme_controller *ctrl);
int exmap_nvme_status_error(u32 status);
void exmap_nvme_controller_rest(struct exmap_nvme_controller *ctrl);
int exmap_nvme_controller_admin(struct exmap_nvme_controller *ctrl, struct nvme_command *cmd,
				u32 *result);

/* What tracepoints and events call a controller: segment, bus, device with function. */
static inline u32 exmap_nvme_controller_id(const struct exmap_nvme_controller *ctrl)
{
	return (u32)pci_domain_nr(ctrl->pdev->bus) << 16 | ctrl->pdev->bus->number << 8 |
	       ctrl->pdev->devfn;
}

/* The doorbells of a queue: PCIe 3.1.2.  Offset from the first one of the controller. */
static inline u64 exmap_nvme_doorbell(const struct exmap_nvme_controller *ctrl, unsigned int qid,
				      bool cq)
{
	return (u64)(2 * qid + cq) * ctrl->stride;
}

/* From the page of the first doorbell to the end of the page of the last. */
static inline u64 exmap_nvme_doorbell_start(const struct exmap_nvme_queue *queue)
{
	return round_down(exmap_nvme_doorbell(queue->pair.ctrl, queue->pair.qid, false), PAGE_SIZE);
}

static inline u64 exmap_nvme_doorbell_bytes(const struct exmap_nvme_queue *queue)
{
	u64 last = exmap_nvme_doorbell(queue->pair.ctrl, queue->pair.qid, true);

	return round_down(last, PAGE_SIZE) + PAGE_SIZE - exmap_nvme_doorbell_start(queue);
}

/* event.c */
void exmap_nvme_tell_lost(struct exmap_nvme_controller *ctrl, int error);
void exmap_nvme_tell_back(struct exmap_nvme_controller *ctrl);
void exmap_nvme_note_failure(struct exmap_nvme_controller *ctrl, u16 qid,
			     const struct exmap_queue_failure *failure);
void exmap_nvme_events_init(struct exmap_nvme_controller *ctrl);
void exmap_nvme_events_flush(struct exmap_nvme_controller *ctrl);
void exmap_nvme_events_exit(void);

/* shadow.c */
bool exmap_nvme_shadow_offered(const struct exmap_nvme_controller *ctrl);
int exmap_nvme_shadow_start(struct exmap_nvme_controller *ctrl);
void exmap_nvme_shadow_stop(struct exmap_nvme_controller *ctrl);
void exmap_nvme_shadow_clear(struct exmap_nvme_controller *ctrl, unsigned int qid);
void exmap_nvme_shadow_store(struct exmap_nvme_controller *ctrl, unsigned int qid, bool cq,
			     u32 value);

static inline unsigned long exmap_nvme_shadow_pfn(const struct exmap_nvme_controller *ctrl,
						  unsigned long pgoff)
{
	bool events = pgoff >= EXMAP_NVME_OFF_EVENT_IDX >> PAGE_SHIFT;

	return page_to_pfn(events ? ctrl->event_idx.pages : ctrl->shadow.pages);
}

/* pair.c */
unsigned long exmap_nvme_pair_pages(u32 depth, u32 prp_pages);
int exmap_nvme_pair_alloc(struct exmap_nvme_pair *pair, u32 prp_pages);
int exmap_nvme_pair_create(struct exmap_nvme_pair *pair);
int exmap_nvme_pair_delete(struct exmap_nvme_pair *pair);
void exmap_nvme_pair_drop(struct exmap_nvme_pair *pair);
void exmap_nvme_pair_free(struct exmap_nvme_pair *pair);

/* interrupt.c */
int exmap_nvme_interrupt_request(struct exmap_nvme_pair *pair);
void exmap_nvme_interrupt_free(struct exmap_nvme_pair *pair);
void exmap_nvme_interrupts_exit(struct exmap_nvme_controller *ctrl);

/* file.c */
void exmap_nvme_controller_describe(struct exmap_nvme_controller *ctrl,
				    struct exmap_nvme_info *info);

/* channel.c */
struct exmap_nvme_channel *exmap_nvme_channel_get(struct exmap_nvme_controller *ctrl);
bool exmap_nvme_channel_put(struct exmap_nvme_channel *ch);
void exmap_nvme_channel_push(struct exmap_nvme_channel *ch, u8 opcode, u64 pos, size_t len,
			     const u64 *addresses, long *ret);
void exmap_nvme_channel_wait(struct exmap_nvme_channel *ch);
u64 exmap_nvme_channel_bounce(struct exmap_nvme_channel *ch, void **memory);
int exmap_nvme_channels_alloc(struct exmap_nvme_controller *ctrl);
void exmap_nvme_channels_free(struct exmap_nvme_controller *ctrl);
void exmap_nvme_channels_delete(struct exmap_nvme_controller *ctrl);
void exmap_nvme_channels_drop(struct exmap_nvme_controller *ctrl);
void exmap_nvme_channels_sync(struct exmap_nvme_controller *ctrl);

static inline unsigned int exmap_nvme_command_pages(const struct exmap_nvme_controller *ctrl)
{
	return min_t(u32, ctrl->max_transfer >> PAGE_SHIFT, EXMAP_NVME_COMMAND_PAGES);
}

/* queue.c */
struct exmap_nvme_queue *exmap_nvme_queue_alloc(struct exmap_region *region,
						const struct exmap_nvme_open *args);
int exmap_nvme_queue_create(struct exmap_nvme_queue *queue, u32 prp_pages);
void exmap_nvme_queue_delete(struct exmap_nvme_queue *queue);
void exmap_nvme_queue_free(struct exmap_nvme_queue *queue);
void exmap_nvme_queue_revoke_all(struct exmap_nvme_controller *ctrl);
void exmap_nvme_queue_drop_all(struct exmap_nvme_controller *ctrl, int error);

/* dma.c */
int exmap_nvme_dma_attach(struct exmap_nvme_controller *ctrl);
bool exmap_nvme_dma_is_safe(struct exmap_nvme_controller *ctrl);
void exmap_nvme_dma_detach(struct exmap_nvme_controller *ctrl);
int exmap_nvme_block_create(struct exmap_nvme_controller *ctrl, struct exmap_nvme_block *block,
			    unsigned int nr, u64 iova, int prot);
void exmap_nvme_block_unmap(struct exmap_nvme_controller *ctrl, struct exmap_nvme_block *block);
void exmap_nvme_block_free(struct exmap_nvme_block *block);
struct exmap_nvme_pool *exmap_nvme_pool_attach(struct exmap_nvme_controller *ctrl,
					       struct exmap_region *region,
					       const struct exmap_pool *frames, bool owner);
void exmap_nvme_pool_detach(struct exmap_nvme_controller *ctrl, struct exmap_nvme_pool *pool);
struct exmap_nvme_pool *exmap_nvme_pool_find(struct exmap_nvme_controller *ctrl,
					     const struct exmap_region *region);

/* Where the controller sees a frame. */
static inline u64 exmap_nvme_frame_address(const struct exmap_nvme_controller *ctrl,
					   const struct exmap_nvme_pool *pool, u32 frame,
					   struct page *page)
{
	return ctrl->domain ? pool->base + ((u64)frame << PAGE_SHIFT) : page_to_phys(page);
}

#endif /* _EXMAP_NVME_H */
