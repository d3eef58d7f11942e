// SPDX-License-Identifier: MIT
/* Residency map, SCAN, page-table export, faults, resizing. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

static int scan(struct region *r, __u64 flags, __u64 start, __u64 count, __u8 *present, __u8 *accessed,
		__u8 *dirty)
{
	struct exmap_scan s = {
		.flags = flags,
		.start = start,
		.count = count,
		.present = (__u64)(unsigned long)present,
		.accessed = (__u64)(unsigned long)accessed,
		.dirty = (__u64)(unsigned long)dirty,
	};

	return ioctl(r->fd, EXMAP_IOCTL_SCAN, &s);
}

CASE(residency_map_is_read_only_and_names_each_frame_once)
{
	struct region r = open_region(2048, 1024, 1, 0, -1);
	static bool seen[1024];
	int i;

	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, EXMAP_OFF_RESIDENCY) ==
	      MAP_FAILED && errno == EACCES);
	FAILS(mprotect((void *)r.words, PAGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK(mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, r.fd, EXMAP_OFF_RESIDENCY) == MAP_FAILED);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 100, 1000, 0, NULL));
	for (i = 0; i < 2048; i++) {
		CHECK(mapped(&r, i) == (i >= 100 && i < 1100));
		if (!mapped(&r, i))
			continue;
		CHECK(EXMAP_RES_FRAME(r.words[i]) < 1024 && !seen[EXMAP_RES_FRAME(r.words[i])]);
		seen[EXMAP_RES_FRAME(r.words[i])] = true;
	}
}

CASE(pages_are_born_accessed_and_clean_and_writes_show)
{
	struct region r = open_region(2048, 1024, 1, 0, -1);
	__u8 present[2] = { 0xff, 0xff }, accessed[2], dirty[2];

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 1, 2, 0, NULL));
	CHECK(!scan(&r, 0, 0, 10, present, accessed, dirty));
	CHECK(present[0] == 6 && !present[1] && accessed[0] == 6 && !dirty[0]);
	r.mem[2 * PAGE] = 1;
	CHECK(!scan(&r, EXMAP_SCAN_CLEAR_ACCESSED | EXMAP_SCAN_CLEAR_DIRTY, 0, 10, present, accessed,
		    dirty));
	CHECK(dirty[0] == 4);
	CHECK(!scan(&r, 0, 0, 10, NULL, accessed, dirty));
	CHECK(!dirty[0] && !accessed[0]);
	(void)*(volatile char *)(r.mem + PAGE);
	CHECK(!scan(&r, 0, 0, 10, NULL, accessed, dirty));
	CHECK(!dirty[0] && accessed[0] == 2);
}

CASE(bad_scans_are_refused_and_a_fault_loses_no_bit)
{
	struct region r = open_region(2048, 1024, 1, 0, -1);
	__u8 dirty[256], *gone = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct exmap_scan s = { .flags = EXMAP_SCAN_VECTOR, .start = 1, .count = 1 };

	FAILS(scan(&r, 8, 0, 1, NULL, NULL, dirty), EINVAL);
	FAILS(scan(&r, EXMAP_SCAN_CLEAR_DIRTY, 0, 1, dirty, dirty, NULL), EINVAL);
	FAILS(scan(&r, EXMAP_SCAN_CLEAR_ACCESSED, 0, 1, dirty, NULL, dirty), EINVAL);
	FAILS(scan(&r, 0, ~0ull, 2, NULL, NULL, dirty), EINVAL);
	FAILS(scan(&r, 0, 2000, 100, NULL, NULL, dirty), EFAULT);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SCAN, &s), EINVAL);
	s.start = 0;
	FAILS(ioctl(r.fd, EXMAP_IOCTL_SCAN, &s), EFAULT);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 600, 0, NULL));
	memset(r.mem, 1, 600 * PAGE);
	FAILS(scan(&r, EXMAP_SCAN_CLEAR_DIRTY, 0, 600, NULL, NULL, gone), EFAULT);
	CHECK(!scan(&r, 0, 0, 600, NULL, NULL, dirty));
	CHECK(dirty[0] == 0xff && dirty[74] == 0xff);
}

static volatile int stop;

static void *keep_writing(void *arg)
{
	pin_to_cpu(1);
	while (!stop)
		++*(volatile long *)arg;
	return NULL;
}

CASE(a_write_through_a_warm_tlb_is_seen_by_the_next_scan)
{
	struct region r = open_region(2048, 1024, 1, 0, -1);
	pthread_t thread;
	__u8 dirty;
	int round;

	pin_to_cpu(0);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1, 0, NULL));
	CHECK(!pthread_create(&thread, NULL, keep_writing, r.mem));
	for (round = 0; round < 200; round++) {
		long before;

		CHECK(!scan(&r, EXMAP_SCAN_CLEAR_DIRTY, 0, 1, NULL, NULL, &dirty));
		before = *(volatile long *)r.mem;
		while (*(volatile long *)r.mem < before + 2)
			;
		CHECK(!scan(&r, 0, 0, 1, NULL, NULL, &dirty));
		CHECK(dirty == 1);
	}
	stop = 1;
	CHECK(!pthread_join(thread, NULL));
}

CASE(page_tables_are_exported_read_only_to_the_privileged)
{
	struct region r = open_region(1024, 256, 1, 0, -1), odd = open_region(1000, 16, 1, 0, -1);
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	const __u64 *entries;
	int i;

	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, odd.fd, EXMAP_OFF_PTEXPORT) == MAP_FAILED &&
	      errno == EFAULT);
	CHECK(mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, r.fd, EXMAP_OFF_PTEXPORT) == MAP_FAILED &&
	      errno == EOVERFLOW);
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, EXMAP_OFF_PTEXPORT) ==
	      MAP_FAILED && errno == EACCES);
	entries = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, r.fd, EXMAP_OFF_PTEXPORT);
	CHECK(entries != MAP_FAILED);
	FAILS(mprotect((void *)entries, PAGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 500, 100, 0, NULL));
	for (i = 0; i < 1024; i++)
		CHECK((entries[i] & 1) == mapped(&r, i));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 500, 50, EXMAP_FREE_LAZY, NULL));
	for (i = 0; i < 1024; i++)
		CHECK((entries[i] & 1) == mapped(&r, i));
	CHECK(!munmap(r.mem, r.pages * PAGE));
	CHECK(!entries[560]);
	CHECK(!syscall(SYS_capset, &header, data));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, odd.fd, EXMAP_OFF_PTEXPORT) == MAP_FAILED &&
	      errno == EPERM);
}

CASE(touching_an_absent_page_is_a_segmentation_fault)
{
	struct region r = open_region(1024, 256, 1, 0, -1);

	CHECK(touch_signal(r.mem + 600 * PAGE, false) == SIGSEGV);
	CHECK(touch_signal(r.mem, true) == SIGSEGV);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1, 0, NULL));
	CHECK(!touch_signal(r.mem, true));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1, 0, NULL));
	CHECK(touch_signal(r.mem, true) == SIGSEGV);
}

CASE(fault_alloc_maps_on_touch_until_the_pool_is_dry)
{
	struct region r = open_region(1024, 64, 2, EXMAP_FAULT_ALLOC, -1);
	int i;

	for (i = 0; i < 64; i++)
		CHECK(!touch_signal(r.mem + i * 3 * PAGE, i & 1));
	CHECK(counters(&r).mapped == 64 && counters(&r).faults == 64);
	CHECK(touch_signal(r.mem + 1000 * PAGE, true) == SIGBUS);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 3, 0, NULL));
	CHECK(!touch_signal(r.mem + 1000 * PAGE, true));
}

CASE(fault_zero_shows_zeros_and_forbids_writes)
{
	struct region r = open_region(1024, 64, 1, EXMAP_FAULT_ZERO, backing_file(20));
	int i;

	for (i = 0; i < 100; i++)
		CHECK(!touch_signal(r.mem + i * PAGE, false) && !r.mem[i * PAGE]);
	CHECK(touch_signal(r.mem + 5 * PAGE, true) == SIGSEGV);
	CHECK(touch_signal(r.mem + 500 * PAGE, true) == SIGSEGV);
	CHECK(!mapped(&r, 5) && !counters(&r).mapped);
	CHECK(!one(&r, 0, EXMAP_OP_READ, 5, 1, 0, NULL));
	CHECK(r.mem[5 * PAGE] == 5);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 6, 1, 0, NULL));
	CHECK(!touch_signal(r.mem + 6 * PAGE, true));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 5, 2, 0, NULL));
	CHECK(!touch_signal(r.mem + 5 * PAGE, false) && !r.mem[5 * PAGE]);
}

CASE(resize_refuses_what_it_cannot_do_and_changes_nothing)
{
	struct region r = open_region(4096, 1000, 2, 0, -1);
	struct exmap_resize resize = { .pool_pages = 800 };

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 900, 0, NULL));
	FAILS(ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize), EBUSY);
	CHECK(counters(&r).total == 1000 && counters(&r).mapped == 900);
	resize.pool_pages = 0;
	FAILS(ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize), EINVAL);
	resize = (struct exmap_resize){ .pool_pages = 2000, .reserved = { 0, 1 } };
	FAILS(ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize), EINVAL);
	resize.reserved[1] = 0;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 1000, 1100, 0, NULL));
	memset(r.mem + 1000 * PAGE, 1, 1100 * PAGE);
	CHECK(!one(&r, 1, EXMAP_OP_FREE, 1000, 1100, EXMAP_FREE_LAZY, NULL));
	resize.pool_pages = 900;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize) && resize.pool_pages == 900);
	CHECK(one(&r, 1, EXMAP_OP_ALLOC, 3000, 1, 0, NULL) == -ENOMEM);
}
