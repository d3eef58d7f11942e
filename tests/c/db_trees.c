// SPDX-License-Identifier: MIT
/*
 * Trees that come and go:
 *
 *	db_trees FILE cycles N		make and drop one so often: numbers and pages serve again
 *	db_trees FILE limit		as many as there may be, and no more
 *	db_trees FILE readers N		so often, beside threads that read from whichever there is
 *	db_trees FILE leaves		what is given back is not read
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "txn.h"

#define ROWS	3000
#define PART	500
#define READERS	2
#define FIRST	(EXDB_INDEXES_TREE + 1u)

static struct exdb *db;

static void open_db(const char *path, bool create, unsigned int pool)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = READERS + 1,
		.create = create,
		.level = EXDB_ASYNC,
		.interval = 1000,
		.pool_pages = pool,
		.data_pages = 1 << 17,
		.log_pages = EXDB_LOG_MIN,
	};
	uint64_t page;

	config.backing_fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(config.backing_fd >= 0);
	CHECK(!exdb_open(&config, &db, &page));
}

static struct exdb_worker *worker(void)
{
	return exdb_worker_at(db, 0);
}

static struct exdb_txn *begin(void)
{
	struct exdb_txn *txn;

	CHECK(!exdb_txn_begin(worker(), &txn));
	return txn;
}

/* A change of the catalog, as each that makes or drops a tree is. */
static void touch_catalog(struct exdb_txn *txn)
{
	const struct btree_entry entry = { .key = (const uint8_t *)"t", .key_length = 1 };

	CHECK(!txn_write(txn, OWN_PUT, EXDB_TABLES_TREE, &entry));
}

static void commit_and_end(struct exdb_txn *txn)
{
	touch_catalog(txn);
	CHECK(!exdb_txn_commit(worker(), txn));
	exdb_txn_end(txn);
}

static uint32_t make_tree(void)
{
	struct exdb_txn *txn = begin();
	uint32_t tree;

	CHECK(!exdb_table_create(txn, &tree));
	commit_and_end(txn);
	return tree;
}

static void drop_tree(uint32_t tree)
{
	struct exdb_txn *txn = begin();

	CHECK(!exdb_tree_drop(txn, tree));
	commit_and_end(txn);
}

static struct exdb_check check_all(void)
{
	struct exdb_check found;

	CHECK(!exdb_check(worker(), &found));
	return found;
}

static void close_db(void)
{
	const int fd = db->backing_fd;

	check_all();
	CHECK(!exdb_shutdown(worker()));
	exdb_close(db);
	close(fd);
}

static void run_cycles(unsigned int n)
{
	const uint64_t pages = db->next_page;
	unsigned int i;

	for (i = 0; i < n; i++) {
		CHECK(make_tree() == FIRST);
		drop_tree(FIRST);
		CHECK(!exdb_trees_free(worker()));
	}
	CHECK(db->next_page == pages + 1);
}

/* A transaction that makes 16, or as many as it can; how many. */
static unsigned int make_some(struct exdb_txn *txn, uint32_t *last)
{
	unsigned int n = 0;
	int ret;

	while (!(ret = exdb_table_create(txn, last)))
		n++;
	CHECK(ret == -E2BIG || ret == -ENFILE);
	return n;
}

static void run_limit(void)
{
	struct exdb_txn *txn;
	unsigned int n, made = 0;
	uint32_t last;

	do {
		txn = begin();
		n = make_some(txn, &last);
		made += n;
		commit_and_end(txn);
	} while (n);
	CHECK(made == EXDB_TREES_MAX - FIRST);

	/* a number serves again when its tree is gone, and when a transaction does not commit */
	drop_tree(FIRST + 7);
	CHECK(!exdb_trees_free(worker()));
	txn = begin();
	CHECK(make_some(txn, &last) == 1 && last == FIRST + 7);
	CHECK(!exdb_txn_rollback(txn, 0));
	CHECK(make_some(txn, &last) == 1 && last == FIRST + 7);
	exdb_txn_end(txn);
	CHECK(make_tree() == FIRST + 7);
	CHECK(check_all().trees == EXDB_TREES_MAX + 1);
}

/* A tree with a row for each key, whose value is the tree's number among all that there were. */
struct published {
	struct exdb_layout *layout;
	uint32_t tree;
	int64_t number;
};

struct reader {
	struct published **current;
	struct exdb_worker *w;
	unsigned int seed;
	bool stop;
	uint64_t found;
	pthread_t thread;
};

static struct published *publish(uint32_t tree, int64_t number)
{
	const struct exdb_column columns[] = {
		{ .type = EXDB_INT64 }, { .type = EXDB_INT64 }, { .type = EXDB_TEXT } };
	struct published *p = malloc(sizeof(*p));
	const uint32_t key = 0;

	CHECK(p);
	*p = (struct published){ .tree = tree, .number = number };
	p->layout = exdb_layout_new(3, columns, 1, &key, 0, exdb_schema(db));
	CHECK(p->layout);
	return p;
}

/* In parts, since the log is small. */
static void fill(const struct published *p)
{
	static char text[PART * 100];
	int64_t keys[PART], numbers[PART], i, first;
	int32_t offsets[PART + 1] = { 0 };
	const struct exdb_vector columns[] = {
		{ .values = keys },
		{ .values = numbers },
		{ .values = text, .offsets = offsets },
	};
	uint64_t row;

	for (first = 0; first < ROWS; first += PART) {
		for (i = 0; i < PART; i++) {
			keys[i] = first + i;
			numbers[i] = p->number;
			offsets[i + 1] = 100 * (int32_t)(i + 1);
		}
		CHECK(!exdb_table_insert(worker(), NULL, p->layout, p->tree, columns, PART, false,
					 &row));
	}
}

/* Either all of it is of that tree, or it is said that there is none any more. */
static void read_row(struct reader *r, const struct published *p)
{
	int64_t id = -1, number = -1, key = rand_r(&r->seed) % ROWS;
	const struct exdb_vector columns[3] = { { .values = &id }, { .values = &number } };
	struct exdb_key bytes = { 0 };
	int ret;

	CHECK(!exdb_key_put_int64(&bytes, key));
	ret = exdb_table_get(r->w, NULL, p->layout, p->tree, &bytes, (struct exdb_vector *)columns);
	CHECK(ret == -ESTALE || (!ret && id == key && number == p->number));
	r->found += !ret;
}

static void scan_rows(struct reader *r, const struct published *p, bool reverse)
{
	int64_t ids[100], numbers[100], seen = 0, n, i;
	struct exdb_vector columns[3] = { { .values = ids }, { .values = numbers } };
	struct exdb_scan *scan = exdb_scan_new(NULL, p->layout, p->tree, NULL, NULL, 8, reverse);

	CHECK(scan);
	while ((n = exdb_scan_next(r->w, scan, columns, 100)) > 0) {
		for (i = 0; i < n; i++, seen++)
			CHECK(ids[i] == (reverse ? ROWS - 1 - seen : seen) &&
			      numbers[i] == p->number);
		r->found++;
	}
	CHECK(n == -ESTALE || (!n && seen == ROWS));
	exdb_scan_free(scan);
}

static void *read_all(void *arg)
{
	struct reader *r = arg;
	unsigned int i;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		const struct published *p = __atomic_load_n(r->current, __ATOMIC_ACQUIRE);

		for (i = 0; i < 50; i++)
			read_row(r, p);
		scan_rows(r, p, rand_r(&r->seed) & 1);
	}
	return NULL;
}

static void stop(struct reader *r)
{
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	CHECK(!pthread_join(r->thread, NULL));
	CHECK(r->found);
}

static void run_readers(unsigned int n)
{
	struct published **all = calloc(n, sizeof(*all)), *current;
	struct reader readers[READERS] = { 0 };
	unsigned int i, k;

	CHECK(all);
	for (i = 0; i < n; i++) {
		all[i] = publish(make_tree(), i);
		CHECK(all[i]->tree == FIRST);
		fill(all[i]);
		__atomic_store_n(&current, all[i], __ATOMIC_RELEASE);
		for (k = 0; k < READERS && !i; k++) {
			readers[k] = (struct reader){
				.current = &current, .w = exdb_worker_at(db, k + 1), .seed = k };
			CHECK(!pthread_create(&readers[k].thread, NULL, read_all, &readers[k]));
		}
		usleep(20000);
		drop_tree(FIRST);
		CHECK(!exdb_trees_free(worker()));
	}
	for (k = 0; k < READERS; k++)
		stop(&readers[k]);
	for (i = 0; i < n; i++) {
		exdb_layout_free(all[i]->layout);
		free(all[i]);
	}
	free(all);
	CHECK(db->nr_free > db->next_page / 2);
}

static void run_leaves(const char *path)
{
	struct published *p = publish(make_tree(), 1);
	struct exdb_stats before, after;
	uint64_t leaves;

	fill(p);
	leaves = check_all().tree_pages;
	close_db();
	open_db(path, false, EXDB_POOL_MIN);
	drop_tree(p->tree);
	CHECK(!exdb_stats(db, &before));
	CHECK(!exdb_trees_free(worker()));
	CHECK(!exdb_stats(db, &after));
	CHECK(after.free_pages - before.free_pages > leaves - 20);
	CHECK(after.pages_read - before.pages_read < 10);
	exdb_layout_free(p->layout);
	free(p);
}

int main(int argc, char **argv)
{
	CHECK(argc >= 3);
	/* frames for the map of as many pages */
	open_db(argv[1], true, strcmp(argv[2], "limit") ? EXDB_POOL_MIN : 1024);
	if (!strcmp(argv[2], "cycles"))
		run_cycles(strtoul(argv[3], NULL, 10));
	else if (!strcmp(argv[2], "limit"))
		run_limit();
	else if (!strcmp(argv[2], "readers"))
		run_readers(strtoul(argv[3], NULL, 10));
	else
		run_leaves(argv[1]);
	close_db();
	puts("ok");
	return 0;
}
