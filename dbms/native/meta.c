// SPDX-License-Identifier: MIT
/*
 * Page 0.  It is latched exclusively as long as the database is open and
 * changes under meta_lock.  There is no log yet: `state` tells a database that
 * was closed (or checkpointed, and not written to since) from one whose pages
 * may contradict each other.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"

#define META_FORMAT	1u

enum meta_state {
	META_CLOSED = 1,
	META_OPEN = 2,
};

/**
 * struct meta_page - page 0 of the backing
 * @header: as in every page
 * @format: META_FORMAT
 * @page_size: 4096
 * @state: enum meta_state
 * @reserved: 0
 * @next_page: the first page that was never allocated
 * @free_page: the first page of the free list, 0 for none
 * @nr_free: its length
 */
struct meta_page {
	struct page_header header;
	uint32_t format;
	uint32_t page_size;
	uint32_t state;
	uint32_t reserved;
	uint64_t next_page;
	uint64_t free_page;
	uint64_t nr_free;
};

static_assert(sizeof(struct meta_page) == 72, "on-disk format");

static struct meta_page *meta_of(const struct exdb *db)
{
	return exmap_page(db->ex, 0);
}

/* Write page 0, and wait until everything that was written is on the disk. */
static int write_meta(struct exdb_worker *w, enum meta_state state)
{
	struct meta_page *meta = meta_of(w->db);
	const uint64_t page = 0;
	long ret;

	w->error_page = 0;
	meta->state = state;
	meta->next_page = __atomic_load_n(&w->db->next_page, __ATOMIC_ACQUIRE);
	meta->free_page = __atomic_load_n(&w->db->free_page, __ATOMIC_RELAXED);
	meta->nr_free = __atomic_load_n(&w->db->nr_free, __ATOMIC_RELAXED);
	page_seal(meta);
	ret = exmap_vector(w->db->ex, w->itf, EXMAP_OP_WRITE, &page, 1, 0, NULL);
	if (ret < 0)
		return ret;
	w->counts.written++;
	return fdatasync(w->db->backing_fd) ? -errno : 0;
}

int meta_mark_open(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	int ret = 0;

	if (!__atomic_load_n(&db->clean, __ATOMIC_ACQUIRE))
		return 0;
	pthread_mutex_lock(&db->meta_lock);
	if (db->clean)
		ret = write_meta(w, META_OPEN);
	if (!ret)
		__atomic_store_n(&db->clean, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&db->meta_lock);
	return ret;
}

int meta_mark_closed(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	int ret = 0;

	if (fdatasync(db->backing_fd)) {
		w->error_page = 0;
		return -errno;
	}
	pthread_mutex_lock(&db->meta_lock);
	if (!db->clean)
		ret = write_meta(w, META_CLOSED);
	if (!ret)
		__atomic_store_n(&db->clean, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&db->meta_lock);
	return ret;
}

/* Whether 4096 bytes look like page 0 of a database. */
int exdb_probe(const void *page)
{
	const struct meta_page *meta = page;

	return meta->header.magic == PAGE_MAGIC && meta->header.type == PAGE_META;
}

static int check_meta(struct exdb_worker *w)
{
	const struct meta_page *meta = meta_of(w->db);
	struct exmap_info info = { 0 };
	int ret = page_verify(meta, 0);

	if (ret)
		return ret;
	if (meta->header.type != PAGE_META || meta->format != META_FORMAT ||
	    meta->page_size != PAGE_SIZE)
		return -EPROTONOSUPPORT;
	if (meta->state != META_CLOSED)
		return -EUCLEAN;
	ret = exmap_info(w->db->ex, &info);
	if (ret)
		return ret;
	if (meta->next_page > info.backing_pages || meta->next_page > w->db->ex->region_pages) {
		w->error_page = info.backing_pages;
		return -EUCLEAN;
	}
	if (meta->free_page < meta->next_page)
		return 0;
	w->error_page = meta->free_page;
	return -EUCLEAN;
}

static int make_meta(struct exdb_worker *w)
{
	struct meta_page *meta = meta_of(w->db);

	page_init(meta, 0, PAGE_META, 0);
	meta->format = META_FORMAT;
	meta->page_size = PAGE_SIZE;
	w->db->next_page = 1;
	return write_meta(w, META_OPEN);
}

int meta_open(struct exdb_worker *w, bool create)
{
	struct exdb *db = w->db;
	const uint64_t page = 0;
	long ret;

	w->error_page = 0;
	state_try_exclusive(page_state(db, page), 0);
	db->used = 1;
	ret = exmap_vector(db->ex, w->itf, create ? EXMAP_OP_ALLOC : EXMAP_OP_READ, &page, 1, 0,
			   NULL);
	if (ret < 0)
		return ret == -ENXIO ? -EUCLEAN : ret;
	if (create)
		return make_meta(w);
	w->counts.read++;
	ret = check_meta(w);
	if (ret)
		return ret;
	db->next_page = meta_of(db)->next_page;
	db->free_page = meta_of(db)->free_page;
	db->nr_free = meta_of(db)->nr_free;
	db->clean = 1;
	return 0;
}
