// SPDX-License-Identifier: MIT
/* ACTION, pread, READ and WRITE: results and errors. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/uio.h>

#define AT(interface, opcode) ((off_t)((interface) | (opcode) << 8))

CASE(calls_before_setup_and_before_mmap_are_refused)
{
	struct region r = { .fd = open("/dev/exmap", O_RDWR) };
	struct exmap_scan scan = { .count = 1 };
	struct exmap_barrier barrier = { .flags = 0 };

	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, 0), EBADF);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan), EBADF);
	CHECK(!set_up(r.fd, 16, 1, 0, -1));
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, 0), EPROTO);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan), EPROTO);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_BARRIER, &barrier), EPROTO);
}

CASE(bad_actions_are_refused)
{
	struct region r = open_region(1024, 64, 2, 0, -1);

	FAILS(act(&r, 2, EXMAP_OP_ALLOC, 1, 0), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_UNSHARE + 1, 1, 0), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 513, 0), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, EXMAP_FREE_LAZY), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_FREE, 1, EXMAP_ALLOC_PROBE), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_UNSHARE, 1, EXMAP_FREE_LAZY), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_READ, 1, 0), ENODEV);
	FAILS(act(&r, 0, EXMAP_OP_WRITE, 1, 0), ENODEV);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_ACTION, NULL), EFAULT);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_ACTION, (void *)~0xful), EFAULT);
	CHECK(!act(&r, 0, EXMAP_OP_ALLOC, 0, 0));
}

CASE(an_iov_that_leaves_the_region_fails_alone)
{
	struct region r = open_region(1000, 64, 1, 0, -1);
	struct exmap_iov *iov = r.itf[0]->iov;

	iov[0].value = 0;
	iov[0].page = 998;
	iov[0].len = 3;
	iov[1].value = ~0ull;
	iov[2].value = 0;
	iov[2].page = 997;
	iov[2].len = 3;
	iov[3].value = 1ull << 51;
	CHECK(act(&r, 0, EXMAP_OP_ALLOC, 4, 0) == 3);
	CHECK(iov[0].res == -EFAULT && !iov[0].pages && iov[1].res == -EFAULT);
	CHECK(!iov[2].res && iov[2].pages == 3 && iov[3].res == -EFAULT);
}

CASE(a_dry_pool_fails_in_mid_vector_and_keeps_what_was_done)
{
	struct region r = open_region(4096, 100, 2, 0, -1);
	int changed;

	CHECK(one(&r, 0, EXMAP_OP_ALLOC, 10, 150, 0, &changed) == -ENOMEM && changed == 100);
	CHECK(counters(&r).mapped == 100);
	CHECK(one(&r, 1, EXMAP_OP_ALLOC, 2000, 1, 0, &changed) == -ENOMEM && !changed);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 10, 50, EXMAP_FREE_LAZY, &changed) && changed == 50);
	/* those are in the other interface's quarantine */
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 2000, 50, 0, &changed) && changed == 50);
}

CASE(more_pages_than_the_ring_holds_are_freed_lazily)
{
	struct region r = open_region(40000, 40000, 1, 0, -1);
	struct exmap_tune tune = { .flush_threshold = EXMAP_FLUSH_THRESHOLD_MAX };
	int page, changed;

	CHECK(!ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune));
	for (page = 0; page < 40000; page += 4000)
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, page, 4000, 0, &changed) && changed == 4000);
	for (page = 0; page < 10; page++) {
		r.itf[0]->iov[page].page = page * 4000;
		r.itf[0]->iov[page].len = 4000;
	}
	CHECK(!act(&r, 0, EXMAP_OP_FREE, 10, EXMAP_FREE_LAZY));
	CHECK(!counters(&r).mapped && counters(&r).flushes);
}

CASE(pread_allocates_and_reads_by_address)
{
	struct region r = open_region(8192, 1024, 2, 0, backing_file(100));
	struct iovec vec[200];
	int i;

	CHECK(pread(r.fd, r.mem + 7000 * PAGE, 3 * PAGE, AT(1, EXMAP_OP_ALLOC)) == 3 * (long)PAGE);
	r.mem[7002 * PAGE] = 1;
	for (i = 0; i < 200; i++)
		vec[i] = (struct iovec){ r.mem + (i < 100 ? i : 1000 + 2 * i) * PAGE, PAGE };
	CHECK(preadv(r.fd, vec, 100, AT(0, EXMAP_OP_READ)) == 100 * (long)PAGE);
	for (i = 0; i < 100; i++)
		CHECK(r.mem[i * PAGE + 17] == i);
	CHECK(preadv(r.fd, vec, 200, AT(0, EXMAP_OP_ALLOC)) == 200 * (long)PAGE);
	FAILS(pread(r.fd, r.mem + 1, PAGE, AT(0, EXMAP_OP_ALLOC)), EINVAL);
	FAILS(pread(r.fd, r.mem, 100, AT(0, EXMAP_OP_ALLOC)), EINVAL);
	FAILS(pread(r.fd, r.mem - PAGE, PAGE, AT(0, EXMAP_OP_ALLOC)), EFAULT);
	FAILS(pread(r.fd, r.mem + 8192 * PAGE, PAGE, AT(0, EXMAP_OP_ALLOC)), EFAULT);
	FAILS(pread(r.fd, r.mem, PAGE, AT(0, EXMAP_OP_FREE)), EINVAL);
	FAILS(pread(r.fd, r.mem, PAGE, AT(2, EXMAP_OP_ALLOC)), EINVAL);
	FAILS(pread(r.fd, r.mem, PAGE, 1 << 16), EINVAL);
	/* what succeeded before the failure is reported */
	vec[1].iov_base = r.mem + 500 * PAGE;
	CHECK(preadv(r.fd, vec, 3, AT(0, EXMAP_OP_READ)) == (long)PAGE);
}

CASE(read_and_write_move_scattered_pages_and_report_each)
{
	struct region r = open_region(4096, 1024, 1, 0, backing_file(200));
	struct exmap_iov *iov = r.itf[0]->iov;
	int i;

	for (i = 0; i < 300; i++)
		iov[i].value = (__u64)i | 1ull << 52;
	CHECK(act(&r, 0, EXMAP_OP_READ, 300, 0) == 100);
	for (i = 0; i < 300; i++) {
		CHECK(iov[i].res == (i < 200 ? 0 : -ENXIO) && iov[i].pages == (i < 200));
		CHECK(mapped(&r, (__u64)i) == (i < 200));
	}
	for (i = 0; i < 200; i++)
		CHECK(r.mem[i * PAGE + 4095] == (char)i);
	CHECK(counters(&r).reads == 200);
	CHECK(one(&r, 0, EXMAP_OP_WRITE, 198, 4, 0, &i) == -ENOENT && i == 2);
}

/* iov @i of an interface: pages that are, or shall be, those from @block on in the backing. */
static void set_iov(struct region *r, unsigned int i, __u64 page, unsigned int len, __u64 block)
{
	struct exmap_iov *iov = r->itf[0]->iov;

	iov[i].value = page;
	iov[i].len = len;
	iov[EXMAP_AT_BLOCKS_MAX + i].value = block;
}

CASE(pages_are_read_from_blocks_that_the_call_names)
{
	struct region r = open_region(4096, 1024, 1, 0, backing_file(250));
	struct exmap_iov *iov = r.itf[0]->iov;
	int i;

	for (i = 0; i < 125; i++)
		set_iov(&r, i, 3 * i + i % 2, 2, 248 - 2 * i);
	CHECK(!act(&r, 0, EXMAP_OP_READ, 125, EXMAP_AT_BLOCKS));
	for (i = 0; i < 125; i++) {
		CHECK(!iov[i].res && iov[i].pages == 2);
		CHECK(iov[EXMAP_AT_BLOCKS_MAX + i].value == 248u - 2 * i);
		CHECK((__u8)r.mem[(3 * i + i % 2) * PAGE] == 248 - 2 * i);
		CHECK((__u8)r.mem[(3 * i + i % 2 + 2) * PAGE - 1] == 249 - 2 * i);
	}
	CHECK(counters(&r).reads == 250 && counters(&r).mapped == 250);
}

CASE(pages_are_written_to_blocks_that_the_call_names)
{
	int fd = backing_file(100), i;
	struct region r = open_region(4096, 1024, 1, 0, fd);
	char page[PAGE];

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 1000, 256, 0, NULL));
	for (i = 0; i < 256; i++) {
		memset(r.mem + (1000 + i) * PAGE, i ^ 0x55, PAGE);
		set_iov(&r, i, 1000 + i, 1, 2 * i + 1);
	}
	CHECK(!act(&r, 0, EXMAP_OP_WRITE, 256, EXMAP_AT_BLOCKS));
	for (i = 0; i < 256; i++) {
		CHECK(pread(fd, page, PAGE, (2 * i + 1) * (long)PAGE) == (long)PAGE);
		CHECK((__u8)page[0] == (i ^ 0x55) && (__u8)page[PAGE - 1] == (i ^ 0x55));
		CHECK(pread(fd, page, PAGE, 2 * i * (long)PAGE) == (long)PAGE);
		CHECK(page[7] == (i < 50 ? 2 * i : 0));
	}
	CHECK(counters(&r).writes == 256);
}

CASE(blocks_that_do_not_exist_fail_alone)
{
	struct region r = open_region(4096, 64, 1, 0, backing_file(10));
	struct exmap_iov *iov = r.itf[0]->iov;

	set_iov(&r, 0, 100, 2, 9);
	set_iov(&r, 1, 200, 1, (1ull << 51) - 1);
	set_iov(&r, 2, 300, 1, (1ull << 51) - 2);
	set_iov(&r, 3, 400, 1, ~0ull);
	set_iov(&r, 4, 5000, 1, 3);
	set_iov(&r, 5, 500, 1, 3);
	CHECK(act(&r, 0, EXMAP_OP_READ, 6, EXMAP_AT_BLOCKS) == 5);
	CHECK(iov[0].res == -ENXIO && iov[0].pages == 1);
	CHECK(iov[1].res == -EINVAL && iov[2].res == -ENXIO && iov[3].res == -EINVAL);
	CHECK(iov[4].res == -EFAULT && !iov[5].res);
	CHECK(mapped(&r, 100) && mapped(&r, 500) && r.mem[500 * PAGE] == 3);
	CHECK(counters(&r).mapped == 2 && !counters(&r).busy);
}

CASE(blocks_are_for_reads_and_writes_of_half_a_vector)
{
	struct region r = open_region(1024, 64, 1, 0, backing_file(10));

	FAILS(act(&r, 0, EXMAP_OP_READ, EXMAP_AT_BLOCKS_MAX + 1, EXMAP_AT_BLOCKS), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_WRITE, EXMAP_AT_BLOCKS_MAX + 1, EXMAP_AT_BLOCKS), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, EXMAP_AT_BLOCKS), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_FREE, 1, EXMAP_AT_BLOCKS), EINVAL);
	FAILS(act(&r, 0, EXMAP_OP_UNSHARE, 1, EXMAP_AT_BLOCKS), EINVAL);
	CHECK(!act(&r, 0, EXMAP_OP_READ, 0, EXMAP_AT_BLOCKS));
	CHECK(!counters(&r).mapped);
}

struct racer {
	struct region *r;
	unsigned int interface;
	pthread_barrier_t *barrier;
};

static void read_until_there(struct region *r, unsigned int interface)
{
	int i, res;

	do {
		res = one(r, interface, EXMAP_OP_READ, 0, 64, 0, NULL);
		CHECK(!res || res == -EAGAIN);
	} while (res);
	for (i = 0; i < 64; i++)
		CHECK(r->mem[i * PAGE] == i && r->mem[i * PAGE + 4095] == i);
}

/* Both read the same pages at once; then the first one frees them. */
static void *race(void *arg)
{
	struct racer *racer = arg;
	int round;

	for (round = 0; round < 60; round++) {
		pthread_barrier_wait(racer->barrier);
		read_until_there(racer->r, racer->interface);
		pthread_barrier_wait(racer->barrier);
		if (!racer->interface)
			one(racer->r, 0, EXMAP_OP_FREE, 0, 64, round & 1 ? EXMAP_FREE_LAZY : 0, NULL);
	}
	return NULL;
}

CASE(two_reads_of_the_same_pages_see_them_complete)
{
	struct region r = open_region(1024, 256, 2, 0, backing_file(64));
	pthread_barrier_t barrier;
	struct racer racers[2] = { { &r, 0, &barrier }, { &r, 1, &barrier } };
	pthread_t other;

	CHECK(!pthread_barrier_init(&barrier, NULL, 2));
	CHECK(!pthread_create(&other, NULL, race, &racers[1]));
	race(&racers[0]);
	CHECK(!pthread_join(other, NULL));
}

static void *read_and_free(void *arg)
{
	struct region *r = arg;
	int round;

	for (round = 0; round < 100; round++) {
		read_until_there(r, 1);
		one(r, 1, EXMAP_OP_FREE, 0, 64, round & 1 ? EXMAP_FREE_LAZY : 0, NULL);
	}
	return NULL;
}

CASE(madvise_elsewhere_does_not_disturb_reads)
{
	struct region r = open_region(2048, 1024, 2, 0, backing_file(64));
	pthread_t other;
	int i;

	CHECK(!pthread_create(&other, NULL, read_and_free, &r));
	for (i = 0; i < 100; i++) {
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 700, 300, 0, NULL));
		CHECK(!madvise(r.mem + 512 * PAGE, 1024 * PAGE, MADV_DONTNEED));
	}
	CHECK(!pthread_join(other, NULL));
	CHECK(!counters(&r).mapped);
}

struct claimer {
	struct region *r;
	pthread_barrier_t barrier;
	int op;
	int claimed;
};

/* READ, and ALLOC of a range, claim pages with their chunk's lock held. */
static void *claim_range(void *arg)
{
	struct claimer *c = arg;
	int round;

	for (round = 0; round < 500; round++) {
		pthread_barrier_wait(&c->barrier);
		CHECK(!one(c->r, 1, c->op, 0, 512, 0, &c->claimed));
		pthread_barrier_wait(&c->barrier);
		pthread_barrier_wait(&c->barrier);
	}
	return NULL;
}

/* ALLOC of single pages does without it, and comes from the other end; what is being read is EAGAIN. */
static int claim_singly(struct region *r)
{
	struct exmap_iov *iov = r->itf[0]->iov;
	int i, claimed = 0;

	for (i = 0; i < 512; i++)
		iov[i].value = (__u64)(511 - i) | 1ull << (64 - EXMAP_PAGE_LEN_BITS);
	CHECK(act(r, 0, EXMAP_OP_ALLOC, 512, 0) >= 0);
	for (i = 0; i < 512; i++) {
		CHECK(!iov[i].res || iov[i].res == -EAGAIN);
		claimed += iov[i].pages;
	}
	return claimed;
}

static void meet_in_the_middle(int op)
{
	struct region r = open_region(1024, 2048, 2, 0, backing_file(512));
	struct claimer other = { .r = &r, .op = op };
	pthread_t thread;
	int round, claimed;

	CHECK(!pthread_barrier_init(&other.barrier, NULL, 2));
	CHECK(!pthread_create(&thread, NULL, claim_range, &other));
	for (round = 0; round < 500; round++) {
		pthread_barrier_wait(&other.barrier);
		claimed = claim_singly(&r);
		pthread_barrier_wait(&other.barrier);
		CHECK(claimed + other.claimed == 512 && counters(&r).mapped == 512);
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 512, 0, NULL));
		CHECK(!counters(&r).mapped);
		pthread_barrier_wait(&other.barrier);
	}
	CHECK(!pthread_join(thread, NULL));
}

CASE(alloc_and_read_that_meet_at_an_absent_page_map_one_frame)
{
	meet_in_the_middle(EXMAP_OP_READ);
}

CASE(allocs_that_meet_at_an_absent_page_map_one_frame)
{
	meet_in_the_middle(EXMAP_OP_ALLOC);
}
