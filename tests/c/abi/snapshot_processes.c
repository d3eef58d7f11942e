// SPDX-License-Identifier: MIT
/* Snapshots and processes: passed on, inherited, outliving their owner and their readers. */
#define _GNU_SOURCE
#include "snapshot.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../passing.h"

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
	CHECK(!send_fd(*(int *)arg, snap));
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
