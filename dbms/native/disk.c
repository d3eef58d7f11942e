// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <unistd.h>

#include "disk.h"
#include "page.h"

#define RUN_MAX	64u	/* pages in one request */

/* One request; the whole pages that were transferred, or -errno if there were none. */
static int transfer(int fd, const struct iovec *iov, unsigned int n, uint64_t block, bool write)
{
	const off_t offset = (off_t)(block * PAGE_SIZE);
	ssize_t ret;

	do {
		ret = write ? pwritev(fd, iov, (int)n, offset) : preadv(fd, iov, (int)n, offset);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	/* less than a page is the end of a file, or a disk that is full */
	if (ret < PAGE_SIZE)
		return write ? -EIO : -ENXIO;
	return (int)(ret / PAGE_SIZE);
}

static int transfer_all(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
			unsigned int *done, bool write)
{
	struct iovec iov[RUN_MAX];

	*done = 0;
	while (*done < n) {
		unsigned int i = *done, length = 0;
		int ret;

		while (i + length < n && length < RUN_MAX &&
		       blocks[i + length] == blocks[i] + length) {
			iov[length] = (struct iovec){ pages[i + length], PAGE_SIZE };
			length++;
		}
		ret = transfer(fd, iov, length, blocks[i], write);
		if (ret < 0)
			return ret;
		*done += ret;
	}
	return 0;
}

int disk_read(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
	      unsigned int *done)
{
	return transfer_all(fd, blocks, pages, n, done, false);
}

int disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
	       unsigned int *done)
{
	return transfer_all(fd, blocks, pages, n, done, true);
}

int disk_write_bytes(int fd, const void *data, size_t size, uint64_t offset)
{
	const uint8_t *from = data;

	while (size) {
		ssize_t ret = pwrite(fd, from, size, (off_t)offset);

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return ret ? -errno : -EIO;
		from += ret;
		offset += (uint64_t)ret;
		size -= (size_t)ret;
	}
	return 0;
}

int disk_read_bytes(int fd, void *data, size_t size, uint64_t offset)
{
	uint8_t *to = data;

	while (size) {
		ssize_t ret = pread(fd, to, size, (off_t)offset);

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return ret ? -errno : -ENXIO;
		to += ret;
		offset += (uint64_t)ret;
		size -= (size_t)ret;
	}
	return 0;
}

int disk_sync(int fd)
{
	return fdatasync(fd) ? -errno : 0;
}
