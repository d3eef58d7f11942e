// SPDX-License-Identifier: MIT
/*
 * Snapshots under fire: are they a moment of the history, whatever happens?
 *
 *	snapshot_stress ROUNDS SEED POOL_PAGES
 *
 * A child owns a region; two of its threads write, map, free and unshare pages,
 * each its own half, in an order that its seed determines.  Before operation k a
 * thread writes k to its journal (a page of the region too), afterwards to the
 * journal's second word.  So a snapshot tells how far each thread had come, and
 * the parent, which gets its descriptor over a socket, replays the history up to
 * there and compares every page, by pread or through a view, several times
 * during the snapshot's life, with up to SNAPSHOTS of them alive, also after it
 * has killed the child.  A small pool makes snapshots break, which is allowed;
 * wrong content is not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exmap.h"
#include "passing.h"

#define PAGE 4096ul
#define WRITERS 2
#define SNAPSHOTS 4
#define HALF (3 * EXMAP_CHUNK_PAGES)	/* pages of one writer; the first is its journal */
#define REGION (WRITERS * HALF)

#define DIE(...) do { printf(__VA_ARGS__); printf(" (errno %d)\n", errno); exit(2); } while (0)

enum kind { WRITE, FREE, FREE_LAZY, UNSHARE, FORGET };

struct op {
	enum kind kind;
	uint32_t page;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The thread's next operation; both the thread and those who check draw from here. */
static struct op next_op(uint64_t *state)
{
	uint64_t r = next_random(state);
	struct op op = { .kind = WRITE, .page = 1 + (r >> 32) % (HALF - 1) };

	/* half of the operations in a few pages, as in life */
	if (r & 1)
		op.page = 1 + (r >> 32) % 64;
	switch (r >> 8 & 31) {
	case 0:
		op.kind = FREE;
		break;
	case 1:
		op.kind = FREE_LAZY;
		break;
	case 2:
		op.kind = UNSHARE;
		break;
	case 3:
		op.kind = FORGET;
		break;
	}
	return op;
}

static uint64_t seed_of(uint64_t seed, int writer)
{
	return (seed * 2654435761u + 1) * (writer + 3);
}

/* What the owner has. */
static struct {
	int fd;
	char *mem;
	struct exmap_user_interface *itf[WRITERS];
	uint64_t seed;
} own;

static int act(int writer, unsigned int opcode, uint32_t page, uint64_t flags)
{
	struct exmap_action_params params = { .interface = writer, .iov_len = 1,
					      .opcode = opcode, .flags = flags };

	own.itf[writer]->iov[0].value = page | 1ull << (64 - EXMAP_PAGE_LEN_BITS);
	if (ioctl(own.fd, EXMAP_IOCTL_ACTION, &params) < 0)
		return -errno;
	return own.itf[writer]->iov[0].res;
}

static void do_op(int writer, struct op op, uint32_t k, uint32_t *model)
{
	uint32_t page = writer * HALF + op.page;
	volatile uint32_t *words = (volatile uint32_t *)(own.mem + page * PAGE);
	int ret = 0;

	switch (op.kind) {
	case WRITE:
		if (!model[op.page])
			ret = act(writer, EXMAP_OP_ALLOC, page, 0);
		/* a pool that is too small: snapshots hold what is missing */
		while (ret == -ENOMEM)
			ret = act(writer, EXMAP_OP_ALLOC, page, 0);
		words[0] = words[1023] = k;
		break;
	case FREE:
	case FREE_LAZY:
		ret = act(writer, EXMAP_OP_FREE, page, op.kind == FREE ? 0 : EXMAP_FREE_LAZY);
		break;
	case UNSHARE:
		ret = act(writer, EXMAP_OP_UNSHARE, page, 0);
		break;
	case FORGET:
		ret = madvise((void *)words, PAGE, MADV_DONTNEED);
		break;
	}
	if (ret)
		DIE("operation %d on page %u: %d", op.kind, page, ret);
}

static void play(uint32_t *model, struct op op, uint32_t k)
{
	if (op.kind == WRITE)
		model[op.page] = k;
	else if (op.kind != UNSHARE)
		model[op.page] = 0;
}

static void *write_for_ever(void *arg)
{
	int writer = (int)(intptr_t)arg;
	uint64_t state = seed_of(own.seed, writer);
	volatile uint32_t *journal = (volatile uint32_t *)(own.mem + writer * HALF * PAGE);
	uint32_t *model = calloc(HALF, sizeof(*model)), k;

	for (k = 1;; k++) {
		struct op op = next_op(&state);

		journal[0] = k;
		do_op(writer, op, k, model);
		play(model, op, k);
		journal[1] = k;
	}
	return NULL;
}

/* Set up, let the writers run, and answer each byte from the socket with a snapshot. */
static void own_a_region(int socket, uint64_t seed, unsigned long pool)
{
	struct exmap_ioctl_setup setup = { .fd = -1, .max_interfaces = WRITERS,
					   .buffer_size = pool, .flags = EXMAP_SNAPSHOTS };
	struct exmap_snapshot_create create = { .count = REGION };
	uint64_t chance = seed_of(seed, WRITERS);
	pthread_t thread;
	char byte;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	own.seed = seed;
	own.fd = open("/dev/exmap", O_RDWR);
	if (own.fd < 0 || ioctl(own.fd, EXMAP_IOCTL_SETUP, &setup))
		DIE("set-up");
	own.mem = mmap(NULL, REGION * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, own.fd, 0);
	for (i = 0; i < WRITERS; i++) {
		own.itf[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, own.fd,
				  EXMAP_OFF_INTERFACE(i));
		if (act(i, EXMAP_OP_ALLOC, i * HALF, 0))
			DIE("no journal");
		memset(own.mem + i * HALF * PAGE, 0, PAGE);
	}
	for (i = 0; i < WRITERS; i++)
		pthread_create(&thread, NULL, write_for_ever, (void *)(intptr_t)i);
	while (read(socket, &byte, 1) == 1) {
		int snap;

		create.flags = next_random(&chance) >> 40 & 1 ? EXMAP_READERS_COPY : 0;
		snap = ioctl(own.fd, EXMAP_IOCTL_SNAPSHOT, &create);
		if (snap < 0)
			DIE("snapshot");
		if (send_fd(socket, snap))
			DIE("sendmsg");
		close(snap);
	}
	exit(0);
}

/* Where a page comes from: the view if there is one, else pread.  False: absent. */
static bool get_page(int snap, const char *view, const uint32_t *words, uint32_t page,
		     uint32_t *first, uint32_t *last, bool *broken)
{
	static char buffer[PAGE];

	if (view) {
		if (!words[page])
			return false;
		*first = *(uint32_t *)(view + page * PAGE);
		*last = *(uint32_t *)(view + page * PAGE + PAGE - 4);
		return true;
	}
	if (pread(snap, buffer, PAGE, page * PAGE) == (long)PAGE) {
		*first = *(uint32_t *)buffer;
		*last = *(uint32_t *)(buffer + PAGE - 4);
		return true;
	}
	if (errno == ENODATA)
		*broken = true;
	else if (errno != ENOENT)
		DIE("pread of page %u", page);
	return false;
}

static int wrong(const char *what, int writer, uint32_t page, uint32_t k, uint32_t got,
		 uint32_t want)
{
	printf("violation: %s: writer %d page %u after %u operations: %u, not %u\n", what, writer,
	       page, k, got, want);
	return 1;
}

static int check_writer(int snap, const char *view, const uint32_t *words, uint64_t seed,
			int writer, bool *broken)
{
	static uint32_t model[HALF];
	uint32_t base = writer * HALF, begun, ended, k, page, last;
	uint64_t state = seed_of(seed, writer);
	char journal[8];
	struct op op = { .page = 0 };

	if (pread(snap, journal, 8, base * PAGE) != 8) {
		*broken = errno == ENODATA;
		return *broken ? 0 : wrong("no journal", writer, base, 0, errno, 0);
	}
	memcpy(&begun, journal, 4);
	memcpy(&ended, journal + 4, 4);
	if (ended != begun && ended + 1 != begun)
		return wrong("journal", writer, base, begun, ended, begun);

	memset(model, 0, sizeof(model));
	for (k = 1; k <= begun; k++) {
		op = next_op(&state);
		if (k <= ended)
			play(model, op, k);
	}
	for (page = 1; page < HALF && !*broken; page++) {
		uint32_t got = 0;

		if (begun != ended && page == op.page)
			continue;	/* in the middle of its operation */
		if (!get_page(snap, view, words, base + page, &got, &last, broken))
			got = last = 0;
		if (!*broken && (got != model[page] || got != last))
			return wrong(view ? "view" : "pread", writer, base + page, ended, got,
				     model[page]);
	}
	return 0;
}

static sigjmp_buf *landing;

static void land(int signal)
{
	siglongjmp(*landing, signal);
}

/* Compare by pread, or through @view; SIGBUS is allowed if the snapshot breaks meanwhile. */
static int compare(int snap, uint64_t seed, const char *view, const uint32_t *words, bool *broken)
{
	struct exmap_snapshot_info info = { };
	sigjmp_buf here;
	int writer;

	landing = &here;
	if (sigsetjmp(here, 1)) {
		*broken = !ioctl(snap, EXMAP_IOCTL_SNAPSHOT_INFO, &info) && info.broken;
		return *broken ? 0 : wrong("SIGBUS", 0, 0, 0, 0, 0);
	}
	for (writer = 0; writer < WRITERS && !*broken; writer++) {
		if (check_writer(snap, view, words, seed, writer, broken))
			return 1;
	}
	return 0;
}

/* 0, or 1 for a violation.  *broken becomes true with the snapshot. */
static int check(int snap, uint64_t seed, bool by_view, bool advise, bool *broken)
{
	static uint32_t words[REGION];
	struct exmap_snapshot_pages pages = { .count = REGION, .words = (uintptr_t)words };
	char *view;
	int ret;

	if (advise && posix_fadvise(snap, 0, 0, POSIX_FADV_WILLNEED))
		DIE("advice");
	if (!by_view)
		return compare(snap, seed, NULL, NULL, broken);
	if (ioctl(snap, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages)) {
		*broken = errno == ENODATA;
		if (!*broken)
			DIE("words of a snapshot");
		return 0;
	}
	view = mmap(NULL, REGION * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	if (view == MAP_FAILED)
		DIE("mmap of a snapshot");
	ret = compare(snap, seed, view, words, broken);
	munmap(view, REGION * PAGE);
	return ret;
}

struct shot {
	int fd;
	uint64_t seed;
	bool broken;
};

static pid_t start_owner(int *socket, uint64_t seed, unsigned long pool)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		DIE("socketpair");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		close(pair[0]);
		own_a_region(pair[1], seed, pool);
	}
	close(pair[1]);
	*socket = pair[0];
	return pid;
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 3 ? strtoul(argv[1], NULL, 0) : 0, round;
	unsigned long pool = argc > 3 ? strtoul(argv[3], NULL, 0) : 0;
	uint64_t seed = argc > 3 ? strtoull(argv[2], NULL, 0) : 0, random = seed * 7919 + 17;
	struct shot shots[SNAPSHOTS] = { };
	unsigned long kills = 0, breaks = 0, checks = 0;
	struct sigaction action = { .sa_handler = land };
	int socket, i;
	pid_t pid;

	if (!rounds || !pool) {
		fprintf(stderr, "usage: snapshot_stress ROUNDS SEED POOL_PAGES\n");
		return 2;
	}
	sigaction(SIGBUS, &action, NULL);
	for (i = 0; i < SNAPSHOTS; i++)
		shots[i].fd = -1;
	pid = start_owner(&socket, seed, pool);
	for (round = 0; round < rounds; round++) {
		struct shot *shot = &shots[next_random(&random) % SNAPSHOTS];

		if (shot->fd >= 0)
			close(shot->fd);
		if (write(socket, "", 1) != 1)
			DIE("the owner has died");
		*shot = (struct shot){ .fd = receive_fd(socket), .seed = seed };
		if (shot->fd < 0)
			DIE("the owner has died");
		if (next_random(&random) % 8 == 0) {
			usleep(next_random(&random) % 3000);
			kill(pid, SIGKILL);
			if (next_random(&random) & 1)
				waitpid(pid, NULL, 0);
			close(socket);
			pid = start_owner(&socket, ++seed, pool);
			kills++;
		}
		for (i = 0; i < SNAPSHOTS; i++) {
			uint64_t how = next_random(&random);

			if (shots[i].fd < 0 || shots[i].broken || next_random(&random) % 3 == 0)
				continue;
			checks++;
			if (check(shots[i].fd, shots[i].seed, how & 1, how & 2, &shots[i].broken))
				return 1;
			breaks += shots[i].broken;
		}
	}
	kill(pid, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	for (i = 0; i < SNAPSHOTS; i++)
		close(shots[i].fd);
	printf("rounds=%lu checks=%lu kills=%lu broken=%lu violations=0\n", rounds, checks, kills,
	       breaks);
	return 0;
}
