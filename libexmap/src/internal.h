/* SPDX-License-Identifier: MIT */
/* libexmap: what the backends have in common; not installed. */
#ifndef EXMAP_INTERNAL_H
#define EXMAP_INTERNAL_H

#include "exmap_user.h"

/**
 * struct exmap_ops - what a backend does; see exmap_user.h for each
 *
 * close frees the whole struct exmap.  info, counters and so on get structures
 * whose input fields have been set to 0.
 */
struct exmap_ops {
	void (*close)(struct exmap *ex);
	int (*action)(struct exmap *ex, unsigned int interface, unsigned int opcode,
		      unsigned int iov_len, uint64_t flags);
	int (*barrier)(struct exmap *ex);
	int (*resize)(struct exmap *ex, uint64_t pool_pages);
	int (*tune)(struct exmap *ex, struct exmap_tune *tune);
	int (*scan)(struct exmap *ex, const struct exmap_scan *scan);
	int (*info)(struct exmap *ex, struct exmap_info *info);
	int (*counters)(struct exmap *ex, struct exmap_counters *counters);
};

/* The public part comes first, so that one pointer serves for both. */
struct exmap_base {
	struct exmap pub;
	const struct exmap_ops *ops;
};

int exmap_kernel_open(const struct exmap_config *config, struct exmap **out);
int exmap_posix_open(const struct exmap_config *config, struct exmap **out);

#endif /* EXMAP_INTERNAL_H */
