// SPDX-License-Identifier: MIT
#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "crc32c.h"

#define POLYNOMIAL	0x82f63b78u /* reflected */
#define TRIALS		5

typedef uint32_t (*checksum)(uint32_t crc, const void *data, size_t length);

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT, best_once = PTHREAD_ONCE_INIT;
static checksum best;

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

	pthread_once(&table_once, make_table);
	crc = ~crc;
	for (; length >= 8; p += 8, length -= 8) {
		uint64_t word;
		uint32_t next = 0;

		memcpy(&word, p, 8);
		word = le64toh(word) ^ crc;
		for (k = 0; k < 8; k++)
			next ^= table[7 - k][(uint8_t)(word >> 8 * k)];
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

/* The nanoseconds of a page, when nothing comes in between. */
static uint64_t time_of(checksum compute)
{
	static const uint8_t page[4096];
	uint64_t least = UINT64_MAX, took;
	struct timespec begin, end;
	volatile uint32_t result; /* or the compiler leaves the work out */
	unsigned int i;

	for (i = 0; i < TRIALS; i++) {
		clock_gettime(CLOCK_MONOTONIC, &begin);
		result = compute(0, page, sizeof(page));
		clock_gettime(CLOCK_MONOTONIC, &end);
		took = (uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000;
		took += (uint64_t)(end.tv_nsec - begin.tv_nsec);
		least = took < least ? took : least;
	}
	(void)result;
	return least;
}
#endif

/* QEMU emulates the instruction bit by bit, so that it is worth a look which one is faster. */
static void choose_best(void)
{
	best = crc32c_portable;
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2") && time_of(crc32c_sse42) <= time_of(crc32c_portable))
		best = crc32c_sse42;
#endif
}

uint32_t crc32c(uint32_t crc, const void *data, size_t length)
{
	pthread_once(&best_once, choose_best);
	return best(crc, data, length);
}
