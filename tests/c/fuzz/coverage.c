// SPDX-License-Identifier: MIT
/* What of the module a thread has executed: Documentation/dev-tools/kcov.rst of the kernel. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kcov.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "fuzz.h"

#define WORDS 65536ul
#define LINKED_AT 0xffffffff81000000ull /* __START_KERNEL of x86 */

struct span {
	uint64_t begin;
	uint64_t end;
};

/* How far from where it was linked the kernel runs; KCOV takes that away from what it tells. */
static uint64_t kernel_offset(void)
{
	FILE *file = fopen("/proc/kallsyms", "re");
	unsigned long long text = LINKED_AT;
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		if (strstr(line, " T _text\n") && sscanf(line, "%llx", &text) == 1)
			break;
	if (file)
		fclose(file);
	return text - LINKED_AT;
}

/* Where the module is: kernels that are instrumented as a whole tell of all of themselves. */
static struct span module_span(void)
{
	FILE *file = fopen("/proc/modules", "re");
	unsigned long long begin = 0, size = 0;
	uint64_t offset = kernel_offset();
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "exmap %llu %*s %*s %*s 0x%llx", &size, &begin) == 2)
			break;
	if (file)
		fclose(file);
	return (struct span){ begin - offset, begin + size - offset };
}

uint64_t *trace_edges(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	uint64_t *trace;

	/* the thread's end ends the tracing, and the descriptor belongs to it */
	if (fd < 0 || ioctl(fd, KCOV_INIT_TRACE, WORDS))
		return NULL;
	trace = mmap(NULL, WORDS * sizeof(*trace), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (trace == MAP_FAILED)
		return NULL;
	return ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC) ? NULL : trace;
}

static bool is_new(uint64_t edge)
{
	uint8_t *seen = &shared->seen[edge % EDGES];

	return !__atomic_load_n(seen, __ATOMIC_RELAXED) &&
	       !__atomic_exchange_n(seen, 1, __ATOMIC_RELAXED);
}

void note_edges(uint64_t *trace, unsigned long *fresh)
{
	static struct span span;
	uint64_t i, n = __atomic_load_n(&trace[0], __ATOMIC_RELAXED), last = 0;

	if (!span.end)
		span = module_span();
	for (i = 1; i <= n && i < WORDS; i++) {
		uint64_t at = trace[i];

		if (at < span.begin || at >= span.end)
			continue;
		if (is_new((at ^ last << 1) * 0x9e3779b97f4a7c15u >> 40)) {
			__atomic_fetch_add(&shared->edges, 1, __ATOMIC_RELAXED);
			__atomic_fetch_add(fresh, 1, __ATOMIC_RELAXED);
		}
		last = at;
	}
	__atomic_store_n(&trace[0], 0, __ATOMIC_RELAXED);
}
