// SPDX-License-Identifier: MIT
/* Snapshots whose pages are copied by those who read them. */
#define _GNU_SOURCE
#include "snapshot.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static int snapshot_readers_copy(struct region *r, __u64 start, __u64 count)
{
	struct exmap_snapshot_create create = { .flags = EXMAP_READERS_COPY, .start = start,
						.count = count };

	return ioctl(r->fd, EXMAP_IOCTL_SNAPSHOT, &create);
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
	CHECK(!posix_fadvise(snap, 0, 0, POSIX_FADV_WILLNEED) && counters(&r).copies == copied);
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

/* A page that a view maps from the live region must not become writable behind it. */
CASE(snapshot_copied_by_readers_leaves_what_a_view_shares)
{
	struct region r = open_region(CHUNK, 3000, 1, EXMAP_SNAPSHOTS, -1);
	int shared, copied;
	char *view;
	__u64 page;

	fill(&r, 0, CHUNK, 1);
	shared = snapshot(&r, 0, CHUNK, 0);
	copied = snapshot_readers_copy(&r, 0, CHUNK);
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, shared, 0);
	CHECK(shared >= 0 && copied >= 0 && view != MAP_FAILED);
	for (page = 0; page < CHUNK; page++)
		CHECK(*word_of(view, page) == 1 + page);
	CHECK(!posix_fadvise(copied, 0, 0, POSIX_FADV_WILLNEED) && !counters(&r).copies);
	for (page = 0; page < CHUNK; page++)
		*word_of(r.mem, page) = 1000;
	for (page = 0; page < CHUNK; page++)
		CHECK(*word_of(view, page) == 1 + page);
	check_shows(copied, 0, CHUNK, 1);
	CHECK(!munmap(view, CHUNK * PAGE) && !close(shared) && !close(copied));
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

/* Writes that are ahead of the readers copy eight pages each, as far as there are frames to spare. */
CASE(snapshot_copied_by_readers_takes_the_neighbours_of_a_write)
{
	struct region r = open_region(CHUNK, 3000, 1, EXMAP_SNAPSHOTS, -1);
	long before;
	__u64 page;
	int snap;

	fill(&r, 0, CHUNK, 7);
	snap = snapshot_readers_copy(&r, 0, CHUNK);
	CHECK(snap >= 0 && !one(&r, 0, EXMAP_OP_FREE, 11, 1, 0, NULL));
	*word_of(r.mem, 13) = 1;
	CHECK(counters(&r).copies == 7);
	CHECK(page_word(snap, 7) & EXMAP_RES_SNAPSHOT && page_word(snap, 16) & EXMAP_RES_SNAPSHOT);
	before = faults();
	for (page = 8; page < 16; page++)
		if (page != 11)
			*word_of(r.mem, page) = 1;
	CHECK(faults() == before);
	check_shows(snap, 0, CHUNK, 7);
	CHECK(!close(snap));
	check_conserved(r.fd);
}

/* WILLNEED of a range copies so many pages, and again none. */
static void check_advice(struct region *r, int snap, off_t offset, off_t len, __u64 copies)
{
	__u64 before = counters(r).copies;

	CHECK(!posix_fadvise(snap, offset, len, POSIX_FADV_WILLNEED));
	CHECK(counters(r).copies == before + copies);
	CHECK(!posix_fadvise(snap, offset, len, POSIX_FADV_WILLNEED));
	CHECK(counters(r).copies == before + copies);
}

CASE(snapshot_is_copied_at_once_for_those_who_will_need_it)
{
	struct region r = open_region(3 * CHUNK, 5000, 1, EXMAP_SNAPSHOTS, -1);
	char *view;
	int snap, shared, advice;
	long before;
	__u64 page;

	fill(&r, 0, 3 * CHUNK, 7);
	snap = snapshot_readers_copy(&r, CHUNK, 2 * CHUNK);
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, CHUNK * PAGE);
	CHECK(snap >= 0 && view != MAP_FAILED);
	check_advice(&r, snap, 8 * PAGE + 1, 8 * PAGE - 1, 8);
	check_advice(&r, snap, 8 * PAGE + 1, 8 * PAGE, 8);
	check_advice(&r, snap, 2 * CHUNK * PAGE, 1, 0);
	check_advice(&r, snap, 0, CHUNK * PAGE, CHUNK - 16);
	CHECK(!madvise(view, CHUNK * PAGE, MADV_WILLNEED));
	CHECK(counters(&r).copies == 2 * CHUNK && !shared_pages(snap, 2 * CHUNK));
	check_advice(&r, snap, 0, 0, 0);
	for (page = CHUNK; page < 3 * CHUNK; page++)
		(void)*word_of(r.mem, page);
	before = faults();
	for (page = CHUNK; page < 3 * CHUNK; page++)
		*word_of(r.mem, page) = 1;
	CHECK(faults() == before && counters(&r).copies == 2 * CHUNK);
	check_shows(snap, 0, 2 * CHUNK, 7 + CHUNK);
	shared = snapshot(&r, 0, CHUNK, 0);
	check_advice(&r, shared, 0, 0, 0);
	for (advice = POSIX_FADV_NORMAL; advice <= POSIX_FADV_NOREUSE; advice++)
		CHECK(!posix_fadvise(shared, 0, 0, advice));
	CHECK(posix_fadvise(snap, 0, 0, 6) == EINVAL && posix_fadvise(snap, 0, 0, -1) == EINVAL);
	CHECK(posix_fadvise(snap, -1, 0, POSIX_FADV_WILLNEED) == EINVAL);
	CHECK(posix_fadvise(snap, 0, -1, POSIX_FADV_WILLNEED) == EINVAL);
	CHECK(!close(snap) && !close(shared));
	check_conserved(r.fd);
}

/* 188 frames for the copies of 1,024 pages; when the snapshot breaks they are free again. */
CASE(snapshot_copied_by_readers_may_break_before_they_come)
{
	struct region r = open_region(2 * CHUNK, 2 * CHUNK + 188, 1, EXMAP_SNAPSHOTS, -1);
	const __u64 last = 2 * CHUNK - 1;
	char *view;
	__u64 page;
	int snap;

	fill(&r, 0, 2 * CHUNK, 7);
	snap = snapshot_readers_copy(&r, 0, 2 * CHUNK);
	view = mmap(NULL, 2 * CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	CHECK(snap >= 0 && view != MAP_FAILED && *word_of(r.mem, last) == 7 + last);
	for (page = 0; page < CHUNK && !info(snap).broken; page++)
		*word_of(r.mem, page) = 1;
	CHECK(info(snap).broken && !counters(&r).snapshot && counters(&r).free >= 180);
	/* the second chunk's pages are still protected */
	CHECK(r.words[last] & EXMAP_RES_SNAPSHOT);
	CHECK(touch_signal(view + last * PAGE, false) == SIGBUS);
	*word_of(r.mem, last) = 1;
	CHECK(!munmap(view, 2 * CHUNK * PAGE) && !close(snap));
	check_conserved(r.fd);
}
