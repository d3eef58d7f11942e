// SPDX-License-Identifier: MIT
/* Queues of a controller, and controllers that the kernel drives. */
#define _GNU_SOURCE
#include "../abi/nvme_queue.h"
#include "faults.h"

static struct region r;
static int fd;

static long call_queue(void)
{
	return try_queue(&r);
}

static void finish_queue(long ret)
{
	/* whatever was left half made, another one can be had, and works */
	struct queue q = ret < 0 ? open_queue(&r) : map_all((int)ret);

	fill(&r, 0, 8, 1);
	CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, 8, 0));
	close_queue(&q);
	check_conserved(r.fd);
}

CASE(faults_nvme_queue)
{
	r = pool_of(64);
	alloc_all(&r);
	/* with what the first queue of a controller makes for all others, and without */
	fail_each(&(struct probe){ .call = call_queue, .finish = finish_queue });
}

static long call_map(void)
{
	void *sq = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, EXMAP_NVME_OFF_SQ);

	return sq == MAP_FAILED ? -1 : munmap(sq, PAGE);
}

CASE(faults_nvme_queue_mmap)
{
	r = pool_of(64);
	fd = try_queue(&r);
	CHECK(fd >= 0);
	fail_each(&(struct probe){ .call = call_map });
	CHECK(!close(fd));
}

static struct exmap_nvme_backing backing_args(void)
{
	struct exmap_nvme_open at = open_args();

	return (struct exmap_nvme_backing){ .segment = at.segment, .bus = at.bus,
					    .device = at.device, .function = at.function };
}

static struct exmap_nvme_backing args;

static long call_backing(void)
{
	return ioctl(fd, EXMAP_IOCTL_NVME_BACKING, &args);
}

static void finish_backing(long ret)
{
	static char block[PAGE] __attribute__((aligned(4096)));

	if (ret < 0)
		ret = call_backing();
	CHECK(ret >= 0);
	CHECK(pread((int)ret, block, PAGE, 0) == (ssize_t)PAGE);
	CHECK(!close((int)ret));
}

CASE(faults_nvme_backing)
{
	fd = open("/dev/exmap", O_RDWR);
	CHECK(fd >= 0);
	args = backing_args();
	fail_each(&(struct probe){ .call = call_backing, .finish = finish_backing });
}

static int backing;

static void prepare_setup(void)
{
	fd = open("/dev/exmap", O_RDWR);
	CHECK(fd >= 0);
}

static long call_setup(void)
{
	return set_up(fd, 64, 1, 0, backing);
}

static void finish_setup(long ret)
{
	if (ret < 0)
		CHECK(!call_setup());
	check_conserved(fd);
	CHECK(!close(fd));
	CHECK(!locked_bytes());
}

CASE(faults_setup_on_a_controller)
{
	prepare_setup();
	args = backing_args();
	backing = (int)call_backing();
	CHECK(backing >= 0);
	CHECK(!close(fd));
	fail_each(&(struct probe){ .prepare = prepare_setup, .call = call_setup,
				   .finish = finish_setup });
}

static unsigned int opcode;

static long call_action(void)
{
	r.itf[0]->iov[0].page = 0;
	r.itf[0]->iov[0].len = 8;
	return act(&r, 0, opcode, 1, 0);
}

static void finish_action(long ret)
{
	CHECK(ret <= 0 || r.itf[0]->iov[0].res < 0);
	CHECK(!one(&r, 0, opcode, 0, 8, 0, NULL));
	check_conserved(r.fd);
	if (opcode == EXMAP_OP_READ)
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 8, 0, NULL));
}

CASE(faults_read_and_write_on_a_controller)
{
	prepare_setup();
	args = backing_args();
	backing = (int)call_backing();
	CHECK(backing >= 0);
	r = open_region(512, 64, 1, 0, backing);
	opcode = EXMAP_OP_READ;
	fail_each(&(struct probe){ .call = call_action, .finish = finish_action,
				   .may_need_nothing = true });
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	opcode = EXMAP_OP_WRITE;
	fail_each(&(struct probe){ .call = call_action, .finish = finish_action,
				   .may_need_nothing = true });
}

static char block[PAGE] __attribute__((aligned(4096)));

static long call_pread(void)
{
	return pread(backing, block, PAGE, 0);
}

CASE(faults_pread_of_a_controller)
{
	prepare_setup();
	args = backing_args();
	backing = (int)call_backing();
	CHECK(backing >= 0);
	fail_each(&(struct probe){ .call = call_pread, .error = EIO });
}
