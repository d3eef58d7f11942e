// SPDX-License-Identifier: MIT
/* Rows by way of an index: some entries first, then the rows they lead to, with no latch in between. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "table.h"

#define FOUND_MAX	64u

/* An entry that was found: its own key, and that of the row. */
struct lead {
	struct exdb_key entry;
	struct exdb_key row;
};

/**
 * struct found - entries whose rows have not been read yet
 * @index: of the table
 * @tree: of its rows
 * @nr: entries
 * @next: the first that was not used
 * @leads: entries
 */
struct found {
	const struct row_index *index;
	uint32_t tree;
	unsigned int nr;
	unsigned int next;
	struct lead leads[FOUND_MAX];
};

struct exdb_scan *exdb_index_scan_new(struct exdb_txn *txn, const struct exdb_layout *layout,
				      uint32_t tree, uint32_t index, const struct exdb_key *low,
				      const struct exdb_key *high, uint32_t prefetch, bool reverse)
{
	struct exdb_scan *scan = exdb_scan_new(txn, layout, layout->indexes[index].tree, low, high,
					       prefetch, reverse);

	if (!scan)
		return NULL;
	scan->found = calloc(1, sizeof(*scan->found));
	if (!scan->found) {
		free(scan);
		return NULL;
	}
	scan->found->index = &layout->indexes[index];
	scan->found->tree = tree;
	return scan;
}

void index_scan_free(struct found *found)
{
	free(found);
}

uint32_t index_scan_rows(const struct found *found)
{
	return found->tree;
}

static int take_entry(struct sink *sink, const struct btree_row *row)
{
	struct found *found = sink->scan->found;
	struct lead *lead = &found->leads[found->nr];
	int ret;

	if (found->nr == FOUND_MAX || found->nr == sink->room)
		return 1;
	ret = index_row_key(row, &lead->row);
	if (ret)
		return ret;
	lead->entry.length = row->key_length;
	memcpy(lead->entry.bytes, row->key, row->key_length);
	found->nr++;
	return 0;
}

static int find_entries(struct exdb_worker *w, struct exdb_scan *scan, uint64_t wanted)
{
	struct sink sink = { .take = take_entry, .room = wanted, .scan = scan };
	int ret;

	scan->found->nr = 0;
	scan->found->next = 0;
	ret = scan_tree(w, scan, &sink);
	return ret < 0 ? ret : 0;
}

/* Outside of a transaction the row may have changed since its entry was read. */
static int take_if_current(struct sink *sink, const struct btree_row *row)
{
	const struct lead *lead = sink->arg;
	struct index_entry entry;
	int ret = index_encode(sink->w, sink->layout, sink->scan->found->index, row, &entry);

	if (ret)
		return ret;
	if (key_compare(entry.key.bytes, entry.key.length, lead->entry.bytes, lead->entry.length))
		return 0;
	return sink_decode(sink, row);
}

long index_scan_next(struct exdb_worker *w, struct exdb_scan *scan, struct sink *sink)
{
	struct found *found = scan->found;
	int ret = 0;

	sink->take = take_if_current;
	sink->scan = scan;
	while (!ret && sink->rows < sink->room) {
		if (found->next == found->nr) {
			ret = find_entries(w, scan, sink->room - sink->rows);
			if (ret || !found->nr)
				break;
			continue;
		}
		sink->arg = &found->leads[found->next];
		ret = table_find(w, scan->txn, found->tree, &found->leads[found->next].row, NULL,
				 sink);
		if (ret == -ENOENT)
			ret = 0;
		found->next += !ret;
	}
	if (ret < 0)
		return ret;
	return ret && !sink->rows ? -EMSGSIZE : (long)sink->rows;
}

/* The worker and the index that is filled. */
struct filling {
	struct exdb_worker *w;
	uint32_t index;
};

static int fill_row(struct sink *sink, const struct btree_row *row)
{
	const struct filling *filling = sink->arg;

	return index_add(filling->w, sink->scan->txn, sink->layout, filling->index, row);
}

static int count_row(struct sink *sink, const struct btree_row *row)
{
	(void)row;
	return sink->rows++ == sink->room;
}

/* The key of the row behind the next @rows: 1, or 0 if there is none. */
static int find_end(struct exdb_worker *w, uint32_t tree, const struct exdb_key *from,
		    uint64_t rows, struct exdb_key *end)
{
	struct exdb_scan scan = { .tree = tree, .cursor = { .low = *from } };
	struct sink sink = { .take = count_row, .room = rows };
	int ret = scan_tree(w, &scan, &sink);

	*end = scan.cursor.low;
	return ret ? ret : !scan.cursor.done;
}

int exdb_index_fill(struct exdb_worker *w, struct exdb_txn *txn, const struct exdb_layout *layout,
		    uint32_t tree, uint32_t index, struct exdb_key *from, uint64_t rows)
{
	struct filling filling = { .w = w, .index = index };
	struct exdb_scan *scan;
	struct exdb_key end;
	int ret, more = 0;

	if (rows)
		more = find_end(w, tree, from, rows, &end);
	if (more < 0)
		return more;
	/* what others insert behind the end is no conflict */
	scan = exdb_scan_new(txn, layout, tree, from, more ? &end : NULL, 64, false);
	if (!scan)
		return -ENOMEM;
	do {
		struct sink sink = { .take = fill_row, .layout = layout, .scan = scan,
				     .arg = &filling };

		ret = scan_tree(w, scan, &sink);
	} while (!ret && !scan->cursor.done);
	exdb_scan_free(scan);
	if (more)
		*from = end;
	return ret ? ret : more;
}

uint64_t exdb_index_rows(const struct exdb *db)
{
	/* an operation, a key, and a value that may have the row's key */
	const uint64_t entry = 16 + 2 * (uint64_t)EXDB_KEY_MAX + sizeof(uint16_t);

	return log_record_max(&db->log) / entry;
}
