// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - self-test: what can be tried without a user, when the module is loaded
 * into a kernel with CONFIG_DEBUG_VM.  A failure keeps it from loading.
 */
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "exmap.h"
#include "nvme/nvme.h"

#define FRAMES	1000

/* A region with a pool and one interface, which is nobody's. */
struct bench {
	struct exmap_region region;
	struct exmap_interface *itf;
	unsigned int failures;
};

static void expect(struct bench *bench, bool condition, const char *test, const char *text)
{
	if (condition)
		return;
	pr_err("exmap: self-test: %s: %s\n", test, text);
	bench->failures++;
}

#define CHECK(condition) expect(bench, condition, __func__, #condition)

/* Words of all states, as user space sees them. */
static void test_words(struct bench *bench)
{
	const u32 last = EXMAP_POOL_MAX_PAGES;

	CHECK(!EXMAP_RES_MAPPED(0));
	CHECK(EXMAP_RES_MAPPED(1) && EXMAP_RES_FRAME(1) == 0);
	CHECK(EXMAP_RES_MAPPED(last) && EXMAP_RES_FRAME(last) == last - 1);
	CHECK(EXMAP_RES_MAPPED(EXMAP_RES_SNAPSHOT | 7) && EXMAP_RES_FRAME(7) == 6);
	CHECK(!EXMAP_RES_MAPPED(EXMAP_RES_SNAPSHOT));
	CHECK(!EXMAP_RES_MAPPED(EXMAP_RES_BUSY) && !EXMAP_RES_MAPPED(EXMAP_RES_BUSY | 7));
	CHECK(!EXMAP_RES_MAPPED(EXMAP_RES_LAZY | 7));
}

/* Frames go from the stack to a cache and back, and none is there twice. */
static void test_cache(struct bench *bench)
{
	struct exmap_pool *pool = &bench->region.pool;
	struct exmap_interface *itf = bench->itf;
	u32 i, nr;

	CHECK(pool->total == FRAMES && pool->nr_free == FRAMES);
	CHECK(exmap_pool_refill(pool, itf));
	nr = itf->nr_cache;
	CHECK(nr == FRAMES / 2 && pool->nr_free == FRAMES - nr);
	for (i = 1; i < nr; i++)
		CHECK(itf->cache[i] < FRAMES && itf->cache[i] != itf->cache[i - 1]);
	exmap_pool_spill(pool, itf, nr);
	CHECK(!itf->nr_cache && pool->nr_free == FRAMES);
}

/* A frame with a foreign reference is not free before that is gone. */
static void test_pinned(struct bench *bench)
{
	struct exmap_pool *pool = &bench->region.pool;
	u32 frame;

	CHECK(!exmap_pool_take(pool, &frame, 1));
	get_page(pool->pages[frame]);
	exmap_pool_return(pool, frame);
	exmap_pool_unpin(pool);
	CHECK(pool->nr_pinned == 1 && pool->nr_free == FRAMES - 1);
	put_page(pool->pages[frame]);
	exmap_pool_unpin(pool);
	CHECK(!pool->nr_pinned && pool->nr_free == FRAMES);
}

/* The frames of a record come back when they are needed, the pinned one later. */
static void test_records(struct bench *bench)
{
	struct exmap_record *record = kzalloc(sizeof(*record), EXMAP_GFP);
	struct exmap_pool *pool = &bench->region.pool;
	u32 frames[3], i;

	CHECK(record);
	if (!record)
		return;
	CHECK(exmap_pool_take(pool, frames, FRAMES + 1) == -ENOMEM && pool->nr_free == FRAMES);
	CHECK(!exmap_pool_take(pool, frames, 3));
	record->words[0] = EXMAP_RES_SNAPSHOT;
	for (i = 0; i < 3; i++)
		record->words[100 + i] = frames[i] + 1;
	record->nr_frames = 3;
	record->pinned = true;
	get_page(pool->pages[frames[1]]);
	exmap_pool_absorb(pool, record);
	CHECK(pool->nr_spare == 3 && pool->nr_free == FRAMES - 3);
	CHECK(!exmap_pool_take(pool, frames, 0));
	CHECK(!pool->nr_spare && pool->nr_pinned == 1 && pool->nr_free == FRAMES - 1);
	put_page(pool->pages[frames[1]]);
	exmap_pool_unpin(pool);
	CHECK(pool->nr_free == FRAMES);
}

/* Whoever takes a frame out of quarantine first has it; the others see that. */
static void test_quarantine(struct bench *bench)
{
	struct exmap_frame *f = &bench->region.pool.frames[5];
	u64 first = exmap_quarantine_bind(&bench->region, 5, 77), second;

	CHECK(!exmap_quarantine_rescue(f, 78));
	CHECK(exmap_quarantine_rescue(f, 77));
	CHECK(!exmap_quarantine_rescue(f, 77) && !exmap_quarantine_take(f, first));
	second = exmap_quarantine_bind(&bench->region, 5, 77);
	CHECK(second != first && !exmap_quarantine_take(f, first));
	CHECK(exmap_quarantine_take(f, second));
}

static const struct inode nobodys_device;

/* A region of the process that loads the module, without a mapping. */
static void test_region(struct bench *bench)
{
	struct exmap_ioctl_setup setup = { .fd = -1, .max_interfaces = 2, .buffer_size = 64 };
	struct exmap_region *region;
	struct exmap_counters counters;
	int ret, again, barrier;

	if (!current->mm)
		return;
	region = exmap_region_create(&nobodys_device);
	CHECK(!IS_ERR(region));
	if (IS_ERR(region))
		return;
	ret = exmap_region_setup(region, &setup);
	again = exmap_region_setup(region, &setup);
	barrier = exmap_region_barrier(region);
	exmap_region_counters(region, &counters);
	exmap_region_put(region);
	CHECK(!ret && again == -EBUSY && barrier == -EPROTO);
	CHECK(counters.total == 64 && counters.free == 64);
}

/* A device that is gone reads as ones; no emulation that we have does that. */
static void test_nvme_status(struct bench *bench)
{
	CHECK(exmap_nvme_status_error(NVME_CSTS_RDY) == 0);
	CHECK(exmap_nvme_status_error(0) == -EIO);
	CHECK(exmap_nvme_status_error(NVME_CSTS_RDY | NVME_CSTS_CFS) == -EIO);
	CHECK(exmap_nvme_status_error(U32_MAX) == -ENODEV);
}

static const struct {
	void (*run)(struct bench *bench);
	bool with_interface;	/* held */
} tests[] = {
	{ test_words, false },
	{ test_cache, true },
	{ test_pinned, true },
	{ test_records, true },
	{ test_quarantine, true },
	{ test_region, false },
	{ test_nvme_status, false },
};

static int run_tests(struct bench *bench)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (tests[i].with_interface)
			mutex_lock(&bench->itf->lock);
		tests[i].run(bench);
		if (tests[i].with_interface)
			mutex_unlock(&bench->itf->lock);
	}
	if (bench->failures)
		return -EINVAL;
	pr_info("exmap: self-test: %zu tests passed\n", ARRAY_SIZE(tests));
	return 0;
}

int exmap_selftest(void)
{
	struct bench *bench = kzalloc(sizeof(*bench), GFP_KERNEL);
	int ret = -ENOMEM;

	if (!bench)
		return ret;
	exmap_tlb_init(&bench->region.tlb);
	bench->itf = exmap_interface_create();
	if (!bench->itf)
		goto out;
	bench->region.ctl = bench->itf;
	exmap_netlink_region_init(&bench->region);
	ret = exmap_pool_create(&bench->region.pool, FRAMES);
	if (!ret) {
		ret = run_tests(bench);
		exmap_netlink_region_exit(&bench->region);
		exmap_pool_destroy(&bench->region.pool);
	}
	exmap_interface_destroy(bench->itf);
out:
	kfree(bench);
	return ret;
}
