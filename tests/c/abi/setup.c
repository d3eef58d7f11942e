// SPDX-License-Identifier: MIT
/* SETUP, mmap, CLONE, STATS, INFO, TUNE, RESIZE. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <linux/capability.h>

static int device(void)
{
	int fd = open("/dev/exmap", O_RDWR);

	CHECK(fd >= 0);
	return fd;
}

static void *map(int fd, unsigned long length, int protection, int flags, __u64 offset)
{
	return mmap(NULL, length, protection, flags, fd, (off_t)offset);
}

CASE(setup_refuses_bad_fields)
{
	int fd = device();

	FAILS(set_up(fd, 16, 0, 0, -1), EINVAL);
	FAILS(set_up(fd, 16, 257, 0, -1), EINVAL);
	FAILS(set_up(fd, 16, (unsigned int)-1, 0, -1), EINVAL);
	FAILS(set_up(fd, 0, 1, 0, -1), EINVAL);
	FAILS(set_up(fd, EXMAP_POOL_MAX_PAGES + 1, 1, 0, -1), EINVAL);
	FAILS(set_up(fd, 16, 1, 1, -1), EINVAL);
	FAILS(set_up(fd, 16, 1, 64, -1), EINVAL);
	FAILS(set_up(fd, 16, 1, EXMAP_FAULT_ALLOC | EXMAP_FAULT_ZERO, -1), EINVAL);
	FAILS(ioctl(fd, EXMAP_IOCTL_SETUP, NULL), EFAULT);
	FAILS(ioctl(fd, 0x6b63, NULL), ENOTTY);
	CHECK(!set_up(fd, 16, 256, 0, -1));
	FAILS(set_up(fd, 16, 1, 0, -1), EBUSY);
	check_conserved(fd);
}

CASE(setup_refuses_bad_backings)
{
	int fd = device(), ends[2], file = backing_file(1);
	char path[64];

	CHECK(!pipe(ends));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	FAILS(set_up(fd, 16, 1, 0, ends[0]), EBADF);
	FAILS(set_up(fd, 16, 1, 0, 999), EBADF);
	FAILS(set_up(fd, 16, 1, 0, open(path, O_WRONLY)), EBADF);
	FAILS(set_up(fd, 16, 1, 0, open(path, O_RDWR | O_APPEND)), EBADF);
	FAILS(set_up(fd, 16, 1, 0, fd), EBADF);
	CHECK(!set_up(fd, 16, 1, 0, file));
}

static long locked_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *status = fopen("/proc/self/status", "r");

	CHECK(status);
	while (fgets(line, sizeof(line), status))
		sscanf(line, "VmLck: %ld", &kib);
	fclose(status);
	CHECK(kib >= 0);
	return kib;
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	CHECK(!syscall(SYS_capset, &header, data));
}

CASE(pool_is_charged_to_memlock_and_returned)
{
	struct rlimit limit = { 4096 * PAGE, 4096 * PAGE };
	struct exmap_resize resize = { .pool_pages = 3000 };
	long before = locked_kib();
	int fd = device();

	CHECK(!setrlimit(RLIMIT_MEMLOCK, &limit));
	drop_capabilities();
	FAILS(set_up(fd, 5000, 1, 0, -1), ENOMEM);
	CHECK(locked_kib() == before);
	CHECK(!set_up(fd, 2000, 1, 0, -1));
	CHECK(locked_kib() == before + 8000);
	CHECK(!ioctl(fd, EXMAP_IOCTL_RESIZE, &resize) && resize.pool_pages == 3000);
	CHECK(locked_kib() == before + 12000);
	resize.pool_pages = 5000;
	FAILS(ioctl(fd, EXMAP_IOCTL_RESIZE, &resize), ENOMEM);
	CHECK(locked_kib() == before + 12000);
	resize.pool_pages = 1000;
	CHECK(!ioctl(fd, EXMAP_IOCTL_RESIZE, &resize));
	CHECK(locked_kib() == before + 4000);
	close(fd);
	CHECK(locked_kib() == before);
}

CASE(region_is_mapped_once_shared_aligned_and_not_executable)
{
	unsigned long length = 600 * PAGE;
	int fd = device();
	char *mem, *odd;

	CHECK(map(fd, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0) == MAP_FAILED && errno == EINVAL);
	/* EPERM where /dev is mounted noexec */
	CHECK(map(fd, length, PROT_READ | PROT_EXEC, MAP_SHARED, 0) == MAP_FAILED);
	CHECK(map(fd, length, PROT_READ, MAP_SHARED, 0x3000) == MAP_FAILED && errno == EINVAL);
	odd = mmap(NULL, 8 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	odd = (char *)(((unsigned long)odd + (2 << 20)) & ~((2ul << 20) - 1)) + PAGE;
	CHECK(mmap(odd, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED &&
	      errno == EINVAL);
	mem = map(fd, length, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	CHECK(mem != MAP_FAILED && !((unsigned long)mem & ((2 << 20) - 1)));
	CHECK(map(fd, length, PROT_READ, MAP_SHARED, 0) == MAP_FAILED && errno == EBUSY);
	CHECK(!set_up(fd, 16, 1, 0, -1));
}

CASE(interface_pages_exist_after_setup_one_each)
{
	int fd = device();

	CHECK(map(fd, PAGE, PROT_READ, MAP_SHARED, EXMAP_OFF_INTERFACE(0)) == MAP_FAILED);
	CHECK(errno == ENXIO);
	CHECK(!set_up(fd, 16, 2, 0, -1));
	CHECK(map(fd, PAGE, PROT_READ, MAP_SHARED, EXMAP_OFF_INTERFACE(2)) == MAP_FAILED);
	CHECK(errno == ENXIO);
	CHECK(map(fd, 2 * PAGE, PROT_READ, MAP_SHARED, EXMAP_OFF_INTERFACE(0)) == MAP_FAILED);
	CHECK(errno == EINVAL);
	CHECK(map(fd, PAGE, PROT_READ, MAP_PRIVATE, EXMAP_OFF_INTERFACE(0)) == MAP_FAILED);
	CHECK(map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, EXMAP_OFF_INTERFACE(1)) != MAP_FAILED);
}

CASE(fault_zero_wants_setup_before_mmap)
{
	int fd = device();

	CHECK(map(fd, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0) != MAP_FAILED);
	FAILS(set_up(fd, 16, 1, EXMAP_FAULT_ZERO, -1), EBUSY);
	CHECK(!set_up(fd, 16, 1, 0, -1));
}

CASE(clone_shares_a_region_and_refuses_strangers)
{
	struct region r = open_region(1024, 64, 1, 0, -1);
	int other = device(), used = device(), null = open("/dev/null", O_RDWR), changed;

	CHECK(!set_up(used, 16, 1, 0, -1));
	FAILS(ioctl(used, EXMAP_IOCTL_CLONE, r.fd), EINVAL);
	FAILS(ioctl(other, EXMAP_IOCTL_CLONE, null), EINVAL);
	FAILS(ioctl(other, EXMAP_IOCTL_CLONE, 999), EBADF);
	FAILS(ioctl(other, EXMAP_IOCTL_CLONE, other), EINVAL);
	CHECK(!ioctl(other, EXMAP_IOCTL_CLONE, r.fd));
	FAILS(ioctl(other, EXMAP_IOCTL_CLONE, used), EINVAL);
	close(r.fd);
	r.fd = other;
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 5, 3, 0, &changed) && changed == 3);
	r.mem[5 * PAGE] = 1;
	check_conserved(other);
}

CASE(info_stats_and_tune_tell_the_settings)
{
	struct region r = open_region(1024, 64, 2, EXMAP_FAULT_ALLOC, -1);
	struct exmap_info info = { .flags = 1 };
	struct exmap_tune tune = { .flush_threshold = EXMAP_FLUSH_THRESHOLD_MAX + 1 };
	struct exmap_ioctl_stats stats;

	FAILS(ioctl(r.fd, EXMAP_IOCTL_INFO, &info), EINVAL);
	info.flags = 0;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_INFO, &info));
	CHECK(info.abi_version == EXMAP_ABI_VERSION && info.page_size == PAGE);
	CHECK(info.region_pages == 1024 && info.pool_pages == 64 && info.max_interfaces == 2);
	CHECK(info.setup_flags == EXMAP_FAULT_ALLOC && info.chunk_pages == 512);
	FAILS(ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune), EINVAL);
	tune.flush_threshold = 77;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune));
	tune.flush_threshold = 0;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune) && tune.flush_threshold == 77);
	tune.reserved[1] = 1;
	FAILS(ioctl(r.fd, EXMAP_IOCTL_TUNE, &tune), EINVAL);
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 0, 7, 0, NULL));
	memset(&stats, 0xff, sizeof(stats));
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_STATS, &stats));
	CHECK(stats.buffer_size == 64 && stats.alloc_count == 7 && stats.max_interfaces == 2);
}
