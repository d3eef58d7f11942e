// SPDX-License-Identifier: MIT
/*
 * The native core of exmapdb against a plain array, for the sanitizers:
 *
 *	db_core FILE SEED THREADS ROWS
 *
 * Each thread inserts its own share of keys in random order through a pool of
 * 32 frames, looking others up on the way, deletes most of them, so that pages
 * merge, and inserts them again; then everything is scanned both ways and looked
 * up, and once more after a reopening.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "exdb.h"
#include "exmap_user.h"

#define BATCH	64
#define THREADS	8

struct share {
	struct exdb_worker *w;
	const struct exdb_layout *layout;
	uint32_t tree;
	int64_t *keys;
	int64_t rows;
	unsigned int seed;
	pthread_t thread;
	bool stop;
};

static struct exdb *open_db(const char *path, unsigned int workers, bool create, int *fd)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = workers,
		.create = create,
		.level = workers == 2 ? EXDB_GROUP : EXDB_ASYNC,
		.interval = 1000,
		.pool_pages = EXDB_POOL_MIN * workers,
		.data_pages = 65536,
		.log_pages = EXDB_LOG_MIN, /* so that checkpoints go on all the time */
	};
	struct exdb *db = NULL;
	uint64_t page;

	*fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(*fd >= 0);
	config.backing_fd = *fd;
	CHECK(!exdb_open(&config, &db, &page));
	return db;
}

/* A text of 0 to 79 bytes that depends on the key alone. */
static unsigned int text_of(int64_t key, char *text)
{
	unsigned int length = (uint64_t)key * 2654435761u % 80;

	memset(text, 'a' + key % 26, length);
	return length;
}

static void insert_batch(const struct share *share, const int64_t *keys, unsigned int n)
{
	int32_t offsets[BATCH + 1] = { 0 };
	char texts[BATCH * 80];
	struct exdb_vector columns[2] = {
		{ .values = (void *)keys },
		{ .values = texts, .offsets = offsets },
	};
	uint64_t row;
	unsigned int i;

	for (i = 0; i < n; i++)
		offsets[i + 1] = offsets[i] + text_of(keys[i], texts + offsets[i]);
	CHECK(!exdb_table_insert(share->w, NULL, share->layout, share->tree, columns, n, false, &row));
	CHECK(exdb_table_insert(share->w, NULL, share->layout, share->tree, columns, n, false, &row) ==
	      -EEXIST);
}

static void delete_batch(const struct share *share, const int64_t *keys, unsigned int n)
{
	const struct exdb_vector columns[2] = { { .values = (void *)keys } };
	uint64_t deleted;

	CHECK(!exdb_table_delete(share->w, NULL, share->layout, share->tree, columns, n, &deleted));
	CHECK(deleted == n);
	CHECK(!exdb_table_delete(share->w, NULL, share->layout, share->tree, columns, n, &deleted));
	CHECK(!deleted);
}

static int look_up(const struct share *share, int64_t key)
{
	int64_t id = -1;
	int32_t offsets[2] = { 0 };
	char text[EXDB_ROW_MAX], expected[80];
	struct exdb_vector columns[2] = {
		{ .values = &id },
		{ .values = text, .offsets = offsets, .capacity = sizeof(text) },
	};
	struct exdb_key bytes;
	int ret;

	exdb_key_clear(&bytes);
	CHECK(!exdb_key_put_int64(&bytes, key));
	ret = exdb_table_get(share->w, NULL, share->layout, share->tree, &bytes, columns);
	if (ret)
		return ret;
	CHECK(id == key);
	CHECK((unsigned int)offsets[1] == text_of(key, expected));
	CHECK(!memcmp(text, expected, offsets[1]));
	return 0;
}

/* All but the first tenth of the share go. */
static void delete_most(struct share *share)
{
	int64_t i, n, kept = share->rows / 10;

	for (i = kept; i < share->rows; i += n) {
		n = share->rows - i < BATCH ? share->rows - i : BATCH;
		delete_batch(share, share->keys + i, n);
		CHECK(look_up(share, share->keys[i]) == -ENOENT);
		CHECK(!look_up(share, share->keys[rand_r(&share->seed) % kept]));
	}
}

static void insert_again(struct share *share)
{
	int64_t i, n, kept = share->rows / 10;

	for (i = kept; i < share->rows; i += n) {
		n = share->rows - i < BATCH ? share->rows - i : BATCH;
		insert_batch(share, share->keys + i, n);
	}
}

static void *run_share(void *arg)
{
	struct share *share = arg;
	int64_t i, n;

	for (i = 0; i < share->rows; i += n) {
		n = 1 + rand_r(&share->seed) % BATCH;
		n = n < share->rows - i ? n : share->rows - i;
		insert_batch(share, share->keys + i, n);
		CHECK(!look_up(share, share->keys[rand_r(&share->seed) % (i + n)]));
		if (i + n < share->rows)
			CHECK(look_up(share, share->keys[i + n]) == -ENOENT);
	}
	delete_most(share);
	insert_again(share);
	return NULL;
}

/* Keys 0, 3, 6, ... of all threads come in order. */
static void scan_all(const struct share *share, int64_t rows, bool reverse)
{
	int64_t ids[37], seen = 0, n, i;
	struct exdb_vector columns[2] = { { .values = ids } };
	struct exdb_scan *scan = exdb_scan_new(NULL, share->layout, share->tree, NULL, NULL, 64, reverse);

	CHECK(scan);
	while ((n = exdb_scan_next(share->w, scan, columns, 37)) > 0)
		for (i = 0; i < n; i++, seen++)
			CHECK(ids[i] == 3 * (reverse ? rows - 1 - seen : seen));
	CHECK(!n);
	CHECK(seen == rows);
	exdb_scan_free(scan);
}

/* Looks at snapshots, in which keys ascend, and commits what it has read, until it is told to stop. */
static void *observe(void *arg)
{
	struct share *share = arg;
	unsigned int round;

	for (round = 0; round < 3 && !__atomic_load_n(&share->stop, __ATOMIC_ACQUIRE); round++) {
		struct share view = *share;
		struct exdb_freeze *freeze;
		struct exdb_check found;
		struct exdb_txn *txn;
		int64_t ids[37], last = -1, n, i;
		struct exdb_vector columns[2] = { { .values = ids } };
		struct exdb_scan *scan;

		CHECK(!exdb_freeze(share->w, &freeze));
		view.w = exdb_freeze_worker(freeze);
		scan = exdb_scan_new(NULL, view.layout, view.tree, NULL, NULL, 64, false);
		CHECK(scan);
		while ((n = exdb_scan_next(view.w, scan, columns, 37)) > 0)
			for (i = 0; i < n; last = ids[i++])
				CHECK(ids[i] > last && ids[i] % 3 == 0);
		CHECK(!n);
		exdb_scan_free(scan);
		exdb_thaw(freeze);

		CHECK(!exdb_check(share->w, &found));
		CHECK(!exdb_txn_begin(share->w, &txn));
		scan = exdb_scan_new(txn, share->layout, share->tree, NULL, NULL, 64, true);
		CHECK(scan);
		CHECK(exdb_scan_next(share->w, scan, columns, 37) >= 0);
		exdb_scan_free(scan);
		n = exdb_txn_commit(share->w, txn);
		CHECK(!n || n == -ECANCELED);
		exdb_txn_end(txn);
		/* the check keeps writers waiting */
		usleep(20000);
	}
	return NULL;
}

static void shuffle(int64_t *keys, int64_t n, unsigned int *seed)
{
	int64_t i;

	for (i = n - 1; i > 0; i--) {
		int64_t k = rand_r(seed) % (i + 1), key = keys[i];

		keys[i] = keys[k];
		keys[k] = key;
	}
}

int main(int argc, char **argv)
{
	const struct exdb_column columns[2] = { { .type = EXDB_INT64 }, { .type = EXDB_TEXT } };
	const uint32_t key = 0;
	struct share shares[THREADS] = { 0 }, observer;
	struct exdb_stats stats;
	struct exdb_layout *layout;
	struct exdb_txn *txn;
	struct exdb *db;
	unsigned int seed, threads, i;
	int64_t rows, *keys, k;
	uint32_t tree;
	int fd;

	CHECK(argc == 5);
	seed = strtoul(argv[2], NULL, 10);
	threads = strtoul(argv[3], NULL, 10);
	rows = strtol(argv[4], NULL, 10) / threads * threads;
	CHECK(threads >= 1 && threads <= THREADS);
	keys = malloc(rows * sizeof(*keys));
	CHECK(keys);
	for (k = 0; k < rows; k++)
		keys[k] = 3 * k;
	shuffle(keys, rows, &seed);

	layout = exdb_layout_new(2, columns, 1, &key, 0, 0);
	CHECK(layout);
	db = open_db(argv[1], threads + 1, true, &fd);
	CHECK(!exdb_txn_begin(exdb_worker_at(db, 0), &txn));
	CHECK(!exdb_table_create(txn, &tree));
	CHECK(!exdb_txn_commit(exdb_worker_at(db, 0), txn));
	exdb_txn_end(txn);
	observer = (struct share){
		.w = exdb_worker_at(db, threads), .layout = layout, .tree = tree };
	CHECK(!pthread_create(&observer.thread, NULL, observe, &observer));
	for (i = 0; i < threads; i++) {
		shares[i] = (struct share){
			.w = exdb_worker_at(db, i),
			.layout = layout,
			.tree = tree,
			.keys = keys + rows / threads * i,
			.rows = rows / threads,
			.seed = seed + i,
		};
		CHECK(!pthread_create(&shares[i].thread, NULL, run_share, &shares[i]));
	}
	for (i = 0; i < threads; i++)
		CHECK(!pthread_join(shares[i].thread, NULL));
	__atomic_store_n(&observer.stop, true, __ATOMIC_RELEASE);
	CHECK(!pthread_join(observer.thread, NULL));
	scan_all(&shares[0], rows, false);
	scan_all(&shares[0], rows, true);
	for (i = 0; i < threads; i++)
		delete_most(&shares[i]);
	CHECK(!exdb_stats(db, &stats));
	CHECK(stats.evicted > stats.pool_pages);
	CHECK(stats.free_pages > stats.allocated_pages / 2);
	for (i = 0; i < threads; i++)
		insert_again(&shares[i]);
	CHECK(!exdb_shutdown(shares[0].w));
	exdb_close(db);
	close(fd);

	db = open_db(argv[1], 1, false, &fd);
	shares[0].w = exdb_worker_at(db, 0);
	for (k = 0; k < rows; k++) {
		CHECK(!look_up(&shares[0], 3 * k));
		CHECK(look_up(&shares[0], 3 * k + 1) == -ENOENT);
	}
	scan_all(&shares[0], rows, false);
	scan_all(&shares[0], rows, true);
	exdb_close(db);
	close(fd);
	exdb_layout_free(layout);
	free(keys);
	puts("ok");
	return 0;
}
