// SPDX-License-Identifier: MIT
/* Stale translations, quarantine, pinned frames, zeroed frames. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define OWN 0x11
#define POISON 0x66

struct spin {
	struct region *r;
	volatile int stop;
	volatile long seen;
	volatile long poisoned;
};

/* Read page 0 over and over on another CPU, surviving the moments when it is absent. */
static void *reader(void *arg)
{
	struct spin *spin = arg;

	pin_to_cpu(1);
	while (!spin->stop) {
		char value = 0;

		if (touch_signal(spin->r->mem, false))
			continue;
		value = ((volatile char *)spin->r->mem)[64];
		spin->seen++;
		spin->poisoned += value == POISON;
	}
	return NULL;
}

/*
 * The pool has two frames: page 0's goes to page 5000 or 5001 as soon as it is
 * given away at all.  The reader may see page 0's own content or a signal.
 */
static void race_reader(__u64 flags)
{
	struct region r = open_region(8192, 2, 1, EXMAP_FAULT_ZERO, -1);
	struct spin spin = { .r = &r };
	pthread_t thread;
	int round;

	pin_to_cpu(0);
	CHECK(!pthread_create(&thread, NULL, reader, &spin));
	for (round = 0; round < 1000; round++) {
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1, 0, NULL));
		memset(r.mem, OWN, PAGE);
		if (round % 16 == 0)
			usleep(100);
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1, flags, NULL));
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 5000, 2, 0, NULL));
		memset(r.mem + 5000 * PAGE, POISON, 2 * PAGE);
		/* page 0 may get this frame again, with its content */
		memset(r.mem + 5000 * PAGE, 0, 2 * PAGE);
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 5000, 2, 0, NULL));
	}
	spin.stop = 1;
	CHECK(!pthread_join(thread, NULL));
	CHECK(spin.seen > 100);
	CHECK(!spin.poisoned);
}

CASE(a_stale_reader_never_sees_another_page_after_free)
{
	race_reader(0);
}

CASE(a_stale_reader_never_sees_another_page_after_lazy_free)
{
	race_reader(EXMAP_FREE_LAZY);
}

CASE(alloc_of_a_page_that_showed_zeros_is_seen_at_once_everywhere)
{
	struct region r = open_region(1024, 64, 1, EXMAP_FAULT_ZERO, -1);
	struct spin spin = { .r = &r };
	pthread_t thread;
	int round;

	pin_to_cpu(0);
	CHECK(!pthread_create(&thread, NULL, reader, &spin));
	for (round = 0; round < 500; round++) {
		long seen;

		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1, 0, NULL));
		memset(r.mem, POISON, PAGE);
		__sync_synchronize();
		spin.poisoned = 0;
		seen = spin.seen;
		/* the second full turn of the reader began after the ALLOC */
		while (spin.seen < seen + 3)
			;
		CHECK(spin.poisoned);
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1, 0, NULL));
	}
	spin.stop = 1;
	CHECK(!pthread_join(thread, NULL));
}

CASE(single_pages_are_flushed_alone_and_vectors_all_at_once)
{
	struct region r = open_region(4096, 1024, 1, 0, -1);
	struct exmap_counters before, after;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 600, 0, NULL));
	before = counters(&r);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1, 0, NULL));
	after = counters(&r);
	CHECK(after.flushes == before.flushes && after.flushes_ranged == before.flushes_ranged + 1);
	CHECK(after.free == before.free + 1 && !after.quarantine);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 1, 512, 0, NULL));
	CHECK(counters(&r).flushes == before.flushes + 1);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 513, 60, EXMAP_FREE_LAZY, NULL));
	CHECK(counters(&r).flushes == before.flushes + 1 && counters(&r).quarantine == 60);
}

CASE(one_flush_serves_the_quarantine_of_all_interfaces)
{
	struct region r = open_region(4096, 4096, 2, 0, -1);
	struct exmap_tune tune = { .flush_threshold = 100 };
	__u64 flushes;

	CHECK(!ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 99, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 99, EXMAP_FREE_LAZY, NULL));
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 1000, 200, 0, NULL));
	CHECK(!one(&r, 1, EXMAP_OP_FREE, 1000, 200, 0, NULL));
	flushes = counters(&r).flushes;
	/* reaches the threshold, and finds that the other's flush has done it */
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 500, 50, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 500, 50, EXMAP_FREE_LAZY, NULL));
	CHECK(counters(&r).flushes == flushes && counters(&r).quarantine == 50);
}

CASE(a_freed_page_that_io_still_uses_keeps_its_frame)
{
	struct region r = open_region(4096, 64, 1, 0, -1);
	char content[PAGE], expected[PAGE];
	struct exmap_counters c;
	struct iovec vec;
	int ends[2];

	CHECK(!pipe(ends));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 9, 1, 0, NULL));
	memset(expected, OWN, PAGE);
	memcpy(r.mem + 9 * PAGE, expected, PAGE);
	vec = (struct iovec){ r.mem + 9 * PAGE, PAGE };
	CHECK(vmsplice(ends[1], &vec, 1, 0) == (long)PAGE);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 9, 1, 0, NULL));
	c = counters(&r);
	CHECK(c.pinned == 1 && c.quarantine == 1 && c.free == 63);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 100, 63, 0, NULL));
	CHECK(one(&r, 0, EXMAP_OP_ALLOC, 9, 1, 0, NULL) == -ENOMEM);
	memset(r.mem + 100 * PAGE, POISON, 63 * PAGE);
	CHECK(read(ends[0], content, PAGE) == (long)PAGE);
	CHECK(!memcmp(content, expected, PAGE));
	CHECK(!counters(&r).pinned && counters(&r).free == 1);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 9, 1, 0, NULL));
}

static void fill_a_pool_and_die(void *arg)
{
	struct region r = open_region(4096, 4096, 1, 0, -1);
	int page;

	(void)arg;
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 4095, 0, &page));
	for (page = 0; page < 4095; page++)
		memset(r.mem + page * PAGE, POISON, PAGE);
	raise(SIGKILL);
}

CASE(frames_are_zero_before_a_process_first_sees_them)
{
	struct region r;
	unsigned long i;
	int round;

	for (round = 0; round < 3; round++) {
		int status = in_child(fill_a_pool_and_die, NULL);

		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	r = open_region(4096, 4096, 1, 0, -1);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 4095, 0, NULL));
	for (i = 0; i < 4095 * PAGE / 8; i++)
		CHECK(!((__u64 *)r.mem)[i]);
}
