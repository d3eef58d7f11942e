// SPDX-License-Identifier: MIT
/*
 * A tree whose backing fails now and then, in the midst of splits, merges and its end:
 * exmap_vector_at and disk_write are wrapped (-Wl,--wrap), and every PERIOD-th call
 * fails.  What failed is tried again, and in the end all must be right.
 *
 *	db_tree_faults FILE PERIOD
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree.h"
#include "check.h"
#include "wrap_io.h"

#define ROWS	4000u
#define KEPT	10u	/* every tenth row stays */
#define STEP	2377u	/* prime to ROWS */

static struct exdb *db;
static uint64_t root;
static unsigned int period, calls, failures;

static bool fails(void)
{
	return period && ++calls % period == 0;
}

long __wrap_exmap_vector_at(struct exmap *ex, unsigned int interface, unsigned int opcode,
			    const uint64_t *pages, const uint64_t *blocks, size_t n, size_t *done)
{
	*done = 0;
	return fails() ? -EIO : __real_exmap_vector_at(ex, interface, opcode, pages, blocks, n, done);
}

int __wrap_disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		      unsigned int *done)
{
	*done = 0;
	return fails() ? -EIO : __real_disk_write(fd, blocks, pages, n, done);
}

static void check_no_latch(void)
{
	uint64_t page;

	for (page = 1; page < db->next_page; page++) {
		unsigned int s = state_of(state_load(page_state(db, page)));

		CHECK(s == STATE_EVICTED || s == STATE_UNLOCKED || s == STATE_MARKED);
	}
}

/* Keys as long as separators may be make inner pages of seven. */
static struct btree_entry entry_of(unsigned int i)
{
	static uint8_t key[EXDB_KEY_MAX - 12], value[80];
	const uint32_t big = __builtin_bswap32(i);

	memcpy(key + sizeof(key) - sizeof(big), &big, sizeof(big));
	memset(value, (int)i, sizeof(value));
	return (struct btree_entry){
		.key = key,
		.value = value,
		.key_length = sizeof(key),
		.value_length = sizeof(value),
	};
}

static void insert(unsigned int i)
{
	const struct btree_entry entry = entry_of(i);
	size_t done;
	int ret;

	while ((ret = btree_insert(exdb_worker_at(db, 0), root, &entry, 1, false, &done))) {
		CHECK(ret == -EIO && !done);
		failures++;
	}
}

/* A failed merge comes after the removal, and is left to the next one. */
static void delete(unsigned int i)
{
	const struct btree_entry key = entry_of(i);
	size_t removed, sum = 0;
	int ret;

	do {
		ret = btree_remove(exdb_worker_at(db, 0), root, &key, 1, &removed);
		CHECK(!ret || ret == -EIO || ret == BTREE_UNMENDED);
		failures += ret != 0;
		sum += removed;
	} while (ret < 0);
	CHECK(sum == 1);
}

static int see(void *arg, const struct btree_row *row)
{
	unsigned int *seen = arg;
	const struct btree_entry expected = entry_of(KEPT * (*seen)++);

	CHECK(row->key_length == expected.key_length);
	CHECK(!memcmp(row->key, expected.key, expected.key_length));
	CHECK(row->value_length == expected.value_length);
	CHECK(!memcmp(row->value, expected.value, expected.value_length));
	return 0;
}

static int count(void *arg, const struct btree_row *row)
{
	(void)row;
	return ++*(unsigned int *)arg, 0;
}

static void check_rest(unsigned int *last)
{
	struct btree_cursor cursor = { .root = root };
	unsigned int left = 0;

	CHECK(!btree_scan(exdb_worker_at(db, 0), &cursor, count, &left));
	CHECK(left <= *last);
	*last = left;
}

/* What is left is a tree each time, that of the last rows, until it has none. */
static void give_back(unsigned int faults)
{
	unsigned int left = ROWS;
	int ret;

	do {
		period = faults;
		ret = btree_trim(exdb_worker_at(db, 0), root, false);
		period = 0;
		CHECK(ret >= 0 || ret == -EIO);
		failures += ret < 0;
		check_no_latch();
		/* not after a failure: it would evict what the next try wants */
		if (ret >= 0)
			check_rest(&left);
	} while (ret);
	CHECK(!left);
	/* the root stays, and the directory with the catalog and the runs */
	CHECK(db->nr_free == db->next_page - 1 - 6);
}

int main(int argc, char **argv)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = 1,
		.create = 1,
		.pool_pages = EXDB_POOL_MIN,
		.level = EXDB_SYNC,
		.data_pages = 16384,
		.log_pages = EXDB_LOG_MIN,
	};
	struct btree_cursor cursor = { 0 };
	unsigned int i, faults, seen = 0;
	uint64_t page;

	CHECK(argc == 3);
	config.backing_fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(config.backing_fd >= 0);
	CHECK(!exdb_open(&config, &db, &page));
	CHECK(!btree_create(exdb_worker_at(db, 0), &root));
	faults = strtoul(argv[2], NULL, 10);
	period = faults;
	for (i = 0; i < ROWS; i++)
		insert(i * STEP % ROWS);
	check_no_latch();
	CHECK(failures > 100);
	failures = 0;
	for (i = 0; i < ROWS; i++)
		if (i * STEP % ROWS % KEPT)
			delete(i * STEP % ROWS);
	check_no_latch();
	CHECK(failures > 100);
	CHECK(db->nr_free > db->next_page / 2);
	period = 0;
	cursor.root = root;
	CHECK(!btree_scan(exdb_worker_at(db, 0), &cursor, see, &seen));
	CHECK(seen == ROWS / KEPT);
	check_no_latch();
	failures = 0;
	give_back(faults);
	CHECK(failures);
	exdb_close(db);
	close(config.backing_fd);
	puts("ok");
	return 0;
}
