// SPDX-License-Identifier: MIT
/* Opening and closing a database, checkpoints, and what it says about itself. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "btree.h"
#include "buffer.h"

#define SLACK_MAX	4096u

static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high)
{
	return n < low ? low : n > high ? high : n;
}

static void set_up(struct exdb *db, const struct exdb_config *config)
{
	unsigned int i;

	db->pool_pages = config->pool_pages;
	/* frames that are not used can wait in quarantine: several turns share a flush */
	db->limit = config->pool_pages - clamp(config->pool_pages / 16, 1, SLACK_MAX);
	db->evict_batch = clamp(config->pool_pages / 64, 4, EVICT_BATCH);
	db->prefetch = clamp(config->pool_pages / 8, 4, PREFETCH_MAX);
	db->backing_fd = config->backing_fd;
	db->nr_workers = config->workers;
	pthread_mutex_init(&db->meta_lock, NULL);
	pthread_mutex_init(&db->free_lock, NULL);
	pthread_rwlock_init(&db->gate, NULL);
	for (i = 0; i < db->nr_workers; i++) {
		db->workers[i].db = db;
		db->workers[i].itf = i;
		db->workers[i].error_page = UINT64_MAX;
	}
}

static int open_region(struct exdb *db, const struct exdb_config *config)
{
	const struct exmap_config region = {
		.backend = config->backend,
		.interfaces = config->workers,
		.region_pages = config->region_pages,
		.pool_pages = config->pool_pages,
		.flags = EXMAP_SNAPSHOTS,
		.backing_fd = config->backing_fd,
	};

	return exmap_open(&region, &db->ex);
}

/* The array is as long as the region, so only what is touched may cost memory. */
static int map_states(struct exdb *db, uint64_t pages)
{
	void *mem = mmap(NULL, pages * sizeof(*db->states), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return -errno;
	db->states = mem;
	return 0;
}

static int create_catalog(struct exdb_worker *w)
{
	uint64_t tables, columns;
	int ret = btree_create(w, &tables);

	if (!ret)
		ret = btree_create(w, &columns);
	if (!ret && (tables != EXDB_TABLES_ROOT || columns != EXDB_COLUMNS_ROOT))
		ret = -EUCLEAN;
	return ret ? ret : exdb_checkpoint(w);
}

int exdb_open(const struct exdb_config *config, struct exdb **out, uint64_t *error_page)
{
	struct exdb *db;
	int ret = -EINVAL;

	*error_page = UINT64_MAX;
	if (!config->workers || config->workers > EXDB_WORKERS_MAX ||
	    config->pool_pages < EXDB_POOL_MIN || !config->region_pages)
		return ret;
	db = aligned_alloc(64, (sizeof(*db) + 63) / 64 * 64);
	if (!db)
		return -ENOMEM;
	*db = (struct exdb){ 0 };
	set_up(db, config);
	ret = open_region(db, config);
	if (ret)
		goto err;
	ret = map_states(db, config->region_pages);
	if (ret)
		goto err;
	ret = -ENOMEM;
	db->frames = calloc(db->pool_pages, sizeof(*db->frames));
	if (!db->frames)
		goto err;
	ret = meta_open(&db->workers[0], config->create);
	if (!ret && config->create)
		ret = create_catalog(&db->workers[0]);
	if (ret)
		goto err;
	*out = db;
	return 0;

err:
	*error_page = db->workers[0].error_page;
	exdb_close(db);
	return ret;
}

/* Writes nothing: call exdb_checkpoint first. */
void exdb_close(struct exdb *db)
{
	if (db->states)
		munmap(db->states, db->ex->region_pages * sizeof(*db->states));
	if (db->ex)
		exmap_close(db->ex);
	free(db->frames);
	pthread_mutex_destroy(&db->meta_lock);
	pthread_mutex_destroy(&db->free_lock);
	pthread_rwlock_destroy(&db->gate);
	free(db);
}

struct exdb_worker *exdb_worker_at(struct exdb *db, uint32_t index)
{
	return index < db->nr_workers ? &db->workers[index] : NULL;
}

uint64_t exdb_error_page(const struct exdb_worker *w)
{
	return w->error_page;
}

int exdb_checkpoint(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	int ret;

	pthread_rwlock_wrlock(&db->gate);
	ret = clock_flush(w);
	if (!ret)
		ret = meta_mark_closed(w);
	if (!ret)
		db->checkpoints++;
	pthread_rwlock_unlock(&db->gate);
	return ret;
}

static void add_counts(struct exdb_stats *stats, const struct worker_counts *counts)
{
	stats->hits += __atomic_load_n(&counts->hits, __ATOMIC_RELAXED);
	stats->misses += __atomic_load_n(&counts->misses, __ATOMIC_RELAXED);
	stats->prefetched += __atomic_load_n(&counts->prefetched, __ATOMIC_RELAXED);
	stats->pages_read += __atomic_load_n(&counts->read, __ATOMIC_RELAXED);
	stats->pages_written += __atomic_load_n(&counts->written, __ATOMIC_RELAXED);
	stats->evicted += __atomic_load_n(&counts->evicted, __ATOMIC_RELAXED);
	stats->eviction_batches += __atomic_load_n(&counts->eviction_batches, __ATOMIC_RELAXED);
}

int exdb_stats(struct exdb *db, struct exdb_stats *stats)
{
	struct exmap_counters counters = { 0 };
	unsigned int i;
	int ret = exmap_counters(db->ex, &counters);

	if (ret)
		return ret;
	*stats = (struct exdb_stats){
		.checkpoints = db->checkpoints,
		.tlb_flushes = counters.flushes + counters.flushes_ranged,
		.rescues = counters.rescues,
		.pool_pages = counters.total,
		.resident_pages = counters.mapped,
		.region_pages = db->ex->region_pages,
		.allocated_pages = __atomic_load_n(&db->next_page, __ATOMIC_RELAXED),
		.free_pages = __atomic_load_n(&db->nr_free, __ATOMIC_RELAXED),
		.backend = db->ex->backend,
		.workers = db->nr_workers,
	};
	for (i = 0; i < db->nr_workers; i++)
		add_counts(stats, &db->workers[i].counts);
	return 0;
}
