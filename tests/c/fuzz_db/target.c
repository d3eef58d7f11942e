// SPDX-License-Identifier: MIT
/*
 * Databases with pages that no writer wrote: every call on them ends, with a result or with one of
 * the errors that exdb.h names.  LLVMFuzzerTestOneInput() is what libFuzzer and AFL call; main.c
 * calls it without them.
 *
 * An input is a byte that chooses the target, then 8 bytes for each change: which page, where in
 * it, how, and a value.  Checksums are made right again afterwards, or no change would get far.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../db_setup.h"
#include "buffer.h"
#include "exmap_user.h"
#include "latch.h"
#include "log.h"
#include "meta.h"
#include "node.h"

#define ROWS		240u
#define BATCH		40u
#define TEXT		200u
#define TABLES		2u
#define LARGE		100000u	/* bytes of values, the largest of which have pages of their own */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct change {
	uint16_t page;
	uint16_t offset;
	uint8_t how;
	uint8_t width;
	uint16_t value;
};

/* A database as a kill left it: what input after input changes a copy of. */
static uint8_t *image;
static size_t image_size;
static struct exdb_layout *layouts[TABLES];
static uint32_t trees[TABLES];

static int named(int ret)
{
	static const int errors[] = { EBADMSG, EUCLEAN, EILSEQ, EROFS, ENOTRECOVERABLE, ENOBUFS,
				      ENOSPC, EEXIST, ENOENT, EMSGSIZE, ESTALE, E2BIG, EPROTONOSUPPORT };
	size_t i;

	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (ret == -errors[i])
			return ret;
	if (ret < 0) {
		fprintf(stderr, "unnamed error %d: %s\n", ret, strerror(-ret));
		abort();
	}
	return ret;
}

static int open_db(int fd, bool create, struct exdb **db)
{
	const struct exdb_config config = {
		.backing_fd = fd,
		.backend = EXMAP_BACKEND_POSIX,
		.workers = 1,
		.create = create,
		.level = EXDB_ASYNC,
		.interval = 1000000,
		.pool_pages = 2 * EXDB_POOL_MIN,
		.data_pages = 2048,
		.log_pages = EXDB_LOG_MIN,
	};
	uint64_t page;

	return exdb_open(&config, db, &page);
}

/* One with numbers as keys and an index, one whose keys are long texts and make high trees. */
static void make_layouts(const struct exdb *db, uint32_t index)
{
	static const struct exdb_column numbers[] = { { .type = EXDB_INT64 }, { .type = EXDB_TEXT },
						      { .type = EXDB_INT32 }, { .type = EXDB_BYTES } };
	static const struct exdb_column texts[] = { { .type = EXDB_TEXT }, { .type = EXDB_FLOAT64 } };
	static const uint32_t first = 0, indexed[] = { 2, 1 };

	layouts[0] = exdb_layout_new(4, numbers, 1, &first, 0, exdb_schema(db));
	layouts[1] = exdb_layout_new(2, texts, 1, &first, 0, exdb_schema(db));
	CHECK(layouts[0] && layouts[1]);
	CHECK(!exdb_layout_add_index(layouts[0], index, false, 2, indexed));
}

struct batch {
	int64_t keys[BATCH];
	int32_t numbers[BATCH];
	double floats[BATCH];
	int32_t offsets[BATCH + 1];
	int32_t room[BATCH + 1];
	int32_t ends[BATCH + 1];
	uint8_t valid[BATCH];
	char texts[BATCH * TEXT];
	char large[LARGE];
	char more[2 * LARGE];
	int32_t more_room[BATCH + 1];
	char bytes[64 * BATCH * TEXT];
};

static struct batch batch;

static void columns_of(unsigned int table, struct exdb_vector *columns)
{
	struct exdb_vector text = { .values = batch.texts, .offsets = batch.offsets };
	struct exdb_vector large = { .values = batch.large, .offsets = batch.ends };

	if (table)
		memcpy(columns, (struct exdb_vector[]){ text, { .values = batch.floats } },
		       2 * sizeof(*columns));
	else
		memcpy(columns, (struct exdb_vector[]){ { .values = batch.keys }, text,
							{ .values = batch.numbers }, large },
		       4 * sizeof(*columns));
}

static void make_batch(unsigned int first, unsigned int step)
{
	unsigned int i;

	for (i = 0; i <= BATCH; i++)
		batch.ends[i] = (int32_t)(i * i * (LARGE / (BATCH * BATCH)));
	for (i = 0; i < BATCH; i++) {
		const unsigned int key = first + i * step;

		batch.keys[i] = key;
		batch.numbers[i] = (int32_t)(key * 2654435761u);
		batch.floats[i] = key / 3.0;
		batch.offsets[i + 1] = batch.offsets[i] + (int32_t)TEXT;
		memset(batch.texts + i * TEXT, 'k', TEXT);
		snprintf(batch.texts + (i + 1) * TEXT - 8, 8, "%07u", key);
	}
}

static int insert_batch(struct exdb_worker *w, unsigned int table)
{
	struct exdb_vector columns[4];
	uint64_t row;

	columns_of(table, columns);
	return exdb_table_insert(w, NULL, layouts[table], trees[table], columns, BATCH, true, &row);
}

static int delete_batch(struct exdb_worker *w, unsigned int table)
{
	struct exdb_vector columns[4];
	uint64_t deleted;

	columns_of(table, columns);
	return exdb_table_delete(w, NULL, layouts[table], trees[table], columns, BATCH, &deleted);
}

/* Some of it in the image of a checkpoint, some in the log, and pages that are free. */
static void fill(struct exdb_worker *w)
{
	unsigned int table, from;

	for (table = 0; table < TABLES; table++) {
		for (from = 0; from < ROWS; from += BATCH) {
			make_batch(from, 1);
			CHECK(!insert_batch(w, table));
		}
		make_batch(BATCH, 1);
		CHECK(!delete_batch(w, table));
	}
	CHECK(!exdb_checkpoint(w));
	for (table = 0; table < TABLES; table++) {
		make_batch(ROWS, 3);
		CHECK(!insert_batch(w, table));
		make_batch(1, 2);
		CHECK(!delete_batch(w, table));
	}
}

static void make_image(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct exdb_worker *w;
	struct exdb *db;
	uint32_t index;
	off_t size;

	CHECK(fd >= 0);
	CHECK(!open_db(fd, true, &db));
	w = exdb_worker_at(db, 0);
	index = make_table(w);
	trees[0] = make_table(w);
	trees[1] = make_table(w);
	make_layouts(db, index);
	fill(w);
	exdb_close(db);
	size = lseek(fd, 0, SEEK_END);
	CHECK(size > 0 && !(size % PAGE_SIZE));
	image_size = (size_t)size;
	image = malloc(image_size);
	CHECK(image && pread(fd, image, image_size, 0) == size);
	close(fd);
}

static void apply(uint8_t *page, const struct change *c)
{
	static const uint64_t special[] = { 0, 1, 2, 64, 4095, 4096, 0xffff, 0x7fffffff, 0xffffffff,
					    UINT64_MAX };
	/* headers and slots are where it hurts */
	unsigned int width = 1u << c->width % 4, range = c->how & 1 ? 160 : PAGE_SIZE;
	unsigned int offset = c->offset % (range - width + 1);
	uint64_t value = c->value;

	if (c->how & 2)
		value = special[c->value % (sizeof(special) / sizeof(special[0]))];
	if (c->how & 4) {
		memcpy(&value, page + offset, width);
		value += c->value & 1 ? c->value % 8 : -(uint64_t)(c->value % 8);
	}
	if (c->how & 8)
		offset &= ~(width - 1);
	memcpy(page + offset, &value, width);
}

static void seal_log(uint8_t *pages)
{
	const struct meta_page *meta = (const void *)pages;
	struct log log = { .size = (uint64_t)meta->log_blocks * PAGE_SIZE, .id = meta->log_id };
	uint8_t *ring = pages + META_COPIES * PAGE_SIZE;
	uint64_t lsn = meta->state.lsn;

	if (!log.size || log.size > image_size - META_COPIES * PAGE_SIZE || lsn % 8)
		return;
	while (lsn % log.size + sizeof(struct log_record) <= log.size) {
		struct log_record *record = (void *)(ring + lsn % log.size);
		uint64_t room = log.size - lsn % log.size - sizeof(*record);

		if (record->lsn != lsn || !record->length || record->length > room)
			return;
		record->crc = log_checksum(&log, record, (const uint8_t *)(record + 1));
		lsn += log_record_size(record->length);
	}
}

/* What the map says of the pages that it names. */
static void note_checksums(uint8_t *pages, struct map_page *map)
{
	size_t i;

	for (i = 0; i < MAP_SLOTS; i++) {
		const uint64_t block = map->slots[i].block;

		if (block < META_COPIES || block >= image_size / PAGE_SIZE)
			continue;
		if (!map->slots[i].raw)
			page_seal(pages + block * PAGE_SIZE);
		map->slots[i].crc = clock_slot(pages + block * PAGE_SIZE, 0, map->slots[i].raw).crc;
	}
}

static void seal(uint8_t *pages)
{
	size_t i;

	/* the second copy of page 0 is the same, or it would be taken for the better one */
	memcpy(pages + PAGE_SIZE, pages, PAGE_SIZE);
	for (i = 0; i < image_size / PAGE_SIZE; i++) {
		struct page_header *header = (void *)(pages + i * PAGE_SIZE);

		if (header->magic == PAGE_MAGIC && header->type == PAGE_MAP)
			note_checksums(pages, (struct map_page *)header);
		if (header->magic == PAGE_MAGIC)
			page_seal(header);
	}
	seal_log(pages);
}

static void scan(struct exdb_worker *w, unsigned int table, bool by_index, bool reverse)
{
	const struct exdb_key low = { 0 };
	struct exdb_vector columns[4];
	struct exdb_scan *s;
	unsigned int turns = 0;
	long n;

	columns_of(table, columns);
	columns[table ? 0 : 1].values = batch.bytes;
	columns[table ? 0 : 1].offsets = batch.room;
	columns[table ? 0 : 1].capacity = sizeof(batch.bytes);
	columns[0].valid = batch.valid;
	if (!table)
		columns[3] = (struct exdb_vector){
			.values = batch.more,
			.offsets = batch.more_room,
			.capacity = sizeof(batch.more),
		};
	if (by_index)
		s = exdb_index_scan_new(NULL, layouts[table], trees[table], 0, &low, NULL, 8, reverse);
	else
		s = exdb_scan_new(NULL, layouts[table], trees[table], &low, NULL, 8, reverse);
	CHECK(s);
	do
		n = named((int)exdb_scan_next(w, s, columns, BATCH));
	while (n > 0 && ++turns < 1000);
	/* a tree has as many rows as pages can hold, whatever they say */
	CHECK(turns < 1000);
	exdb_scan_free(s);
}

static void look_at_frozen(struct exdb_worker *w)
{
	static uint8_t page[PAGE_SIZE] __attribute__((aligned(4096)));
	uint8_t kind;
	struct exdb_freeze *freeze;
	uint64_t i;

	if (named(exdb_freeze(w, &freeze)))
		return;
	scan(exdb_freeze_worker(freeze), 0, false, false);
	for (i = 1; i < 8; i++)
		if (exdb_freeze_load(freeze, i, 1, page, &kind) == -EINVAL)
			break;
	exdb_thaw(freeze);
}

static void use(struct exdb_worker *w)
{
	struct exdb_check result;
	unsigned int table;

	named(exdb_check(w, &result));
	for (table = 0; table < TABLES; table++) {
		scan(w, table, false, false);
		scan(w, table, false, true);
		make_batch(7, 5);
		named(insert_batch(w, table));
		make_batch(2, 6);
		named(delete_batch(w, table));
	}
	scan(w, 0, true, false);
	look_at_frozen(w);
	named(exdb_checkpoint(w));
	named(exdb_check(w, &result));
}

static int fuzz_database(const struct change *changes, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	uint8_t *pages;
	struct exdb *db;
	size_t i;

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)image_size));
	pages = mmap(NULL, image_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(pages != MAP_FAILED);
	memcpy(pages, image, image_size);
	for (i = 0; i < n; i++)
		apply(pages + changes[i].page % (image_size / PAGE_SIZE) * PAGE_SIZE, &changes[i]);
	seal(pages);
	CHECK(!munmap(pages, image_size));
	if (!named(open_db(fd, false, &db))) {
		use(exdb_worker_at(db, 0));
		exdb_close(db);
	}
	close(fd);
	return 0;
}

/* A page of its own memory, where the address sanitizer sees the smallest step beyond. */
static struct node *copy_of_a_node(unsigned int number)
{
	struct node *node = malloc(PAGE_SIZE);
	size_t i, n = image_size / PAGE_SIZE;

	CHECK(node);
	for (i = 0; i < n; i++) {
		const struct page_header *header = (const void *)(image + (number + i) % n * PAGE_SIZE);

		if (header->magic == PAGE_MAGIC && (header->type == PAGE_LEAF || header->type == PAGE_INNER))
			break;
	}
	memcpy(node, image + (number + i) % n * PAGE_SIZE, PAGE_SIZE);
	return node;
}

static void use_node(struct node *node)
{
	static const uint8_t key[] = "kkkkkkkkkkkkk0000100";
	const uint64_t child = 7;
	struct node *right = malloc(PAGE_SIZE);
	struct exdb_key copied;
	struct fence separator;
	unsigned int i, at;
	bool found;

	CHECK(right);
	node_init(right, 3, node->header.level);
	node_upper_bound(node, key, 3);
	for (i = 0; i < node->count; i++)
		node_copy_key(&copied, node, i);
	if (node->count > 3) {
		i = node_middle(node);
		CHECK(i && i < node->count);
		node_remove(node, 1);
	}
	at = node_lower_bound(node, key, sizeof(key), &found);
	if (!found && node_fits(node, key, sizeof(key), sizeof(child), 0))
		node_insert(node, at, key, sizeof(key), &child, sizeof(child));
	if (node_is_leaf(node) && node->count) {
		node_move_tail(node, node->count / 2, right, found ? NULL : key, sizeof(key));
		if (node->count)
			node_squeeze(node, NULL, 0, 0);
		if (btree_leaves_fit(node, right))
			btree_join_leaves(node, right);
		else
			btree_balance_leaves(node, right, &separator);
	}
	free(right);
}

static int fuzz_node(const struct change *changes, size_t n)
{
	struct node *node = copy_of_a_node(n ? changes[0].page : 0);
	size_t i;

	for (i = 0; i < n; i++)
		apply((uint8_t *)node, &changes[i]);
	if (node_is_sound(node))
		use_node(node);
	free(node);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct change changes[16];
	size_t n;

	if (!image)
		make_image();
	if (!size)
		return 0;
	n = (size - 1) / sizeof(changes[0]);
	n = n < 16 ? n : 16;
	memcpy(changes, data + 1, n * sizeof(changes[0]));
	return data[0] % 4 ? fuzz_node(changes, n) : fuzz_database(changes, n);
}
