/* SPDX-License-Identifier: MIT */
/* I/O of the core that a program takes the place of: linked with --wrap of these. */
#ifndef EXMAP_TESTS_WRAP_IO_H
#define EXMAP_TESTS_WRAP_IO_H

#include "exmap_user.h"

typedef long vector_at_fn(struct exmap *ex, unsigned int interface, unsigned int opcode,
			  const uint64_t *pages, const uint64_t *blocks, size_t n, size_t *done);
typedef int disk_fn(int fd, const uint32_t *blocks, void *const *pages, unsigned int n,
		    unsigned int *done);

vector_at_fn __real_exmap_vector_at, __wrap_exmap_vector_at;
disk_fn __real_disk_write, __wrap_disk_write;

#endif /* EXMAP_TESTS_WRAP_IO_H */
