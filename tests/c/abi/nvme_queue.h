/* SPDX-License-Identifier: MIT */
/* A queue of an NVMe controller that is bound to exmap-nvme, by hand. */
#ifndef NVME_QUEUE_H
#define NVME_QUEUE_H

#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <time.h>

#include "abi.h"

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
	char *shadow;
	const char *event_idx;
	unsigned long rung; /* doorbells, not shadows */
	unsigned int tail;
	unsigned int head;
	unsigned int phase;
};

/* The name of a controller that is ours: the one in EXMAP_NVME, or any. */
static inline const char *controller(void)
{
	static char name[32];
	const char *wanted = getenv("EXMAP_NVME");
	DIR *dir = opendir(DRIVER);
	struct dirent *entry;

	if (wanted)
		snprintf(name, sizeof(name), "%.31s", wanted);
	while (!wanted && dir && (entry = readdir(dir))) {
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

static inline struct exmap_nvme_open open_args(void)
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

static inline int try_queue_with(struct region *r, __u64 flags)
{
	struct exmap_nvme_open args = open_args();

	args.flags = flags;
	return ioctl(r->fd, EXMAP_IOCTL_NVME_OPEN, &args);
}

static inline int try_queue(struct region *r)
{
	return try_queue_with(r, 0);
}

static inline struct exmap_nvme_info info_of(int fd)
{
	struct exmap_nvme_info info = { .flags = 0 };

	CHECK(!ioctl(fd, EXMAP_IOCTL_NVME_INFO, &info));
	return info;
}

static inline void *map_queue(int fd, size_t size, int prot, __u64 offset)
{
	void *address = mmap(NULL, (size + PAGE - 1) & ~(PAGE - 1), prot, MAP_SHARED, fd,
			     (off_t)offset);

	CHECK(address != MAP_FAILED);
	return address;
}

static inline struct queue map_all(int fd)
{
	struct queue q = { .fd = fd, .phase = 1 };

	CHECK(q.fd >= 0);
	q.info = info_of(q.fd);
	q.sq = map_queue(q.fd, DEPTH * sizeof(*q.sq), PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_SQ);
	q.cq = map_queue(q.fd, DEPTH * sizeof(*q.cq), PROT_READ, EXMAP_NVME_OFF_CQ);
	q.doorbells = map_queue(q.fd, q.info.doorbell_bytes, PROT_READ | PROT_WRITE,
				EXMAP_NVME_OFF_DOORBELLS);
	q.prp = map_queue(q.fd, q.info.prp_pages * PAGE, PROT_READ | PROT_WRITE, EXMAP_NVME_OFF_PRP);
	return q;
}

static inline struct queue open_queue(struct region *r)
{
	return map_all(try_queue(r));
}

static inline void close_queue(struct queue *q)
{
	CHECK(!munmap(q->sq, DEPTH * sizeof(*q->sq)));
	CHECK(!munmap((void *)q->cq, DEPTH * sizeof(*q->cq)));
	CHECK(!munmap(q->doorbells, q->info.doorbell_bytes));
	CHECK(!munmap(q->prp, q->info.prp_pages * PAGE));
	CHECK(!close(q->fd));
}

/* NVM Express Base Specification 2.0, 5.8: has the index been passed, modulo 2^16? */
static inline bool wants_ring(__u16 event_idx, __u16 old, __u16 new)
{
	return (__u16)(new - event_idx - 1) < (__u16)(new - old);
}

/* Tell the controller a tail or head; by memory alone, if that is enough for it. */
static inline void tell(struct queue *q, __u32 doorbell, __u32 value)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
	if (q->shadow) {
		volatile __u32 *shadow = (volatile __u32 *)(q->shadow + doorbell);
		__u32 old = *shadow;

		*shadow = value;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (!wants_ring((__u16)*(const volatile __u32 *)(q->event_idx + doorbell),
				(__u16)old, (__u16)value))
			return;
	}
	q->rung++;
	*(volatile __u32 *)(q->doorbells + doorbell) = value;
}

static inline void ring(struct queue *q)
{
	tell(q, q->info.sq_doorbell, q->tail);
}

static inline struct command *next_command(struct queue *q)
{
	struct command *c = &q->sq[q->tail];

	memset(c, 0, sizeof(*c));
	c->cid = (__u16)q->tail;
	c->nsid = q->info.nsid;
	q->tail = (q->tail + 1) % DEPTH;
	return c;
}

static inline __u64 frame_address(const struct queue *q, const struct region *r, __u64 page)
{
	CHECK(EXMAP_RES_MAPPED(r->words[page]));
	return q->info.iova_base + EXMAP_RES_FRAME(r->words[page]) * PAGE;
}

static inline unsigned int blocks_in_a_page(const struct queue *q)
{
	return (unsigned int)PAGE / q->info.lba_size;
}

/* Put a transfer of pages of the region, from or to pages of the disk, into the queue. */
static inline void add(struct queue *q, struct region *r, int opcode, __u64 page, unsigned int nr,
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

static inline time_t now(void)
{
	struct timespec time;

	CHECK(!clock_gettime(CLOCK_MONOTONIC, &time));
	return time.tv_sec;
}

/* Wait for a completion; returns its status, or -1 if there is none in time. */
static inline int reap_within(struct queue *q, time_t seconds)
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
	tell(q, q->info.cq_doorbell, q->head);
	return status;
}

static inline int reap(struct queue *q)
{
	int status = reap_within(q, 60);

	CHECK(status >= 0);
	return status;
}

static inline int transfer(struct queue *q, struct region *r, int opcode, __u64 page, unsigned int nr,
		    __u64 disk_page)
{
	add(q, r, opcode, page, nr, disk_page);
	ring(q);
	return reap(q);
}

static inline struct region pool_of(unsigned long frames)
{
	return open_region(frames, frames, 1, 0, -1);
}

static inline void alloc_all(struct region *r)
{
	unsigned long page;

	for (page = 0; page < r->pages; page += 1024) {
		unsigned long left = r->pages - page;

		CHECK(!one(r, 0, EXMAP_OP_ALLOC, page, left < 1024 ? (unsigned int)left : 1024, 0, NULL));
	}
}

static inline void fill(struct region *r, __u64 page, unsigned int nr, __u64 seed)
{
	unsigned int i;

	for (i = 0; i < nr * PAGE / 8; i++)
		((__u64 *)(r->mem + page * PAGE))[i] = (seed << 32) + i;
}

static inline bool filled(struct region *r, __u64 page, unsigned int nr, __u64 seed)
{
	unsigned int i;

	for (i = 0; i < nr * PAGE / 8; i++) {
		if (((__u64 *)(r->mem + page * PAGE))[i] != (seed << 32) + i)
			return false;
	}
	return true;
}

static inline void write_poison(struct region *r, struct queue *q, unsigned int nr)
{
	memset(r->mem, 0xee, nr * PAGE);
	CHECK(!transfer(q, r, WRITE_COMMAND, 0, nr, 0));
}

static inline void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static inline void give_to(const char *name, const char *from, const char *to)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", name);
	put(path, to);
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/unbind", from);
	put(path, name);
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/bind", to);
	put(path, name);
}

/*
 * Opens the first namespace in a directory of sysfs, which is a controller's.  The numbers in its
 * name are not always the controller's and one: a controller that was bound again while somebody
 * held its last namespace has that one's subsystem, and the next number in it.
 */
static inline int open_namespace(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	unsigned int number, nsid;
	char disk[64];
	int fd = -1;

	while (dir && fd < 0 && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, "nvme%un%u", &number, &nsid) != 2)
			continue;
		snprintf(disk, sizeof(disk), "/dev/nvme%un%u", number, nsid);
		fd = open(disk, O_RDWR | O_DIRECT);
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* The block device of a controller that the stock driver has. */
static inline int open_stock(const char *name)
{
	char pattern[96];
	glob_t found;
	int i, fd = -1;

	snprintf(pattern, sizeof(pattern), "/sys/bus/pci/devices/%s/nvme/nvme*", name);
	for (i = 0; i < 3000 && fd < 0; i++) {
		if (!glob(pattern, 0, NULL, &found))
			fd = open_namespace(found.gl_pathv[0]);
		globfree(&found);
		usleep(10000);
	}
	CHECK(fd >= 0);
	return fd;
}

/* Fills memory that was freed last, and so is taken first: nobody may write to it any more. */
static inline void check_refilled_memory(size_t size)
{
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	size_t i;

	CHECK(mem != MAP_FAILED);
	memset(mem, 0x11, size);
	usleep(1000000);
	for (i = 0; i < size; i += 64)
		CHECK(mem[i] == 0x11);
	CHECK(!munmap(mem, size));
}

#endif /* NVME_QUEUE_H */
