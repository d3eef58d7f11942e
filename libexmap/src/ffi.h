/* SPDX-License-Identifier: MIT */
/* libexmap: the inlines of the headers as functions; for bindings alone. */
#ifndef EXMAP_FFI_H
#define EXMAP_FFI_H

#include "exmap_user.h"

bool exmap_ffi_is_mapped(const struct exmap *ex, uint64_t page);
void *exmap_ffi_page(const struct exmap *ex, uint64_t page);
const void *exmap_ffi_snapshot_page(const struct exmap_snapshot *snap, uint64_t page);
int exmap_ffi_nvme_submit(struct exmap_nvme_queue *queue, unsigned int opcode, uint64_t page,
			  unsigned int pages, uint64_t lba, uint64_t tag);
int exmap_ffi_nvme_submit_flush(struct exmap_nvme_queue *queue, uint64_t tag);
int exmap_ffi_nvme_submit_zeroes(struct exmap_nvme_queue *queue, uint64_t lba, uint32_t blocks,
				 uint64_t tag);
int exmap_ffi_nvme_submit_deallocate(struct exmap_nvme_queue *queue, uint64_t lba, uint32_t blocks,
				     uint64_t tag);
void exmap_ffi_nvme_ring(struct exmap_nvme_queue *queue);
size_t exmap_ffi_nvme_reap(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results,
			   size_t max);
uint64_t exmap_ffi_nvme_address(const struct exmap_nvme_queue *queue, uint64_t page);
int exmap_ffi_nvme_error(uint32_t status);

#endif /* EXMAP_FFI_H */
