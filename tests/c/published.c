// SPDX-License-Identifier: MIT
/* A client of the published exmap ABI.  Usage: published BACKING (a file of 64 pages or more). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "published_exmap.h"

#define PAGE 4096ul
#define POOL 2048ul
#define PAGES (10 * POOL)
#define THREADS 2
#define OFFSET(interface, opcode) ((off_t)((interface) | (opcode) << 8))

#define CHECK(condition)                                                                   \
	do {                                                                               \
		if (!(condition)) {                                                        \
			printf("%s:%d: %s: errno %d (%s)\n", __FILE__, __LINE__, #condition, \
			       errno, strerror(errno));                                    \
			exit(1);                                                           \
		}                                                                          \
	} while (0)

static int fd;
static char *mem;
static struct exmap_user_interface *itf[THREADS];

static int action(int exmap, int interface, int opcode, int len)
{
	struct exmap_action_params params = {
		.interface = interface,
		.iov_len = len,
		.opcode = opcode,
	};

	return ioctl(exmap, ACTION, &params);
}

static void fill(int interface, uint64_t first)
{
	int i;

	for (i = 0; i < 512; i++) {
		itf[interface]->iov[i].page = first + i;
		itf[interface]->iov[i].len = 1;
	}
}

static void *worker(void *arg)
{
	long id = (long)arg;
	int round, i;

	for (round = 0; round < 50; round++) {
		fill(id, id * 512);
		CHECK(action(fd, id, OP_ALLOC, 512) == 0);
		for (i = 0; i < 512; i++) {
			CHECK(itf[id]->iov[i].res == 0);
			CHECK(itf[id]->iov[i].pages == 1);
			mem[(id * 512 + i) * PAGE]++;
		}
		fill(id, id * 512);
		CHECK(action(fd, id, OP_FREE, 512) == 0);
	}
	return NULL;
}

static void set_up(const char *backing)
{
	struct exmap_ioctl_setup setup = { .max_interfaces = THREADS, .buffer_size = POOL };
	long i;

	fd = open("/dev/exmap", O_RDWR);
	CHECK(fd >= 0);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, OFF_EXMAP);
	CHECK(mem != MAP_FAILED);
	CHECK(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, OFF_EXMAP) == MAP_FAILED);
	CHECK(errno == EBUSY);
	CHECK(action(fd, 0, OP_ALLOC, 0) == -1 && errno == EBADF);
	setup.fd = open(backing, O_RDWR);
	CHECK(setup.fd >= 0);
	CHECK(ioctl(fd, SETUP, &setup) == 0);
	for (i = 0; i < THREADS; i++) {
		itf[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, OFF_INTERFACE(i));
		CHECK(itf[i] != MAP_FAILED);
	}
}

static void stats_and_clone(void)
{
	struct exmap_ioctl_stats stats;
	int other = open("/dev/exmap", O_RDWR);

	CHECK(ioctl(fd, STATS, &stats) == 0);
	CHECK(stats.buffer_size == POOL && stats.max_interfaces == THREADS);
	CHECK(other >= 0);
	CHECK(ioctl(other, CLONE, fd) == 0);
	itf[0]->iov[0].page = 3000;
	itf[0]->iov[0].len = 5;
	CHECK(action(other, 0, OP_ALLOC, 1) == 0);
	CHECK(itf[0]->iov[0].pages == 5);
	itf[0]->iov[0].page = 3000;
	itf[0]->iov[0].len = 5;
	CHECK(action(fd, 0, OP_FREE, 1) == 0);
	CHECK(itf[0]->iov[0].pages == 5);
	close(other);
}

static void reads(void)
{
	struct iovec vec[2] = { { mem + 8 * PAGE, PAGE }, { mem + 20 * PAGE, 2 * PAGE } };

	CHECK(pread(fd, mem + 5000 * PAGE, 4 * PAGE, OFFSET(1, OP_ALLOC)) == 4 * (ssize_t)PAGE);
	mem[5003 * PAGE] = 1;
	CHECK(pread(fd, mem + 7 * PAGE, PAGE, OFFSET(1, OP_READ)) == (ssize_t)PAGE);
	CHECK(mem[7 * PAGE + 9] == 7);
	CHECK(preadv(fd, vec, 2, OFFSET(0, OP_READ)) == 3 * (ssize_t)PAGE);
	CHECK(mem[8 * PAGE] == 8 && mem[20 * PAGE] == 20 && mem[21 * PAGE] == 21);
}

/* ALLOC of a range through io_uring, with nothing but system calls. */
static void uring(void)
{
	struct io_uring_params params = { 0 };
	struct exmap_uring_cmd cmd = { .iov = { mem + 6000 * PAGE, 16 * PAGE } };
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	char *sq, *cq;
	int ring;

	ring = syscall(SYS_io_uring_setup, 4, &params);
	CHECK(ring >= 0);
	sq = mmap(NULL, params.sq_off.array + 4 * sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED,
		  ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + 8 * sizeof(*cqes), PROT_READ | PROT_WRITE, MAP_SHARED,
		  ring, IORING_OFF_CQ_RING);
	sqes = mmap(NULL, 4 * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	CHECK(sq != MAP_FAILED && cq != MAP_FAILED && sqes != MAP_FAILED);

	memset(&sqes[0], 0, sizeof(sqes[0]));
	sqes[0].opcode = IORING_OP_URING_CMD;
	sqes[0].fd = fd;
	sqes[0].cmd_op = 1 | OP_ALLOC << 8;
	memcpy(&sqes[0].cmd, &cmd, sizeof(cmd));
	*(uint32_t *)(sq + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	CHECK(__atomic_load_n((uint32_t *)(cq + params.cq_off.tail), __ATOMIC_ACQUIRE) == 1);
	CHECK(cqes[0].res == 16 * (int)PAGE);
	mem[6015 * PAGE] = 1;
	close(ring);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	long i;

	CHECK(argc == 2);
	set_up(argv[1]);
	for (i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, worker, (void *)i));
	for (i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	stats_and_clone();
	reads();
	uring();
	puts("published: ok");
	return 0;
}
