// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "extent.h"

static int fail(struct exdb_worker *w, uint64_t page, int error)
{
	w->error_page = page;
	return error;
}

/* Copy @n pages' worth of bytes, @length of them, from where they are. */
static int copy_window(struct exdb_worker *w, uint64_t first, unsigned int n, size_t length,
		       uint8_t *out)
{
	uint64_t pages[PREFETCH_MAX] = { 0 };
	unsigned int i, fixed;
	int ret;

	for (i = 0; i < n; i++)
		pages[i] = first + i;
	ret = buffer_prefetch(w, pages, n);
	for (fixed = 0; fixed < n && !ret; fixed += !ret)
		ret = buffer_fix_raw(w, first + fixed);
	if (!ret)
		memcpy(out, exmap_page(w->db->ex, first), length);
	while (fixed)
		buffer_unfix_shared(w, first + --fixed);
	return ret;
}

int extent_read(struct exdb_worker *w, const struct extent_ref *ref, uint8_t *out)
{
	const uint64_t end = __atomic_load_n(&w->db->next_page, __ATOMIC_RELAXED);
	const unsigned int window = w->db->prefetch;
	uint64_t page = ref->page, n = extent_pages(ref->length);
	size_t left = ref->length;
	int ret = 0;

	if (w->resident_only)
		return -EAGAIN;
	if (!page || !n || page >= end || n > end - page)
		return fail(w, page, -EUCLEAN);
	if (w->view)
		return freeze_read_raw(w, page, left, out);
	while (left && !ret) {
		const unsigned int pages = n < window ? (unsigned int)n : window;
		const size_t length = left < pages * PAGE_SIZE ? left : pages * PAGE_SIZE;

		ret = copy_window(w, page, pages, length, out);
		page += pages;
		n -= pages;
		out += length;
		left -= length;
	}
	/* the row's leaf is as it should be: it is this page that is not */
	return ret == -EUCLEAN ? -EBADMSG : ret;
}

static int write_extent(struct exdb_worker *w, uint64_t page, const uint8_t *from, size_t left)
{
	int ret = 0;

	while (left && !ret) {
		const size_t window = (size_t)w->db->prefetch * PAGE_SIZE;
		const size_t length = left < window ? left : window;

		ret = buffer_fill_raw(w, page, from, length);
		page += w->db->prefetch;
		from += length;
		left -= length;
	}
	return ret;
}

int extent_place(struct exdb_worker *w, uint8_t *value, unsigned int value_length,
		 unsigned int nr_large, const uint8_t *large)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < nr_large && !ret; i++) {
		struct extent_ref ref = extent_ref_at(value, value_length, nr_large, i);

		ret = runs_take(w, extent_pages(ref.length), &ref.page);
		if (ret)
			return ret;
		/* also if writing it fails: then it has a place, and is released with the others */
		memcpy(value + value_length - (nr_large - i) * sizeof(ref), &ref, sizeof(ref));
		ret = write_extent(w, ref.page, large, ref.length);
		large += ref.length;
	}
	return ret;
}

int extent_release(struct exdb_worker *w, const uint8_t *value, unsigned int value_length,
		   unsigned int nr_large)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < nr_large && !ret; i++) {
		const struct extent_ref ref = extent_ref_at(value, value_length, nr_large, i);
		const uint64_t n = extent_pages(ref.length), end = w->db->next_page;

		if (!ref.page)
			continue;
		if (!n || ref.page >= end || n > end - ref.page)
			return fail(w, ref.page, -EUCLEAN);
		ret = buffer_discard_raw(w, ref.page, n);
		if (!ret)
			ret = runs_give(w, ref.page, n);
	}
	return ret;
}

int extent_note_dropped(struct exdb *db, const struct btree_row *row)
{
	struct dropped *dropped = &db->dropped;
	const size_t size = row->nr_large * sizeof(struct extent_ref);
	struct extent_ref *grown;

	if (!row->nr_large)
		return 0;
	if (dropped->nr + row->nr_large > dropped->room) {
		const size_t room = 2 * dropped->room + row->nr_large + 64;

		grown = realloc(dropped->refs, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		dropped->refs = grown;
		dropped->room = room;
	}
	memcpy(dropped->refs + dropped->nr, row->value + row->value_length - size, size);
	dropped->nr += row->nr_large;
	return 0;
}

int extent_drop_all(struct exdb_worker *w)
{
	struct dropped *dropped = &w->db->dropped;
	int ret = 0;

	while (dropped->nr && !ret)
		ret = extent_release(w, (const uint8_t *)&dropped->refs[--dropped->nr],
				     sizeof(*dropped->refs), 1);
	return ret;
}
