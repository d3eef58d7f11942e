// SPDX-License-Identifier: MIT
/* What the kernel does to a region: munmap, madvise, mremap, mprotect, fork, exec, kill. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

static struct region filled(void)
{
	struct region r = open_region(2048, 1024, 4, 0, -1);
	int i;

	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 1000, 0, NULL));
	for (i = 0; i < 1000; i++)
		memset(r.mem + i * PAGE, i, PAGE);
	return r;
}

static void check_filled(struct region *r)
{
	int i;

	for (i = 0; i < 1000; i++)
		CHECK(mapped(r, i) && r->mem[i * PAGE] == (char)i && r->mem[i * PAGE + 4095] == (char)i);
	CHECK(counters(r).mapped == 1000);
}

CASE(munmap_of_all_frees_every_page_and_ends_the_region)
{
	struct region r = filled();
	struct exmap_counters c;

	CHECK(!munmap(r.mem, r.pages * PAGE));
	c = counters(&r);
	CHECK(!c.mapped && c.free == c.total);
	CHECK(!mapped(&r, 5));
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, 0), EPROTO);
	CHECK(mmap(NULL, r.pages * PAGE, PROT_READ, MAP_SHARED, r.fd, 0) == MAP_FAILED && errno == EBUSY);
}

CASE(munmap_of_a_part_is_refused)
{
	struct region r = filled();

	FAILS(munmap(r.mem, PAGE), EINVAL);
	FAILS(munmap(r.mem + 512 * PAGE, 512 * PAGE), EINVAL);
	CHECK(mmap(r.mem + 5 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      MAP_FAILED);
	/* mmap of 6.1 hides the reason */
	CHECK(errno == EINVAL || errno == ENOMEM);
	check_filled(&r);
}

CASE(mremap_moves_nothing)
{
	struct region r = filled();
	unsigned long length = r.pages * PAGE;

	CHECK(mremap(r.mem, length, 2 * length, 0) == MAP_FAILED);
	CHECK(mremap(r.mem, length, 2 * length, MREMAP_MAYMOVE) == MAP_FAILED);
	CHECK(mremap(r.mem, length, length / 2, 0) == MAP_FAILED);
	CHECK(mremap(r.mem, 0, length, MREMAP_MAYMOVE) == MAP_FAILED);
	CHECK(mremap(r.mem, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, r.mem + (1ul << 36)) ==
	      MAP_FAILED);
	check_filled(&r);
}

CASE(mprotect_is_refused)
{
	struct region r = filled();

	FAILS(mprotect(r.mem, r.pages * PAGE, PROT_READ), EACCES);
	CHECK(mprotect(r.mem, PAGE, PROT_NONE) == -1);
	check_filled(&r);
}

CASE(madvise_dontneed_means_free)
{
	struct region r = filled();

	CHECK(!madvise(r.mem + 3 * PAGE, PAGE, MADV_DONTNEED));
	CHECK(!mapped(&r, 3) && mapped(&r, 2) && mapped(&r, 4));
	CHECK(!madvise(r.mem + 500 * PAGE, 100 * PAGE, MADV_DONTNEED));
	CHECK(counters(&r).mapped == 899 && !counters(&r).quarantine);
	CHECK(touch_signal(r.mem + 3 * PAGE, false) == SIGSEGV);
	CHECK(!madvise(r.mem, r.pages * PAGE, MADV_DONTNEED));
	CHECK(!counters(&r).mapped && counters(&r).free == 1024);
	CHECK(!one(&r, 1, EXMAP_OP_ALLOC, 0, 1000, 0, NULL));
	r.mem[999 * PAGE] = 1;
	FAILS(madvise(r.mem, PAGE, MADV_FREE), EINVAL);
}

CASE(other_advice_and_looks_from_outside_do_no_harm)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_HUGEPAGE, MADV_MERGEABLE,
				      MADV_POPULATE_READ, MADV_WILLNEED, MADV_RANDOM };
	static const char *const files[] = { "smaps", "pagemap", "numa_maps", "maps", "smaps_rollup" };
	struct region r = filled();
	char path[64], buffer[65536];
	unsigned int i;
	int fd;

	for (i = 0; i < sizeof(advice) / sizeof(*advice); i++)
		madvise(r.mem, 1000 * PAGE, advice[i]);
	for (i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		if (!strcmp(files[i], "pagemap"))
			CHECK(pread(fd, buffer, 8000, (long)r.mem / PAGE * 8) == 8000);
		else
			while (read(fd, buffer, sizeof(buffer)) > 0)
				;
		close(fd);
	}
	fd = open("/proc/self/clear_refs", O_WRONLY);
	CHECK(fd >= 0 && write(fd, "1", 1) == 1 && write(fd, "4", 1) == 1);
	mlockall(MCL_CURRENT);
	check_filled(&r);
	memset(r.mem, 0, PAGE);
	memset(r.mem, 0, PAGE);
}

static void try_from_child(void *arg)
{
	struct region *r = arg;

	FAILS(act(r, 0, EXMAP_OP_ALLOC, 1, 0), EPERM);
	FAILS(pread(r->fd, r->mem, PAGE, EXMAP_OP_ALLOC << 8), EPERM);
	CHECK(touch_signal(r->mem, false));
}

CASE(a_child_of_fork_has_no_part_in_the_region)
{
	struct region r = filled();

	CHECK(!in_child(try_from_child, &r));
	/* now fork is asked to copy the mapping */
	let_fork_copy(r.mem, r.pages * PAGE);
	CHECK(!in_child(try_from_child, &r));
	check_filled(&r);
}

static void exec_self(void *arg)
{
	struct region *r = arg;
	char number[16];

	snprintf(number, sizeof(number), "%d", r->fd);
	setenv("ABI_FD", number, 1);
	execl("/proc/self/exe", "abi", "run", "helper_calls_on_an_inherited_descriptor", NULL);
}

CASE(helper_calls_on_an_inherited_descriptor)
{
	struct region r = { .fd = getenv("ABI_FD") ? atoi(getenv("ABI_FD")) : -1 };

	if (r.fd < 0)
		return;
	FAILS(act(&r, 0, EXMAP_OP_ALLOC, 1, 0), EPERM);
	check_conserved(r.fd);
}

static void open_and_exec(void *arg)
{
	struct region r = filled();

	(void)arg;
	exec_self(&r);
}

CASE(exec_ends_the_region_for_the_new_image)
{
	struct region r = filled();

	CHECK(!in_child(exec_self, &r));
	CHECK(!in_child(open_and_exec, NULL));
	check_filled(&r);
}

CASE(closing_the_descriptor_keeps_the_mapping)
{
	struct region r = filled();
	int i;

	close(r.fd);
	for (i = 0; i < 1000; i++)
		CHECK(r.mem[i * PAGE] == (char)i);
	CHECK(!munmap(r.mem, r.pages * PAGE));
}

CASE(other_processes_read_and_write_by_process_vm_calls)
{
	struct region r = filled();
	int status;
	pid_t child;

	child = fork();
	if (!child) {
		struct iovec remote = { r.mem + 7 * PAGE, PAGE };
		char buffer[PAGE];
		struct iovec local = { buffer, PAGE };

		CHECK(process_vm_readv(getppid(), &local, 1, &remote, 1, 0) == (long)PAGE);
		CHECK(buffer[100] == 7);
		memset(buffer, 99, PAGE);
		CHECK(process_vm_writev(getppid(), &local, 1, &remote, 1, 0) == (long)PAGE);
		remote.iov_base = r.mem + 1500 * PAGE;
		FAILS(process_vm_readv(getppid(), &local, 1, &remote, 1, 0), EFAULT);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && !status);
	CHECK(r.mem[7 * PAGE + 55] == 99);
}

static volatile bool enough;

static void *churn(void *arg)
{
	struct region *r = ((void **)arg)[0];
	unsigned int id = (unsigned int)(long)((void **)arg)[1], seed = id, round;

	for (round = 0; !enough; round++) {
		__u64 page = rand_r(&seed) % 1900;
		__u64 flags = rand_r(&seed) & 1 ? EXMAP_FREE_LAZY : 0;

		if (id == 3)
			one(r, id, EXMAP_OP_READ, page % 200, 30, 0, NULL);
		else
			one(r, id, EXMAP_OP_ALLOC, page, 100, 0, NULL);
		if (id == 2)
			one(r, id, EXMAP_OP_WRITE, page % 200, 10, 0, NULL);
		if (id == 1 && round % 32 == 0)
			madvise(r->mem + page * PAGE, 100 * PAGE, MADV_DONTNEED);
		one(r, id, EXMAP_OP_FREE, page, 100, flags, NULL);
	}
	return NULL;
}

static void do_everything(void *arg)
{
	struct region r = open_region(2048, 512, 4, EXMAP_FAULT_ALLOC, backing_file(256));
	static void *args[4][2];
	pthread_t thread;
	long i;

	(void)arg;
	for (i = 0; i < 4; i++) {
		args[i][0] = &r;
		args[i][1] = (void *)i;
		CHECK(!pthread_create(&thread, NULL, churn, args[i]));
	}
	pause();
}

CASE(kill_at_any_moment_returns_everything)
{
	unsigned int seed = 1;
	int round, status;

	for (round = 0; round < 40; round++) {
		pid_t child = fork();

		if (!child) {
			do_everything(NULL);
			_exit(1);
		}
		usleep(1000 + rand_r(&seed) % 60000);
		CHECK(!kill(child, SIGKILL));
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	open_region(2048, 512, 4, 0, -1);
}

CASE(fork_while_threads_map_pages_does_no_harm)
{
	struct region r = open_region(2048, 1024, 4, 0, -1);
	void *args[2] = { &r, (void *)0 };
	pthread_t thread;
	int round;

	let_fork_copy(r.mem, r.pages * PAGE);
	CHECK(!pthread_create(&thread, NULL, churn, args));
	for (round = 0; round < 20; round++) {
		pid_t child = fork();
		int status;

		if (!child)
			_exit(0);
		CHECK(waitpid(child, &status, 0) == child && !status);
	}
	enough = true;
	CHECK(!pthread_join(thread, NULL));
}
