/* SPDX-License-Identifier: MIT */
/*
 * libexmap: the C API.
 *
 * One API over two backends.  `kernel` talks to /dev/exmap; `posix` gives the
 * same behaviour with anonymous memory, madvise and pread/pwrite on any Linux
 * machine.  All functions return 0 (or a count) or -errno, never -1; the errors
 * are those of uapi/exmap.h.  Functions that name an interface may be called
 * from several threads at once if each uses another interface.
 */
#ifndef EXMAP_USER_H
#define EXMAP_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exmap.h" /* the ABI: struct exmap_iov, opcodes, flags */
#include "exmap_nvme.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EXMAP_PAGE_SIZE 4096u

enum exmap_backend {
	/*
	 * The kernel's if there is a device, else posix.  A device that may not be
	 * opened (-EACCES) is an error: whoever loaded the module wants it used.
	 */
	EXMAP_BACKEND_AUTO = 0,
	EXMAP_BACKEND_KERNEL = 1,
	EXMAP_BACKEND_POSIX = 2,
};

/**
 * struct exmap_config - what exmap_open builds
 * @backend: enum exmap_backend
 * @interfaces: 1 to 256
 * @region_pages: length of the region
 * @pool_pages: frames in the pool
 * @flags: 0, EXMAP_FAULT_ALLOC or EXMAP_FAULT_ZERO; EXMAP_SNAPSHOTS
 * @backing_fd: block device or regular file, or -1; the region keeps a reference of
 *	its own
 * @flush_threshold: 0 for the default
 */
struct exmap_config {
	uint32_t backend;
	uint32_t interfaces;
	uint64_t region_pages;
	uint64_t pool_pages;
	uint64_t flags;
	int32_t backing_fd;
	uint32_t flush_threshold;
};

/**
 * struct exmap - an open region; read the fields, never write them
 * @base: first byte of the region
 * @residency: one word for each page, see EXMAP_RES_MAPPED
 * @region_pages: length of the region
 * @interfaces: number of interfaces
 * @backend: EXMAP_BACKEND_KERNEL or EXMAP_BACKEND_POSIX
 * @fd: of /dev/exmap, or -1
 * @itf: the interfaces' pages
 */
struct exmap {
	uint8_t *base;
	const uint32_t *residency;
	uint64_t region_pages;
	uint32_t interfaces;
	uint32_t backend;
	int fd;
	struct exmap_user_interface **itf;
};

/**
 * struct exmap_snapshot - a range of a region as it was at one moment; read the
 * fields, never write them
 * @base: its first byte, for reading
 * @start: its first page, counted from the region's start
 * @count: its length in pages
 * @backend: EXMAP_BACKEND_KERNEL or EXMAP_BACKEND_POSIX
 * @fd: its descriptor, which other processes may map and read
 *
 * Lives until exmap_snapshot_close, whether the region does or not.
 */
struct exmap_snapshot {
	const uint8_t *base;
	uint64_t start;
	uint64_t count;
	uint32_t backend;
	int fd;
};

int exmap_open(const struct exmap_config *config, struct exmap **out);
void exmap_close(struct exmap *ex);

/* One ACTION over the first iov_len iovs of ex->itf[interface]; returns the number that failed. */
int exmap_action(struct exmap *ex, unsigned int interface, unsigned int opcode, unsigned int iov_len,
		 uint64_t flags);

/*
 * One opcode over any number of single pages.  Runs of consecutive page
 * numbers are joined; calls of 512 iovs are made as needed.  Returns the number
 * of pages that changed, or the -errno of the first iov that failed; the calls
 * after the one in which it failed are not made.  *done, if not NULL, is the
 * number of pages that changed in either case.
 */
long exmap_vector(struct exmap *ex, unsigned int interface, unsigned int opcode,
		  const uint64_t *pages, size_t n, uint64_t flags, size_t *done);

/*
 * READ or WRITE single pages that are elsewhere in the backing: page i at byte
 * blocks[i] * 4096.  Up to 256 of them are in flight together on the kernel backend,
 * wherever they are; neighbours in the backing are one request.  Else as exmap_vector.
 */
long exmap_vector_at(struct exmap *ex, unsigned int interface, unsigned int opcode,
		     const uint64_t *pages, const uint64_t *blocks, size_t n, size_t *done);

int exmap_barrier(struct exmap *ex);
int exmap_resize(struct exmap *ex, uint64_t pool_pages);
int exmap_tune(struct exmap *ex, struct exmap_tune *tune);
int exmap_scan(struct exmap *ex, const struct exmap_scan *scan);
int exmap_info(struct exmap *ex, struct exmap_info *info);
int exmap_counters(struct exmap *ex, struct exmap_counters *counters);

/*
 * Snapshots of regions that were opened with EXMAP_SNAPSHOTS; see SNAPSHOTS in
 * uapi/exmap.h.  @start and @count of open count pages of the region, and
 * @reserve is a number of frames or EXMAP_RESERVE_ALL; @flags is 0 or
 * EXMAP_READERS_COPY, which changes nothing on the posix backend.  All other page numbers
 * and offsets count from the snapshot's start.  Any thread may call, also after
 * exmap_close of the region; nobody else while the snapshot is closed.
 */
int exmap_snapshot_open(struct exmap *ex, uint64_t start, uint64_t count, uint64_t reserve,
			uint64_t flags, struct exmap_snapshot **out);
void exmap_snapshot_close(struct exmap_snapshot *snap);

/*
 * Returns how many bytes were read: fewer than @len at the snapshot's end and
 * before an absent page, of which nothing is read; -ENOENT if that is the first.
 */
long exmap_snapshot_pread(struct exmap_snapshot *snap, void *buffer, size_t len, uint64_t offset);

/* Residency words: EXMAP_RES_MAPPED says whether the page was mapped. */
int exmap_snapshot_words(struct exmap_snapshot *snap, uint64_t start, uint64_t count,
			 uint32_t *words);

/*
 * Bit i of the bitmap (whole bytes are written) says whether page @start + i is
 * another one in @other, which must cover it too.  @start is a multiple of 8.
 */
int exmap_snapshot_diff(struct exmap_snapshot *snap, struct exmap_snapshot *other, uint64_t start,
			uint64_t count, uint8_t *bitmap);
int exmap_snapshot_info(struct exmap_snapshot *snap, struct exmap_snapshot_info *info);

/*
 * With EXMAP_READERS_COPY, copy pages now, as far as frames go, rather than one by
 * one when they are read: before a scan that goes on beside writers.  Else nothing.
 */
int exmap_snapshot_will_need(struct exmap_snapshot *snap, uint64_t start, uint64_t count);

/* One load, no syscall.  The page may change its state right afterwards. */
static inline bool exmap_is_mapped(const struct exmap *ex, uint64_t page)
{
	uint32_t word = __atomic_load_n(&ex->residency[page], __ATOMIC_ACQUIRE);

	return EXMAP_RES_MAPPED(word);
}

/* Address of a page; touching it while it is absent is a fault. */
static inline void *exmap_page(const struct exmap *ex, uint64_t page)
{
	return ex->base + page * EXMAP_PAGE_SIZE;
}

/*
 * Address of a page of a snapshot.  Touching one that was absent, or any once the
 * snapshot is broken, raises SIGBUS; exmap_snapshot_pread gives errors instead.
 */
static inline const void *exmap_snapshot_page(const struct exmap_snapshot *snap, uint64_t page)
{
	return snap->base + page * EXMAP_PAGE_SIZE;
}

#ifdef __cplusplus
}
#endif

#endif /* EXMAP_USER_H */
