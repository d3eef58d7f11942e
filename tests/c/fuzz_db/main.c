// SPDX-License-Identifier: MIT
/*
 * Inputs for target.c where there is no libFuzzer: db_fuzz SECONDS SEED [INPUTS], or db_fuzz FILE...
 * for inputs that are kept.  Input number n of a seed is always the same.  Whatever ends the program
 * leaves the input in ./crash-SEED-N.
 */
#include <fcntl.h>
#include <limits.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LONGEST		(1 + 8 * 8)
#define PATIENCE	20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t input[LONGEST];
static size_t size;
static unsigned long seed, number;

static void keep_input(void)
{
	char name[64];
	int fd, n = snprintf(name, sizeof(name), "crash-%lu-%lu", seed, number);

	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, input, size) < 0 || write(2, name, (size_t)n) < 0 ||
	    write(2, ": the input\n", 12) < 0)
		_exit(3);
	close(fd);
}

static void end(int number_of_signal)
{
	keep_input();
	signal(number_of_signal, SIG_DFL);
	raise(number_of_signal);
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static void make_input(void)
{
	uint64_t state = seed << 40 ^ number;
	size_t i, changes = 1 + next_random(&state) % 8;

	size = 1 + 8 * changes;
	for (i = 0; i < size; i++)
		input[i] = (uint8_t)next_random(&state);
}

static int run_files(int n, char **names)
{
	int i;

	for (i = 0; i < n; i++) {
		FILE *file = fopen(names[i], "re");

		if (!file) {
			perror(names[i]);
			return 1;
		}
		size = fread(input, 1, sizeof(input), file);
		fclose(file);
		LLVMFuzzerTestOneInput(input, size);
	}
	printf("%d inputs\n", n);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long inputs;
	char *rest;
	time_t stop;

	signal(SIGALRM, end);
	signal(SIGABRT, end);
	__sanitizer_set_death_callback(keep_input);
	if (argc < 3 || (stop = strtol(argv[1], &rest, 10), *rest))
		return run_files(argc - 1, argv + 1);
	seed = strtoul(argv[2], NULL, 10);
	inputs = argc > 3 ? strtoul(argv[3], NULL, 10) : ULONG_MAX;
	stop += time(NULL);
	for (; time(NULL) < stop && number < inputs; number++) {
		make_input();
		alarm(PATIENCE);
		LLVMFuzzerTestOneInput(input, size);
		alarm(0);
	}
	printf("%lu inputs\n", number);
	return 0;
}
