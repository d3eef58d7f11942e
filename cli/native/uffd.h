/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write in user space: userfaultfd's write protection, and a thread
 * that copies what is about to be written.
 */
#ifndef EXMAPCTL_UFFD_H
#define EXMAPCTL_UFFD_H

#include <stdint.h>

struct uffd;

/* ENOSYS, EPERM or EINVAL: not for us here. */
int uffd_open(uint8_t *base, uint32_t pages, struct uffd **out);
/* After the last copy; NULL is nothing. */
void uffd_close(struct uffd *uffd);
/* Page by page: a page that is written meanwhile may be older than one that follows it. */
int uffd_freeze(struct uffd *uffd);
/*
 * The content of a page at the freeze, until uffd_put.  Writers of it wait.
 * Returns where it is: in place, or a copy.
 */
const uint8_t *uffd_get(struct uffd *uffd, uint32_t page);
void uffd_put(struct uffd *uffd, uint32_t page);
/* Ends the copy. */
int uffd_drop(struct uffd *uffd);
/* Pages copied so far. */
uint64_t uffd_copies(const struct uffd *uffd);

#endif /* EXMAPCTL_UFFD_H */
