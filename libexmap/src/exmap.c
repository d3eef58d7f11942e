// SPDX-License-Identifier: MIT
/* libexmap: choice of the backend, and what stands on the ABI alone. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "internal.h"

#define MAX_RUN (EXMAP_PAGE_MAX_PAGES - 1u)

static const struct exmap_ops *ops_of(const struct exmap *ex)
{
	return ((const struct exmap_base *)ex)->ops;
}

static bool no_device(int error)
{
	return error == -ENOENT || error == -ENXIO || error == -ENODEV;
}

int exmap_open(const struct exmap_config *config, struct exmap **out)
{
	int ret;

	*out = NULL;
	if (!config->region_pages || config->region_pages > EXMAP_REGION_MAX_PAGES)
		return -EINVAL;
	switch (config->backend) {
	case EXMAP_BACKEND_KERNEL:
		return exmap_kernel_open(config, out);
	case EXMAP_BACKEND_POSIX:
		return exmap_posix_open(config, out);
	case EXMAP_BACKEND_AUTO:
		ret = exmap_kernel_open(config, out);
		return no_device(ret) ? exmap_posix_open(config, out) : ret;
	default:
		return -EINVAL;
	}
}

void exmap_close(struct exmap *ex)
{
	if (ex)
		ops_of(ex)->close(ex);
}

int exmap_action(struct exmap *ex, unsigned int interface, unsigned int opcode, unsigned int iov_len,
		 uint64_t flags)
{
	return ops_of(ex)->action(ex, interface, opcode, iov_len, flags);
}

int exmap_barrier(struct exmap *ex)
{
	return ops_of(ex)->barrier(ex);
}

int exmap_resize(struct exmap *ex, uint64_t pool_pages)
{
	return ops_of(ex)->resize(ex, pool_pages);
}

int exmap_tune(struct exmap *ex, struct exmap_tune *tune)
{
	return ops_of(ex)->tune(ex, tune);
}

int exmap_scan(struct exmap *ex, const struct exmap_scan *scan)
{
	return ops_of(ex)->scan(ex, scan);
}

int exmap_info(struct exmap *ex, struct exmap_info *info)
{
	memset(info, 0, sizeof(*info));
	return ops_of(ex)->info(ex, info);
}

int exmap_counters(struct exmap *ex, struct exmap_counters *counters)
{
	memset(counters, 0, sizeof(*counters));
	return ops_of(ex)->counters(ex, counters);
}

/* How many of the pages follow one another, as their blocks do if there are any. */
static size_t run_length(const uint64_t *pages, const uint64_t *blocks, size_t n)
{
	size_t run = 1;

	while (run < n && run < MAX_RUN && pages[run] == pages[0] + run &&
	       (!blocks || blocks[run] == blocks[0] + run))
		run++;
	return run;
}

/* Fill the interface's vector; returns how many iovs, *used how many pages. */
static unsigned int fill_vector(struct exmap_iov *iov, const uint64_t *pages,
				const uint64_t *blocks, size_t n, size_t *used)
{
	const unsigned int most = blocks ? EXMAP_AT_BLOCKS_MAX : EXMAP_USER_INTERFACE_PAGES;
	unsigned int len = 0;
	size_t i = 0;

	while (i < n && len < most) {
		size_t run = run_length(pages + i, blocks ? blocks + i : NULL, n - i);

		/* a number that does not fit is outside of every region */
		iov[len].value = pages[i] >> 52 ? (1ull << 52) - 1 : pages[i];
		iov[len].len = run;
		if (blocks)
			iov[most + len].value = blocks[i];
		len++;
		i += run;
	}
	*used = i;
	return len;
}

/* Add up a vector's results: the pages that changed, and the first error. */
static int sum_results(const struct exmap_iov *iov, unsigned int len, size_t *changed)
{
	int error = 0;
	unsigned int i;

	for (i = 0; i < len; i++) {
		*changed += (size_t)iov[i].pages;
		if (iov[i].res && !error)
			error = iov[i].res;
	}
	return error;
}

static long run_pages(struct exmap *ex, unsigned int interface, unsigned int opcode,
		      const uint64_t *pages, const uint64_t *blocks, size_t n, uint64_t flags,
		      size_t *done)
{
	size_t changed = 0, used;
	long ret = 0;

	if (interface >= ex->interfaces || !(flags & EXMAP_AT_BLOCKS) != !blocks)
		ret = -EINVAL;
	while (n && !ret) {
		struct exmap_iov *iov = ex->itf[interface]->iov;
		unsigned int len = fill_vector(iov, pages, blocks, n, &used);

		ret = exmap_action(ex, interface, opcode, len, flags);
		if (ret >= 0)
			ret = sum_results(iov, len, &changed);
		pages += used;
		blocks += blocks ? used : 0;
		n -= used;
	}
	if (done)
		*done = changed;
	return ret ? ret : (long)changed;
}

long exmap_vector(struct exmap *ex, unsigned int interface, unsigned int opcode,
		  const uint64_t *pages, size_t n, uint64_t flags, size_t *done)
{
	return run_pages(ex, interface, opcode, pages, NULL, n, flags, done);
}

long exmap_vector_at(struct exmap *ex, unsigned int interface, unsigned int opcode,
		     const uint64_t *pages, const uint64_t *blocks, size_t n, size_t *done)
{
	return run_pages(ex, interface, opcode, pages, blocks, n, EXMAP_AT_BLOCKS, done);
}

int exmap_snapshot_open(struct exmap *ex, uint64_t start, uint64_t count, uint64_t reserve,
			uint64_t flags, struct exmap_snapshot **out)
{
	struct exmap_snapshot_create create = {
		.flags = flags, .start = start, .count = count, .reserve = reserve,
	};

	*out = NULL;
	return ops_of(ex)->snapshot(ex, &create, out);
}

static const struct exmap_snapshot_ops *snapshot_ops_of(const struct exmap_snapshot *snap)
{
	return ((const struct exmap_snapshot_base *)snap)->ops;
}

void exmap_snapshot_close(struct exmap_snapshot *snap)
{
	if (snap)
		snapshot_ops_of(snap)->close(snap);
}

long exmap_snapshot_pread(struct exmap_snapshot *snap, void *buffer, size_t len, uint64_t offset)
{
	return snapshot_ops_of(snap)->pread(snap, buffer, len, offset);
}

int exmap_snapshot_words(struct exmap_snapshot *snap, uint64_t start, uint64_t count,
			 uint32_t *words)
{
	return snapshot_ops_of(snap)->words(snap, start, count, words);
}

int exmap_snapshot_diff(struct exmap_snapshot *snap, struct exmap_snapshot *other, uint64_t start,
			uint64_t count, uint8_t *bitmap)
{
	if (snap->backend != other->backend)
		return -EXDEV;
	if (start > snap->count || count > snap->count - start)
		return -EFAULT;
	return snapshot_ops_of(snap)->diff(snap, other, snap->start + start, count, bitmap);
}

int exmap_snapshot_will_need(struct exmap_snapshot *snap, uint64_t start, uint64_t count)
{
	if (start > snap->count || count > snap->count - start)
		return -EFAULT;
	/* of length 0 is of all that follows */
	if (!count)
		return 0;
	return -posix_fadvise(snap->fd, (off_t)(start * EXMAP_PAGE_SIZE),
			      (off_t)(count * EXMAP_PAGE_SIZE), POSIX_FADV_WILLNEED);
}

int exmap_snapshot_info(struct exmap_snapshot *snap, struct exmap_snapshot_info *info)
{
	memset(info, 0, sizeof(*info));
	return snapshot_ops_of(snap)->info(snap, info);
}
