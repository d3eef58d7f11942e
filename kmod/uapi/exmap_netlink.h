/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * exmap: the generic netlink family, for administrators and their tools.
 *
 * WHO MAY ASK
 *
 * What is told of a region is told to those who may open /dev/exmap for reading
 * as it was when the region was opened: by its owner, group and mode, not by
 * access control lists.  What counts is who opened the netlink socket.
 * CAP_SYS_ADMIN reads everything; SET commands (EPERM) and the multicast group
 * need it.  Dumps leave out what the caller may not read, and give EACCES if
 * that is all there is.  The family lives in the initial network namespace.
 *
 * REQUESTS
 *
 * GET commands answer about one object, named by EXMAP_GENL_A_REGION and, for
 * interfaces and snapshots, EXMAP_GENL_A_INTERFACE or EXMAP_GENL_A_SNAPSHOT; or,
 * with NLM_F_DUMP, about all, or all of the region that is named.  Answers have
 * the command of the request.  Each command has its own set of attributes;
 * others, and wrong lengths, give EINVAL, values out of range ERANGE, objects
 * that do not exist ENOENT.
 *
 * An object that exists while a dump runs is in it exactly once, whatever comes
 * and goes meanwhile.  If something did, NLM_F_DUMP_INTR says so.
 *
 *	REGION_GET	REGION, PID, SETUP_FLAGS, PAGES, BACKING_PAGES,
 *			INTERFACES, SNAPSHOTS, FLUSH_THRESHOLD,
 *			QUARANTINE_LIMIT, DEAD, and the sums of all counters
 *			since SETUP, each interface's read under its lock
 *	INTERFACE_GET	REGION, INTERFACE, FREE, RING, and its counters; number
 *			EXMAP_GENL_INTERFACE_CONTROL is the module's own
 *	POOL_GET	REGION, POOL_PAGES, FREE, MAPPED, QUARANTINE, BUSY,
 *			SNAPSHOT_FRAMES, PINNED, LOW: where all frames are, at one
 *			moment, for which all interfaces are held; see struct
 *			exmap_counters.  A region before SETUP has no pool (ENOENT,
 *			not in dumps), nor has it interfaces.
 *	SNAPSHOT_GET	REGION, SNAPSHOT, START, COUNT, RESERVE, FRAMES, BROKEN;
 *			see struct exmap_snapshot_info
 *	SETTINGS_GET	EVENT_INTERVAL
 *	REGION_SET	REGION, and FLUSH_THRESHOLD, POOL_PAGES, or both.  Does
 *			either all or nothing.  POOL_PAGES is RESIZE, with its
 *			errors; memory is charged to the owner of the region, and
 *			RLIMIT_MEMLOCK is the caller's.  FLUSH_THRESHOLD is TUNE.
 *	SETTINGS_SET	EVENT_INTERVAL
 *
 * EVENTS
 *
 * Members of the multicast group receive the other commands.  They are sent for
 * information: under shortage of memory, or if the reader's buffer is full
 * (ENOBUFS), events are lost.
 *
 *	REGION_CREATED	by SETUP: REGION, PID, INTERFACES, POOL_PAGES
 *	REGION_GONE	after its last descriptor, mapping and snapshot: REGION, PID
 *	POOL_LOW	less than a sixteenth of the pool is free or in quarantine:
 *			REGION, PID, POOL_PAGES, AVAILABLE (free or in quarantine)
 *	POOL_RECOVERED	an eighth is again: the same
 *	SNAPSHOT_CREATED, SNAPSHOT_BROKEN, SNAPSHOT_GONE
 *			REGION, PID, SNAPSHOT, START, COUNT
 *	CONTROLLER_LOST	an NVMe controller has failed, or was reset, given back or
 *			unplugged, and its queues are dead: CONTROLLER, ERROR (EIO
 *			or ENODEV), and of the region that owned it REGION, PID
 *	CONTROLLER_BACK	one that was lost works again, since it was bound to
 *			exmap-nvme again, or started for who uses it next:
 *			CONTROLLER
 *	QUEUE_ERROR	of a queue that the kernel drives commands have failed:
 *			CONTROLLER, QUEUE, COMMANDS (how many), STATUS of the last
 *			that the controller has completed, if it has; or a queue is
 *			dead, for its owner's region REGION, PID: CONTROLLER, QUEUE,
 *			ERROR (as above).  Or both.  What becomes of the commands of
 *			an owner he sees, and not the kernel.
 *
 * LOST and BACK follow each other for each address, while the module is loaded.
 * A reset that the owner has asked for is told as any other.  Errors of a queue
 * are added up, and told once in EVENT_INTERVAL at most.
 *
 * A pool is looked at when an interface fetches frames from it and few are left,
 * then until it has recovered, once in EVENT_INTERVAL at most; so one region
 * sends one pool event in that time, and a shorter shortage may go unnoticed.
 */
#ifndef _UAPI_EXMAP_NETLINK_H
#define _UAPI_EXMAP_NETLINK_H

#define EXMAP_GENL_NAME			"exmap"
#define EXMAP_GENL_VERSION		1
#define EXMAP_GENL_GROUP_EVENTS		"events"

#define EXMAP_GENL_INTERFACE_CONTROL	0xffffffffu

/* milliseconds */
#define EXMAP_GENL_EVENT_INTERVAL	1000
#define EXMAP_GENL_EVENT_INTERVAL_MIN	10
#define EXMAP_GENL_EVENT_INTERVAL_MAX	3600000

enum exmap_genl_cmd {
	EXMAP_GENL_CMD_UNSPEC		= 0,
	EXMAP_GENL_CMD_REGION_GET	= 1,
	EXMAP_GENL_CMD_INTERFACE_GET	= 2,
	EXMAP_GENL_CMD_POOL_GET		= 3,
	EXMAP_GENL_CMD_SNAPSHOT_GET	= 4,
	EXMAP_GENL_CMD_SETTINGS_GET	= 5,
	EXMAP_GENL_CMD_REGION_SET	= 6,
	EXMAP_GENL_CMD_SETTINGS_SET	= 7,
	EXMAP_GENL_CMD_REGION_CREATED	= 8,
	EXMAP_GENL_CMD_REGION_GONE	= 9,
	EXMAP_GENL_CMD_POOL_LOW		= 10,
	EXMAP_GENL_CMD_POOL_RECOVERED	= 11,
	EXMAP_GENL_CMD_SNAPSHOT_CREATED	= 12,
	EXMAP_GENL_CMD_SNAPSHOT_BROKEN	= 13,
	EXMAP_GENL_CMD_SNAPSHOT_GONE	= 14,
	EXMAP_GENL_CMD_CONTROLLER_LOST	= 15,
	EXMAP_GENL_CMD_CONTROLLER_BACK	= 16,
	EXMAP_GENL_CMD_QUEUE_ERROR	= 17,
	/* 18 to 23 are reserved for NVMe controllers and queue pairs */
};

enum exmap_genl_attr {
	EXMAP_GENL_A_UNSPEC		= 0,
	EXMAP_GENL_A_PAD		= 1,
	EXMAP_GENL_A_REGION		= 2,	/* u32 */
	EXMAP_GENL_A_INTERFACE		= 3,	/* u32 */
	EXMAP_GENL_A_SNAPSHOT		= 4,	/* u32 */
	EXMAP_GENL_A_PID		= 5,	/* u32: the opener's, in the initial namespace */
	EXMAP_GENL_A_SETUP_FLAGS	= 6,	/* u64 */
	EXMAP_GENL_A_PAGES		= 7,	/* u64 */
	EXMAP_GENL_A_BACKING_PAGES	= 8,	/* u64 */
	EXMAP_GENL_A_INTERFACES		= 9,	/* u32 */
	EXMAP_GENL_A_SNAPSHOTS		= 10,	/* u32 */
	EXMAP_GENL_A_FLUSH_THRESHOLD	= 11,	/* u32 */
	EXMAP_GENL_A_QUARANTINE_LIMIT	= 12,	/* u32: the threshold in force */
	EXMAP_GENL_A_DEAD		= 13,	/* flag */
	EXMAP_GENL_A_POOL_PAGES		= 14,	/* u64 */
	EXMAP_GENL_A_FREE		= 15,	/* u64 */
	EXMAP_GENL_A_MAPPED		= 16,	/* u64 */
	EXMAP_GENL_A_QUARANTINE		= 17,	/* u64 */
	EXMAP_GENL_A_BUSY		= 18,	/* u64 */
	EXMAP_GENL_A_SNAPSHOT_FRAMES	= 19,	/* u64 */
	EXMAP_GENL_A_PINNED		= 20,	/* u64 */
	EXMAP_GENL_A_LOW		= 21,	/* flag: POOL_LOW, and not recovered since */
	EXMAP_GENL_A_AVAILABLE		= 22,	/* u64 */
	EXMAP_GENL_A_RING		= 23,	/* u32: entries of its quarantine's ring */
	EXMAP_GENL_A_ALLOCS		= 24,	/* u64, as the following */
	EXMAP_GENL_A_FREES		= 25,
	EXMAP_GENL_A_READS		= 26,
	EXMAP_GENL_A_WRITES		= 27,
	EXMAP_GENL_A_FAULTS		= 28,
	EXMAP_GENL_A_RESCUES		= 29,
	EXMAP_GENL_A_FLUSHES		= 30,
	EXMAP_GENL_A_FLUSHES_RANGED	= 31,
	EXMAP_GENL_A_FLUSH_IPIS		= 32,
	EXMAP_GENL_A_COPIES		= 33,
	EXMAP_GENL_A_START		= 34,	/* u64 */
	EXMAP_GENL_A_COUNT		= 35,	/* u64 */
	EXMAP_GENL_A_RESERVE		= 36,	/* u64 */
	EXMAP_GENL_A_FRAMES		= 37,	/* u64 */
	EXMAP_GENL_A_BROKEN		= 38,	/* flag */
	EXMAP_GENL_A_EVENT_INTERVAL	= 39,	/* u32, milliseconds */
	EXMAP_GENL_A_CONTROLLER		= 40,	/* u32: segment << 16 | bus << 8 | devfn */
	EXMAP_GENL_A_ERROR		= 41,	/* u32: errno */
	EXMAP_GENL_A_QUEUE		= 42,	/* u32: its id at the controller */
	EXMAP_GENL_A_COMMANDS		= 43,	/* u32 */
	EXMAP_GENL_A_STATUS		= 44,	/* u32: status code type << 8 | status code */
	/* 45 to 63 are reserved for NVMe controllers and queue pairs */
};

#endif /* _UAPI_EXMAP_NETLINK_H */
