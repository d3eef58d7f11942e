// SPDX-License-Identifier: MIT
/* All ways to the same disk see the same content. */
#define _GNU_SOURCE
#include "nvme_queue.h"

enum { DISK_PAGES = 4096, MOST = 32, FEW = 2000, MANY = 10000 };

/* What is on the disk: a number for each page, 0 if it is not known. */
static __u32 content[DISK_PAGES];
static __u32 last;

/* A way: transfers @nr pages of memory from @slot on, pages @at of the disk. */
struct way {
	const char *name;
	struct region r;
	struct queue q;
	int fd;
	void (*transfer)(struct way *way, bool write, __u64 at, unsigned int nr);
	char *memory;
};

static void by_queue(struct way *way, bool write, __u64 at, unsigned int nr)
{
	CHECK(!transfer(&way->q, &way->r, write ? WRITE_COMMAND : READ_COMMAND, 0, nr, at));
}

static void by_descriptor(struct way *way, bool write, __u64 at, unsigned int nr)
{
	ssize_t bytes = (ssize_t)(nr * PAGE);

	if (write)
		CHECK(pwrite(way->fd, way->memory, nr * PAGE, (off_t)(at * PAGE)) == bytes);
	else
		CHECK(pread(way->fd, way->memory, nr * PAGE, (off_t)(at * PAGE)) == bytes);
}

/* READ and WRITE know no other place for a page than its own. */
static void by_action(struct way *way, bool write, __u64 at, unsigned int nr)
{
	int changed;

	if (write) {
		CHECK(!one(&way->r, 0, EXMAP_OP_ALLOC, at, nr, 0, NULL));
		memcpy(way->r.mem + at * PAGE, way->memory, nr * PAGE);
	}
	CHECK(!one(&way->r, 0, write ? EXMAP_OP_WRITE : EXMAP_OP_READ, at, nr, 0, &changed));
	CHECK(changed == (int)nr);
	if (!write)
		memcpy(way->memory, way->r.mem + at * PAGE, nr * PAGE);
	CHECK(!one(&way->r, 0, EXMAP_OP_FREE, at, nr, EXMAP_FREE_LAZY, NULL));
}

static void fill_page(char *page, __u64 number)
{
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++)
		((__u64 *)page)[i] = (number << 32) + i;
}

static bool holds(const char *page, __u64 number)
{
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++) {
		if (((const __u64 *)page)[i] != (number << 32) + i)
			return false;
	}
	return true;
}

static void random_transfer(struct way *way)
{
	unsigned int i, nr = 1 + (unsigned int)random() % MOST;
	__u64 at = (__u64)random() % (DISK_PAGES - nr);
	bool write = random() % 2;

	for (i = 0; i < nr; i++) {
		if (write)
			content[at + i] = ++last;
		fill_page(way->memory + i * PAGE, write ? last : 0);
	}
	way->transfer(way, write, at, nr);
	for (i = 0; i < nr && !write; i++)
		CHECK(!content[at + i] || holds(way->memory + i * PAGE, content[at + i]));
}

static void run(struct way *way)
{
	int i, n = (getenv("EXMAP_SLOW") ? MANY : FEW) / 10;

	for (i = 0; i < n; i++)
		random_transfer(way);
}

static int backing(void)
{
	struct exmap_nvme_open at = open_args();
	struct exmap_nvme_backing args = { .segment = at.segment, .bus = at.bus,
					   .device = at.device, .function = at.function };
	int device = open("/dev/exmap", O_RDWR), fd = ioctl(device, EXMAP_IOCTL_NVME_BACKING, &args);

	CHECK(fd >= 0 && !close(device));
	return fd;
}

static void end_region(struct region *r)
{
	CHECK(!munmap(r->mem, r->pages * PAGE) && !munmap(r->itf[0], PAGE));
	CHECK(!munmap((void *)r->words, (r->pages * 4 + PAGE - 1) & ~(PAGE - 1)) && !close(r->fd));
}

static void run_by_queue(void)
{
	struct way way = { .transfer = by_queue, .r = pool_of(64) };

	alloc_all(&way.r);
	way.q = open_queue(&way.r);
	way.memory = way.r.mem;
	run(&way);
	close_queue(&way.q);
	end_region(&way.r);
}

static void run_by_kernel(char *memory)
{
	struct way way = { .fd = backing(), .memory = memory };

	way.r = open_region(DISK_PAGES, 256, 1, 0, way.fd);
	way.transfer = by_action;
	run(&way);
	/* memory that is no frame, then frames */
	way.transfer = by_descriptor;
	run(&way);
	CHECK(!one(&way.r, 0, EXMAP_OP_ALLOC, 100, MOST, 0, NULL));
	way.memory = way.r.mem + 100 * PAGE;
	run(&way);
	end_region(&way.r);
	CHECK(!close(way.fd));
}

static void run_by_stock_driver(char *memory)
{
	struct way way = { .transfer = by_descriptor, .memory = memory };
	const char *name = controller();

	give_to(name, "exmap-nvme", "nvme");
	way.fd = open_stock(name);
	run(&way);
	CHECK(!close(way.fd));
	give_to(name, "nvme", "exmap-nvme");
}

CASE(nvme_ways_to_a_disk_agree)
{
	char *memory = aligned_alloc(PAGE, MOST * PAGE);
	int round;

	CHECK(memory);
	controller();
	srandom(2013);
	for (round = 0; round < 2; round++) {
		run_by_queue();
		run_by_kernel(memory);
		run_by_stock_driver(memory);
	}
	free(memory);
}
