/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * exmap: explicit page mapping for database systems.
 *
 * This file is the ABI of /dev/exmap and its specification; every number that
 * user space needs is defined here and nowhere else.
 *
 * THE MODEL
 *
 * An open file of /dev/exmap is one *region*: a range of virtual memory that
 * belongs to the module alone, a *pool* of page frames, and up to 256
 * *interfaces*.  A page of the region is mapped to a frame, or absent, only
 * because a call said so.  An interface is a channel for one thread: a page of
 * memory, shared with the kernel, that holds the vector of a call, and a local
 * cache of frames.  Threads that use different interfaces share no lock and no
 * cache line while they work in different 2 MiB chunks from their local frames.
 *
 * A region belongs to the address space that opened it.  Calls from another
 * one (a child of fork, a file descriptor that was passed on, an image started
 * by exec) are refused with EPERM.  It dies with its mapping or its address
 * space, whichever goes first: then every call gives EPROTO.  Frames return to
 * the kernel when the address space is gone or the last descriptor of the
 * region is closed.
 *
 * SETTING UP
 *
 *	fd = open("/dev/exmap", O_RDWR);
 *	ioctl(fd, EXMAP_IOCTL_SETUP, &setup);
 *	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
 *		   EXMAP_OFF_EXMAP);
 *	itf = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
 *		   EXMAP_OFF_INTERFACE(0));
 *
 * mmap of the region may come before SETUP.  A region is mapped once in its
 * life; another mmap at offset 0 gives EBUSY.  The mapping has to be MAP_SHARED
 * and must not be executable; its address is a multiple of 2 MiB; it is at
 * most EXMAP_REGION_MAX_PAGES long.
 *
 * CALLS
 *
 * ACTION runs one opcode over the first iov_len iovs on the interface's page.
 * Each iov names `len` pages from `page` on and is replaced by its result:
 * `res` is 0 or a negative errno, `pages` the number of pages that the call
 * changed (also when res is an error: what was done before the error stays).
 * The call returns the number of iovs that failed, or -1 and errno if nothing
 * was tried.  Each iov is read once.  Calls on one interface take turns (only
 * ALLOC and FREE may run while a READ or WRITE waits for its I/O).  The vector is
 * shared, so threads must not fill it at the same time; the worst that comes of
 * it is a call over pages that the other thread named.
 *
 *	ALLOC	maps a frame to every absent page.  The content is undefined:
 *		zeros, or something that an earlier page of this region held.
 *		Pages that are mapped stay as they are and are not counted.
 *		With EXMAP_ALLOC_PROBE an iov whose first page is mapped is
 *		left alone altogether (res 0, pages 0).
 *	FREE	unmaps pages; absent ones are not counted.  See FLUSHING.
 *	READ	like ALLOC, and fills the new pages from the backing, at file
 *		offset page * 4096.  A page is seen only when it is complete.
 *		The tail of a page that the end of a file cuts is zero.
 *	WRITE	writes mapped pages to the backing, at page * 4096.  The caller
 *		sees to it that they do not change meanwhile.
 *		With EXMAP_AT_BLOCKS pages of READ and WRITE are elsewhere in the
 *		backing: those of iov[i] from iov[256 + i].value * 4096 on.  The
 *		vector then has at most EXMAP_AT_BLOCKS_MAX iovs; what stands in
 *		the second half of the interface's page is read once and left.
 *	UNSHARE	copies mapped pages that a snapshot shares, so that writing them
 *		does not fault (see SNAPSHOTS).  Counts the pages copied.
 *
 * Errors of a call: EBADF before SETUP; EPROTO before mmap, or when the region
 * is dead; EPERM from another address space; EINVAL for an interface, opcode,
 * iov_len or flag that does not exist; ENODEV for READ and WRITE without a
 * backing; EBADF if the backing was not opened for it; EFAULT; EINTR when a
 * fatal signal is pending.
 *
 * Errors of an iov: EFAULT if it leaves the region; ENOMEM if the pool has no
 * frame left, even after a flush; for READ: ENXIO if the page lies wholly
 * beyond the end of the backing, EAGAIN if another call is reading that page
 * just now, EIO and others from the device; for WRITE: ENOENT for an absent
 * page and what the device or file system says; with EXMAP_AT_BLOCKS: EINVAL for
 * a block that no offset can name, beyond 2^51.  ALLOC of a page that is being
 * read gives EAGAIN too.  An iov with len 0 does nothing and succeeds.
 *
 * pread(fd, addr, n, interface | opcode << 8) and preadv do ALLOC or READ for
 * the pages at the given addresses of the region, which stand for page numbers
 * in the backing as well.  They return the number of bytes whose pages are
 * mapped now, up to the first range that failed, or its error.  io_uring's
 * IORING_OP_URING_CMD takes cmd_op = interface | opcode << 8 and a struct
 * iovec in sqe->cmd: a range of the region (the result is the number of bytes
 * that the call changed), or, with IORING_URING_CMD_FIXED, a vector of struct
 * exmap_iov in a registered buffer (the result is the number of iovs that
 * failed).
 *
 * FLUSHING
 *
 * Unmapping a page leaves stale translations in the TLBs of other CPUs.  The
 * guarantee is: a freed page goes into *quarantine*, and neither its frame nor
 * its virtual page is given to anything else before every TLB has been flushed
 * of it.  Until then whoever reads the page through a stale translation sees
 * the page's own last content (or what has been put into the same page since),
 * never another page's; writes through a stale translation are lost.  FREE
 * flushes before it returns.  With EXMAP_FREE_LAZY it does not: the flush comes
 * when the interface has gathered `flush_threshold` pages (see TUNE), when the
 * pool runs dry, or at a BARRIER.  One flush serves the pages of all
 * interfaces.  ALLOC of a page in quarantine maps the same frame again, with
 * its content, and needs no flush.
 *
 * A frame that the kernel still holds for I/O (O_DIRECT, io_uring,
 * process_vm_readv) when its page is freed stays in quarantine until the last
 * reference is gone.
 *
 * FAULTS
 *
 * Touching an absent page raises SIGSEGV.  With EXMAP_PAGEFAULT_ALLOC (also
 * called EXMAP_FAULT_ALLOC) in SETUP it does ALLOC instead (SIGBUS if the pool
 * is dry).  With EXMAP_FAULT_ZERO a read maps the zero page, so that optimistic
 * readers never trap, and a write raises SIGSEGV; the page stays absent in
 * every other respect, and ALLOC or READ of it flushes the zero page from all
 * TLBs before it returns.
 *
 * SNAPSHOTS
 *
 * In a region that was set up with EXMAP_SNAPSHOTS, EXMAP_IOCTL_SNAPSHOT freezes
 * a range: it returns a descriptor that shows every page of the range as it was
 * at one moment, whatever becomes of the region afterwards.  The freeze itself
 * copies nothing and touches no page; all threads of the process are kept out of
 * the region while it lasts.  Several snapshots may be alive, of ranges that
 * overlap or not; closing the last descriptor and mapping of one ends it.
 *
 * Content is shared until the live page changes: the first write to a page after
 * the freeze faults, and copies the old content to a new frame; FREE leaves the
 * frame itself to the snapshot, and flushes before it returns.  UNSHARE copies
 * ahead of the writes.  The live page keeps its frame.  A page is copied once,
 * however many snapshots share it.  EXMAP_RES_SNAPSHOT in a residency word says
 * that the next write will fault; it appears when the page's chunk is first
 * touched after the freeze.
 *
 * Copies take frames that the snapshot has reserved, then such as the pool has.
 * If there is none, or no memory for the book-keeping, the snapshot is *broken*,
 * and so are all older ones that cover the same chunk: reading them gives
 * ENODATA, or SIGBUS, for good; their frames return to the pool, and the writer
 * goes on.
 *
 * With EXMAP_READERS_COPY whoever first reads a page through a view copies it, at
 * his own expense, as long as more than an eighth of the pool is free: no write
 * to such a page faults, and no view has to be emptied for it.  A write that comes
 * before the readers copies the shared pages among the eight around it, a range
 * that begins at a multiple of eight.  That takes a frame for each page read, and
 * time: meant for analytics beside many writers, and pools that have room.  When
 * frames run short views share again, and writes copy one page.  posix_fadvise of
 * the descriptor, or madvise of a view, with POSIX_FADV_WILLNEED copies the pages of
 * a range at once: what is copied early spares writers more.  It returns 0, however
 * far frames went, or EINTR for a killed process; without EXMAP_READERS_COPY, and
 * with any other known advice, it does nothing.
 *
 * The descriptor can be mapped (MAP_SHARED, PROT_READ) at any offset and in any
 * process that it is passed to, and read by pread; byte 0 is the first byte of
 * the range.  A page that was absent raises SIGBUS in a view, and ends a pread
 * before it, or, if it is the first, gives ENOENT.  A view's page that is about
 * to change is taken out of the views first, which interrupts CPUs that run a
 * process with a view; pread costs writers nothing.  Views cannot be the target
 * of O_DIRECT or other calls that pin pages (EFAULT): pread into a buffer.
 *
 * A snapshot outlives the region: after munmap, exit or kill -9 of the owner it
 * keeps the frames that it needs.
 *
 * I/O that was started before the freeze, and writes to pages of the region
 * (O_DIRECT read, process_vm_writev), is not part of the moment: for such a page
 * the snapshot shows anything between the freeze and the end of the I/O.  From
 * 6.5 on the kernel refuses to pin pages of such a region for long (io_uring's
 * registered buffers); do not try it on older ones, since writes through them
 * bypass snapshots.
 *
 * WHAT THE KERNEL DOES TO A REGION
 *
 *	munmap		of all of it: every page is freed, the region is dead
 *	munmap		of a part: EINVAL; MAP_FIXED over a part: EINVAL or,
 *			before 6.3, ENOMEM; nothing changes
 *	madvise		MADV_DONTNEED means FREE; MADV_FREE gives EINVAL, others
 *			do nothing or fail
 *	mremap		EBUSY or EFAULT, nothing moves
 *	mprotect	EACCES
 *	fork		the child gets no part of the region, whatever madvise
 *			was told; the parent keeps everything
 *	exec, exit,	everything returns to the kernel
 *	kill -9
 *	mlock, swap,	do not apply: frames are never reclaimed or moved
 *	migration, KSM
 *	core dumps	leave the region out
 *
 * MEMORY
 *
 * All frames are allocated and zeroed by SETUP and RESIZE, charged to
 * RLIMIT_MEMLOCK (unless CAP_IPC_LOCK) and to the memory cgroup.  They do not
 * show in VmRSS.  A snapshot needs another 2 KiB for each chunk that is touched
 * while it is alive.  At any time when no call runs,
 *
 *	total = free + mapped + quarantine + busy + snapshot
 *
 * which COUNTERS exports (busy: frames in the hands of a READ).
 *
 * RESIDENCY MAP
 *
 * One __u32 for each page of the region, read-only, at EXMAP_OFF_RESIDENCY.  A
 * page is mapped if and only if EXMAP_RES_MAPPED is true of its word; then
 * EXMAP_RES_FRAME is the index of its frame, which no other mapped page has.  An
 * absent page's word is 0, or has EXMAP_RES_BUSY (being read) or EXMAP_RES_LAZY
 * (freed, in quarantine).  A word is written next to its page-table entry; a
 * reader sees one that was true a moment ago, or will be in a moment.
 *
 * NVME
 *
 * Regions can own queues of NVMe controllers, and have controllers that the kernel
 * drives as their backing: see exmap_nvme_abi.h, which this file includes.
 */
#ifndef _UAPI_EXMAP_H
#define _UAPI_EXMAP_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define EXMAP_ABI_VERSION	1

/* The published ABI: ioctls 1 to 4. */

#define EXMAP_PAGE_LEN_BITS		12
#define EXMAP_PAGE_MAX_PAGES		4096
#define EXMAP_USER_INTERFACE_PAGES	512
#define EXMAP_MAX_INTERFACES		256

/**
 * struct exmap_iov - a run of pages, and what became of it
 * @value: the whole, for reading and writing it at once
 * @page: first page of the run, counted from the region's start
 * @len: number of pages, 0 to 4095
 * @res: 0 or a negative errno
 * @pages: number of pages that the call changed
 */
struct exmap_iov {
	union {
		__u64 value;
		struct {
			__u64 page : 64 - EXMAP_PAGE_LEN_BITS;
			__u64 len : EXMAP_PAGE_LEN_BITS;
		};
		struct {
			__s32 res;
			__s16 pages;
		};
	};
};

/* The page that an interface shares with user space. */
struct exmap_user_interface {
	struct exmap_iov iov[EXMAP_USER_INTERFACE_PAGES];
};

/**
 * struct exmap_ioctl_setup - give a region its pool, interfaces and backing
 * @fd: to READ from and WRITE to: a block device, a regular file, or what
 *	NVME_BACKING returns; or -1
 * @max_interfaces: 1 to 256
 * @buffer_size: frames in the pool, 1 to EXMAP_POOL_MAX_PAGES
 * @flags: 0, EXMAP_PAGEFAULT_ALLOC or EXMAP_FAULT_ZERO (not both); EXMAP_SNAPSHOTS
 *
 * Errors: EBUSY the second time; EBADF for a @fd that is not open for reading;
 * EINVAL; ENOMEM beyond RLIMIT_MEMLOCK, the cgroup's limit or free memory; ENODEV
 * and ENOSPC as in NVME BACKINGS of exmap_nvme_abi.h.
 */
struct exmap_ioctl_setup {
	__s32 fd;
	__s32 max_interfaces;
	__u64 buffer_size;
	__u64 flags;
};

/**
 * struct exmap_action_params - run one opcode over an interface's iovs
 * @interface: which interface
 * @iov_len: how many of its iovs, 0 to 512
 * @opcode: enum exmap_opcode
 * @flags: EXMAP_ALLOC_PROBE with ALLOC, EXMAP_FREE_LAZY with FREE, EXMAP_AT_BLOCKS
 *	with READ and WRITE, else 0
 */
struct exmap_action_params {
	__u16 interface;
	__u16 iov_len;
	__u16 opcode;
	/* two bytes of padding, ignored, as published */
	__aligned_u64 flags;
};

/**
 * struct exmap_ioctl_stats - the published statistics
 * @flags: those of SETUP
 * @buffer_size: frames in the pool
 * @alloc_count: frames that are not free
 * @max_interfaces: as set up
 */
struct exmap_ioctl_stats {
	__u64 flags;
	__u64 buffer_size;
	__u64 alloc_count;
	__u32 max_interfaces;
	/* four bytes of padding, written as zero */
};

enum exmap_opcode {
	EXMAP_OP_READ	= 0,
	EXMAP_OP_ALLOC	= 1,
	EXMAP_OP_FREE	= 2,
	EXMAP_OP_WRITE	= 3,
	EXMAP_OP_UNSHARE = 4,	/* ours */
};

enum exmap_flags {
	EXMAP_ALLOC_PROBE	= 1,	/* ACTION: see ALLOC */
	EXMAP_PAGEFAULT_ALLOC	= 2,	/* SETUP: see FAULTS */
	EXMAP_FAULT_ALLOC	= 2,
	EXMAP_FAULT_ZERO	= 4,	/* SETUP: see FAULTS */
	EXMAP_FREE_LAZY		= 8,	/* ACTION: see FLUSHING */
	EXMAP_SNAPSHOTS		= 16,	/* SETUP: see SNAPSHOTS */
	EXMAP_READERS_COPY	= 32,	/* SNAPSHOT: see SNAPSHOTS */
	EXMAP_AT_BLOCKS		= 64,	/* ACTION: see WRITE */
};

#define EXMAP_IOCTL_SETUP	_IOC(_IOC_WRITE, 'k', 1, sizeof(struct exmap_ioctl_setup))
#define EXMAP_IOCTL_ACTION	_IOC(_IOC_WRITE, 'k', 2, sizeof(struct exmap_action_params))
/*
 * CLONE makes this descriptor, fresh from open, another name of the region of
 * the descriptor in the argument.  EBADF, EINVAL if that is no exmap or this
 * one has been used, EPERM if they belong to different address spaces.
 */
#define EXMAP_IOCTL_CLONE	_IOC(_IOC_WRITE, 'k', 3, sizeof(int))
#define EXMAP_IOCTL_STATS	_IOC(_IOC_WRITE, 'k', 4, sizeof(struct exmap_ioctl_stats))

/* mmap offsets */
#define EXMAP_OFF_EXMAP			0x0ULL
#define EXMAP_OFF_PTEXPORT		0x1000000000000000ULL
#define EXMAP_OFF_RESIDENCY		0x2000000000000000ULL
#define EXMAP_OFF_INTERFACE_BASE	0xe000000000000000ULL
#define EXMAP_OFF_INTERFACE_MAX		0xf000000000000000ULL
#define EXMAP_OFF_INTERFACE(n)		(EXMAP_OFF_INTERFACE_BASE | ((__u64)(n) << 12))

/* Ours: ioctls 16 and up.  Unknown flags and reserved fields that are not 0 give EINVAL. */

#define EXMAP_CHUNK_PAGES	512u		/* pages under one page table */
#define EXMAP_AT_BLOCKS_MAX	256u		/* iovs of a call with EXMAP_AT_BLOCKS */
#define EXMAP_REGION_MAX_PAGES	0x100000000ULL	/* 16 TiB */
#define EXMAP_POOL_MAX_PAGES	0x10000000ULL	/* 1 TiB */

/* residency words */
#define EXMAP_RES_FRAME_MASK	0x1fffffffu	/* frame index + 1 */
#define EXMAP_RES_BUSY		0x20000000u	/* being read, not mapped yet */
#define EXMAP_RES_LAZY		0x40000000u	/* freed, in quarantine, not mapped */
#define EXMAP_RES_SNAPSHOT	0x80000000u	/* a snapshot shares the frame */
#define EXMAP_RES_STATE_MASK	0x7fffffffu	/* all but EXMAP_RES_SNAPSHOT */
/* a frame, and neither BUSY nor LAZY */
#define EXMAP_RES_MAPPED(word)	(((word) & EXMAP_RES_STATE_MASK) - 1u < EXMAP_RES_FRAME_MASK)
#define EXMAP_RES_FRAME(word)	(((word) & EXMAP_RES_FRAME_MASK) - 1)

/* features, as bits of exmap_info.features */
#define EXMAP_FEATURE_RESIDENCY		0x01ULL
#define EXMAP_FEATURE_SCAN		0x02ULL
#define EXMAP_FEATURE_LAZY		0x04ULL
#define EXMAP_FEATURE_RESIZE		0x08ULL
#define EXMAP_FEATURE_FILE_BACKING	0x10ULL
#define EXMAP_FEATURE_FAULT_ZERO	0x20ULL
#define EXMAP_FEATURE_SNAPSHOT		0x40ULL
#define EXMAP_FEATURE_NVME		0x80ULL
#define EXMAP_FEATURE_NVME_BACKING	0x100ULL
#define EXMAP_FEATURE_AT_BLOCKS		0x200ULL

/**
 * struct exmap_info - what this module and this region are
 * @flags: in: 0
 * @abi_version: EXMAP_ABI_VERSION
 * @page_size: bytes in a page, 4096
 * @features: EXMAP_FEATURE_*
 * @setup_flags: those of SETUP
 * @region_pages: length of the mapping, 0 before mmap
 * @pool_pages: frames in the pool, 0 before SETUP
 * @backing_pages: whole and partial pages of the backing now, 0 without one
 * @flush_threshold: see TUNE
 * @max_interfaces: as set up
 * @chunk_pages: EXMAP_CHUNK_PAGES
 *
 * Works on any open descriptor, at any time.
 */
struct exmap_info {
	__u64 flags;
	__u32 abi_version;
	__u32 page_size;
	__u64 features;
	__u64 setup_flags;
	__u64 region_pages;
	__u64 pool_pages;
	__u64 backing_pages;
	__u64 flush_threshold;
	__u32 max_interfaces;
	__u32 chunk_pages;
	__u64 reserved[7];
};

/**
 * struct exmap_counters - where all frames are, and what has happened
 * @flags: in: 0
 * @total: frames in the pool
 * @free: ready to be mapped
 * @mapped: mapped to pages
 * @quarantine: freed and waiting for a flush, or for the end of I/O
 * @busy: in the hands of a READ
 * @snapshot: held by snapshots alone
 * @allocs: pages mapped by ALLOC, READ and faults
 * @frees: pages unmapped by FREE and madvise
 * @reads: pages read from the backing
 * @writes: pages written to the backing
 * @faults: faults that mapped something
 * @rescues: pages mapped again out of quarantine
 * @flushes: full TLB flushes
 * @flushes_ranged: TLB flushes of single pages
 * @flush_ipis: CPUs that were interrupted for them
 * @pinned: of @quarantine, frames that still have a foreign reference
 * @copies: pages copied out for snapshots
 *
 * The first six are taken at one moment, with all interfaces held:
 * total = free + mapped + quarantine + busy + snapshot.
 */
struct exmap_counters {
	__u64 flags;
	__u64 total;
	__u64 free;
	__u64 mapped;
	__u64 quarantine;
	__u64 busy;
	__u64 snapshot;
	__u64 allocs;
	__u64 frees;
	__u64 reads;
	__u64 writes;
	__u64 faults;
	__u64 rescues;
	__u64 flushes;
	__u64 flushes_ranged;
	__u64 flush_ipis;
	__u64 pinned;
	__u64 copies;
	__u64 reserved[6];
};

/* exmap_scan.flags */
#define EXMAP_SCAN_VECTOR		1	/* @vector instead of @start */
#define EXMAP_SCAN_CLEAR_ACCESSED	2
#define EXMAP_SCAN_CLEAR_DIRTY		4

/**
 * struct exmap_scan - read, and clear, the accessed and dirty bits of pages
 * @flags: EXMAP_SCAN_*
 * @start: first page of the range; 0 with EXMAP_SCAN_VECTOR
 * @count: number of pages
 * @vector: address of @count page numbers (__u64 each) with
 *	EXMAP_SCAN_VECTOR, else 0
 * @present: address of a bitmap of @count bits, or 0
 * @accessed: the same
 * @dirty: the same
 *
 * Bit i of the bitmaps (bit i % 8 of byte i / 8; whole bytes are written)
 * speaks of the i-th page.  Absent pages have no bit set.  Returns 0.
 *
 * A page is born accessed and clean.  A bit is cleared only if the bitmap that
 * reports it was given (else EINVAL) and only after it was written, so that an
 * EFAULT loses nothing.  CLEAR_DIRTY flushes the TLB before it returns: a write
 * that is not reported by this call will be by the next one.  CLEAR_ACCESSED
 * alone does not, as the kernel's own ageing does not: a page that stays in a
 * TLB may look untouched for a while.
 *
 * Errors: EINVAL, EFAULT (also for pages outside of the region), EPROTO, EPERM.
 */
struct exmap_scan {
	__u64 flags;
	__u64 start;
	__u64 count;
	__u64 vector;
	__u64 present;
	__u64 accessed;
	__u64 dirty;
	__u64 reserved;
};

/**
 * struct exmap_resize - change the size of the pool
 * @flags: 0
 * @pool_pages: in: wanted size; out: size afterwards
 *
 * Growing: ENOMEM as in SETUP.  Shrinking takes frames that are free once the
 * quarantine has been flushed; EBUSY if there are not enough of them.  Either
 * it happens wholly or nothing has changed.
 */
struct exmap_resize {
	__u64 flags;
	__u64 pool_pages;
	__u64 reserved[2];
};

/**
 * struct exmap_barrier - flush, and retire the whole quarantine
 * @flags: 0
 *
 * On return no TLB holds a translation of a page freed before the call.
 */
struct exmap_barrier {
	__u64 flags;
	__u64 reserved[3];
};

/**
 * struct exmap_tune - settings of a region
 * @flags: 0
 * @flush_threshold: pages that an interface gathers by EXMAP_FREE_LAZY before
 *	it flushes; 0 leaves it as it is, at most EXMAP_FLUSH_THRESHOLD_MAX.
 *	Small pools flush earlier: at a quarter of the pool, divided by the
 *	number of interfaces.
 *
 * On return the fields hold the settings in force.
 */
struct exmap_tune {
	__u64 flags;
	__u64 flush_threshold;
	__u64 reserved[2];
};

#define EXMAP_FLUSH_THRESHOLD_MAX	15360

#define EXMAP_RESERVE_ALL	0xffffffffffffffffULL

/**
 * struct exmap_snapshot_create - freeze a range of the region
 * @flags: 0 or EXMAP_READERS_COPY
 * @start: first page, a multiple of EXMAP_CHUNK_PAGES
 * @count: number of pages, a multiple of EXMAP_CHUNK_PAGES or to the end of the
 *	region
 * @reserve: frames to take out of the pool now, for copies; EXMAP_RESERVE_ALL:
 *	one for each page that is mapped, given back as such pages are freed
 *
 * Returns a descriptor (close-on-exec) of the snapshot; see SNAPSHOTS.  Errors:
 * EOPNOTSUPP without EXMAP_SNAPSHOTS in SETUP; EINVAL; EFAULT for a range outside
 * of the region; ENOMEM, also if the pool has not as many free frames; EPROTO;
 * EBADF; EPERM; EMFILE; EINTR.
 */
struct exmap_snapshot_create {
	__u64 flags;
	__u64 start;
	__u64 count;
	__u64 reserve;
	__u64 reserved[4];
};

/**
 * struct exmap_snapshot_info - what a snapshot is; on its descriptor
 * @flags: in: 0
 * @start: its first page, counted from the region's start
 * @count: its length
 * @reserve: frames that are still set aside
 * @frames: frames that hold content for it and are no longer the live region's
 * @id: unique while the module is loaded
 * @region: the region's
 * @broken: 1 once content is lost
 */
struct exmap_snapshot_info {
	__u64 flags;
	__u64 start;
	__u64 count;
	__u64 reserve;
	__u64 frames;
	__u32 id;
	__u32 region;
	__u32 broken;
	__u32 reserved32;
	__u64 reserved[4];
};

/**
 * struct exmap_snapshot_pages - residency words of a snapshot; on its descriptor
 * @flags: 0
 * @start: first page, counted from the snapshot's start
 * @count: how many
 * @words: address of @count __u32
 *
 * A word is 0 for a page that was absent, else the index of its frame, plus 1,
 * with EXMAP_RES_SNAPSHOT while the live region still has the same frame.
 * Errors: EINVAL, EFAULT, ENODATA for a broken snapshot, ENOMEM, EINTR.
 */
struct exmap_snapshot_pages {
	__u64 flags;
	__u64 start;
	__u64 count;
	__u64 words;
};

/**
 * struct exmap_snapshot_diff - where two snapshots differ; on the descriptor of one
 * @flags: 0
 * @fd: the descriptor of the other
 * @start: first page, counted from the region's start, a multiple of 8
 * @count: how many; all within both
 * @bitmap: address of @count bits (whole bytes are written)
 *
 * Sets the bits of pages that were written, freed, or mapped anew between the
 * two.  A page that was written with what it held before counts as different,
 * and so may up to eight neighbours of a page that was written.
 * Errors: EXDEV if they belong to different regions; EBADF; EINVAL; EFAULT;
 * ENODATA if one is broken; EINTR.
 */
struct exmap_snapshot_diff {
	__u64 flags;
	__s32 fd;
	__u32 reserved;
	__u64 start;
	__u64 count;
	__u64 bitmap;
};

#define EXMAP_IOCTL_INFO	_IOWR('k', 16, struct exmap_info)
#define EXMAP_IOCTL_COUNTERS	_IOWR('k', 17, struct exmap_counters)
#define EXMAP_IOCTL_SCAN	_IOW('k', 18, struct exmap_scan)
#define EXMAP_IOCTL_RESIZE	_IOWR('k', 19, struct exmap_resize)
#define EXMAP_IOCTL_BARRIER	_IOW('k', 20, struct exmap_barrier)
#define EXMAP_IOCTL_TUNE	_IOWR('k', 21, struct exmap_tune)
#define EXMAP_IOCTL_SNAPSHOT	_IOW('k', 22, struct exmap_snapshot_create)
#define EXMAP_IOCTL_SNAPSHOT_INFO	_IOWR('k', 23, struct exmap_snapshot_info)
#define EXMAP_IOCTL_SNAPSHOT_PAGES	_IOW('k', 24, struct exmap_snapshot_pages)
#define EXMAP_IOCTL_SNAPSHOT_DIFF	_IOW('k', 25, struct exmap_snapshot_diff)

#include "exmap_nvme_abi.h"

#endif /* _UAPI_EXMAP_H */
