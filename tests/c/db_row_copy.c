// SPDX-License-Identifier: MIT
/*
 * How fast rows can leave pages at best: texts of 100 bytes, 32 in a page, one after
 * the other to where a column has them, and nothing else; beside one copy of as much.
 *
 *	gcc -O2 -I tests/c tests/c/db_row_copy.c -o row_copy && ./row_copy ROWS
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

#define PAGE	4096u
#define PER_PAGE 32u
#define TEXT	100u
#define BYTES	(TEXT + sizeof(int64_t)) /* of a row's key and text */
#define ROUNDS	40u

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

__attribute__((noinline)) static void copy_rows(uint8_t *to, int32_t *offsets, const uint8_t *pages,
						const uint16_t *lengths, size_t rows)
{
	size_t i;

	offsets[0] = 0;
	for (i = 0; i < rows; i++) {
		const uint8_t *from = pages + i / PER_PAGE * PAGE + PAGE / 8 +
				      i % PER_PAGE * (TEXT + 12);

		memcpy(to + offsets[i], from, lengths[i]);
		offsets[i + 1] = offsets[i] + lengths[i];
	}
}

static void *touched(size_t size)
{
	void *memory = malloc(size);

	CHECK(memory);
	memset(memory, 1, size);
	return memory;
}

int main(int argc, char **argv)
{
	const size_t rows = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
	uint8_t *pages = touched((rows / PER_PAGE + 1) * PAGE), *from = touched(rows * BYTES);
	uint8_t *to = touched(rows * BYTES);
	int32_t *offsets = touched((rows + 1) * sizeof(*offsets));
	uint16_t *lengths = touched(rows * sizeof(*lengths));
	double by_rows = 1e9, at_once = 1e9;
	size_t i;

	for (i = 0; i < rows; i++)
		lengths[i] = TEXT;
	for (i = 0; i < ROUNDS; i++) {
		const double begin = now();
		double middle, end;

		copy_rows(to, offsets, pages, lengths, rows);
		middle = now();
		memcpy(to, from, rows * BYTES);
		end = now();
		by_rows = middle - begin < by_rows ? middle - begin : by_rows;
		at_once = end - middle < at_once ? end - middle : at_once;
	}
	printf("rows %.2f GB/s, one copy %.2f GB/s: %.2f\n", rows * BYTES / by_rows / 1e9,
	       rows * BYTES / at_once / 1e9, at_once / by_rows);
	return 0;
}
