/* SPDX-License-Identifier: MIT */
/*
 * Random calls: what main.c, which runs processes, ops.c and queues.c, which make
 * the calls, corpus.c, which says what they draw from, and coverage.c share.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "exmap.h"
#include "netlink.h"

#define PAGE 4096ul
#define SNAPSHOTS 4
#define INTERFACES 4
#define QUEUES 2
#define ARENA (64 * PAGE)
#define THREADS 3
#define STEPS 256
#define EDGES 65536u
#define CHILDREN 3
#define CHAIN 256

/* A queue that another thread may close; its mappings are never taken away. */
struct fuzz_queue {
	int fd;
	struct exmap_nvme_info info;
	char *sq;
	char *doorbells;
};

struct region {
	int fd;
	char *mem;
	uint64_t pages;
	struct exmap_user_interface *itf[INTERFACES];
	int snapshots[SNAPSHOTS];
	char *views[SNAPSHOTS];
	struct fuzz_queue *queues[QUEUES];
};

struct thread {
	struct region *region;
	const uint64_t *steps;
	uint64_t state;
	char *arena;		/* memory that is there; the page after it is not */
	unsigned long *fresh;	/* where to count edges that nobody has seen before */
	pthread_t id;
};

/* What the threads of a child do: one number for each of their steps. */
struct program {
	uint64_t number;
	uint64_t parent;	/* what it was changed from, or 0 */
	char chain[CHAIN];
	uint64_t open;
	uint64_t steps[THREADS][STEPS];
};

/* In memory that all processes have. */
struct shared {
	unsigned long calls;
	unsigned long successes;
	unsigned long signals;
	unsigned long queues;
	unsigned long edges;
	unsigned long fresh[CHILDREN];
	uint8_t seen[EDGES];
};

extern struct shared *shared;

/* A number below @n, from the thread's sequence. */
uint64_t below(struct thread *t, uint64_t n);
/* The same, but one time in 16 a number at which code goes wrong. */
uint64_t number(struct thread *t, uint64_t sensible);
/* Flags of which the call may know some. */
uint64_t flags(struct thread *t, uint64_t known);
bool rarely(struct thread *t);
/* Note how a call went. */
void count(long result);
/* ioctl with a struct that is filled in, or with something else. */
long call(struct thread *t, int fd, unsigned long request, const void *arg, size_t size);
/* A place for a struct or an array: mostly one that exists. */
void *place(struct thread *t, size_t size);
/* Do what may raise SIGSEGV or SIGBUS, which ends it. */
void try_access(struct thread *t, void (*access)(struct thread *t, void *arg), void *arg);

/* One call, or a few that belong together. */
void step(struct thread *t);
/* Of an access of step() the thread survives these. */
void on_signal(int signal_number);

/* A descriptor for SETUP: -1, a file's, or that of a controller which the kernel drives. */
int open_backing(struct thread *t);
/* As a program would; may find that another process has the controller. */
void open_first_queue(struct thread *t);
void op_queue_open(struct thread *t);
void op_queue_commands(struct thread *t);
void op_queue_calls(struct thread *t);
void op_queue_close(struct thread *t);

/* Programs.  A chain is the number of a first one, and those of the changes to it: 12.77.1034 */
bool program_of_chain(struct program *program, const char *chain);
/* Either a new one, or one that was kept, changed; its number is @number. */
void draw_program(struct program *program, uint64_t number);
/* Remember a program that has reached what no other has. */
void keep_program(const struct program *program);
unsigned int kept_programs(void);

/*
 * The thread's edges between basic blocks of the module are counted from now on, if
 * the kernel can (KCOV) and we may; returns the buffer for note_edges(), or NULL.
 */
uint64_t *trace_edges(void);
/* Note those of the step that has ended, and count the new ones in @fresh. */
void note_edges(uint64_t *trace, unsigned long *fresh);

#endif /* FUZZ_H */
