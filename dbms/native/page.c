// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "crc32c.h"
#include "page.h"

void page_init(void *page, uint64_t number, enum page_type type, unsigned int level)
{
	struct page_header *header = page;

	memset(page, 0, PAGE_SIZE);
	header->magic = PAGE_MAGIC;
	header->number = number;
	header->type = type;
	header->level = level;
}

static uint32_t checksum(const void *page)
{
	static const uint32_t zero;
	const size_t after = offsetof(struct page_header, number);
	uint32_t crc;

	crc = crc32c(0, page, offsetof(struct page_header, crc));
	crc = crc32c(crc, &zero, sizeof(zero));
	return crc32c(crc, (const uint8_t *)page + after, PAGE_SIZE - after);
}

void page_seal(void *page)
{
	struct page_header *header = page;

	__atomic_store_n(&header->crc, checksum(page), __ATOMIC_RELAXED);
}

int page_verify(const void *page, uint64_t number)
{
	const struct page_header *header = page;

	if (header->magic != PAGE_MAGIC || header->number != number)
		return -EBADMSG;
	return header->crc == checksum(page) ? 0 : -EBADMSG;
}
