/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM exmap

#if !defined(_EXMAP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _EXMAP_TRACE_H

#include <linux/tracepoint.h>

#include "exmap.h"

#ifndef _EXMAP_TRACE_FAULT_KIND
#define _EXMAP_TRACE_FAULT_KIND

enum exmap_fault_kind {
	EXMAP_FAULT_KIND_ABSENT,	/* a signal follows */
	EXMAP_FAULT_KIND_ALLOC,
	EXMAP_FAULT_KIND_ZERO,
	EXMAP_FAULT_KIND_COPY_OUT,
};

static inline enum exmap_fault_kind exmap_fault_kind(const struct exmap_region *region, bool write,
						     bool mapped)
{
	if (mapped)
		return EXMAP_FAULT_KIND_COPY_OUT;
	if (region->flags & EXMAP_FAULT_ALLOC)
		return EXMAP_FAULT_KIND_ALLOC;
	if ((region->flags & EXMAP_FAULT_ZERO) && !write)
		return EXMAP_FAULT_KIND_ZERO;
	return EXMAP_FAULT_KIND_ABSENT;
}

#endif

TRACE_DEFINE_ENUM(EXMAP_FLUSH_FREE);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_THRESHOLD);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_RECLAIM);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_BARRIER);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_ZERO_PAGE);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_SCAN);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_NOTIFIER);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_SNAPSHOT);
TRACE_DEFINE_ENUM(EXMAP_FAULT_KIND_ABSENT);
TRACE_DEFINE_ENUM(EXMAP_FAULT_KIND_ALLOC);
TRACE_DEFINE_ENUM(EXMAP_FAULT_KIND_ZERO);
TRACE_DEFINE_ENUM(EXMAP_FAULT_KIND_COPY_OUT);
TRACE_DEFINE_ENUM(EXMAP_OP_READ);
TRACE_DEFINE_ENUM(EXMAP_OP_ALLOC);
TRACE_DEFINE_ENUM(EXMAP_OP_FREE);
TRACE_DEFINE_ENUM(EXMAP_OP_WRITE);
TRACE_DEFINE_ENUM(EXMAP_OP_UNSHARE);

#define show_exmap_opcode(opcode)				\
	__print_symbolic(opcode,				\
			 { EXMAP_OP_READ,	"read" },	\
			 { EXMAP_OP_ALLOC,	"alloc" },	\
			 { EXMAP_OP_FREE,	"free" },	\
			 { EXMAP_OP_WRITE,	"write" },	\
			 { EXMAP_OP_UNSHARE,	"unshare" })

#define show_exmap_flush_reason(reason)					\
	__print_symbolic(reason,					\
			 { EXMAP_FLUSH_FREE,		"free" },	\
			 { EXMAP_FLUSH_THRESHOLD,	"threshold" },	\
			 { EXMAP_FLUSH_RECLAIM,		"reclaim" },	\
			 { EXMAP_FLUSH_BARRIER,		"barrier" },	\
			 { EXMAP_FLUSH_ZERO_PAGE,	"zero_page" },	\
			 { EXMAP_FLUSH_SCAN,		"scan" },	\
			 { EXMAP_FLUSH_NOTIFIER,	"notifier" },	\
			 { EXMAP_FLUSH_SNAPSHOT,	"snapshot" })

#define show_exmap_fault_kind(kind)					\
	__print_symbolic(kind,						\
			 { EXMAP_FAULT_KIND_ABSENT,	"absent" },	\
			 { EXMAP_FAULT_KIND_ALLOC,	"alloc" },	\
			 { EXMAP_FAULT_KIND_ZERO,	"zero" },	\
			 { EXMAP_FAULT_KIND_COPY_OUT,	"copy_out" })

DECLARE_EVENT_CLASS(exmap_op_event,
	TP_PROTO(u32 region, unsigned int interface, unsigned int opcode, unsigned int iovs,
		 long failed),
	TP_ARGS(region, interface, opcode, iovs, failed),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(unsigned int, interface)
		__field(unsigned int, opcode)
		__field(unsigned int, iovs)
		__field(long, failed)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->interface = interface;
		__entry->opcode = opcode;
		__entry->iovs = iovs;
		__entry->failed = failed;
	),
	TP_printk("region=%u interface=%u op=%s iovs=%u failed=%ld", __entry->region,
		  __entry->interface, show_exmap_opcode(__entry->opcode), __entry->iovs,
		  __entry->failed)
);

/* A call begins; failed is 0. */
DEFINE_EVENT(exmap_op_event, exmap_op_begin,
	TP_PROTO(u32 region, unsigned int interface, unsigned int opcode, unsigned int iovs,
		 long failed),
	TP_ARGS(region, interface, opcode, iovs, failed)
);

/* The same call ends, in the same thread; failed is what it returns. */
DEFINE_EVENT(exmap_op_event, exmap_op_end,
	TP_PROTO(u32 region, unsigned int interface, unsigned int opcode, unsigned int iovs,
		 long failed),
	TP_ARGS(region, interface, opcode, iovs, failed)
);

/* A TLB flush has ended; pages is 0 for a full one, ipis the other CPUs that took part. */
TRACE_EVENT(exmap_flush,
	TP_PROTO(u32 region, unsigned int reason, unsigned int pages, unsigned int ipis, u64 ns),
	TP_ARGS(region, reason, pages, ipis, ns),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(unsigned int, reason)
		__field(unsigned int, pages)
		__field(unsigned int, ipis)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->reason = reason;
		__entry->pages = pages;
		__entry->ipis = ipis;
		__entry->ns = ns;
	),
	TP_printk("region=%u reason=%s pages=%u ipis=%u ns=%llu", __entry->region,
		  show_exmap_flush_reason(__entry->reason), __entry->pages, __entry->ipis,
		  __entry->ns)
);

/* An interface has retired entries of its quarantine, and some are left. */
TRACE_EVENT_CONDITION(exmap_drain,
	TP_PROTO(u32 region, u32 retired, u32 left),
	TP_ARGS(region, retired, left),
	TP_CONDITION(retired),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u32, retired)
		__field(u32, left)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->retired = retired;
		__entry->left = left;
	),
	TP_printk("region=%u retired=%u left=%u", __entry->region, __entry->retired,
		  __entry->left)
);

/* One for each page fault in a region; ret is 1 if it mapped or copied something. */
TRACE_EVENT(exmap_fault,
	TP_PROTO(const struct exmap_region *region, u64 page, bool write, bool mapped, int ret),
	TP_ARGS(region, page, write, mapped, ret),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u64, page)
		__field(unsigned int, kind)
		__field(bool, write)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->region = region->id;
		__entry->page = page;
		__entry->kind = exmap_fault_kind(region, write, mapped);
		__entry->write = write;
		__entry->ret = ret;
	),
	TP_printk("region=%u page=%llu kind=%s %s ret=%d", __entry->region, __entry->page,
		  show_exmap_fault_kind(__entry->kind), __entry->write ? "write" : "read",
		  __entry->ret)
);

/* One for each snapshot taken; flush included. */
TRACE_EVENT(exmap_freeze,
	TP_PROTO(u32 region, u32 snapshot, u64 start, u64 pages, u64 ns),
	TP_ARGS(region, snapshot, start, pages, ns),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u32, snapshot)
		__field(u64, start)
		__field(u64, pages)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->snapshot = snapshot;
		__entry->start = start;
		__entry->pages = pages;
		__entry->ns = ns;
	),
	TP_printk("region=%u snapshot=%u start=%llu pages=%llu ns=%llu", __entry->region,
		  __entry->snapshot, __entry->start, __entry->pages, __entry->ns)
);

DECLARE_EVENT_CLASS(exmap_chunk_event,
	TP_PROTO(u32 region, u64 chunk),
	TP_ARGS(region, chunk),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u64, chunk)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->chunk = chunk;
	),
	TP_printk("region=%u chunk=%llu", __entry->region, __entry->chunk)
);

/* A parked chunk is rebuilt at its first touch: write-protected and plugged in again. */
DEFINE_EVENT(exmap_chunk_event, exmap_attach,
	TP_PROTO(u32 region, u64 chunk),
	TP_ARGS(region, chunk)
);

/* A chunk is taken out of the views. */
DEFINE_EVENT(exmap_chunk_event, exmap_unview,
	TP_PROTO(u32 region, u64 chunk),
	TP_ARGS(region, chunk)
);

DECLARE_EVENT_CLASS(exmap_snapshot_page_event,
	TP_PROTO(const struct exmap_snapshot *snap, u64 page),
	TP_ARGS(snap, page),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u32, snapshot)
		__field(u64, page)
	),
	TP_fast_assign(
		__entry->region = snap->region->id;
		__entry->snapshot = snap->id;
		__entry->page = page;
	),
	TP_printk("region=%u snapshot=%u page=%llu", __entry->region, __entry->snapshot,
		  __entry->page)
);

/* The old content of a page is copied to a frame of the snapshot's. */
DEFINE_EVENT(exmap_snapshot_page_event, exmap_copy_out,
	TP_PROTO(const struct exmap_snapshot *snap, u64 page),
	TP_ARGS(snap, page)
);

/* FREE leaves the frame of a page to the snapshot. */
DEFINE_EVENT(exmap_snapshot_page_event, exmap_keep,
	TP_PROTO(const struct exmap_snapshot *snap, u64 page),
	TP_ARGS(snap, page)
);

DECLARE_EVENT_CLASS(exmap_snapshot_event,
	TP_PROTO(const struct exmap_snapshot *snap),
	TP_ARGS(snap),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u32, snapshot)
	),
	TP_fast_assign(
		__entry->region = snap->region->id;
		__entry->snapshot = snap->id;
	),
	TP_printk("region=%u snapshot=%u", __entry->region, __entry->snapshot)
);

/* There was no frame, or no memory, for what the snapshot would have had to keep. */
DEFINE_EVENT(exmap_snapshot_event, exmap_snapshot_broken,
	TP_PROTO(const struct exmap_snapshot *snap),
	TP_ARGS(snap)
);

DEFINE_EVENT(exmap_snapshot_event, exmap_snapshot_gone,
	TP_PROTO(const struct exmap_snapshot *snap),
	TP_ARGS(snap)
);

/* The kernel puts a command into a queue that it drives; the doorbell comes later. */
TRACE_EVENT(exmap_nvme_submit,
	TP_PROTO(u32 controller, u16 qid, u16 cid, u8 opcode, u64 pos, u64 bytes),
	TP_ARGS(controller, qid, cid, opcode, pos, bytes),
	TP_STRUCT__entry(
		__field(u32, controller)
		__field(u16, qid)
		__field(u16, cid)
		__field(u8, opcode)
		__field(u64, pos)
		__field(u64, bytes)
	),
	TP_fast_assign(
		__entry->controller = controller;
		__entry->qid = qid;
		__entry->cid = cid;
		__entry->opcode = opcode;
		__entry->pos = pos;
		__entry->bytes = bytes;
	),
	TP_printk("controller=%#x qid=%u cid=%u opcode=%#x pos=%llu bytes=%llu",
		  __entry->controller, __entry->qid, __entry->cid, __entry->opcode, __entry->pos,
		  __entry->bytes)
);

/* It finds the command's completion; left is what is still in flight in that queue. */
TRACE_EVENT(exmap_nvme_complete,
	TP_PROTO(u32 controller, u16 qid, u16 cid, u16 status, unsigned int left),
	TP_ARGS(controller, qid, cid, status, left),
	TP_STRUCT__entry(
		__field(u32, controller)
		__field(u16, qid)
		__field(u16, cid)
		__field(u16, status)
		__field(unsigned int, left)
	),
	TP_fast_assign(
		__entry->controller = controller;
		__entry->qid = qid;
		__entry->cid = cid;
		__entry->status = status;
		__entry->left = left;
	),
	TP_printk("controller=%#x qid=%u cid=%u status=%#x left=%u", __entry->controller,
		  __entry->qid, __entry->cid, __entry->status, __entry->left)
);

/* A controller is reset, and all its queues are dead; error is what their users are told. */
TRACE_EVENT(exmap_nvme_reset,
	TP_PROTO(u32 controller, int error),
	TP_ARGS(controller, error),
	TP_STRUCT__entry(
		__field(u32, controller)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->controller = controller;
		__entry->error = error;
	),
	TP_printk("controller=%#x error=%d", __entry->controller, __entry->error)
);

#endif /* _EXMAP_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
