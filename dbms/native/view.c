// SPDX-License-Identifier: MIT
/*
 * Reading a freeze: pages that nobody has changed since where they are, under a shared
 * latch; others that were resident from the snapshot, and the rest from the blocks that
 * they had, through a small cache.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "freeze.h"
#include "node.h"
#include "state.h"

/* Where a page was, from the frozen map. */
static int frozen_slot(struct exdb_freeze *f, uint64_t page, struct map_slot *slot)
{
	const struct map *map = &f->db->map;
	const uint64_t place = map->first + page / MAP_SLOTS;
	uint64_t offset = place * PAGE_SIZE + offsetof(struct map_page, slots);
	long ret;

	offset += page % MAP_SLOTS * sizeof(*slot);
	ret = exmap_snapshot_pread(f->snap, slot, sizeof(*slot), offset);
	if (ret < 0)
		return ret;
	return ret == sizeof(*slot) ? 0 : -EUCLEAN;
}

/* Whether a page was free, of a tree, or of an extent: enum exdb_page_kind, or -errno. */
static int kind_of(struct exdb_freeze *f, uint64_t page, struct map_slot *slot)
{
	const bool mapped = EXMAP_RES_MAPPED(f->words[page]);
	int ret = frozen_slot(f, page, slot);

	if (ret)
		return ret;
	if (!mapped && !slot->block)
		return EXDB_PAGE_UNUSED;
	/* the map may say what the page was before it became dirty */
	if (mapped && state_of(f->states[page]) != STATE_EVICTED)
		return f->states[page] & STATE_RAW ? EXDB_PAGE_RAW : EXDB_PAGE_NODE;
	return slot->raw ? EXDB_PAGE_RAW : EXDB_PAGE_NODE;
}

/* A page, which has to be of this kind. */
static int load(struct exdb_freeze *f, uint64_t page, enum exdb_page_kind kind, void *mem)
{
	struct map_slot slot;
	unsigned int done;
	uint32_t block;
	int ret = kind_of(f, page, &slot);

	if (ret < 0 || (unsigned int)ret != kind)
		return ret < 0 ? ret : -EUCLEAN;
	if (EXMAP_RES_MAPPED(f->words[page]))
		return exdb_freeze_read(f, page, mem);
	block = slot.block;
	ret = disk_read(f->db->backing_fd, &block, &mem, 1, &done);
	if (ret)
		return ret == -ENXIO ? -EUCLEAN : ret;
	count_up(&f->worker.counts.read, 1);
	return map_verify(slot, mem, page);
}

int exdb_freeze_load(struct exdb_freeze *f, uint64_t first, uint64_t n, void *out, uint8_t *kinds)
{
	struct map_slot slot;
	uint64_t i;
	int ret = 0;

	if (!first || first > f->count || n > f->count - first)
		return -EINVAL;
	for (i = 0; i < n && !ret; i++) {
		struct page_header *header = (void *)((uint8_t *)out + i * PAGE_SIZE);

		f->worker.error_page = first + i;
		ret = kind_of(f, first + i, &slot);
		if (ret < 0)
			break;
		kinds[i] = ret;
		memset(header, 0, PAGE_SIZE);
		ret = kinds[i] == EXDB_PAGE_UNUSED ? 0 : load(f, first + i, kinds[i], header);
		if (kinds[i] == EXDB_PAGE_NODE)
			header->crc = 0;
	}
	return ret;
}

static struct cached *find(struct exdb_freeze *f, uint64_t page)
{
	unsigned int i;

	/* a scan asks for the same page, or the next one of those read ahead */
	if (f->cache[f->last].page == page)
		return &f->cache[f->last];
	for (i = 1; i <= ALL_PAGES; i++) {
		const unsigned int place = (f->last + i) % ALL_PAGES;

		if (f->cache[place].page == page) {
			f->last = place;
			return &f->cache[place];
		}
	}
	return NULL;
}

static void *content_of(struct exdb_freeze *f, const struct cached *slot)
{
	return f->memory + (slot - f->cache) * PAGE_SIZE;
}

/* A place that nobody has pinned, and that was not used lately. */
static struct cached *find_victim(struct exdb_freeze *f)
{
	unsigned int steps;

	for (steps = 0; steps < 3 * CACHE_PAGES; steps++) {
		struct cached *slot = &f->cache[f->hand++ % CACHE_PAGES];

		if (slot->pins)
			continue;
		if (!slot->used)
			return slot;
		slot->used = false;
	}
	return NULL;
}

/* Whether the live page is what was frozen; for sure only for who has latched it. */
static bool is_unchanged(const struct exdb_freeze *f, uint64_t page, uint64_t v)
{
	return !((v ^ f->states[page]) & STATE_VERSION) && state_of(v) != STATE_EVICTED &&
	       state_of(v) != STATE_EXCLUSIVE;
}

/* The pin that we have of a live page, or else a free one. */
static struct live_pin *find_pin(struct exdb_freeze *f, uint64_t page)
{
	struct live_pin *pin, *unused = NULL;

	for (pin = f->live; pin < f->live + LIVE_PINS; pin++) {
		if (pin->pins && pin->page == page)
			return pin;
		if (!pin->pins)
			unused = pin;
	}
	return unused;
}

/*
 * Latch the live page: 1, 0 if it has changed, which it has for good then.  So nobody has a
 * page latched here and pinned in the cache as well.
 */
static int fix_live(struct exdb_worker *w, uint64_t page, const void **out)
{
	struct exdb_freeze *f = w->view;
	uint64_t *word = page_state(f->db, page);
	struct live_pin *pin = find_pin(f, page);

	if (!pin)
		return -ENOBUFS;
	while (!pin->pins) {
		const uint64_t v = state_load(word);

		if (!is_unchanged(f, page, v))
			return 0;
		if (state_try_shared(word, v))
			break;
		if (state_of(v) == STATE_SHARED_LAST)
			sched_yield();
	}
	pin->page = page;
	pin->pins++;
	count_up(&w->counts.hits, 1);
	*out = exmap_page(f->db->ex, page);
	return 1;
}

static int fix_cached(struct exdb_worker *w, uint64_t page, const void **out)
{
	struct exdb_freeze *f = w->view;
	struct cached *slot = find(f, page);
	int ret;

	if (!slot) {
		slot = find_victim(f);
		if (!slot)
			return -ENOBUFS;
		slot->page = 0;
		ret = load(f, page, EXDB_PAGE_NODE, content_of(f, slot));
		if (ret)
			return ret;
		slot->page = page;
	}
	slot->pins++;
	slot->used = true;
	*out = content_of(f, slot);
	return 0;
}

int freeze_fix(struct exdb_worker *w, uint64_t page, const void **out)
{
	int ret;

	w->error_page = page;
	if (!page || page >= w->view->count)
		return -EUCLEAN;
	ret = fix_live(w, page, out);
	if (ret)
		return ret < 0 ? ret : 0;
	return fix_cached(w, page, out);
}

void freeze_unfix(struct exdb_worker *w, uint64_t page)
{
	struct live_pin *pin = find_pin(w->view, page);

	if (!pin || !pin->pins)
		find(w->view, page)->pins--;
	else if (!--pin->pins)
		state_release_shared(page_state(w->db, page));
}

/* Pages that follow one another, all resident or none. */
static unsigned int run_length(const struct exdb_freeze *f, const uint64_t *pages, unsigned int n)
{
	const bool mapped = EXMAP_RES_MAPPED(f->words[pages[0]]);
	unsigned int i;

	for (i = 1; i < n; i++)
		if ((mapped && pages[i] != pages[0] + i) ||
		    EXMAP_RES_MAPPED(f->words[pages[i]]) != mapped)
			break;
	return i;
}

/* How many of a run were read, into the places from @slot on. */
static unsigned int read_run(struct exdb_freeze *f, const uint64_t *pages, unsigned int n,
			     struct cached *slot)
{
	struct map_slot slots[AHEAD_PAGES];
	uint32_t blocks[AHEAD_PAGES];
	void *memory[AHEAD_PAGES];
	unsigned int i, done = 0;
	long ret;

	if (EXMAP_RES_MAPPED(f->words[pages[0]])) {
		ret = exmap_snapshot_pread(f->snap, content_of(f, slot), n * PAGE_SIZE,
					   pages[0] * PAGE_SIZE);
		return ret < 0 ? 0 : ret / PAGE_SIZE;
	}
	for (i = 0; i < n && !frozen_slot(f, pages[i], &slots[i]) && !slots[i].raw; i++) {
		blocks[i] = slots[i].block;
		memory[i] = content_of(f, slot + i);
	}
	disk_read(f->db->backing_fd, blocks, memory, i, &done);
	count_up(&f->worker.counts.read, done);
	for (i = 0; i < done && !map_verify(slots[i], memory[i], pages[i]); i++)
		;
	return i;
}

/* Whether the places for pages read ahead are free; what was in them is forgotten then. */
static bool forget_ahead(struct exdb_freeze *f)
{
	unsigned int i;

	for (i = CACHE_PAGES; i < ALL_PAGES; i++)
		if (f->cache[i].pins)
			return false;
	for (i = CACHE_PAGES; i < ALL_PAGES; i++)
		f->cache[i].page = 0;
	return true;
}

/* Whether a page has to be read from elsewhere than where it is. */
static bool is_elsewhere(const struct exdb_freeze *f, uint64_t page)
{
	return page && page < f->count && !is_unchanged(f, page, state_load(page_state(f->db, page)));
}

/* Those that are not there yet, ascending. */
static unsigned int absent(struct exdb_freeze *f, const uint64_t *pages, unsigned int n,
			   uint64_t *out)
{
	unsigned int i, nr = 0;

	for (i = 0; i < n && nr < AHEAD_PAGES; i++)
		if (is_elsewhere(f, pages[i]) && !find(f, pages[i]))
			out[nr++] = pages[i];
	buffer_sort_pages(out, nr);
	return nr;
}

void freeze_prefetch(struct exdb_worker *w, const uint64_t *pages, unsigned int n)
{
	struct exdb_freeze *f = w->view;
	struct cached *slot = &f->cache[CACHE_PAGES];
	uint64_t wanted[AHEAD_PAGES];
	unsigned int i, j, nr, length, done;

	while (n && !is_elsewhere(f, *pages)) {
		pages++;
		n--;
	}
	/* what was read ahead serves until it is used up */
	if (!n || find(f, *pages) || !forget_ahead(f))
		return;
	nr = absent(f, pages, n, wanted);
	for (i = 0; i < nr; i += length) {
		length = run_length(f, wanted + i, nr - i);
		done = read_run(f, wanted + i, length, slot);
		for (j = 0; j < done; j++, slot++)
			slot->page = wanted[i + j];
	}
	count_up(&w->counts.prefetched, slot - &f->cache[CACHE_PAGES]);
}

/* The page itself, if it has not changed since: 1. */
static bool copy_live(const struct exdb_freeze *f, uint64_t page, size_t length, uint8_t *out)
{
	uint64_t *word = page_state(f->db, page);
	uint64_t v = state_load(word);

	while (is_unchanged(f, page, v) && !state_try_shared(word, v))
		v = state_load(word);
	if (!is_unchanged(f, page, v))
		return false;
	memcpy(out, exmap_page(f->db->ex, page), length);
	state_release_shared(word);
	return true;
}

/* Whether a page is on the disk only. */
static bool is_absent(const struct exdb_freeze *f, uint64_t page)
{
	return page < f->count && !EXMAP_RES_MAPPED(f->words[page]) &&
	       !is_unchanged(f, page, state_load(page_state(f->db, page)));
}

/* Pages from @page on that are on the disk, up to @n, by one request where they are neighbours. */
static int copy_absent(struct exdb_freeze *f, uint64_t page, unsigned int n, size_t length,
		       uint8_t *out)
{
	struct map_slot slots[BOUNCE_PAGES];
	uint8_t *bounce = f->memory + ALL_PAGES * PAGE_SIZE;
	uint32_t blocks[BOUNCE_PAGES] = { 0 };
	void *memory[BOUNCE_PAGES] = { NULL };
	unsigned int i, done;
	int ret = 0;

	for (i = 0; i < n && !ret; i++) {
		f->worker.error_page = page + i;
		ret = kind_of(f, page + i, &slots[i]);
		ret = ret == EXDB_PAGE_RAW ? 0 : ret < 0 ? ret : -EUCLEAN;
		blocks[i] = slots[i].block;
		memory[i] = bounce + i * PAGE_SIZE;
	}
	if (!ret)
		ret = disk_read(f->db->backing_fd, blocks, memory, n, &done);
	if (ret)
		return ret == -ENXIO ? -EBADMSG : ret;
	count_up(&f->worker.counts.read, n);
	for (i = 0; i < n && !ret; i++) {
		f->worker.error_page = page + i;
		ret = map_verify(slots[i], memory[i], page + i);
	}
	memcpy(out, bounce, length);
	return ret;
}

int freeze_read_raw(struct exdb_worker *w, uint64_t page, size_t length, uint8_t *out)
{
	struct exdb_freeze *f = w->view;
	const unsigned int pages = (length + PAGE_SIZE - 1) / PAGE_SIZE;
	const uint64_t end = page + pages;
	struct map_slot slot;
	int ret = end <= f->count ? 0 : -EUCLEAN;

	while (page < end && !ret) {
		size_t part = length < PAGE_SIZE ? length : PAGE_SIZE;
		unsigned int n = 0;

		w->error_page = page;
		while (n < BOUNCE_PAGES && page + n < end && is_absent(f, page + n))
			n++;
		if (n) {
			part = length < n * PAGE_SIZE ? length : n * PAGE_SIZE;
			ret = copy_absent(f, page, n, part, out);
		} else {
			ret = kind_of(f, page, &slot) == EXDB_PAGE_RAW ? 0 : -EUCLEAN;
			if (!ret && !copy_live(f, page, part, out) &&
			    exmap_snapshot_pread(f->snap, out, part, page * PAGE_SIZE) != (long)part)
				ret = -EIO;
		}
		page += n ? n : 1;
		out += part;
		length -= part;
	}
	return ret;
}
