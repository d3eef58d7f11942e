// SPDX-License-Identifier: MIT
/* NVMe controllers that the kernel drives: as the backing of regions, and by pread and pwrite. */
#define _GNU_SOURCE
#include "nvme_queue.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

static struct exmap_nvme_backing backing_args(void)
{
	struct exmap_nvme_open at = open_args();

	return (struct exmap_nvme_backing){ .segment = at.segment, .bus = at.bus,
					    .device = at.device, .function = at.function };
}

static int try_backing(__u64 flags)
{
	struct exmap_nvme_backing args = backing_args();
	int ret, error, fd = open("/dev/exmap", O_RDWR);

	CHECK(fd >= 0);
	args.flags = flags;
	ret = ioctl(fd, EXMAP_IOCTL_NVME_BACKING, &args);
	error = errno;
	CHECK(!close(fd));
	errno = error;
	return ret;
}

static int open_backing(void)
{
	int fd = try_backing(0);

	CHECK(fd >= 0);
	return fd;
}

static __u64 disk_pages(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);

	CHECK(size > 0);
	return (__u64)size / PAGE;
}

/* A region on the controller; its descriptor stays open. */
static struct region region_on(int fd, unsigned long pages, unsigned long pool)
{
	return open_region(pages, pool, 2, 0, fd);
}

static void *buffer_of(size_t pages)
{
	void *memory = aligned_alloc(PAGE, pages * PAGE);

	CHECK(memory);
	return memory;
}

CASE(nvme_backing_refuses_what_does_not_exist)
{
	struct exmap_nvme_backing args = backing_args(), wrong;
	struct exmap_nvme_info info = { .flags = 1 };
	int fd, other, device = open("/dev/exmap", O_RDWR);

#define REFUSES(field, value, error)                                                   \
	do {                                                                           \
		wrong = args;                                                          \
		wrong.field = value;                                                   \
		FAILS(ioctl(device, EXMAP_IOCTL_NVME_BACKING, &wrong), error);         \
	} while (0)
	REFUSES(flags, 2, EINVAL);
	REFUSES(reserved8, 1, EINVAL);
	REFUSES(reserved[3], 1, EINVAL);
	REFUSES(device, 32, EINVAL);
	REFUSES(function, 8, EINVAL);
	REFUSES(bus, 0xfe, ENODEV);
#undef REFUSES
	FAILS(ioctl(device, EXMAP_IOCTL_NVME_BACKING, NULL), EFAULT);
	fd = open_backing();
	FAILS(ioctl(fd, EXMAP_IOCTL_NVME_INFO, &info), EINVAL);
	FAILS(ioctl(fd, EXMAP_IOCTL_NVME_RESET, &info), ENOTTY);
	info = info_of(fd);
	CHECK(!info.error && !info.depth && info.nsid && info.max_transfer >= PAGE);
	CHECK(lseek(fd, 0, SEEK_END) == (off_t)(info.namespace_lbas * info.lba_size));
	other = open_backing();
	FAILS(try_backing(EXMAP_NVME_EXCLUSIVE), EBUSY);
	CHECK(!close(fd) && !close(other));
	fd = try_backing(EXMAP_NVME_EXCLUSIVE);
	CHECK(fd >= 0);
	FAILS(try_backing(0), EBUSY);
	CHECK(!close(fd));
	CHECK(!close(open_backing()));
}

CASE(nvme_is_driven_by_an_owner_or_by_the_kernel)
{
	struct region r = pool_of(64), s;
	int fd = open_backing(), queue;

	FAILS(try_queue(&r), EBUSY);
	/* a region holds its backing */
	s = region_on(fd, 64, 64);
	CHECK(!close(fd));
	FAILS(try_queue(&r), EBUSY);
	CHECK(!munmap(s.mem, s.pages * PAGE) && !munmap(s.itf[0], PAGE) && !munmap(s.itf[1], PAGE));
	CHECK(!munmap((void *)s.words, PAGE) && !close(s.fd));
	queue = try_queue(&r);
	CHECK(queue >= 0);
	FAILS(try_backing(0), EBUSY);
	CHECK(!close(queue));
	CHECK(!close(open_backing()));
	/* it need not be for the last region of the case to be checked */
	CHECK(!counters(&r).mapped);
}

CASE(nvme_backing_reads_what_was_written)
{
	enum { PAGES = 2048, FRAMES = 1024 };
	int fd = open_backing();
	struct region r = region_on(fd, PAGES, FRAMES);
	__u64 *page = buffer_of(1);
	unsigned int i;
	int changed;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1000, 0, NULL));
	for (i = 0; i < 1000; i++)
		fill(&r, i, 1, i + 1);
	/* one long run, more than a command can take */
	CHECK(!one(&r, 0, EXMAP_OP_WRITE, 0, 1000, 0, &changed) && changed == 1000);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1000, 0, NULL));
	for (i = 0; i < 1000; i += 97) {
		CHECK(pread(fd, page, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE);
		CHECK(page[0] == (__u64)(i + 1) << 32 && page[511] == ((__u64)(i + 1) << 32) + 511);
	}
	/* a vector of single pages and short runs, out of order */
	for (i = 0; i < 400; i++) {
		r.itf[0]->iov[i].value = (i * 37 % 400) * 2;
		r.itf[0]->iov[i].len = i % 3 ? 1 : 2;
	}
	CHECK(act(&r, 0, EXMAP_OP_READ, 400, 0) == 0);
	for (i = 0; i < 400; i++)
		CHECK(!r.itf[0]->iov[i].res);
	for (i = 0; i < 400; i++)
		CHECK(filled(&r, i * 2, 1, i * 2 + 1));
	for (i = 0; i < 400; i += 3)
		CHECK(filled(&r, (i * 37 % 400) * 2 + 1, 1, (i * 37 % 400) * 2 + 2));
	CHECK(counters(&r).reads == 534 && counters(&r).writes == 1000);
	CHECK(!fsync(fd));
	free(page);
}

CASE(nvme_backing_moves_pages_from_and_to_any_block)
{
	enum { PAGES = EXMAP_AT_BLOCKS_MAX, FAR = 7 };
	int fd = open_backing();
	struct region r = region_on(fd, 2048, 1024);
	struct exmap_iov *iov = r.itf[0]->iov;
	unsigned int i;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, PAGES, 0, NULL));
	for (i = 0; i < PAGES; i++) {
		fill(&r, i, 1, i + 1);
		iov[i].value = i;
		iov[i].len = 1;
		iov[PAGES + i].value = FAR * (__u64)(i * 37 % PAGES);
	}
	CHECK(!act(&r, 0, EXMAP_OP_WRITE, PAGES, EXMAP_AT_BLOCKS));
	/* the same blocks, in another order, and to other pages */
	for (i = 0; i < PAGES; i++) {
		iov[i].value = PAGES + 3 * i;
		iov[i].len = 1;
		iov[PAGES + i].value = FAR * (__u64)((PAGES - 1 - i) * 37 % PAGES);
	}
	CHECK(!act(&r, 0, EXMAP_OP_READ, PAGES, EXMAP_AT_BLOCKS));
	for (i = 0; i < PAGES; i++)
		CHECK(filled(&r, PAGES + 3 * i, 1, PAGES - i));
	CHECK(counters(&r).reads == PAGES && counters(&r).writes == PAGES);
}

CASE(nvme_backing_ends_where_the_namespace_does)
{
	int fd = open_backing();
	__u64 end = disk_pages(fd);
	struct region r = region_on(fd, end + 64, 64);
	char *page = buffer_of(2);
	int changed;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, end - 2, 4, 0, NULL));
	memset(r.mem + (end - 2) * PAGE, 0x5a, 4 * PAGE);
	CHECK(one(&r, 0, EXMAP_OP_WRITE, end - 2, 4, 0, &changed) == -ENOSPC && changed == 2);
	CHECK(!one(&r, 0, EXMAP_OP_FREE, end - 2, 4, 0, NULL));
	CHECK(one(&r, 0, EXMAP_OP_READ, end - 2, 4, 0, &changed) == -ENXIO && changed == 2);
	CHECK(mapped(&r, end - 1) && !mapped(&r, end));
	CHECK(one(&r, 0, EXMAP_OP_WRITE, end, 1, 0, NULL) == -ENOENT);

	CHECK(pread(fd, page, 2 * PAGE, (off_t)((end - 1) * PAGE)) == (ssize_t)PAGE);
	CHECK(page[0] == 0x5a && page[PAGE - 1] == 0x5a);
	CHECK(pread(fd, page, PAGE, (off_t)(end * PAGE)) == 0);
	FAILS(pwrite(fd, page, PAGE, (off_t)(end * PAGE)), ENOSPC);
	free(page);
}

CASE(nvme_backing_takes_memory_that_is_no_frame)
{
	enum { AT = 100 };
	int fd = open_backing();
	struct exmap_nvme_info info = info_of(fd);
	char *from = buffer_of(200), *to = buffer_of(200);
	size_t i, sizes[] = { info.lba_size, PAGE, 7 * PAGE, 33 * PAGE, 199 * PAGE };
	unsigned int shift;

	for (i = 0; i < 200 * PAGE; i++)
		from[i] = (char)(i * 7 + i / PAGE);
	for (i = 0; i < 5; i++) {
		/* buffers that are aligned to pages, to blocks, to nothing */
		for (shift = 0; shift < 3; shift++) {
			size_t at = shift == 0 ? 0 : shift == 1 ? 512 : 3;

			CHECK(pwrite(fd, from + at, sizes[i], AT * PAGE) == (ssize_t)sizes[i]);
			memset(to, 0, 200 * PAGE);
			CHECK(pread(fd, to + at, sizes[i], AT * PAGE) == (ssize_t)sizes[i]);
			CHECK(!memcmp(to + at, from + at, sizes[i]) && !to[at + sizes[i]]);
		}
	}
	FAILS(pread(fd, to, 100, 0), EINVAL);
	FAILS(pread(fd, to, info.lba_size, 100), EINVAL);
	FAILS(pread(fd, (char *)PAGE, PAGE, 0), EFAULT);
	FAILS(pwrite(fd, (char *)PAGE, 2 * PAGE, 0), EFAULT);
	CHECK(pread(fd, to, 0, 0) == 0);
	free(from);
	free(to);
}

CASE(nvme_backing_transfers_mapped_pages_in_place)
{
	enum { RUN = 64, OTHER = 3 };
	int fd = open_backing();
	struct region r = region_on(fd, 512, 256);
	char *other = buffer_of(OTHER);
	struct iovec iov[RUN + 2];
	unsigned int i;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 2 * RUN, 0, NULL));
	for (i = 0; i < RUN; i++) {
		fill(&r, i, 1, i + 1);
		/* pages backwards, neighbours on the medium */
		iov[i] = (struct iovec){ r.mem + (RUN - 1 - i) * PAGE, PAGE };
	}
	CHECK(pwritev(fd, iov, RUN, 300 * PAGE) == (ssize_t)(RUN * PAGE));
	for (i = 0; i < RUN; i++)
		iov[i] = (struct iovec){ r.mem + (RUN + i) * PAGE, PAGE };
	/* and memory of both kinds in one call */
	iov[RUN] = (struct iovec){ other, OTHER * PAGE };
	CHECK(preadv(fd, iov, RUN + 1, 300 * PAGE) == (ssize_t)((RUN + OTHER) * PAGE));
	for (i = 0; i < RUN; i++)
		CHECK(filled(&r, RUN + i, 1, RUN - i));
	/* an absent page is a bad address, after what came before it */
	iov[1].iov_base = r.mem + 400 * PAGE;
	CHECK(preadv(fd, iov, 2, 300 * PAGE) == (ssize_t)PAGE);
	FAILS(preadv(fd, iov + 1, 1, 300 * PAGE), EFAULT);
	free(other);
}

struct sharer {
	int fd;
	unsigned int nr;
	unsigned int rounds;
};

enum { SHARERS = 3, SHARE = 500 };

/* Writes and reads a part of the disk of its own, by a region of its own. */
static void share(void *arg)
{
	struct sharer *self = arg;
	unsigned int base = self->nr * SHARE, round, i;
	struct region r = region_on(self->fd, SHARERS * SHARE, 256);

	for (round = 1; round <= self->rounds; round++) {
		CHECK(!one(&r, 0, EXMAP_OP_ALLOC, base, 200, 0, NULL));
		for (i = 0; i < 200; i++)
			fill(&r, base + i, 1, self->nr * 1000 + round + i);
		CHECK(!one(&r, 0, EXMAP_OP_WRITE, base, 200, 0, NULL));
		CHECK(!one(&r, 0, EXMAP_OP_FREE, base, 200, 0, NULL));
		for (i = 0; i < 200; i++) {
			r.itf[0]->iov[i].value = base + i * 7 % 200;
			r.itf[0]->iov[i].len = 1;
		}
		CHECK(act(&r, 0, EXMAP_OP_READ, 200, 0) == 0);
		for (i = 0; i < 200; i++)
			CHECK(filled(&r, base + i, 1, self->nr * 1000 + round + i));
		CHECK(!one(&r, 0, EXMAP_OP_FREE, base, 200, 0, NULL));
	}
	check_conserved(r.fd);
}

static pid_t start(void (*run)(void *), void *arg)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (!child) {
		run(arg);
		_exit(0);
	}
	return child;
}

CASE(nvme_backing_is_shared_by_processes)
{
	struct sharer sharers[SHARERS];
	pid_t children[SHARERS];
	int status, i, fd = open_backing();

	for (i = 0; i < SHARERS; i++) {
		sharers[i] = (struct sharer){ .fd = fd, .nr = (unsigned int)i, .rounds = 20 };
		children[i] = start(share, &sharers[i]);
	}
	for (i = 0; i < SHARERS; i++)
		CHECK(waitpid(children[i], &status, 0) == children[i] && !status);
}

CASE(nvme_backing_has_room_for_16_pools)
{
	int fds[17], fd = open_backing(), i;

	for (i = 0; i < 17; i++) {
		fds[i] = open("/dev/exmap", O_RDWR);
		CHECK(fds[i] >= 0);
		if (i < 16)
			CHECK(!set_up(fds[i], 8, 1, 0, fd));
	}
	FAILS(set_up(fds[16], 8, 1, 0, fd), ENOSPC);
	CHECK(!close(fds[3]));
	CHECK(!set_up(fds[16], 8, 1, 0, fd));
}

CASE(nvme_backing_follows_the_size_of_a_pool)
{
	int fd = open_backing();
	struct region r = region_on(fd, 1024, 64);
	struct exmap_resize resize = { .pool_pages = 600 };
	unsigned int i;

	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 600, 0, NULL));
	for (i = 0; i < 600; i++)
		fill(&r, i, 1, i + 5);
	CHECK(!one(&r, 0, EXMAP_OP_WRITE, 0, 600, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 600, 0, NULL));
	resize.pool_pages = 100;
	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &resize));
	CHECK(!one(&r, 0, EXMAP_OP_READ, 500, 100, 0, NULL));
	for (i = 500; i < 600; i++)
		CHECK(filled(&r, i, 1, i + 5));
}

struct load {
	struct region *r;
	int fd;
	volatile bool stop;
	unsigned long good, bad;
};

/* READ in a loop; errors are counted, and must be those of a controller that fails. */
static void *read_all_the_time(void *arg)
{
	struct load *load = arg;

	while (!load->stop) {
		int ret = one(load->r, 0, EXMAP_OP_READ, 0, 64, 0, NULL);

		CHECK(!ret || ret == -EIO || ret == -ENODEV);
		if (ret)
			load->bad++;
		else
			load->good++;
		CHECK(!one(load->r, 0, EXMAP_OP_FREE, 0, 64, 0, NULL));
	}
	return NULL;
}

CASE(nvme_backing_works_again_after_a_reset)
{
	struct load load = { .fd = open_backing() };
	struct region r = region_on(load.fd, 64, 64);
	pthread_t thread;
	char path[96];
	int i;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/reset", controller());
	if (access(path, W_OK)) {
		puts("this function cannot be reset alone");
		_exit(SKIP);
	}
	load.r = &r;
	CHECK(!pthread_create(&thread, NULL, read_all_the_time, &load));
	for (i = 0; i < 5; i++) {
		unsigned long good = load.good;

		put(path, "1");
		while (*(volatile unsigned long *)&load.good == good)
			usleep(1000);
	}
	load.stop = true;
	CHECK(!pthread_join(thread, NULL));
	CHECK(!one(&r, 1, EXMAP_OP_READ, 0, 64, 0, NULL));
}

CASE(nvme_backing_that_is_given_back_under_load_is_gone)
{
	struct load load = { .fd = open_backing() };
	struct region r = region_on(load.fd, 64, 64);
	const char *name = controller();
	char *page = buffer_of(1);
	pthread_t thread;
	int fd;

	load.r = &r;
	CHECK(!pthread_create(&thread, NULL, read_all_the_time, &load));
	while (*(volatile unsigned long *)&load.good < 3)
		usleep(1000);
	give_to(name, "exmap-nvme", "nvme");
	load.stop = true;
	CHECK(!pthread_join(thread, NULL));
	CHECK(one(&r, 0, EXMAP_OP_READ, 0, 1, 0, NULL) == -ENODEV);
	FAILS(pread(load.fd, page, PAGE, 0), ENODEV);
	CHECK(info_of(load.fd).error == ENODEV);
	CHECK(!close(open_stock(name)));
	give_to(name, "nvme", "exmap-nvme");
	/* the old descriptor is not the new controller's */
	FAILS(pread(load.fd, page, PAGE, 0), ENODEV);
	fd = open_backing();
	CHECK(pread(fd, page, PAGE, 0) == (ssize_t)PAGE);
	free(page);
}

static void share_for_ever(void *arg)
{
	for (;;)
		share(arg);
}

CASE(nvme_backing_survives_users_who_are_killed)
{
	int status, round, fd = open_backing();
	struct sharer victim = { .fd = fd, .nr = 0, .rounds = 1000000 };
	struct sharer survivor = { .fd = fd, .nr = 1, .rounds = 3 };
	pid_t child;

	srandom(11);
	for (round = 0; round < (getenv("EXMAP_SLOW") ? 200 : 8); round++) {
		child = start(share_for_ever, &victim);
		usleep((useconds_t)random() % 40000);
		CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
		CHECK(WIFSIGNALED(status));
		if (round % 8 == 7)
			CHECK(!in_child(share, &survivor));
	}
}

CASE(nvme_backing_goes_around_its_queues)
{
	struct region r = region_on(open_backing(), 1024, 512);
	unsigned int i, round;

	/* one processor has one channel, of 1024 entries */
	pin_to_cpu(0);
	for (round = 0; round < 6; round++) {
		for (i = 0; i < 512; i++) {
			r.itf[0]->iov[i].value = i * 2;
			r.itf[0]->iov[i].len = 1;
		}
		CHECK(act(&r, 0, EXMAP_OP_READ, 512, 0) == 0);
		CHECK(!one(&r, 0, EXMAP_OP_FREE, 0, 1024, 0, NULL));
	}
}

/* On a disk of ci/vm run --nvme SIZE:slow, with EXMAP_SLOW_DISK=1: what waits sleeps. */
CASE(nvme_backing_sleeps_while_a_slow_device_works)
{
	struct timespec begin, end;
	int fd = open_backing();
	struct region r = region_on(fd, 1024, 512);
	time_t start = now();
	unsigned int i;
	long used, round;

	if (!getenv("EXMAP_SLOW_DISK")) {
		puts("EXMAP_SLOW_DISK does not say that the disk is slow");
		_exit(SKIP);
	}
	CHECK(!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin));
	for (round = 0; round < 4; round++) {
		for (i = 0; i < 512; i++) {
			r.itf[0]->iov[i].value = i * 2;
			r.itf[0]->iov[i].len = 1;
		}
		CHECK(act(&r, 0, EXMAP_OP_READ, 512, 0) == 0);
		for (i = 0; i < 512; i++)
			r.itf[0]->iov[i].value = i * 2 | 1ull << 52;
		CHECK(act(&r, 0, EXMAP_OP_FREE, 512, 0) == 0);
	}
	CHECK(!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end));
	used = (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000;
	printf("%ld ms of processor in %ld s\n", used, (long)(now() - start));
	CHECK(now() - start >= 3);
	/* a kernel that watches itself needs that long for its work */
	CHECK(used < (now() - start) * 500 || !access("/proc/lockdep", F_OK));
}
