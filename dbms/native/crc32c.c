// SPDX-License-Identifier: MIT
#include <pthread.h>
#include <string.h>

#include "crc32c.h"

#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
	unsigned int i, k;

	for (i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		table[0][i] = crc;
	}
	for (i = 0; i < 256; i++)
		for (k = 1; k < 8; k++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

/* Slicing by eight (Kounavis and Berry, 2005). */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t length)
{
	const uint8_t *p = data;
	unsigned int k;

	pthread_once(&once, make_table);
	crc = ~crc;
	for (; length >= 8; p += 8, length -= 8) {
		uint32_t next = 0;

		for (k = 0; k < 4; k++)
			next ^= table[7 - k][(uint8_t)(p[k] ^ crc >> 8 * k)];
		for (k = 4; k < 8; k++)
			next ^= table[7 - k][p[k]];
		crc = next;
	}
	for (; length; p++, length--)
		crc = crc >> 8 ^ table[0][(uint8_t)(crc ^ *p)];
	return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
							       size_t length)
{
	const uint8_t *p = data;
	uint64_t wide = ~crc;

	for (; length >= 8; p += 8, length -= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	for (; length; p++, length--)
		wide = __builtin_ia32_crc32qi(wide, *p);
	return ~(uint32_t)wide;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t length)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return crc32c_sse42(crc, data, length);
#endif
	return crc32c_portable(crc, data, length);
}
