// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exmap_user.h"
#include "uffd.h"

#define EVENTS 16

/* Whoever moves a page from SHARED to one of the others has it to himself. */
enum state {
	SHARED = 0,	/* protected, not copied */
	BUSY = 1,	/* being read or copied */
	COPIED = 2,
};

struct uffd {
	int fd;
	int stop[2];		/* closing the second end stops the thread */
	uint8_t *base;
	uint8_t *copy;		/* as long as @base; page n is the copy of page n */
	uint32_t pages;
	uint64_t copies;	/* atomic, like the states */
	uint8_t *states;
	/* a fault of one copy must not be served as one of the next */
	pthread_mutex_t lock;
	bool frozen;
	int error;		/* of the thread, which has given up then; atomic */
	bool started;
	pthread_t thread;
};

static size_t size_of(const struct uffd *uffd)
{
	return (size_t)uffd->pages * EXMAP_PAGE_SIZE;
}

static int protect(struct uffd *uffd, uint32_t page, uint32_t pages, bool on)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)uffd->base + (uint64_t)page * EXMAP_PAGE_SIZE,
			   .len = (uint64_t)pages * EXMAP_PAGE_SIZE },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &arg) ? -errno : 0;
}

static bool claim(struct uffd *uffd, uint32_t page)
{
	uint8_t shared = SHARED;

	/* acquire: pairs with the release of whoever had it before */
	return __atomic_compare_exchange_n(&uffd->states[page], &shared, BUSY, false,
					   __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE);
}

static bool is_copied(const struct uffd *uffd, uint32_t page)
{
	return __atomic_load_n(&uffd->states[page], __ATOMIC_ACQUIRE) == COPIED;
}

static void copy_page(struct uffd *uffd, uint32_t page)
{
	size_t offset = (size_t)page * EXMAP_PAGE_SIZE;

	while (!is_copied(uffd, page)) {
		if (claim(uffd, page)) {
			memcpy(uffd->copy + offset, uffd->base + offset, EXMAP_PAGE_SIZE);
			__atomic_fetch_add(&uffd->copies, 1, __ATOMIC_RELAXED);
			__atomic_store_n(&uffd->states[page], COPIED, __ATOMIC_RELEASE);
		} else {
			sched_yield();
		}
	}
}

/* Copy the page of a fault, unless it has been, and let its writers go on. */
static int serve(struct uffd *uffd, const struct uffd_msg *message)
{
	uint64_t offset = message->arg.pagefault.address - (uintptr_t)uffd->base;
	uint32_t page = (uint32_t)(offset / EXMAP_PAGE_SIZE);
	int ret;

	if (message->event != UFFD_EVENT_PAGEFAULT)
		return -EPROTO;
	pthread_mutex_lock(&uffd->lock);
	if (uffd->frozen)
		copy_page(uffd, page);
	ret = protect(uffd, page, 1, false);
	pthread_mutex_unlock(&uffd->lock);
	return ret;
}

/* Nobody would wake the writers any more: let all of them go on, and say so. */
static void give_up(struct uffd *uffd, int error)
{
	struct uffdio_range range = { .start = (uintptr_t)uffd->base, .len = size_of(uffd) };

	__atomic_store_n(&uffd->error, error, __ATOMIC_RELEASE);
	ioctl(uffd->fd, UFFDIO_UNREGISTER, &range);
}

static void *handle_faults(void *arg)
{
	struct uffd *uffd = arg;
	struct pollfd polled[] = { { .fd = uffd->fd, .events = POLLIN },
				   { .fd = uffd->stop[0], .events = POLLIN } };
	struct uffd_msg messages[EVENTS];
	ssize_t n, i;
	int ret = 0;

	while (!ret && poll(polled, 2, -1) > 0 && !polled[1].revents) {
		n = read(uffd->fd, messages, sizeof(messages)) / (ssize_t)sizeof(messages[0]);
		for (i = 0; i < n && !ret; i++)
			ret = serve(uffd, &messages[i]);
	}
	if (ret)
		give_up(uffd, ret);
	return NULL;
}

/* Not on the CPU alone of the thread that opens it: whichever is idle. */
static int start_thread(struct uffd *uffd)
{
	pthread_attr_t attributes;
	cpu_set_t cpus;
	int cpu, ret;

	CPU_ZERO(&cpus);
	for (cpu = 0; cpu < CPU_SETSIZE && cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++)
		CPU_SET(cpu, &cpus);
	ret = pthread_attr_init(&attributes);
	if (ret)
		return -ret;
	ret = pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	if (!ret)
		ret = pthread_create(&uffd->thread, &attributes, handle_faults, uffd);
	uffd->started = !ret;
	pthread_attr_destroy(&attributes);
	return -ret;
}

static int register_memory(struct uffd *uffd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)uffd->base, .len = size_of(uffd) },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	uffd->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd->fd < 0 || ioctl(uffd->fd, UFFDIO_API, &api) ||
	    ioctl(uffd->fd, UFFDIO_REGISTER, &range))
		return -errno;
	return range.ioctls & 1ull << _UFFDIO_WRITEPROTECT ? 0 : -EINVAL;
}

static int prepare(struct uffd *uffd)
{
	void *copy;
	int ret = register_memory(uffd);

	if (ret)
		return ret;
	uffd->states = calloc(uffd->pages, 1);
	if (!uffd->states)
		return -ENOMEM;
	copy = mmap(NULL, size_of(uffd), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (copy == MAP_FAILED)
		return -errno;
	uffd->copy = copy;
	/* not in the way of a fork that is measured in the same process; EINVAL: no huge pages */
	if (madvise(uffd->base, size_of(uffd), MADV_DONTFORK) ||
	    madvise(copy, size_of(uffd), MADV_DONTFORK) ||
	    (madvise(copy, size_of(uffd), MADV_NOHUGEPAGE) && errno != EINVAL))
		return -errno;
	if (pipe2(uffd->stop, O_CLOEXEC))
		return -errno;
	return start_thread(uffd);
}

int uffd_open(uint8_t *base, uint32_t pages, struct uffd **out)
{
	struct uffd *uffd = calloc(1, sizeof(*uffd));
	int ret;

	if (!uffd)
		return -ENOMEM;
	uffd->fd = -1;
	uffd->stop[0] = -1;
	uffd->stop[1] = -1;
	uffd->base = base;
	uffd->pages = pages;
	pthread_mutex_init(&uffd->lock, NULL);
	ret = prepare(uffd);
	if (ret) {
		uffd_close(uffd);
		return ret;
	}
	*out = uffd;
	return 0;
}

void uffd_close(struct uffd *uffd)
{
	if (!uffd)
		return;
	uffd_drop(uffd);
	if (uffd->stop[1] >= 0)
		close(uffd->stop[1]);
	if (uffd->started)
		pthread_join(uffd->thread, NULL);
	if (uffd->stop[0] >= 0)
		close(uffd->stop[0]);
	if (uffd->fd >= 0)
		close(uffd->fd);
	if (uffd->copy)
		munmap(uffd->copy, size_of(uffd));
	pthread_mutex_destroy(&uffd->lock);
	free(uffd->states);
	free(uffd);
}

int uffd_freeze(struct uffd *uffd)
{
	int ret;

	pthread_mutex_lock(&uffd->lock);
	ret = protect(uffd, 0, uffd->pages, true);
	uffd->frozen = !ret;
	pthread_mutex_unlock(&uffd->lock);
	return ret;
}

const uint8_t *uffd_get(struct uffd *uffd, uint32_t page)
{
	size_t offset = (size_t)page * EXMAP_PAGE_SIZE;

	for (;;) {
		if (is_copied(uffd, page))
			return uffd->copy + offset;
		if (claim(uffd, page))
			return uffd->base + offset;
		sched_yield();
	}
}

void uffd_put(struct uffd *uffd, uint32_t page)
{
	if (!is_copied(uffd, page))
		__atomic_store_n(&uffd->states[page], SHARED, __ATOMIC_RELEASE);
}

static int thaw(struct uffd *uffd)
{
	int ret = protect(uffd, 0, uffd->pages, false);

	if (ret)
		return ret;
	uffd->frozen = false;
	memset(uffd->states, SHARED, uffd->pages);
	return madvise(uffd->copy, size_of(uffd), MADV_DONTNEED) ? -errno : 0;
}

int uffd_drop(struct uffd *uffd)
{
	int ret = __atomic_load_n(&uffd->error, __ATOMIC_ACQUIRE);

	pthread_mutex_lock(&uffd->lock);
	if (uffd->frozen && !ret)
		ret = thaw(uffd);
	pthread_mutex_unlock(&uffd->lock);
	return ret;
}

uint64_t uffd_copies(const struct uffd *uffd)
{
	return __atomic_load_n(&uffd->copies, __ATOMIC_RELAXED);
}
