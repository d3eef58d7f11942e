// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "forked.h"

struct forked {
	const uint8_t *base;
	uint32_t pages;
	pid_t child;
	int order;		/* write end: a byte means scan, the end means die */
	int answer;		/* read end: a byte means done */
	struct snapshot_scan *report;	/* in memory that the child has too */
};

int forked_open(const uint8_t *base, uint32_t pages, struct forked **out)
{
	struct forked *forked = calloc(1, sizeof(*forked));
	void *report;

	if (!forked)
		return -ENOMEM;
	report = mmap(NULL, EXMAP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (report == MAP_FAILED) {
		free(forked);
		return -ENOMEM;
	}
	*forked = (struct forked){ .base = base, .pages = pages, .order = -1, .answer = -1,
				   .report = report };
	*out = forked;
	return 0;
}

void forked_close(struct forked *forked)
{
	if (!forked)
		return;
	forked_drop(forked);
	munmap(forked->report, EXMAP_PAGE_SIZE);
	free(forked);
}

/* Only what may be called after fork in a process with threads. */
static __attribute__((noreturn)) void live_as_child(struct forked *forked, int order, int answer)
{
	char byte;

	while (read(order, &byte, 1) == 1) {
		*forked->report = (struct snapshot_scan){ 0 };
		snapshot_scan_memory(forked->base, forked->pages, forked->report);
		if (write(answer, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

struct pipes {
	int order[2];
	int answer[2];
};

static int fork_child(struct forked *forked, const struct pipes *pipes)
{
	forked->child = fork();
	if (forked->child < 0)
		return -errno;
	if (!forked->child) {
		close(pipes->order[1]);
		close(pipes->answer[0]);
		live_as_child(forked, pipes->order[0], pipes->answer[1]);
	}
	return 0;
}

int forked_freeze(struct forked *forked)
{
	struct pipes pipes;
	int ret;

	if (pipe2(pipes.order, O_CLOEXEC))
		return -errno;
	if (pipe2(pipes.answer, O_CLOEXEC)) {
		ret = -errno;
		close(pipes.order[0]);
		close(pipes.order[1]);
		return ret;
	}
	ret = fork_child(forked, &pipes);
	close(pipes.order[0]);
	close(pipes.answer[1]);
	forked->order = pipes.order[1];
	forked->answer = pipes.answer[0];
	return ret;
}

int forked_scan(struct forked *forked, struct snapshot_scan *scan)
{
	char byte = 0;

	if (write(forked->order, &byte, 1) != 1 || read(forked->answer, &byte, 1) != 1)
		return -EPIPE;
	*scan = *forked->report;
	return 0;
}

int forked_drop(struct forked *forked)
{
	pid_t child = forked->child;

	if (forked->order >= 0)
		close(forked->order);
	if (forked->answer >= 0)
		close(forked->answer);
	forked->order = -1;
	forked->answer = -1;
	forked->child = 0;
	return child > 0 && waitpid(child, NULL, 0) != child ? -errno : 0;
}
