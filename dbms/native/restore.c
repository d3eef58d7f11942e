// SPDX-License-Identifier: MIT
/* Pages of a backup into a database that was just made; nobody else uses it. */
#include <errno.h>
#include <string.h>

#include "trees.h"

/* A page that has no header is new, and may have no content. */
static int put_raw(struct exdb_worker *w, uint64_t page, const uint8_t *from, bool unused)
{
	struct exdb *db = w->db;
	int ret = page == db->next_page ? 0 : -EUCLEAN;

	if (!ret && page >= db->data_pages)
		ret = -ENOSPC;
	if (!ret)
		ret = map_extend(w, page);
	if (ret)
		return ret;
	__atomic_store_n(&db->next_page, page + 1, __ATOMIC_RELEASE);
	return unused ? 0 : buffer_fill_raw(w, page, from, PAGE_SIZE);
}

static int put_page(struct exdb_worker *w, uint64_t page, const uint8_t *from, uint8_t kind)
{
	struct exdb *db = w->db;
	const struct page_header *header = (const struct page_header *)from;
	uint64_t number = page;
	void *mem;
	int ret;

	if (kind != EXDB_PAGE_NODE)
		return put_raw(w, page, from, kind == EXDB_PAGE_UNUSED);
	if (header->magic != PAGE_MAGIC || header->number != page)
		return -EBADMSG;
	if (page > db->next_page)
		return -EUCLEAN;
	if (page == db->next_page)
		ret = buffer_allocate(w, &number, &mem);
	else
		ret = buffer_fix_exclusive(w, page, &mem);
	if (ret)
		return ret;
	memcpy(mem, from, PAGE_SIZE);
	buffer_unfix_exclusive(w, page, true);
	return 0;
}

int exdb_restore_pages(struct exdb_worker *w, uint64_t first, uint64_t n, const void *pages,
		       const uint8_t *kinds)
{
	struct exdb *db = w->db;
	uint64_t i;
	int ret = 0;

	pthread_mutex_lock(&db->commit);
	for (i = 0; i < n && !ret; i++) {
		const uint8_t *from = (const uint8_t *)pages + i * PAGE_SIZE;

		w->error_page = first + i;
		ret = put_page(w, first + i, from, kinds[i]);
	}
	pthread_mutex_unlock(&db->commit);
	return ret;
}

int exdb_restore_end(struct exdb_worker *w, uint64_t free_page, uint64_t nr_free)
{
	struct exdb *db = w->db;
	int ret;

	pthread_mutex_lock(&db->commit);
	db->free_page = free_page;
	db->nr_free = nr_free;
	ret = directory_load(w);
	pthread_mutex_unlock(&db->commit);
	return ret ? ret : checkpoint_run(w, CHECKPOINT_ALWAYS);
}
