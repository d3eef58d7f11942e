// SPDX-License-Identifier: MIT
/* Messages to the netlink family: from the socket to the last part of a dump. */
#define _GNU_SOURCE
#include "../abi/snapshot.h"
#include "../fuzz/netlink.h"
#include "exmap_netlink.h"
#include "faults.h"

/* fuzz_netlink draws from these bits what it sends */
#define DUMP 4u
#define READ_ALL 64u
#define COMMAND(n) ((n) << 3)

static __u64 message;

static long call_netlink(void)
{
	/* an error may be the answer's, or of the socket: none of them harms */
	fuzz_netlink(message);
	return 0;
}

static void fail_command(unsigned int command)
{
	message = DUMP | READ_ALL | COMMAND(command);
	fail_each(&(struct probe){ .call = call_netlink });
}

CASE(faults_netlink_dumps)
{
	struct region r = open_region(CHUNK, CHUNK, 2, EXMAP_SNAPSHOTS, -1);
	int snap = snapshot(&r, 0, CHUNK, 0);

	CHECK(snap >= 0);
	fail_command(EXMAP_GENL_CMD_REGION_GET);
	fail_command(EXMAP_GENL_CMD_INTERFACE_GET);
	fail_command(EXMAP_GENL_CMD_POOL_GET);
	fail_command(EXMAP_GENL_CMD_SNAPSHOT_GET);
	fail_command(EXMAP_GENL_CMD_SETTINGS_GET);
	check_conserved(r.fd);
}
