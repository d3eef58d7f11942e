/* SPDX-License-Identifier: MIT */
#ifndef EXDB_TABLE_H
#define EXDB_TABLE_H

#include "row.h"
#include "txn.h"

/* A row that nobody has latched. */
struct row_copy {
	struct btree_row row;
	uint8_t bytes[EXDB_ROW_MAX];
};

/* -EUCLEAN for an -ESTALE that no change of the catalog explains: a row of columns that never were. */
int table_error(const struct exdb_worker *w, const struct exdb_layout *layout, int ret);

struct sink;

/* Whether the transaction sees a row with this key: 1, and the sink has taken it; 0, or -errno. */
int table_take(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct btree_entry *entry, struct sink *sink);

/* The same, and a copy of it unless NULL; of a table the copy's large values may be gone. */
int table_sees(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct btree_entry *entry, struct row_copy *copy);

typedef int (*sink_fn)(struct sink *sink, const struct btree_row *row);

/**
 * struct sink - rows on their way out
 * @w: who reads
 * @take: what happens to each: 0, 1 if there is no room for it, or -errno
 * @layout: of the table
 * @columns: where they go
 * @rows: that have come
 * @room: rows at most
 * @scan: if own keys are to be merged
 * @arg: of @take
 */
struct sink {
	struct exdb_worker *w;
	sink_fn take;
	const struct exdb_layout *layout;
	struct exdb_vector *columns;
	uint64_t rows;
	uint64_t room;
	struct exdb_scan *scan;
	void *arg;
};

/**
 * struct exdb_scan - a scan of a table, or of an index
 * @txn: the transaction that it belongs to, or NULL
 * @layout: of the table
 * @tree: its rows, or the entries
 * @cursor: where it is
 * @low: the first key that is wanted
 * @high: and the first that is not, if @bounded
 * @bounded: see @high
 * @begun: rows have been asked for
 * @own_done: what own keys come next is before or behind @own_last
 * @own_last: the last own key that was looked at
 * @found: entries of an index whose rows come next, or NULL: it is a scan of a table
 */
struct exdb_scan {
	struct exdb_txn *txn;
	const struct exdb_layout *layout;
	uint32_t tree;
	struct btree_cursor cursor;
	struct exdb_key low;
	struct exdb_key high;
	bool bounded;
	bool begun;
	bool own_done;
	struct exdb_key own_last;
	struct found *found;
};

/* The next rows of a tree, as the transaction sees it if there is one. */
int scan_tree(struct exdb_worker *w, struct exdb_scan *scan, struct sink *sink);

/* The row with this key, as the transaction sees it; -ENOENT, or what the sink says.  @hint: or NULL. */
int table_find(struct exdb_worker *w, struct exdb_txn *txn, uint32_t tree,
	       const struct exdb_key *key, const struct btree_hint *hint, struct sink *sink);

int sink_decode(struct sink *sink, const struct btree_row *row);

/* index_scan.c: as exdb_scan_next. */
long index_scan_next(struct exdb_worker *w, struct exdb_scan *scan, struct sink *sink);
void index_scan_free(struct found *found);
/* The tree of the rows. */
uint32_t index_scan_rows(const struct found *found);

#endif /* EXDB_TABLE_H */
