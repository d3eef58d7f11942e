// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "key.h"

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

int exdb_key_put_byte(struct exdb_key *key, uint8_t value)
{
	return put(key, &value, 1);
}

int exdb_key_put_int32(struct exdb_key *key, int32_t value)
{
	uint32_t bits = __builtin_bswap32((uint32_t)value ^ KEY_SIGN32);

	return put(key, &bits, sizeof(bits));
}

int exdb_key_put_int64(struct exdb_key *key, int64_t value)
{
	return put_bits(key, (uint64_t)value ^ KEY_SIGN64);
}

int exdb_key_put_float64(struct exdb_key *key, double value)
{
	uint64_t bits;

	if (value != value)
		return -EDOM;
	value += 0.0; /* turns -0.0 into 0.0 */
	memcpy(&bits, &value, sizeof(bits));
	return put_bits(key, bits & KEY_SIGN64 ? ~bits : bits | KEY_SIGN64);
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
