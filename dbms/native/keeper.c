// SPDX-License-Identifier: MIT
/* The housekeeping thread. */
#include <errno.h>
#include <time.h>

#include "buffer.h"

#define SECOND	1000000000L

static void sleep_until_woken(struct keeper *keeper)
{
	struct timespec until;

	if (!keeper->interval) {
		pthread_cond_wait(&keeper->wake, &keeper->lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += keeper->interval;
	until.tv_sec += until.tv_nsec / SECOND;
	until.tv_nsec %= SECOND;
	pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until);
}

static bool log_is_half_full(struct log *log)
{
	bool half;

	pthread_mutex_lock(&log->lock);
	half = log->tail - log->head > log->size / 2;
	pthread_mutex_unlock(&log->lock);
	return half;
}

static void *run(void *arg)
{
	struct exdb_worker *w = arg;
	struct exdb *db = w->db;
	struct keeper *keeper = &db->keeper;

	pthread_mutex_lock(&keeper->lock);
	while (!keeper->stop) {
		sleep_until_woken(keeper);
		if (keeper->stop)
			break;
		pthread_mutex_unlock(&keeper->lock);
		if (keeper->interval) {
			int ret = log_wait(&db->log, log_tail(&db->log));

			if (ret)
				checkpoint_fail(db, ret, UINT64_MAX);
		}
		/* an error stays in db->failed, where the next commit finds it */
		if (log_is_half_full(&db->log))
			checkpoint_run(w, CHECKPOINT_IF_NEEDED);
		pthread_mutex_lock(&keeper->lock);
	}
	pthread_mutex_unlock(&keeper->lock);
	return NULL;
}

int keeper_start(struct exdb *db)
{
	/* beyond those that are lent: it has no interface, and needs none to write */
	struct exdb_worker *w = &db->workers[db->nr_workers];
	int ret = pthread_create(&db->keeper.thread, NULL, run, w);

	db->keeper.started = !ret;
	return -ret;
}

void keeper_wake(struct exdb *db)
{
	if (!log_is_half_full(&db->log))
		return;
	pthread_mutex_lock(&db->keeper.lock);
	pthread_cond_signal(&db->keeper.wake);
	pthread_mutex_unlock(&db->keeper.lock);
}

void keeper_stop(struct exdb *db)
{
	if (!db->keeper.started)
		return;
	pthread_mutex_lock(&db->keeper.lock);
	db->keeper.stop = true;
	pthread_cond_signal(&db->keeper.wake);
	pthread_mutex_unlock(&db->keeper.lock);
	pthread_join(db->keeper.thread, NULL);
	db->keeper.started = false;
}
