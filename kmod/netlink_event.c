// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - events, told to a multicast group of the netlink family.
 */
#include "netlink.h"

/* an event is not worth much */
#define EVENT_GFP	(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN)

#define LOG_EVENTS 256

/**
 * struct exmap_event - an event that was told, or would have been had anyone listened
 * @number: counts them; 0: none yet, or one that is being written
 * @time: nanoseconds since boot
 * @pid: of the owner of the region
 * @region: its id, or 0
 * @snapshot: its id, or 0
 * @controller: its address, or 0; see exmap_genl_attr
 * @queue: its id, or 0
 * @cmd: EXMAP_GENL_CMD_*
 */
struct exmap_event {
	u64 number;
	u64 time;
	pid_t pid;
	u32 region;
	u32 snapshot;
	u32 controller;
	u32 queue;
	enum exmap_genl_cmd cmd;
};

/*
 * The last events, for who reads a dump; event n is at n % LOG_EVENTS.  Nothing else
 * reads them, which the compiler must not take for a reason not to write them.
 */
static struct exmap_event exmap_events[LOG_EVENTS] __used;
static atomic64_t exmap_events_seq;

unsigned int exmap_netlink_event_interval = EXMAP_GENL_EVENT_INTERVAL;

const struct genl_multicast_group exmap_netlink_groups[] = {
	[EXMAP_NETLINK_EVENTS] = {
		.name = EXMAP_GENL_GROUP_EVENTS, .flags = GENL_MCAST_CAP_SYS_ADMIN,
	},
};

/* How many jiffies lack to an event interval since @last. */
unsigned long exmap_netlink_wait(unsigned long last)
{
	unsigned long interval = msecs_to_jiffies(READ_ONCE(exmap_netlink_event_interval));
	unsigned long since = jiffies - last;

	return since < interval ? interval - since : 0;
}

static struct exmap_event about(u8 cmd, const struct exmap_region *region)
{
	return (struct exmap_event){
		.cmd = cmd,
		.region = region ? region->id : 0,
		.pid = region ? region->pid : 0,
	};
}

static void log_event(const struct exmap_event *event)
{
	u64 number = atomic64_inc_return(&exmap_events_seq);
	struct exmap_event *entry = &exmap_events[number % LOG_EVENTS];

	WRITE_ONCE(entry->number, 0);
	entry->time = ktime_get_ns();
	entry->pid = event->pid;
	entry->region = event->region;
	entry->snapshot = event->snapshot;
	entry->controller = event->controller;
	entry->queue = event->queue;
	entry->cmd = event->cmd;
	/* so that a reader can tell an entry that is whole */
	smp_store_release(&entry->number, number);
}

/* Whom it is about. */
static int put_subject(struct sk_buff *skb, const struct exmap_event *event)
{
	if (event->region && (nla_put_u32(skb, EXMAP_GENL_A_REGION, event->region) ||
			      nla_put_u32(skb, EXMAP_GENL_A_PID, event->pid)))
		return -EMSGSIZE;
	if (event->controller && nla_put_u32(skb, EXMAP_GENL_A_CONTROLLER, event->controller))
		return -EMSGSIZE;
	return event->queue ? nla_put_u32(skb, EXMAP_GENL_A_QUEUE, event->queue) : 0;
}

/* Log an event; its message, or NULL if nobody waits for one, or there is no memory for it. */
static struct sk_buff *begin_event(const struct exmap_event *event, void **head)
{
	struct sk_buff *skb;

	log_event(event);
	if (!genl_has_listeners(&exmap_netlink_family, &init_net, EXMAP_NETLINK_EVENTS))
		return NULL;
	skb = genlmsg_new(NLMSG_DEFAULT_SIZE, EVENT_GFP);
	if (!skb)
		return NULL;
	*head = genlmsg_put(skb, 0, 0, &exmap_netlink_family, 0, event->cmd);
	if (!put_subject(skb, event))
		return skb;
	nlmsg_free(skb);
	return NULL;
}

static void send_event(struct sk_buff *skb, void *head)
{
	genlmsg_end(skb, head);
	genlmsg_multicast(&exmap_netlink_family, skb, 0, EXMAP_NETLINK_EVENTS, EVENT_GFP);
}

void exmap_netlink_region_event(const struct exmap_region *region, u8 cmd)
{
	struct exmap_event event = about(cmd, region);
	void *head;
	struct sk_buff *skb = begin_event(&event, &head);

	if (!skb)
		return;
	if (cmd == EXMAP_GENL_CMD_REGION_CREATED &&
	    (nla_put_u32(skb, EXMAP_GENL_A_INTERFACES, region->nr_interfaces) ||
	     exmap_netlink_put_u64(skb, EXMAP_GENL_A_POOL_PAGES, READ_ONCE(region->pool.total))))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

void exmap_netlink_snapshot_event(const struct exmap_snapshot *snap, u8 cmd)
{
	struct exmap_event event = about(cmd, snap->region);
	struct sk_buff *skb;
	void *head;

	event.snapshot = snap->id;
	skb = begin_event(&event, &head);
	if (!skb)
		return;
	if (exmap_netlink_put_range(skb, snap))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

static int put_nonzero(struct sk_buff *skb, int attr, u32 value)
{
	return value ? nla_put_u32(skb, attr, value) : 0;
}

/* @owner: the region whose queues have died with it, or NULL; @error: 0, or negative */
void exmap_netlink_controller_event(u8 cmd, u32 controller, int error,
				    const struct exmap_region *owner)
{
	struct exmap_event event = about(cmd, owner);
	struct sk_buff *skb;
	void *head;

	event.controller = controller;
	skb = begin_event(&event, &head);
	if (!skb)
		return;
	if (put_nonzero(skb, EXMAP_GENL_A_ERROR, -error))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

void exmap_netlink_queue_event(u32 controller, u32 queue,
			       const struct exmap_queue_failure *failure)
{
	struct exmap_event event = {
		.cmd = EXMAP_GENL_CMD_QUEUE_ERROR,
		.region = failure->region,
		.pid = failure->pid,
		.controller = controller,
		.queue = queue,
	};
	void *head;
	struct sk_buff *skb = begin_event(&event, &head);

	if (!skb)
		return;
	if (put_nonzero(skb, EXMAP_GENL_A_COMMANDS, failure->commands) ||
	    put_nonzero(skb, EXMAP_GENL_A_STATUS, failure->status) ||
	    put_nonzero(skb, EXMAP_GENL_A_ERROR, -failure->error))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

static void pool_event(const struct exmap_region *region, u8 cmd, u64 available)
{
	struct exmap_event event = about(cmd, region);
	void *head;
	struct sk_buff *skb = begin_event(&event, &head);

	if (!skb)
		return;
	if (exmap_netlink_put_u64(skb, EXMAP_GENL_A_POOL_PAGES, READ_ONCE(region->pool.total)) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_AVAILABLE, available))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

/* What ALLOC could get, now or after a flush; nothing is held still for it. */
static u64 available_frames(struct exmap_region *region)
{
	struct exmap_pool *pool = &region->pool;
	struct exmap_counts counts;
	s64 sum = exmap_netlink_sum(region, &counts);

	spin_lock(&pool->lock);
	sum += pool->nr_free + pool->nr_spare;
	spin_unlock(&pool->lock);
	sum += counts.quarantine;
	return max_t(s64, sum, 0);
}

/* Tell of a change, and stay until the pool has recovered.  Dies with the region. */
static void watch_pool(struct work_struct *work)
{
	struct exmap_region *region = container_of(to_delayed_work(work), struct exmap_region,
						   watch);
	u64 available = available_frames(region);
	u32 mark = exmap_pool_low_mark(&region->pool);
	bool low = available < (region->pool_low ? 2 * mark : mark);

	if (READ_ONCE(region->dead))
		return;
	WRITE_ONCE(region->watched, jiffies);
	if (low != region->pool_low) {
		WRITE_ONCE(region->pool_low, low);
		pool_event(region, low ? EXMAP_GENL_CMD_POOL_LOW : EXMAP_GENL_CMD_POOL_RECOVERED,
			   available);
	}
	if (low)
		exmap_netlink_watch(region);
}

/**
 * exmap_netlink_watch - have a look at the pool soon
 * @region: alive; any lock may be held
 *
 * Not more often than once in an event interval, which also limits the events.
 */
void exmap_netlink_watch(struct exmap_region *region)
{
	if (delayed_work_pending(&region->watch))
		return;
	queue_delayed_work(system_unbound_wq, &region->watch,
			   exmap_netlink_wait(READ_ONCE(region->watched)));
}

void exmap_netlink_region_init(struct exmap_region *region)
{
	INIT_DELAYED_WORK(&region->watch, watch_pool);
	region->watched = jiffies - msecs_to_jiffies(EXMAP_GENL_EVENT_INTERVAL_MAX);
}

/* No frame is taken from its pool any more. */
void exmap_netlink_region_exit(struct exmap_region *region)
{
	cancel_delayed_work_sync(&region->watch);
	if (region->interfaces)
		exmap_netlink_region_event(region, EXMAP_GENL_CMD_REGION_GONE);
}
