// SPDX-License-Identifier: MIT
/*
 * Free runs of pages: best fit, and neighbours are merged.  Each run has two entries in a
 * tree, so that they are as consistent as all other trees are:
 *
 *	BY_PLACE, first page -> length
 *	BY_LENGTH, length, first page -> nothing
 *
 * The numbers of keys are big-endian, the length in the value is little-endian.
 */
#include <errno.h>

#include "commit.h"
#include "extent.h"

#define SPARE_PAGES	32u	/* that trees get when they have no more than */
#define LOW_PAGES	16u	/* these, which a change of a run needs at most */

enum order { BY_PLACE, BY_LENGTH };

struct run {
	uint64_t first;
	uint64_t n;
};

/* An entry, with the memory that it points to. */
struct run_entry {
	struct btree_entry entry;
	uint8_t key[17];
	uint64_t n;
};

static unsigned int put_key(uint8_t *key, enum order order, uint64_t a, uint64_t b)
{
	key[0] = order;
	a = __builtin_bswap64(a);
	b = __builtin_bswap64(b);
	memcpy(key + 1, &a, sizeof(a));
	memcpy(key + 9, &b, sizeof(b));
	return order == BY_PLACE ? 9 : 17;
}

static void make_entry(struct run_entry *e, enum order order, const struct run *run)
{
	const bool by_place = order == BY_PLACE;

	e->n = run->n;
	e->entry = (struct btree_entry){
		.key = e->key,
		.value = (const uint8_t *)&e->n,
		.key_length = by_place ? put_key(e->key, order, run->first, 0) :
					 put_key(e->key, order, run->n, run->first),
		.value_length = by_place ? sizeof(e->n) : 0,
	};
}

static int change_entry(struct exdb_worker *w, const struct btree_entry *entry, bool add)
{
	const uint64_t root = tree_root(w, RUNS_TREE);
	size_t done;
	int ret;

	if (add) {
		ret = btree_insert(w, root, entry, 1, false, &done);
		return ret == -EEXIST ? -EUCLEAN : ret;
	}
	ret = btree_remove(w, root, entry, 1, &done);
	return ret < 0 || done ? ret : -EUCLEAN;
}

/* Both entries of a run come, or go. */
static int change_run(struct exdb_worker *w, const struct run *run, bool add)
{
	struct exdb *db = w->db;
	enum order order;
	int ret = 0;

	db->in_runs = true;
	for (order = BY_PLACE; order <= BY_LENGTH && ret >= 0; order++) {
		struct run_entry e;

		make_entry(&e, order, run);
		ret = change_entry(w, &e.entry, add);
	}
	db->in_runs = false;
	if (ret < 0)
		return ret;
	__atomic_store_n(&db->run_pages, add ? db->run_pages + run->n : db->run_pages - run->n,
			 __ATOMIC_RELAXED);
	return 0;
}

static int add_run(struct exdb_worker *w, const struct run *run)
{
	return change_run(w, run, true);
}

static int remove_run(struct exdb_worker *w, const struct run *run)
{
	return change_run(w, run, false);
}

static int read_run(const struct btree_row *row, struct run *run)
{
	uint64_t numbers[2];

	if (row->key_length == 9 && row->key[0] == BY_PLACE && row->value_length == 8) {
		memcpy(&run->first, row->key + 1, 8);
		memcpy(&run->n, row->value, 8);
		run->first = __builtin_bswap64(run->first);
		return 0;
	}
	if (row->key_length != 17 || row->key[0] != BY_LENGTH)
		return -EUCLEAN;
	memcpy(numbers, row->key + 1, sizeof(numbers));
	run->n = __builtin_bswap64(numbers[0]);
	run->first = __builtin_bswap64(numbers[1]);
	return 0;
}

static int take_run(void *arg, const struct btree_row *row)
{
	int ret = read_run(row, arg);

	return ret ? ret : 1;
}

/* The first run in [low, high) of an order, or the last one: 1, 0 if there is none, or -errno. */
static int find_run(struct exdb_worker *w, enum order order, uint64_t low, uint64_t high,
		    bool last, struct run *run)
{
	struct btree_cursor cursor = {
		.root = tree_root(w, RUNS_TREE),
		.bounded = true,
		.reverse = last,
	};
	int ret;

	cursor.low.length = put_key(cursor.low.bytes, order, low, 0);
	cursor.high.length = put_key(cursor.high.bytes, order, high, 0);
	run->n = 0;
	ret = btree_scan(w, &cursor, take_run, run);
	if (ret)
		return ret;
	if (run->n && (!run->first || run->first >= w->db->next_page ||
		       run->n > w->db->next_page - run->first))
		return -EUCLEAN;
	return run->n > 0;
}

static int take_tail(struct exdb_worker *w, uint64_t n, uint64_t *first)
{
	struct exdb *db = w->db;
	int ret;

	*first = db->next_page;
	/* some are left to the trees, the one of the runs included */
	if (db->data_pages - db->next_page < n + SPARE_PAGES) {
		w->error_page = db->next_page;
		return -ENOSPC;
	}
	ret = map_extend(w, db->next_page + n - 1);
	if (!ret)
		__atomic_store_n(&db->next_page, db->next_page + n, __ATOMIC_RELEASE);
	return ret;
}

int runs_take(struct exdb_worker *w, uint64_t n, uint64_t *first)
{
	struct run run, rest;
	int ret = find_run(w, BY_LENGTH, n, UINT64_MAX, false, &run);

	if (ret <= 0)
		return ret ? ret : take_tail(w, n, first);
	ret = remove_run(w, &run);
	*first = run.first;
	rest = (struct run){ .first = run.first + n, .n = run.n - n };
	return !ret && rest.n ? add_run(w, &rest) : ret;
}

/* Pages that nobody can come to become those of the free list. */
static int give_to_trees(struct exdb_worker *w, struct run *run, uint64_t n)
{
	int ret = 0;

	for (; n && run->n && !ret; n--, run->n--) {
		void *mem;

		ret = buffer_renew(w, run->first + run->n - 1, &mem);
		if (!ret)
			buffer_release(w, run->first + run->n - 1, mem);
	}
	return ret;
}

static uint64_t tree_pages_left(const struct exdb *db)
{
	return db->data_pages - db->next_page + db->nr_free;
}

int runs_give(struct exdb_worker *w, uint64_t first, uint64_t n)
{
	struct run run = { .first = first, .n = n }, other;
	int ret = 0;

	/* what the entries of runs need they bring with them */
	if (tree_pages_left(w->db) < SPARE_PAGES)
		ret = give_to_trees(w, &run, SPARE_PAGES - tree_pages_left(w->db));
	if (ret || !run.n)
		return ret;
	ret = find_run(w, BY_PLACE, first + n, first + n + 1, false, &other);
	if (ret > 0 && run.n == n) {
		run.n += other.n;
		ret = remove_run(w, &other);
	}
	if (ret >= 0)
		ret = find_run(w, BY_PLACE, 0, first, true, &other);
	if (ret > 0) {
		ret = 0;
		if (other.first + other.n > first)
			return -EUCLEAN;
		if (other.first + other.n == first) {
			run.first = other.first;
			run.n += other.n;
			ret = remove_run(w, &other);
		}
	}
	return ret < 0 ? ret : add_run(w, &run);
}

int runs_spare(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	struct run run;
	int ret = 0;

	if (db->in_runs || tree_pages_left(db) >= LOW_PAGES)
		return 0;
	/* the shortest first: they are of the least use to others */
	while (!ret && tree_pages_left(db) < SPARE_PAGES && db->run_pages) {
		ret = find_run(w, BY_LENGTH, 0, UINT64_MAX, false, &run);
		if (ret <= 0)
			return ret;
		ret = remove_run(w, &run);
		if (!ret)
			ret = give_to_trees(w, &run, SPARE_PAGES - tree_pages_left(db));
		if (!ret && run.n)
			ret = add_run(w, &run);
	}
	return ret;
}

struct each {
	run_fn fn;
	void *arg;
};

static int call_each(void *arg, const struct btree_row *row)
{
	const struct each *each = arg;
	struct run run;
	int ret = read_run(row, &run);

	return ret ? ret : each->fn(each->arg, run.first, run.n);
}

int runs_each(struct exdb_worker *w, run_fn fn, void *arg)
{
	struct each each = { .fn = fn, .arg = arg };
	struct btree_cursor cursor = {
		.root = tree_root(w, RUNS_TREE),
		.bounded = true,
	};

	cursor.high.length = put_key(cursor.high.bytes, BY_PLACE, UINT64_MAX, 0);
	return cursor.root ? btree_scan(w, &cursor, call_each, &each) : -EUCLEAN;
}

static int count_run(void *arg, uint64_t first, uint64_t n)
{
	struct exdb *db = arg;

	if (!first || first >= db->next_page || n > db->next_page - first)
		return -EUCLEAN;
	db->run_pages += n;
	return 0;
}

int runs_load(struct exdb_worker *w)
{
	w->db->run_pages = 0;
	return runs_each(w, count_run, w->db);
}
