// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"

#define MAX_POOL 4096

static __thread sigjmp_buf jump;
static __thread volatile bool may_jump;

void count(long result)
{
	__atomic_fetch_add(&shared->calls, 1, __ATOMIC_RELAXED);
	if (result >= 0)
		__atomic_fetch_add(&shared->successes, 1, __ATOMIC_RELAXED);
}

static uint64_t draw(struct thread *t)
{
	t->state ^= t->state << 13;
	t->state ^= t->state >> 7;
	t->state ^= t->state << 17;
	return t->state >> 8;
}

uint64_t below(struct thread *t, uint64_t n)
{
	return draw(t) % n;
}

bool rarely(struct thread *t)
{
	return !below(t, 16);
}

/* Numbers at which code goes wrong. */
static uint64_t odd_number(struct thread *t)
{
	static const uint64_t odd[] = { 0, 1, 511, 512, 513, 4095, 4096, 1ull << 31, 1ull << 32,
					(1ull << 52) - 1, 1ull << 52, 1ull << 63, UINT64_MAX };

	return rarely(t) ? draw(t) : odd[below(t, sizeof(odd) / sizeof(odd[0]))];
}

uint64_t number(struct thread *t, uint64_t sensible)
{
	return rarely(t) ? odd_number(t) : below(t, sensible);
}

uint64_t flags(struct thread *t, uint64_t known)
{
	return rarely(t) ? odd_number(t) : draw(t) & known;
}

void *place(struct thread *t, size_t size)
{
	switch (below(t, 40)) {
	case 0:
		return NULL;
	case 1:
		return (void *)0xffff888000000000ull;
	case 2: /* ends after the arena */
		return t->arena + ARENA - size / 2;
	case 3: /* a page that may be absent, shared or read-only */
		return t->region->mem + below(t, t->region->pages) * PAGE;
	case 4:
		return t->arena + 1;
	default:
		return t->arena + PAGE;
	}
}

long call(struct thread *t, int fd, unsigned long request, const void *arg, size_t size)
{
	char *at = place(t, size);
	long result;

	if (at == t->arena + PAGE)
		memcpy(at, arg, size);
	result = ioctl(fd, request, at);
	count(result);
	return result;
}

static int snapshot_of(struct thread *t)
{
	return __atomic_load_n(&t->region->snapshots[below(t, SNAPSHOTS)], __ATOMIC_RELAXED);
}

static void op_setup(struct thread *t)
{
	struct exmap_ioctl_setup setup = { .fd = rarely(t) ? (int)below(t, 20) : -1,
					   .max_interfaces = (int)number(t, INTERFACES),
					   .buffer_size = number(t, MAX_POOL),
					   .flags = flags(t, 31) };

	call(t, t->region->fd, EXMAP_IOCTL_SETUP, &setup, sizeof(setup));
}

static void op_scan(struct thread *t)
{
	struct exmap_scan scan = { .flags = flags(t, 7), .start = number(t, t->region->pages),
				   .count = number(t, 600),
				   .vector = (uintptr_t)place(t, PAGE),
				   .present = (uintptr_t)place(t, 512),
				   .accessed = (uintptr_t)place(t, 512),
				   .dirty = rarely(t) ? 0 : (uintptr_t)place(t, 512) };

	call(t, t->region->fd, EXMAP_IOCTL_SCAN, &scan, sizeof(scan));
}

static void op_resize(struct thread *t)
{
	struct exmap_resize resize = { .flags = flags(t, 0), .pool_pages = 1 + below(t, MAX_POOL) };

	call(t, t->region->fd, EXMAP_IOCTL_RESIZE, &resize, sizeof(resize));
}

static void op_settings(struct thread *t)
{
	struct exmap_tune tune = { .flags = flags(t, 0),
				   .flush_threshold = number(t, EXMAP_FLUSH_THRESHOLD_MAX) };
	struct exmap_barrier barrier = { .flags = flags(t, 0) };

	call(t, t->region->fd, EXMAP_IOCTL_TUNE, &tune, sizeof(tune));
	call(t, t->region->fd, EXMAP_IOCTL_BARRIER, &barrier, sizeof(barrier));
}

static void op_questions(struct thread *t)
{
	uint64_t zeros[32] = { 0 };

	zeros[0] = flags(t, 0);
	call(t, t->region->fd, EXMAP_IOCTL_INFO, zeros, sizeof(struct exmap_info));
	call(t, t->region->fd, EXMAP_IOCTL_COUNTERS, zeros, sizeof(struct exmap_counters));
	call(t, t->region->fd, EXMAP_IOCTL_STATS, zeros, sizeof(struct exmap_ioctl_stats));
	call(t, t->region->fd, (unsigned long)draw(t), zeros, sizeof(zeros));
}

static void op_clone(struct thread *t)
{
	int other = open("/dev/exmap", O_RDWR | O_CLOEXEC);
	long result = ioctl(t->region->fd, EXMAP_IOCTL_CLONE, rarely(t) ? t->region->fd : other);

	count(result);
	if (other >= 0)
		close(other);
}

static void op_snapshot(struct thread *t)
{
	struct exmap_snapshot_create create = {
		.flags = flags(t, EXMAP_READERS_COPY),
		.start = rarely(t) ? number(t, 600) : below(t, 3) * EXMAP_CHUNK_PAGES,
		.count = rarely(t) ? number(t, 3000) : (1 + below(t, 3)) * EXMAP_CHUNK_PAGES,
		.reserve = below(t, 4) ? 0 : number(t, 100),
	};
	unsigned int i = (unsigned int)below(t, SNAPSHOTS);
	int old, fd = (int)call(t, t->region->fd, EXMAP_IOCTL_SNAPSHOT, &create, sizeof(create));

	if (fd < 0)
		return;
	old = __atomic_exchange_n(&t->region->snapshots[i], fd, __ATOMIC_RELAXED);
	if (old >= 0)
		close(old);
}

static void op_snapshot_questions(struct thread *t)
{
	uint64_t zeros[32] = { flags(t, 0) };
	struct exmap_snapshot_pages pages = { .flags = flags(t, 0), .start = number(t, 1024),
					      .count = number(t, 600),
					      .words = (uintptr_t)place(t, PAGE) };
	struct exmap_snapshot_diff diff = { .flags = flags(t, 0), .fd = snapshot_of(t),
					    .start = number(t, 1024), .count = number(t, 600),
					    .bitmap = (uintptr_t)place(t, 512) };

	call(t, snapshot_of(t), EXMAP_IOCTL_SNAPSHOT_INFO, zeros, sizeof(struct exmap_snapshot_info));
	call(t, snapshot_of(t), EXMAP_IOCTL_SNAPSHOT_PAGES, &pages, sizeof(pages));
	call(t, snapshot_of(t), EXMAP_IOCTL_SNAPSHOT_DIFF, &diff, sizeof(diff));
	posix_fadvise(snapshot_of(t), (off_t)number(t, 1024) * PAGE, (off_t)number(t, 1024) * PAGE,
		      (int)below(t, 7));
}

static void op_pread(struct thread *t)
{
	int fd = below(t, 2) ? snapshot_of(t) : t->region->fd;
	struct iovec iov[2] = { { place(t, PAGE), number(t, 3 * PAGE) & 0xffffff },
				{ place(t, PAGE), PAGE } };
	/* of a region the position is an interface and an opcode */
	off_t at = (off_t)(below(t, 2) ? number(t, 2048) * PAGE : draw(t) & 0x4ff);

	count(preadv(fd, iov, (int)below(t, 3), at));
	count(pread(fd, iov[0].iov_base, iov[0].iov_len, (off_t)odd_number(t)));
}

void try_access(struct thread *t, void (*access)(struct thread *t, void *arg), void *arg)
{
	if (sigsetjmp(jump, 1))
		return;
	may_jump = true;
	access(t, arg);
	may_jump = false;
}

/* Also while another thread's call reads them. */
static void fill_vector(struct thread *t, void *arg)
{
	const struct exmap_action_params *params = arg;
	struct exmap_user_interface *itf = t->region->itf[params->interface % INTERFACES];
	unsigned int i;

	for (i = 0; i < params->iov_len && i < EXMAP_USER_INTERFACE_PAGES; i++) {
		itf->iov[i].page = number(t, t->region->pages);
		itf->iov[i].len = rarely(t) ? number(t, 4096) : 1 + below(t, 8);
		if ((params->flags & EXMAP_AT_BLOCKS) && i < EXMAP_AT_BLOCKS_MAX)
			itf->iov[EXMAP_AT_BLOCKS_MAX + i].value = number(t, 2 * t->region->pages);
	}
}

static void op_action(struct thread *t)
{
	struct exmap_action_params params = {
		.interface = (uint16_t)number(t, INTERFACES),
		.iov_len = (uint16_t)number(t, 64),
		.opcode = (uint16_t)number(t, EXMAP_OP_UNSHARE + 1),
		.flags = flags(t, EXMAP_FREE_LAZY | EXMAP_ALLOC_PROBE | EXMAP_AT_BLOCKS),
	};

	/* a child of fork has no interfaces */
	try_access(t, fill_vector, &params);
	call(t, t->region->fd, EXMAP_IOCTL_ACTION, &params, sizeof(params));
}

static void read_byte(struct thread *t, void *at)
{
	(void)t;
	(void)*(volatile char *)at;
}

static void write_byte(struct thread *t, void *at)
{
	(void)t;
	*(volatile char *)at = 1;
}

static void touch(struct thread *t, char *at, bool write)
{
	try_access(t, write ? write_byte : read_byte, at);
}

/* Touch pages of the region, and of a view, that may be there or not. */
static void op_touch(struct thread *t)
{
	char *view = __atomic_load_n(&t->region->views[below(t, SNAPSHOTS)], __ATOMIC_RELAXED);
	unsigned int i;

	for (i = 0; i < 32; i++) {
		if (view && below(t, 2))
			touch(t, view + below(t, EXMAP_CHUNK_PAGES) * PAGE, !below(t, 8));
		else
			touch(t, t->region->mem + below(t, t->region->pages) * PAGE, below(t, 2));
	}
}

static void op_view(struct thread *t)
{
	unsigned int i = (unsigned int)below(t, SNAPSHOTS);
	char *view = mmap(NULL, EXMAP_CHUNK_PAGES * PAGE, PROT_READ, MAP_SHARED, snapshot_of(t),
			  (off_t)(below(t, 3) * EXMAP_CHUNK_PAGES * PAGE));

	count(view == MAP_FAILED ? -1 : 0);
	view = __atomic_exchange_n(&t->region->views[i], view == MAP_FAILED ? NULL : view,
				   __ATOMIC_RELAXED);
	if (view)
		munmap(view, EXMAP_CHUNK_PAGES * PAGE);
}

static void op_close_snapshot(struct thread *t)
{
	int *slot = &t->region->snapshots[below(t, SNAPSHOTS)];
	int fd = __atomic_exchange_n(slot, -1, __ATOMIC_RELAXED);

	if (fd >= 0)
		close(fd);
}

static void op_mmap(struct thread *t)
{
	static const uint64_t offsets[] = { EXMAP_OFF_EXMAP, EXMAP_OFF_PTEXPORT,
					    EXMAP_OFF_RESIDENCY, EXMAP_OFF_INTERFACE(0),
					    EXMAP_OFF_INTERFACE(7), EXMAP_OFF_INTERFACE_MAX };
	uint64_t offset = offsets[below(t, 6)] + (rarely(t) ? number(t, 64) * PAGE : 0);
	size_t length = (1 + number(t, 8) % 4096) * PAGE;
	char *at = mmap(NULL, length, (int)draw(t) & (PROT_READ | PROT_WRITE | PROT_EXEC),
			below(t, 4) ? MAP_SHARED : MAP_PRIVATE, t->region->fd, (off_t)offset);

	count(at == MAP_FAILED ? -1 : 0);
	if (at == MAP_FAILED)
		return;
	touch(t, at, false);
	munmap(at, length);
}

/* What the kernel may be asked to do to a part of the region. */
static void op_advise(struct thread *t)
{
	static const int advices[] = { MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT,
				       MADV_HUGEPAGE, MADV_POPULATE_WRITE, MADV_WILLNEED,
				       MADV_REMOVE, MADV_DOFORK, MADV_MERGEABLE };
	uint64_t first = below(t, t->region->pages);
	char *at = t->region->mem + first * PAGE;
	size_t length = (1 + below(t, t->region->pages - first)) * PAGE;

	count(madvise(at, length, advices[below(t, sizeof(advices) / sizeof(advices[0]))]));
	if (rarely(t))
		count(mprotect(at, length, PROT_READ));
	if (rarely(t))
		count(munmap(at, PAGE));
	if (rarely(t))
		count(mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	if (rarely(t))
		count(mlock(at, length));
	/* the end of the region, and calls that meet it */
	if (!below(t, 200))
		count(munmap(t->region->mem, t->region->pages * PAGE));
}

/* Memory of the region as the source or target of other calls. */
static void op_foreign_io(struct thread *t)
{
	struct iovec ours = { t->arena + PAGE, 4 * PAGE };
	struct iovec theirs = { t->region->mem + below(t, t->region->pages) * PAGE, 4 * PAGE };

	count(process_vm_readv(getpid(), &ours, 1, &theirs, 1, 0));
	count(process_vm_writev(getpid(), &ours, 1, &theirs, 1, 0));
}

static void op_netlink(struct thread *t)
{
	count(fuzz_netlink(draw(t)));
}

/* A copy of the process: the region is not its, but the descriptors are. */
static void op_fork(struct thread *t)
{
	unsigned int i;
	pid_t pid;

	if (below(t, 8))
		return;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (i = 0; i < 20; i++)
			step(t);
		_exit(0);
	}
	count(pid);
	if (pid > 0 && below(t, 2))
		kill(pid, SIGKILL);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

void step(struct thread *t)
{
	static void (*const ops[])(struct thread *t) = {
		op_action, op_action, op_action, op_action, op_action, op_action,
		op_touch, op_touch, op_touch, op_snapshot, op_snapshot_questions,
		op_view, op_close_snapshot, op_pread, op_scan, op_resize, op_settings,
		op_questions, op_clone, op_mmap, op_advise, op_foreign_io, op_setup,
		op_queue_open, op_queue_commands, op_queue_commands, op_queue_calls,
		op_queue_close, op_netlink, op_fork,
	};

	ops[below(t, sizeof(ops) / sizeof(ops[0]))](t);
}

void on_signal(int signal_number)
{
	__atomic_fetch_add(&shared->signals, 1, __ATOMIC_RELAXED);
	if (!may_jump) {
		signal(signal_number, SIG_DFL);
		return;
	}
	may_jump = false;
	siglongjmp(jump, 1);
}
