// SPDX-License-Identifier: MIT
/* NVMe queues with interrupts: an eventfd says when to look. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <poll.h>
#include <sys/eventfd.h>

static int try_queue_for(struct region *r, int event)
{
	struct exmap_nvme_open args = open_args();

	args.flags = EXMAP_NVME_INTERRUPTS;
	args.eventfd = event;
	return ioctl(r->fd, EXMAP_IOCTL_NVME_OPEN, &args);
}

static struct queue open_queue_for(struct region *r, int event)
{
	int fd = try_queue_for(r, event);

	CHECK(fd >= 0);
	return map_all(fd);
}

/* Sleep until the event comes; returns how often it has come, 0 if it does not in time. */
static __u64 wait_event(int event, int milliseconds)
{
	struct pollfd poll_fd = { .fd = event, .events = POLLIN };
	__u64 count = 0;

	if (poll(&poll_fd, 1, milliseconds) == 1)
		CHECK(read(event, &count, sizeof(count)) == sizeof(count));
	return count;
}

CASE(nvme_interrupts_wake_who_sleeps)
{
	struct region r = pool_of(64);
	int i, event = eventfd(0, EFD_NONBLOCK);
	struct queue q = open_queue_for(&r, event);

	alloc_all(&r);
	for (i = 0; i < 100; i++) {
		add(&q, &r, READ_COMMAND, (__u64)i % 64, 1, (__u64)i);
		ring(&q);
		CHECK(wait_event(event, 20000));
		CHECK(reap_within(&q, 0) == 0);
	}
	/* nothing is to come, and nothing comes */
	CHECK(!wait_event(event, 50));
}

CASE(nvme_interrupts_let_an_idle_waiter_use_no_processor)
{
	struct timespec begin, end;
	struct region r = pool_of(64);
	int event = eventfd(0, EFD_NONBLOCK);
	struct queue q = open_queue_for(&r, event);
	long used;

	alloc_all(&r);
	CHECK(!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin));
	CHECK(!wait_event(event, 1000));
	CHECK(!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end));
	used = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000;
	printf("%ld us of 1000000\n", used);
	/* who polls uses all of it; an emulated processor that gets no time seems busy, too */
	CHECK(used < 200000);
	add(&q, &r, READ_COMMAND, 0, 1, 0);
	ring(&q);
	CHECK(wait_event(event, 20000));
}

CASE(nvme_interrupts_are_refused_as_documented)
{
	struct region r = pool_of(64);
	int fds[65], i, event = eventfd(0, EFD_NONBLOCK), other = open("/dev/null", O_RDWR);

	FAILS(try_queue_for(&r, other), EINVAL);
	FAILS(try_queue_for(&r, 999), EBADF);
	for (i = 0; i < 65; i++) {
		fds[i] = try_queue_for(&r, event);
		if (fds[i] < 0)
			break;
	}
	CHECK(i >= 1 && i <= 16 && errno == ENOSPC);
	CHECK(!close(fds[0]));
	CHECK(wait_event(event, 0));
	fds[0] = try_queue_for(&r, event);
	CHECK(fds[0] >= 0);
	/* those that poll need no vector */
	if (i == 16)
		CHECK(!close(try_queue(&r)));
}

CASE(nvme_interrupts_tell_of_the_end_and_come_back_after_a_reset)
{
	struct exmap_nvme_reset reset = { .flags = 0 };
	struct region r = pool_of(64);
	int event = eventfd(0, EFD_NONBLOCK);
	struct queue q = open_queue_for(&r, event);

	alloc_all(&r);
	CHECK(!ioctl(q.fd, EXMAP_IOCTL_NVME_RESET, &reset));
	CHECK(wait_event(event, 0));
	CHECK(info_of(q.fd).error == EIO);
	close_queue(&q);
	q = open_queue_for(&r, event);
	add(&q, &r, READ_COMMAND, 0, 1, 0);
	ring(&q);
	CHECK(wait_event(event, 20000));
	CHECK(!reap_within(&q, 0));
}
