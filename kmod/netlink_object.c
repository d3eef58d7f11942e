// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - what netlink tells of regions, interfaces, pools and snapshots.
 *
 * Nothing here is counted twice: the interfaces' own counters are read under their
 * locks and summed.
 */
#include <linux/rculist.h>

#include "netlink.h"

/* A number among others of the same size. */
struct value {
	int attr;
	u64 value;
};

static int put_values(struct sk_buff *skb, const struct value *values, unsigned int nr)
{
	int ret = 0;

	for (; nr-- && !ret; values++)
		ret = exmap_netlink_put_u64(skb, values->attr, values->value);
	return ret;
}

static int put_flag(struct sk_buff *skb, int attr, bool set)
{
	return set ? nla_put_flag(skb, attr) : 0;
}

static int put_counts(struct sk_buff *skb, const struct exmap_counts *c)
{
	const struct value values[] = {
		{ EXMAP_GENL_A_ALLOCS, c->allocs },
		{ EXMAP_GENL_A_FREES, c->frees },
		{ EXMAP_GENL_A_READS, c->reads },
		{ EXMAP_GENL_A_WRITES, c->writes },
		{ EXMAP_GENL_A_FAULTS, c->faults },
		{ EXMAP_GENL_A_RESCUES, c->rescues },
		{ EXMAP_GENL_A_FLUSHES, c->flushes },
		{ EXMAP_GENL_A_FLUSHES_RANGED, c->flushes_ranged },
		{ EXMAP_GENL_A_FLUSH_IPIS, c->flush_ipis },
		{ EXMAP_GENL_A_COPIES, c->copies },
	};

	return put_values(skb, values, ARRAY_SIZE(values));
}

/* 0 before SETUP. */
static u32 nr_interfaces(const struct exmap_region *region)
{
	/* pairs with smp_store_release in publish */
	return smp_load_acquire(&region->interfaces) ? region->nr_interfaces : 0;
}

/* What an interface has counted, and its free frames. */
static u32 read_interface(struct exmap_interface *itf, struct exmap_counts *counts)
{
	u32 nr_cache;

	mutex_lock(&itf->lock);
	*counts = itf->counts;
	nr_cache = itf->nr_cache;
	mutex_unlock(&itf->lock);
	return nr_cache;
}

static void add_counts(struct exmap_counts *sum, const struct exmap_counts *c)
{
	sum->quarantine += c->quarantine;
	sum->allocs += c->allocs;
	sum->frees += c->frees;
	sum->reads += c->reads;
	sum->writes += c->writes;
	sum->faults += c->faults;
	sum->rescues += c->rescues;
	sum->flushes += c->flushes;
	sum->flushes_ranged += c->flushes_ranged;
	sum->flush_ipis += c->flush_ipis;
	sum->copies += c->copies;
}

/* One interface after the other; returns how many frames they have. */
u64 exmap_netlink_sum(struct exmap_region *region, struct exmap_counts *sum)
{
	struct exmap_counts counts;
	u64 nr_cache;
	u32 i, nr = nr_interfaces(region);

	nr_cache = read_interface(region->ctl, sum);
	for (i = 0; i < nr; i++) {
		nr_cache += read_interface(region->interfaces[i], &counts);
		add_counts(sum, &counts);
	}
	return nr_cache;
}

static u32 count_snapshots(struct exmap_region *region)
{
	struct exmap_snapshot *snap;
	u32 nr = 0;

	rcu_read_lock();
	list_for_each_entry_rcu(snap, &region->snapshots, node)
		nr++;
	rcu_read_unlock();
	return nr;
}

static int put_region(struct sk_buff *skb, struct exmap_region *region, u32 nr)
{
	u32 interfaces = nr_interfaces(region);
	struct exmap_counts counts;

	exmap_netlink_sum(region, &counts);
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    nla_put_u32(skb, EXMAP_GENL_A_PID, region->pid) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_SETUP_FLAGS, interfaces ? region->flags : 0) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_PAGES, READ_ONCE(region->nr_pages)) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_BACKING_PAGES,
				  interfaces ? exmap_backing_pages(region) : 0) ||
	    nla_put_u32(skb, EXMAP_GENL_A_INTERFACES, interfaces) ||
	    nla_put_u32(skb, EXMAP_GENL_A_SNAPSHOTS, count_snapshots(region)) ||
	    nla_put_u32(skb, EXMAP_GENL_A_FLUSH_THRESHOLD, READ_ONCE(region->flush_threshold)) ||
	    nla_put_u32(skb, EXMAP_GENL_A_QUARANTINE_LIMIT, READ_ONCE(region->quarantine_limit)) ||
	    put_flag(skb, EXMAP_GENL_A_DEAD, READ_ONCE(region->dead)))
		return -EMSGSIZE;
	return put_counts(skb, &counts);
}

static int put_interface(struct sk_buff *skb, struct exmap_region *region, u32 nr)
{
	struct exmap_interface *itf = region->ctl;
	struct exmap_counts counts;
	u32 free;

	if (nr != EXMAP_GENL_INTERFACE_CONTROL)
		itf = region->interfaces[nr];
	free = read_interface(itf, &counts);
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    nla_put_u32(skb, EXMAP_GENL_A_INTERFACE, nr) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_FREE, free) ||
	    nla_put_u32(skb, EXMAP_GENL_A_RING, exmap_quarantine_length(itf)))
		return -EMSGSIZE;
	return put_counts(skb, &counts);
}

static int put_places(struct sk_buff *skb, const struct exmap_counters *c)
{
	const struct value values[] = {
		{ EXMAP_GENL_A_POOL_PAGES, c->total },
		{ EXMAP_GENL_A_FREE, c->free },
		{ EXMAP_GENL_A_MAPPED, c->mapped },
		{ EXMAP_GENL_A_QUARANTINE, c->quarantine },
		{ EXMAP_GENL_A_BUSY, c->busy },
		{ EXMAP_GENL_A_SNAPSHOT_FRAMES, c->snapshot },
		{ EXMAP_GENL_A_PINNED, c->pinned },
	};

	return put_values(skb, values, ARRAY_SIZE(values));
}

static int put_pool(struct sk_buff *skb, struct exmap_region *region, u32 nr)
{
	struct exmap_counters counters;

	exmap_region_counters(region, &counters);
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    put_flag(skb, EXMAP_GENL_A_LOW, READ_ONCE(region->pool_low)))
		return -EMSGSIZE;
	return put_places(skb, &counters);
}

int exmap_netlink_put_range(struct sk_buff *skb, const struct exmap_snapshot *snap)
{
	if (nla_put_u32(skb, EXMAP_GENL_A_SNAPSHOT, snap->id) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_START, snap->start) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_COUNT, snap->nr_pages))
		return -EMSGSIZE;
	return 0;
}

/* The one with the lowest id from @from on, or NULL.  Ids do not rise along the list. */
static struct exmap_snapshot *find_snapshot(struct exmap_region *region, u64 from)
{
	struct exmap_snapshot *snap, *found = NULL;

	lockdep_assert_held(&region->snapshots_lock);
	list_for_each_entry(snap, &region->snapshots, node) {
		if (snap->id >= from && (!found || snap->id < found->id))
			found = snap;
	}
	return found;
}

/* Keeps freezes out while it looks at all chunks of one snapshot. */
static int put_snapshot(struct sk_buff *skb, struct exmap_region *region, u32 nr)
{
	struct exmap_snapshot *snap;
	int ret = -ENOENT;

	down_read(&region->snapshots_lock);
	snap = find_snapshot(region, nr);
	if (!snap || snap->id != nr)
		goto out;
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    exmap_netlink_put_range(skb, snap) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_RESERVE, READ_ONCE(snap->nr_reserve)) ||
	    exmap_netlink_put_u64(skb, EXMAP_GENL_A_FRAMES, exmap_snapshot_frames(snap)) ||
	    put_flag(skb, EXMAP_GENL_A_BROKEN, READ_ONCE(snap->broken)))
		ret = -EMSGSIZE;
	else
		ret = 0;
out:
	up_read(&region->snapshots_lock);
	return ret;
}

static bool next_region_itself(struct exmap_region *region, u64 *nr)
{
	return !*nr;
}

static bool next_pool(struct exmap_region *region, u64 *nr)
{
	return !*nr && nr_interfaces(region);
}

static bool next_interface(struct exmap_region *region, u64 *nr)
{
	u32 end = nr_interfaces(region);

	if (*nr >= end)
		*nr = max_t(u64, *nr, EXMAP_GENL_INTERFACE_CONTROL);
	return end && *nr <= EXMAP_GENL_INTERFACE_CONTROL;
}

static bool next_snapshot(struct exmap_region *region, u64 *nr)
{
	struct exmap_snapshot *snap;

	down_read(&region->snapshots_lock);
	snap = find_snapshot(region, *nr);
	if (snap)
		*nr = snap->id;
	up_read(&region->snapshots_lock);
	return snap;
}

static const struct exmap_netlink_kind kinds[] = {
	{ EXMAP_GENL_CMD_REGION_GET, 0, next_region_itself, put_region },
	{ EXMAP_GENL_CMD_INTERFACE_GET, EXMAP_GENL_A_INTERFACE, next_interface, put_interface },
	{ EXMAP_GENL_CMD_POOL_GET, 0, next_pool, put_pool },
	{ EXMAP_GENL_CMD_SNAPSHOT_GET, EXMAP_GENL_A_SNAPSHOT, next_snapshot, put_snapshot },
};

const struct exmap_netlink_kind *exmap_netlink_find_kind(u8 cmd)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds) - 1; i++) {
		if (kinds[i].cmd == cmd)
			break;
	}
	return &kinds[i];
}
