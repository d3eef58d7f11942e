// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "key.h"

#define SIGN32 0x80000000u
#define SIGN64 0x8000000000000000ull

void exdb_key_clear(struct exdb_key *key)
{
	key->length = 0;
}

static int put(struct exdb_key *key, const void *bytes, unsigned int length)
{
	if (length > EXDB_KEY_MAX - key->length)
		return -EMSGSIZE;
	memcpy(key->bytes + key->length, bytes, length);
	key->length += length;
	return 0;
}

void exdb_key_next(struct exdb_key *key)
{
	while (key->length && key->bytes[key->length - 1] == 0xff)
		key->length--;
	if (key->length)
		key->bytes[key->length - 1]++;
}

static int put_bits(struct exdb_key *key, uint64_t bits)
{
	bits = __builtin_bswap64(bits);
	return put(key, &bits, sizeof(bits));
}

static uint64_t get_bits(const uint8_t **at)
{
	uint64_t bits;

	memcpy(&bits, *at, sizeof(bits));
	*at += sizeof(bits);
	return __builtin_bswap64(bits);
}

int exdb_key_put_byte(struct exdb_key *key, uint8_t value)
{
	return put(key, &value, 1);
}

int exdb_key_put_int32(struct exdb_key *key, int32_t value)
{
	uint32_t bits = __builtin_bswap32((uint32_t)value ^ SIGN32);

	return put(key, &bits, sizeof(bits));
}

int32_t key_get_int32(const uint8_t **at)
{
	uint32_t bits;

	memcpy(&bits, *at, sizeof(bits));
	*at += sizeof(bits);
	return (int32_t)(__builtin_bswap32(bits) ^ SIGN32);
}

int exdb_key_put_int64(struct exdb_key *key, int64_t value)
{
	return put_bits(key, (uint64_t)value ^ SIGN64);
}

int64_t key_get_int64(const uint8_t **at)
{
	return (int64_t)(get_bits(at) ^ SIGN64);
}

int exdb_key_put_float64(struct exdb_key *key, double value)
{
	uint64_t bits;

	if (value != value)
		return -EDOM;
	value += 0.0; /* turns -0.0 into 0.0 */
	memcpy(&bits, &value, sizeof(bits));
	return put_bits(key, bits & SIGN64 ? ~bits : bits | SIGN64);
}

double key_get_float64(const uint8_t **at)
{
	uint64_t bits = get_bits(at);
	double value;

	bits = bits & SIGN64 ? bits & ~SIGN64 : ~bits;
	memcpy(&value, &bits, sizeof(value));
	return value;
}

int exdb_key_put_text(struct exdb_key *key, const uint8_t *text, uint32_t length)
{
	static const uint8_t zero[2] = { 0x00, 0xff }, end[2] = { 0x00, 0x00 };
	int ret = 0;

	while (length && !ret) {
		const uint8_t *nul = memchr(text, 0, length);
		uint32_t run = nul ? (uint32_t)(nul - text) : length;

		ret = put(key, text, run);
		if (!ret && nul)
			ret = put(key, zero, sizeof(zero));
		run += nul != NULL;
		text += run;
		length -= run;
	}
	return ret ? ret : put(key, end, sizeof(end));
}

unsigned int key_get_text(const uint8_t **at, uint8_t *to)
{
	const uint8_t *from = *at;
	unsigned int length = 0;

	while (from[0] || from[1]) {
		to[length++] = from[0];
		from += from[0] ? 1 : 2;
	}
	*at = from + 2;
	return length;
}
