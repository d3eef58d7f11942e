// SPDX-License-Identifier: MIT
/* What cases of snapshots call. */
#include "snapshot.h"

int snapshot(struct region *r, __u64 start, __u64 count, __u64 reserve)
{
	struct exmap_snapshot_create create = { .start = start, .count = count, .reserve = reserve };

	return ioctl(r->fd, EXMAP_IOCTL_SNAPSHOT, &create);
}

void fill(struct region *r, __u64 start, unsigned int count, __u32 value)
{
	__u64 page;

	CHECK(!one(r, 0, EXMAP_OP_ALLOC, start, count, 0, NULL));
	for (page = start; page < start + count; page++)
		*word_of(r->mem, page) = value + page;
}

__u32 read_word(int snap, __u64 page)
{
	__u32 value;

	CHECK(pread(snap, &value, sizeof(value), page * PAGE) == sizeof(value));
	return value;
}

void check_shows(int snap, __u64 start, unsigned int count, __u32 value)
{
	char *view = mmap(NULL, (start + count) * PAGE, PROT_READ, MAP_SHARED, snap, 0);
	__u64 page;

	CHECK(view != MAP_FAILED);
	for (page = start; page < start + count; page++) {
		CHECK(*word_of(view, page) == value + page);
		CHECK(read_word(snap, page) == value + page);
	}
	CHECK(!munmap(view, (start + count) * PAGE));
}

struct exmap_snapshot_info info(int snap)
{
	struct exmap_snapshot_info i = { };

	CHECK(!ioctl(snap, EXMAP_IOCTL_SNAPSHOT_INFO, &i));
	return i;
}

__u32 page_word(int snap, __u64 page)
{
	__u32 word;
	struct exmap_snapshot_pages pages = { .start = page, .count = 1,
					      .words = (__u64)(unsigned long)&word };

	CHECK(!ioctl(snap, EXMAP_IOCTL_SNAPSHOT_PAGES, &pages));
	return word;
}
