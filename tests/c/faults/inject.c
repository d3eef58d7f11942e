// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "faults.h"

#include <fcntl.h>

#define DEBUGFS "/sys/kernel/debug/"
#define MODULE "/sys/module/exmap/"
#define MOST 5000u

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text);
}

static unsigned long read_number(const char *path, const char *format)
{
	FILE *file = fopen(path, "re");
	unsigned long value = 0;
	char line[128];

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, format, &value) == 1)
			break;
	fclose(file);
	return value;
}

unsigned long locked_bytes(void)
{
	return read_number("/proc/self/status", "VmLck: %lu") << 10;
}

unsigned long available_bytes(void)
{
	return read_number("/proc/meminfo", "MemAvailable: %lu") << 10;
}

/* Let injection count what it otherwise leaves alone, and keep it from filling the log. */
static void configure(bool module_only)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc", "fail_usercopy" };
	unsigned long start = 0, end = ~0ul;
	char path[64], text[32];
	unsigned int i;

	if (!put(DEBUGFS "failslab/ignore-gfp-wait", "N")) {
		puts("this kernel injects no failures");
		_exit(SKIP);
	}
	CHECK(put(DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N"));
	CHECK(put(DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N"));
	CHECK(put(DEBUGFS "fail_page_alloc/min-order", "0"));
	if (module_only) {
		start = read_number(MODULE "sections/.text", "%lx");
		end = start + read_number(MODULE "coresize", "%lu");
	}
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		snprintf(path, sizeof(path), DEBUGFS "%s/verbose", kinds[i]);
		CHECK(put(path, "0"));
		/* 0 to ~0 is not looked at, which is much faster */
		snprintf(path, sizeof(path), DEBUGFS "%s/require-start", kinds[i]);
		snprintf(text, sizeof(text), "%#lx", start);
		CHECK(put(path, text));
		snprintf(path, sizeof(path), DEBUGFS "%s/require-end", kinds[i]);
		snprintf(text, sizeof(text), "%#lx", end);
		CHECK(put(path, text));
	}
}

static void arm(int fd, unsigned int n)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", n);

	CHECK(write(fd, text, (size_t)length) == length);
}

/* Tell whether the failure took place.  What is left of the count may hit our own system calls. */
static bool disarm(int fd)
{
	char text[16] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	bool injected = n > 0 && !atoi(text);

	while (write(fd, "0", 1) != 1)
		CHECK(errno == EFAULT);
	return injected;
}

static bool allowed(const struct probe *probe, int error)
{
	return error == ENOMEM || error == EFAULT || (probe->error && error == probe->error);
}

unsigned int fail_each(const struct probe *probe)
{
	int error, fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	unsigned int n;
	bool injected;
	long ret;

	if (fd < 0) {
		puts("this kernel injects no failures");
		_exit(SKIP);
	}
	configure(probe->module_only);
	/* the first round finds all pages of this program present */
	for (n = 0; n < MOST; n++) {
		if (probe->prepare)
			probe->prepare();
		errno = 0;
		if (n)
			arm(fd, n);
		ret = probe->call();
		error = errno;
		injected = disarm(fd) && n;
		errno = error;
		if (ret < 0 && !(injected && allowed(probe, error))) {
			printf("failure %u, %s: errno %d (%s)\n", n, injected ? "injected" : "not met",
			       error, strerror(error));
			fflush(stdout);
			_exit(1);
		}
		errno = error;
		if (probe->finish)
			probe->finish(ret);
		if (n && !injected)
			break;
	}
	CHECK((n > 1 || probe->may_need_nothing) && n < MOST);
	close(fd);
	printf("%u failures\n", n - 1);
	return n - 1;
}
