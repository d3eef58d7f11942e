// SPDX-License-Identifier: MIT
/*
 * Readers of rows that are always there, beside a writer that puts others between them and takes
 * them away again: inner pages split, merge, and are evicted under who reads them without a latch.
 *
 *	db_optimistic FILE cases [kernel]
 *	db_optimistic FILE stress [kernel]
 *
 * It has a copy of descend.c that stops where somebody may come in between: before and after it
 * notes a page's version, before it latches one, and before it sees whether what it has read holds.  The cases have a change
 * there, each in turn; under stress threads give their processor away there now and then.
 *
 * Keys are long and come in groups that begin alike, so that separators are long and the tree high.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db_setup.h"
#include "latch.h"
#include "optimistic.h"
#include "trees.h"

static __thread void (*interrupt)(void);
static __thread bool latched;

/* Whoever holds a latch must not be made to wait for those who want it. */
static void stop(void)
{
	if (interrupt && !latched)
		interrupt();
}

static bool begin_interrupted(uint64_t *word, uint64_t *version)
{
	bool begun;

	latched = false;
	stop();
	begun = optimistic_begin(word, version);
	stop();
	return begun;
}

static bool is_valid_interrupted(uint64_t *word, uint64_t version)
{
	stop();
	return optimistic_is_valid(word, version);
}

static int fix_interrupted(struct exdb_worker *w, uint64_t page, int level, const struct node **out)
{
	stop();
	latched = true;
	return btree_fix(w, page, level, out);
}

#define optimistic_begin	begin_interrupted
#define optimistic_is_valid	is_valid_interrupted
#define btree_fix		fix_interrupted
#include "descend.c"

#define READERS	2u
#define ROUNDS	150u
#define STABLE	420u	/* rows that stay; as many as BATCH */
#define STEP	8u	/* from one to the next */
#define RUN	60u	/* of them, between which others come and go */
#define BATCH	(RUN * (STEP - 1))
#define GROUP	32u
#define LENGTH	200u
#define SCANNED	16u
#define FIRST	(STABLE / 3)	/* of the run that comes and goes in the cases */
#define STOPS	12u	/* more than a lookup has */

struct table {
	struct exdb *db;
	struct exdb_layout *layout;
	uint32_t tree;
	bool stop;
};

struct reader {
	struct table *table;
	struct exdb_worker *w;
	unsigned int seed;
	uint64_t looked;
	pthread_t thread;
};

static void create(struct table *t)
{
	const struct exdb_column columns[] = { { .type = EXDB_TEXT }, { .type = EXDB_INT64 } };
	const uint32_t key = 0;

	t->layout = exdb_layout_new(2, columns, 1, &key, 0, 0);
	CHECK(t->layout);
	t->tree = make_table(exdb_worker_at(t->db, 0));
}

/* Ascending in @number. */
static void text_of(unsigned int number, char text[LENGTH])
{
	memset(text, 'a' + number / GROUP % 26, LENGTH);
	snprintf(text, 4, "%03u", number / GROUP % 1000);
	text[3] = '-';
	text[LENGTH - 1] = '0' + number % GROUP;
}

static void change(struct table *t, const int64_t *numbers, unsigned int n, bool insert)
{
	static int32_t offsets[BATCH + 1];
	static char texts[BATCH * LENGTH];
	const struct exdb_vector columns[2] = {
		{ .values = texts, .offsets = offsets },
		{ .values = (void *)numbers },
	};
	struct exdb_worker *w = exdb_worker_at(t->db, 0);
	uint64_t row;
	unsigned int i;

	for (i = 0; i < n; i++) {
		text_of((unsigned int)numbers[i], texts + i * LENGTH);
		offsets[i + 1] = (int32_t)((i + 1) * LENGTH);
	}
	if (insert)
		CHECK(!exdb_table_insert(w, NULL, t->layout, t->tree, columns, n, false, &row));
	else
		CHECK(!exdb_table_delete(w, NULL, t->layout, t->tree, columns, n, &row) && row == n);
}

static struct exdb_key key_of(unsigned int number)
{
	struct exdb_key key;
	char text[LENGTH];

	text_of(number, text);
	exdb_key_clear(&key);
	CHECK(!exdb_key_put_text(&key, (const uint8_t *)text, LENGTH));
	return key;
}

static void look_up(struct reader *r, unsigned int number)
{
	int32_t offsets[2] = { 0 };
	char text[LENGTH], expected[LENGTH];
	int64_t value = -1;
	struct exdb_vector columns[2] = {
		{ .values = text, .offsets = offsets, .capacity = sizeof(text) },
		{ .values = &value },
	};
	const struct exdb_key key = key_of(number);

	text_of(number, expected);
	CHECK(!exdb_table_get(r->w, NULL, r->table->layout, r->table->tree, &key, columns));
	CHECK(value == number && !memcmp(text, expected, LENGTH));
	r->looked++;
}

/* Rows from @number on, in either direction: those that are always there are all among them. */
static void scan(struct reader *r, unsigned int number, bool reverse)
{
	int64_t values[SCANNED];
	struct exdb_vector columns[2] = { { 0 }, { .values = values } };
	int64_t last = reverse ? number : (int64_t)number - 1;
	struct exdb_key key = key_of(number);
	struct exdb_scan *s;
	long i, n;

	s = exdb_scan_new(NULL, r->table->layout, r->table->tree, reverse ? NULL : &key,
			  reverse ? &key : NULL, 4, reverse);
	CHECK(s);
	n = exdb_scan_next(r->w, s, columns, SCANNED);
	CHECK(n > 0 || (!n && reverse && !number));
	for (i = 0; i < n; last = values[i++]) {
		if (reverse)
			CHECK(values[i] < last && values[i] >= (last - 1) / STEP * STEP);
		else
			CHECK(values[i] > last && values[i] <= (last + STEP) / STEP * STEP);
	}
	exdb_scan_free(s);
}

static void give_way(void)
{
	static __thread unsigned int seed;

	if (rand_r(&seed) % 16 == 0)
		sched_yield();
}

static void *read_on(void *arg)
{
	struct reader *r = arg;

	interrupt = give_way;
	while (!__atomic_load_n(&r->table->stop, __ATOMIC_ACQUIRE)) {
		const unsigned int number = rand_r(&r->seed) % STABLE * STEP;

		look_up(r, number);
		if (r->looked % 16 == 0)
			scan(r, number, r->looked % 32 == 0);
	}
	return NULL;
}

/* All between some rows come, so that pages split, or go, so that they merge. */
static void change_run(struct table *t, unsigned int first, bool insert)
{
	int64_t numbers[BATCH];
	unsigned int i, n = 0;

	for (i = first * STEP; n < BATCH; i++)
		if (i % STEP)
			numbers[n++] = i;
	change(t, numbers, BATCH, insert);
}

static void stress(struct table *t)
{
	static struct reader readers[READERS];
	unsigned int i, seed = 1;

	for (i = 0; i < READERS; i++) {
		readers[i] = (struct reader){
			.table = t, .w = exdb_worker_at(t->db, i + 1), .seed = i
		};
		CHECK(!pthread_create(&readers[i].thread, NULL, read_on, &readers[i]));
	}
	for (i = 0; i < ROUNDS; i++) {
		const unsigned int first = rand_r(&seed) % (STABLE - RUN);

		change_run(t, first, true);
		change_run(t, first, false);
	}
	__atomic_store_n(&t->stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < READERS; i++) {
		CHECK(!pthread_join(readers[i].thread, NULL));
		CHECK(readers[i].looked);
	}
}

static struct table table;
static unsigned int countdown;
static void (*meanwhile)(void);

static void count_down(void)
{
	if (--countdown)
		return;
	interrupt = NULL;
	meanwhile();
}

static void split_or_merge(void)
{
	static bool there;

	there = !there;
	change_run(&table, FIRST, there);
}

/* All pages go, and others take their frames. */
static void evict(void)
{
	struct exdb_worker *w = exdb_worker_at(table.db, 0);
	unsigned int turns;

	for (turns = 0; turns < 2 * EXDB_POOL_MIN; turns++)
		CHECK(clock_evict(w) >= 0);
	for (turns = 0; turns < STABLE; turns += 7)
		look_up(&(struct reader){ .table = &table, .w = w }, turns * STEP);
}

/* A lookup of each row where the changes are, stopped at each of its stops in turn. */
static void look_up_interrupted(void (*fn)(void))
{
	struct reader r = { .table = &table, .w = exdb_worker_at(table.db, 1) };
	unsigned int stop, i;

	meanwhile = fn;
	for (stop = 1; stop <= STOPS; stop++) {
		for (i = FIRST; i <= FIRST + RUN; i += 4) {
			countdown = stop;
			interrupt = count_down;
			if (i % 3)
				look_up(&r, i * STEP);
			else
				scan(&r, i * STEP, i % 2);
			interrupt = NULL;
		}
	}
}

static uint64_t *root_word;

static void root_is_not_latched(void)
{
	CHECK(state_of(state_load(root_word)) == STATE_UNLOCKED);
}

static void version_tells_of_a_writer(void)
{
	uint64_t version;

	CHECK(optimistic_begin(root_word, &version) && optimistic_is_valid(root_word, version));
	CHECK(state_try_exclusive(root_word, version));
	CHECK(!optimistic_is_valid(root_word, version));
	state_release_exclusive(root_word, STATE_UNLOCKED);
	CHECK(!optimistic_is_valid(root_word, version));
}

/* Nobody latches the root, nor writes its state, but to say that it is used. */
static void look_up_and_see_the_root(void)
{
	struct reader r = { .table = &table, .w = exdb_worker_at(table.db, 1) };
	uint64_t before;

	root_word = page_state(table.db, tree_root(r.w, table.tree));
	look_up(&r, 0);
	before = state_load(root_word);
	interrupt = root_is_not_latched;
	look_up(&r, 0);
	scan(&r, STEP, true);
	interrupt = NULL;
	CHECK(state_load(root_word) == before);
	CHECK(state_cas(root_word, before, state_with(before, STATE_MARKED)));
	look_up(&r, 0);
	CHECK(state_load(root_word) == before);
	version_tells_of_a_writer();
}

static void fill(struct table *t)
{
	int64_t numbers[STABLE];
	unsigned int i;

	for (i = 0; i < STABLE; i++)
		numbers[i] = i * STEP;
	change(t, numbers, STABLE, true);
}

int main(int argc, char **argv)
{
	struct exdb_check found;

	static_assert(STABLE == BATCH, "they are put in as one batch");
	CHECK(argc > 2);
	table.db = make_db(argv[1], argc > 3,
			   (struct exdb_config){
				   .workers = READERS + 1,
				   .interval = 1000,
				   .pool_pages = EXDB_POOL_MIN * (READERS + 1),
				   .data_pages = 65536,
				   .log_pages = EXDB_LOG_MIN,
			   });
	create(&table);
	fill(&table);
	if (!strcmp(argv[2], "stress")) {
		stress(&table);
	} else {
		look_up_interrupted(split_or_merge);
		look_up_interrupted(evict);
		look_up_and_see_the_root();
	}
	CHECK(!exdb_check(exdb_worker_at(table.db, 0), &found));
	exdb_close(table.db);
	exdb_layout_free(table.layout);
	puts("ok");
	return 0;
}
