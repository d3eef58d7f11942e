// SPDX-License-Identifier: MIT
/* Owners of NVMe queues that do wrong or die, and controllers that fail. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <signal.h>
#include <sys/wait.h>

enum { VICTIM_PAGES = 2048, VICTIM_QUEUES = 6 };

/* Hold the descriptors until the other end of a pipe is closed. */
static void inherit(int wait)
{
	char byte;

	if (fork())
		return;
	while (read(wait, &byte, 1) > 0)
		;
	_exit(0);
}

struct victim {
	int ends[2];
	bool heir; /* somebody has the queue's descriptor when its owner is gone */
};

static void die_with_reads_in_flight(void *arg)
{
	struct victim *victim = arg;
	struct region r = pool_of(VICTIM_PAGES);
	struct queue q[VICTIM_QUEUES];
	unsigned int i, k, nr;

	CHECK(!close(victim->ends[1]));
	alloc_all(&r);
	for (k = 0; k < VICTIM_QUEUES; k++)
		q[k] = open_queue(&r);
	nr = q[0].info.max_transfer / (unsigned int)PAGE;
	if (nr > 128)
		nr = 128;
	write_poison(&r, &q[0], nr);
	if (victim->heir)
		inherit(victim->ends[0]);
	/* enough to take longer than what the parent does next */
	for (k = 0; k < VICTIM_QUEUES; k++) {
		for (i = 0; i < 250; i++)
			add(&q[k], &r, READ_COMMAND, i * nr % (VICTIM_PAGES - nr + 1), nr, 0);
	}
	for (k = 0; k < VICTIM_QUEUES; k++)
		ring(&q[k]);
	raise(SIGKILL);
}

CASE(nvme_reads_in_flight_do_not_outlive_their_owner)
{
	const size_t size = 4 * VICTIM_PAGES * PAGE;
	struct victim victim;
	unsigned int round;

	controller();
	for (round = 0; round < 6; round++) {
		int status;

		CHECK(!pipe(victim.ends));
		victim.heir = round % 2;
		status = in_child(die_with_reads_in_flight, &victim);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		check_refilled_memory(size);
		CHECK(!close(victim.ends[0]) && !close(victim.ends[1]));
	}
}

CASE(nvme_errors_of_commands_are_completions)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	struct command *c;

	alloc_all(&r);
	next_command(&q)->opcode = NO_COMMAND;
	ring(&q);
	CHECK(reap(&q));
	add(&q, &r, READ_COMMAND, 0, 1, 0);
	q.sq[1].lba = q.info.namespace_lbas;
	ring(&q);
	CHECK(reap(&q));
	add(&q, &r, WRITE_COMMAND, 0, 1, 0);
	q.sq[2].lba = q.info.namespace_lbas;
	ring(&q);
	CHECK(reap(&q));
	add(&q, &r, READ_COMMAND, 0, 1, 0);
	c = &q.sq[3];
	c->nsid = 0x1234;
	ring(&q);
	CHECK(reap(&q));
	/* beyond the queue: ignored */
	*(volatile __u32 *)(q.doorbells + q.info.sq_doorbell) = DEPTH + 100;
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	CHECK(!info_of(q.fd).error);
}

CASE(nvme_reset_ends_all_queues_and_a_new_one_works)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r), other = open_queue(&r);
	struct exmap_nvme_reset reset = { .flags = 1 };

	alloc_all(&r);
	CHECK(!transfer(&other, &r, READ_COMMAND, 0, 1, 0));
	FAILS(ioctl(q.fd, EXMAP_IOCTL_NVME_RESET, &reset), EINVAL);
	reset.flags = 0;
	CHECK(!ioctl(q.fd, EXMAP_IOCTL_NVME_RESET, &reset));
	FAILS(ioctl(other.fd, EXMAP_IOCTL_NVME_RESET, &reset), EIO);
	CHECK(info_of(q.fd).error == EIO && info_of(other.fd).error == EIO);
	/* nothing traps, and nothing comes */
	add(&other, &r, READ_COMMAND, 0, 1, 0);
	ring(&other);
	CHECK(reap_within(&other, 1) == -1);
	/* not even with queues of the same numbers */
	close_queue(&q);
	q = open_queue(&r);
	CHECK(q.info.qid == 1 && !q.info.error);
	ring(&other);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	close_queue(&other);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

CASE(nvme_doorbells_of_a_dead_queue_ring_nothing)
{
	struct region r = pool_of(64);
	struct queue dead = open_queue(&r), next;
	struct exmap_nvme_reset reset = { .flags = 0 };

	alloc_all(&r);
	CHECK(!transfer(&dead, &r, READ_COMMAND, 0, 1, 0));
	CHECK(!ioctl(dead.fd, EXMAP_IOCTL_NVME_RESET, &reset));
	next = open_queue(&r);
	CHECK(next.info.qid == dead.info.qid);
	add(&next, &r, READ_COMMAND, 0, 1, 0);
	/* its successor has a command that it could start */
	*(volatile __u32 *)(dead.doorbells + dead.info.sq_doorbell) = 1;
	CHECK(reap_within(&next, 1) == -1);
	ring(&next);
	CHECK(!reap(&next));
}

/* Whoever has a doorbell can ring the admin queue's, which lies in the same page. */
CASE(nvme_admin_commands_are_not_run_again)
{
	enum { ADMIN_DEPTH = 32 };
	struct region r = pool_of(64);
	struct queue q = open_queue(&r), other = open_queue(&r);
	unsigned int i;

	alloc_all(&r);
	close_queue(&other);
	other = open_queue(&r);
	for (i = 0; i < 3; i++)
		CHECK(!transfer(&other, &r, READ_COMMAND, i, 1, i));
	memset(r.mem, 0x55, 3 * PAGE);
	/* all around, over the commands that have made and deleted the queues */
	for (i = 0; i < ADMIN_DEPTH; i++)
		*(volatile __u32 *)(q.doorbells) = i;
	usleep(100000);
	/* a queue that was made again would begin with what it has done before */
	CHECK(!transfer(&other, &r, READ_COMMAND, 3, 1, 0));
	for (i = 0; i < 3 * PAGE; i++)
		CHECK(r.mem[i] == 0x55);
	CHECK(!info_of(other.fd).error && !info_of(q.fd).error);
}

CASE(nvme_owner_who_takes_no_completions_stalls_himself)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r), other = open_queue(&r);
	unsigned int i;

	alloc_all(&r);
	/* three times what the queues hold, over commands that nobody has waited for */
	for (i = 0; i < 3 * DEPTH; i++) {
		add(&q, &r, READ_COMMAND, i % 64, 1, i % 1000);
		if (i % 50 == 0)
			ring(&q);
	}
	ring(&q);
	for (i = 0; i < 100; i++)
		CHECK(!transfer(&other, &r, READ_COMMAND, 0, 1, i));
	CHECK(!info_of(q.fd).error);
	close_queue(&q);
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

CASE(nvme_function_reset_by_somebody_else_ends_the_queues)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	char path[96];

	alloc_all(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/reset", controller());
	if (access(path, W_OK)) {
		puts("this function cannot be reset alone");
		_exit(SKIP);
	}
	put(path, "1");
	CHECK(info_of(q.fd).error == EIO);
	ring(&q);
	close_queue(&q);
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

CASE(nvme_device_that_is_removed_ends_the_queues_and_comes_back)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	char path[96];
	unsigned int i;

	alloc_all(&r);
	for (i = 0; i < 200; i++)
		add(&q, &r, READ_COMMAND, i % 64, 1, i);
	ring(&q);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", controller());
	put(path, "1");
	CHECK(info_of(q.fd).error == ENODEV);
	ring(&q);
	close_queue(&q);
	put("/sys/bus/pci/rescan", "1");
	/* it comes back to the stock driver */
	CHECK(!close(open_stock(controller())));
	give_to(controller(), "nvme", "exmap-nvme");
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

static void set_command(const char *name, __u16 command)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", name);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0 && pwrite(fd, &command, 2, 4) == 2 && !close(fd));
}

/*
 * Nearly as when it is pulled out: nothing completes, and registers read as ones, or, on
 * QEMU, as zeros, which is a controller that somebody has reset.
 */
CASE(nvme_device_that_does_not_answer_ends_the_queues)
{
	enum { NOTHING = 0, MEMORY_AND_MASTER = 6 };
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	unsigned int i;
	__u32 error;

	alloc_all(&r);
	for (i = 0; i < 200; i++)
		add(&q, &r, READ_COMMAND, i % 64, 1, i);
	ring(&q);
	set_command(controller(), NOTHING);
	error = info_of(q.fd).error;
	ring(&q);
	set_command(controller(), MEMORY_AND_MASTER);
	CHECK(error == ENODEV || error == EIO);
	close_queue(&q);
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

enum { STABLE_PAGES = 32, KILLS = 10, MANY_KILLS = 200 };

/* Reads everything, writes beyond what is to stay, until somebody ends it. */
static void work_until_killed(void *arg)
{
	struct region r = pool_of(256);
	struct queue q = open_queue(&r);
	unsigned int i = 0, in_flight = 0;

	(void)arg;
	alloc_all(&r);
	for (;; i++) {
		int write = i % 3 == 0;

		add(&q, &r, write ? WRITE_COMMAND : READ_COMMAND, i % 248, 1 + i % 8,
		    write ? STABLE_PAGES + i % 500 : i % 500);
		ring(&q);
		if (++in_flight < 100)
			continue;
		CHECK(!reap(&q));
		in_flight--;
	}
}

static void kill_after(unsigned int microseconds)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		work_until_killed(NULL);
		_exit(1);
	}
	usleep(microseconds);
	CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

CASE(nvme_next_owner_finds_all_well_whenever_the_last_one_was_killed)
{
	unsigned int round, rounds = getenv("EXMAP_SLOW") ? MANY_KILLS : KILLS;

	controller();
	srandom(7);
	for (round = 0; round < rounds; round++) {
		struct region r = pool_of(64);
		struct queue q = open_queue(&r);

		alloc_all(&r);
		memset(r.mem, 0, STABLE_PAGES * PAGE);
		if (round) {
			CHECK(!transfer(&q, &r, READ_COMMAND, 0, STABLE_PAGES, 0));
			CHECK(filled(&r, 0, STABLE_PAGES, round));
		}
		fill(&r, 0, STABLE_PAGES, round + 1);
		CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, STABLE_PAGES, 0));
		close_queue(&q);
		CHECK(!munmap(r.mem, r.pages * PAGE) && !close(r.fd));
		kill_after((unsigned int)random() % 60000);
	}
}
