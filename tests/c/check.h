/* SPDX-License-Identifier: MIT */
/* What has to hold in a test program, which dies of it if it does not. */
#ifndef EXMAP_TEST_CHECK_H
#define EXMAP_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

#endif /* EXMAP_TEST_CHECK_H */
