/* SPDX-License-Identifier: MIT */
/* The backing: blocks of 4096 bytes of a file or device. */
#ifndef EXDB_DISK_H
#define EXDB_DISK_H

#include <stddef.h>
#include <stdint.h>

/*
 * Read or write blocks, block i from or to pages[i]; neighbours make one request.
 * *done is the number that were transferred before the first failure.
 * -ENXIO beyond the end of the backing.
 */
int disk_read(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
	      unsigned int *done);
int disk_write(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
	       unsigned int *done);

/* Write @size bytes at @offset, all or -errno. */
int disk_write_bytes(int fd, const void *data, size_t size, uint64_t offset);

/* Read @size bytes at @offset; -ENXIO beyond the end. */
int disk_read_bytes(int fd, void *data, size_t size, uint64_t offset);

/* Wait until what was written is on the disk. */
int disk_sync(int fd);

#endif /* EXDB_DISK_H */
