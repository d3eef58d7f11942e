/* SPDX-License-Identifier: MIT */
/*
 * Keys as strings of bytes whose order is that of the values.
 *
 *	bool			1 byte
 *	int32, date		4 bytes, big-endian, the sign bit flipped
 *	int64, timestamp	8 bytes, likewise
 *	decimal			as the int64 that it is without its point
 *	float64			8 bytes; negative numbers inverted; -0.0 is 0.0
 *	text, bytes		as they are (UTF-8), 00 written as 00 ff, 00 00 at the end
 *
 * The parts of a composite key follow one another, and no part is the
 * beginning of another one.
 */
#ifndef EXDB_KEY_H
#define EXDB_KEY_H

#include <string.h>

#include "exdb.h"

#define KEY_SIGN32	0x80000000u
#define KEY_SIGN64	0x8000000000000000ull

static inline void key_get32(const uint8_t *at, void *to)
{
	uint32_t bits;

	memcpy(&bits, at, sizeof(bits));
	bits = __builtin_bswap32(bits) ^ KEY_SIGN32;
	memcpy(to, &bits, sizeof(bits));
}

static inline void key_get64(const uint8_t *at, void *to, bool is_float)
{
	uint64_t bits;

	memcpy(&bits, at, sizeof(bits));
	bits = __builtin_bswap64(bits);
	/* a negative float64 was inverted as a whole */
	bits ^= is_float && !(bits & KEY_SIGN64) ? UINT64_MAX : KEY_SIGN64;
	memcpy(to, &bits, sizeof(bits));
}

/* Write a value of fixed width to @to. */
static inline void key_get_fixed(unsigned int type, const uint8_t *at, void *to)
{
	switch (type) {
	case EXDB_BOOL:
		memcpy(to, at, 1);
		break;
	case EXDB_INT32:
	case EXDB_DATE:
		key_get32(at, to);
		break;
	default:
		key_get64(at, to, type == EXDB_FLOAT64);
	}
}

/* Write the text to @to, which has room for EXDB_KEY_MAX bytes; its length. */
unsigned int key_get_text(const uint8_t **at, uint8_t *to);

#endif /* EXDB_KEY_H */
