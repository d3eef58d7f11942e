// SPDX-License-Identifier: MIT
/* READ and WRITE against a device that is slow, or broken, and a file that shrinks. */
#define _GNU_SOURCE
#include "abi.h"
#include "disk.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

/* Far from where udev looks for file systems, which fills the page cache. */
#define FIRST 700
#define LAST (FIRST + 7)

static void wait_until_busy(struct region *r, __u64 page)
{
	int i;

	for (i = 0; !(__atomic_load_n(&r->words[page], __ATOMIC_ACQUIRE) & EXMAP_RES_BUSY); i++) {
		CHECK(i < 10000);
		usleep(100);
	}
}

static void wait_until_begun(struct region *r, __u64 page)
{
	while (!__atomic_load_n(&r->words[page], __ATOMIC_ACQUIRE))
		usleep(100);
}

struct reading {
	struct region *r;
	int res;
	int changed;
};

static void *read_eight(void *arg)
{
	struct reading *reading = arg;

	reading->res = one(reading->r, 0, EXMAP_OP_READ, FIRST, 8, 0, &reading->changed);
	return NULL;
}

CASE(device_slow_read_shows_its_pages_busy_and_only_when_complete)
{
	struct region r = open_region(1024, 16, 2, EXMAP_FAULT_ALLOC, null_disk("2000000000", O_DIRECT));
	struct reading reading = { &r, 1, 0 };
	struct exmap_counters c;
	pthread_t thread;
	int changed;

	CHECK(!pthread_create(&thread, NULL, read_eight, &reading));
	wait_until_busy(&r, LAST);
	c = counters(&r);
	CHECK(c.busy == 8 && !c.mapped && c.total == c.free + c.quarantine + 8);
	CHECK(one(&r, 1, EXMAP_OP_ALLOC, FIRST, 1, 0, NULL) == -EAGAIN);
	CHECK(one(&r, 1, EXMAP_OP_READ, LAST, 1, 0, NULL) == -EAGAIN);
	CHECK(one(&r, 1, EXMAP_OP_WRITE, FIRST + 1, 1, 0, NULL) == -ENOENT);
	CHECK(!one(&r, 1, EXMAP_OP_FREE, FIRST, 8, 0, &changed) && !changed);
	/* other pages and other frames are not disturbed */
	CHECK(one(&r, 1, EXMAP_OP_ALLOC, 16, 9, 0, &changed) == -ENOMEM && changed == 8);
	CHECK(counters(&r).busy == 8 && !mapped(&r, FIRST));
	/* a touch waits for the content */
	CHECK((__u8)r.mem[LAST * PAGE + 5] == (__u8)LAST);
	CHECK(!pthread_join(thread, NULL));
	CHECK(!reading.res && reading.changed == 8 && counters(&r).mapped == 16);
}

CASE(device_slow_read_meets_madvise_and_munmap)
{
	int disk = null_disk("2000000000", O_DIRECT);
	struct region r = open_region(1024, 16, 2, 0, disk);
	struct reading reading = { &r, 1, 0 };
	struct exmap_counters c;
	pthread_t thread;
	int i;

	CHECK(!pthread_create(&thread, NULL, read_eight, &reading));
	wait_until_busy(&r, LAST);
	CHECK(!madvise(r.mem, r.pages * PAGE, MADV_DONTNEED));
	CHECK(counters(&r).busy == 8); /* it does not wait for the device */
	CHECK(!pthread_join(thread, NULL));
	check_conserved(r.fd);
	/* either it came after the FREE, or it was undone */
	for (i = FIRST; i <= LAST; i++)
		CHECK(!mapped(&r, i) || (__u8)r.mem[i * PAGE] == (__u8)i);
	CHECK(reading.changed == (int)counters(&r).mapped);

	CHECK(!one(&r, 1, EXMAP_OP_FREE, 0, 1024, 0, NULL));
	CHECK(!pthread_create(&thread, NULL, read_eight, &reading));
	wait_until_busy(&r, LAST);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	CHECK(!pthread_join(thread, NULL));
	CHECK(reading.res == -EPROTO && !reading.changed);
	c = counters(&r);
	CHECK(!c.busy && !c.mapped && c.free + c.quarantine == 16);
}

static void *read_forever(void *arg)
{
	struct reading *reading = arg;

	for (;;) {
		one(reading->r, 1, EXMAP_OP_READ, 800, 100, 0, NULL);
		one(reading->r, 1, EXMAP_OP_FREE, 800, 100, EXMAP_FREE_LAZY, NULL);
	}
	return NULL;
}

struct victim {
	int disk;
	int started;
};

static void read_until_killed(void *arg)
{
	struct victim *victim = arg;
	struct region r = open_region(1024, 256, 2, 0, victim->disk);
	struct reading reading = { &r, 1, 0 };
	pthread_t threads[2];

	CHECK(!pthread_create(&threads[0], NULL, read_eight, &reading));
	CHECK(!pthread_create(&threads[1], NULL, read_forever, &reading));
	/* most likely they are still being read: that takes half a second */
	wait_until_begun(&r, LAST);
	wait_until_begun(&r, 899);
	CHECK(write(victim->started, "", 1) == 1);
	pause();
}

/* Kill a process in the middle of a READ, many times. */
static void kill_readers(int open_flags)
{
	int disk = null_disk("500000000", open_flags), ends[2], round, status;
	struct victim victim = { .disk = disk };
	struct region r;
	char byte;

	for (round = 0; round < 6; round++) {
		pid_t child;

		CHECK(!pipe(ends));
		victim.started = ends[1];
		/* or the page cache would be quick */
		CHECK(!posix_fadvise(disk, 0, 0, POSIX_FADV_DONTNEED));
		child = fork();
		if (!child) {
			read_until_killed(&victim);
			_exit(1);
		}
		close(ends[1]);
		CHECK(read(ends[0], &byte, 1) == 1);
		close(ends[0]);
		usleep((unsigned int)round * 90000);
		CHECK(!kill(child, SIGKILL));
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	/* the disk works as before */
	r = open_region(1024, 256, 1, 0, disk);
	CHECK(!one(&r, 0, EXMAP_OP_READ, 0, 256, 0, NULL));
	for (round = 0; round < 256; round++)
		CHECK((__u8)r.mem[round * PAGE + 4095] == round);
}

CASE(device_slow_read_is_survived_by_kill_direct)
{
	kill_readers(O_DIRECT);
}

CASE(device_slow_read_is_survived_by_kill_buffered)
{
	kill_readers(0);
}

static void fill(struct exmap_iov *iov, unsigned int n, __u64 first, unsigned int stride)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		iov[i].value = first + i * stride;
		iov[i].len = 1;
	}
}

/* Every other page, so that each is a request of its own; some of them are bad. */
static void read_bad_pages(int open_flags)
{
	static const int bad[] = { 0, 20, 22, 98 };
	struct region r = open_region(1024, 128, 1, 0, null_disk("10000", open_flags));
	struct exmap_iov *iov = r.itf[0]->iov;
	unsigned int i;
	int changed;

	for (i = 0; i < 4; i++)
		spoil(FIRST + bad[i]);
	fill(iov, 50, FIRST, 2);
	CHECK(act(&r, 0, EXMAP_OP_READ, 50, 0) == 4);
	for (i = 0; i < 50; i++) {
		bool good = i != 0 && i != 10 && i != 11 && i != 49;
		unsigned int page = FIRST + 2 * i;

		CHECK(iov[i].res == (good ? 0 : -EIO) && iov[i].pages == good);
		CHECK(mapped(&r, page) == good);
		CHECK(!good || (__u8)r.mem[page * PAGE + 4095] == (__u8)page);
	}
	CHECK(counters(&r).mapped == 46 && !counters(&r).busy && counters(&r).reads == 46);
	/* a page that could not be read may be allocated, or read when the disk is well again */
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, FIRST + 20, 1, 0, &changed) && changed == 1);
	heal(FIRST + 22);
	CHECK(!one(&r, 0, EXMAP_OP_READ, FIRST + 22, 1, 0, &changed) && changed == 1);
	CHECK((__u8)r.mem[(FIRST + 22) * PAGE] == (__u8)(FIRST + 22));
	CHECK((__u8)r.mem[(FIRST + 22) * PAGE + 4095] == (__u8)(FIRST + 22));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1024, 0, NULL));
	CHECK(counters(&r).free == 128);
}

/* Neighbours in the backing, from pages that are not: one request until one is bad. */
CASE(device_errors_stay_with_their_blocks)
{
	struct region r = open_region(1024, 128, 1, 0, null_disk("10000", O_DIRECT));
	struct exmap_iov *iov = r.itf[0]->iov;
	unsigned int i;

	spoil(FIRST + 3);
	fill(iov, 20, 0, 5);
	for (i = 0; i < 20; i++)
		iov[EXMAP_AT_BLOCKS_MAX + i].value = FIRST + i;
	CHECK(act(&r, 0, EXMAP_OP_READ, 20, EXMAP_AT_BLOCKS) == 1);
	for (i = 0; i < 20; i++) {
		CHECK(iov[i].res == (i == 3 ? -EIO : 0) && mapped(&r, 5 * i) == (i != 3));
		CHECK(i == 3 || (__u8)r.mem[5 * i * PAGE + 4095] == (__u8)(FIRST + i));
	}
	CHECK(!counters(&r).busy && counters(&r).reads == 19);
}

CASE(device_errors_of_read_stay_with_their_pages_direct)
{
	read_bad_pages(O_DIRECT);
}

CASE(device_errors_of_read_stay_with_their_pages_buffered)
{
	read_bad_pages(0);
}

CASE(device_errors_of_a_run_leave_no_page_half_read)
{
	struct region r = open_region(1024, 128, 1, 0, null_disk("10000", O_DIRECT));
	int i, changed;

	spoil(37);
	CHECK(one(&r, 0, EXMAP_OP_READ, 30, 20, 0, &changed) == -EIO);
	CHECK(changed == 19 && counters(&r).mapped == 19 && !counters(&r).busy);
	for (i = 30; i < 50; i++) {
		CHECK(mapped(&r, i) == (i != 37));
		CHECK(i == 37 || (r.mem[i * PAGE] == i && r.mem[i * PAGE + 4095] == i));
	}
	for (i = 30; i < 50; i++)
		CHECK(one(&r, 0, EXMAP_OP_READ, i, 1, 0, NULL) == (i == 37 ? -EIO : 0));
	CHECK(counters(&r).mapped == 19);
}

CASE(device_errors_of_write_are_reported_and_the_page_stays)
{
	int disk = null_disk("10000", O_DIRECT);
	struct region r = open_region(1024, 128, 1, 0, disk);
	struct exmap_iov *iov = r.itf[0]->iov;
	char *content = aligned_alloc(PAGE, PAGE);
	int i;

	CHECK(!one(&r, 0, EXMAP_OP_READ, 0, 100, 0, NULL));
	memset(r.mem, 0xee, 100 * PAGE);
	spoil(40);
	fill(iov, 50, 0, 2);
	CHECK(act(&r, 0, EXMAP_OP_WRITE, 50, 0) == 1);
	for (i = 0; i < 50; i++)
		CHECK(iov[i].res == (i == 20 ? -EIO : 0) && iov[i].pages == (i != 20));
	CHECK(counters(&r).writes == 49 && counters(&r).mapped == 100);
	heal(40);
	CHECK(pread(disk, content, PAGE, 40 * PAGE) == (long)PAGE && content[0] == 40);
	CHECK(!one(&r, 0, EXMAP_OP_WRITE, 40, 1, 0, NULL));
	CHECK(pread(disk, content, PAGE, 40 * PAGE) == (long)PAGE && (__u8)content[0] == 0xee);
}

/* Neighbours make one request; a bad block is still the matter of its page alone. */
static void neighbours_of_a_bad_page(int open_flags)
{
	struct region r = open_region(1024, 128, 1, 0, null_disk("10000", open_flags));
	struct exmap_iov *iov = r.itf[0]->iov;
	int i;

	spoil(FIRST + 7);
	fill(iov, 20, FIRST, 1);
	CHECK(act(&r, 0, EXMAP_OP_READ, 20, 0) == 1);
	for (i = 0; i < 20; i++)
		CHECK(iov[i].res == (i == 7 ? -EIO : 0) && mapped(&r, FIRST + i) == (i != 7));
	heal(FIRST + 7);
	CHECK(!one(&r, 0, EXMAP_OP_READ, FIRST + 7, 1, 0, NULL));
	if (!(open_flags & O_DIRECT))
		return;	/* the page cache takes every write */
	spoil(FIRST + 7);
	fill(iov, 20, FIRST, 1);
	CHECK(act(&r, 0, EXMAP_OP_WRITE, 20, 0) == 1);
	for (i = 0; i < 20; i++)
		CHECK(iov[i].res == (i == 7 ? -EIO : 0) && iov[i].pages == (i != 7));
}

CASE(device_errors_do_not_spread_to_neighbours_direct)
{
	neighbours_of_a_bad_page(O_DIRECT);
}

CASE(device_errors_do_not_spread_to_neighbours_buffered)
{
	neighbours_of_a_bad_page(0);
}

static volatile bool enough;

static void *shrink_and_grow(void *arg)
{
	int fd = *(int *)arg;

	while (!enough) {
		CHECK(!ftruncate(fd, 50 * PAGE));
		CHECK(!ftruncate(fd, 100 * PAGE));
	}
	return NULL;
}

CASE(a_file_that_shrinks_gives_enxio_for_what_is_gone)
{
	int file = backing_file(100), round, i;
	struct region r = open_region(1024, 256, 1, 0, file);
	struct exmap_iov *iov = r.itf[0]->iov;
	pthread_t thread;

	CHECK(!ftruncate(file, 50 * PAGE - 100));
	fill(iov, 100, 0, 1);
	CHECK(act(&r, 0, EXMAP_OP_READ, 100, 0) == 50);
	for (i = 0; i < 100; i++)
		CHECK(iov[i].res == (i < 50 ? 0 : -ENXIO) && mapped(&r, i) == (i < 50));
	CHECK(r.mem[49 * PAGE] == 49 && !r.mem[49 * PAGE + 4000]);

	CHECK(!pthread_create(&thread, NULL, shrink_and_grow, &file));
	for (round = 0; round < 200; round++) {
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 100, EXMAP_FREE_LAZY, NULL));
		fill(iov, 100, 0, 1);
		CHECK(act(&r, 0, EXMAP_OP_READ, 100, 0) >= 0);
		for (i = 0; i < 100; i++) {
			/* EIO: it grew again before its length was looked at */
			CHECK(!iov[i].res || iov[i].res == -ENXIO || iov[i].res == -EIO);
			CHECK(mapped(&r, i) == !iov[i].res);
			CHECK(i >= 49 || (!iov[i].res && r.mem[i * PAGE + 4095] == i));
			CHECK(iov[i].res || i < 50 || !r.mem[i * PAGE]);
		}
		CHECK(!counters(&r).busy);
	}
	enough = true;
	CHECK(!pthread_join(thread, NULL));
}
