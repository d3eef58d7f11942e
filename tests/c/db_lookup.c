// SPDX-License-Identifier: MIT
/*
 * Single lookups without Python, all pages resident, by one thread and by several: how much
 * threads are in each other's way.
 *
 *	gcc -O2 -std=gnu11 -pthread -I tests/c -I dbms/native -I libexmap/include -I kmod/uapi \
 *		tests/c/db_lookup.c dbms/native/[a-z]*.c libexmap/src/[!f]*.c -o db_lookup
 *	./db_lookup FILE ROWS LOOKUPS THREADS near|far|composite [shuffled] [kernel]
 *
 * Keys are the numbers of rows, which begin alike; or shifted, so that they differ in their first
 * bytes; or composite, a long text, which many rows share, before the number.  Rows are put in by their
 * order, 4,096 at a time; or shuffled, 64 at a time.  It also tells what it took to put in a row,
 * to scan one, and how many pages there are.  With one thread, instructions can be counted: valgrind --tool=callgrind
 * --toggle-collect=look_up_all
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db_setup.h"

#define BATCH	4096u
#define SHUFFLED 64u	/* rows in a batch */
#define STEP	7919u	/* prime, so that it comes to all rows */
#define TEXT	100u
#define NAME	64u
#define THREADS	16u

struct share {
	struct exdb_worker *w;
	const struct exdb_layout *layout;
	uint32_t tree;
	uint64_t rows;
	uint64_t lookups;
	const char *kind;
	bool shuffled;
	uint64_t seed;
	pthread_t thread;
};

static bool is_composite(const struct share *share)
{
	return !strcmp(share->kind, "composite");
}

static int64_t number_of(const struct share *share, uint64_t row)
{
	return (int64_t)(strcmp(share->kind, "far") ? row : row << 36);
}

/* The text before the number; empty but in a composite key. */
static unsigned int text_of(const struct share *share, uint64_t row, char text[NAME])
{
	if (!is_composite(share))
		return 0;
	return (unsigned int)snprintf(text, NAME, "europe/germany/customer-%08u/orders", (unsigned int)(row / 1000));
}

static struct exdb_layout *layout_of(bool composite)
{
	const struct exdb_column columns[] = { { .type = EXDB_TEXT }, { .type = EXDB_INT64 }, { .type = EXDB_BYTES } };
	const uint32_t key[] = { composite ? 0 : 1, 1 };
	struct exdb_layout *layout = exdb_layout_new(3, columns, 1 + composite, key, 0, 0);

	CHECK(layout);
	return layout;
}

static __attribute__((noinline)) void fill(const struct share *share)
{
	static int64_t keys[BATCH];
	static int32_t offsets[BATCH + 1], ends[BATCH + 1];
	static char texts[BATCH * TEXT], names[BATCH * NAME];
	const struct exdb_vector columns[3] = {
		{ .values = names, .offsets = ends },
		{ .values = keys },
		{ .values = texts, .offsets = offsets },
	};
	const unsigned int batch = share->shuffled ? SHUFFLED : BATCH;
	uint64_t row, first;
	unsigned int i;

	memset(texts, 'x', sizeof(texts));
	for (first = 0; first < share->rows; first += batch) {
		for (i = 0; i < batch; i++) {
			row = share->shuffled ? (first + i) * STEP % share->rows : first + i;
			keys[i] = number_of(share, row);
			ends[i + 1] = ends[i] + (int32_t)text_of(share, row, names + ends[i]);
			offsets[i + 1] = (i + 1) * TEXT;
		}
		CHECK(!exdb_table_insert(share->w, NULL, share->layout, share->tree, columns, batch,
					 false, &row));
	}
}

static __attribute__((noinline)) void scan_all(const struct share *share)
{
	static int64_t keys[BATCH];
	static int32_t ends[BATCH + 1];
	static char names[BATCH * NAME];
	struct exdb_vector columns[3] = {
		{ .values = names, .offsets = ends, .capacity = sizeof(names) },
		{ .values = keys },
		{ 0 },
	};
	struct exdb_scan *scan = exdb_scan_new(NULL, share->layout, share->tree, NULL, NULL, 0, false);
	uint64_t seen = 0;
	long n;

	CHECK(scan);
	while ((n = exdb_scan_next(share->w, scan, columns, BATCH)) > 0)
		seen += (uint64_t)n;
	CHECK(!n && seen == share->rows);
	exdb_scan_free(scan);
}

static void look_up(const struct share *share, uint64_t row)
{
	int64_t id = -1;
	int32_t offsets[2] = { 0 };
	char text[TEXT], name[NAME];
	struct exdb_vector columns[3] = {
		{ 0 },
		{ .values = &id },
		{ .values = text, .offsets = offsets, .capacity = sizeof(text) },
	};
	const unsigned int length = text_of(share, row, name);
	struct exdb_key key;

	exdb_key_clear(&key);
	if (length)
		CHECK(!exdb_key_put_text(&key, (const uint8_t *)name, length));
	CHECK(!exdb_key_put_int64(&key, number_of(share, row)));
	CHECK(!exdb_table_get(share->w, NULL, share->layout, share->tree, &key, columns));
	CHECK(id == number_of(share, row));
}

static __attribute__((noinline)) void look_up_all(const struct share *share)
{
	uint64_t i, x = share->seed;

	for (i = 0; i < share->lookups; i++) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		look_up(share, (x >> 33) % share->rows);
	}
}

static void *run(void *arg)
{
	look_up_all(arg);
	return NULL;
}

/* Nanoseconds of processor time for a lookup. */
static double measure(struct share *shares, unsigned int threads)
{
	double begin = now(CLOCK_PROCESS_CPUTIME_ID);
	unsigned int i;

	for (i = 0; i < threads; i++)
		CHECK(!pthread_create(&shares[i].thread, NULL, run, &shares[i]));
	for (i = 0; i < threads; i++)
		CHECK(!pthread_join(shares[i].thread, NULL));
	return (now(CLOCK_PROCESS_CPUTIME_ID) - begin) * 1e9 / (double)(threads * shares->lookups);
}

/* The same for a row. */
static double time_of(void (*fn)(const struct share *), const struct share *share)
{
	const double begin = now(CLOCK_PROCESS_CPUTIME_ID);

	fn(share);
	return (now(CLOCK_PROCESS_CPUTIME_ID) - begin) * 1e9 / (double)share->rows;
}

int main(int argc, char **argv)
{
	struct share shares[THREADS] = { 0 };
	struct exdb_layout *layout;
	struct exdb_stats stats;
	unsigned int threads, i;
	double one, many, filled, scanned;
	bool shuffled, kernel;
	struct exdb *db;
	uint32_t tree;

	CHECK(argc > 5);
	threads = strtoul(argv[4], NULL, 10);
	CHECK(threads && threads <= THREADS);
	shares[0].rows = (strtoul(argv[2], NULL, 10) + BATCH - 1) / BATCH * BATCH;
	shuffled = argc > 6 && !strcmp(argv[6], "shuffled");
	kernel = argc > 6 && !strcmp(argv[argc - 1], "kernel");
	db = make_db(argv[1], kernel,
		     (struct exdb_config){
			     .workers = threads,
			     .interval = 100000,
			     .pool_pages = EXDB_POOL_MIN * threads +
					   shares[0].rows * 4 * TEXT / EXDB_PAGE_SIZE,
			     .data_pages = 262144,
			     .log_pages = 16384,
		     });
	layout = layout_of(!strcmp(argv[5], "composite"));
	tree = make_table(exdb_worker_at(db, 0));
	for (i = 0; i < threads; i++)
		shares[i] = (struct share){
			.w = exdb_worker_at(db, i),
			.layout = layout,
			.tree = tree,
			.rows = shares[0].rows,
			.lookups = strtoul(argv[3], NULL, 10),
			.kind = argv[5],
			.shuffled = shuffled,
			.seed = i + 1,
		};
	filled = time_of(fill, &shares[0]);
	scanned = time_of(scan_all, &shares[0]);
	one = measure(shares, 1);
	many = threads > 1 ? measure(shares, threads) : one;
	CHECK(!exdb_stats(db, &stats));
	printf("{\"one_ns\": %.1f, \"many_ns\": %.1f, \"threads\": %u, \"ratio\": %.3f, \"pages\": %llu, "
	       "\"fill_ns\": %.1f, \"scan_ns\": %.1f}\n",
	       one, many, threads, many / one, (unsigned long long)stats.allocated_pages, filled,
	       scanned);
	exdb_close(db);
	exdb_layout_free(layout);
	return 0;
}
