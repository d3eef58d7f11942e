/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: the backing gets an image of all pages as they were at one moment,
 * between two transactions, while writers go on (copy on update, as in Cao et al.,
 * "Fast Checkpoint Recovery Algorithms for Frequently Consistent Applications",
 * SIGMOD 2011).
 *
 * That moment begins an epoch, and costs no more: the pages that are dirty then
 * are known by their epoch bit.  Whoever writes such a page back, be it the clock,
 * does so for the checkpoint as well; who wants to change it leaves a copy.
 */
#ifndef EXDB_CHECKPOINT_H
#define EXDB_CHECKPOINT_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct exdb;
struct exdb_worker;

/* A page as the running checkpoint wants it, and the block that it will have. */
struct saved_page {
	struct saved_page *next;
	void *content;
	uint32_t block;
};

/**
 * struct meta_state - what page 0 says of an image, as it lies on the disk
 * @sequence: of the checkpoint
 * @lsn: records from here on are not in the image
 * @next_page: the first page that was never allocated
 * @free_page: the first page of the free list, 0 for none
 * @nr_free: its length
 * @nr_map: map pages
 * @clean: 1 if nothing was appended to the log from @lsn on, else 0
 * @reserved: 0
 */
struct meta_state {
	uint64_t sequence;
	uint64_t lsn;
	uint64_t next_page;
	uint64_t free_page;
	uint64_t nr_free;
	uint64_t nr_map;
	uint32_t clean;
	uint32_t reserved;
};

static_assert(sizeof(struct meta_state) == 56, "on-disk format");

/**
 * struct keeper - the thread that makes checkpoints when the log is half full, and
 *	flushes the log of a database with async commits
 * @thread: itself
 * @started: there is one
 * @stop: protected by @lock
 * @lock: with @wake
 * @wake: there is something to do
 * @interval: nanoseconds between flushes, 0 for none
 */
struct keeper {
	pthread_t thread;
	bool started;
	bool stop;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	long interval;
};

enum checkpoint_kind {
	CHECKPOINT_IF_NEEDED,	/* unless nothing was committed since the last one */
	CHECKPOINT_ALWAYS,
	CHECKPOINT_LAST,	/* nothing will be committed after it */
};

/* -EROFS, or an error after which nothing may be changed any more. */
int checkpoint_run(struct exdb_worker *w, enum checkpoint_kind kind);

/* A pending page is about to be changed by us, who have latched it exclusively. */
int checkpoint_save(struct exdb_worker *w, uint64_t page);

/* Forget copies that a failed checkpoint has not written. */
void checkpoint_drop_saved(struct exdb *db);

/* From now on nothing can be changed; the first error counts.  Returns @error. */
int checkpoint_fail(struct exdb *db, int error, uint64_t page);

int keeper_start(struct exdb *db);
void keeper_stop(struct exdb *db);
void keeper_wake(struct exdb *db);

/* meta.c: both copies of page 0, and wait for the disk. */
int meta_write(struct exdb *db, const struct meta_state *state);

/* meta.c: read page 0 into db->checkpoint, the log's number and place, and the map's roots. */
int meta_read(struct exdb_worker *w);

/* meta.c: overwrite both copies, so that nothing that was there is taken for ours. */
int meta_wipe(struct exdb *db);

/* commit.c: apply records of the log from the last checkpoint on. */
int recover(struct exdb_worker *w);

#endif /* EXDB_CHECKPOINT_H */
