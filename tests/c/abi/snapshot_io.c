// SPDX-License-Identifier: MIT
/* Snapshots and what devices and other calls do to their pages. */
#define _GNU_SOURCE
#include "disk.h"
#include "snapshot.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/uio.h>

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
