// SPDX-License-Identifier: MIT
/* Shadow doorbells of NVMe controllers. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <sys/wait.h>

enum { SPOILT_PAGES = 64, TRANSFERS = 512 };

static struct queue open_shadowed(struct region *r)
{
	int fd = try_queue_with(r, EXMAP_NVME_SHADOW);
	struct queue q;

	if (fd < 0 && errno == EOPNOTSUPP) {
		puts("the controller offers no shadow doorbells");
		_exit(SKIP);
	}
	q = map_all(fd);
	CHECK(q.info.features & EXMAP_NVME_SHADOW_OFFERED);
	q.shadow = map_queue(fd, PAGE, PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_SHADOW);
	q.event_idx = map_queue(fd, PAGE, PROT_READ, EXMAP_NVME_OFF_EVENT_IDX);
	return q;
}

static void close_shadowed(struct queue *q)
{
	CHECK(!munmap(q->shadow, PAGE) && !munmap((void *)q->event_idx, PAGE));
	close_queue(q);
}

/* Keep @depth reads in flight, a doorbell for each that has completed; returns doorbells rung. */
static unsigned long stream(struct queue *q, struct region *r, unsigned int depth, unsigned int n)
{
	unsigned long before = q->rung;
	unsigned int i;

	for (i = 0; i < depth; i++) {
		add(q, r, READ_COMMAND, i % 64, 1, i);
		ring(q);
	}
	for (; i < n; i++) {
		CHECK(!reap(q));
		add(q, r, READ_COMMAND, i % 64, 1, i % 1000);
		ring(q);
	}
	for (i = 0; i < depth; i++)
		CHECK(!reap(q));
	return q->rung - before;
}

/* Submit @depth reads, ring once, and wait for all of them, as the kernel's own queues do. */
static unsigned long batches(struct queue *q, struct region *r, unsigned int depth, unsigned int n)
{
	unsigned long before = q->rung;
	unsigned int i, done;

	for (done = 0; done < n; done += depth) {
		for (i = 0; i < depth; i++)
			add(q, r, READ_COMMAND, i % 64, 1, i);
		ring(q);
		for (i = 0; i < depth; i++)
			CHECK(!reap(q));
	}
	return q->rung - before;
}

CASE(nvme_shadow_doorbells_carry_transfers)
{
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_shadowed(&r);
	unsigned int i;

	alloc_all(&r);
	/* several times around the queue */
	for (i = 0; i < 3 * DEPTH; i++) {
		fill(&r, 0, 3, i);
		CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, 3, i));
		memset(r.mem, 0, 3 * PAGE);
		CHECK(!transfer(&q, &r, READ_COMMAND, 0, 3, i));
		CHECK(filled(&r, 0, 3, i));
	}
	close_shadowed(&q);
	/* the next owner need not have them */
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 3, 2));
	CHECK(filled(&r, 0, 1, 2));
}

CASE(nvme_shadow_doorbells_spare_rings_while_the_controller_is_busy)
{
	static const unsigned int depths[] = { 1, 8, 32, 128 };
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_shadowed(&r);
	unsigned long rung = 0;
	unsigned int i;

	alloc_all(&r);
	for (i = 0; i < 4; i++) {
		unsigned int n = TRANSFERS;

		rung = stream(&q, &r, depths[i], n);
		printf("stream depth %u: %lu doorbells of %u", depths[i], rung, 2 * n);
		printf(", batches: %lu of %u\n", batches(&q, &r, depths[i], n), n + n / depths[i]);
	}
	CHECK(rung < 2 * TRANSFERS);
}

CASE(nvme_shadow_doorbells_are_mapped_as_documented)
{
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_shadowed(&r), other;
	const int rw = PROT_READ | PROT_WRITE;

	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_EVENT_IDX), EACCES);
	FAILS(mprotect((void *)q.event_idx, PAGE, rw), EACCES);
	FAILS(mmap(NULL, 2 * PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SHADOW), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_PRIVATE, q.fd, EXMAP_NVME_OFF_SHADOW), EINVAL);
	/* nobody can keep them: not a pinned page, not a child */
	FAILS(madvise(q.shadow, PAGE, MADV_DOFORK), EINVAL);
	CHECK(write(open("/dev/null", O_WRONLY), q.shadow, 4) == 4);
	/* all queues of a controller, or none */
	FAILS(try_queue(&r), EINVAL);
	other = open_shadowed(&r);
	alloc_all(&r);
	CHECK(!transfer(&other, &r, READ_COMMAND, 0, 1, 0));
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	close_shadowed(&other);
	/* nothing of the queue that had the number before */
	other = open_shadowed(&r);
	CHECK(*(volatile __u32 *)(other.shadow + other.info.sq_doorbell) == 0);
	CHECK(!transfer(&other, &r, READ_COMMAND, 0, 1, 0));
	close_shadowed(&other);
	close_shadowed(&q);
	q = open_queue(&r);
	FAILS(try_queue_with(&r, EXMAP_NVME_SHADOW), EINVAL);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

CASE(nvme_shadow_doorbells_of_a_dead_queue_are_nobodys)
{
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_shadowed(&r), next;
	struct exmap_nvme_reset reset = { .flags = 0 };

	alloc_all(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	CHECK(!ioctl(q.fd, EXMAP_IOCTL_NVME_RESET, &reset));
	next = open_shadowed(&r);
	memset(q.shadow, 0xff, PAGE);
	CHECK(q.event_idx[8] == q.event_idx[9]);
	CHECK(!next.shadow[next.info.sq_doorbell] && !next.shadow[PAGE - 1]);
	CHECK(!transfer(&next, &r, READ_COMMAND, 0, 1, 0));
	close_shadowed(&q);
	CHECK(!transfer(&next, &r, READ_COMMAND, 0, 1, 0));
}

/*
 * Rubbish in the tails of all submission queues, or in the heads of all completion queues, but
 * never in both at once: then a queue is neither empty nor full, QEMU 7.2 runs commands without
 * end in its main loop, and the guest's CPUs wait for its lock for minutes or for good.
 */
static void write_rubbish(volatile __u32 *shadows, unsigned int which, int shift)
{
	unsigned int k;

	for (k = !which; k < PAGE / 4; k += 2)
		shadows[k] = 0;
	for (k = which; k < PAGE / 4; k += 2)
		shadows[k] = (__u32)random() >> shift;
}

static void spoil(void *arg)
{
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_shadowed(&r), other = open_shadowed(&r);
	unsigned int i;

	alloc_all(&r);
	fill(&r, 0, SPOILT_PAGES, 99);
	for (i = 0; i < 100; i++) {
		write_rubbish((volatile __u32 *)q.shadow, i / 10 % 2, *(int *)arg);
		/* both queues are to look */
		*(volatile __u32 *)(q.doorbells + q.info.sq_doorbell) = i % DEPTH;
		*(volatile __u32 *)(q.doorbells + other.info.sq_doorbell) = i % DEPTH;
		*(volatile __u32 *)(q.doorbells + q.info.cq_doorbell) = i % DEPTH;
		usleep(1000);
	}
	/* one that deletes a queue while the admin queue's shadows are rubbish */
	close(try_queue_with(&r, EXMAP_NVME_SHADOW));
	CHECK(filled(&r, 0, SPOILT_PAGES, 99));
}

CASE(nvme_rubbish_in_shadow_doorbells_harms_its_owner_alone)
{
	char *canary = mmap(NULL, 256 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct region r = pool_of(SPOILT_PAGES);
	struct queue q = open_queue(&r);
	int shift;
	size_t i;

	CHECK(canary != MAP_FAILED);
	memset(canary, 0x44, 256 * PAGE);
	alloc_all(&r);
	fill(&r, 0, 8, 12);
	CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, 8, 0));
	close_queue(&q);
	srandom(5);
	/* values of all sizes, and such that may lie in a queue */
	for (shift = 0; shift <= 24; shift += 12) {
		time_t begin = now();
		int status = in_child(spoil, &shift);

		printf("shift %d: %d, %ld s\n", shift, status, (long)(now() - begin));
		CHECK(!status || WEXITSTATUS(status) == SKIP);
		q = open_queue(&r);
		memset(r.mem, 0, 8 * PAGE);
		CHECK(!transfer(&q, &r, READ_COMMAND, 0, 8, 0));
		CHECK(filled(&r, 0, 8, 12));
		close_queue(&q);
	}
	for (i = 0; i < 256 * PAGE; i++)
		CHECK(canary[i] == 0x44);
}
