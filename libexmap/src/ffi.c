// SPDX-License-Identifier: MIT
/* libexmap: every inline of the header as a function, for bindings. */
#include "ffi.h"

bool exmap_ffi_is_mapped(const struct exmap *ex, uint64_t page)
{
	return exmap_is_mapped(ex, page);
}

void *exmap_ffi_page(const struct exmap *ex, uint64_t page)
{
	return exmap_page(ex, page);
}

const void *exmap_ffi_snapshot_page(const struct exmap_snapshot *snap, uint64_t page)
{
	return exmap_snapshot_page(snap, page);
}

int exmap_ffi_nvme_submit(struct exmap_nvme_queue *queue, unsigned int opcode, uint64_t page,
			  unsigned int pages, uint64_t lba, uint64_t tag)
{
	return exmap_nvme_submit(queue, opcode, page, pages, lba, tag);
}

int exmap_ffi_nvme_submit_flush(struct exmap_nvme_queue *queue, uint64_t tag)
{
	return exmap_nvme_submit_flush(queue, tag);
}

int exmap_ffi_nvme_submit_zeroes(struct exmap_nvme_queue *queue, uint64_t lba, uint32_t blocks,
				 uint64_t tag)
{
	return exmap_nvme_submit_zeroes(queue, lba, blocks, tag);
}

int exmap_ffi_nvme_submit_deallocate(struct exmap_nvme_queue *queue, uint64_t lba, uint32_t blocks,
				     uint64_t tag)
{
	return exmap_nvme_submit_deallocate(queue, lba, blocks, tag);
}

void exmap_ffi_nvme_ring(struct exmap_nvme_queue *queue)
{
	exmap_nvme_ring(queue);
}

size_t exmap_ffi_nvme_reap(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results,
			   size_t max)
{
	return exmap_nvme_reap(queue, results, max);
}

uint64_t exmap_ffi_nvme_address(const struct exmap_nvme_queue *queue, uint64_t page)
{
	return exmap_nvme_address(queue, page);
}

int exmap_ffi_nvme_error(uint32_t status)
{
	return exmap_nvme_error(status);
}
