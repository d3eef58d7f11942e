/* SPDX-License-Identifier: MIT */
/* Descriptors that go to another process over a socket (unix(7), SCM_RIGHTS). */
#ifndef EXMAP_TEST_PASSING_H
#define EXMAP_TEST_PASSING_H

#include <string.h>
#include <sys/socket.h>

/* 0, or -1 with errno. */
static inline int send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { };
	struct iovec iov = { .iov_base = control, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(socket, &message, 0) == 1 ? 0 : -1;
}

/* The descriptor, or -1 if the other end is gone. */
static inline int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int fd;

	if (recvmsg(socket, &message, 0) != 1)
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

#endif /* EXMAP_TEST_PASSING_H */
