// SPDX-License-Identifier: MIT
/*
 * Power losses: every write and flush of a run is recorded (-Wl,--wrap of the
 * disk's functions), and states of the disk are made of them as a crash might
 * leave it.  What was written before a flush began that has ended is there; any
 * other write is there, or not, or torn, by sectors of 512 bytes.
 *
 *	db_power FILE SEED COMMITS CRASHES
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commit.h"

#define EVENTS	200000u
#define SECTOR	512u
#define KEYS	400u	/* those of one writer; more pages than frames */
#define WRITERS	2u
#define PART	3u	/* keys that one transaction changes */

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

enum event_kind {
	EVENT_WRITE,
	EVENT_SYNC,
	EVENT_ACK,
};

/* @begin: for a flush the events before it began; for an acknowledgement, the writer. */
struct event {
	enum event_kind kind;
	uint64_t offset;
	size_t size;
	uint8_t *data;
	size_t begin;
	uint64_t number;
};

static struct event events[EVENTS];
static size_t nr_events;
static bool recording;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t tree;

static void record(struct event event)
{
	pthread_mutex_lock(&lock);
	CHECK(nr_events < EVENTS);
	if (recording)
		events[nr_events++] = event;
	pthread_mutex_unlock(&lock);
}

static void record_write(const void *data, size_t size, uint64_t offset)
{
	struct event event = { .kind = EVENT_WRITE, .offset = offset, .size = size };

	if (!recording)
		return;
	event.data = malloc(size);
	CHECK(event.data);
	memcpy(event.data, data, size);
	record(event);
}

int __real_disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		      unsigned int *done);
int __wrap_disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		      unsigned int *done);
int __real_disk_write_bytes(int fd, const void *data, size_t size, uint64_t offset);
int __wrap_disk_write_bytes(int fd, const void *data, size_t size, uint64_t offset);
int __real_disk_sync(int fd);
int __wrap_disk_sync(int fd);

/* A write counts from its end, when a flush that begins later covers it. */
int __wrap_disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		      unsigned int *done)
{
	int ret = __real_disk_write(fd, blocks, pages, n, done);
	unsigned int i;

	for (i = 0; i < n; i++)
		record_write(pages[i], PAGE_SIZE, (uint64_t)blocks[i] * PAGE_SIZE);
	return ret;
}

int __wrap_disk_write_bytes(int fd, const void *data, size_t size, uint64_t offset)
{
	int ret = __real_disk_write_bytes(fd, data, size, offset);

	record_write(data, size, offset);
	return ret;
}

int __wrap_disk_sync(int fd)
{
	struct event event = { .kind = EVENT_SYNC };

	(void)fd; /* the real one would only cost time */
	pthread_mutex_lock(&lock);
	event.begin = nr_events;
	pthread_mutex_unlock(&lock);
	record(event);
	return 0;
}

static struct exdb *open_db(const char *path, bool create, int *fd)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = WRITERS,
		.create = create,
		.level = EXDB_SYNC,
		.pool_pages = EXDB_POOL_MIN,
		.data_pages = 4096,
		.log_pages = EXDB_LOG_MIN,
	};
	struct exdb *db = NULL;
	uint64_t page;
	int ret;

	*fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(*fd >= 0);
	config.backing_fd = *fd;
	ret = exdb_open(&config, &db, &page);
	if (ret)
		fprintf(stderr, "open: %s, page %ld\n", strerror(-ret), (long)page);
	CHECK(!ret);
	return db;
}

/* Every key has the number of the transaction that changed it last, and a pad. */
struct value {
	uint64_t number;
	uint8_t pad[300];
};

static uint32_t key_of(unsigned int writer, uint64_t number, unsigned int i)
{
	return __builtin_bswap32(writer * KEYS + (number * PART + i) * 7 % KEYS);
}

struct writer {
	pthread_t thread;
	struct exdb_worker *w;
	unsigned int index;
	unsigned int commits;
};

static void *run(void *arg)
{
	const struct writer *writer = arg;
	uint64_t number;

	for (number = 1; number <= writer->commits; number++) {
		struct value value = { .number = number };
		struct op_list ops = { 0 };
		struct commit_result result;
		unsigned int i;

		for (i = 0; i < PART; i++) {
			uint32_t key = key_of(writer->index, number, i);
			const struct btree_entry entry = {
				.key = (const uint8_t *)&key,
				.value = (const uint8_t *)&value,
				.key_length = sizeof(key),
				.value_length = sizeof(value),
			};

			CHECK(!op_list_add(&ops, OP_PUT, tree, &entry));
		}
		CHECK(!commit(writer->w, &ops, &result));
		op_list_free(&ops);
		record((struct event){
			.kind = EVENT_ACK, .begin = writer->index, .number = number });
	}
	return NULL;
}

static void work(struct exdb *db, unsigned int commits)
{
	struct writer writers[WRITERS];
	unsigned int i;

	for (i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){
			.w = exdb_worker_at(db, i), .index = i, .commits = commits };
		CHECK(!pthread_create(&writers[i].thread, NULL, run, &writers[i]));
	}
	for (i = 0; i < WRITERS; i++)
		CHECK(!pthread_join(writers[i].thread, NULL));
}

static void apply_torn(int fd, const struct event *event, unsigned int *seed)
{
	size_t at;

	for (at = 0; at < event->size; at += SECTOR)
		if (rand_r(seed) % 2)
			CHECK(pwrite(fd, event->data + at, SECTOR, event->offset + at) == SECTOR);
}

/* The disk as the crash after @n events leaves it; what was acknowledged by then. */
static void crash(const char *path, size_t n, unsigned int *seed, uint64_t *acknowledged)
{
	size_t i, durable = 0;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	memset(acknowledged, 0, WRITERS * sizeof(*acknowledged));
	for (i = 0; i < n; i++) {
		if (events[i].kind == EVENT_SYNC && events[i].begin > durable)
			durable = events[i].begin;
		if (events[i].kind == EVENT_ACK)
			acknowledged[events[i].begin] = events[i].number;
	}
	for (i = 0; i < n; i++) {
		const struct event *event = &events[i];
		unsigned int fate = i < durable ? 0 : rand_r(seed) % 3;

		if (event->kind != EVENT_WRITE || fate == 1)
			continue;
		if (fate == 2)
			apply_torn(fd, event, seed);
		else
			CHECK(pwrite(fd, event->data, event->size, event->offset) ==
			      (ssize_t)event->size);
	}
	close(fd);
}

static int see(void *arg, const struct btree_row *row)
{
	uint64_t *seen = arg;
	uint32_t key;

	CHECK(row->value_length == sizeof(struct value));
	memcpy(&key, row->key, sizeof(key));
	memcpy(&seen[__builtin_bswap32(key)], row->value, sizeof(*seen));
	return 0;
}

/* The state of a writer's keys is that after one of its transactions, and not before @least. */
static void check_writer(const uint64_t *seen, unsigned int writer, uint64_t least)
{
	uint64_t expected[KEYS] = { 0 }, last = 0, number;
	unsigned int i;

	for (i = 0; i < KEYS; i++)
		last = seen[i] > last ? seen[i] : last;
	CHECK(last >= least);
	for (number = 1; number <= last; number++)
		for (i = 0; i < PART; i++)
			expected[__builtin_bswap32(key_of(0, number, i))] = number;
	CHECK(!memcmp(seen, expected, sizeof(expected)));
	(void)writer;
}

static void check(const char *path, const uint64_t *acknowledged)
{
	uint64_t seen[WRITERS * KEYS] = { 0 };
	struct btree_cursor cursor = { 0 };
	unsigned int i;
	int fd;
	struct exdb *db = open_db(path, false, &fd);

	cursor.root = tree_root(db, tree);
	CHECK(!btree_scan(exdb_worker_at(db, 0), &cursor, see, seen));
	for (i = 0; i < WRITERS; i++)
		check_writer(seen + i * KEYS, i, acknowledged[i]);
	exdb_close(db);
	close(fd);
}

int main(int argc, char **argv)
{
	uint64_t acknowledged[WRITERS];
	unsigned int seed, commits, crashes, i;
	size_t first;
	struct exdb *db;
	int fd;

	CHECK(argc == 5);
	seed = strtoul(argv[2], NULL, 10);
	commits = strtoul(argv[3], NULL, 10);
	crashes = strtoul(argv[4], NULL, 10);
	recording = true;
	db = open_db(argv[1], true, &fd);
	CHECK(!exdb_table_create(exdb_worker_at(db, 0), &tree));
	first = nr_events;
	work(db, commits);
	CHECK(db->checkpoints > 3);
	recording = false;
	exdb_close(db);
	close(fd);
	for (i = 0; i < crashes; i++) {
		size_t n = first + rand_r(&seed) % (nr_events - first);

		crash(argv[1], n, &seed, acknowledged);
		check(argv[1], acknowledged);
	}
	for (i = 0; i < nr_events; i++)
		free(events[i].data);
	printf("ok, %zu events\n", nr_events);
	return 0;
}
