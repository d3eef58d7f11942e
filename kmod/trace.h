/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM exmap

#if !defined(_EXMAP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _EXMAP_TRACE_H

#include <linux/tracepoint.h>

#include "exmap.h"

TRACE_DEFINE_ENUM(EXMAP_FLUSH_FREE);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_THRESHOLD);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_RECLAIM);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_BARRIER);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_ZERO_PAGE);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_SCAN);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_NOTIFIER);
TRACE_DEFINE_ENUM(EXMAP_FLUSH_SNAPSHOT);

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

/* One for each call, when it ends. */
TRACE_EVENT(exmap_op,
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

/* One for each TLB flush; pages is 0 for a full one. */
TRACE_EVENT(exmap_flush,
	TP_PROTO(u32 region, unsigned int reason, unsigned int pages, unsigned int ipis),
	TP_ARGS(region, reason, pages, ipis),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(unsigned int, reason)
		__field(unsigned int, pages)
		__field(unsigned int, ipis)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->reason = reason;
		__entry->pages = pages;
		__entry->ipis = ipis;
	),
	TP_printk("region=%u reason=%s pages=%u ipis=%u", __entry->region,
		  show_exmap_flush_reason(__entry->reason), __entry->pages, __entry->ipis)
);

/* One for each page fault in a region; ret is 1 if it mapped something. */
TRACE_EVENT(exmap_fault,
	TP_PROTO(u32 region, u64 page, bool write, int ret),
	TP_ARGS(region, page, write, ret),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u64, page)
		__field(bool, write)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->page = page;
		__entry->write = write;
		__entry->ret = ret;
	),
	TP_printk("region=%u page=%llu %s ret=%d", __entry->region, __entry->page,
		  __entry->write ? "write" : "read", __entry->ret)
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

/* A parked chunk comes back. */
DEFINE_EVENT(exmap_chunk_event, exmap_attach,
	TP_PROTO(u32 region, u64 chunk),
	TP_ARGS(region, chunk)
);

/* A chunk is taken out of the views. */
DEFINE_EVENT(exmap_chunk_event, exmap_unview,
	TP_PROTO(u32 region, u64 chunk),
	TP_ARGS(region, chunk)
);

TRACE_EVENT(exmap_snapshot_broken,
	TP_PROTO(u32 region, u32 snapshot),
	TP_ARGS(region, snapshot),
	TP_STRUCT__entry(
		__field(u32, region)
		__field(u32, snapshot)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->snapshot = snapshot;
	),
	TP_printk("region=%u snapshot=%u", __entry->region, __entry->snapshot)
);

#endif /* _EXMAP_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
