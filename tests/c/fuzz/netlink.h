/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_NETLINK_H
#define FUZZ_NETLINK_H

#include <stdint.h>

/* A random message to the netlink family; 0 or -1. */
long fuzz_netlink(uint64_t random);

#endif /* FUZZ_NETLINK_H */
