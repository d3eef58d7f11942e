// SPDX-License-Identifier: MIT
/* Queues of NVMe controllers that are bound to exmap-nvme. */
#define _GNU_SOURCE
#include "abi.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define DRIVER "/sys/bus/pci/drivers/exmap-nvme"
#define DEPTH 256u

enum { WRITE_COMMAND = 1, READ_COMMAND = 2, NO_COMMAND = 0x7f };

/* NVM Express Base Specification 2.0, 3.3.3.1 */
struct command {
	__u8 opcode;
	__u8 flags;
	__u16 cid;
	__u32 nsid;
	__u64 reserved;
	__u64 metadata;
	__u64 prp1;
	__u64 prp2;
	__u64 lba;
	__u32 blocks; /* zero's based */
	__u32 rest[3];
};

struct completion {
	__u32 result;
	__u32 reserved;
	__u16 sq_head;
	__u16 sq_id;
	__u16 cid;
	__u16 status; /* and the phase tag */
};

struct queue {
	int fd;
	struct exmap_nvme_info info;
	struct command *sq;
	const struct completion *cq;
	char *doorbells;
	__u64 *prp;
	unsigned int tail;
	unsigned int head;
	unsigned int phase;
};

/* The name of a controller that is ours. */
static const char *controller(void)
{
	static char name[32];
	DIR *dir = opendir(DRIVER);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		unsigned int at[4];

		if (sscanf(entry->d_name, "%x:%x:%x.%x", &at[0], &at[1], &at[2], &at[3]) == 4)
			snprintf(name, sizeof(name), "%.31s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	if (!name[0]) {
		puts("no controller is bound to exmap-nvme");
		_exit(SKIP);
	}
	return name;
}

static struct exmap_nvme_open open_args(void)
{
	struct exmap_nvme_open args = { .depth = DEPTH, .prp_pages = DEPTH };
	unsigned int at[4];

	CHECK(sscanf(controller(), "%x:%x:%x.%x", &at[0], &at[1], &at[2], &at[3]) == 4);
	args.segment = at[0];
	args.bus = (__u8)at[1];
	args.device = (__u8)at[2];
	args.function = (__u8)at[3];
	return args;
}

static int try_queue(struct region *r)
{
	struct exmap_nvme_open args = open_args();

	return ioctl(r->fd, EXMAP_IOCTL_NVME_OPEN, &args);
}

static struct exmap_nvme_info info_of(int fd)
{
	struct exmap_nvme_info info = { .flags = 0 };

	CHECK(!ioctl(fd, EXMAP_IOCTL_NVME_INFO, &info));
	return info;
}

static void *map_queue(int fd, size_t size, int prot, __u64 offset)
{
	void *address = mmap(NULL, (size + PAGE - 1) & ~(PAGE - 1), prot, MAP_SHARED, fd,
			     (off_t)offset);

	CHECK(address != MAP_FAILED);
	return address;
}

static struct queue open_queue(struct region *r)
{
	struct queue q = { .fd = try_queue(r), .phase = 1 };

	CHECK(q.fd >= 0);
	q.info = info_of(q.fd);
	q.sq = map_queue(q.fd, DEPTH * sizeof(*q.sq), PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_SQ);
	q.cq = map_queue(q.fd, DEPTH * sizeof(*q.cq), PROT_READ, EXMAP_NVME_OFF_CQ);
	q.doorbells = map_queue(q.fd, q.info.doorbell_bytes, PROT_READ | PROT_WRITE,
				EXMAP_NVME_OFF_DOORBELLS);
	q.prp = map_queue(q.fd, q.info.prp_pages * PAGE, PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_PRP);
	return q;
}

static void close_queue(struct queue *q)
{
	CHECK(!munmap(q->sq, DEPTH * sizeof(*q->sq)));
	CHECK(!munmap((void *)q->cq, DEPTH * sizeof(*q->cq)));
	CHECK(!munmap(q->doorbells, q->info.doorbell_bytes));
	CHECK(!munmap(q->prp, q->info.prp_pages * PAGE));
	CHECK(!close(q->fd));
}

static void ring(struct queue *q)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
	*(volatile __u32 *)(q->doorbells + q->info.sq_doorbell) = q->tail;
}

static struct command *next_command(struct queue *q)
{
	struct command *c = &q->sq[q->tail];

	memset(c, 0, sizeof(*c));
	c->cid = (__u16)q->tail;
	c->nsid = q->info.nsid;
	q->tail = (q->tail + 1) % DEPTH;
	return c;
}

static __u64 frame_address(const struct queue *q, const struct region *r, __u64 page)
{
	CHECK(EXMAP_RES_MAPPED(r->words[page]));
	return q->info.iova_base + EXMAP_RES_FRAME(r->words[page]) * PAGE;
}

static unsigned int blocks_in_a_page(const struct queue *q)
{
	return (unsigned int)PAGE / q->info.lba_size;
}

/* Put a transfer of pages of the region, from or to pages of the disk, into the queue. */
static void add(struct queue *q, struct region *r, int opcode, __u64 page, unsigned int nr,
		__u64 disk_page)
{
	struct command *c = next_command(q);
	__u64 *list = q->prp + c->cid * (PAGE / sizeof(*list));
	unsigned int i;

	c->opcode = (__u8)opcode;
	c->lba = disk_page * blocks_in_a_page(q);
	c->blocks = nr * blocks_in_a_page(q) - 1;
	c->prp1 = frame_address(q, r, page);
	if (nr == 2)
		c->prp2 = frame_address(q, r, page + 1);
	if (nr > 2) {
		c->prp2 = q->info.prp_base + c->cid * PAGE;
		for (i = 1; i < nr; i++)
			list[i - 1] = frame_address(q, r, page + i);
	}
}

static time_t now(void)
{
	struct timespec time;

	CHECK(!clock_gettime(CLOCK_MONOTONIC, &time));
	return time.tv_sec;
}

/* Wait for a completion; returns its status, or -1 if there is none in time. */
static int reap_within(struct queue *q, time_t seconds)
{
	const volatile struct completion *c = &q->cq[q->head];
	time_t end = now() + seconds;
	int status;

	while ((__atomic_load_n(&c->status, __ATOMIC_ACQUIRE) & 1) != q->phase) {
		if (now() > end)
			return -1;
	}
	status = c->status >> 1 & 0x7ff;
	if (++q->head == DEPTH) {
		q->head = 0;
		q->phase ^= 1;
	}
	*(volatile __u32 *)(q->doorbells + q->info.cq_doorbell) = q->head;
	return status;
}

static int reap(struct queue *q)
{
	int status = reap_within(q, 60);

	CHECK(status >= 0);
	return status;
}

static int transfer(struct queue *q, struct region *r, int opcode, __u64 page, unsigned int nr,
		    __u64 disk_page)
{
	add(q, r, opcode, page, nr, disk_page);
	ring(q);
	return reap(q);
}

static struct region pool_of(unsigned long frames)
{
	return open_region(frames, frames, 1, 0, -1);
}

static void alloc_all(struct region *r)
{
	unsigned long page;

	for (page = 0; page < r->pages; page += 1024) {
		unsigned long left = r->pages - page;

		CHECK(!one(r, 0, EXMAP_OP_ALLOC, page, left < 1024 ? (unsigned int)left : 1024, 0, NULL));
	}
}

static void fill(struct region *r, __u64 page, unsigned int nr, __u64 seed)
{
	unsigned int i;

	for (i = 0; i < nr * PAGE / 8; i++)
		((__u64 *)(r->mem + page * PAGE))[i] = (seed << 32) + i;
}

static bool filled(struct region *r, __u64 page, unsigned int nr, __u64 seed)
{
	unsigned int i;

	for (i = 0; i < nr * PAGE / 8; i++) {
		if (((__u64 *)(r->mem + page * PAGE))[i] != (seed << 32) + i)
			return false;
	}
	return true;
}

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
	REFUSES(flags, 1, EINVAL);
	REFUSES(reserved8, 1, EINVAL);
	REFUSES(reserved[3], 1, EINVAL);
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
	FAILS(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SQ), EINVAL);
	FAILS(mmap(NULL, DEPTH * 64 + PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_SQ), EINVAL);
	FAILS(mmap(NULL, 4 * PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_DOORBELLS), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, EXMAP_NVME_OFF_PRP + DEPTH * PAGE), EINVAL);
	FAILS(mmap(NULL, PAGE, rw, MAP_SHARED, q.fd, 0x40000000), EINVAL);
	CHECK(!touch_signal((char *)q.sq, true) && !touch_signal((char *)q.prp, true));
	CHECK(!touch_signal((char *)q.cq, false));
}

static void use_as_a_child(void *arg)
{
	struct queue *q = arg;
	struct exmap_nvme_info info = { .flags = 0 };

	FAILS(ioctl(q->fd, EXMAP_IOCTL_NVME_INFO, &info), EPERM);
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, q->fd, EXMAP_NVME_OFF_SQ), EPERM);
	CHECK(touch_signal((char *)q->sq, true) == SIGSEGV);
	CHECK(touch_signal(q->doorbells, true) == SIGSEGV);
	/* the parent's madvise brought this one along, empty */
	CHECK(touch_signal((char *)q->prp, true) == SIGBUS);
}

CASE(nvme_queue_is_of_no_use_to_a_child)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);

	q.prp[0] = 1;
	CHECK(!madvise(q.prp, PAGE, MADV_DOFORK));
	FAILS(madvise(q.doorbells, PAGE, MADV_DOFORK), EINVAL);
	CHECK(!in_child(use_as_a_child, &q));
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

static void write_poison(struct region *r, struct queue *q, unsigned int nr)
{
	memset(r->mem, 0xee, nr * PAGE);
	CHECK(!transfer(q, r, WRITE_COMMAND, 0, nr, 0));
}

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
	size_t i;

	controller();
	for (round = 0; round < 6; round++) {
		int status;
		char *mem;

		CHECK(!pipe(victim.ends));
		victim.heir = round % 2;
		status = in_child(die_with_reads_in_flight, &victim);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		/* what was freed last is taken first */
		mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		CHECK(mem != MAP_FAILED);
		memset(mem, 0x11, size);
		usleep(1000000);
		for (i = 0; i < size; i += 64)
			CHECK(mem[i] == 0x11);
		CHECK(!munmap(mem, size));
		CHECK(!close(victim.ends[0]) && !close(victim.ends[1]));
	}
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
	add(&q, &r, READ_COMMAND, 0, 1, 0);
	c = &q.sq[2];
	c->nsid = 0x1234;
	ring(&q);
	CHECK(reap(&q));
	/* beyond the queue: ignored */
	*(volatile __u32 *)(q.doorbells + q.info.sq_doorbell) = DEPTH + 100;
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
	CHECK(!info_of(q.fd).error);
}

static __u64 physical_address(const void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 word;

	CHECK(fd >= 0 && pread(fd, &word, 8, (off_t)((unsigned long)address / PAGE * 8)) == 8);
	close(fd);
	CHECK(word & (__u64)1 << 63);
	return (word & (((__u64)1 << 55) - 1)) * PAGE;
}

CASE(nvme_controller_does_not_reach_foreign_memory)
{
	struct region r = pool_of(64);
	struct queue q = open_queue(&r);
	char *canary = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	const __u64 targets[] = { physical_address(memset(canary, 0x22, PAGE)),
				  q.info.iova_base + 64 * PAGE, q.info.iova_base - PAGE, 0 };
	unsigned int i;
	struct command *c;

	if (!(q.info.features & EXMAP_NVME_IOMMU)) {
		puts("there is no IOMMU");
		_exit(SKIP);
	}
	alloc_all(&r);
	write_poison(&r, &q, 1);
	for (i = 0; i < 4; i++) {
		add(&q, &r, READ_COMMAND, 0, 1, 0);
		c = &q.sq[(q.tail + DEPTH - 1) % DEPTH];
		c->prp1 = targets[i];
		ring(&q);
		reap(&q); /* whatever it says */
	}
	for (i = 0; i < PAGE; i++)
		CHECK(canary[i] == 0x22);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
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

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void give_to(const char *name, const char *from, const char *to)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", name);
	put(path, to);
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/unbind", from);
	put(path, name);
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/bind", to);
	put(path, name);
}

/* The block device of a controller that the stock driver has. */
static int open_stock(const char *name)
{
	char path[96], disk[128];
	struct dirent *entry;
	DIR *dir = NULL;
	int i, fd = -1;

	for (i = 0; i < 3000 && fd < 0; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/nvme", name);
		dir = opendir(path);
		while (dir && (entry = readdir(dir))) {
			if (strncmp(entry->d_name, "nvme", 4))
				continue;
			snprintf(disk, sizeof(disk), "/dev/%.32sn1", entry->d_name);
			fd = open(disk, O_RDWR | O_DIRECT);
		}
		if (dir)
			closedir(dir);
		usleep(10000);
	}
	CHECK(fd >= 0);
	return fd;
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
