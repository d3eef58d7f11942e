// SPDX-License-Identifier: MIT
/* What a region costs its owner: RLIMIT_MEMLOCK, the memory cgroup, and that it all comes back. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define MIB (1l << 20)
/* The kernel charges in advance: up to 64 pages a CPU. */
#define SLACK (2 * MIB)

static int device(void)
{
	int fd = open("/dev/exmap", O_RDWR);

	CHECK(fd >= 0);
	return fd;
}

static int resize(int fd, unsigned long pages)
{
	struct exmap_resize args = { .pool_pages = pages };

	return ioctl(fd, EXMAP_IOCTL_RESIZE, &args);
}

static long locked_pages(pid_t pid)
{
	char path[64], line[128];
	long kib = -1;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = fopen(path, "r");
	CHECK(status);
	while (fgets(line, sizeof(line), status))
		sscanf(line, "VmLck: %ld", &kib);
	fclose(status);
	CHECK(kib >= 0);
	return kib / 4;
}

static long locked(void)
{
	return locked_pages(getpid());
}

/* From now on an ordinary user, who may lock so many pages. */
static void become_nobody(unsigned long pages)
{
	struct rlimit limit = { pages * PAGE, pages * PAGE };

	CHECK(!setrlimit(RLIMIT_MEMLOCK, &limit));
	CHECK(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534));
}

CASE(memlock_is_exact_to_the_page)
{
	int fd = device(), other = device();

	become_nobody(1000);
	FAILS(set_up(fd, 1001, 1, 0, -1), ENOMEM);
	CHECK(!locked());
	CHECK(!set_up(fd, 1000, 1, 0, -1));
	CHECK(locked() == 1000);
	FAILS(set_up(other, 1, 1, 0, -1), ENOMEM);
	CHECK(!resize(fd, 999));
	CHECK(!set_up(other, 1, 1, 0, -1));
	FAILS(resize(other, 2), ENOMEM);
	check_conserved(other);
	CHECK(!resize(fd, 900) && !resize(other, 100));
	FAILS(resize(fd, 901), ENOMEM);
	check_conserved(fd);
	CHECK(locked() == 1000);
	close(fd);
	CHECK(locked() == 100);
	CHECK(!resize(other, 1000));
	FAILS(resize(other, 1001), ENOMEM);
	close(other);
	CHECK(!locked());
}

CASE(memlock_counts_what_the_process_has_locked_itself)
{
	void *mem = mmap(NULL, 10 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = device();

	become_nobody(100);
	CHECK(!mlock(mem, 10 * PAGE));
	FAILS(set_up(fd, 91, 1, 0, -1), ENOMEM);
	CHECK(!set_up(fd, 90, 1, 0, -1));
	CHECK(locked() == 100);
}

CASE(memlock_does_not_bind_the_privileged)
{
	struct rlimit limit = { PAGE, PAGE };
	int fd = device();

	CHECK(!setrlimit(RLIMIT_MEMLOCK, &limit));
	CHECK(!set_up(fd, 1000, 1, 0, -1));
	CHECK(locked() == 1000);
}

CASE(memlock_is_not_charged_for_a_setup_that_failed)
{
	int fd = device(), busy = device();

	FAILS(set_up(fd, 1000, 1, 0, 999), EBADF);
	FAILS(set_up(fd, 1000, 257, 0, -1), EINVAL);
	CHECK(mmap(NULL, 16 * PAGE, PROT_READ, MAP_SHARED, busy, 0) != MAP_FAILED);
	/* fails at the very end, when everything has been allocated */
	FAILS(set_up(busy, 1000, 1, EXMAP_FAULT_ZERO, -1), EBUSY);
	CHECK(!locked());
	CHECK(!set_up(fd, 1000, 1, 0, -1));
	FAILS(set_up(fd, 1000, 1, 0, -1), EBUSY);
	FAILS(resize(fd, 0), EINVAL);
	FAILS(resize(fd, EXMAP_POOL_MAX_PAGES + 1), EINVAL);
	CHECK(locked() == 1000);
}

CASE(memlock_returns_when_the_last_descriptor_goes_wherever_it_is)
{
	int fd = device(), ready[2], go[2], status;
	pid_t child;
	char byte;

	CHECK(!set_up(fd, 1000, 1, 0, -1));
	CHECK(!pipe(ready) && !pipe(go));
	child = fork();
	if (!child) {
		CHECK(!locked()); /* limits and charges are not inherited */
		CHECK(write(ready[1], "", 1) == 1 && read(go[0], &byte, 1) == 1);
		_exit(0);
	}
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1);
	close(fd);
	CHECK(locked() == 1000);
	CHECK(write(go[1], "", 1) == 1);
	CHECK(waitpid(child, &status, 0) == child && !status);
	CHECK(!locked());
}

/* A memory cgroup of its own; the test is skipped where there is none. */
struct cgroup {
	char path[128];
};

static void write_group(const struct cgroup *group, const char *name, const char *text)
{
	char path[192];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", group->path, name);
	fd = open(path, O_WRONLY);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* The number in a file, or, with @key, the number that follows this word. */
static long read_group(const struct cgroup *group, const char *name, const char *key)
{
	char path[192], word[64];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", group->path, name);
	file = fopen(path, "r");
	CHECK(file);
	if (!key)
		CHECK(fscanf(file, "%ld", &value) == 1);
	while (key && value < 0 && fscanf(file, "%63s", word) == 1)
		if (!strcmp(word, key))
			CHECK(fscanf(file, "%ld", &value) == 1);
	fclose(file);
	return value;
}

static struct cgroup make_group(long max)
{
	const struct cgroup root = { "/sys/fs/cgroup" };
	struct cgroup group;
	char number[32];

	/* made by the memory controller */
	if (access("/sys/fs/cgroup/cgroup.subtree_control", W_OK) ||
	    access("/sys/fs/cgroup/memory.stat", R_OK)) {
		puts("no cgroup v2 with a memory controller at /sys/fs/cgroup");
		_exit(SKIP);
	}
	write_group(&root, "cgroup.subtree_control", "+memory");
	snprintf(group.path, sizeof(group.path), "/sys/fs/cgroup/exmap-%d", getpid());
	CHECK(!mkdir(group.path, 0755));
	snprintf(number, sizeof(number), "%ld", max);
	write_group(&group, "memory.max", number);
	return group;
}

static void join_group(const struct cgroup *group)
{
	write_group(group, "cgroup.procs", "0");
}

/* The child's last charges are dropped a moment after it is gone. */
static long settled(const struct cgroup *group, long wanted)
{
	int i;

	for (i = 0; i < 500 && read_group(group, "memory.current", NULL) > wanted; i++)
		usleep(10000);
	return read_group(group, "memory.current", NULL);
}

static void leave_group(const struct cgroup *group)
{
	int i;

	CHECK(settled(group, SLACK) <= SLACK);
	CHECK(read_group(group, "memory.events", "oom_kill") == 0);
	for (i = 0; i < 100 && rmdir(group->path); i++)
		usleep(10000);
	CHECK(access(group->path, F_OK));
}

static void hold_and_return_a_pool(void *arg)
{
	const struct cgroup *group = arg;
	int fd = device();
	long before;

	join_group(group);
	before = read_group(group, "memory.current", NULL);
	CHECK(!set_up(fd, 8192, 1, 0, -1));
	CHECK(read_group(group, "memory.current", NULL) - before >= 32 * MIB);
	CHECK(read_group(group, "memory.current", NULL) - before <= 32 * MIB + SLACK);
	CHECK(!resize(fd, 4096));
	CHECK(read_group(group, "memory.current", NULL) - before <= 16 * MIB + SLACK);
	CHECK(!resize(fd, 12288));
	CHECK(read_group(group, "memory.current", NULL) - before >= 48 * MIB);
	close(fd);
	CHECK(settled(group, before + SLACK) <= before + SLACK);
}

CASE(cgroup_is_charged_for_the_pool_and_gets_it_back)
{
	struct cgroup group = make_group(256 * MIB);

	CHECK(!in_child(hold_and_return_a_pool, &group));
	leave_group(&group);
}

static void ask_for_too_much(void *arg)
{
	const struct cgroup *group = arg;
	int fd = device();
	long before;

	join_group(group);
	before = read_group(group, "memory.current", NULL);
	FAILS(set_up(fd, 16384, 1, 0, -1), ENOMEM);
	CHECK(!locked());
	CHECK(settled(group, before + SLACK) <= before + SLACK);
	CHECK(!set_up(fd, 4096, 1, 0, -1));
	FAILS(resize(fd, 16384), ENOMEM);
	CHECK(locked() == 4096);
	check_conserved(fd);
	CHECK(read_group(group, "memory.current", NULL) <= before + 16 * MIB + SLACK);
	CHECK(!resize(fd, 5000));
}

CASE(cgroup_limit_gives_enomem_and_kills_nobody)
{
	struct cgroup group = make_group(32 * MIB);

	CHECK(!in_child(ask_for_too_much, &group));
	leave_group(&group);
}

static void ask_for_large_tables(void *arg)
{
	int fd = device();

	join_group(arg);
	/* the table of frames alone is larger than the limit, and so are the interfaces */
	FAILS(set_up(fd, 1 << 20, 1, 0, -1), ENOMEM);
	FAILS(set_up(fd, 64, 256, 0, -1), ENOMEM);
}

CASE(cgroup_limit_below_the_tables_gives_enomem_too)
{
	struct cgroup group = make_group(8 * MIB);

	CHECK(!in_child(ask_for_large_tables, &group));
	leave_group(&group);
}

static void fill_a_pool_and_die(void *arg)
{
	struct region r;

	join_group(arg);
	r = open_region(8192, 8192, 2, 0, -1);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 4095, 0, NULL));
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 4096, 4000, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 100, 1000, EXMAP_FREE_LAZY, NULL));
	CHECK(read_group(arg, "memory.current", NULL) >= 32 * MIB);
	raise(SIGKILL);
}

CASE(cgroup_gets_everything_back_after_kill)
{
	struct cgroup group = make_group(256 * MIB);
	int status = in_child(fill_a_pool_and_die, &group);

	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	leave_group(&group);
}

static void live_a_life(void)
{
	struct region r = open_region(1024, 32, 2, 0, -1);

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 16, 0, NULL));
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 600, 16, 0, NULL));
	CHECK(!one(&r, 0, EXMAP_OP_FREE, 4, 8, EXMAP_FREE_LAZY, NULL));
	CHECK(!munmap(r.mem, r.pages * PAGE) && !munmap((void *)r.words, PAGE));
	CHECK(!munmap(r.itf[0], PAGE) && !munmap(r.itf[1], PAGE));
	CHECK(!close(r.fd));
}

#define LIVES 1000

struct usage {
	long bytes;
	long slab;
};

static struct usage read_usage(const struct cgroup *group)
{
	return (struct usage) {
		.bytes = read_group(group, "memory.current", NULL),
		.slab = read_group(group, "memory.stat", "slab_unreclaimable"),
	};
}

/* Half a page, and half of the smallest object, for each region. */
static bool something_is_lost(struct usage before, struct usage now)
{
	return now.bytes - before.bytes >= LIVES * (long)PAGE / 2 || now.slab - before.slab >= LIVES * 8;
}

static void live_many_lives(void *arg)
{
	const struct cgroup *group = arg;
	struct usage before, now;
	int i;

	join_group(group);
	/* some stay, so that there is something to see: the kernel counts in pages */
	for (i = 0; i < 16; i++)
		open_region(1024, 32, 2, 0, -1);
	for (i = 0; i < 100; i++)
		live_a_life();
	/* the kernel gathers statistics every two seconds, if it gets to it */
	for (i = 0, before = read_usage(group); i < 30 && !before.slab; i++) {
		sleep(3);
		before = read_usage(group);
	}
	CHECK(before.slab > 0);
	for (i = 0; i < LIVES; i++)
		live_a_life();
	/* what RCU has not freed yet is not lost; what is lost stays so */
	for (i = 0, now = before; i < 10; i++) {
		sleep(3);
		now = read_usage(group);
		if (!something_is_lost(before, now))
			break;
	}
	printf("%d regions: %ld bytes, of them %ld of slab\n", LIVES, now.bytes - before.bytes,
	       now.slab - before.slab);
	CHECK(!something_is_lost(before, now));
}

CASE(cgroup_loses_not_an_object_to_a_region_that_was_closed)
{
	struct cgroup group = make_group(256 * MIB);

	CHECK(!in_child(live_many_lives, &group));
	leave_group(&group);
}
