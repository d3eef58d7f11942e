/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * exmap: NVMe controllers, owned by a region or driven by the kernel.
 *
 * This file is the part of the ABI of /dev/exmap, and of its specification, that
 * speaks of controllers; exmap.h, where the words are explained, includes it.
 *
 * NVME QUEUES
 *
 * A controller that the administrator has bound to the PCI driver `exmap-nvme` (by
 * driver_override; nothing else binds one) can be driven by a region's owner
 * without system calls.  EXMAP_IOCTL_NVME_OPEN returns the descriptor of a new
 * queue pair, whose submission queue, completion queue, doorbells and memory for
 * PRP lists are mapped at EXMAP_NVME_OFF_*.  Entries and commands are those of the
 * NVM Express specifications; memory pages are 4096 bytes.  Phase tags are polled, and
 * start as 0.  With EXMAP_NVME_INTERRUPTS the queue has an MSI-X vector (there are 16
 * for a controller's queues), each interrupt of which adds 1 to an eventfd: empty that
 * first, then look for completions, and tell the controller of those that were taken
 * before waiting again.  A queue that dies signals it, too.  The controller sees
 * frame f of the pool at `iova_base + f * 4096` (NVME_INFO), also of frames that
 * RESIZE adds, and nothing else of the machine's memory: an IOMMU is required.  A
 * command that names an address outside of the pool and of the queue's PRP memory
 * does not get there; the controller may call it a success all the same.
 *
 * A controller that is emulated may offer shadow doorbells (NVM Express Base 2.0, 5.8):
 * with EXMAP_NVME_SHADOW the values of doorbells are stored into memory, at
 * EXMAP_NVME_OFF_SHADOW, and the doorbell itself is rung only if the controller's
 * event index, at EXMAP_NVME_OFF_EVENT_IDX (for reading only), lies from the old value
 * on and before the new one, modulo 2^16.  Both are a page, in which sq_doorbell and
 * cq_doorbell of NVME_INFO are the offsets of the queue's.  The controller looks at
 * the shadows of all its queues or of none, so all queues of a controller have the
 * flag or none has.  The owner sees, and can spoil, the shadows of all of them, the
 * admin queue's included, as he can ring all doorbells.  The controller is reset when
 * the last queue goes.
 *
 * One controller is one trust domain, and belongs to one region at a time: queues
 * for another one are refused with EBUSY.  Its owner can read and write every
 * block of every namespace, and every frame of the pool at any time, those of
 * snapshots included; READ and FREE know nothing of commands in flight.  Whoever
 * may open /dev/exmap may own a controller that is bound.  The owner can also
 * spoil the controller's admin queue; what comes of it is a reset.
 *
 * A frame returns to the kernel only when no queue can write to it: on close of
 * the last descriptor and mapping of a queue, and when the address space ends,
 * the queue is deleted; if that fails the controller is reset; and frames are
 * taken out of its reach before they are freed.  A queue holds the region as an
 * open descriptor does.  If the region dies by munmap its queues go on until a
 * snapshot of it ends, which frees frames, and deletes them first.
 *
 * An error of the controller does not show by itself: commands do not complete.
 * Whoever has waited too long asks NVME_INFO, whose `error` says that the queue is
 * dead: EIO after a fatal error or a reset (NVME_RESET does one), ENODEV when the
 * controller was unbound or unplugged, or the queue deleted.  Doorbells of a dead
 * queue, and their shadows, are ordinary memory that nobody reads.  After EIO a new queue can be
 * opened.
 *
 * NVME BACKINGS
 *
 * The other way to use such a controller is to leave its queues to the kernel.
 * EXMAP_IOCTL_NVME_BACKING returns a descriptor of the first namespace that any
 * number of processes may have, unless one asked for EXMAP_NVME_EXCLUSIVE.  No
 * region can own the controller meanwhile, nor is there such a descriptor while
 * one does: EBUSY.
 *
 * As the backing of a region (SETUP) it serves READ and WRITE: a vector becomes one
 * command for each run of consecutive pages, up to the controller's limit, and one
 * doorbell; the calling thread polls for the completions, between short sleeps if
 * they take longer.  The pools of up to 16 regions are mapped for a controller
 * (else SETUP gives ENOSPC), each in a sixteenth of its addresses.  What one region
 * can reach of the memory of others is what the kernel lets it: nothing.  The
 * namespace is shared by all.
 *
 * pread, pwrite and their kin work on the descriptor as on a block device that was
 * opened with O_DIRECT: offset, length, and length of each segment are multiples of
 * the block size (else EINVAL), buffers may lie anywhere.  Mapped pages of a region
 * of the process that has this controller as its backing are transferred in place,
 * other memory is copied.  Writing beyond the end gives ENOSPC.  fsync flushes the
 * controller's cache; lseek tells the size, NVME_INFO the geometry.
 *
 * After a failure of the controller, or 30 seconds without a completion, it is
 * reset, and what was in flight gives EIO; the next call starts it again.  Once it is
 * given back or unplugged everything gives ENODEV.
 *
 * WITHOUT INTERRUPT REMAPPING
 *
 * An IOMMU passes writes to the address of the interrupt controllers (0xfee00000) on, and
 * only a table of interrupts (interrupt remapping) says which of them a device may
 * raise.  Where there is none NVME_OPEN gives EPERM, unless the module was loaded with
 * unsafe_interrupts=1: an owner could have any data written there, which is any
 * interrupt.  NVME_BACKING needs none, since the kernel writes the commands.
 *
 * WITHOUT AN IOMMU
 *
 * Without an IOMMU all this is refused, unless the module was loaded with
 * unsafe_noiommu=1, which taints the kernel when a controller is bound, and the
 * caller of NVME_OPEN has CAP_SYS_RAWIO: then the owner can have all memory read and written.
 * Frames are not contiguous then; NVME_ADDRESSES tells where they are.  RESIZE to
 * fewer pages gives EBUSY.
 */
#ifndef _UAPI_EXMAP_NVME_ABI_H
#define _UAPI_EXMAP_NVME_ABI_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define EXMAP_NVME_MAX_DEPTH		4096
#define EXMAP_NVME_MAX_PRP_PAGES	1024

/* mmap offsets of a queue; the completion queue is mapped for reading only */
#define EXMAP_NVME_OFF_SQ		0x00000000ULL
#define EXMAP_NVME_OFF_CQ		0x10000000ULL
#define EXMAP_NVME_OFF_DOORBELLS	0x20000000ULL
#define EXMAP_NVME_OFF_PRP		0x30000000ULL
#define EXMAP_NVME_OFF_SHADOW		0x40000000ULL
#define EXMAP_NVME_OFF_EVENT_IDX	0x50000000ULL

/* exmap_nvme_open.flags */
#define EXMAP_NVME_INTERRUPTS	1	/* signal @eventfd */
#define EXMAP_NVME_SHADOW	2	/* have shadow doorbells */

/**
 * struct exmap_nvme_open - a queue pair of a controller for this region
 * @flags: EXMAP_NVME_INTERRUPTS, EXMAP_NVME_SHADOW
 * @segment: PCI address of the controller
 * @bus: the same
 * @device: the same
 * @function: the same
 * @depth: entries of the submission and of the completion queue, 2 to
 *	EXMAP_NVME_MAX_DEPTH or the controller's limit
 * @prp_pages: pages of memory for PRP lists, 0 to EXMAP_NVME_MAX_PRP_PAGES
 * @eventfd: with EXMAP_NVME_INTERRUPTS, what each interrupt adds 1 to; else 0
 *
 * Returns a descriptor (close-on-exec); see NVME QUEUES.  The queue's memory is
 * charged like the pool's.  Errors: ENODEV if no such controller is bound to
 * exmap-nvme; EBUSY if it belongs to another region; EINVAL, also if its other
 * queues differ in EXMAP_NVME_SHADOW; ENOSPC if it has no queue left, no interrupt
 * vector, or not as many addresses as the pool has frames; EOPNOTSUPP for interrupts
 * without MSI-X, or shadow doorbells that are not offered; ENOMEM; EIO, ETIMEDOUT if it
 * does not work; EPERM, also without CAP_SYS_RAWIO if there is no IOMMU, and where
 * interrupts are not remapped; EPROTO if the region is dead; EBADF; EMFILE; EINTR.
 */
struct exmap_nvme_open {
	__u64 flags;
	__u32 segment;
	__u8 bus;
	__u8 device;
	__u8 function;
	__u8 reserved8;
	__u32 depth;
	__u32 prp_pages;
	__s32 eventfd;
	__u32 reserved32;
	__u64 reserved[3];
};

/* exmap_nvme_info.features */
#define EXMAP_NVME_IOMMU		1	/* @iova_base holds */
#define EXMAP_NVME_WRITE_CACHE		2	/* volatile: durable after a Flush */
#define EXMAP_NVME_SHADOW_OFFERED	4	/* EXMAP_NVME_SHADOW can be had */

/**
 * struct exmap_nvme_info - what a queue is; on its descriptor
 * @flags: in: 0
 * @features: EXMAP_NVME_*
 * @error: 0, or the errno of what has become of the queue
 * @qid: its number at the controller
 * @depth: entries of each queue
 * @nsid: the namespace that the rest speaks of, the first active one
 * @lba_size: bytes in a block, 512 or 4096
 * @max_transfer: bytes that a command can transfer, with one page of PRP list
 * @namespace_lbas: blocks
 * @iova_base: where the controller sees frame 0
 * @prp_base: where it sees the PRP memory
 * @prp_pages: length of that
 * @doorbell_stride: bytes between doorbells
 * @sq_doorbell: offset of the submission queue's doorbell in the mapping
 * @cq_doorbell: the completion queue's
 * @doorbell_bytes: length of that mapping
 * @oncs: optional NVM commands, as in Identify Controller
 *
 * Also looks whether the controller has failed.
 */
struct exmap_nvme_info {
	__u64 flags;
	__u64 features;
	__u32 error;
	__u32 qid;
	__u32 depth;
	__u32 nsid;
	__u32 lba_size;
	__u32 max_transfer;
	__u64 namespace_lbas;
	__u64 iova_base;
	__u64 prp_base;
	__u32 prp_pages;
	__u32 doorbell_stride;
	__u32 sq_doorbell;
	__u32 cq_doorbell;
	__u32 doorbell_bytes;
	__u32 oncs;
	__u64 reserved[4];
};

#define EXMAP_NVME_EXCLUSIVE	1	/* exmap_nvme_backing.flags: be the only one */

/**
 * struct exmap_nvme_backing - a descriptor of a controller that the kernel drives
 * @flags: 0 or EXMAP_NVME_EXCLUSIVE
 * @segment: PCI address of the controller
 * @bus: the same
 * @device: the same
 * @function: the same
 *
 * Works on any open descriptor of /dev/exmap, at any time, and returns another one
 * (close-on-exec); see NVME BACKINGS.  Errors: ENODEV if no such controller is bound
 * to exmap-nvme; EBUSY if a region owns it, or with EXMAP_NVME_EXCLUSIVE, now or
 * earlier, if there is another descriptor; EINVAL; ENOMEM; EMFILE.
 */
struct exmap_nvme_backing {
	__u64 flags;
	__u32 segment;
	__u8 bus;
	__u8 device;
	__u8 function;
	__u8 reserved8;
	__u64 reserved[4];
};

/**
 * struct exmap_nvme_reset - reset the controller; on the descriptor of a queue
 * @flags: 0
 *
 * On return all its queues are dead, and no command is in flight.  EIO or ENODEV
 * if this queue was dead already.
 */
struct exmap_nvme_reset {
	__u64 flags;
	__u64 reserved[3];
};

/**
 * struct exmap_nvme_addresses - where the controller sees frames; on a queue
 * @flags: 0
 * @start: first frame
 * @count: how many
 * @addresses: address of @count __u64; 0 for a frame that does not exist
 */
struct exmap_nvme_addresses {
	__u64 flags;
	__u64 start;
	__u64 count;
	__u64 addresses;
};

#define EXMAP_IOCTL_NVME_OPEN		_IOW('k', 32, struct exmap_nvme_open)
#define EXMAP_IOCTL_NVME_INFO		_IOWR('k', 33, struct exmap_nvme_info)
#define EXMAP_IOCTL_NVME_RESET		_IOW('k', 34, struct exmap_nvme_reset)
#define EXMAP_IOCTL_NVME_ADDRESSES	_IOW('k', 35, struct exmap_nvme_addresses)
#define EXMAP_IOCTL_NVME_BACKING	_IOW('k', 36, struct exmap_nvme_backing)

#endif /* _UAPI_EXMAP_NVME_ABI_H */
