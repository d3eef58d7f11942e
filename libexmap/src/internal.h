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
	int (*snapshot)(struct exmap *ex, const struct exmap_snapshot_create *create,
			struct exmap_snapshot **out);
	int (*nvme)(struct exmap *ex, const struct exmap_nvme_config *config,
		    struct exmap_nvme_queue **out);
};

/**
 * struct exmap_snapshot_ops - the same for snapshots
 *
 * close frees the whole struct exmap_snapshot.  diff gets one of the same
 * backend, and a @start that counts from the region's start and does not overflow.
 */
struct exmap_snapshot_ops {
	void (*close)(struct exmap_snapshot *snap);
	long (*pread)(struct exmap_snapshot *snap, void *buffer, size_t len, uint64_t offset);
	int (*words)(struct exmap_snapshot *snap, uint64_t start, uint64_t count, uint32_t *words);
	int (*diff)(struct exmap_snapshot *snap, struct exmap_snapshot *other, uint64_t start,
		    uint64_t count, uint8_t *bitmap);
	int (*info)(struct exmap_snapshot *snap, struct exmap_snapshot_info *info);
};

/**
 * struct exmap_nvme_ops - the same for NVMe queues
 *
 * close frees the whole struct exmap_nvme_queue.  address and ring are for queues
 * that are slow.
 */
struct exmap_nvme_ops {
	void (*close)(struct exmap_nvme_queue *queue);
	int (*check)(struct exmap_nvme_queue *queue);
	int (*reset)(struct exmap_nvme_queue *queue);
	uint64_t (*address)(const struct exmap_nvme_queue *queue, uint64_t page, uint32_t word);
	void (*ring)(struct exmap_nvme_queue *queue);
};

/* The public parts come first, so that one pointer serves for both. */
struct exmap_base {
	struct exmap pub;
	const struct exmap_ops *ops;
};

struct exmap_snapshot_base {
	struct exmap_snapshot pub;
	const struct exmap_snapshot_ops *ops;
};

struct exmap_nvme_base {
	struct exmap_nvme_queue pub;
	const struct exmap_nvme_ops *ops;
};

int exmap_kernel_open(const struct exmap_config *config, struct exmap **out);
int exmap_posix_open(const struct exmap_config *config, struct exmap **out);

int exmap_kernel_snapshot(struct exmap *ex, const struct exmap_snapshot_create *create,
			  struct exmap_snapshot **out);
int exmap_posix_snapshot(struct exmap *ex, const struct exmap_snapshot_create *create,
			 struct exmap_snapshot **out);

int exmap_kernel_nvme(struct exmap *ex, const struct exmap_nvme_config *config,
		      struct exmap_nvme_queue **out);
int exmap_posix_nvme(struct exmap *ex, const struct exmap_nvme_config *config,
		     struct exmap_nvme_queue **out);

/* The parts of a queue that both backends have: identifiers, tags, the region's words. */
int exmap_nvme_init(struct exmap_nvme_queue *queue, struct exmap *ex,
		    const struct exmap_nvme_config *config);
void exmap_nvme_exit(struct exmap_nvme_queue *queue);

#endif /* EXMAP_INTERNAL_H */
