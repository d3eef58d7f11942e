// SPDX-License-Identifier: MIT
/* Snapshots and their views, and what writers, FREE and UNSHARE do beside them. */
#define _GNU_SOURCE
#include "../abi/snapshot.h"
#include "faults.h"

#include <signal.h>

#define PAGES 16

static struct region r;
static int snap, other;
static __u64 create_flags;

static void open_filled(unsigned int chunks)
{
	unsigned int chunk;

	r = open_region(chunks * CHUNK, 4 * CHUNK, 1, EXMAP_SNAPSHOTS, -1);
	for (chunk = 0; chunk < chunks; chunk++)
		fill(&r, chunk * CHUNK, PAGES, 1000);
}

static long call_create(void)
{
	struct exmap_snapshot_create create = { .flags = create_flags, .count = 2 * CHUNK,
						.reserve = 20 };

	return ioctl(r.fd, EXMAP_IOCTL_SNAPSHOT, &create);
}

static void finish_create(long ret)
{
	if (ret >= 0) {
		check_shows((int)ret, 0, PAGES, 1000);
		CHECK(!close((int)ret));
	}
	CHECK(!counters(&r).snapshot);
	check_conserved(r.fd);
}

CASE(faults_snapshot_create)
{
	open_filled(2);
	fail_each(&(struct probe){ .call = call_create, .finish = finish_create });
}

static void prepare_snapshot(void)
{
	__u64 page;

	for (page = 0; page < PAGES; page++)
		*word_of(r.mem, page) = 1000 + page;
	snap = (int)call_create();
	CHECK(snap >= 0);
}

/* Right, or broken and saying so; the pool has everything back in the end. */
static void finish_snapshot(long ret)
{
	__u32 value;

	(void)ret;
	if (info(snap).broken)
		FAILS(pread(snap, &value, sizeof(value), 0), ENODATA);
	else
		check_shows(snap, 0, PAGES, 1000);
	CHECK(!close(snap));
	CHECK(!counters(&r).snapshot);
	check_conserved(r.fd);
}

static long call_write(void)
{
	CHECK(!touch_signal(r.mem + PAGE, true));
	return 0;
}

/* The writer goes on, whatever becomes of the snapshot. */
CASE(faults_write_beside_a_snapshot)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_write,
				   .finish = finish_snapshot, .module_only = true });
}

CASE(faults_write_beside_a_snapshot_whose_readers_copy)
{
	open_filled(2);
	create_flags = EXMAP_READERS_COPY;
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_write,
				   .finish = finish_snapshot, .module_only = true });
}

static char *view;
static int raised;

static void prepare_view(void)
{
	prepare_snapshot();
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	CHECK(view != MAP_FAILED);
	CHECK(!touch_signal(r.mem + 2 * PAGE, true));
}

static long call_read_view(void)
{
	raised = touch_signal(view + PAGE, false);
	return 0;
}

static void finish_view(long ret)
{
	/* without memory for a copy the page is shown all the same */
	CHECK(!raised);
	CHECK(!munmap(view, CHUNK * PAGE));
	finish_snapshot(ret);
}

CASE(faults_read_of_a_view_that_copies)
{
	open_filled(2);
	create_flags = EXMAP_READERS_COPY;
	fail_each(&(struct probe){ .prepare = prepare_view, .call = call_read_view,
				   .finish = finish_view, .module_only = true });
}

static long call_map_view(void)
{
	view = mmap(NULL, CHUNK * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	return view == MAP_FAILED ? -1 : 0;
}

static void finish_map_view(long ret)
{
	if (ret >= 0)
		CHECK(!munmap(view, CHUNK * PAGE));
	finish_snapshot(ret);
}

CASE(faults_mmap_of_a_view)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_map_view,
				   .finish = finish_map_view });
}

static char buffer[PAGES * PAGE];

static long call_pread(void)
{
	return pread(snap, buffer, sizeof(buffer), 0);
}

CASE(faults_pread_of_a_snapshot)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_pread,
				   .finish = finish_snapshot });
}

static __u32 words[CHUNK];

static long call_words(void)
{
	struct exmap_snapshot_pages pages = { .count = CHUNK, .words = (__u64)(unsigned long)words };

	return ioctl(snap, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages);
}

CASE(faults_words_of_a_snapshot)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_words,
				   .finish = finish_snapshot });
}

static void prepare_two(void)
{
	prepare_snapshot();
	other = snap;
	CHECK(!touch_signal(r.mem + PAGE, true));
	snap = (int)call_create();
	CHECK(snap >= 0);
}

static long call_diff(void)
{
	struct exmap_snapshot_diff diff = { .fd = other, .count = CHUNK,
					    .bitmap = (__u64)(unsigned long)buffer };

	return ioctl(snap, EXMAP_IOCTL_SNAPSHOT_DIFF, &diff);
}

static void finish_two(long ret)
{
	(void)ret;
	CHECK(!close(other));
	CHECK(!info(snap).broken);
	CHECK(!close(snap));
	CHECK(!counters(&r).snapshot);
}

CASE(faults_diff_of_two_snapshots)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_two, .call = call_diff, .finish = finish_two });
}

static unsigned int opcode;

static long call_action(void)
{
	r.itf[0]->iov[0].page = 0;
	r.itf[0]->iov[0].len = PAGES;
	return act(&r, 0, opcode, 1, 0);
}

static void finish_action(long ret)
{
	finish_snapshot(ret);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, PAGES, 0, NULL));
}

CASE(faults_free_beside_a_snapshot)
{
	open_filled(2);
	opcode = EXMAP_OP_FREE;
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_action,
				   .finish = finish_action });
}

CASE(faults_unshare)
{
	open_filled(2);
	opcode = EXMAP_OP_UNSHARE;
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_action,
				   .finish = finish_action });
}

static long call_dontneed(void)
{
	return madvise(r.mem, PAGES * PAGE, MADV_DONTNEED);
}

CASE(faults_madvise_beside_a_snapshot)
{
	open_filled(2);
	fail_each(&(struct probe){ .prepare = prepare_snapshot, .call = call_dontneed,
				   .finish = finish_action });
}

/* The owner goes; the snapshot keeps what it needs, or is broken. */
static long call_munmap(void)
{
	return munmap(r.mem, 2 * CHUNK * PAGE);
}

static void prepare_own(void)
{
	open_filled(2);
	prepare_snapshot();
}

static void finish_own(long ret)
{
	unsigned int i;
	__u32 value;

	/* the core may not have had memory to split its list of mappings */
	if (ret < 0)
		CHECK(!call_munmap());
	if (info(snap).broken)
		FAILS(pread(snap, &value, sizeof(value), 0), ENODATA);
	else
		check_shows(snap, 0, PAGES, 1000);
	CHECK(!close(snap));
	CHECK(!munmap(r.itf[0], PAGE));
	CHECK(!munmap((void *)r.words, 4096));
	CHECK(!close(r.fd));
	for (i = 0; i < 8; i++)
		r.itf[i] = NULL;
	CHECK(!locked_bytes());
}

CASE(faults_munmap_beside_a_snapshot)
{
	fail_each(&(struct probe){ .prepare = prepare_own, .call = call_munmap, .finish = finish_own });
}
