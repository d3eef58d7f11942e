// SPDX-License-Identifier: MIT
/*
 * Programs that have reached what no other had, and changes of them.
 *
 * A program follows from its chain of numbers alone: the first one's, and those of
 * the changes that led from it to this one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define KEPT 512
#define CHANGES 8
#define RECENT 16
#define LINK 22 /* a dot, the longest number, the end */

static struct program kept[KEPT];
static unsigned int nr_kept;

static uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void make(struct program *program, uint64_t number)
{
	uint64_t state = number;
	unsigned int i, j;

	program->number = number;
	program->parent = 0;
	snprintf(program->chain, CHAIN, "%llu", (unsigned long long)number);
	program->open = mix(&state);
	for (i = 0; i < THREADS; i++)
		for (j = 0; j < STEPS; j++)
			program->steps[i][j] = mix(&state);
}

/* Some steps of a thread become others: new ones, or those of a thread. */
static void change_some(struct program *program, uint64_t *state)
{
	unsigned int to = mix(state) % STEPS, from = mix(state) % STEPS;
	unsigned int n = 1 + mix(state) % 16, i;
	uint64_t *target = program->steps[mix(state) % THREADS];
	const uint64_t *source = program->steps[mix(state) % THREADS];
	bool copy = mix(state) % 2;

	for (i = 0; i < n && to + i < STEPS; i++)
		target[to + i] = copy ? source[(from + i) % STEPS] : mix(state);
}

static void change(struct program *program, uint64_t number)
{
	uint64_t state = number;
	unsigned int i, n = 1 + mix(&state) % CHANGES;
	size_t length = strlen(program->chain);

	program->parent = program->number;
	program->number = number;
	snprintf(program->chain + length, CHAIN - length, ".%llu", (unsigned long long)number);
	for (i = 0; i < n; i++)
		change_some(program, &state);
	if (!(mix(&state) % 8))
		program->open = mix(&state);
}

bool program_of_chain(struct program *program, const char *chain)
{
	char *end;

	make(program, strtoull(chain, &end, 10));
	while (*end == '.')
		change(program, strtoull(end + 1, &end, 10));
	return !*end;
}

/* The one to change: half of the time one of those that were kept last. */
static const struct program *pick(uint64_t *state)
{
	unsigned int n = mix(state) % 2 && nr_kept > RECENT ? RECENT : nr_kept;

	return &kept[nr_kept - 1 - mix(state) % n];
}

void draw_program(struct program *program, uint64_t number)
{
	uint64_t state = ~number;

	if (nr_kept && mix(&state) % 4) {
		*program = *pick(&state);
		if (strlen(program->chain) + LINK < CHAIN) {
			change(program, number);
			return;
		}
	}
	make(program, number);
}

void keep_program(const struct program *program)
{
	if (nr_kept < KEPT)
		kept[nr_kept++] = *program;
}

unsigned int kept_programs(void)
{
	return nr_kept;
}
