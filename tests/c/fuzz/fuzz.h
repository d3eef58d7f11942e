/* SPDX-License-Identifier: MIT */
/* Random calls: what main.c, which runs processes, and ops.c, which makes the calls, share. */
#ifndef FUZZ_H
#define FUZZ_H

#include <pthread.h>
#include <stdint.h>

#include "exmap.h"
#include "netlink.h"

#define PAGE 4096ul
#define SNAPSHOTS 4
#define INTERFACES 4
#define ARENA (64 * PAGE)

struct region {
	int fd;
	char *mem;
	uint64_t pages;
	struct exmap_user_interface *itf[INTERFACES];
	int snapshots[SNAPSHOTS];
	char *views[SNAPSHOTS];
};

struct thread {
	struct region *region;
	uint64_t state;
	char *arena;		/* memory that is there; the page after it is not */
	pthread_t id;
};

/* In memory that all processes have. */
struct statistics {
	unsigned long calls;
	unsigned long successes;
	unsigned long signals;
};

extern struct statistics *statistics;

/* A number below @n, from the thread's sequence. */
uint64_t below(struct thread *t, uint64_t n);
/* One call, or a few that belong together. */
void step(struct thread *t);
/* Of an access of step() the thread survives these. */
void on_signal(int number);

#endif /* FUZZ_H */
