/* SPDX-License-Identifier: MIT */
/* What programs that work on a new database begin with. */
#ifndef EXMAP_TESTS_DB_SETUP_H
#define EXMAP_TESTS_DB_SETUP_H

#include <fcntl.h>
#include <time.h>

#include "check.h"
#include "exdb.h"
#include "exmap_user.h"

/* Seconds. */
static inline double now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

/* A database in an emptied file; nothing that it has to keep. */
static inline struct exdb *make_db(const char *path, bool kernel, struct exdb_config config)
{
	struct exdb *db = NULL;
	uint64_t page;

	config.backend = kernel ? EXMAP_BACKEND_KERNEL : EXMAP_BACKEND_POSIX;
	config.create = true;
	config.level = EXDB_ASYNC;
	config.backing_fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(config.backing_fd >= 0);
	CHECK(!exdb_open(&config, &db, &page));
	return db;
}

static inline uint32_t make_table(struct exdb_worker *w)
{
	struct exdb_txn *txn;
	uint32_t tree;

	CHECK(!exdb_txn_begin(w, &txn));
	CHECK(!exdb_table_create(txn, &tree));
	CHECK(!exdb_txn_commit(w, txn));
	exdb_txn_end(txn);
	return tree;
}

#endif
