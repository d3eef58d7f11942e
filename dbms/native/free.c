// SPDX-License-Identifier: MIT
/*
 * Pages that trees have given up: a list through the pages themselves, whose
 * head is in page 0.  They are ordinary pages to the clock.
 */
#include <errno.h>

#include "buffer.h"

static int unlink_first(struct exdb_worker *w, uint64_t number, void **out)
{
	struct exdb *db = w->db;
	const struct free_page *first;
	int ret = buffer_fix_exclusive(w, number, out);

	if (ret)
		return ret;
	first = *out;
	if (first->header.type != PAGE_FREE) {
		buffer_unfix_exclusive(w, number, false);
		w->error_page = number;
		return -EUCLEAN;
	}
	__atomic_store_n(&db->free_page, first->next, __ATOMIC_RELAXED);
	__atomic_store_n(&db->nr_free, db->nr_free - 1, __ATOMIC_RELAXED);
	return 1;
}

int free_list_take(struct exdb_worker *w, uint64_t *page, void **out)
{
	*page = w->db->free_page;
	return *page ? unlink_first(w, *page, out) : 0;
}

void buffer_release(struct exdb_worker *w, uint64_t page, void *mem)
{
	struct exdb *db = w->db;
	struct free_page *freed = mem;

	page_init(mem, page, PAGE_FREE, 0);
	freed->next = db->free_page;
	__atomic_store_n(&db->free_page, page, __ATOMIC_RELAXED);
	__atomic_store_n(&db->nr_free, db->nr_free + 1, __ATOMIC_RELAXED);
	buffer_unfix_exclusive(w, page, true);
}
