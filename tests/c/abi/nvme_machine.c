// SPDX-License-Identifier: MIT
/* NVMe queues on machines of a kind: slow disks, no interrupt remapping. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <signal.h>
#include <sys/wait.h>

enum { SLOW_READS = 128, SLOW_POOL = 256 };

static void read_slowly_until_killed(int ready)
{
	struct region r = pool_of(SLOW_POOL);
	struct queue q = open_queue(&r);
	unsigned int i;

	alloc_all(&r);
	write_poison(&r, &q, 8);
	for (i = 0; i < SLOW_READS; i++)
		add(&q, &r, READ_COMMAND, SLOW_POOL - SLOW_READS + i, 1, i % 8);
	ring(&q);
	CHECK(write(ready, "", 1) == 1);
	pause();
}

static long milliseconds(void)
{
	struct timespec time;

	CHECK(!clock_gettime(CLOCK_MONOTONIC, &time));
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* On a disk of ci/vm run --nvme SIZE:slow, with EXMAP_SLOW_DISK=1. */
CASE(nvme_owner_killed_on_a_slow_device_is_gone_in_time)
{
	const size_t size = 4 * SLOW_POOL * PAGE;
	int ends[2], status, round;
	char byte;
	long begin;

	if (!getenv("EXMAP_SLOW_DISK")) {
		puts("EXMAP_SLOW_DISK does not say that the disk is slow");
		_exit(SKIP);
	}
	CHECK(!pipe(ends));
	for (round = 0; round < 3; round++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (!child)
			read_slowly_until_killed(ends[1]);
		CHECK(read(ends[0], &byte, 1) == 1);
		begin = milliseconds();
		CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
		printf("killed with %d reads in flight: gone after %ld ms\n", SLOW_READS,
		       milliseconds() - begin);
		CHECK(WIFSIGNALED(status) && milliseconds() - begin < 10000);
		check_refilled_memory(size);
	}
}

/* How often a processor has run IRQ work by interrupt; the vector is X86's IRQ_WORK_VECTOR. */
static unsigned long irq_work(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	unsigned long count, sum = 0;
	char line[512], *at;

	CHECK(file);
	while (fgets(line, sizeof(line), file)) {
		int used;

		at = strstr(line, "IWI:");
		for (at = at ? at + 4 : NULL; at && sscanf(at, "%lu%n", &count, &used) == 1; at += used)
			sum += count;
	}
	fclose(file);
	return sum;
}

static bool has_unsafe_interrupts(void)
{
	int fd = open("/sys/module/exmap/parameters/unsafe_interrupts", O_RDONLY);
	char value = 0;

	CHECK(fd >= 0 && read(fd, &value, 1) == 1 && !close(fd));
	return value == 'Y';
}

/* With EXMAP_NO_REMAPPING=1, in a guest whose kernel was told intremap=off. */
CASE(nvme_owner_without_interrupt_remapping_is_refused_or_can_raise_any_interrupt)
{
	enum { IRQ_WORK_VECTOR = 0xf6 };
	const __u64 interrupts = 0xfee00000;
	struct region r = pool_of(64);
	unsigned long before;
	struct queue q;
	unsigned int i;

	if (!getenv("EXMAP_NO_REMAPPING")) {
		puts("EXMAP_NO_REMAPPING does not say that interrupts are not remapped");
		_exit(SKIP);
	}
	if (!has_unsafe_interrupts()) {
		FAILS(try_queue(&r), EPERM);
		return;
	}
	q = open_queue(&r);
	alloc_all(&r);
	for (i = 0; i < PAGE / 4; i++)
		((__u32 *)r.mem)[i] = IRQ_WORK_VECTOR;
	CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, 1, 0));
	before = irq_work();
	for (i = 0; i < 10; i++) {
		add(&q, &r, READ_COMMAND, 0, 1, 0);
		q.sq[i + 1].prp1 = interrupts;
		q.sq[i + 1].blocks = 0;
		ring(&q);
		reap(&q); /* whatever it says */
	}
	printf("%lu interrupts of the owner's choice\n", irq_work() - before);
	CHECK(irq_work() - before >= 10);
}
