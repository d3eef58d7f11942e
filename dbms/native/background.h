/* SPDX-License-Identifier: MIT */
/* Scans in the background: see background.c. */
#ifndef EXDB_BACKGROUND_H
#define EXDB_BACKGROUND_H

#include <pthread.h>
#include <stdbool.h>

struct background_call;

/**
 * struct background - the thread of a database that scans in the background
 * @thread: itself
 * @started: there is one, since the first scan; protected by @turn
 * @stop: protected by @lock
 * @turn: of those who have something to be done; taken before @lock
 * @lock: with @changed
 * @changed: there is a call, it was done, or @stop
 * @call: what is to be done, NULL when it has been; protected by @lock
 */
struct background {
	pthread_t thread;
	bool started;
	bool stop;
	pthread_mutex_t turn;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct background_call *call;
};

void background_init(struct background *background);
void background_exit(struct background *background);

#endif /* EXDB_BACKGROUND_H */
