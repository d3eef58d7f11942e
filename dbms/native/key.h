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

#include "exdb.h"

int32_t key_get_int32(const uint8_t **at);
int64_t key_get_int64(const uint8_t **at);
double key_get_float64(const uint8_t **at);

/* Write the text to @to, which has room for EXDB_KEY_MAX bytes; its length. */
unsigned int key_get_text(const uint8_t **at, uint8_t *to);

#endif /* EXDB_KEY_H */
