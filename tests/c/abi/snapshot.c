// SPDX-License-Identifier: MIT
/* Snapshots: what they show, what they cost the live region, how they end. */
#define _GNU_SOURCE
#include "abi.h"
#include "disk.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define CHUNK EXMAP_CHUNK_PAGES

static int snapshot(struct region *r, __u64 start, __u64 count, __u64 reserve)
{
	struct exmap_snapshot_create create = { .start = start, .count = count, .reserve = reserve };

	return ioctl(r->fd, EXMAP_IOCTL_SNAPSHOT, &create);
}

static int snapshot_readers_copy(struct region *r, __u64 start, __u64 count)
{
	struct exmap_snapshot_create create = { .flags = EXMAP_READERS_COPY, .start = start,
						.count = count };

	return ioctl(r->fd, EXMAP_IOCTL_SNAPSHOT, &create);
}

static volatile __u32 *word_of(char *mem, __u64 page)
{
	return (volatile __u32 *)(mem + page * PAGE);
}

/* ALLOC a range and write @value + page number to each page. */
static void fill(struct region *r, __u64 start, unsigned int count, __u32 value)
{
	__u64 page;

	CHECK(!one(r, 0, EXMAP_OP_ALLOC, start, count, 0, NULL));
	for (page = start; page < start + count; page++)
		*word_of(r->mem, page) = value + page;
}

/* The first word of a page of a snapshot, by pread. */
static __u32 read_word(int snap, __u64 page)
{
	__u32 value;

	CHECK(pread(snap, &value, sizeof(value), page * PAGE) == sizeof(value));
	return value;
}

static void check_shows(int snap, __u64 start, unsigned int count, __u32 value)
{
	char *view = mmap(NULL, (start + count) * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	__u64 page;

	CHECK(view != MAP_FAILED);
	for (page = start; page < start + count; page++) {
		CHECK(*word_of(view, page) == value + page);
		CHECK(read_word(snap, page) == value + page);
	}
	CHECK(!munmap(view, (start + count) * PAGE));
}

static struct exmap_snapshot_info info(int snap)
{
	struct exmap_snapshot_info i = { };

	CHECK(!ioctl(snap, EXMAP_IOCTL_SNAPSHOT_INFO, &i));
	return i;
}

static __u32 page_word(int snap, __u64 page)
{
	__u32 word;
	struct exmap_snapshot_pages pages = { .start = page, .count = 1,
					      .words = (__u64)(unsigned long)&word };

	CHECK(!ioctl(snap, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages));
	return word;
}

CASE(snapshot_keeps_its_content_while_the_live_region_changes)
{
	struct region r = open_region(2 * CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	__u64 page, copies;
	int snap;

	fill(&r, 0, 600, 1000);
	snap = snapshot(&r, 0, 2 * CHUNK, 0);
	CHECK(snap >= 0 && (fcntl(snap, F_GETFD) & FD_CLOEXEC));
	check_shows(snap, 0, 600, 1000);
	for (page = 0; page < 300; page++) {
		CHECK(*word_of(r.mem, page) == 1000 + page);
		*word_of(r.mem, page) = 7;
	}
	check_shows(snap, 0, 600, 1000);
	for (page = 0; page < 600; page++)
		CHECK(*word_of(r.mem, page) == (page < 300 ? 7 : 1000 + page));
	/* who writes one page after the other gets a few copied ahead */
	copies = counters(&r).copies;
	CHECK(copies >= 300 && copies <= 308 && counters(&r).snapshot == copies);
	CHECK(info(snap).frames == copies && !info(snap).broken);
	CHECK(!close(snap));
	CHECK(!counters(&r).snapshot);
	*word_of(r.mem, 599) = 8;
	CHECK(counters(&r).copies == copies);
}

CASE(snapshot_view_stays_right_while_it_is_mapped)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	__u64 page;
	char *view;
	int snap, round;

	fill(&r, 0, CHUNK, 1000);
	snap = snapshot(&r, 0, CHUNK, EXMAP_RESERVE_ALL);
	CHECK(snap >= 0);
	CHECK(info(snap).reserve == CHUNK);
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	CHECK(view != MAP_FAILED);
	for (round = 0; round < 3; round++) {
		for (page = 0; page < CHUNK; page++) {
			CHECK(*word_of(view, page) == 1000 + page);
			*word_of(r.mem, page) = round;
			CHECK(*word_of(view, page) == 1000 + page);
		}
	}
	CHECK(!info(snap).reserve && info(snap).frames == CHUNK);
	/* the view keeps the snapshot when the descriptor is gone */
	CHECK(!close(snap));
	CHECK(*word_of(view, 5) == 1005);
	CHECK(!munmap(view, CHUNK * PAGE));
	CHECK(!counters(&r).snapshot);
}

/* Three generations, closed in each of the six orders. */
CASE(snapshot_of_each_generation_has_its_own_content)
{
	static const int orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
					  { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
	int o, g, i, snap[3];
	__u64 page;

	for (o = 0; o < 6; o++) {
		struct region r = open_region(2 * CHUNK, 6 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
		bool open[3] = { true, true, true };

		fill(&r, 0, 2 * CHUNK, 0);
		for (g = 0; g < 3; g++) {
			snap[g] = snapshot(&r, 0, 2 * CHUNK, 0);
			CHECK(snap[g] >= 0);
			/* every (g + 2)th page changes in this generation */
			for (page = 0; page < 2 * CHUNK; page += g + 2)
				*word_of(r.mem, page) = (g + 1) * 10000;
		}
		for (i = 0; i < 3; i++) {
			for (g = 0; g < 3; g++) {
				for (page = 0; open[g] && page < 2 * CHUNK; page++) {
					__u32 want = page;

					if (g > 0 && page % 2 == 0)
						want = 10000;
					if (g > 1 && page % 3 == 0)
						want = 20000;
					CHECK(read_word(snap[g], page) == want);
				}
			}
			CHECK(!close(snap[orders[o][i]]));
			open[orders[o][i]] = false;
			check_conserved(r.fd);
		}
		CHECK(!counters(&r).snapshot);
		CHECK(!munmap(r.mem, r.pages * PAGE));
		CHECK(!close(r.fd));
	}
}

CASE(snapshot_ranges_may_overlap)
{
	struct region r = open_region(4 * CHUNK, 8 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	int a, b;

	fill(&r, 0, 4 * CHUNK, 0);
	a = snapshot(&r, 0, 3 * CHUNK, 0);
	*word_of(r.mem, CHUNK) = 77;
	b = snapshot(&r, CHUNK, 3 * CHUNK, 0);
	*word_of(r.mem, 0) = 78;
	*word_of(r.mem, CHUNK) = 79;
	*word_of(r.mem, 3 * CHUNK) = 80;
	CHECK(read_word(a, 0) == 0 && read_word(a, CHUNK) == CHUNK);
	CHECK(read_word(b, 0) == 77 && read_word(b, 2 * CHUNK) == 3 * CHUNK);
	CHECK(!close(b));
	CHECK(read_word(a, 0) == 0 && read_word(a, CHUNK) == CHUNK);
	CHECK(!close(a));
	CHECK(!counters(&r).snapshot);
}

CASE(snapshot_shows_absent_pages_as_such)
{
	struct region r = open_region(2 * CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	char buffer[3 * PAGE], *view;
	int snap, changed;

	fill(&r, 10, 10, 0);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 15, 1, EXMAP_FREE_LAZY, NULL));
	snap = snapshot(&r, 0, 2 * CHUNK, 0);
	CHECK(snap >= 0);
	/* mapped since: by ALLOC, out of quarantine, in a chunk without a table */
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 9, 1, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 15, 1, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, CHUNK, 1, 0, NULL));
	FAILS(pread(snap, buffer, PAGE, 9 * PAGE), ENOENT);
	FAILS(pread(snap, buffer, PAGE, 15 * PAGE), ENOENT);
	FAILS(pread(snap, buffer, PAGE, CHUNK * PAGE), ENOENT);
	CHECK(pread(snap, buffer, 3 * PAGE, 13 * PAGE) == 2 * PAGE);
	CHECK(pread(snap, buffer, PAGE, 2 * CHUNK * PAGE) == 0);
	view = mmap(NULL, 2 * CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	CHECK(touch_signal(view + 9 * PAGE, false) == SIGBUS);
	CHECK(touch_signal(view + 15 * PAGE, false) == SIGBUS);
	CHECK(touch_signal(view + CHUNK * PAGE, false) == SIGBUS);
	CHECK(touch_signal(view + 10 * PAGE, false) == 0);
	CHECK(!page_word(snap, 9) && (page_word(snap, 10) & EXMAP_RES_SNAPSHOT));

	/* what is freed stays there; nothing is copied for it */
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 10, 10, 0, &changed) && changed == 10);
	CHECK(counters(&r).copies == 0 && counters(&r).snapshot == 9);
	CHECK(EXMAP_RES_MAPPED(page_word(snap, 10)) && !(page_word(snap, 10) & EXMAP_RES_SNAPSHOT));
	CHECK(!mapped(&r, 10));
	CHECK(*word_of(view, 10) == 10 && read_word(snap, 19) == 19);
	fill(&r, 10, 10, 500);
	CHECK(*word_of(view, 10) == 10 && *word_of(r.mem, 10) == 510);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 10, 10, EXMAP_FREE_LAZY, NULL));
	CHECK(*word_of(view, 12) == 12);
	CHECK(!munmap(view, 2 * CHUNK * PAGE) && !close(snap));
}

CASE(snapshot_words_and_differences)
{
	struct region r = open_region(2 * CHUNK, 4 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	__u8 bits[2 * CHUNK / 8];
	struct exmap_snapshot_diff diff = { .count = 2 * CHUNK, .bitmap = (__u64)(unsigned long)bits };
	int a, b, i;

	fill(&r, 0, CHUNK + 10, 0);
	a = snapshot(&r, 0, 2 * CHUNK, 0);
	*word_of(r.mem, 3) = 1;
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 100, 1, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, CHUNK + 20, 1, 0, NULL));
	CHECK(!(r.words[3] & EXMAP_RES_SNAPSHOT) && (r.words[4] & EXMAP_RES_SNAPSHOT));
	b = snapshot(&r, 0, 2 * CHUNK, 0);
	*word_of(r.mem, 5) = 1;
	diff.fd = b;
	CHECK(!ioctl(a, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff));
	for (i = 0; i < 2 * (int)CHUNK; i++)
		CHECK(!!(bits[i / 8] & 1 << i % 8) == (i == 3 || i == 100 || i == CHUNK + 20));
	CHECK(page_word(a, 4) == page_word(b, 4));
	CHECK(page_word(a, 5) == page_word(b, 5) && !(page_word(a, 5) & EXMAP_RES_SNAPSHOT));
	CHECK(EXMAP_RES_FRAME(page_word(a, 4)) == EXMAP_RES_FRAME(r.words[4]));

	diff.start = 4;
	FAILS(ioctl(a, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff), EINVAL);
	diff.start = 8;
	FAILS(ioctl(a, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff), EFAULT);
	diff.fd = r.fd;
	FAILS(ioctl(a, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff), EINVAL);
	diff.fd = 999;
	FAILS(ioctl(a, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff), EBADF);
	CHECK(!close(a) && !close(b));
}

CASE(snapshot_without_frames_breaks_and_the_writer_goes_on)
{
	struct region r = open_region(2 * CHUNK, CHUNK + 20, 1, EXMAP_SNAPSHOTS, -1);
	struct exmap_snapshot_pages pages = { .count = 1 };
	char byte, *view;
	int a, b, other;
	__u64 page;

	fill(&r, 0, CHUNK, 0);
	fill(&r, CHUNK, 1, 0);
	other = snapshot(&r, CHUNK, CHUNK, 0);
	a = snapshot(&r, 0, CHUNK, 0);
	b = snapshot(&r, 0, CHUNK, 10);
	CHECK(a >= 0 && b >= 0 && info(b).reserve == 10);
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, a, 0);
	CHECK(*word_of(view, 1) == 1);
	for (page = 0; page < 19; page++)
		*word_of(r.mem, page) = 5;
	CHECK(!info(a).broken && !info(b).broken && read_word(a, 3) == 3);
	for (page = 0; page < CHUNK; page++)
		*word_of(r.mem, page) = 6;
	CHECK(info(a).broken && info(b).broken && !info(other).broken);
	FAILS(pread(a, &byte, 1, 0), ENODATA);
	FAILS(pread(b, &byte, 1, 400 * PAGE), ENODATA);
	pages.words = (__u64)(unsigned long)&page;
	FAILS(ioctl(a, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages), ENODATA);
	CHECK(touch_signal(view + PAGE, false) == SIGBUS);
	CHECK(read_word(other, 0) == CHUNK);
	CHECK(!counters(&r).snapshot);
	for (page = 0; page < CHUNK; page++)
		CHECK(*word_of(r.mem, page) == 6);
	CHECK(!munmap(view, CHUNK * PAGE));
	CHECK(!close(a) && !close(b) && !close(other));
}

CASE(snapshot_reserves_frames_or_refuses)
{
	struct region r = open_region(CHUNK, CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	int snap;

	fill(&r, 0, 300, 0);
	FAILS(snapshot(&r, 0, CHUNK, EXMAP_RESERVE_ALL), ENOMEM);
	FAILS(snapshot(&r, 0, CHUNK, 213), ENOMEM);
	FAILS(snapshot(&r, 0, CHUNK, CHUNK + 1), ENOMEM);
	CHECK(counters(&r).free == 212 && !counters(&r).snapshot);
	snap = snapshot(&r, 0, CHUNK, 212);
	CHECK(snap >= 0 && counters(&r).snapshot == 212);
	CHECK(one(&r, 0, EXMAP_OP_ALLOC, 400, 1, 0, NULL) == -ENOMEM);
	CHECK(!close(snap));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 400, 1, 0, NULL));
}

CASE(snapshot_gives_the_reserve_of_freed_pages_back)
{
	struct region r = open_region(CHUNK, CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	__u64 page;
	int snap;

	fill(&r, 0, 256, 0);
	snap = snapshot(&r, 0, CHUNK, EXMAP_RESERVE_ALL);
	CHECK(snap >= 0 && !counters(&r).free);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 50, 0, NULL));
	CHECK(!madvise(r.mem + 50 * PAGE, 50 * PAGE, MADV_DONTNEED));
	CHECK(counters(&r).free == 100 && info(snap).reserve == 156 && info(snap).frames == 100);
	fill(&r, 0, 100, 7);
	for (page = 100; page < 256; page++)
		*word_of(r.mem, page) = 7;
	CHECK(!info(snap).reserve && !info(snap).broken);
	check_shows(snap, 0, 256, 0);
	CHECK(!close(snap));
}

CASE(snapshot_unshare_copies_ahead_of_the_writes)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	int snap, changed;
	__u64 page;

	fill(&r, 0, 100, 0);
	snap = snapshot(&r, 0, CHUNK, 0);
	CHECK(!one(&r, 0, EXMAP_OP_UNSHARE, 50, 100, 0, &changed) && changed == 50);
	CHECK(!one(&r, 0, EXMAP_OP_UNSHARE, 50, 100, 0, &changed) && changed == 0);
	CHECK(one(&r, 0, EXMAP_OP_UNSHARE, 500, 100, 0, NULL) == -EFAULT);
	for (page = 50; page < 100; page++) {
		CHECK(!(r.words[page] & EXMAP_RES_SNAPSHOT));
		*word_of(r.mem, page) = 9;
	}
	CHECK(counters(&r).copies == 50);
	check_shows(snap, 0, 100, 0);
	CHECK(!close(snap));
}

CASE(snapshot_survives_madvise_and_munmap)
{
	struct region r = open_region(3 * CHUNK, 4 * CHUNK, 2, EXMAP_SNAPSHOTS, -1);
	int a, b;

	fill(&r, 0, 2 * CHUNK + 5, 0);
	a = snapshot(&r, 0, 3 * CHUNK, 0);
	*word_of(r.mem, 600) = 1;
	b = snapshot(&r, 0, 3 * CHUNK, 0);
	CHECK(!madvise(r.mem + 100 * PAGE, 500 * PAGE, MADV_DONTNEED));
	CHECK(!mapped(&r, 100) && mapped(&r, 99));
	check_conserved(r.fd);
	CHECK(touch_signal(r.mem + 100 * PAGE, false) == SIGSEGV);
	fill(&r, 100, 10, 3);
	check_shows(a, 0, 2 * CHUNK + 5, 0);
	CHECK(read_word(b, 600) == 1 && read_word(b, 100) == 100);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	check_shows(a, 0, 2 * CHUNK + 5, 0);
	CHECK(read_word(b, 600) == 1 && read_word(b, 100) == 100);
	check_conserved(r.fd);
	CHECK(!close(a));
	CHECK(read_word(b, 600) == 1 && read_word(b, 100) == 100);
	check_conserved(r.fd);
	CHECK(!close(b));
	CHECK(!counters(&r).snapshot);
	FAILS(snapshot(&r, 0, 3 * CHUNK, 0), EPROTO);
}

/* How many of a snapshot's pages the live region has too. */
static unsigned int shared_pages(int snap, unsigned int count)
{
	unsigned int page, shared = 0;

	for (page = 0; page < count; page++)
		shared += !!(page_word(snap, page) & EXMAP_RES_SNAPSHOT);
	return shared;
}

static long faults(void)
{
	struct rusage usage;

	CHECK(!getrusage(RUSAGE_THREAD, &usage));
	return usage.ru_minflt;
}

CASE(snapshot_is_copied_by_its_readers_if_it_says_so)
{
	struct region r = open_region(2 * CHUNK, 3000, 1, EXMAP_SNAPSHOTS, -1);
	__u64 page;
	long before;
	int snap;

	fill(&r, 0, 2 * CHUNK, 7);
	snap = snapshot_readers_copy(&r, 0, 2 * CHUNK);
	CHECK(snap >= 0 && shared_pages(snap, 2 * CHUNK) == 2 * CHUNK);
	/* pread copies to its caller, and nothing else */
	CHECK(read_word(snap, 5) == 12 && !counters(&r).copies);
	check_shows(snap, 0, 2 * CHUNK, 7);
	CHECK(counters(&r).copies == 2 * CHUNK && !shared_pages(snap, 2 * CHUNK));
	CHECK(info(snap).frames == 2 * CHUNK);
	for (page = 0; page < 2 * CHUNK; page++)
		(void)*word_of(r.mem, page);
	before = faults();
	for (page = 0; page < 2 * CHUNK; page++)
		*word_of(r.mem, page) = 1;
	CHECK(faults() == before && counters(&r).copies == 2 * CHUNK);
	check_shows(snap, 0, 2 * CHUNK, 7);
	check_conserved(r.fd);
	CHECK(!close(snap));
	CHECK(!counters(&r).snapshot);
	check_conserved(r.fd);
}

/* 2,200 frames: an eighth is 275, and 1,024 are mapped. */
CASE(snapshot_is_shared_again_when_frames_run_short)
{
	struct region r = open_region(2 * CHUNK, 2200, 1, EXMAP_SNAPSHOTS, -1);
	unsigned int copied;
	__u64 page;
	int snap;

	fill(&r, 0, 2 * CHUNK, 7);
	snap = snapshot_readers_copy(&r, 0, 2 * CHUNK);
	CHECK(snap >= 0);
	check_shows(snap, 0, 2 * CHUNK, 7);
	copied = counters(&r).copies;
	CHECK(copied > 600 && copied <= 2200 - 1024 - 275);
	CHECK(shared_pages(snap, 2 * CHUNK) == 2 * CHUNK - copied);
	for (page = 0; page < 2 * CHUNK; page++)
		*word_of(r.mem, page) = 1;
	CHECK(!info(snap).broken && counters(&r).copies == 2 * CHUNK);
	check_shows(snap, 0, 2 * CHUNK, 7);
	check_conserved(r.fd);
}

/* An older snapshot that shares, one whose readers copy, and both looking at the same pages. */
CASE(snapshot_copied_by_readers_goes_with_others)
{
	struct region r = open_region(CHUNK, 3000, 1, EXMAP_SNAPSHOTS, -1);
	__u64 page;
	int a, b, c;

	fill(&r, 0, CHUNK, 1);
	a = snapshot(&r, 0, CHUNK, 0);
	*word_of(r.mem, 3) = 99;
	b = snapshot_readers_copy(&r, 0, CHUNK);
	CHECK(a >= 0 && b >= 0 && read_word(b, 3) == 99);
	check_shows(a, 4, CHUNK - 4, 1);
	/* what the view of a shares is not copied behind its back */
	check_shows(b, 4, CHUNK - 4, 1);
	for (page = 0; page < CHUNK; page++)
		*word_of(r.mem, page) = 1000 + page;
	check_shows(a, 0, CHUNK, 1);
	check_shows(b, 4, CHUNK - 4, 1);
	c = snapshot_readers_copy(&r, 0, CHUNK);
	CHECK(c >= 0);
	check_shows(c, 0, CHUNK, 1000);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, CHUNK, 0, NULL));
	check_shows(c, 0, CHUNK, 1000);
	check_shows(a, 0, CHUNK, 1);
	CHECK(!close(b));
	check_shows(a, 0, CHUNK, 1);
	check_conserved(r.fd);
	CHECK(!close(a) && !close(c));
	CHECK(!counters(&r).snapshot);
	check_conserved(r.fd);
}

CASE(snapshot_copied_by_readers_outlives_its_region)
{
	struct region r = open_region(CHUNK, 3000, 1, EXMAP_SNAPSHOTS, -1);
	int snap;

	fill(&r, 0, CHUNK, 1);
	snap = snapshot_readers_copy(&r, 0, CHUNK);
	CHECK(snap >= 0);
	check_shows(snap, 0, 10, 1);
	CHECK(!munmap(r.mem, r.pages * PAGE));
	check_shows(snap, 0, CHUNK, 1);
	CHECK(!close(snap));
}

CASE(snapshot_is_refused_for_bad_arguments)
{
	struct region plain = open_region(CHUNK, 16, 1, 0, -1);
	struct region r = open_region(3 * CHUNK + 100, 1000, 1, EXMAP_SNAPSHOTS, -1);
	struct exmap_snapshot_create create = { .flags = 1 | EXMAP_READERS_COPY,
						 .count = CHUNK };
	int fresh, snap;

	FAILS(snapshot(&plain, 0, CHUNK, 0), EOPNOTSUPP);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SNAPSHOT, &create), EINVAL);
	create.flags = 0;
	create.reserved[3] = 1;
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SNAPSHOT, &create), EINVAL);
	FAILS(snapshot(&r, 1, CHUNK, 0), EINVAL);
	FAILS(snapshot(&r, 0, 1, 0), EINVAL);
	FAILS(snapshot(&r, CHUNK, CHUNK + 100, 0), EINVAL);
	FAILS(snapshot(&r, 0, 0, 0), EFAULT);
	FAILS(snapshot(&r, 0, 4 * CHUNK, 0), EFAULT);
	FAILS(snapshot(&r, CHUNK, ~0ull - 10, 0), EFAULT);
	snap = snapshot(&r, 3 * CHUNK, 100, 0);
	CHECK(snap >= 0);
	CHECK(mmap(NULL, 101 * PAGE, PROT_READ, MAP_SHARED, snap, 0) == MAP_FAILED &&
	      errno == EINVAL);
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, snap, 0) == MAP_FAILED &&
	      errno == EACCES);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, snap, 0) == MAP_FAILED && errno == EINVAL);
	FAILS(write(snap, &snap, 1), EBADF);
	FAILS(ioctl(snap, EXMAP_IOCTL_ACTION, &create), ENOTTY);
	CHECK(!close(snap));

	fresh = open("/dev/exmap", O_RDWR);
	create.reserved[3] = 0;
	FAILS(ioctl(fresh, EXMAP_IOCTL_SNAPSHOT, &create), EBADF);
	CHECK(!set_up(fresh, 16, 1, EXMAP_SNAPSHOTS, -1));
	FAILS(ioctl(fresh, EXMAP_IOCTL_SNAPSHOT, &create), EPROTO);
	CHECK(!close(fresh));
}

CASE(snapshot_of_a_cut_chunk_leaves_its_neighbours_alone)
{
	char *next = MAP_FAILED;
	struct region r;
	int snap, i;

	/* until there is room behind it */
	for (i = 0; i < 20 && next == MAP_FAILED; i++) {
		r = open_region(CHUNK + 100, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
		next = mmap(r.mem + r.pages * PAGE, 50 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	}
	CHECK(next == r.mem + r.pages * PAGE);
	memset(next, 5, 50 * PAGE);
	fill(&r, CHUNK - 50, 150, 0);
	snap = snapshot(&r, 0, CHUNK + 100, 0);
	CHECK(snap >= 0);
	CHECK(next[0] == 5 && next[49 * PAGE] == 5);
	*word_of(r.mem, CHUNK + 99) = 1;
	*word_of(r.mem, CHUNK - 50) = 1;
	next[PAGE] = 6;
	check_shows(snap, CHUNK - 50, 150, 0);
	CHECK(!close(snap));
	CHECK(!munmap(next, 50 * PAGE));
}

CASE(snapshot_and_scan_leave_each_other_alone)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	__u8 present[2], dirty[2];
	struct exmap_scan scan = { .count = 16, .present = (__u64)(unsigned long)present,
				   .dirty = (__u64)(unsigned long)dirty };
	int snap;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 16, 0, NULL));
	*word_of(r.mem, 3) = 1;
	snap = snapshot(&r, 0, CHUNK, 0);
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan));
	CHECK(present[0] == 0xff && dirty[0] == 8 && !dirty[1]);
	*word_of(r.mem, 4) = 1;
	scan.flags = EXMAP_SCAN_CLEAR_DIRTY;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan));
	CHECK(dirty[0] == 0x18);
	*word_of(r.mem, 5) = 1;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_SCAN, &scan));
	CHECK(dirty[0] == 0x20);
	CHECK(!close(snap));
}

CASE(snapshot_goes_on_while_the_pool_is_resized)
{
	struct region r = open_region(2 * CHUNK, CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	struct exmap_resize resize = { .pool_pages = 3 * CHUNK };
	int snap;

	fill(&r, 0, CHUNK, 0);
	snap = snapshot(&r, 0, 2 * CHUNK, 0);
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
	check_shows(snap, 0, CHUNK, 0);
	CHECK(!one(&r, 0, EXMAP_OP_UNSHARE, 0, CHUNK, 0, NULL));
	resize.pool_pages = 2 * CHUNK - 1;
	FAILS(ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize), EBUSY);
	resize.pool_pages = 2 * CHUNK;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
	check_shows(snap, 0, CHUNK, 0);
	CHECK(!close(snap));
	resize.pool_pages = CHUNK;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
}

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { };
	struct iovec iov = { .iov_base = control, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int fd;

	CHECK(recvmsg(socket, &message, 0) == 1);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

/* Makes a region and a snapshot, hands that over, and writes until it is killed. */
static void owner(void *arg)
{
	struct region r = open_region(4 * CHUNK, 6 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	unsigned int seed = getpid();
	int snap;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fill(&r, 0, 3 * CHUNK, 1000);
	snap = snapshot(&r, 0, 4 * CHUNK, 0);
	CHECK(snap >= 0);
	send_fd(*(int *)arg, snap);
	for (;;)
		*word_of(r.mem, rand_r(&seed) % (3 * CHUNK)) = 1;
}

CASE(snapshot_outlives_a_killed_owner_in_another_process)
{
	int round, status, pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	for (round = 0; round < 10; round++) {
		pid_t pid = fork();
		char *view;
		int snap;

		if (!pid) {
			owner(&pair[1]);
			_exit(0);
		}
		snap = receive_fd(pair[0]);
		view = mmap(NULL, 4 * CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
		CHECK(view != MAP_FAILED && *word_of(view, 7) == 1007);
		usleep(2000 * round);
		CHECK(!kill(pid, SIGKILL));
		check_shows(snap, 0, 3 * CHUNK, 1000);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		check_shows(snap, 0, 3 * CHUNK, 1000);
		CHECK(*word_of(view, 3 * CHUNK - 1) == 1000 + 3 * CHUNK - 1);
		CHECK(!munmap(view, 4 * CHUNK * PAGE) && !close(snap));
	}
}

struct forked {
	struct region *r;
	char *view;
	int snap;
};

static void child_of_fork(void *arg)
{
	struct forked *f = arg;

	CHECK(*word_of(f->view, 3) == 3 && read_word(f->snap, 4) == 4);
	check_shows(f->snap, 0, 100, 0);
	CHECK(touch_signal(f->r->mem, false) == SIGSEGV);
	FAILS(snapshot(f->r, 0, CHUNK, 0), EPERM);
	_exit(0);
}

CASE(snapshot_can_be_read_by_a_child_of_fork)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	struct forked f = { .r = &r };

	fill(&r, 0, 100, 0);
	f.snap = snapshot(&r, 0, CHUNK, 0);
	f.view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, f.snap, 0);
	CHECK(*word_of(f.view, 3) == 3);
	*word_of(r.mem, 4) = 1;
	CHECK(!in_child(child_of_fork, &f));
	CHECK(!munmap(f.view, CHUNK * PAGE) && !close(f.snap));
}

CASE(snapshot_view_cannot_be_pinned)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	char buffer[PAGE], *view;
	struct iovec to = { .iov_base = buffer, .iov_len = PAGE }, from = to;
	int snap, pipes[2];

	fill(&r, 0, 10, 0);
	snap = snapshot(&r, 0, CHUNK, 0);
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	CHECK(*word_of(view, 3) == 3 && !pipe(pipes));
	/* what copies with the CPU works */
	CHECK(write(pipes[1], view, PAGE) == (long)PAGE);
	from.iov_base = r.mem;
	CHECK(process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (long)PAGE);
	from.iov_base = view;
	FAILS(process_vm_readv(getpid(), &to, 1, &from, 1, 0), EFAULT);
	CHECK(!munmap(view, CHUNK * PAGE) && !close(snap));
}

/* process_vm_writev pins for writing, and copies out before it does. */
CASE(snapshot_is_safe_from_writes_through_the_kernel)
{
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	char buffer[4 * PAGE];
	struct iovec from = { .iov_base = buffer, .iov_len = sizeof(buffer) },
		     to = { .iov_base = r.mem, .iov_len = sizeof(buffer) };
	int snap;

	memset(buffer, 5, sizeof(buffer));
	fill(&r, 0, 10, 0);
	snap = snapshot(&r, 0, CHUNK, 0);
	CHECK(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == (long)sizeof(buffer));
	CHECK(r.mem[3 * PAGE] == 5);
	check_shows(snap, 0, 10, 0);
	CHECK(counters(&r).copies >= 4 && counters(&r).copies <= 10);
	CHECK(!close(snap));
}

static void read_until_killed(void *arg)
{
	const struct forked *f = arg;
	__u64 page;

	for (;;)
		for (page = 0; page < 2 * CHUNK; page++)
			if (*word_of(f->view, page) != page)
				_exit(1);
}

CASE(snapshot_survives_killed_readers)
{
	struct region r = open_region(2 * CHUNK, 5 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	int round, status;
	__u64 page;

	for (round = 0; round < 8; round++) {
		struct forked f = { .r = &r };
		pid_t pid;

		fill(&r, 0, 2 * CHUNK, 0);
		f.snap = snapshot(&r, 0, 2 * CHUNK, 0);
		f.view = mmap(NULL, 2 * CHUNK * PAGE, PROT_READ, MAP_SHARED, f.snap, 0);
		pid = fork();
		if (!pid)
			read_until_killed(&f);
		for (page = 0; page < 2 * CHUNK; page++) {
			*word_of(r.mem, page) = 99;
			if (page == 100u * round)
				CHECK(!kill(pid, SIGKILL));
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		CHECK(*word_of(f.view, 7) == 7);
		CHECK(!munmap(f.view, 2 * CHUNK * PAGE) && !close(f.snap));
		check_conserved(r.fd);
	}
	CHECK(!counters(&r).snapshot);
}

static void exec_head(void *arg)
{
	int *ends = arg;
	struct region r = open_region(CHUNK, 2 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	int snap;

	fill(&r, 0, 10, 0x61626364);
	snap = snapshot(&r, 0, CHUNK, 0);
	CHECK(dup2(snap, 0) == 0 && dup2(ends[1], 1) == 1);
	execlp("head", "head", "-c", "4", NULL);
	_exit(1);
}

CASE(snapshot_can_be_read_by_the_image_after_exec)
{
	char text[4];
	int ends[2];

	CHECK(!pipe(ends));
	CHECK(!in_child(exec_head, ends));
	CHECK(read(ends[0], text, 4) == 4 && !memcmp(text, "dcba", 4));
}

struct direct_read {
	int disk;
	char *to;
	long got;
};

static void *read_slowly(void *arg)
{
	struct direct_read *d = arg;

	d->got = pread(d->disk, d->to, PAGE, 700 * PAGE);
	return NULL;
}

/* A device writes to a page that is frozen, and freed, and whose snapshot ends, meanwhile. */
CASE(snapshot_waits_for_a_device_before_it_gives_a_frame_back)
{
	struct direct_read d = { .disk = null_disk("1500000000", O_DIRECT) };
	struct region r = open_region(CHUNK, 64, 1, EXMAP_SNAPSHOTS, -1);
	pthread_t thread;
	int snap;

	fill(&r, 0, 4, 0);
	d.to = r.mem + 2 * PAGE;
	CHECK(!pthread_create(&thread, NULL, read_slowly, &d));
	usleep(300000);
	snap = snapshot(&r, 0, CHUNK, 0);
	CHECK(snap >= 0);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 2, 1, 0, NULL));
	CHECK(counters(&r).snapshot == 1 && read_word(snap, 3) == 3);
	CHECK(!close(snap));
	check_conserved(r.fd);
	/* whoever takes every frame does not get that one */
	CHECK(one(&r, 0, EXMAP_OP_ALLOC, 100, 64, 0, NULL) == -ENOMEM);
	CHECK(counters(&r).pinned == 1 && counters(&r).quarantine == 1);
	CHECK(!pthread_join(thread, NULL) && d.got == (long)PAGE);
	CHECK(!counters(&r).pinned && counters(&r).free == 1);
}
