// SPDX-License-Identifier: MIT
/* Checksums of known inputs, and both ways to make them beside each other. */
#include <stdio.h>
#include <string.h>
#include "crc32c.h"
int main(void)
{
	unsigned char bytes[4096];
	unsigned int i, from;

	memset(bytes, 0, 32);
	printf("%08x\n", crc32c(0, bytes, 32));
	memset(bytes, 0xff, 32);
	printf("%08x\n", crc32c(0, bytes, 32));
	for (i = 0; i < 32; i++)
		bytes[i] = i;
	printf("%08x\n", crc32c(0, bytes, 32));
	printf("%08x\n", crc32c(0, "123456789", 9));
	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * i >> 3;
	for (from = 0; from < 300; from++)
		if (crc32c(from, bytes + from, 4096 - 7 * from) !=
		    crc32c_portable(from, bytes + from, 4096 - 7 * from))
			return 1;
	return 0;
}
