// SPDX-License-Identifier: MIT
/* Disks in memory that are slow, or have bad blocks: null_blk. */
#define _GNU_SOURCE
#include "disk.h"
#include "abi.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* from 6.2 on this is also the name of the disk */
#define NAME "exmapdisk"
#define DISKS "/sys/kernel/config/nullb"
#define CONFIG DISKS "/" NAME
#define DEVICE_PAGES 1024
#define SECTORS 8 /* in a page */

static void configure(const char *name, const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), CONFIG "/%s", name);
	fd = open(path, O_WRONLY | O_TRUNC);
	CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
	close(fd);
}

static void remove_device(void)
{
	rmdir(CONFIG);
}

static int device_number(void)
{
	char text[16] = "";
	int fd = open(CONFIG "/index", O_RDONLY);

	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return atoi(text);
}

static int open_disk(int flags)
{
	char path[32];
	int fd, i;

	snprintf(path, sizeof(path), "/dev/nullb%d", device_number());
	for (i = 0; i < 2000; i++) {
		fd = open("/dev/" NAME, flags);
		if (fd < 0)
			fd = open(path, flags);
		if (fd >= 0)
			return fd;
		usleep(1000);
	}
	return -1;
}

/* The driver is a module, or part of a debug kernel. */
static void need_driver(void)
{
	if (access("/sys/module/null_blk", F_OK) && system("modprobe -q null_blk nr_devices=0")) {
		puts("this kernel has no null_blk");
		_exit(SKIP);
	}
	if (access(DISKS, F_OK))
		CHECK(!mount("none", "/sys/kernel/config", "configfs", 0, NULL));
}

int null_disk(const char *completion_ns, int flags)
{
	char *content = aligned_alloc(PAGE, DEVICE_PAGES * PAGE);
	int fd, i;

	need_driver();
	rmdir(CONFIG);
	CHECK(!mkdir(CONFIG, 0755));
	/* only the process that made it, not its children */
	CHECK(!atexit(remove_device));
	configure("size", "4");
	configure("memory_backed", "1");
	configure("irqmode", "2");
	configure("completion_nsec", completion_ns);
	configure("power", "1");
	fd = open_disk(O_RDWR | O_DIRECT);
	CHECK(fd >= 0 && content);
	for (i = 0; i < DEVICE_PAGES; i++)
		memset(content + i * PAGE, i, PAGE);
	CHECK(pwrite(fd, content, DEVICE_PAGES * PAGE, 0) == (long)(DEVICE_PAGES * PAGE));
	free(content);
	close(fd);
	fd = open_disk(O_RDWR | flags);
	CHECK(fd >= 0);
	return fd;
}

void spoil(__u64 page)
{
	char range[48];

	snprintf(range, sizeof(range), "+%llu-%llu", page * SECTORS, page * SECTORS + SECTORS - 1);
	configure("badblocks", range);
}

void heal(__u64 page)
{
	char range[48];

	snprintf(range, sizeof(range), "-%llu-%llu", page * SECTORS, page * SECTORS + SECTORS - 1);
	configure("badblocks", range);
}
