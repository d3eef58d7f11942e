// SPDX-License-Identifier: MIT
/*
 * The buffer manager when things go wrong, or get in between: libexmap's vectors
 * and writes are wrapped (-Wl,--wrap), and each case decides what a call does.
 *
 *	db_faults FILE CASE
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "check.h"
#include "node.h"
#include "wrap_io.h"

#define PAGES	200u	/* more than there are frames */

enum call {
	CALL_FREE,
	CALL_READ,
	CALL_WRITE,
	CALL_OTHER,
};

struct fault {
	enum call call;
	unsigned int calls; /* that it hits */
	unsigned int part;  /* pages that are served nevertheless */
	int error;	    /* or 0: go on as if nothing had happened */
	void (*meanwhile)(void);
};

static struct exdb *db;
static struct fault fault;
static uint64_t first;

static int take_fault(enum call call)
{
	if (!fault.calls || call != fault.call)
		return 0;
	fault.calls--;
	if (fault.meanwhile)
		fault.meanwhile();
	return fault.error;
}

long __real_exmap_vector(struct exmap *ex, unsigned int interface, unsigned int opcode,
			 const uint64_t *pages, size_t n, uint64_t flags, size_t *done);
long __wrap_exmap_vector(struct exmap *ex, unsigned int interface, unsigned int opcode,
			 const uint64_t *pages, size_t n, uint64_t flags, size_t *done);

long __wrap_exmap_vector(struct exmap *ex, unsigned int interface, unsigned int opcode,
			 const uint64_t *pages, size_t n, uint64_t flags, size_t *done)
{
	int error = take_fault(opcode == EXMAP_OP_FREE ? CALL_FREE : CALL_OTHER);

	return error ? error : __real_exmap_vector(ex, interface, opcode, pages, n, flags, done);
}

long __wrap_exmap_vector_at(struct exmap *ex, unsigned int interface, unsigned int opcode,
			    const uint64_t *pages, const uint64_t *blocks, size_t n, size_t *done)
{
	int error = take_fault(CALL_READ);

	*done = 0;
	if (error && fault.part)
		__real_exmap_vector_at(ex, interface, opcode, pages, blocks, fault.part, done);
	return error ? error :
		       __real_exmap_vector_at(ex, interface, opcode, pages, blocks, n, done);
}

int __wrap_disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		      unsigned int *done)
{
	int error = take_fault(CALL_WRITE);

	*done = 0;
	if (error && fault.part)
		__real_disk_write(fd, blocks, pages, fault.part, done);
	return error ? error : __real_disk_write(fd, blocks, pages, n, done);
}

static struct exdb_worker *worker(unsigned int i)
{
	return exdb_worker_at(db, i);
}

static unsigned int state(uint64_t page)
{
	return state_of(state_load(page_state(db, page)));
}

static void fill(void *mem, uint64_t page)
{
	/* what lies between its slots and its entries is nobody's */
	node_init(mem, page, 0);
	memset((uint8_t *)mem + sizeof(struct node), (int)page, PAGE_SIZE - sizeof(struct node));
}

static void check_content(const void *mem, uint64_t page)
{
	const struct page_header *header = mem;

	CHECK(header->number == page);
	CHECK(((const uint8_t *)mem)[PAGE_SIZE - 1] == (uint8_t)page);
}

static void read_page(uint64_t page)
{
	const void *mem;

	CHECK(!buffer_fix_shared(worker(0), page, &mem));
	check_content(mem, page);
	buffer_unfix_shared(worker(0), page);
}

static void dirty_page(uint64_t page)
{
	void *mem;

	CHECK(!buffer_fix_exclusive(worker(0), page, &mem));
	buffer_unfix_exclusive(worker(0), page, true);
}

static void read_all(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		read_page(first + i);
}

static void make_pages(void)
{
	uint64_t page;
	unsigned int i;
	void *mem;

	for (i = 0; i < PAGES; i++) {
		CHECK(!buffer_allocate(worker(0), &page, &mem));
		fill(mem, page);
		buffer_unfix_exclusive(worker(0), page, true);
		first = first ? first : page;
	}
	CHECK(!checkpoint_run(worker(0), CHECKPOINT_ALWAYS));
}

static uint64_t absent_page(void)
{
	uint64_t page = first;

	while (state(page) != STATE_EVICTED)
		page++;
	return page;
}

/* Nobody holds a latch, and the books agree with the region. */
static void check_books(void)
{
	uint64_t page, resident = db->map.nr;

	for (page = 1; page < db->next_page; page++) {
		unsigned int s = state(page);

		CHECK(s == STATE_EVICTED || s == STATE_UNLOCKED || s == STATE_MARKED);
		CHECK((s != STATE_EVICTED) == exmap_is_mapped(db->ex, page));
		resident += s != STATE_EVICTED;
	}
	CHECK(resident == db->used);
}

static void failed_read_leaves_the_page_evicted(void)
{
	uint64_t page = absent_page(), used = db->used;
	const void *shared;
	void *mem;

	fault = (struct fault){ .call = CALL_READ, .calls = 2, .error = -EIO };
	CHECK(buffer_fix_shared(worker(0), page, &shared) == -EIO);
	CHECK(exdb_error_page(worker(0)) == page);
	CHECK(state(page) == STATE_EVICTED && db->used <= used);
	CHECK(buffer_fix_exclusive(worker(0), page, &mem) == -EIO);
	CHECK(state(page) == STATE_EVICTED);
	read_page(page);
}

static void failed_prefetch_keeps_what_was_read(void)
{
	uint64_t pages[4];
	unsigned int i;

	pages[0] = absent_page();
	for (i = 1; i < 4; i++)
		pages[i] = pages[0] + i;
	for (i = 0; i < 4; i++)
		CHECK(state(pages[i]) == STATE_EVICTED);
	fault = (struct fault){ .call = CALL_READ, .calls = 1, .part = 2, .error = -EIO };
	CHECK(!buffer_prefetch(worker(0), pages, 4));
	CHECK(state(pages[0]) == STATE_UNLOCKED && state(pages[1]) == STATE_UNLOCKED);
	CHECK(state(pages[2]) == STATE_EVICTED && state(pages[3]) == STATE_EVICTED);
	for (i = 0; i < 4; i++)
		read_page(pages[i]);
}

static void dry_pool_is_evicted_and_tried_again(void)
{
	uint64_t page = absent_page(), evicted = worker(0)->counts.evicted;

	fault = (struct fault){ .call = CALL_READ, .calls = 3, .error = -ENOMEM };
	read_page(page);
	CHECK(!fault.calls);
	CHECK(worker(0)->counts.evicted > evicted);
}

static void latched_pool_is_exhausted(void)
{
	uint64_t page, nr = 0, held[PAGES];
	const void *mem;
	int ret = 0;

	for (page = first; page < first + PAGES; page++) {
		ret = buffer_fix_shared(worker(0), page, &mem);
		if (ret)
			break;
		held[nr++] = page;
	}
	CHECK(ret == -ENOBUFS);
	CHECK(nr > 16 && nr < db->pool_pages);
	CHECK(state(page) == STATE_EVICTED);
	while (nr)
		buffer_unfix_shared(worker(0), held[--nr]);
	read_page(page);
}

static void failed_writes_lose_nothing(void)
{
	const void *mem;
	uint64_t page;
	int ret = 0;

	fault = (struct fault){ .call = CALL_WRITE, .calls = 1000, .error = -EIO };
	for (page = first; page < first + PAGES; page++) {
		ret = buffer_fix_shared(worker(0), page, &mem);
		if (ret)
			break;
		buffer_unfix_shared(worker(0), page);
		dirty_page(page);
	}
	CHECK(ret == -EIO && state(page) == STATE_EVICTED);
	/* the error is about a page that could not be written, not about the one to be read */
	CHECK(exdb_error_page(worker(0)) != page);
	CHECK(state_load(page_state(db, exdb_error_page(worker(0)))) & STATE_DIRTY);
	fault.calls = 0;
	/* nobody knows what else the disk has forgotten: no image of it any more */
	CHECK(exdb_checkpoint(worker(0)) == -EROFS);
	CHECK(exdb_failure(db, &page) == -EIO);
}

static void failed_free_leaves_pages_usable(void)
{
	uint64_t page = absent_page();

	fault = (struct fault){ .call = CALL_FREE, .calls = 1, .error = -EINTR };
	while (fault.calls)
		CHECK(clock_evict(worker(0)) <= 0 || !fault.calls);
	read_page(page);
}

static void resident_worker_neither_reads_nor_waits(void)
{
	struct exdb_worker *w = exdb_resident_worker(db);
	const uint64_t page = absent_page();
	const void *mem;
	void *changed;

	CHECK(buffer_fix_shared(w, page, &mem) == -EAGAIN);
	CHECK(state(page) == STATE_EVICTED);
	read_page(page);
	CHECK(!buffer_fix_shared(w, page, &mem));
	check_content(mem, page);
	buffer_unfix_shared(w, page);
	CHECK(!buffer_fix_exclusive(worker(0), page, &changed));
	CHECK(buffer_fix_shared(w, page, &mem) == -EAGAIN);
	buffer_unfix_exclusive(worker(0), page, false);
}

static uint64_t busy;

/* A reader comes while its page is on its way to the disk. */
static void read_meanwhile(void)
{
	const void *mem;

	for (busy = first; state(busy) != STATE_SHARED_FIRST; busy++)
		CHECK(busy < first + PAGES);
	CHECK(!buffer_fix_shared(worker(1), busy, &mem));
}

static void dirty_until_evicted(void)
{
	uint64_t page;

	for (page = first; fault.calls && page < first + PAGES; page++) {
		read_page(page);
		dirty_page(page);
	}
	CHECK(!fault.calls);
}

static void reader_during_write_back_keeps_its_page(void)
{
	fault = (struct fault){
		.call = CALL_WRITE, .calls = 1, .meanwhile = read_meanwhile
	};
	dirty_until_evicted();
	CHECK(busy && state(busy) == STATE_SHARED_FIRST);
	CHECK(exmap_is_mapped(db->ex, busy));
	check_content(exmap_page(db->ex, busy), busy);
	CHECK(!(state_load(page_state(db, busy)) & STATE_DIRTY));
	buffer_unfix_shared(worker(1), busy);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "failed_read_leaves_the_page_evicted", failed_read_leaves_the_page_evicted },
	{ "failed_prefetch_keeps_what_was_read", failed_prefetch_keeps_what_was_read },
	{ "dry_pool_is_evicted_and_tried_again", dry_pool_is_evicted_and_tried_again },
	{ "latched_pool_is_exhausted", latched_pool_is_exhausted },
	{ "failed_writes_lose_nothing", failed_writes_lose_nothing },
	{ "failed_free_leaves_pages_usable", failed_free_leaves_pages_usable },
	{ "resident_worker_neither_reads_nor_waits", resident_worker_neither_reads_nor_waits },
	{ "reader_during_write_back_keeps_its_page", reader_during_write_back_keeps_its_page },
};

static void open_db(const char *path, unsigned int workers)
{
	struct exdb_config config = {
		.backend = EXMAP_BACKEND_POSIX,
		.workers = workers,
		.create = 1,
		.pool_pages = EXDB_POOL_MIN,
		.level = EXDB_SYNC,
		.data_pages = 4096,
		.log_pages = EXDB_LOG_MIN,
	};
	uint64_t page;

	config.backing_fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(config.backing_fd >= 0);
	CHECK(!exdb_open(&config, &db, &page));
}

int main(int argc, char **argv)
{
	bool found = false;
	unsigned int i;
	int fd;

	CHECK(argc == 3);
	/* one worker: what is latched stays so, and nobody waits for it */
	open_db(argv[1], strstr(argv[2], "reader") ? 2 : 1);
	make_pages();
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (strcmp(cases[i].name, argv[2]))
			continue;
		cases[i].run();
		found = true;
	}
	CHECK(found);
	fault.calls = 0;
	check_books();
	read_all();
	check_books();
	if (!db->failed)
		CHECK(!checkpoint_run(worker(0), CHECKPOINT_ALWAYS));
	fd = db->backing_fd;
	exdb_close(db);
	close(fd);
	puts("ok");
	return 0;
}
