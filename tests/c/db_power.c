// SPDX-License-Identifier: MIT
/*
 * Power losses: every write and flush of a run is recorded (-Wl,--wrap of the
 * disk's functions), and states of the disk are made of them as a crash might
 * leave it.  What was written before a flush began that has ended is there; any
 * other write is there, or not, or torn, by sectors of 512 bytes.
 *
 * Every few crashes the run goes on from one of those states, and is recorded anew.
 *
 *	db_power FILE SEED COMMITS CRASHES [async]
 *
 * With async nothing waits for the log, and what counts as acknowledged is what a
 * checkpoint has covered: so nobody else's flush makes up for one that is missing there.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "commit.h"

#define EVENTS	200000u
#define SECTOR	512u
#define KEYS	400u	/* those of one writer; more pages than frames */
#define WRITERS	2u
#define PART	3u	/* keys that one transaction changes */
#define CHECKPOINT_EVERY	60u /* commits of one writer, with async */
#define LIVES	5u	/* runs, each from a state that a crash of the last one left */

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
static char *base; /* the disk as the run found it */
static size_t base_size;
static unsigned int checkpoints;
static bool async;
/* Events before block 0, and 1, had been written last, and before the last flush began. */
static size_t copies_written[2], synced;

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

	/* one copy of page 0 at a time is in danger */
	pthread_mutex_lock(&lock);
	if (recording && offset <= PAGE_SIZE)
		copies_written[offset / PAGE_SIZE] = nr_events + 1;
	CHECK(!recording || offset != PAGE_SIZE || synced >= copies_written[0]);
	pthread_mutex_unlock(&lock);
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
	/* commits overlap with checkpoints */
	usleep(100);
	record(event);
	pthread_mutex_lock(&lock);
	synced = event.begin > synced ? event.begin : synced;
	pthread_mutex_unlock(&lock);
	return 0;
}

void __real_block_reclaim(struct blocks *b, uint64_t epoch);
void __wrap_block_reclaim(struct blocks *b, uint64_t epoch);

/* Nothing of the last image is given up before both copies name the new one. */
void __wrap_block_reclaim(struct blocks *b, uint64_t epoch)
{
	pthread_mutex_lock(&lock);
	CHECK(!recording || (synced >= copies_written[0] && synced >= copies_written[1]));
	pthread_mutex_unlock(&lock);
	__real_block_reclaim(b, epoch);
}

static struct exdb *open_db(const char *path, bool create, int *fd)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = WRITERS,
		.create = create,
		.level = async ? EXDB_ASYNC : EXDB_SYNC,
		.interval = async ? 900000 : 0,
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

/* A key has the number of the transaction that changed it last, and a pad; or it was deleted. */
struct value {
	uint64_t number;
	uint8_t pad[700];
};

static unsigned int place_of(uint64_t number, unsigned int i)
{
	return (number * PART + i) * 7 % KEYS;
}

static bool is_delete(uint64_t number, unsigned int i)
{
	return i && (number / 16 + i) % 3 == 0;
}

static void add_op(struct op_list *ops, unsigned int writer, uint64_t number, unsigned int i)
{
	const struct value value = { .number = number };
	const uint32_t key = __builtin_bswap32(writer * KEYS + place_of(number, i));
	const bool delete = is_delete(number, i);
	const struct btree_entry entry = {
		.key = (const uint8_t *)&key,
		.value = (const uint8_t *)&value,
		.key_length = sizeof(key),
		.value_length = delete ? 0 : sizeof(number) + number * 37 % sizeof(value.pad),
	};

	CHECK(!op_list_add(ops, delete ? OP_DELETE : OP_PUT, tree, &entry));
}

struct writer {
	pthread_t thread;
	struct exdb_worker *w;
	unsigned int index;
	uint64_t first;
	unsigned int commits;
};

static void *run(void *arg)
{
	const struct writer *writer = arg;
	uint64_t number;

	for (number = writer->first; number < writer->first + writer->commits; number++) {
		struct op_list ops = { 0 };
		struct commit_result result;
		unsigned int i;

		for (i = 0; i < PART; i++)
			add_op(&ops, writer->index, number, i);
		CHECK(!commit(writer->w, &ops, NULL, &result));
		op_list_free(&ops);
		if (async && number % CHECKPOINT_EVERY)
			continue;
		if (async)
			CHECK(!exdb_checkpoint(writer->w));
		record((struct event){
			.kind = EVENT_ACK, .begin = writer->index, .number = number });
	}
	return NULL;
}

static void work(struct exdb *db, const uint64_t *last, unsigned int commits)
{
	struct writer writers[WRITERS];
	unsigned int i;

	for (i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){
			.w = exdb_worker_at(db, i),
			.index = i,
			.first = last[i] + 1,
			.commits = commits,
		};
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

static void write_base(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK(write(fd, base, base_size) == (ssize_t)base_size);
	close(fd);
}

/* The disk as the crash after @n events leaves it; what was acknowledged by then. */
static void crash(const char *path, size_t n, unsigned int *seed, uint64_t *acknowledged)
{
	size_t i, durable = 0;
	int fd;

	write_base(path);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0);
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

	CHECK(row->value_length >= sizeof(uint64_t));
	memcpy(&key, row->key, sizeof(key));
	memcpy(&seen[__builtin_bswap32(key)], row->value, sizeof(*seen));
	return 0;
}

/* The state of a writer's keys is that after one of its transactions, not before *last. */
static void check_writer(const uint64_t *seen, uint64_t *last)
{
	uint64_t expected[KEYS] = { 0 }, newest = 0, number;
	unsigned int i;

	for (i = 0; i < KEYS; i++)
		newest = seen[i] > newest ? seen[i] : newest;
	CHECK(newest >= *last);
	for (number = 1; number <= newest; number++)
		for (i = 0; i < PART; i++)
			expected[place_of(number, i)] = is_delete(number, i) ? 0 : number;
	CHECK(!memcmp(seen, expected, sizeof(expected)));
	*last = newest;
}

static void check(const char *path, uint64_t *last)
{
	uint64_t seen[WRITERS * KEYS] = { 0 };
	struct btree_cursor cursor = { 0 };
	unsigned int i;
	int fd;
	struct exdb *db = open_db(path, false, &fd);

	cursor.root = tree_root(exdb_worker_at(db, 0), tree);
	CHECK(!btree_scan(exdb_worker_at(db, 0), &cursor, see, seen));
	for (i = 0; i < WRITERS; i++)
		check_writer(seen + i * KEYS, &last[i]);
	exdb_close(db);
	close(fd);
}

static void remember_base(const char *path)
{
	int fd = open(path, O_RDONLY);

	CHECK(fd >= 0);
	base_size = lseek(fd, 0, SEEK_END);
	base = realloc(base, base_size + 1);
	CHECK(base && pread(fd, base, base_size, 0) == (ssize_t)base_size);
	close(fd);
}

static void forget_events(void)
{
	while (nr_events)
		free(events[--nr_events].data);
}

static void make_tree(struct exdb *db)
{
	struct exdb_worker *w = exdb_worker_at(db, 0);
	struct exdb_txn *txn;

	CHECK(!exdb_txn_begin(w, &txn));
	CHECK(!exdb_table_create(txn, &tree));
	CHECK(!exdb_txn_commit(w, txn));
	exdb_txn_end(txn);
	if (async)
		CHECK(!exdb_checkpoint(w));
}

/* One run; the first one makes the database. */
static size_t live(const char *path, const uint64_t *last, unsigned int commits, bool create)
{
	struct exdb *db;
	size_t first;
	int fd;

	forget_events();
	copies_written[0] = 0;
	copies_written[1] = 0;
	synced = 0;
	recording = true;
	db = open_db(path, create, &fd);
	if (create)
		make_tree(db);
	first = create ? nr_events : 1;
	work(db, last, commits);
	checkpoints += db->checkpoints;
	recording = false;
	exdb_close(db);
	close(fd);
	return first;
}

/* After how many events: anywhere, near the start, or near a write of page 0. */
static size_t choose(size_t first, unsigned int *seed)
{
	size_t n = first + rand_r(seed) % (nr_events - first);

	switch (rand_r(seed) % 3) {
	case 0:
		return first + rand_r(seed) % 60;
	case 1:
		while (n > first && (events[n].kind != EVENT_WRITE || events[n].offset))
			n--;
		return n + rand_r(seed) % 8 < nr_events ? n + rand_r(seed) % 8 : n;
	default:
		return n;
	}
}

int main(int argc, char **argv)
{
	uint64_t last[WRITERS] = { 0 }, acknowledged[WRITERS];
	unsigned int seed, commits, crashes, life, i;

	CHECK(argc == 5 || argc == 6);
	async = argc == 6;
	seed = strtoul(argv[2], NULL, 10);
	commits = strtoul(argv[3], NULL, 10);
	crashes = strtoul(argv[4], NULL, 10);
	remember_base("/dev/null");
	for (life = 0; life < LIVES; life++) {
		size_t first = live(argv[1], last, commits, !life);

		for (i = 0; i < crashes; i++) {
			memcpy(acknowledged, last, sizeof(last));
			crash(argv[1], choose(first, &seed), &seed, acknowledged);
			/* the last one's state before recovery is where the next life begins */
			if (i == crashes - 1)
				remember_base(argv[1]);
			check(argv[1], acknowledged);
		}
		memcpy(last, acknowledged, sizeof(last));
		write_base(argv[1]);
	}
	CHECK(checkpoints > LIVES * 3);
	forget_events();
	free(base);
	puts("ok");
	return 0;
}
