// SPDX-License-Identifier: MIT
/*
 * Scans that leave the processors to everybody else.  A thread may lower its own priority,
 * but without privileges not raise it again: so they run in a thread of their own.  It lasts:
 * threads that are new come before others that have run, whatever their priority.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "buffer.h"

#define LEAST_PRIORITY	19

/* The arguments of exdb_scan_fill, and what it returned. */
struct background_call {
	struct exdb_worker *w;
	struct exdb_scan *scan;
	struct exdb_vector **batches;
	uint64_t *rows;
	uint32_t n;
	uint64_t batch_rows;
	long ret;
};

void background_init(struct background *b)
{
	pthread_mutex_init(&b->turn, NULL);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
}

void background_exit(struct background *b)
{
	if (b->started) {
		pthread_mutex_lock(&b->lock);
		b->stop = true;
		pthread_cond_broadcast(&b->changed);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->thread, NULL);
	}
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	pthread_mutex_destroy(&b->turn);
}

static void fill(struct background_call *call)
{
	call->ret = exdb_scan_fill(call->w, call->scan, call->batches, call->rows, call->n,
				   call->batch_rows);
}

static void *run(void *arg)
{
	struct background *b = arg;

	/* Linux has a priority for each thread */
	setpriority(PRIO_PROCESS, 0, LEAST_PRIORITY);
	pthread_mutex_lock(&b->lock);
	while (!b->stop) {
		if (!b->call) {
			pthread_cond_wait(&b->changed, &b->lock);
			continue;
		}
		pthread_mutex_unlock(&b->lock);
		fill(b->call);
		pthread_mutex_lock(&b->lock);
		b->call = NULL;
		pthread_cond_broadcast(&b->changed);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

static void have_done(struct background *b, struct background_call *call)
{
	pthread_mutex_lock(&b->lock);
	b->call = call;
	pthread_cond_broadcast(&b->changed);
	while (b->call)
		pthread_cond_wait(&b->changed, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

long exdb_scan_fill_background(struct exdb_worker *w, struct exdb_scan *scan,
			       struct exdb_vector **batches, uint64_t *rows, uint32_t n,
			       uint64_t batch_rows)
{
	struct background_call call = { w, scan, batches, rows, n, batch_rows, 0 };
	struct background *b = &w->db->background;

	pthread_mutex_lock(&b->turn);
	if (!b->started)
		b->started = !pthread_create(&b->thread, NULL, run, b);
	if (b->started)
		have_done(b, &call);
	else
		fill(&call);
	pthread_mutex_unlock(&b->turn);
	return call.ret;
}
