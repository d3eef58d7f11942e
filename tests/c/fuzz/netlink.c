// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exmap_netlink.h"
#include "netlink.h"

#define MESSAGE 512

struct message {
	struct nlmsghdr nl;
	struct genlmsghdr genl;
	char payload[MESSAGE];
};

static void add_attribute(struct message *message, unsigned int type, const void *value,
			  unsigned int length)
{
	struct nlattr *attribute = (struct nlattr *)((char *)message + NLMSG_ALIGN(message->nl.nlmsg_len));

	attribute->nla_type = (uint16_t)type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
	memcpy((char *)attribute + NLA_HDRLEN, value, length);
	message->nl.nlmsg_len = NLMSG_ALIGN(message->nl.nlmsg_len) + NLA_ALIGN(attribute->nla_len);
}

static struct message begin(unsigned int type, unsigned int flags, unsigned int command)
{
	return (struct message){
		.nl = { .nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN), .nlmsg_type = (uint16_t)type,
			.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
		.genl = { .cmd = (uint8_t)command, .version = 1 },
	};
}

/* The number that the family has, or -1. */
static int find_family(int fd)
{
	struct message message = begin(GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY);
	struct nlattr *attribute = (struct nlattr *)message.payload;
	char *end;
	ssize_t n;

	add_attribute(&message, CTRL_ATTR_FAMILY_NAME, EXMAP_GENL_NAME, sizeof(EXMAP_GENL_NAME));
	if (send(fd, &message, message.nl.nlmsg_len, 0) < 0)
		return -1;
	n = recv(fd, &message, sizeof(message), 0);
	if (n < (ssize_t)NLMSG_LENGTH(GENL_HDRLEN) || message.nl.nlmsg_type != GENL_ID_CTRL)
		return -1;
	for (end = (char *)&message + n; (char *)attribute + NLA_HDRLEN <= end && attribute->nla_len;
	     attribute = (struct nlattr *)((char *)attribute + NLA_ALIGN(attribute->nla_len)))
		if (attribute->nla_type == CTRL_ATTR_FAMILY_ID)
			return *(uint16_t *)((char *)attribute + NLA_HDRLEN);
	return -1;
}

static void add_random(struct message *message, uint64_t random)
{
	unsigned int i, n = random & 3;
	char value[64];

	for (i = 0; i < n; i++) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		memset(value, (int)(random >> 40 & 3), sizeof(value));
		value[0] = (char)(random >> 48 & 7);
		/* mostly numbers of four or eight bytes */
		add_attribute(message, random >> 32 & 31, value,
			      random >> 56 & 7 ? 4u << (random >> 60 & 1) : (unsigned int)(random >> 57 & 63));
	}
}

long fuzz_netlink(uint64_t random)
{
	int family, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	struct message message;
	char answer[4096];
	long ret = -1;

	if (fd < 0)
		return -1;
	family = find_family(fd);
	if (family >= 0) {
		message = begin((unsigned int)family, random & 4 ? NLM_F_DUMP : NLM_F_ACK,
				random >> 3 & 15);
		add_random(&message, random >> 8);
		ret = send(fd, &message, message.nl.nlmsg_len, 0) < 0 ? -1 : 0;
		while (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) > 0 && random & 64)
			;
	}
	close(fd);
	return ret;
}
