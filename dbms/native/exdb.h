/* SPDX-License-Identifier: MIT */
/*
 * exmapdb: the native core, as Python sees it.
 *
 * One struct exdb is an open database; one struct exdb_worker is a channel for
 * one thread at a time (it owns an exmap interface, counters and scratch
 * memory).  Functions return 0 (or a count) or -errno; the numbers beyond what
 * the system says are
 *
 *	-EBADMSG	a page's checksum, magic or number is wrong
 *	-EUCLEAN	the structure is wrong: a page that does not exist
 *	-EILSEQ		the log is damaged where it had been on the disk
 *	-EROFS		an earlier error (exdb_failure) has made the database
 *			read-only: open it again
 *	-ENOTRECOVERABLE this call was that error, after its record had gone to
 *			the log: whether it counts is known when it is opened again
 *	-ECANCELED	the transaction has read what another one has changed since
 *	-E2BIG		the transaction is too large for the log
 *	-ENOBUFS	every frame of the pool is latched
 *	-ENOSPC		the region, or the disk, is full
 *	-EEXIST		the key exists
 *	-ENOENT		the key does not exist
 *	-EMSGSIZE	a key is too large, or a row has too many large values; or there is no room for
 *			a text: exdb_vector.needed says how much there should be
 *	-EDOM		NaN in a key
 *	-ESTALE		the catalog has changed since the layout was made
 *	-ENFILE		there are EXDB_TREES_MAX trees
 *	-EAGAIN		see exdb_resident_worker
 *	-ENOTUNIQ	another row has the same values; exdb_error_index says in which index
 *
 * After -EBADMSG, -EUCLEAN and errors of I/O exdb_error_page names the page;
 * exdb_open names UINT64_MAX if it failed before any page.
 * The Python build reads the declarations below as they stand.
 */
#ifndef EXDB_H
#define EXDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct exdb;
struct exdb_worker;
struct exdb_layout;
struct exdb_scan;
struct exdb_freeze;
struct exdb_txn;

enum exdb_type {
	EXDB_INT32 = 1,
	EXDB_INT64 = 2,
	EXDB_FLOAT64 = 3,
	EXDB_TEXT = 4,
	EXDB_DATE = 5,
	EXDB_TIMESTAMP = 6,
	EXDB_BOOL = 7,
	EXDB_BYTES = 8,
	EXDB_DECIMAL = 9,
};

enum exdb_limit {
	EXDB_PAGE_SIZE = 4096,
	EXDB_KEY_MAX = 512,
	EXDB_ROW_MAX = 992,
	EXDB_VALUE_MAX = 1 << 30,
	EXDB_LARGE_MAX = 64,
	EXDB_POOL_MIN = 32,
	EXDB_WORKERS_MAX = 64,
	EXDB_TREES_MAX = 65536,
	EXDB_TABLES_TREE = 1,
	EXDB_COLUMNS_TREE = 2,
	EXDB_INDEXES_TREE = 3,
	EXDB_LOG_MIN = 64,
	EXDB_COLUMNS_MAX = 256,
	EXDB_VERSION_MAX = 255,
	EXDB_INDEXES_MAX = 16,
	EXDB_INDEX_COLUMNS_MAX = 16,
};

/* What exdb_freeze_load says of a page: nothing is in it, or it has a header, or it is of an extent. */
enum exdb_page_kind {
	EXDB_PAGE_UNUSED = 0,
	EXDB_PAGE_NODE = 1,
	EXDB_PAGE_RAW = 2,
};

enum exdb_durability {
	EXDB_SYNC = 1,
	EXDB_GROUP = 2,
	EXDB_ASYNC = 3,
};

/*
 * data_pages: pages that trees may have; backing_pages: length of a device, 0 for
 * a file, which grows; log_pages: length of the log of a new database; level: enum
 * exdb_durability; interval: microseconds between flushes if that is async, else
 * those that a flush waits for company if it is group.
 */
struct exdb_config {
	int32_t backing_fd;
	uint32_t backend;
	uint32_t workers;
	uint32_t create;
	uint32_t level;
	uint32_t interval;
	uint64_t pool_pages;
	uint64_t data_pages;
	uint64_t backing_pages;
	uint64_t log_pages;
};

struct exdb_stats {
	uint64_t hits;
	uint64_t misses;
	uint64_t prefetched;
	uint64_t pages_read;
	uint64_t pages_written;
	uint64_t evicted;
	uint64_t eviction_batches;
	uint64_t checkpoints;
	uint64_t tlb_flushes;
	uint64_t rescues;
	uint64_t pool_pages;
	uint64_t resident_pages;
	uint64_t region_pages;
	uint64_t allocated_pages;
	uint64_t free_pages;
	uint64_t commits;
	uint64_t recovered;
	uint64_t log_bytes;
	uint64_t log_flushes;
	uint64_t free_blocks;
	uint32_t backend;
	uint32_t workers;
};

struct exdb_freeze_stats {
	uint64_t pages;
	uint64_t copied;
	uint64_t nanoseconds;
	uint64_t count;
	uint64_t free_page;
	uint64_t nr_free;
};

struct exdb_check {
	uint64_t trees;
	uint64_t tree_pages;
	uint64_t free_pages;
	uint64_t extent_pages;
	uint64_t stored_pages;
	uint64_t rows;
};

struct exdb_vector {
	void *values;
	uint8_t *valid;
	int32_t *offsets;
	uint64_t capacity;
	uint64_t needed;
};

struct exdb_column {
	uint8_t type;
	uint8_t added;
	uint8_t dropped;
};

struct exdb_key {
	uint32_t length;
	uint8_t bytes[512];
};

int exdb_open(const struct exdb_config *config, struct exdb **out, uint64_t *error_page);
void exdb_close(struct exdb *db);
struct exdb_worker *exdb_worker_at(struct exdb *db, uint32_t index);
/*
 * A channel for exdb_table_get without a transaction, which neither waits nor reads: -EAGAIN if a page
 * is not resident, or latched.
 */
struct exdb_worker *exdb_resident_worker(struct exdb *db);
/* The index that -ENOTUNIQ was about, counted as they were added to the layout. */
uint32_t exdb_error_index(const struct exdb_worker *w);
uint64_t exdb_error_page(const struct exdb_worker *w);
int exdb_checkpoint(struct exdb_worker *w);
/* The last checkpoint, after which nothing is committed: call exdb_close. */
int exdb_shutdown(struct exdb_worker *w);
int exdb_stats(struct exdb *db, struct exdb_stats *stats);

/* The error that has made the database read-only, or 0; UINT64_MAX is no page. */
int exdb_failure(const struct exdb *db, uint64_t *page);

/* Check every structure; writers wait.  -EUCLEAN or -EBADMSG and a page if one is wrong. */
int exdb_check(struct exdb_worker *w, struct exdb_check *result);

/* A page as it was written last; -ENOENT if it never was.  For looking at, when nothing changes. */
int exdb_stored_page(struct exdb_worker *w, uint64_t page, void *out);

/*
 * Keep all pages as they are, until thaw; there may be several.  Half the pool is left
 * to copies meanwhile, so that writers do not run it dry, and less to what comes after
 * others.  -EBUSY if those leave too little of the pool, -ENOBUFS if too many pages are
 * latched.  Thaw before exdb_close.
 */
int exdb_freeze(struct exdb_worker *w, struct exdb_freeze **out);
void exdb_thaw(struct exdb_freeze *freeze);
/*
 * A channel that sees the tables as they were then, for exdb_table_get and exdb_scan_next
 * without a transaction; one thread at a time uses it.
 */
struct exdb_worker *exdb_freeze_worker(struct exdb_freeze *freeze);
/* What exdb_schema was. */
uint64_t exdb_freeze_schema(const struct exdb_freeze *freeze);
/* Those that were resident, ascending; @pages has room for exdb_freeze_stats.pages numbers. */
void exdb_freeze_pages(const struct exdb_freeze *freeze, uint64_t *pages);
/* One page, by copy; -ENOENT if it was not resident. */
int exdb_freeze_read(const struct exdb_freeze *freeze, uint64_t page, void *out);
/*
 * @n pages from @first on, resident or not, as they are on the disk but for their
 * checksums, which are 0, and what they are.  The page that an error is about: exdb_error_page of
 * exdb_freeze_worker.
 */
int exdb_freeze_load(struct exdb_freeze *freeze, uint64_t first, uint64_t n, void *out,
		     uint8_t *kinds);
/*
 * Set the bits of pages, of as many as @freeze has, that may have changed since an older freeze of the
 * database; whole bytes are written.  -ENODATA if what is needed for that was lost.
 */
int exdb_freeze_diverged(const struct exdb_freeze *freeze, const struct exdb_freeze *since,
			 uint8_t *bits);
/*
 * Pages of a freeze into a database that was just made, from page 1 on, and then what exdb_freeze_stats
 * said of the free list.
 */
int exdb_restore_pages(struct exdb_worker *w, uint64_t first, uint64_t n, const void *pages,
		       const uint8_t *kinds);
int exdb_restore_end(struct exdb_worker *w, uint64_t free_page, uint64_t nr_free);
int exdb_freeze_stats(const struct exdb_freeze *freeze, struct exdb_freeze_stats *stats);

int exdb_probe(const void *page);

/* Grows with each change of the catalog; read it before the catalog, for exdb_layout_new. */
uint64_t exdb_schema(const struct exdb *db);

/*
 * How rows lie.  @columns: all that there ever were, in the order in which they were added; added and dropped are
 * versions of the table's columns, dropped 0 if it is there.  @key: numbers of columns.
 * NULL if rows cannot fit.
 */
struct exdb_layout *exdb_layout_new(uint32_t n, const struct exdb_column *columns,
				    uint32_t key_columns, const uint32_t *key, uint32_t version,
				    uint64_t schema);
/* @columns: numbers among all columns.  -E2BIG. */
int exdb_layout_add_index(struct exdb_layout *layout, uint32_t tree, bool unique, uint32_t n,
			  const uint32_t *columns);
void exdb_layout_free(struct exdb_layout *layout);

void exdb_key_clear(struct exdb_key *key);
/* Make it the least key that is greater than all that begin with it. */
void exdb_key_next(struct exdb_key *key);
int exdb_key_put_byte(struct exdb_key *key, uint8_t value);
int exdb_key_put_int32(struct exdb_key *key, int32_t value);
int exdb_key_put_int64(struct exdb_key *key, int64_t value);
int exdb_key_put_float64(struct exdb_key *key, double value);
int exdb_key_put_text(struct exdb_key *key, const uint8_t *text, uint32_t length);

/*
 * A transaction of several calls; one thread at a time uses it, and its database
 * outlives it.  Commit tells whether it counts, and end gives it back either way.
 */
int exdb_txn_begin(struct exdb_worker *w, struct exdb_txn **out);
int exdb_txn_commit(struct exdb_worker *w, struct exdb_txn *txn);
/* 0, or -ECANCELED if commit would say so now. */
int exdb_txn_check(struct exdb_worker *w, const struct exdb_txn *txn);
void exdb_txn_end(struct exdb_txn *txn);
uint64_t exdb_txn_savepoint(const struct exdb_txn *txn);
/* Forget what was written since the savepoint; what was read since stays read. */
int exdb_txn_rollback(struct exdb_txn *txn, uint64_t savepoint);

/* The calls on tables: @txn is NULL for a transaction of its own. */
int exdb_table_create(struct exdb_txn *txn, uint32_t *tree);
/*
 * The tree is nobody's any more once the transaction has committed, which has to change the catalog after
 * this call.  Its pages stay until exdb_trees_free, or the next opening.
 */
int exdb_tree_drop(struct exdb_txn *txn, uint32_t tree);
/* Give back the pages of all trees that were dropped, in several transactions; the first error. */
int exdb_trees_free(struct exdb_worker *w);
int exdb_table_insert(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, bool replace,
		      uint64_t *row);
int exdb_table_delete(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		      const struct exdb_vector *columns, uint64_t rows, uint64_t *deleted);
int exdb_table_get(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		   const struct exdb_key *key, struct exdb_vector *columns);

/*
 * The rows of @rows keys, those that there are, in the order of the keys; how many.  @found says which.
 * -EMSGSIZE if the vectors have no room for one.
 */
long exdb_table_get_many(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
			 uint32_t tree, const struct exdb_vector *keys, uint64_t rows,
			 struct exdb_vector *columns, uint8_t *found);

/* A scan of a transaction ends before it does. */
struct exdb_scan *exdb_scan_new(struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
				const struct exdb_key *low, const struct exdb_key *high,
				uint32_t prefetch, bool reverse);
/* The rows of a table in the order of an index, from @low to @high in that of its entries' keys. */
struct exdb_scan *exdb_index_scan_new(struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
				      uint32_t index, const struct exdb_key *low,
				      const struct exdb_key *high, uint32_t prefetch, bool reverse);
/*
 * Write the entries of rows that were there before the index: of @rows from @from on, which is moved behind
 * them, or of all if that is 0.  1 if there are more.
 */
int exdb_index_fill(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout, uint32_t tree,
		    uint32_t index, struct exdb_key *from, uint64_t rows);
/* Rows whose entries in one index fit a transaction, whatever they have. */
uint64_t exdb_index_rows(const struct exdb *db);
void exdb_scan_free(struct exdb_scan *scan);
long exdb_scan_next(struct exdb_worker *w, struct exdb_scan *scan, struct exdb_vector *columns,
		    uint64_t rows);
/*
 * The same @n times: how many batches there were, and the rows of each.  The next one of @rows
 * is 0 if that was all, and UINT64_MAX if an error awaits who calls again.
 */
long exdb_scan_fill(struct exdb_worker *w, struct exdb_scan *scan, struct exdb_vector **batches,
		    uint64_t *rows, uint32_t n, uint64_t batch_rows);
/*
 * The same in a thread of the least priority, so that it takes from nobody else what processors do.
 * The database has one such thread: calls take turns.
 */
long exdb_scan_fill_background(struct exdb_worker *w, struct exdb_scan *scan,
			       struct exdb_vector **batches, uint64_t *rows, uint32_t n,
			       uint64_t batch_rows);

#endif /* EXDB_H */
