// SPDX-License-Identifier: MIT
/*
 * Random calls of the whole ABI, right ones and wrong ones.
 *
 *	fuzz SECONDS SEED	children with seeds SEED, SEED + 1, ... for so long
 *	fuzz 0 SEED		the one child with that seed, to its end
 *
 * A child owns a region; its threads, and processes that they fork, call whatever
 * they draw, with arguments of which most make sense and some do not, while others
 * unmap, close, kill and fork.  What is looked for is not in the answers but in the
 * kernel's log, and in frames that are missing at the end: a region says so when it
 * dies.  Exit code 1 if a child ended in a way that it could not have, or hangs.
 * What a thread draws depends on its seed alone; how threads meet does not.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#define CHILDREN 3
#define THREADS 3
#define STEPS 3000

struct statistics *statistics;

static void *run_thread(void *arg)
{
	struct thread *t = arg;
	unsigned int i;

	for (i = 0; i < STEPS; i++)
		step(t);
	return NULL;
}

static char *make_arena(void)
{
	char *at = mmap(NULL, ARENA + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	if (at == MAP_FAILED || mprotect(at + ARENA, PAGE, PROT_NONE))
		exit(3);
	return at;
}

/* A region as a program would have it, but for what is drawn. */
static void open_region(struct thread *t, struct region *r)
{
	static const uint64_t modes[] = { 0, EXMAP_FAULT_ALLOC, EXMAP_FAULT_ZERO, EXMAP_SNAPSHOTS,
					  EXMAP_SNAPSHOTS | EXMAP_FAULT_ALLOC };
	struct exmap_ioctl_setup setup = { .fd = -1, .max_interfaces = INTERFACES,
					   .buffer_size = 64 + below(t, 2048),
					   .flags = modes[below(t, 5)] };
	unsigned int i;

	for (i = 0; i < SNAPSHOTS; i++)
		r->snapshots[i] = -1;
	r->pages = 3 * EXMAP_CHUNK_PAGES + below(t, 2) * 100;
	r->fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (r->fd < 0 || ioctl(r->fd, EXMAP_IOCTL_SETUP, &setup))
		exit(3);
	r->mem = mmap(NULL, r->pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->mem == MAP_FAILED)
		exit(3);
	for (i = 0; i < INTERFACES; i++) {
		void *itf = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
				 (off_t)EXMAP_OFF_INTERFACE(i));

		if (itf == MAP_FAILED)
			exit(3);
		r->itf[i] = itf;
	}
}

static void live(uint64_t seed)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };
	struct thread threads[THREADS];
	struct region region = { 0 };
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	for (i = 0; i < THREADS; i++)
		threads[i] = (struct thread){ .region = &region, .arena = make_arena(),
					      .state = (seed * THREADS + i + 1) * 0x9e3779b97f4a7c15u };
	open_region(&threads[0], &region);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]))
			exit(3);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i].id, NULL);
	exit(0);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static pid_t start(uint64_t seed)
{
	pid_t pid = fork();

	if (!pid)
		live(seed);
	if (pid < 0)
		exit(3);
	return pid;
}

/* Only a signal that we sent, or that a wild access of its own has earned, ends a child early. */
static bool is_sound(int status, uint64_t seed)
{
	int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	if (number == SIGKILL || number == SIGSEGV || number == SIGBUS)
		return true;
	printf("seed %llu: status %x\n", (unsigned long long)seed, status);
	return false;
}

static int run_all(double seconds, uint64_t seed)
{
	struct { pid_t pid; uint64_t seed; } children[CHILDREN] = { 0 };
	unsigned long started = 0, kills = 0;
	double end = now() + seconds;
	int i, status, bad = 0;

	while (now() < end && !bad) {
		for (i = 0; i < CHILDREN; i++) {
			if (children[i].pid && waitpid(children[i].pid, &status, WNOHANG) > 0) {
				bad |= !is_sound(status, children[i].seed);
				children[i].pid = 0;
			}
			if (!children[i].pid) {
				children[i].seed = seed + started++;
				children[i].pid = start(children[i].seed);
			}
		}
		usleep(20000);
		if (!(rand() % 20)) {
			kill(children[rand() % CHILDREN].pid, SIGKILL);
			kills++;
		}
	}
	for (i = 0; i < CHILDREN; i++) {
		kill(children[i].pid, SIGKILL);
		waitpid(children[i].pid, &status, 0);
	}
	printf("children=%lu kills=%lu calls=%lu successes=%lu signals=%lu\n", started, kills,
	       statistics->calls, statistics->successes, statistics->signals);
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t seed = argc == 3 ? strtoull(argv[2], NULL, 0) : 0;
	int status;
	pid_t pid;

	if (argc != 3) {
		fprintf(stderr, "usage: fuzz SECONDS SEED\n");
		return 2;
	}
	statistics = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (statistics == MAP_FAILED)
		return 3;
	setvbuf(stdout, NULL, _IONBF, 0); /* or children print it again */
	srand((unsigned int)seed);
	if (atof(argv[1]) > 0)
		return run_all(atof(argv[1]), seed);
	pid = start(seed);
	waitpid(pid, &status, 0);
	return !is_sound(status, seed);
}
