// SPDX-License-Identifier: MIT
/*
 * Random I/O by READ and WRITE of a region whose backing is a controller that the kernel
 * drives: a call for all pages that are wanted.  A page is mapped by READ, or by ALLOC
 * before a WRITE, and freed afterwards: what a buffer manager does, and part of the figure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nvme.h"

int nvme_kernel_open(struct nvme_thread *thread, struct exmap *ex, unsigned int number)
{
	thread->ex = ex;
	thread->fd = (int)number;
	thread->memory = calloc(NVME_MAX_DEPTH, EXMAP_PAGE_SIZE);
	return thread->memory ? 0 : -ENOMEM;
}

int nvme_kernel_submit(struct nvme_thread *thread, unsigned int n)
{
	while (n--) {
		unsigned int slot;

		thread->wanted[thread->nr_wanted] = nvme_next(thread, &slot);
		thread->wanted_slots[thread->nr_wanted++] = (uint16_t)slot;
	}
	return 0;
}

static int call(struct nvme_thread *thread, unsigned int opcode, uint64_t flags)
{
	long ret = exmap_vector(thread->ex, (unsigned int)thread->fd, opcode, thread->wanted,
				thread->nr_wanted, flags, NULL);

	/* for each part of a vector there is one */
	thread->calls += (thread->nr_wanted + EXMAP_USER_INTERFACE_PAGES - 1) /
			 EXMAP_USER_INTERFACE_PAGES;
	return ret < 0 ? (int)ret : 0;
}

static void copy(struct nvme_thread *thread, bool out)
{
	unsigned int i;

	for (i = 0; i < thread->nr_wanted && thread->copy; i++) {
		void *page = exmap_page(thread->ex, thread->wanted[i]);
		void *slot = thread->memory + thread->wanted_slots[i] * EXMAP_PAGE_SIZE;

		memcpy(out ? slot : page, out ? page : slot, EXMAP_PAGE_SIZE);
	}
}

long nvme_kernel_reap(struct nvme_thread *thread, unsigned int min)
{
	unsigned int i, n = thread->nr_wanted;
	int ret = 0;

	(void)min;
	if (thread->write) {
		ret = call(thread, EXMAP_OP_ALLOC, 0);
		copy(thread, false);
	}
	if (!ret)
		ret = call(thread, thread->write ? EXMAP_OP_WRITE : EXMAP_OP_READ, 0);
	if (!ret && !thread->write)
		copy(thread, true);
	if (!ret)
		ret = call(thread, EXMAP_OP_FREE, EXMAP_FREE_LAZY);
	for (i = 0; i < n; i++)
		nvme_done(thread, thread->wanted_slots[i]);
	thread->nr_wanted = 0;
	return ret ? ret : (long)n;
}
