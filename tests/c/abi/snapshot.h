/* SPDX-License-Identifier: MIT */
/* What the cases of snapshots share. */
#ifndef ABI_SNAPSHOT_H
#define ABI_SNAPSHOT_H

#include "abi.h"

#define CHUNK EXMAP_CHUNK_PAGES

int snapshot(struct region *r, __u64 start, __u64 count, __u64 reserve);
/* ALLOC a range and write @value + page number to each page. */
void fill(struct region *r, __u64 start, unsigned int count, __u32 value);
/* The first word of a page of a snapshot, by pread. */
__u32 read_word(int snap, __u64 page);
/* A view, and pread, show @value + page number. */
void check_shows(int snap, __u64 start, unsigned int count, __u32 value);
struct exmap_snapshot_info info(int snap);
/* The residency word that the snapshot has for a page. */
__u32 page_word(int snap, __u64 page);

static inline volatile __u32 *word_of(char *mem, __u64 page)
{
	return (volatile __u32 *)(mem + page * PAGE);
}

#endif /* ABI_SNAPSHOT_H */
