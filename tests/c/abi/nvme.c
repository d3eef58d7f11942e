// SPDX-License-Identifier: MIT
/* Queues of NVMe controllers that are bound to exmap-nvme. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <signal.h>

CASE(nvme_info_tells_the_geometry)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	struct exmap_nvme_info wrong = { .flags = 1 };

	CHECK(q.info.lba_size == 512 || q.info.lba_size == 4096);
	CHECK(q.info.namespace_lbas && q.info.nsid && q.info.qid && !q.info.error);
	CHECK(q.info.depth == DEPTH && q.info.prp_pages == DEPTH);
	CHECK(q.info.max_transfer >= PAGE && q.info.max_transfer % PAGE == 0);
	CHECK(q.info.doorbell_stride >= 4 && q.info.cq_doorbell == q.info.sq_doorbell + q.info.doorbell_stride);
	CHECK(q.info.cq_doorbell + 4 <= q.info.doorbell_bytes);
	FAILS(ioctl(q.fd, EXMAP_IOCTL_NVME_INFO, &wrong), EINVAL);
	FAILS(ioctl(q.fd, EXMAP_IOCTL_INFO, &wrong), ENOTTY);
}

CASE(nvme_open_refuses_what_does_not_exist)
{
	struct region r = pool_of(64), other = pool_of(64);
	struct exmap_nvme_open args = open_args(), wrong;
	int fd;

#define REFUSES(field, value, error)                                             \
	do {                                                                     \
		wrong = args;                                                    \
		wrong.field = value;                                             \
		FAILS(ioctl(r.fd, EXMAP_IOCTL_NVME_OPEN, &wrong), error);        \
	} while (0)
	REFUSES(flags, 4, EINVAL);
	REFUSES(eventfd, 1, EINVAL);
	REFUSES(reserved8, 1, EINVAL);
	REFUSES(reserved32, 1, EINVAL);
	REFUSES(reserved[2], 1, EINVAL);
	REFUSES(depth, 1, EINVAL);
	REFUSES(depth, EXMAP_NVME_MAX_DEPTH + 1, EINVAL);
	REFUSES(prp_pages, EXMAP_NVME_MAX_PRP_PAGES + 1, EINVAL);
	REFUSES(device, 32, EINVAL);
	REFUSES(function, 8, EINVAL);
	REFUSES(bus, 0xfe, ENODEV);
	REFUSES(segment, 7, ENODEV);
#undef REFUSES
	/* one controller, one owner */
	fd = try_queue(&r);
	CHECK(fd >= 0);
	FAILS(try_queue(&other), EBUSY);
	CHECK(!close(fd));
	fd = try_queue(&other);
	CHECK(fd >= 0);
	FAILS(try_queue(&r), EBUSY);
}

CASE(nvme_queues_are_as_many_as_the_controller_has)
{
	struct region r = pool_of(64);
	int fds[65], nr, again;

	for (nr = 0; nr < 65; nr++) {
		fds[nr] = try_queue(&r);
		if (fds[nr] < 0)
			break;
		CHECK(info_of(fds[nr]).qid == (__u32)nr + 1);
	}
	CHECK(nr >= 1 && nr < 65 && errno == ENOSPC);
	CHECK(!close(fds[0]));
	again = try_queue(&r);
	CHECK(again >= 0 && info_of(again).qid == 1);
	FAILS(try_queue(&r), ENOSPC);
}

CASE(nvme_queue_is_mapped_as_documented)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	const int rw = PROT_READ | PROT_WRITE;

	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_CQ), EACCES);
	FAILS(mprotect((void *)q.cq, PAGE, rw), EACCES);
	FAILS(mmap(NULL, PAGE, rw, MAP_PRIVATE, q.fd, EXMAP_NVME_OFF_SQ), EINVAL);
	/* 7.2 refuses to execute any file like this one, before it asks us */
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SQ) == MAP_FAILED);
	CHECK(errno == EINVAL || errno == EPERM);
	FAILS(mmap(NULL, DEPTH * 64 + PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SQ), EINVAL);
	FAILS(mmap(NULL, 4 * PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_DOORBELLS), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_PRP + DEPTH * PAGE), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SHADOW), EINVAL);
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, q.fd, EXMAP_NVME_OFF_EVENT_IDX), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, 0x60000000), EINVAL);
	CHECK(!touch_signal((char *)q.sq, true) && !touch_signal((char *)q.prp, true));
	CHECK(!touch_signal((char *)q.cq, false));
}

struct inherited {
	struct queue *q;
	bool copied; /* the mapping of the PRP lists */
};

static void use_as_a_child(void *arg)
{
	const struct inherited *inherited = arg;
	struct queue *q = inherited->q;
	struct exmap_nvme_info info = { .flags = 0 };

	FAILS(ioctl(q->fd, EXMAP_IOCTL_NVME_INFO, &info), EPERM);
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, q->fd, EXMAP_NVME_OFF_SQ), EPERM);
	CHECK(touch_signal((char *)q->sq, true) == SIGSEGV);
	CHECK(touch_signal(q->doorbells, true) == SIGSEGV);
	/* if the parent's madvise brought this one along, it is empty */
	CHECK(touch_signal((char *)q->prp, true) == (inherited->copied ? SIGBUS : SIGSEGV));
}

CASE(nvme_queue_is_of_no_use_to_a_child)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	struct inherited inherited = { .q = &q };

	q.prp[0] = 1;
	inherited.copied = let_fork_copy(q.prp, PAGE);
	FAILS(madvise(q.doorbells, PAGE, MADV_DOFORK), EINVAL);
	CHECK(!in_child(use_as_a_child, &inherited));
	CHECK(q.prp[0] == 1);
}

CASE(nvme_reads_what_was_written)
{
	struct region r = pool_of(600);
	struct queue q = open_queue(&r);
	unsigned int most = q.info.max_transfer / (unsigned int)PAGE, i;
	static const unsigned int sizes[] = { 1, 2, 3, 5, 31, 128 };

	alloc_all(&r);
	if (most > 128)
		most = 128;
	for (i = 0; i < 6; i++) {
		unsigned int nr = sizes[i] < most ? sizes[i] : most;

		fill(&r, 0, nr, i + 1);
		CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, nr, i * 128));
	}
	for (i = 0; i < 6; i++) {
		unsigned int nr = sizes[i] < most ? sizes[i] : most;

		memset(r.mem + 300 * PAGE, 0xcc, (nr + 1) * PAGE);
		CHECK(!transfer(&q, &r, READ_COMMAND, 300, nr, i * 128));
		CHECK(filled(&r, 300, nr, i + 1));
		CHECK((__u8)r.mem[(300 + nr) * PAGE] == 0xcc);
	}
}

CASE(nvme_many_random_reads_are_right)
{
	enum { PAGES = 1024, DISK = 2048, ROUNDS = 40, AT_ONCE = 64 };
	struct region r = pool_of(PAGES);
	struct queue q = open_queue(&r);
	unsigned int i, round;

	alloc_all(&r);
	for (i = 0; i < DISK; i++) {
		fill(&r, i % 64, 1, i + 7);
		add(&q, &r, WRITE_COMMAND, i % 64, 1, i);
		if (i % 64 != 63)
			continue;
		ring(&q);
		for (round = 0; round < 64; round++)
			CHECK(!reap(&q));
	}
	srandom(1);
	for (round = 0; round < ROUNDS; round++) {
		unsigned int disk[AT_ONCE], size[AT_ONCE];

		memset(r.mem, 0xcc, AT_ONCE * 8 * PAGE);
		for (i = 0; i < AT_ONCE; i++) {
			size[i] = 1 + (unsigned int)random() % 8;
			disk[i] = (unsigned int)random() % (DISK - 8);
			add(&q, &r, READ_COMMAND, i * 8, size[i], disk[i]);
		}
		ring(&q);
		for (i = 0; i < AT_ONCE; i++)
			CHECK(!reap(&q));
		for (i = 0; i < AT_ONCE * 8; i++) {
			bool read = i % 8 < size[i / 8];

			CHECK(!read || filled(&r, i, 1, disk[i / 8] + i % 8 + 7));
			CHECK(read || (__u8)r.mem[i * PAGE + 77] == 0xcc);
		}
	}
}

static void resize(struct region *r, __u64 pages)
{
	struct exmap_resize resize = { .pool_pages = pages };

	CHECK(!ioctl(r->fd, EXMAP_IOCTL_RESIZE, &resize));
}

static __u64 address_of(struct queue *q, __u64 frame)
{
	__u64 address = 1;
	struct exmap_nvme_addresses args = {
		.start = frame,
		.count = 1,
		.addresses = (__u64)(unsigned long)&address,
	};

	CHECK(!ioctl(q->fd, EXMAP_IOCTL_NVME_ADDRESSES, &args));
	return address;
}

CASE(nvme_reaches_the_frames_of_a_pool_that_grew)
{
	struct region r = open_region(512, 64, 1, 0, -1);
	struct queue q = open_queue(&r);
	unsigned int i, round, holes = 0;

	for (round = 0; round < 3; round++) {
		resize(&r, 400);
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 400, 0, NULL));
		for (i = 0; i < 400; i++) {
			fill(&r, i, 1, i + 1000 * round);
			CHECK(!transfer(&q, &r, WRITE_COMMAND, i, 1, i));
			memset(r.mem + i * PAGE, 0, PAGE);
			CHECK(!transfer(&q, &r, READ_COMMAND, i, 1, i));
			CHECK(filled(&r, i, 1, i + 1000 * round));
			CHECK(address_of(&q, EXMAP_RES_FRAME(r.words[i])) == frame_address(&q, &r, i));
		}
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 400, 0, NULL));
		/* frames that are gone are out of reach */
		resize(&r, 100);
		for (i = 0, holes = 0; i < 400; i++)
			holes += !address_of(&q, i);
		CHECK(holes == 300);
	}
	CHECK(!address_of(&q, 400));
}

CASE(nvme_queue_survives_the_mapping_and_the_descriptor_of_its_region)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	__u64 address;

	alloc_all(&r);
	address = frame_address(&q, &r, 3);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	CHECK(!close(r.fd));
	next_command(&q)->opcode = READ_COMMAND;
	q.sq[0].prp1 = address;
	q.sq[0].blocks = blocks_in_a_page(&q) - 1;
	ring(&q);
	CHECK(!reap(&q));
	close_queue(&q);
}

CASE(nvme_queue_of_a_dead_region_ends_before_frames_are_freed)
{
	struct region r = open_region(512, 512, 1, EXMAP_SNAPSHOTS, -1);
	struct exmap_snapshot_create create = { .count = 512 };
	struct queue q = open_queue(&r);
	int snapshot;

	alloc_all(&r);
	snapshot = ioctl(r.fd, EXMAP_IOCTL_SNAPSHOT, &create);
	CHECK(snapshot >= 0);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	CHECK(!info_of(q.fd).error);
	FAILS(try_queue(&r), EPROTO);
	CHECK(!close(snapshot));
	CHECK(info_of(q.fd).error == ENODEV);
	/* nothing traps */
	ring(&q);
}

static long locked_kilobytes(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	long found = -1;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "VmLck: %ld", &found);
	fclose(file);
	CHECK(found >= 0);
	return found;
}

CASE(nvme_memory_of_a_queue_is_charged)
{
	struct region r = pool_of(64);
	long before = locked_kilobytes();
	struct queue q = open_queue(&r);
	const long pages = DEPTH * 64 / 4096 + DEPTH * 16 / 4096 + DEPTH;

	CHECK(locked_kilobytes() - before == pages * 4);
	close_queue(&q);
	CHECK(locked_kilobytes() == before);
}

CASE(nvme_stock_driver_finds_what_was_written)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	char *content = aligned_alloc(PAGE, 8 * PAGE);
	const char *name = controller();
	int disk;

	alloc_all(&r);
	fill(&r, 0, 64, 4711);
	CHECK(!transfer(&q, &r, WRITE_COMMAND, 0, 8, 100));
	CHECK(!transfer(&q, &r, WRITE_COMMAND, 8, 8, 200));
	/* taken away from a queue that is open and busy */
	add(&q, &r, READ_COMMAND, 16, 8, 100);
	ring(&q);
	give_to(name, "exmap-nvme", "nvme");
	CHECK(info_of(q.fd).error == ENODEV);
	ring(&q);
	FAILS(try_queue(&r), ENODEV);

	disk = open_stock(name);
	CHECK(pread(disk, content, 8 * PAGE, 100 * PAGE) == (long)(8 * PAGE));
	CHECK(!memcmp(content, r.mem, 8 * PAGE));
	CHECK(pread(disk, content, 8 * PAGE, 200 * PAGE) == (long)(8 * PAGE));
	CHECK(!memcmp(content, r.mem + 8 * PAGE, 8 * PAGE));
	memset(content, 0x5a, PAGE);
	CHECK(pwrite(disk, content, PAGE, 300 * PAGE) == (long)PAGE && !fsync(disk) && !close(disk));

	give_to(name, "nvme", "exmap-nvme");
	close_queue(&q);
	q = open_queue(&r);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 300));
	CHECK(r.mem[0] == 0x5a && r.mem[4095] == 0x5a);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 8, 100));
	CHECK(filled(&r, 0, 8, 4711));
}
