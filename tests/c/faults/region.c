// SPDX-License-Identifier: MIT
/* Opening, setting up, mapping, resizing a region, and the calls on its pages. */
#define _GNU_SOURCE
#include "faults.h"

#include <fcntl.h>
#include <signal.h>

#define CHUNK EXMAP_CHUNK_PAGES
#define POOL 256
/* what other processes and the kernel's caches may take meanwhile */
#define NOISE (16ul << 20)

static struct region r;
static int fd;

static void close_it(long ret)
{
	if (ret >= 0)
		CHECK(!close((int)ret));
}

static long call_open(void)
{
	return open("/dev/exmap", O_RDWR);
}

CASE(faults_open)
{
	fail_each(&(struct probe){ .call = call_open, .finish = close_it });
}

static void prepare_open(void)
{
	fd = open("/dev/exmap", O_RDWR);
	CHECK(fd >= 0);
}

static long call_setup(void)
{
	return set_up(fd, POOL, 3, EXMAP_SNAPSHOTS, -1);
}

static void finish_setup(long ret)
{
	/* it was not half done */
	if (ret < 0)
		CHECK(!call_setup());
	CHECK(locked_bytes() >= POOL * PAGE);
	check_conserved(fd);
	CHECK(!close(fd));
	CHECK(!locked_bytes());
}

CASE(faults_setup)
{
	unsigned long before = available_bytes();

	/* a leak of frames would be a hundred pages a turn */
	fail_each(&(struct probe){ .prepare = prepare_open, .call = call_setup, .finish = finish_setup });
	CHECK(available_bytes() + NOISE > before);
}

static void *map(size_t pages, int prot, __u64 offset)
{
	return mmap(NULL, pages * PAGE, prot, MAP_SHARED, fd, (off_t)offset);
}

static void prepare_mmap(void)
{
	prepare_open();
	CHECK(!set_up(fd, POOL, 1, EXMAP_SNAPSHOTS, -1));
}

static long call_mmap(void)
{
	r.mem = map(2 * CHUNK, PROT_READ | PROT_WRITE, EXMAP_OFF_EXMAP);
	return r.mem == MAP_FAILED ? -1 : 0;
}

static void finish_mmap(long ret)
{
	/* a mapping that failed early leaves the region as it was, one that failed late ends it */
	if (ret < 0)
		ret = call_mmap();
	if (ret < 0)
		CHECK(errno == EBUSY || errno == EPROTO);
	else
		CHECK(!munmap(r.mem, 2 * CHUNK * PAGE));
	CHECK(!close(fd));
	CHECK(!locked_bytes());
}

CASE(faults_mmap_of_the_region)
{
	fail_each(&(struct probe){ .prepare = prepare_mmap, .call = call_mmap, .finish = finish_mmap });
}

static struct {
	__u64 offset;
	size_t pages;
	int prot;
	void *address;
} part;

static long call_map_part(void)
{
	part.address = map(part.pages, part.prot, part.offset);
	return part.address == MAP_FAILED ? -1 : 0;
}

static void finish_map_part(long ret)
{
	if (ret >= 0)
		CHECK(!munmap(part.address, part.pages * PAGE));
	check_conserved(fd);
}

static void map_part_of_open_region(__u64 offset, size_t pages, int prot)
{
	r = open_region(2 * CHUNK, POOL, 2, 0, -1);
	fd = r.fd;
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	part.offset = offset;
	part.pages = pages;
	part.prot = prot;
	fail_each(&(struct probe){ .call = call_map_part, .finish = finish_map_part });
}

CASE(faults_mmap_of_an_interface)
{
	map_part_of_open_region(EXMAP_OFF_INTERFACE(1), 1, PROT_READ | PROT_WRITE);
}

CASE(faults_mmap_of_the_residency_map)
{
	map_part_of_open_region(EXMAP_OFF_RESIDENCY, 1, PROT_READ);
}

CASE(faults_mmap_of_page_tables)
{
	map_part_of_open_region(EXMAP_OFF_PTEXPORT, 1, PROT_READ);
}

/* The first page of a chunk needs a page table: a fresh chunk for each turn. */
static __u64 next_page;
static unsigned int opcode;

static long call_action(void)
{
	return act(&r, 0, opcode, 1, 0);
}

static void prepare_action(void)
{
	r.itf[0]->iov[0].page = next_page;
	r.itf[0]->iov[0].len = 8;
}

static void finish_alloc(long ret)
{
	int changed;

	if (ret > 0)
		CHECK(r.itf[0]->iov[0].res == -ENOMEM || r.itf[0]->iov[0].res == -EFAULT ||
		      r.itf[0]->iov[0].res == -EIO);
	/* once there is memory it works */
	CHECK(!one(&r, 0, opcode, next_page, 8, 0, NULL));
	CHECK(mapped(&r, next_page) && mapped(&r, next_page + 7));
	check_conserved(r.fd);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, next_page, 8, 0, &changed) && changed == 8);
	next_page += CHUNK;
}

CASE(faults_alloc)
{
	r = open_region(200 * CHUNK, POOL, 1, 0, -1);
	opcode = EXMAP_OP_ALLOC;
	fail_each(&(struct probe){ .prepare = prepare_action, .call = call_action,
				   .finish = finish_alloc });
}

CASE(faults_read_of_a_file)
{
	int backing = backing_file(1);

	CHECK(!ftruncate(backing, 200 * CHUNK * PAGE));
	r = open_region(200 * CHUNK, POOL, 1, 0, backing);
	opcode = EXMAP_OP_READ;
	fail_each(&(struct probe){ .prepare = prepare_action, .call = call_action,
				   .finish = finish_alloc });
}

static void finish_write(long ret)
{
	CHECK(ret <= 0 || r.itf[0]->iov[0].res < 0);
	check_conserved(r.fd);
}

CASE(faults_write_to_a_file)
{
	r = open_region(CHUNK, POOL, 1, 0, backing_file(8));
	opcode = EXMAP_OP_WRITE;
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	fail_each(&(struct probe){ .prepare = prepare_action, .call = call_action,
				   .finish = finish_write, .may_need_nothing = true });
}

static long call_pread(void)
{
	return pread(r.fd, r.mem + next_page * PAGE, 8 * PAGE, EXMAP_OP_ALLOC << 8);
}

static void finish_pread(long ret)
{
	opcode = EXMAP_OP_ALLOC;
	finish_alloc(ret < 0 ? ret : 0);
}

CASE(faults_alloc_by_pread)
{
	r = open_region(200 * CHUNK, POOL, 1, 0, -1);
	fail_each(&(struct probe){ .call = call_pread, .finish = finish_pread });
}

static int raised;

static long call_touch(void)
{
	raised = touch_signal(r.mem + next_page * PAGE, true);
	return 0;
}

static void finish_touch(long ret)
{
	(void)ret;
	CHECK(!raised || raised == SIGBUS);
	opcode = EXMAP_OP_ALLOC;
	finish_alloc(0);
}

/* The core has made the page table by then: the kernel may well find nothing to fail. */
CASE(faults_touch_of_an_absent_page)
{
	r = open_region(200 * CHUNK, POOL, 1, EXMAP_PAGEFAULT_ALLOC, -1);
	fail_each(&(struct probe){ .call = call_touch, .finish = finish_touch, .module_only = true });
}

static unsigned long pool_pages;

static long call_resize(void)
{
	struct exmap_resize resize = { .pool_pages = pool_pages };

	return ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize);
}

static void finish_resize(long ret)
{
	unsigned long wanted = pool_pages;

	/* wholly, or nothing; only the copy of the answer may come too late */
	CHECK(counters(&r).total == (ret < 0 && errno != EFAULT ? POOL : counters(&r).total));
	CHECK(locked_bytes() >= counters(&r).total * PAGE);
	pool_pages = POOL;
	CHECK(!call_resize());
	CHECK(counters(&r).total == POOL);
	check_conserved(r.fd);
	pool_pages = wanted;
}

CASE(faults_resize)
{
	unsigned long before;

	r = open_region(CHUNK, POOL, 1, 0, -1);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	before = available_bytes();
	pool_pages = 2 * POOL;
	fail_each(&(struct probe){ .call = call_resize, .finish = finish_resize });
	CHECK(available_bytes() + NOISE > before);
	pool_pages = POOL / 2;
	fail_each(&(struct probe){ .call = call_resize, .finish = finish_resize });
}

static unsigned char bits[3][CHUNK / 8];

static long call_scan(void)
{
	struct exmap_scan scan = {
		.flags = EXMAP_SCAN_CLEAR_DIRTY | EXMAP_SCAN_CLEAR_ACCESSED,
		.count = CHUNK,
		.present = (__u64)(unsigned long)bits[0],
		.accessed = (__u64)(unsigned long)bits[1],
		.dirty = (__u64)(unsigned long)bits[2],
	};

	return ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan);
}

static void finish_scan(long ret)
{
	/* a failure has lost no bit */
	if (ret < 0)
		CHECK(!call_scan());
	CHECK(bits[0][0] == 0xff && bits[2][0] == 0xff);
}

static void dirty_eight(void)
{
	unsigned int page;

	for (page = 0; page < 8; page++)
		r.mem[page * PAGE] = 1;
}

CASE(faults_scan)
{
	r = open_region(CHUNK, POOL, 1, 0, -1);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	fail_each(&(struct probe){ .prepare = dirty_eight, .call = call_scan, .finish = finish_scan });
}

static long call_clone(void)
{
	return ioctl(fd, EXMAP_IOCTL_CLONE, r.fd);
}

static void finish_clone(long ret)
{
	if (ret < 0)
		CHECK(!call_clone());
	check_conserved(fd);
	CHECK(!close(fd));
}

CASE(faults_clone)
{
	r = open_region(CHUNK, POOL, 1, 0, -1);
	fail_each(&(struct probe){ .prepare = prepare_open, .call = call_clone,
				   .finish = finish_clone, .may_need_nothing = true });
}

static long call_small(void)
{
	struct exmap_info info = { .flags = 0 };
	struct exmap_counters count = { .flags = 0 };
	struct exmap_barrier barrier = { .flags = 0 };
	struct exmap_tune tune = { .flags = 0 };
	struct exmap_ioctl_stats stats = { .flags = 0 };

	if (ioctl(r.fd, EXMAP_IOCTL_INFO, &info) || ioctl(r.fd, EXMAP_IOCTL_COUNTERS, &count) ||
	    ioctl(r.fd, EXMAP_IOCTL_BARRIER, &barrier) || ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune))
		return -1;
	return ioctl(r.fd, EXMAP_IOCTL_STATS, &stats);
}

static void free_lazily(void)
{
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 8, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 8, EXMAP_FREE_LAZY, NULL));
}

CASE(faults_info_counters_barrier_tune_stats)
{
	r = open_region(CHUNK, POOL, 1, 0, -1);
	fail_each(&(struct probe){ .prepare = free_lazily, .call = call_small });
	check_conserved(r.fd);
}
