// SPDX-License-Identifier: MIT
/*
 * Page 0: which image of the pages holds, and from where the log is replayed on it.
 * It lies in block 0 and, the same, in block 1.  They are written one after the
 * other, and nothing of the last image or its log is given up before both are
 * on the disk: so whichever can be read names an image that can be read, and a
 * damaged copy never brings back an older one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "meta.h"

static struct meta_page *new_page(void)
{
	struct meta_page *meta = aligned_alloc(PAGE_SIZE, PAGE_SIZE);

	if (meta)
		page_init(meta, 0, PAGE_META, 0);
	return meta;
}

static int write_copies(struct exdb *db, struct meta_page *meta)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < META_COPIES && !ret; i++) {
		ret = disk_write_bytes(db->backing_fd, meta, PAGE_SIZE, (uint64_t)i * PAGE_SIZE);
		if (!ret)
			ret = disk_sync(db->backing_fd);
	}
	return ret;
}

int meta_write(struct exdb *db, const struct meta_state *state)
{
	struct meta_page *meta = new_page();
	int ret;

	if (!meta)
		return -ENOMEM;
	meta->format = META_FORMAT;
	meta->page_size = PAGE_SIZE;
	meta->log_blocks = db->log.size / PAGE_SIZE;
	meta->log_id = db->log.id;
	meta->state = *state;
	memcpy(meta->roots, db->map.roots, db->map.nr_roots * sizeof(*meta->roots));
	page_seal(meta);
	ret = write_copies(db, meta);
	free(meta);
	return ret;
}

int meta_wipe(struct exdb *db)
{
	struct meta_page *meta = new_page();
	int ret;

	if (!meta)
		return -ENOMEM;
	memset(meta, 0, PAGE_SIZE);
	ret = write_copies(db, meta);
	free(meta);
	return ret;
}

/* Whether 4096 bytes look like page 0 of a database. */
int exdb_probe(const void *page)
{
	const struct meta_page *meta = page;

	return meta->header.magic == PAGE_MAGIC && meta->header.type == PAGE_META;
}

/* The newest copy that is whole.  Another version's page 0 has its checksum in the same place. */
static int read_newest(struct exdb *db, struct meta_page *newest)
{
	struct meta_page *meta = new_page();
	int ret = -EBADMSG, error;
	uint64_t i;

	if (!meta)
		return -ENOMEM;
	for (i = 0; i < META_COPIES; i++) {
		error = disk_read_bytes(db->backing_fd, meta, PAGE_SIZE, i * PAGE_SIZE);
		if (!error)
			error = page_verify(meta, 0);
		if (!error && (ret || meta->state.sequence > newest->state.sequence)) {
			memcpy(newest, meta, PAGE_SIZE);
			ret = 0;
		}
		if (error && error != -EBADMSG && error != -ENXIO && ret)
			ret = error;
	}
	free(meta);
	return ret;
}

static int check(const struct meta_page *meta)
{
	const struct meta_state *state = &meta->state;

	if (meta->header.type != PAGE_META || meta->format != META_FORMAT ||
	    meta->page_size != PAGE_SIZE)
		return -EPROTONOSUPPORT;
	if (map_roots_for(map_pages_for(state->next_page)) > MAP_ROOTS_MAX ||
	    state->nr_map < map_pages_for(state->next_page) ||
	    state->free_page >= state->next_page || meta->log_blocks < EXDB_LOG_MIN ||
	    state->lsn % sizeof(uint64_t))
		return -EBADMSG;
	return 0;
}

/* A damaged length may ask for more memory than there is. */
static int check_log(const struct exdb *db, const struct meta_page *meta)
{
	const off_t size = lseek(db->backing_fd, 0, SEEK_END);

	if (size < 0)
		return -errno;
	return (uint64_t)size / PAGE_SIZE < (uint64_t)META_COPIES + meta->log_blocks ? -EUCLEAN : 0;
}

/*
 * Write the newest copy over any other, which a crash between the two writes or a damage has
 * left: before a block of the image that an older one names is given to anything else.
 */
static int mend_copies(struct exdb *db, struct meta_page *newest)
{
	struct meta_page *meta = new_page();
	int ret = meta ? 0 : -ENOMEM;
	uint64_t i;

	for (i = 0; i < META_COPIES && !ret; i++) {
		ret = disk_read_bytes(db->backing_fd, meta, PAGE_SIZE, i * PAGE_SIZE);
		if (!ret && !memcmp(meta, newest, PAGE_SIZE))
			continue;
		ret = disk_write_bytes(db->backing_fd, newest, PAGE_SIZE, i * PAGE_SIZE);
		if (!ret)
			ret = disk_sync(db->backing_fd);
	}
	free(meta);
	return ret;
}

int meta_read(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	struct meta_page *meta = new_page();
	int ret;

	if (!meta)
		return -ENOMEM;
	w->error_page = 0;
	ret = read_newest(db, meta);
	if (!ret)
		ret = check(meta);
	if (!ret)
		ret = check_log(db, meta);
	if (!ret)
		ret = mend_copies(db, meta);
	if (!ret) {
		db->checkpoint = meta->state;
		db->log.id = meta->log_id;
		db->log.size = (uint64_t)meta->log_blocks * PAGE_SIZE;
		db->map.nr_roots = map_roots_for(meta->state.nr_map);
		memcpy(db->map.roots, meta->roots, sizeof(meta->roots));
	}
	free(meta);
	return ret;
}
