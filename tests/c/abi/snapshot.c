// SPDX-License-Identifier: MIT
/* Snapshots: what they show, what they cost the live region, how they end. */
#define _GNU_SOURCE
#include "snapshot.h"

#include <fcntl.h>
#include <signal.h>

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
