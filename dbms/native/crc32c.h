/* SPDX-License-Identifier: MIT */
#ifndef EXDB_CRC32C_H
#define EXDB_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC32C (Castagnoli), as in RFC 3720; chainable, starting from 0. */
uint32_t crc32c(uint32_t crc, const void *data, size_t length);

/* The same without the processor's instruction. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t length);

#endif /* EXDB_CRC32C_H */
