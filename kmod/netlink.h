/* SPDX-License-Identifier: GPL-2.0 */
/*
 * exmap - what the files of the netlink family share.
 */
#ifndef _EXMAP_NETLINK_H
#define _EXMAP_NETLINK_H

#include <net/genetlink.h>

#include "exmap.h"
#include "uapi/exmap_netlink.h"

/**
 * struct exmap_netlink_kind - what there is one of for each region, or several
 * @cmd: that asks for it
 * @attr: that holds its number within the region, or 0
 * @next: raise a number to that of the first that exists, or return false; 64 bits
 *	wide so that one more than the last number is a number
 * @put: the attributes of one
 */
struct exmap_netlink_kind {
	u8 cmd;
	int attr;
	bool (*next)(struct exmap_region *region, u64 *nr);
	int (*put)(struct sk_buff *skb, struct exmap_region *region, u32 nr);
};

static inline int exmap_netlink_put_u64(struct sk_buff *skb, int attr, u64 value)
{
	return nla_put_u64_64bit(skb, attr, value, EXMAP_GENL_A_PAD);
}

enum { EXMAP_NETLINK_EVENTS, EXMAP_NETLINK_NR_GROUPS };

/* netlink.c */
extern struct genl_family exmap_netlink_family;

/* netlink_object.c */
const struct exmap_netlink_kind *exmap_netlink_find_kind(u8 cmd);
u64 exmap_netlink_sum(struct exmap_region *region, struct exmap_counts *sum);
int exmap_netlink_put_range(struct sk_buff *skb, const struct exmap_snapshot *snap);

/* netlink_event.c */
extern const struct genl_multicast_group exmap_netlink_groups[EXMAP_NETLINK_NR_GROUPS];
extern unsigned int exmap_netlink_event_interval;

#endif /* _EXMAP_NETLINK_H */
