// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - the generic netlink family: dumps, settings, and events.
 *
 * The specification is uapi/exmap_netlink.h.  Nothing here is counted twice: the
 * interfaces' own counters are read under their locks and summed.
 *
 * WHO MAY READ  The device's group is decided by udev, on an inode that the
 * module does not own, so each region remembers owner, group and mode of the
 * inode through which it was opened, and is shown to sockets whose opener could
 * have read that.  Looking /dev/exmap up for each request would follow the
 * caller's mounts, which may lead into FUSE and wait there, under the lock that
 * all families share; GENL_UNS_ADMIN_PERM asks for CAP_NET_ADMIN, which says
 * nothing of memory, and knows no groups.
 */
#include <linux/cred.h>
#include <linux/memcontrol.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/stat.h>
#include <net/genetlink.h>
#include <net/sock.h>

#include "exmap.h"
#include "uapi/exmap_netlink.h"

static struct genl_family family;
static unsigned int event_interval = EXMAP_GENL_EVENT_INTERVAL;

enum { GROUP_EVENTS };

static const struct genl_multicast_group groups[] = {
	[GROUP_EVENTS] = { .name = EXMAP_GENL_GROUP_EVENTS, .flags = GENL_MCAST_CAP_SYS_ADMIN },
};

/* A number among others of the same size. */
struct value {
	int attr;
	u64 value;
};

static int put_u64(struct sk_buff *skb, int attr, u64 value)
{
	return nla_put_u64_64bit(skb, attr, value, EXMAP_GENL_A_PAD);
}

static int put_values(struct sk_buff *skb, const struct value *values, unsigned int nr)
{
	int ret = 0;

	for (; nr-- && !ret; values++)
		ret = put_u64(skb, values->attr, values->value);
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
static u64 sum_interfaces(struct exmap_region *region, struct exmap_counts *sum)
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

	sum_interfaces(region, &counts);
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    nla_put_u32(skb, EXMAP_GENL_A_PID, region->pid) ||
	    put_u64(skb, EXMAP_GENL_A_SETUP_FLAGS, interfaces ? region->flags : 0) ||
	    put_u64(skb, EXMAP_GENL_A_PAGES, READ_ONCE(region->nr_pages)) ||
	    put_u64(skb, EXMAP_GENL_A_BACKING_PAGES,
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
	    put_u64(skb, EXMAP_GENL_A_FREE, free) ||
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

static int put_range(struct sk_buff *skb, const struct exmap_snapshot *snap)
{
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, snap->region->id) ||
	    nla_put_u32(skb, EXMAP_GENL_A_SNAPSHOT, snap->id) ||
	    put_u64(skb, EXMAP_GENL_A_START, snap->start) ||
	    put_u64(skb, EXMAP_GENL_A_COUNT, snap->nr_pages))
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
	ret = put_range(skb, snap);
	if (ret)
		goto out;
	if (put_u64(skb, EXMAP_GENL_A_RESERVE, READ_ONCE(snap->nr_reserve)) ||
	    put_u64(skb, EXMAP_GENL_A_FRAMES, exmap_snapshot_frames(snap)) ||
	    put_flag(skb, EXMAP_GENL_A_BROKEN, READ_ONCE(snap->broken)))
		ret = -EMSGSIZE;
out:
	up_read(&region->snapshots_lock);
	return ret;
}

/**
 * struct kind - what there is one of for each region, or several
 * @cmd: that asks for it
 * @attr: that holds its number within the region, or 0
 * @next: raise a number to that of the first that exists, or return false; 64 bits
 *	wide so that one more than the last number is a number
 * @put: the attributes of one
 */
struct kind {
	u8 cmd;
	int attr;
	bool (*next)(struct exmap_region *region, u64 *nr);
	int (*put)(struct sk_buff *skb, struct exmap_region *region, u32 nr);
};

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

static const struct kind kinds[] = {
	{ EXMAP_GENL_CMD_REGION_GET, 0, next_region_itself, put_region },
	{ EXMAP_GENL_CMD_INTERFACE_GET, EXMAP_GENL_A_INTERFACE, next_interface, put_interface },
	{ EXMAP_GENL_CMD_POOL_GET, 0, next_pool, put_pool },
	{ EXMAP_GENL_CMD_SNAPSHOT_GET, EXMAP_GENL_A_SNAPSHOT, next_snapshot, put_snapshot },
};

static const struct kind *find_kind(u8 cmd)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds) - 1; i++) {
		if (kinds[i].cmd == cmd)
			break;
	}
	return &kinds[i];
}

static bool permits(const struct exmap_region *region)
{
	if (uid_eq(current_fsuid(), region->device_uid))
		return region->device_mode & 0400;
	if (in_group_p(region->device_gid))
		return region->device_mode & 0040;
	return region->device_mode & 0004;
}

/* The socket's opener decides, as with files, and not who writes into it now. */
static bool may_read(const struct sk_buff *request, const struct exmap_region *region)
{
	struct socket *sock = NETLINK_CB(request).sk->sk_socket;
	const struct cred *old;
	bool ret;

	if (!sock || !sock->file)
		return false;
	old = override_creds(sock->file->f_cred);
	ret = permits(region);
	revert_creds(old);
	return ret || netlink_capable(request, CAP_SYS_ADMIN);
}

/* A reference on the region with an id, or an ERR_PTR. */
static struct exmap_region *get_region(u32 id)
{
	struct exmap_region *region, *found = ERR_PTR(-ENOENT);

	mutex_lock(&exmap_regions_lock);
	list_for_each_entry(region, &exmap_regions, node) {
		if (region->id == id && kref_get_unless_zero(&region->ref)) {
			found = region;
			break;
		}
	}
	mutex_unlock(&exmap_regions_lock);
	return found;
}

/* The same, for a reader. */
static struct exmap_region *get_readable(const struct sk_buff *request, struct nlattr *id)
{
	struct exmap_region *region = get_region(nla_get_u32(id));

	if (IS_ERR(region) || may_read(request, region))
		return region;
	exmap_region_put(region);
	return ERR_PTR(-EACCES);
}

static int put_message(struct sk_buff *skb, const struct kind *kind, struct exmap_region *region,
		       u32 nr, u32 portid, u32 seq, struct netlink_callback *cb)
{
	void *head = genlmsg_put(skb, portid, seq, &family, cb ? NLM_F_MULTI : 0, kind->cmd);
	int ret;

	if (!head)
		return -EMSGSIZE;
	if (cb)
		genl_dump_check_consistent(cb, head);
	ret = kind->put(skb, region, nr);
	if (ret)
		genlmsg_cancel(skb, head);
	else
		genlmsg_end(skb, head);
	return ret;
}

static int reply_about(struct genl_info *info, const struct kind *kind,
		       struct exmap_region *region, u32 nr)
{
	struct sk_buff *skb;
	u64 found = nr;
	int ret;

	if (!kind->next(region, &found) || found != nr)
		return -ENOENT;
	skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!skb)
		return -ENOMEM;
	ret = put_message(skb, kind, region, nr, info->snd_portid, info->snd_seq, NULL);
	if (ret) {
		nlmsg_free(skb);
		return ret;
	}
	return genlmsg_reply(skb, info);
}

static int do_get(struct sk_buff *request, struct genl_info *info)
{
	const struct kind *kind = find_kind(info->genlhdr->cmd);
	struct exmap_region *region;
	int ret;

	if (GENL_REQ_ATTR_CHECK(info, EXMAP_GENL_A_REGION))
		return -EINVAL;
	if (kind->attr && GENL_REQ_ATTR_CHECK(info, kind->attr))
		return -EINVAL;
	region = get_readable(request, info->attrs[EXMAP_GENL_A_REGION]);
	if (IS_ERR(region))
		return PTR_ERR(region);
	ret = reply_about(info, kind, region,
			  kind->attr ? nla_get_u32(info->attrs[kind->attr]) : 0);
	exmap_region_put(region);
	return ret;
}

/**
 * struct dump - where a dump is
 * @kind: of what
 * @only: of this region, if it is not 0
 * @region: the one it is at, or was
 * @nr: the next number within it
 *
 * No reference: whatever is gone when the dump goes on is left out.
 */
struct dump {
	const struct kind *kind;
	u32 only;
	u32 region;
	u64 nr;
};

static struct dump *dump_of(struct netlink_callback *cb)
{
	BUILD_BUG_ON(sizeof(struct dump) > sizeof(cb->ctx));
	return (struct dump *)cb->ctx;
}

/* What NLM_F_DUMP_INTR is decided by: read before every look at what may change. */
static void note_seq(struct netlink_callback *cb)
{
	cb->seq = READ_ONCE(exmap_regions_seq);
	if (dump_of(cb)->kind->attr == EXMAP_GENL_A_SNAPSHOT)
		cb->seq += atomic_read(&exmap_snapshots_seq);
}

/* A reference on the first region from @id on that the caller may read, or NULL. */
static struct exmap_region *next_readable(struct netlink_callback *cb, u32 id, bool *refused)
{
	struct exmap_region *region, *found = NULL;

	mutex_lock(&exmap_regions_lock);
	note_seq(cb);
	list_for_each_entry(region, &exmap_regions, node) {
		if (region->id < id)
			continue;
		if (!may_read(cb->skb, region)) {
			*refused = true;
		} else if (kref_get_unless_zero(&region->ref)) {
			found = region;
			break;
		}
	}
	mutex_unlock(&exmap_regions_lock);
	return found;
}

static int start_dump(struct netlink_callback *cb)
{
	struct nlattr *only = exmap_genl_dump_attrs(cb)[EXMAP_GENL_A_REGION];
	const struct genlmsghdr *header = nlmsg_data(cb->nlh);
	struct dump *dump = dump_of(cb);
	struct exmap_region *region;
	bool refused = false;

	memset(dump, 0, sizeof(*dump));
	dump->kind = find_kind(header->cmd);
	if (dump->kind->attr && exmap_genl_dump_attrs(cb)[dump->kind->attr])
		return -EINVAL;
	if (only) {
		region = get_readable(cb->skb, only);
		if (IS_ERR(region))
			return PTR_ERR(region);
		dump->only = region->id;
		dump->region = region->id;
	} else {
		region = next_readable(cb, 0, &refused);
		if (!region)
			return refused ? -EACCES : 0;
	}
	exmap_region_put(region);
	return 0;
}

/* As much of a region as fits, from dump->nr on. */
static int dump_region(struct sk_buff *skb, struct netlink_callback *cb,
		       struct exmap_region *region)
{
	struct dump *dump = dump_of(cb);
	const struct kind *kind = dump->kind;

	for (; kind->next(region, &dump->nr); dump->nr++) {
		int ret;

		note_seq(cb);
		ret = put_message(skb, kind, region, dump->nr, NETLINK_CB(cb->skb).portid,
				  cb->nlh->nlmsg_seq, cb);
		if (ret && ret != -ENOENT)
			return ret;
	}
	return 0;
}

static int dump_some(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct dump *dump = dump_of(cb);
	struct exmap_region *region;
	bool refused;
	int ret = 0;

	while (!ret) {
		region = next_readable(cb, dump->region, &refused);
		if (!region)
			break;
		if (region->id != dump->region) {
			dump->region = region->id;
			dump->nr = 0;
		}
		if (dump->only && dump->only != region->id) {
			exmap_region_put(region);
			break;
		}
		ret = dump_region(skb, cb, region);
		exmap_region_put(region);
		if (!ret) {
			dump->region++;
			dump->nr = 0;
		}
	}
	return skb->len;
}

static int do_settings_get(struct sk_buff *request, struct genl_info *info)
{
	struct sk_buff *skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	void *head;

	if (!skb)
		return -ENOMEM;
	head = genlmsg_put_reply(skb, info, &family, 0, EXMAP_GENL_CMD_SETTINGS_GET);
	if (!head || nla_put_u32(skb, EXMAP_GENL_A_EVENT_INTERVAL, READ_ONCE(event_interval))) {
		nlmsg_free(skb);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, head);
	return genlmsg_reply(skb, info);
}

static int do_settings_set(struct sk_buff *request, struct genl_info *info)
{
	if (!netlink_capable(request, CAP_SYS_ADMIN))
		return -EPERM;
	if (GENL_REQ_ATTR_CHECK(info, EXMAP_GENL_A_EVENT_INTERVAL))
		return -EINVAL;
	WRITE_ONCE(event_interval, nla_get_u32(info->attrs[EXMAP_GENL_A_EVENT_INTERVAL]));
	return 0;
}

/* RESIZE of a region that is not the caller's: its owner pays. */
static int resize(struct exmap_region *region, u64 nr_pages)
{
	struct mem_cgroup *memcg, *old;
	int ret;

	if (!mmget_not_zero(region->mm))
		return -EPROTO;
	memcg = get_mem_cgroup_from_mm(region->mm);
	old = set_active_memcg(memcg);
	ret = exmap_region_resize(region, nr_pages);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	mmput(region->mm);
	return ret;
}

static int do_region_set(struct sk_buff *request, struct genl_info *info)
{
	struct nlattr *threshold = info->attrs[EXMAP_GENL_A_FLUSH_THRESHOLD];
	struct nlattr *pages = info->attrs[EXMAP_GENL_A_POOL_PAGES];
	struct exmap_region *region;
	int ret = 0;

	if (!netlink_capable(request, CAP_SYS_ADMIN))
		return -EPERM;
	if (GENL_REQ_ATTR_CHECK(info, EXMAP_GENL_A_REGION) || (!threshold && !pages))
		return -EINVAL;
	region = get_region(nla_get_u32(info->attrs[EXMAP_GENL_A_REGION]));
	if (IS_ERR(region))
		return PTR_ERR(region);
	if (pages)
		ret = resize(region, nla_get_u64(pages));
	if (!ret && threshold)
		exmap_region_tune(region, nla_get_u32(threshold));
	exmap_region_put(region);
	return ret;
}

/* not const: 6.1's policies want it so */
static struct netlink_range_validation threshold_range = {
	.min = 1, .max = EXMAP_FLUSH_THRESHOLD_MAX,
};

static struct netlink_range_validation pool_range = {
	.min = 1, .max = EXMAP_POOL_MAX_PAGES,
};

static struct netlink_range_validation interval_range = {
	.min = EXMAP_GENL_EVENT_INTERVAL_MIN, .max = EXMAP_GENL_EVENT_INTERVAL_MAX,
};

/* What is not named is refused. */
static const struct nla_policy get_policy[] = {
	[EXMAP_GENL_A_REGION] = { .type = NLA_U32 },
};

static const struct nla_policy get_interface_policy[] = {
	[EXMAP_GENL_A_REGION] = { .type = NLA_U32 },
	[EXMAP_GENL_A_INTERFACE] = { .type = NLA_U32 },
};

static const struct nla_policy get_snapshot_policy[] = {
	[EXMAP_GENL_A_REGION] = { .type = NLA_U32 },
	[EXMAP_GENL_A_SNAPSHOT] = { .type = NLA_U32 },
};

static const struct nla_policy no_policy[] = {
	[EXMAP_GENL_A_UNSPEC] = { .type = NLA_REJECT },
	[EXMAP_GENL_A_PAD] = { .type = NLA_REJECT },
};

static const struct nla_policy set_region_policy[] = {
	[EXMAP_GENL_A_REGION] = { .type = NLA_U32 },
	[EXMAP_GENL_A_FLUSH_THRESHOLD] = NLA_POLICY_FULL_RANGE(NLA_U32, &threshold_range),
	[EXMAP_GENL_A_POOL_PAGES] = NLA_POLICY_FULL_RANGE(NLA_U64, &pool_range),
};

static const struct nla_policy set_settings_policy[] = {
	[EXMAP_GENL_A_EVENT_INTERVAL] = NLA_POLICY_FULL_RANGE(NLA_U32, &interval_range),
};

#define GET	.doit = do_get, .start = start_dump, .dumpit = dump_some

static const struct genl_ops ops[] = {
	{ .cmd = EXMAP_GENL_CMD_REGION_GET, GET, .policy = get_policy,
	  .maxattr = ARRAY_SIZE(get_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_INTERFACE_GET, GET, .policy = get_interface_policy,
	  .maxattr = ARRAY_SIZE(get_interface_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_POOL_GET, GET, .policy = get_policy,
	  .maxattr = ARRAY_SIZE(get_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_SNAPSHOT_GET, GET, .policy = get_snapshot_policy,
	  .maxattr = ARRAY_SIZE(get_snapshot_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_SETTINGS_GET, .doit = do_settings_get, .policy = no_policy,
	  .maxattr = ARRAY_SIZE(no_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_REGION_SET, .doit = do_region_set, .policy = set_region_policy,
	  .maxattr = ARRAY_SIZE(set_region_policy) - 1 },
	{ .cmd = EXMAP_GENL_CMD_SETTINGS_SET, .doit = do_settings_set,
	  .policy = set_settings_policy, .maxattr = ARRAY_SIZE(set_settings_policy) - 1 },
};

static struct genl_family family __ro_after_init = {
	.name		= EXMAP_GENL_NAME,
	.version	= EXMAP_GENL_VERSION,
	.module		= THIS_MODULE,
	.parallel_ops	= true,
	.ops		= ops,
	.n_ops		= ARRAY_SIZE(ops),
	.resv_start_op	= EXMAP_GENL_CMD_UNSPEC + 1,
	.mcgrps		= groups,
	.n_mcgrps	= ARRAY_SIZE(groups),
};

/* An event, or NULL if nobody waits for one, or there is no memory for it. */
static struct sk_buff *begin_event(u8 cmd, const struct exmap_region *region, void **head)
{
	struct sk_buff *skb;

	if (!genl_has_listeners(&family, &init_net, GROUP_EVENTS))
		return NULL;
	skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	if (!skb)
		return NULL;
	*head = genlmsg_put(skb, 0, 0, &family, 0, cmd);
	if (!nla_put_u32(skb, EXMAP_GENL_A_PID, region->pid))
		return skb;
	nlmsg_free(skb);
	return NULL;
}

static void send_event(struct sk_buff *skb, void *head)
{
	genlmsg_end(skb, head);
	genlmsg_multicast(&family, skb, 0, GROUP_EVENTS, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
}

void exmap_netlink_region_event(const struct exmap_region *region, u8 cmd)
{
	void *head;
	struct sk_buff *skb = begin_event(cmd, region, &head);

	if (!skb)
		return;
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    (cmd == EXMAP_GENL_CMD_REGION_CREATED &&
	     (nla_put_u32(skb, EXMAP_GENL_A_INTERFACES, region->nr_interfaces) ||
	      put_u64(skb, EXMAP_GENL_A_POOL_PAGES, READ_ONCE(region->pool.total)))))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

void exmap_netlink_snapshot_event(const struct exmap_snapshot *snap, u8 cmd)
{
	void *head;
	struct sk_buff *skb = begin_event(cmd, snap->region, &head);

	if (!skb)
		return;
	if (put_range(skb, snap))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

static void pool_event(const struct exmap_region *region, u8 cmd, u64 available)
{
	void *head;
	struct sk_buff *skb = begin_event(cmd, region, &head);

	if (!skb)
		return;
	if (nla_put_u32(skb, EXMAP_GENL_A_REGION, region->id) ||
	    put_u64(skb, EXMAP_GENL_A_POOL_PAGES, READ_ONCE(region->pool.total)) ||
	    put_u64(skb, EXMAP_GENL_A_AVAILABLE, available))
		nlmsg_free(skb);
	else
		send_event(skb, head);
}

/* What ALLOC could get, now or after a flush; nothing is held still for it. */
static u64 available_frames(struct exmap_region *region)
{
	struct exmap_pool *pool = &region->pool;
	struct exmap_counts counts;
	s64 sum = sum_interfaces(region, &counts);

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
	unsigned long interval, since;

	if (delayed_work_pending(&region->watch))
		return;
	interval = msecs_to_jiffies(READ_ONCE(event_interval));
	since = jiffies - READ_ONCE(region->watched);
	queue_delayed_work(system_unbound_wq, &region->watch,
			   since < interval ? interval - since : 0);
}

void exmap_netlink_region_init(struct exmap_region *region)
{
	INIT_DELAYED_WORK(&region->watch, watch_pool);
	region->watched = jiffies - msecs_to_jiffies(EXMAP_GENL_EVENT_INTERVAL_MAX);
}

int exmap_netlink_init(void)
{
	return genl_register_family(&family);
}

/* Returns when no request is running; a dump that has not ended holds the module. */
void exmap_netlink_exit(void)
{
	genl_unregister_family(&family);
}
