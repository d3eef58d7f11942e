// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
/* Opening and closing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "txn.h"

#define SLACK_MAX	4096u

static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high)
{
	return n < low ? low : n > high ? high : n;
}

#define LOG_FIRST	2u	/* behind the copies of page 0 */

static void init_locks(struct exdb *db)
{
	pthread_rwlockattr_t rwattr;
	pthread_condattr_t attr;

	pthread_rwlockattr_init(&rwattr);
	/* readers come all the time; a freeze waits for those who have begun */
	pthread_rwlockattr_setkind_np(&rwattr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&db->loading, &rwattr);
	pthread_rwlockattr_destroy(&rwattr);
	pthread_mutex_init(&db->blocks.lock, NULL);
	pthread_mutex_init(&db->log.lock, NULL);
	pthread_mutex_init(&db->trimming, NULL);
	pthread_mutex_init(&db->checkpointing, NULL);
	pthread_mutex_init(&db->commit, NULL);
	pthread_mutex_init(&db->keeper.lock, NULL);
	background_init(&db->background);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&db->keeper.wake, &attr);
	pthread_cond_init(&db->log.changed, &attr);
	pthread_condattr_destroy(&attr);
}

static void destroy_locks(struct exdb *db)
{
	background_exit(&db->background);
	pthread_cond_destroy(&db->keeper.wake);
	pthread_mutex_destroy(&db->keeper.lock);
	pthread_mutex_destroy(&db->commit);
	pthread_mutex_destroy(&db->checkpointing);
	pthread_mutex_destroy(&db->trimming);
	pthread_cond_destroy(&db->log.changed);
	pthread_mutex_destroy(&db->log.lock);
	pthread_mutex_destroy(&db->blocks.lock);
	pthread_rwlock_destroy(&db->loading);
}

static void set_up(struct exdb *db, const struct exdb_config *config)
{
	unsigned int i;

	db->pool_pages = config->pool_pages;
	/* frames that are not used can wait in quarantine: several turns share a flush */
	db->full_limit = config->pool_pages - clamp(config->pool_pages / 16, 1, SLACK_MAX);
	db->limit = db->full_limit;
	db->evict_batch = clamp(config->pool_pages / 64, 4, EVICT_BATCH);
	db->prefetch = clamp(config->pool_pages / 8, 4, PREFETCH_MAX);
	db->backing_fd = config->backing_fd;
	db->level = config->level;
	db->data_pages = config->data_pages;
	db->nr_trees = 1;
	db->free_tree = 1;
	db->schema = 1;
	db->nr_workers = config->workers;
	for (i = 0; i < db->nr_workers + WORKERS_OWN; i++) {
		db->workers[i].db = db;
		db->workers[i].itf = i;
		db->workers[i].error_page = UINT64_MAX;
	}
	exdb_resident_worker(db)->resident_only = true;
	if (config->level == EXDB_GROUP)
		db->log.delay = config->interval * 1000ull;
	if (config->level == EXDB_ASYNC)
		db->keeper.interval = config->interval * 1000L;
}

static int open_region(struct exdb *db, const struct exdb_config *config)
{
	const struct exmap_config region = {
		.backend = config->backend,
		.interfaces = config->workers,
		.region_pages = db->data_pages + map_pages_for(db->data_pages),
		.pool_pages = config->pool_pages,
		/* who reads optimistically may come to a page that has just been evicted */
		.flags = EXMAP_SNAPSHOTS | EXMAP_FAULT_ZERO,
		.backing_fd = config->backing_fd,
	};

	return exmap_open(&region, &db->ex);
}

/* Arrays for the worst case, of which only what is touched may cost memory. */
static int map_array(void *out, uint64_t n, size_t size)
{
	void *mem = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return -errno;
	*(void **)out = mem;
	return 0;
}

/*
 * On a device trees may have what is left when every dirty page of the pool, and what
 * a full log can change, lies there in two versions.
 */
static int limit_to_device(struct exdb *db, uint64_t device)
{
	const uint64_t log = db->log.size / PAGE_SIZE;
	uint64_t rest = LOG_FIRST + 2 * log + 2 * db->pool_pages + 128;

	rest += 4 * map_pages_for(device);
	if (device < rest + EXDB_POOL_MIN)
		return -ENOSPC;
	if (db->data_pages > device - rest)
		db->data_pages = device - rest;
	return 0;
}

static int open_backing(struct exdb *db, const struct exdb_config *config)
{
	uint64_t log, blocks = config->backing_pages;
	int ret = 0;

	if (config->create)
		db->log.size = config->log_pages * PAGE_SIZE;
	else
		ret = meta_read(&db->workers[0]);
	if (!ret && config->create && getrandom(&db->log.id, sizeof(db->log.id), 0) < 0)
		ret = -errno;
	log = db->log.size / PAGE_SIZE;
	if (!ret)
		ret = log_init(&db->log, db->backing_fd, LOG_FIRST, log);
	if (ret)
		return ret;
	if (blocks)
		ret = limit_to_device(db, blocks);
	else
		blocks = LOG_FIRST + 3 * (log + db->data_pages + db->pool_pages) + 1024;
	return ret ? ret : blocks_init(&db->blocks, LOG_FIRST + log, blocks);
}

static int allocate(struct exdb *db)
{
	uint64_t map = map_pages_for(db->data_pages);
	int ret = map_array(&db->states, db->data_pages + map, sizeof(*db->states));

	if (!ret)
		ret = map_array(&db->trees, EXDB_TREES_MAX, sizeof(*db->trees));
	if (!ret)
		ret = map_init(db, db->data_pages, map);
	db->frames = calloc(db->pool_pages, sizeof(*db->frames));
	return ret || db->frames ? ret : -ENOMEM;
}

static int create(struct exdb_worker *w)
{
	const struct btree_entry none = { 0 };
	struct exdb *db = w->db;
	struct op_list ops = { 0 };
	size_t removed;
	int ret = meta_wipe(db);

	db->next_page = DIRECTORY_ROOT;
	if (!ret)
		ret = directory_create(w);
	if (!ret)
		ret = op_list_add(&ops, OP_CREATE, EXDB_TABLES_TREE, &none);
	if (!ret)
		ret = op_list_add(&ops, OP_CREATE, EXDB_COLUMNS_TREE, &none);
	if (!ret)
		ret = op_list_add(&ops, OP_CREATE, EXDB_INDEXES_TREE, &none);
	if (!ret)
		ret = apply_ops(w, ops.bytes, ops.size, &removed);
	op_list_free(&ops);
	return ret ? ret : checkpoint_run(w, CHECKPOINT_ALWAYS);
}

static int load(struct exdb_worker *w)
{
	struct exdb *db = w->db;
	int ret;

	db->next_page = db->checkpoint.next_page;
	db->free_page = db->checkpoint.free_page;
	db->nr_free = db->checkpoint.nr_free;
	w->error_page = db->next_page;
	if (db->next_page > db->data_pages)
		return -ENOSPC;
	ret = map_load(w, db->checkpoint.nr_map, db->next_page);
	if (!ret)
		ret = directory_load(w);
	return ret ? ret : recover(w);
}

static int open_all(struct exdb *db, const struct exdb_config *config)
{
	int ret = open_backing(db, config);

	if (!ret)
		ret = open_region(db, config);
	if (!ret)
		ret = allocate(db);
	if (!ret)
		ret = config->create ? create(&db->workers[0]) : load(&db->workers[0]);
	return ret ? ret : keeper_start(db);
}

int exdb_open(const struct exdb_config *config, struct exdb **out, uint64_t *error_page)
{
	struct exdb *db;
	int ret;

	*error_page = UINT64_MAX;
	if (!config->workers || config->workers > EXDB_WORKERS_MAX ||
	    config->pool_pages < EXDB_POOL_MIN || !config->data_pages ||
	    config->level < EXDB_SYNC || config->level > EXDB_ASYNC ||
	    (config->create && config->log_pages < EXDB_LOG_MIN))
		return -EINVAL;
	db = aligned_alloc(64, (sizeof(*db) + 63) / 64 * 64);
	if (!db)
		return -ENOMEM;
	*db = (struct exdb){ 0 };
	init_locks(db);
	set_up(db, config);
	ret = open_all(db, config);
	if (ret) {
		*error_page = db->workers[0].error_page;
		exdb_close(db);
		return ret;
	}
	/* what recovery has made and dropped is no news to who reads the catalog from now on */
	db->schema++;
	/* what a crash has left; an error leaves it to the next drop */
	exdb_trees_free(&db->workers[0]);
	*out = db;
	return 0;
}

/* Writes nothing: call exdb_shutdown first. */
void exdb_close(struct exdb *db)
{
	keeper_stop(db);
	if (db->states)
		munmap(db->states, db->ex->region_pages * sizeof(*db->states));
	if (db->trees)
		munmap(db->trees, EXDB_TREES_MAX * sizeof(*db->trees));
	if (db->map.entries)
		map_exit(db);
	blocks_exit(&db->blocks);
	log_exit(&db->log);
	if (db->ex)
		exmap_close(db->ex);
	checkpoint_drop_saved(db);
	history_free(db);
	free(db->frames);
	free(db->dropped.refs);
	destroy_locks(db);
	free(db);
}

struct exdb_worker *exdb_worker_at(struct exdb *db, uint32_t index)
{
	return index < db->nr_workers ? &db->workers[index] : NULL;
}

struct exdb_worker *exdb_resident_worker(struct exdb *db)
{
	return &db->workers[db->nr_workers + 1];
}

uint64_t exdb_error_page(const struct exdb_worker *w)
{
	return w->error_page;
}

uint32_t exdb_error_index(const struct exdb_worker *w)
{
	return w->error_index;
}

uint64_t exdb_schema(const struct exdb *db)
{
	return __atomic_load_n(&db->schema, __ATOMIC_ACQUIRE);
}

int exdb_checkpoint(struct exdb_worker *w)
{
	return checkpoint_run(w, CHECKPOINT_IF_NEEDED);
}

int exdb_shutdown(struct exdb_worker *w)
{
	return checkpoint_run(w, CHECKPOINT_LAST);
}

int exdb_failure(const struct exdb *db, uint64_t *page)
{
	int error = __atomic_load_n(&db->failed, __ATOMIC_ACQUIRE);

	*page = error ? __atomic_load_n(&db->failed_page, __ATOMIC_ACQUIRE) : UINT64_MAX;
	return error;
}

int exdb_stored_page(struct exdb_worker *w, uint64_t page, void *out)
{
	struct exdb *db = w->db;
	uint32_t block = page < db->data_pages ? map_get(db, page).block : 0;
	void *mem = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	unsigned int done;
	int ret = -ENOENT;

	if (!mem)
		return -ENOMEM;
	w->error_page = page;
	if (block)
		ret = disk_read(db->backing_fd, &block, &mem, 1, &done);
	if (!ret)
		memcpy(out, mem, PAGE_SIZE);
	free(mem);
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
	uint64_t log_bytes, log_flushes, free_blocks;
	unsigned int i;
	int ret = exmap_counters(db->ex, &counters);

	if (ret)
		return ret;
	pthread_mutex_lock(&db->log.lock);
	log_bytes = db->log.tail - db->log.head;
	log_flushes = db->log.flushes;
	pthread_mutex_unlock(&db->log.lock);
	pthread_mutex_lock(&db->blocks.lock);
	free_blocks = db->blocks.nr_free;
	pthread_mutex_unlock(&db->blocks.lock);
	*stats = (struct exdb_stats){
		.checkpoints = __atomic_load_n(&db->checkpoints, __ATOMIC_RELAXED),
		.commits = __atomic_load_n(&db->commits, __ATOMIC_RELAXED),
		.recovered = db->recovered,
		.log_bytes = log_bytes,
		.log_flushes = log_flushes,
		.free_blocks = free_blocks,
		.tlb_flushes = counters.flushes + counters.flushes_ranged,
		.rescues = counters.rescues,
		.pool_pages = counters.total,
		.resident_pages = counters.mapped,
		.region_pages = db->data_pages,
		.allocated_pages = __atomic_load_n(&db->next_page, __ATOMIC_RELAXED),
		.free_pages = __atomic_load_n(&db->nr_free, __ATOMIC_RELAXED) +
			      __atomic_load_n(&db->run_pages, __ATOMIC_RELAXED),
		.backend = db->ex->backend,
		.workers = db->nr_workers,
	};
	for (i = 0; i < db->nr_workers + WORKERS_OWN; i++)
		add_counts(stats, &db->workers[i].counts);
	return 0;
}
