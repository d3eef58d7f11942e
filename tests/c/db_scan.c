// SPDX-License-Identifier: MIT
/*
 * Scans of a table without Python, beside one copy of as many bytes: what the core
 * alone can do.  Rows of an integer and of 100 bytes, all of them resident.
 *
 *	gcc -O2 -std=gnu11 -pthread -I tests/c -I dbms/native -I libexmap/include -I kmod/uapi \
 *		tests/c/db_scan.c dbms/native/[a-z]*.c libexmap/src/[!f]*.c -o db_scan
 *	./db_scan FILE ROWS SECONDS [kernel]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db_setup.h"

#define BATCH	8192u
#define TEXT	100u
#define BYTES	(TEXT + sizeof(int64_t)) /* of a row's key and text */
#define COPIES	8u

struct table {
	struct exdb *db;
	struct exdb_worker *w;
	struct exdb_layout *layout;
	uint32_t tree;
	uint64_t rows;
	int64_t keys[BATCH];
	int32_t offsets[BATCH + 1];
	char texts[BATCH * TEXT];
};

static void create(struct table *t)
{
	const struct exdb_column columns[] = { { .type = EXDB_INT64 }, { .type = EXDB_BYTES } };
	const uint32_t key = 0;

	t->layout = exdb_layout_new(2, columns, 1, &key, 0, 0);
	CHECK(t->layout);
	t->tree = make_table(t->w);
}

static void fill(struct table *t)
{
	struct exdb_vector columns[2] = {
		{ .values = t->keys },
		{ .values = t->texts, .offsets = t->offsets },
	};
	uint64_t row, first;
	unsigned int i;

	memset(t->texts, 'x', sizeof(t->texts));
	for (first = 0; first < t->rows; first += BATCH) {
		for (i = 0; i < BATCH; i++) {
			t->keys[i] = first + i;
			t->offsets[i + 1] = (i + 1) * TEXT;
		}
		CHECK(!exdb_table_insert(t->w, NULL, t->layout, t->tree, columns, BATCH, false, &row));
	}
}

/* All rows, each batch in the memory of the last one. */
static void scan(struct table *t, struct exdb_worker *w)
{
	struct exdb_vector columns[2] = {
		{ .values = t->keys },
		{ .values = t->texts, .offsets = t->offsets, .capacity = sizeof(t->texts) },
	};
	struct exdb_scan *scan = exdb_scan_new(NULL, t->layout, t->tree, NULL, NULL, 64, false);
	uint64_t rows = 0;
	long n;

	CHECK(scan);
	while ((n = exdb_scan_next(w, scan, columns, BATCH)) > 0)
		rows += n;
	CHECK(!n && rows == t->rows);
	exdb_scan_free(scan);
}

/* Bytes a second of the best of all that fit the time. */
static double scan_rate(struct table *t, struct exdb_worker *w, double seconds)
{
	const double end = now(CLOCK_THREAD_CPUTIME_ID) + seconds;
	double best = 1e9, begin;

	while ((begin = now(CLOCK_THREAD_CPUTIME_ID)) < end) {
		scan(t, w);
		if (now(CLOCK_THREAD_CPUTIME_ID) - begin < best)
			best = now(CLOCK_THREAD_CPUTIME_ID) - begin;
	}
	return t->rows * BYTES / best;
}

static double copy_rate(size_t size)
{
	char *from = malloc(size), *to = malloc(size);
	double best = 1e9, begin;
	unsigned int i;

	CHECK(from && to);
	memset(from, 1, size);
	memset(to, 1, size);
	for (i = 0; i < COPIES; i++) {
		begin = now(CLOCK_THREAD_CPUTIME_ID);
		memcpy(to, from, size);
		__asm__ volatile("" : : "r"(to) : "memory");
		if (now(CLOCK_THREAD_CPUTIME_ID) - begin < best)
			best = now(CLOCK_THREAD_CPUTIME_ID) - begin;
	}
	free(from);
	free(to);
	return size / best;
}

int main(int argc, char **argv)
{
	static struct table t;
	struct exdb_freeze *freeze;
	double seconds, live, frozen, copy;

	CHECK(argc > 3);
	t.rows = (strtoul(argv[2], NULL, 10) + BATCH - 1) / BATCH * BATCH;
	seconds = strtod(argv[3], NULL);
	t.db = make_db(argv[1], argc > 4,
		       (struct exdb_config){
			       .workers = 1,
			       .interval = 10000,
			       .pool_pages = EXDB_POOL_MIN + t.rows * 3 * BYTES / EXDB_PAGE_SIZE,
			       .data_pages = 65536,
			       .log_pages = 16384,
		       });
	t.w = exdb_worker_at(t.db, 0);
	create(&t);
	fill(&t);
	live = scan_rate(&t, t.w, seconds);
	CHECK(!exdb_freeze(t.w, &freeze));
	frozen = scan_rate(&t, exdb_freeze_worker(freeze), seconds);
	exdb_thaw(freeze);
	copy = copy_rate(t.rows * BYTES);
	printf("{\"live_gb_per_s\": %.3f, \"frozen_gb_per_s\": %.3f, \"copy_gb_per_s\": %.3f, "
	       "\"live_vs_memcpy\": %.3f, \"frozen_vs_memcpy\": %.3f}\n",
	       live / 1e9, frozen / 1e9, copy / 1e9, live / copy, frozen / copy);
	exdb_close(t.db);
	return 0;
}
