// SPDX-License-Identifier: MIT
/* io_uring: commands to a region, and its pages as buffers of other requests. */
#define _GNU_SOURCE
#include "abi.h"
#include "disk.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define ENTRIES 8
#define READ_WORD(r, page) __atomic_load_n(&(r)->words[page], __ATOMIC_ACQUIRE)
#define AT(interface, opcode) ((__u32)((interface) | (opcode) << 8))

struct ring {
	int fd;
	struct io_uring_params params;
	char *sq;
	char *cq;
	struct io_uring_sqe *sqes;
};

static struct ring open_ring(void)
{
	struct ring ring = { .fd = -1 };
	const int protection = PROT_READ | PROT_WRITE;

	ring.fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &ring.params);
	if (ring.fd < 0 && (errno == ENOSYS || errno == EPERM)) {
		puts("io_uring is disabled here");
		_exit(SKIP);
	}
	CHECK(ring.fd >= 0);
	ring.sq = mmap(NULL, ring.params.sq_off.array + ENTRIES * sizeof(__u32), protection,
		       MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, ring.params.cq_off.cqes + 2 * ENTRIES * sizeof(struct io_uring_cqe),
		       protection, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, ENTRIES * sizeof(*ring.sqes), protection, MAP_SHARED, ring.fd,
			 IORING_OFF_SQES);
	CHECK(ring.sq != MAP_FAILED && ring.cq != MAP_FAILED && ring.sqes != MAP_FAILED);
	return ring;
}

static __u32 *word_at(char *base, __u32 offset)
{
	return (__u32 *)(base + offset);
}

static void submit(struct ring *ring, const struct io_uring_sqe *sqe)
{
	__u32 *tail = word_at(ring->sq, ring->params.sq_off.tail);
	__u32 slot = *tail % ring->params.sq_entries;

	ring->sqes[slot] = *sqe;
	word_at(ring->sq, ring->params.sq_off.array)[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE); /* pairs with the kernel's acquire */
	CHECK(syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1);
}

/* Submit one request and wait for its result. */
static int run(struct ring *ring, const struct io_uring_sqe *sqe)
{
	__u32 *head = word_at(ring->cq, ring->params.cq_off.head);
	__u32 *tail = word_at(ring->cq, ring->params.cq_off.tail);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(ring->cq + ring->params.cq_off.cqes);
	int result;

	submit(ring, sqe);
	CHECK(!syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	/* pairs with the kernel's release */
	CHECK(__atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head + 1);
	result = cqes[*head % ring->params.cq_entries].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static struct io_uring_sqe command(struct region *r, __u32 cmd_op, void *base, size_t len)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_URING_CMD, .fd = r->fd, .cmd_op = cmd_op };
	struct iovec payload = { base, len };

	memcpy(&sqe.cmd, &payload, sizeof(payload));
	return sqe;
}

/* A command over a range of the region. */
static int range(struct ring *ring, struct region *r, __u32 cmd_op, __u64 page, size_t bytes)
{
	struct io_uring_sqe sqe = command(r, cmd_op, r->mem + page * PAGE, bytes);

	return run(ring, &sqe);
}

/* A command over a vector of iovs in registered buffer @index. */
static int vector(struct ring *ring, struct region *r, __u32 cmd_op, unsigned int index, void *base,
		  size_t bytes)
{
	struct io_uring_sqe sqe = command(r, cmd_op, base, bytes);

	sqe.uring_cmd_flags = IORING_URING_CMD_FIXED;
	sqe.buf_index = (__u16)index;
	return run(ring, &sqe);
}

static int plain(struct ring *ring, unsigned int opcode, int fd, __u64 offset, void *base, size_t bytes)
{
	struct io_uring_sqe sqe = {
		.opcode = (__u8)opcode,
		.fd = fd,
		.off = offset,
		.addr = (__u64)(unsigned long)base,
		.len = (__u32)bytes,
	};

	return run(ring, &sqe);
}

static int register_buffer(struct ring *ring, void *base, size_t bytes)
{
	struct iovec buffer = { base, bytes };

	return (int)syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &buffer, 1);
}

static struct exmap_iov *registered_iovs(struct ring *ring)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	CHECK(!register_buffer(ring, page, PAGE));
	return page;
}

/* @n iovs of one page each, at every @stride-th page from @first on. */
static void fill(struct exmap_iov *iov, unsigned int n, __u64 first, unsigned int stride)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		iov[i].value = first + i * stride;
		iov[i].len = 1;
	}
}

CASE(uring_ranges_give_the_bytes_that_changed)
{
	int backing = backing_file(100);
	struct region r = open_region(8192, 6000, 2, 0, backing);
	struct ring ring = open_ring();
	char content[PAGE];
	unsigned int i;

	CHECK(range(&ring, &r, AT(1, EXMAP_OP_ALLOC), 10, 16 * PAGE) == 16 * (int)PAGE);
	CHECK(range(&ring, &r, AT(1, EXMAP_OP_ALLOC), 0, 32 * PAGE) == 16 * (int)PAGE);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, 32 * PAGE) == 0);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_FREE), 0, 64 * PAGE) == 32 * (int)PAGE);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_READ), 0, 100 * PAGE) == 100 * (int)PAGE);
	for (i = 0; i < 100; i++)
		CHECK(mapped(&r, i) && (__u8)r.mem[i * PAGE + 4095] == i);
	memset(r.mem + 7 * PAGE, 0xee, PAGE);
	CHECK(range(&ring, &r, AT(1, EXMAP_OP_WRITE), 7, PAGE) == (int)PAGE);
	CHECK(pread(backing, content, PAGE, 7 * PAGE) == (long)PAGE);
	CHECK((__u8)content[0] == 0xee && (__u8)content[4095] == 0xee);
	/* more pages than an iov can name */
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 1000, 5000 * PAGE) == 5000 * (int)PAGE);
	CHECK(mapped(&r, 5999) && !mapped(&r, 6000));
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_FREE), 0, 8192 * PAGE) == 5100 * (int)PAGE);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, 0) == 0);
}

CASE(uring_ranges_that_make_no_sense_are_refused)
{
	struct region r = open_region(1024, 64, 2, 0, -1);
	struct ring ring = open_ring();
	struct io_uring_sqe sqe = command(&r, AT(0, EXMAP_OP_ALLOC), r.mem + 1, PAGE);

	CHECK(run(&ring, &sqe) == -EINVAL);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, 100) == -EINVAL);
	sqe = command(&r, AT(0, EXMAP_OP_ALLOC), r.mem - PAGE, PAGE);
	CHECK(run(&ring, &sqe) == -EFAULT);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 1024, PAGE) == -EFAULT);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 1000, 100 * PAGE) == -EFAULT);
	CHECK(range(&ring, &r, AT(2, EXMAP_OP_ALLOC), 0, PAGE) == -EINVAL);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_UNSHARE + 1), 0, PAGE) == -EINVAL);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC) | 1 << 16, 0, PAGE) == -EINVAL);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_READ), 0, PAGE) == -ENODEV);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_WRITE), 0, PAGE) == -ENODEV);
	CHECK(!counters(&r).mapped);
	/* what was done before the error is reported instead of it */
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, 100 * PAGE) == 64 * (int)PAGE);
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, 100 * PAGE) == -ENOMEM);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	CHECK(range(&ring, &r, AT(0, EXMAP_OP_FREE), 0, PAGE) == -EPROTO);
}

CASE(uring_vectors_come_from_a_registered_buffer_and_carry_the_results)
{
	int backing = backing_file(200), i;
	struct region r = open_region(4096, 1024, 2, 0, backing);
	struct ring ring = open_ring();
	struct exmap_iov *iov = registered_iovs(&ring);
	char content[PAGE];

	fill(iov, 512, 0, 3);
	CHECK(vector(&ring, &r, AT(1, EXMAP_OP_ALLOC), 0, iov, PAGE) == 0);
	for (i = 0; i < 512; i++)
		CHECK(iov[i].res == 0 && iov[i].pages == 1 && mapped(&r, (__u64)i * 3));
	fill(iov, 512, 0, 3);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_FREE), 0, iov, PAGE) == 0);
	for (i = 0; i < 512; i++)
		CHECK(iov[i].res == 0 && iov[i].pages == 1 && !mapped(&r, (__u64)i * 3));
	fill(iov, 300, 0, 1);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_READ), 0, iov, 300 * sizeof(*iov)) == 100);
	for (i = 0; i < 300; i++) {
		CHECK(iov[i].res == (i < 200 ? 0 : -ENXIO) && iov[i].pages == (i < 200));
		CHECK(i >= 200 || (__u8)r.mem[i * PAGE + 9] == i);
	}
	memset(r.mem + 40 * PAGE, 0xee, 10 * PAGE);
	/* a part of the buffer, from its middle */
	fill(iov + 100, 20, 45, 1);
	CHECK(vector(&ring, &r, AT(1, EXMAP_OP_WRITE), 0, iov + 100, 20 * sizeof(*iov)) == 0);
	CHECK(pread(backing, content, PAGE, 44 * PAGE) == (long)PAGE && content[0] == 44);
	CHECK(pread(backing, content, PAGE, 49 * PAGE) == (long)PAGE && (__u8)content[0] == 0xee);
	CHECK(iov[120].res == 0 && iov[120].pages == 1); /* of the READ */
	fill(iov, 2, 199, 1);
	CHECK(vector(&ring, &r, AT(1, EXMAP_OP_WRITE), 0, iov, 2 * sizeof(*iov)) == 1);
	CHECK(iov[0].res == 0 && iov[1].res == -ENOENT);
}

CASE(uring_vectors_that_make_no_sense_are_refused)
{
	struct region r = open_region(1024, 64, 1, 0, -1);
	struct ring ring = open_ring();
	static struct exmap_iov loose[4];
	struct exmap_iov *iov;

	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, loose, sizeof(loose)) == -EFAULT);
	iov = registered_iovs(&ring);
	fill(iov, 512, 0, 1);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 1, iov, 8) == -EFAULT);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, loose, sizeof(loose)) == -EFAULT);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, iov + 511, 16) == -EFAULT);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, iov, 0) == -EINVAL);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, iov, 12) == -EINVAL);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, iov, PAGE + 8) == -EINVAL);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC) | 1 << 31, 0, iov, 8) == -EINVAL);
	CHECK(vector(&ring, &r, AT(1, EXMAP_OP_ALLOC), 0, iov, 8) == -EINVAL);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_READ), 0, iov, 8) == -ENODEV);
	CHECK(!counters(&r).mapped && iov[0].page == 0 && iov[0].len == 1);
	CHECK(vector(&ring, &r, AT(0, EXMAP_OP_ALLOC), 0, iov, 512 * 8) == 512 - 64);
	CHECK(iov[63].res == 0 && iov[63].pages == 1 && iov[64].res == -ENOMEM && !iov[64].pages);
}

CASE(uring_reads_of_the_device_are_preads)
{
	struct region r = open_region(1024, 64, 2, 0, backing_file(10));
	struct ring ring = open_ring();
	struct exmap_iov *iov = registered_iovs(&ring);

	CHECK(plain(&ring, IORING_OP_READ, r.fd, AT(1, EXMAP_OP_READ), r.mem, 10 * PAGE) ==
	      10 * (int)PAGE);
	CHECK(r.mem[9 * PAGE] == 9);
	CHECK(plain(&ring, IORING_OP_READ, r.fd, AT(0, EXMAP_OP_READ), r.mem + 10 * PAGE, PAGE) == -ENXIO);
	CHECK(plain(&ring, IORING_OP_READ, r.fd, AT(0, EXMAP_OP_FREE), r.mem, PAGE) == -EINVAL);
	/* a registered buffer has no addresses of the region */
	CHECK(plain(&ring, IORING_OP_READ_FIXED, r.fd, AT(0, EXMAP_OP_ALLOC), iov, PAGE) == -EINVAL);
	CHECK(counters(&r).mapped == 10);
}

struct inheritance {
	struct region *r;
	struct ring *ring;
	struct exmap_iov *iov;
};

static void use_the_parents_ring(void *arg)
{
	struct inheritance *in = arg;
	struct ring own = open_ring();

	CHECK(range(in->ring, in->r, AT(0, EXMAP_OP_ALLOC), 0, PAGE) == -EPERM);
	/* this one is given to a worker first */
	CHECK(range(in->ring, in->r, AT(0, EXMAP_OP_READ), 0, PAGE) == -EPERM);
	CHECK(range(&own, in->r, AT(0, EXMAP_OP_ALLOC), 0, PAGE) == -EPERM);
	CHECK(range(&own, in->r, AT(0, EXMAP_OP_WRITE), 0, PAGE) == -EPERM);
	CHECK(vector(in->ring, in->r, AT(0, EXMAP_OP_FREE), 0, in->iov, 8) == -EPERM);
}

CASE(uring_commands_of_another_address_space_are_refused)
{
	struct region r = open_region(1024, 64, 1, 0, backing_file(4));
	struct ring ring = open_ring();
	struct inheritance in = { &r, &ring, registered_iovs(&ring) };

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 100, 8, 0, NULL));
	fill(in.iov, 1, 100, 1);
	CHECK(!in_child(use_the_parents_ring, &in));
	CHECK(counters(&r).mapped == 8 && mapped(&r, 100));
}

/* A file of 64 pages, page n full of bytes n, opened with O_DIRECT. */
static int direct_file(void)
{
	const char *directory = getenv("EXMAP_TEST_DIR");
	char *content = aligned_alloc(PAGE, PAGE), path[256];
	int fd, i;

	CHECK(content);
	if (!directory) {
		puts("EXMAP_TEST_DIR names no directory that takes O_DIRECT");
		_exit(SKIP);
	}
	snprintf(path, sizeof(path), "%s/uring-XXXXXX", directory);
	fd = mkostemp(path, O_DIRECT);
	CHECK(fd >= 0 && !unlink(path));
	for (i = 0; i < 64; i++) {
		memset(content, i, PAGE);
		CHECK(pwrite(fd, content, PAGE, i * PAGE) == (long)PAGE);
	}
	free(content);
	return fd;
}

CASE(uring_pages_of_a_region_are_buffers_for_direct_io)
{
	struct region r = open_region(1024, 256, 1, 0, -1);
	struct ring ring = open_ring();
	int fd = direct_file(), i;
	char *content = aligned_alloc(PAGE, PAGE);

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 64, 0, NULL));
	CHECK(plain(&ring, IORING_OP_READ, fd, 0, r.mem, 64 * PAGE) == 64 * (int)PAGE);
	for (i = 0; i < 64; i++)
		CHECK(r.mem[i * PAGE] == i && r.mem[i * PAGE + 4095] == i);
	memset(r.mem, 99, PAGE);
	CHECK(plain(&ring, IORING_OP_WRITE, fd, 5 * PAGE, r.mem, PAGE) == (int)PAGE);
	CHECK(pread(fd, content, PAGE, 5 * PAGE) == (long)PAGE && content[0] == 99 && content[4095] == 99);
	/* an absent page is no buffer, and does not become one */
	CHECK(plain(&ring, IORING_OP_READ, fd, 0, r.mem + 500 * PAGE, PAGE) == -EFAULT);
	CHECK(counters(&r).mapped == 64);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 64, 0, NULL));
	CHECK(counters(&r).free == 256);
}

/* 54d020692b34: before 6.5 io_uring registers no pages of file mappings but those of shmem */
static bool file_pages_can_be_registered(void)
{
	struct utsname name;
	int major, minor;

	CHECK(!uname(&name) && sscanf(name.release, "%d.%d", &major, &minor) == 2);
	return major > 6 || (major == 6 && minor >= 5);
}

CASE(uring_registered_pages_of_a_region_stay_in_quarantine_until_unregistered)
{
	struct region r = open_region(1024, 80, 1, 0, -1);
	struct ring ring = open_ring();
	int fd, i;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 64, 0, NULL));
	if (!file_pages_can_be_registered()) {
		FAILS(register_buffer(&ring, r.mem, 64 * PAGE), EOPNOTSUPP);
		check_conserved(r.fd);
		return;
	}
	FAILS(register_buffer(&ring, r.mem, 128 * PAGE), EFAULT);
	CHECK(!register_buffer(&ring, r.mem, 64 * PAGE));
	fd = direct_file();
	CHECK(plain(&ring, IORING_OP_READ_FIXED, fd, 0, r.mem, 64 * PAGE) == 64 * (int)PAGE);
	for (i = 0; i < 64; i++)
		CHECK(r.mem[i * PAGE] == i);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 64, 0, NULL));
	CHECK(counters(&r).pinned == 64 && counters(&r).quarantine == 64 && counters(&r).free == 16);
	CHECK(one(&r, 0, EXMAP_OP_ALLOC, 512, 17, 0, &i) == -ENOMEM && i == 16);
	memset(r.mem + 512 * PAGE, 0x66, 16 * PAGE);
	/* the device goes on writing to the old frames, and to no other page's */
	CHECK(plain(&ring, IORING_OP_READ_FIXED, fd, 0, r.mem, 64 * PAGE) == 64 * (int)PAGE);
	for (i = 0; i < 16; i++)
		CHECK(r.mem[(512 + i) * PAGE] == 0x66 && r.mem[(512 + i) * PAGE + 4095] == 0x66);
	CHECK(!syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
	for (i = 0; counters(&r).pinned && i < 1000; i++)
		usleep(1000);
	CHECK(!counters(&r).pinned && counters(&r).free == 64);
}

CASE(uring_registers_no_pages_where_absent_ones_show_zeros)
{
	struct region r = open_region(1024, 80, 1, EXMAP_FAULT_ZERO, -1);
	struct ring ring = open_ring();

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 64, 0, NULL));
	CHECK(register_buffer(&ring, r.mem, 64 * PAGE) == -1);
	CHECK(errno == EOPNOTSUPP || errno == EFAULT);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 64, 0, NULL));
	CHECK(!counters(&r).pinned && counters(&r).free == 80);
}

/* Two READs of eight pages each, in the hands of io_uring's workers. */
static void submit_two_reads(struct region *r, struct ring *ring)
{
	struct io_uring_sqe sqe = command(r, AT(0, EXMAP_OP_READ), r->mem, 8 * PAGE);
	struct exmap_iov *iov = registered_iovs(ring);
	int i;

	submit(ring, &sqe);
	fill(iov, 8, 600, 2);
	sqe = command(r, AT(1, EXMAP_OP_READ), iov, 8 * sizeof(*iov));
	sqe.uring_cmd_flags = IORING_URING_CMD_FIXED;
	submit(ring, &sqe);
	for (i = 0; !(READ_WORD(r, 7) & EXMAP_RES_BUSY) || !(READ_WORD(r, 614) & EXMAP_RES_BUSY); i++) {
		CHECK(i < 10000);
		usleep(100);
	}
}

struct victim {
	int disk;
	int started;
};

static void read_until_killed(void *arg)
{
	struct victim *victim = arg;
	struct region r = open_region(1024, 64, 2, 0, victim->disk);
	struct ring ring = open_ring();

	submit_two_reads(&r, &ring);
	CHECK(write(victim->started, "", 1) == 1);
	pause();
}

CASE(uring_reads_in_flight_are_survived_by_kill)
{
	struct victim victim = { .disk = null_disk("1000000000", O_DIRECT) };
	int ends[2], round, status;
	char byte;

	for (round = 0; round < 4; round++) {
		pid_t child;

		CHECK(!pipe(ends));
		victim.started = ends[1];
		child = fork();
		if (!child) {
			read_until_killed(&victim);
			_exit(1);
		}
		close(ends[1]);
		CHECK(read(ends[0], &byte, 1) == 1);
		close(ends[0]);
		CHECK(!kill(child, SIGKILL));
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	open_region(1024, 64, 2, 0, victim.disk);
}

CASE(uring_reads_in_flight_end_though_the_ring_was_closed)
{
	struct region r = open_region(1024, 64, 2, 0, null_disk("1000000000", O_DIRECT));
	struct ring ring = open_ring();
	int i;

	submit_two_reads(&r, &ring);
	CHECK(!close(ring.fd));
	for (i = 0; counters(&r).busy; i++) {
		CHECK(i < 10000);
		usleep(1000);
	}
	CHECK(counters(&r).mapped == 16 && counters(&r).free == 48);
	for (i = 0; i < 8; i++)
		CHECK(r.mem[i * PAGE] == i && (__u8)r.mem[(600 + 2 * i) * PAGE] == (__u8)(600 + 2 * i));
}
