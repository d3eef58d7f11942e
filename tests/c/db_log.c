// SPDX-License-Identifier: MIT
/*
 * Threads that share flushes of the log: disk_sync takes its time (-Wl,--wrap), and waits for company
 * are counted.
 *
 *	db_log FILE
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "db_setup.h"
#include "disk.h"
#include "log.h"
#include "page.h"

#define BLOCKS		64u
#define EACH		20u
#define THREADS		4u
#define FLUSH_NS	30000000
#define THINK_NS	4000000
#define DELAY_NS	500000000

static struct log log = { .lock = PTHREAD_MUTEX_INITIALIZER };
static pthread_mutex_t append = PTHREAD_MUTEX_INITIALIZER;
static unsigned int waits;
static void (*meanwhile)(void);

int __wrap_disk_sync(int fd);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
				  const struct timespec *until);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
				  const struct timespec *until);

static void pause_for(long ns)
{
	const struct timespec time = { .tv_nsec = ns };

	nanosleep(&time, NULL);
}

int __wrap_disk_sync(int fd)
{
	if (meanwhile)
		meanwhile();
	pause_for(FLUSH_NS);
	return fdatasync(fd);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
				  const struct timespec *until)
{
	waits++;
	return __real_pthread_cond_timedwait(cond, mutex, until);
}

static uint64_t append_record(void)
{
	uint8_t payload[100] = { 0 };
	uint64_t end;

	pthread_mutex_lock(&append);
	CHECK(!log_append(&log, payload, sizeof(payload), &end));
	log_truncate(&log, end);
	pthread_mutex_unlock(&append);
	return end;
}

static void *commit_each(void *arg)
{
	unsigned int i;

	for (i = 0; i < *(unsigned int *)arg; i++) {
		pause_for(THINK_NS);
		CHECK(!log_wait(&log, append_record()));
	}
	return NULL;
}

/* How many flushes so many threads needed for so many records each. */
static unsigned int flushes_of(unsigned int threads, unsigned int each)
{
	const uint64_t before = log.flushes;
	pthread_t ids[THREADS];
	unsigned int i;

	waits = 0;
	for (i = 0; i < threads; i++)
		CHECK(!pthread_create(&ids[i], NULL, commit_each, &each));
	for (i = 0; i < threads; i++)
		CHECK(!pthread_join(ids[i], NULL));
	return log.flushes - before;
}

static pthread_t late;
static uint64_t late_end;

static void *wait_late(void *arg)
{
	(void)arg;
	CHECK(!log_wait(&log, late_end));
	return NULL;
}

static unsigned int covered(void)
{
	unsigned int n;

	pthread_mutex_lock(&log.lock);
	n = log.covered;
	pthread_mutex_unlock(&log.lock);
	return n;
}

static void come_late(void)
{
	unsigned int tries;

	meanwhile = NULL;
	CHECK(!pthread_create(&late, NULL, wait_late, NULL));
	for (tries = 0; covered() < 2; tries++) {
		CHECK(tries < 10000);
		pause_for(1000000);
	}
}

/* Who waits when the flush of what he has appended has begun is not waited for by the next. */
static void latecomer_is_covered(void)
{
	const uint64_t end = append_record();

	late_end = append_record();
	meanwhile = come_late;
	CHECK(!log_wait(&log, end));
	CHECK(!pthread_join(late, NULL));
	CHECK(log.company == 2 && !log.waiting);
}

int main(int argc, char **argv)
{
	pthread_condattr_t attr;
	double begin;
	int fd;

	CHECK(argc == 2);
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, BLOCKS * PAGE_SIZE));
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&log.changed, &attr);
	CHECK(!log_init(&log, fd, 0, BLOCKS));
	log_start(&log, 0);

	/* each on its own: who is alone waits for nobody */
	CHECK(flushes_of(1, EACH) == EACH && !waits);
	/* without a delay nobody waits for company that is not there yet */
	CHECK(flushes_of(2, EACH) >= EACH && !waits);
	log.delay = DELAY_NS;
	CHECK(flushes_of(1, EACH) == EACH && waits <= 1);
	/* all wait for the last one, but for the beginning */
	CHECK(flushes_of(2, EACH) <= EACH + EACH / 4 && waits);
	CHECK(flushes_of(THREADS, EACH) <= EACH + EACH / 4);
	/* those who are gone are waited for once, for as long as a flush takes */
	begin = now(CLOCK_MONOTONIC);
	CHECK(flushes_of(1, 2) == 2 && waits <= 1);
	CHECK(now(CLOCK_MONOTONIC) - begin < DELAY_NS * 1e-9);
	latecomer_is_covered();
	log_exit(&log);
	close(fd);
	puts("ok");
	return 0;
}
