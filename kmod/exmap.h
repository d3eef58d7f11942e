/* SPDX-License-Identifier: GPL-2.0 */
/*
 * exmap - internal types, one struct per noun.
 *
 * LOCK ORDER, outermost first
 *
 *	region->setup		SETUP, RESIZE, CLONE; never taken below mmap_lock
 *	interface->io_lock	one READ or WRITE at a time, its I/O included
 *	controllers_lock	(nvme/pci.c) the list of controllers
 *	controller->lock	admin commands, queues, owner
 *	channel->lock		(nvme/channel.c) commands in flight
 *	mm->mmap_lock		(populating a chunk, page faults)
 *	the lock of a vma	(page faults, instead of the former, since Linux 6.6)
 *	queue->map_lock		(nvme/file.c) whether doorbells may be mapped
 *	region->snapshots_lock	for writing: create, break, destroy
 *	chunk->view_lock	what views map of the chunk
 *				(mmu notifiers)
 *	region->world		whoever needs the region still
 *	interface->lock		all of them, under world; or one, for a step of a call
 *	chunk->ptl		the page-table lock of the chunk's table
 *	chunk->lock		what snapshots hold of the chunk
 *	pool->lock		leaf
 *	region->gate		leaf
 *	exmap_regions_lock	leaf, outside of all: whoever looks for a region takes
 *				a reference and leaves the list before he uses it
 *
 * Netlink requests come with locks of generic netlink, which none of ours is ever
 * held for; they take the locks of a region in the order above.
 *
 * Nothing allocates memory, touches user memory or waits for I/O under
 * interface->lock or below: mmu notifiers take it, and reclaim calls them.
 */
#ifndef _EXMAP_H
#define _EXMAP_H

#include <linux/cache.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "uapi/exmap.h"

#define EXMAP_CACHE_FRAMES	1024	/* frames that an interface keeps at most */
#define EXMAP_REFILL_FRAMES	512	/* and moves from or to the pool at once */
#define EXMAP_RING_ENTRIES	16384	/* quarantine of an interface, a power of two */
#define EXMAP_RANGED_PAGES	32	/* pages flushed one by one rather than all */
#define EXMAP_MOVED_PAGES	256	/* pages moved to snapshots before a flush */
#define EXMAP_COPY_BLOCK	8u	/* pages copied at once where readers copy */
#define EXMAP_RESIDENCY_WORDS	(PAGE_SIZE / sizeof(u32))
#define EXMAP_NO_FRAME		U32_MAX
/* what a call gets, or fails with -ENOMEM: it is not worth the OOM killer */
#define EXMAP_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/**
 * struct exmap_frame - what FREE writes about a page frame of a pool
 * @seq: tlb.started when its page was last freed
 * @bind: the page that the frame was last freed from; EXMAP_BIND_LAZY while it
 *	is in quarantine; above that the number of times that it was freed.  On
 *	the pinned list, the next frame.
 *
 * A frame is in one place: the pool's stack or an interface's cache (free), a
 * page (mapped, busy), quarantine, or the pinned list.  It leaves quarantine by
 * a cmpxchg of @bind: to be retired or to be mapped again, whoever comes first.
 * Otherwise @bind belongs to the holder of the page's lock or of the free frame.
 * It fills a cache line so that interfaces that work on different frames do not
 * share one.
 */
struct exmap_frame {
	u64 seq;
	u64 bind;
} ____cacheline_aligned;

#define EXMAP_BIND_LAZY		BIT_ULL(32)
#define EXMAP_BIND_FREED_ONCE	BIT_ULL(33)
#define EXMAP_BIND_FREED	GENMASK_ULL(63, 33)

static inline u32 exmap_bind_page(u64 bind)
{
	return bind;
}

/**
 * struct exmap_record - what a snapshot holds of a chunk (record.c)
 * @next: in exmap_pool.spares
 * @nr_frames: how many of @words are frames
 * @pinned: some of them may have a foreign reference
 * @words: for each page, 0: absent; EXMAP_RES_SNAPSHOT: look at the next newer
 *	snapshot; else a frame, plus 1
 *
 * Owned by the snapshot, later by the pool.
 */
struct exmap_record {
	struct exmap_record *next;
	u32 nr_frames;
	bool pinned;
	u32 words[EXMAP_CHUNK_PAGES];
};

/**
 * struct exmap_pool - the frames of a region
 * @pages: table of all frames' memory, @capacity long; the pool's references;
 *	NULL for a hole that RESIZE left.  Apart from @frames because ALLOC
 *	reads nothing else.
 * @frames: table of all frames, @capacity long
 * @free: stack of indices of free frames, @capacity long, @nr_free in use
 * @total: frames that are not holes
 * @pinned: list of retired frames that still have a foreign reference
 * @spares: records whose frames are free: @nr_spare in all
 * @lock: protects @free, @nr_free, @pinned, @nr_pinned, @spares, @nr_spare, and
 *	the reserves of snapshots
 *
 * Owned by the region.  @pages, @frames, @free, @capacity and @total change only
 * while all interfaces are held.
 */
struct exmap_pool {
	struct page **pages;
	struct exmap_frame *frames;
	u32 *free;
	u32 capacity;
	u32 total;
	spinlock_t lock;	/* see above */
	u32 nr_free;
	u32 nr_pinned;
	u32 pinned;
	u32 nr_spare;
	struct exmap_record *spares;
};

/**
 * struct exmap_tlb - flush epochs
 * @started: full flushes that have begun
 * @done: the newest full flush that has ended
 *
 * A translation removed before @started was read as s is gone from all TLBs
 * once @done > s.
 */
struct exmap_tlb {
	atomic64_t started;
	atomic64_t done;
};

/**
 * struct exmap_chunk - 512 pages under one page table
 * @ptes: the table while it is plugged in, else NULL
 * @table: the table, or NULL when it has to be looked up (again)
 * @ptl: its lock, valid while @table is
 * @words: the chunk's part of the residency map
 * @exported: reference on the table's page, taken when it was exported
 * @lock: protects the chunk's records, and the words of shared pages
 * @viewed: views may map frames that the live region has too
 * @view_lock: held while views map or unmap pages of the chunk
 *
 * Made at the first touch, dies with the region.  Its states, which change from
 * left to right with an interface held and back with all of them:
 *
 *	no table	parked (@table)		in use (@table == @ptes)
 *
 * A freeze parks; an mmu notifier takes the table away, since the core mm may do
 * that, after it has unmapped all pages.  Words change under @ptl, but for
 * those that are 0, which ALLOC claims by cmpxchg, and LAZY ones, which become 0
 * when their frame is retired.
 */
struct exmap_chunk {
	pte_t *ptes;
	pte_t *table;
	spinlock_t *ptl;	/* see above */
	u32 *words;
	struct page *exported;
	spinlock_t lock;	/* see above */
	bool viewed;
	struct mutex view_lock;	/* see above */
} ____cacheline_aligned;

/**
 * struct exmap_snapshot - a frozen range of a region
 * @node: in region->snapshots, oldest first; RCU
 * @rcu: for its end
 * @region: a reference
 * @id: for tracepoints and lists
 * @start: first page
 * @nr_pages: length of the range
 * @first: the same in chunks
 * @nr_chunks: the same in chunks
 * @records: of each chunk; entries are protected by the chunk's lock
 * @reserve: frames set aside for copies, @nr_reserve of them left
 * @reserve_all: there is to be one for each shared page
 * @readers_copy: views copy what they map, while there are frames to spare
 * @broken: some content is lost, and the rest has been given up
 * @mapping: through which its views are found; NULL before there are any
 */
struct exmap_snapshot {
	struct list_head node;
	struct rcu_head rcu;
	struct exmap_region *region;
	u32 id;
	u64 start;
	u64 nr_pages;
	u64 first;
	u64 nr_chunks;
	struct exmap_record **records;
	u32 *reserve;
	u32 nr_reserve;
	bool reserve_all;
	bool readers_copy;
	bool broken;
	struct address_space *mapping;
};

/* Signed where other interfaces take away what this one has added. */
struct exmap_counts {
	s64 mapped;
	s64 quarantine;
	s64 busy;
	s64 snapshot;
	u64 allocs;
	u64 frees;
	u64 reads;
	u64 writes;
	u64 faults;
	u64 rescues;
	u64 flushes;
	u64 flushes_ranged;
	u64 flush_ipis;
	u64 copies;
};

/*
 * Add to one of the unsigned ones, which nothing in the module stands on.  With
 * EXMAP_NO_COUNTERS, which is for measuring what they cost (ci/cost.py), they stay 0.
 */
static inline void exmap_count(u64 *counter, u64 n)
{
#ifndef EXMAP_NO_COUNTERS
	*counter += n;
#endif
}

struct exmap_io;

/**
 * struct exmap_interface - a channel for one thread
 * @io_lock: one READ or WRITE at a time
 * @lock: protects the rest but @user and @io; held for ALLOC and FREE, and for
 *	the steps of READ and WRITE
 * @user: the page of iovs, shared with user space
 * @io: state of a READ or WRITE, made by the first of them; protected by @io_lock
 * @ring: quarantine, oldest first: frames that may be retired.  An entry is a
 *	hint; the frame's bind and seq decide.  Every lazy frame has at least one
 *	entry in some ring.
 * @freed_pages: the first pages that the current FREE has unmapped
 * @freed: their frames, and what those were bound to
 * @moved: pages that FREE has taken from snapshots' frames: BUSY until a flush,
 *	which comes before the interface is left
 * @nr_moved: how many
 * @cache: local free frames
 */
struct exmap_interface {
	struct mutex io_lock;	/* see above */
	struct mutex lock;	/* see above */
	struct exmap_user_interface *user;
	struct exmap_io *io;
	u32 *ring;
	u32 ring_head;
	u32 ring_tail;
	u32 nr_cache;
	struct exmap_counts counts;
	u32 freed_pages[EXMAP_RANGED_PAGES];
	struct {
		u32 frame;
		u64 bind;
	} freed[EXMAP_RANGED_PAGES];
	u32 nr_moved;
	u32 moved[EXMAP_MOVED_PAGES];
	u32 cache[EXMAP_CACHE_FRAMES];
} ____cacheline_aligned;

/**
 * struct exmap_region - what an open file of /dev/exmap stands for
 * @ref: one for each handle
 * @id: for tracepoints and lists; the list is in the order of ids
 * @node: in exmap_regions
 * @mm: the address space it belongs to (mmgrab)
 * @notifier: registered with @mm from open to the last put
 * @setup: see the lock order
 * @world: see the lock order
 * @gate: protects @invalidations and @inval_seq
 * @invalidations: ranges between invalidate_range_start and _end; no page is
 *	mapped meanwhile.  Rises only with all interfaces held.
 * @inval_seq: counts them
 * @wait: for the end of invalidations and of reads into a page
 * @start: address of the mapping, 0 before mmap
 * @nr_pages: its length
 * @prot: what its entries permit
 * @pte_bits: the same and all else that is alike in the entries of frames
 * @dead: for good; set with all interfaces held
 * @flags: of SETUP
 * @flush_threshold: of TUNE
 * @quarantine_limit: the same, less in a small pool: how many pages an interface
 *	gathers before it flushes
 * @charged: pages charged to RLIMIT_MEMLOCK; protected by @setup
 * @chunks: sparse table of chunks
 * @residency: sparse table of the residency map's pages
 * @interfaces: NULL before SETUP
 * @ctl: an interface of our own: calls and notifiers that have none
 * @backing: file, or NULL
 * @snapshots: oldest first; RCU
 * @snapshots_lock: see the lock order
 * @pid: of the process that opened it
 * @comm: its name then, for who reads a dump
 * @device_uid: of the device's inode, through which it was opened
 * @device_gid: the same
 * @device_mode: the same
 * @watch: looks at the pool (netlink_event.c)
 * @watched: jiffies of its last run
 * @pool_low: what it has told last
 */
struct exmap_region {
	struct kref ref;
	u32 id;
	struct list_head node;
	struct mm_struct *mm;
	struct mmu_notifier notifier;
	struct mutex setup;	/* see above */
	struct mutex world;	/* see above */
	spinlock_t gate;	/* see above */
	unsigned int invalidations;
	u64 inval_seq;
	wait_queue_head_t wait;

	unsigned long start;
	u64 nr_pages;
	pgprot_t prot;
	pteval_t pte_bits;
	bool dead;
	u64 flags;
	u32 flush_threshold;
	u32 quarantine_limit;
	u32 nr_interfaces;
	unsigned long charged;
	struct exmap_chunk **chunks;
	struct page **residency;
	struct exmap_interface **interfaces;
	struct exmap_interface *ctl;
	struct file *backing;
	struct list_head snapshots;
	struct rw_semaphore snapshots_lock;	/* see above */
	pid_t pid;
	char comm[TASK_COMM_LEN];
	kuid_t device_uid;
	kgid_t device_gid;
	umode_t device_mode;
	struct delayed_work watch;
	unsigned long watched;
	bool pool_low;
	struct exmap_pool pool;
	struct exmap_tlb tlb ____cacheline_aligned;
};

/**
 * struct exmap_handle - what a file holds
 * @own: the region made by open
 * @region: @own, or that of the file it was cloned from
 *
 * Both are references; @region changes once at most, and @own stays, so that a
 * reader needs no lock.
 */
struct exmap_handle {
	struct exmap_region *own;
	struct exmap_region *region;
};

/**
 * struct exmap_walk - a position in the region, with its chunk's lock held
 * @region: where
 * @chunk: locked, or NULL
 * @nr: its number
 */
struct exmap_walk {
	struct exmap_region *region;
	struct exmap_chunk *chunk;
	u64 nr;
};

/**
 * struct exmap_parking - a freeze on its way through the chunks
 * @region: whose
 * @base: the GiB that @pmds is for
 * @pmds: table of tables, its @lock held, or NULL
 */
struct exmap_parking {
	struct exmap_region *region;
	unsigned long base;
	pmd_t *pmds;
	spinlock_t *lock;	/* of the core's */
};

/**
 * struct exmap_op - a call in progress
 * @region: of the call
 * @itf: entered if @entered
 * @walk: position
 * @entered: @itf->lock is held
 * @in_fault: mmap_lock is held, or what stands for it
 * @stale: a zero page was replaced: flush before the call returns
 * @nr_freed: pages freed; beyond EXMAP_RANGED_PAGES flush everything
 *
 * Small, since kernels are built to clear it: the record of what was freed is
 * in the interface.
 */
struct exmap_op {
	struct exmap_region *region;
	struct exmap_interface *itf;
	struct exmap_walk walk;
	bool entered;
	bool in_fault;
	bool stale;
	unsigned int nr_freed;
};

/* What a call does to one page: 1 changed, 0 not, -ENOMEM no frame at hand, or an error. */
typedef int (*exmap_step_fn)(struct exmap_op *op, u64 page);

enum exmap_flush_reason {
	EXMAP_FLUSH_FREE,
	EXMAP_FLUSH_THRESHOLD,
	EXMAP_FLUSH_RECLAIM,
	EXMAP_FLUSH_BARRIER,
	EXMAP_FLUSH_ZERO_PAGE,
	EXMAP_FLUSH_SCAN,
	EXMAP_FLUSH_NOTIFIER,
	EXMAP_FLUSH_SNAPSHOT,
};

/* main.c */
extern struct list_head exmap_regions;
extern struct mutex exmap_regions_lock;
extern u32 exmap_regions_seq;
extern unsigned int exmap_default_threshold;
extern const struct file_operations exmap_fops;

static inline struct exmap_region *exmap_file_region(struct file *file)
{
	struct exmap_handle *handle = file->private_data;

	/* pairs with smp_store_release in clone_region */
	return smp_load_acquire(&handle->region);
}

/* region.c */
struct exmap_region *exmap_region_create(const struct inode *device);
void exmap_region_put(struct exmap_region *region);
int exmap_region_setup(struct exmap_region *region, const struct exmap_ioctl_setup *setup);
int exmap_region_resize(struct exmap_region *region, u64 nr_pages);
void exmap_region_tune(struct exmap_region *region, u32 flush_threshold);
int exmap_region_barrier(struct exmap_region *region);
void exmap_region_freeze(struct exmap_region *region);
void exmap_region_thaw(struct exmap_region *region);
int exmap_region_reclaim(struct exmap_region *region);
int exmap_region_take_frames(struct exmap_region *region, u32 *frames, u32 nr);
void exmap_region_counters(struct exmap_region *region, struct exmap_counters *counters);

static inline u64 exmap_region_chunks(const struct exmap_region *region)
{
	return DIV_ROUND_UP(region->nr_pages, EXMAP_CHUNK_PAGES);
}

static inline unsigned long exmap_region_address(const struct exmap_region *region, u64 page)
{
	return region->start + (page << PAGE_SHIFT);
}

/* op.c */
static inline void exmap_op_init(struct exmap_op *op, struct exmap_region *region,
				 struct exmap_interface *itf)
{
	op->region = region;
	op->itf = itf;
	op->walk = (struct exmap_walk){ .region = region };
	op->entered = false;
	op->in_fault = false;
	op->stale = false;
	op->nr_freed = 0;
}

int exmap_op_enter(struct exmap_op *op);
void exmap_op_leave(struct exmap_op *op);
int exmap_op_step(struct exmap_op *op, u64 page, exmap_step_fn fn);
int exmap_op_alloc_page(struct exmap_op *op, u64 page);
long exmap_op_alloc(struct exmap_op *op, struct exmap_iov *iov, unsigned int len, u64 flags);
long exmap_op_free(struct exmap_op *op, struct exmap_iov *iov, unsigned int len);
long exmap_op_unshare(struct exmap_op *op, struct exmap_iov *iov, unsigned int len);
int exmap_op_unshare_page(struct exmap_op *op, u64 page);
void exmap_op_copy_read(struct exmap_snapshot *snap, u64 page, u64 end);
void exmap_op_empty_ring(struct exmap_op *op);
void exmap_op_finish(struct exmap_op *op, bool lazy);

/* mapping.c */

/* Flags for which the mapping needs operations of its own. */
#define EXMAP_MAPPING_FLAGS	(EXMAP_FAULT_ZERO | EXMAP_SNAPSHOTS)

int exmap_region_mmap(struct exmap_region *region, struct vm_area_struct *vma);

/* notifier.c */
extern const struct mmu_notifier_ops exmap_notifier_ops;
bool exmap_region_gate_closed(struct exmap_region *region);

/* interface.c */
struct exmap_interface *exmap_interface_create(void);
void exmap_interface_destroy(struct exmap_interface *itf);
int exmap_interface_enter(struct exmap_region *region, struct exmap_interface *itf);
void exmap_interface_leave(struct exmap_interface *itf);
long exmap_interface_action(struct exmap_region *region, unsigned int nr, unsigned int opcode,
			    struct exmap_iov *iov, unsigned int len, u64 flags);
int exmap_interface_mmap(struct exmap_region *region, struct vm_area_struct *vma);
vm_fault_t exmap_interface_fault(struct exmap_region *region, u64 page, bool write);
vm_fault_t exmap_interface_mkwrite(struct exmap_region *region, u64 page);
ssize_t exmap_interface_read_iter(struct kiocb *kiocb, struct iov_iter *iter);
int exmap_interface_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);

/* pool.c */
int exmap_pool_create(struct exmap_pool *pool, u32 nr);
void exmap_pool_destroy(struct exmap_pool *pool);
int exmap_pool_grow(struct exmap_region *region, u32 nr);
int exmap_pool_shrink(struct exmap_region *region, u32 nr);
bool exmap_pool_refill(struct exmap_pool *pool, struct exmap_interface *itf);
void exmap_pool_spill(struct exmap_pool *pool, struct exmap_interface *itf, u32 nr);
void exmap_pool_push(struct exmap_pool *pool, u32 frame);
void exmap_pool_return(struct exmap_pool *pool, u32 frame);
void exmap_pool_absorb(struct exmap_pool *pool, struct exmap_record *record);
void exmap_pool_give(struct exmap_pool *pool, const u32 *frames, u32 *nr);
int exmap_pool_take(struct exmap_pool *pool, u32 *frames, u32 nr);
u32 exmap_pool_take_spare(struct exmap_pool *pool, u32 *frames, u32 nr);
void exmap_pool_trim(struct exmap_pool *pool);
void exmap_pool_pin(struct exmap_pool *pool, u32 frame);
void exmap_pool_unpin(struct exmap_pool *pool);

/* A free frame, into the interface's cache. */
static __always_inline void exmap_pool_release(struct exmap_pool *pool,
					       struct exmap_interface *itf, u32 frame)
{
	if (unlikely(itf->nr_cache == EXMAP_CACHE_FRAMES))
		exmap_pool_spill(pool, itf, EXMAP_REFILL_FRAMES);
	itf->cache[itf->nr_cache++] = frame;
}

/* quarantine.c */
static inline u32 exmap_quarantine_length(const struct exmap_interface *itf)
{
	return READ_ONCE(itf->ring_tail) - READ_ONCE(itf->ring_head);
}

/* tlb.c */
static inline u64 exmap_tlb_started(const struct exmap_tlb *tlb)
{
	return atomic64_read(&tlb->started);
}

static inline u64 exmap_tlb_done(const struct exmap_tlb *tlb)
{
	return atomic64_read_acquire(&tlb->done);
}

/* A frame whose page has just been unmapped goes into quarantine. */
static __always_inline u64 exmap_quarantine_bind(struct exmap_region *region, u32 frame, u64 page)
{
	struct exmap_frame *f = &region->pool.frames[frame];
	u64 freed = (f->bind & EXMAP_BIND_FREED) + EXMAP_BIND_FREED_ONCE;
	u64 bind = freed | EXMAP_BIND_LAZY | page;

	/* a full barrier (xchg) lies between the entry and this load */
	WRITE_ONCE(f->seq, exmap_tlb_started(&region->tlb));
	/* pairs with smp_load_acquire in exmap_quarantine_drain */
	smp_store_release(&f->bind, bind);
	return bind;
}

/*
 * The same, into an interface's ring; the caller saw to it that there is room.
 * Returns what the frame is bound to now.
 */
static __always_inline u64 exmap_quarantine_add(struct exmap_region *region,
						struct exmap_interface *itf, u32 frame,
						u64 page)
{
	u64 bind = exmap_quarantine_bind(region, frame, page);

	lockdep_assert_held(&itf->lock);
	itf->ring[itf->ring_tail % EXMAP_RING_ENTRIES] = frame;
	WRITE_ONCE(itf->ring_tail, itf->ring_tail + 1);
	itf->counts.quarantine++;
	return bind;
}

/* Take a frame out of quarantine; fails if somebody else did, or freed it again. */
static __always_inline bool exmap_quarantine_take(struct exmap_frame *f, u64 bind)
{
	return cmpxchg(&f->bind, bind, bind & ~EXMAP_BIND_LAZY) == bind;
}

/* Is the frame, that the LAZY word of @page names, still there?  Then take it. */
static __always_inline bool exmap_quarantine_rescue(struct exmap_frame *f, u64 page)
{
	u64 bind = READ_ONCE(f->bind);

	return (bind & EXMAP_BIND_LAZY) && exmap_bind_page(bind) == page &&
	       exmap_quarantine_take(f, bind);
}

/* A frame out of the interface's cache.  -ENOMEM: the pool is dry. */
static __always_inline int exmap_op_take_frame(struct exmap_op *op, u32 *frame)
{
	struct exmap_interface *itf = op->itf;

	if (unlikely(!itf->nr_cache) && !exmap_pool_refill(&op->region->pool, itf))
		return -ENOMEM;
	*frame = itf->cache[--itf->nr_cache];
	return 0;
}

/*
 * Take a frame for an absent page whose word is @old, and claim the page for it with
 * @bits.  -EEXIST if a call that does without the chunk's lock was faster.
 */
static __always_inline int exmap_op_claim(struct exmap_op *op, u32 *word, u32 old, u32 bits,
					  u32 *frame)
{
	int ret = exmap_op_take_frame(op, frame);

	if (unlikely(ret) || likely(cmpxchg(word, old, bits | (*frame + 1)) == old))
		return ret;
	op->itf->cache[op->itf->nr_cache++] = *frame;
	return -EEXIST;
}

/* Make sure that the ring takes another page. */
static __always_inline void exmap_op_make_room(struct exmap_op *op)
{
	if (unlikely(exmap_quarantine_length(op->itf) >= EXMAP_RING_ENTRIES))
		exmap_op_empty_ring(op);
}

void exmap_quarantine_set_limit(struct exmap_region *region);
void exmap_quarantine_drain(struct exmap_region *region, struct exmap_interface *itf);
void exmap_quarantine_retire(struct exmap_region *region, struct exmap_interface *itf, u32 frame,
			     u64 bind);
void exmap_quarantine_sweep(struct exmap_region *region, u64 first, u64 last);

/* ptable.c; the inlines are in ptable.h */
int exmap_chunk_populate(struct exmap_region *region, u64 nr);
int exmap_chunk_populate_unlocked(struct exmap_region *region, u64 nr);
bool exmap_pte_map_zero(struct exmap_walk *walk, u64 page);
bool exmap_pte_accessed(struct exmap_walk *walk, u64 page);
bool exmap_pte_dirty(struct exmap_walk *walk, u64 page);
void exmap_pte_clear_accessed(struct exmap_walk *walk, u64 page);
void exmap_pte_clear_dirty(struct exmap_walk *walk, u64 page);
struct page *exmap_chunk_table(struct exmap_region *region, u64 nr);
bool exmap_chunk_parked(struct exmap_region *region, u64 nr);
bool exmap_chunk_park(struct exmap_parking *parking, u64 nr);
void exmap_park_end(struct exmap_parking *parking);
void exmap_chunk_plug(struct exmap_region *region, u64 nr);
void exmap_pte_protect(struct exmap_walk *walk, u64 page);
void exmap_pte_unprotect(struct exmap_walk *walk, u64 page);

/* tlb.c */
void exmap_tlb_init(struct exmap_tlb *tlb);
void exmap_tlb_flush(struct exmap_region *region, struct exmap_counts *counts,
		     enum exmap_flush_reason reason);
void exmap_tlb_flush_pages(struct exmap_region *region, struct exmap_counts *counts,
			   const u32 *pages, unsigned int nr);

/* residency.c */
struct page *exmap_residency_page(struct exmap_region *region, u64 index);
int exmap_residency_mmap(struct exmap_region *region, struct vm_area_struct *vma);
int exmap_residency_export_mmap(struct exmap_region *region, struct vm_area_struct *vma);
int exmap_residency_scan(struct exmap_region *region, const struct exmap_scan *scan);

/* snapshot.c */
extern atomic_t exmap_snapshots_seq;
struct exmap_snapshot *exmap_snapshot_alloc(struct exmap_region *region,
					    const struct exmap_snapshot_create *args);
int exmap_snapshot_freeze(struct exmap_snapshot *snap, u64 frames);
void exmap_snapshot_destroy(struct exmap_snapshot *snap);
void exmap_snapshot_break(struct exmap_region *region, u64 nr);
void exmap_snapshot_unview(struct exmap_region *region, u64 nr);

/* record.c */
static inline bool exmap_snapshot_covers(const struct exmap_snapshot *snap, u64 nr)
{
	return nr - snap->first < snap->nr_chunks;
}

u32 exmap_snapshot_resolve(struct exmap_snapshot *snap, u64 nr, unsigned int i);
struct exmap_record *exmap_snapshot_alloc_record(gfp_t gfp);
bool exmap_snapshot_prepare(struct exmap_walk *walk, struct exmap_record **record);
void exmap_snapshot_attach(struct exmap_region *region, u64 nr, struct exmap_record **record);
int exmap_snapshot_unshare(struct exmap_op *op, u64 page);
int exmap_snapshot_copy_read(struct exmap_op *op, struct exmap_snapshot *snap, u64 first);
int exmap_snapshot_keep(struct exmap_region *region, struct exmap_walk *walk, u64 page, u32 old);
void exmap_snapshot_leave_chunk(struct exmap_region *region, u64 nr,
				void (*drop)(struct exmap_region *region, u64 page, u32 *word));
void exmap_snapshot_set_absent(struct exmap_snapshot *snap, u64 nr);
struct exmap_record *exmap_snapshot_detach_chunk(struct exmap_snapshot *snap, u64 nr);
u64 exmap_snapshot_frames(struct exmap_snapshot *snap);

/* view.c */
int exmap_view_init(void);
void exmap_view_exit(void);
struct file *exmap_view_file(const char *name, int flags, const struct file_operations *fops,
			     void *private);
struct file *exmap_view_open(struct exmap_snapshot *snap);
void exmap_view_unmap(struct exmap_snapshot *snap, u64 nr);

/* selftest/selftest.c */
#ifdef CONFIG_DEBUG_VM
int exmap_selftest(void);
#else
static inline int exmap_selftest(void)
{
	return 0;
}
#endif

/* netlink.c */
int exmap_netlink_init(void);
void exmap_netlink_exit(void);

/**
 * struct exmap_queue_failure - what has failed in an NVMe queue
 * @commands: how many
 * @status: of the last one that the controller completed with an error, or 0
 * @error: why the queue is dead, or 0
 * @region: the id of the dead queue's owner; 0 if that is the kernel
 * @pid: of that region
 */
struct exmap_queue_failure {
	u32 commands;
	u16 status;
	int error;
	u32 region;
	pid_t pid;
};

/* netlink_event.c */
void exmap_netlink_region_init(struct exmap_region *region);
void exmap_netlink_region_exit(struct exmap_region *region);
void exmap_netlink_region_event(const struct exmap_region *region, u8 cmd);
void exmap_netlink_controller_event(u8 cmd, u32 controller, int error,
				    const struct exmap_region *owner);
void exmap_netlink_queue_event(u32 controller, u32 queue,
			       const struct exmap_queue_failure *failure);
unsigned long exmap_netlink_wait(unsigned long last);
void exmap_netlink_snapshot_event(const struct exmap_snapshot *snap, u8 cmd);
void exmap_netlink_watch(struct exmap_region *region);

/* A pool with fewer frames than that may be low. */
static inline u32 exmap_pool_low_mark(const struct exmap_pool *pool)
{
	return max(READ_ONCE(pool->total) / 16, 1U);
}

/* backing.c */
int exmap_backing_open(int fd, struct file **backing);
u64 exmap_backing_pages(const struct exmap_region *region);
long exmap_backing_read(struct exmap_region *region, struct exmap_interface *itf,
			struct exmap_iov *iov, unsigned int len, u64 flags);
long exmap_backing_write(struct exmap_region *region, struct exmap_interface *itf,
			 struct exmap_iov *iov, unsigned int len, u64 flags);
void exmap_backing_free_io(struct exmap_io *io);

/* nvme/ */
int exmap_nvme_init(void);
void exmap_nvme_exit(void);
int exmap_nvme_queue_open(struct exmap_region *region, const struct exmap_nvme_open *args);
int exmap_nvme_backing_open(const struct exmap_nvme_backing *args);
bool exmap_nvme_is_backing(const struct file *file);
unsigned int exmap_nvme_backing_most(const struct file *file);
int exmap_nvme_backing_attach(struct exmap_region *region, const struct exmap_pool *pool,
			      struct file *backing);
void exmap_nvme_region_release(struct exmap_region *region);
int exmap_nvme_pool_grow(struct exmap_region *region, u32 capacity, struct list_head *pages);
int exmap_nvme_pool_may_shrink(struct exmap_region *region);
void exmap_nvme_pool_shrink(struct exmap_region *region);

#endif /* _EXMAP_H */
