// SPDX-License-Identifier: MIT
/*
 * Random calls of the whole ABI, right ones and wrong ones.
 *
 *	fuzz SECONDS SEED	children with programs SEED, SEED + 1, ... for so long
 *	fuzz 0 CHAIN		the one child with that program, to its end
 *
 * A child owns a region; its threads, and processes that they fork, call whatever
 * they draw, with arguments of which most make sense and some do not, while others
 * unmap, close, kill and fork.  What is looked for is not in the answers but in the
 * kernel's log, and in frames that are missing at the end: a region says so when it
 * dies.  Exit code 1 if a child ended in a way that it could not have, or hangs.
 *
 * On a kernel with KCOV, programs in which the module went from one basic block to
 * another as in none before are kept, and most others are changes of these.
 *
 * What a thread draws depends on its program alone; how threads meet does not.  A
 * child is called fNUMBER, or fNUMBER<PARENT if its program is a change of another's,
 * in the kernel's reports too, and the kernel's log has the chain of each PARENT: with
 * .NUMBER after it, that is the CHAIN to give.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

struct child {
	pid_t pid;
	unsigned long *fresh;	/* in memory that it has too */
	struct program program;
};

struct shared *shared;

static void *run_thread(void *arg)
{
	struct thread *t = arg;
	uint64_t *trace = trace_edges();
	unsigned int i;

	for (i = 0; i < STEPS; i++) {
		t->state = t->steps[i] | 1;
		step(t);
		if (trace)
			note_edges(trace, t->fresh);
	}
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

static void *map_or_exit(const struct region *r, size_t size, uint64_t offset)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, (off_t)offset);

	if (at == MAP_FAILED)
		exit(3);
	return at;
}

/* With the backing that was drawn, or without if that cannot be had. */
static void set_up(struct thread *t, struct region *r)
{
	static const uint64_t modes[] = { 0, EXMAP_FAULT_ALLOC, EXMAP_FAULT_ZERO, EXMAP_SNAPSHOTS,
					  EXMAP_SNAPSHOTS | EXMAP_FAULT_ALLOC };
	struct exmap_ioctl_setup setup = { .max_interfaces = INTERFACES,
					   .buffer_size = 64 + below(t, 2048),
					   .flags = modes[below(t, 5)],
					   .fd = open_backing(t) };

	if (!ioctl(r->fd, EXMAP_IOCTL_SETUP, &setup))
		return;
	setup.fd = -1;
	if (ioctl(r->fd, EXMAP_IOCTL_SETUP, &setup))
		exit(3);
}

/* A region as a program would have it, but for what is drawn. */
static void open_region(struct thread *t, struct region *r)
{
	unsigned int i;

	for (i = 0; i < SNAPSHOTS; i++)
		r->snapshots[i] = -1;
	r->pages = 3 * EXMAP_CHUNK_PAGES + below(t, 2) * 100;
	r->fd = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	if (r->fd < 0)
		exit(3);
	set_up(t, r);
	r->mem = map_or_exit(r, r->pages * PAGE, EXMAP_OFF_EXMAP);
	for (i = 0; i < INTERFACES; i++)
		r->itf[i] = map_or_exit(r, PAGE, EXMAP_OFF_INTERFACE(i));
	if (below(t, 2))
		open_first_queue(t);
}

static void take_name(const struct program *program)
{
	unsigned long long number = program->number, parent = program->parent;
	char name[16];

	snprintf(name, sizeof(name), parent ? "f%llu<%llu" : "f%llu", number, parent);
	prctl(PR_SET_NAME, name);
}

static void live(const struct program *program, unsigned long *fresh)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };
	struct thread threads[THREADS];
	struct region region = { 0 };
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	take_name(program);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	for (i = 0; i < THREADS; i++)
		threads[i] = (struct thread){ .region = &region, .arena = make_arena(),
					      .steps = program->steps[i], .fresh = fresh };
	threads[0].state = program->open | 1;
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

static void start(struct child *child)
{
	*child->fresh = 0;
	child->pid = fork();
	if (!child->pid)
		live(&child->program, child->fresh);
	if (child->pid < 0)
		exit(3);
}

/* Only a signal that we sent, or that a wild access of its own has earned, ends a child early. */
static bool is_sound(int status, const struct program *program)
{
	int by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	if (by == SIGKILL || by == SIGSEGV || by == SIGBUS)
		return true;
	printf("program %s: status %x\n", program->chain, status);
	return false;
}

/* Where it outlives the machine.  Who may not write there does without. */
static void log_chain(const struct program *program)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC), length;
	char line[CHAIN + 64];

	if (fd < 0)
		return;
	/* one write is one line there */
	length = snprintf(line, sizeof(line), "fuzz: %llu is %s\n",
			  (unsigned long long)program->number, program->chain);
	if (write(fd, line, (size_t)length) < 0)
		perror("fuzz: /dev/kmsg");
	close(fd);
}

/* Returns false if the child has ended as it should not. */
static bool finish(struct child *child, int status)
{
	child->pid = 0;
	if (*child->fresh) {
		keep_program(&child->program);
		log_chain(&child->program);
	}
	return is_sound(status, &child->program);
}

static void print_counts(unsigned long children, unsigned long kills)
{
	printf("children=%lu kills=%lu calls=%lu successes=%lu signals=%lu queues=%lu edges=%lu kept=%u\n",
	       children, kills, shared->calls, shared->successes, shared->signals, shared->queues,
	       shared->edges, kept_programs());
}

static bool run_all(double seconds, uint64_t number)
{
	static struct child children[CHILDREN];
	unsigned long started = 0, kills = 0;
	double end = now() + seconds;
	bool sound = true;
	int i, status;

	for (i = 0; i < CHILDREN; i++)
		children[i].fresh = &shared->fresh[i];
	while (now() < end && sound) {
		for (i = 0; i < CHILDREN; i++) {
			if (children[i].pid && waitpid(children[i].pid, &status, WNOHANG) > 0)
				sound &= finish(&children[i], status);
			if (!children[i].pid) {
				draw_program(&children[i].program, number + started++);
				start(&children[i]);
			}
		}
		usleep(20000);
		if (!(rand() % 50)) {
			kill(children[rand() % CHILDREN].pid, SIGKILL);
			kills++;
		}
	}
	for (i = 0; i < CHILDREN; i++) {
		if (!children[i].pid)
			continue;
		kill(children[i].pid, SIGKILL);
		waitpid(children[i].pid, &status, 0);
	}
	print_counts(started, kills);
	return sound;
}

static bool run_one(const char *chain)
{
	static struct child child;
	int status;

	child.fresh = &shared->fresh[0];
	if (!program_of_chain(&child.program, chain)) {
		fprintf(stderr, "fuzz: %s: numbers with dots between them are expected\n", chain);
		exit(2);
	}
	start(&child);
	waitpid(child.pid, &status, 0);
	print_counts(1, 0);
	return is_sound(status, &child.program);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: fuzz SECONDS SEED | fuzz 0 CHAIN\n");
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 3;
	setvbuf(stdout, NULL, _IONBF, 0); /* or children print it again */
	srand((unsigned int)strtoul(argv[2], NULL, 10));
	if (atof(argv[1]) > 0)
		return !run_all(atof(argv[1]), strtoull(argv[2], NULL, 10));
	return !run_one(argv[2]);
}
