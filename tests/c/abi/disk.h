/* SPDX-License-Identifier: MIT */
/* Disks that are slow or broken, for cases about READ and WRITE. */
#ifndef DISK_H
#define DISK_H

#include <linux/types.h>

/*
 * A disk of 1,024 pages, page n full of bytes n, that takes @completion_ns for
 * every request; opened for reading and writing with @flags.  It goes when the
 * case ends.  Skips the case where the kernel has no null_blk.
 */
int null_disk(const char *completion_ns, int flags);

/* From now on requests that touch this page fail with EIO; and no longer. */
void spoil(__u64 page);
void heal(__u64 page);

#endif /* DISK_H */
