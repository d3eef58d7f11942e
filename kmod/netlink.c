// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - the generic netlink family: who may ask what, and the answers.
 *
 * The specification is uapi/exmap_netlink.h.
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
#include <linux/sched/mm.h>
#include <linux/stat.h>
#include <net/sock.h>

#include "netlink.h"

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

static int put_message(struct sk_buff *skb, const struct exmap_netlink_kind *kind,
		       struct exmap_region *region, u32 nr, u32 portid, u32 seq,
		       struct netlink_callback *cb)
{
	void *head = genlmsg_put(skb, portid, seq, &exmap_netlink_family, cb ? NLM_F_MULTI : 0,
				 kind->cmd);
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

static int reply_about(struct genl_info *info, const struct exmap_netlink_kind *kind,
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
	const struct exmap_netlink_kind *kind = exmap_netlink_find_kind(info->genlhdr->cmd);
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
	const struct exmap_netlink_kind *kind;
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
	dump->kind = exmap_netlink_find_kind(header->cmd);
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
	const struct exmap_netlink_kind *kind = dump->kind;

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
	head = genlmsg_put_reply(skb, info, &exmap_netlink_family, 0, EXMAP_GENL_CMD_SETTINGS_GET);
	if (!head || nla_put_u32(skb, EXMAP_GENL_A_EVENT_INTERVAL,
				 READ_ONCE(exmap_netlink_event_interval))) {
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
	WRITE_ONCE(exmap_netlink_event_interval,
		   nla_get_u32(info->attrs[EXMAP_GENL_A_EVENT_INTERVAL]));
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

struct genl_family exmap_netlink_family __ro_after_init = {
	.name		= EXMAP_GENL_NAME,
	.version	= EXMAP_GENL_VERSION,
	.module		= THIS_MODULE,
	.parallel_ops	= true,
	.ops		= ops,
	.n_ops		= ARRAY_SIZE(ops),
	.resv_start_op	= EXMAP_GENL_CMD_UNSPEC + 1,
	.mcgrps		= exmap_netlink_groups,
	.n_mcgrps	= ARRAY_SIZE(exmap_netlink_groups),
};

int exmap_netlink_init(void)
{
	return genl_register_family(&exmap_netlink_family);
}

/* Returns when no request is running; a dump that has not ended holds the module. */
void exmap_netlink_exit(void)
{
	genl_unregister_family(&exmap_netlink_family);
}
