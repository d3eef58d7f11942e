// SPDX-License-Identifier: MIT
/*
 * Orders in which writers visit pages: drawn before anything is measured, the
 * same for all ways.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "snapshot.h"

struct snapshot_orders {
	uint32_t len;
	uint32_t writers;
	uint32_t items[];	/* len of writer 0, then of writer 1, ... */
};

/* sums[i]: how much of the probability the ranks 0 to i have, not normalised. */
static void sum_up(double *sums, uint32_t pages, double theta)
{
	double sum = 0;
	uint32_t i;

	for (i = 0; i < pages; i++) {
		sum += pow(i + 1, -theta);
		sums[i] = sum;
	}
}

/* The first rank whose sum is above @target. */
static uint32_t find_rank(const double *sums, uint32_t pages, double target)
{
	uint32_t low = 0, high = pages - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (sums[middle] > target)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void draw(struct snapshot_orders *orders, const double *sums, const uint32_t *places,
		 uint32_t pages, uint64_t seed)
{
	size_t i, n = (size_t)orders->len * orders->writers;

	for (i = 0; i < n; i++) {
		double u = (double)(bench_random(&seed) >> 11) * 0x1p-53;

		orders->items[i] = places[find_rank(sums, pages, u * sums[pages - 1])];
	}
}

int snapshot_orders_make(uint32_t pages, uint32_t writers, uint32_t len, double theta,
			 uint64_t seed, struct snapshot_orders **out)
{
	struct snapshot_orders *orders;
	uint32_t i, *places;
	double *sums;
	int ret = -ENOMEM;

	if (!pages || !writers || writers > SNAPSHOT_MAX_WRITERS || !len || theta < 0)
		return -EINVAL;
	orders = malloc(sizeof(*orders) + (size_t)len * writers * sizeof(orders->items[0]));
	places = malloc((size_t)pages * sizeof(*places));
	sums = malloc((size_t)pages * sizeof(*sums));
	if (!orders || !places || !sums)
		goto out;
	orders->len = len;
	orders->writers = writers;
	for (i = 0; i < pages; i++)
		places[i] = i;
	bench_shuffle(places, pages, seed);
	sum_up(sums, pages, theta);
	draw(orders, sums, places, pages, seed + 1);
	*out = orders;
	orders = NULL;
	ret = 0;
out:
	free(sums);
	free(places);
	free(orders);
	return ret;
}

void snapshot_orders_free(struct snapshot_orders *orders)
{
	free(orders);
}

const uint32_t *snapshot_order(const struct snapshot_orders *orders, unsigned int writer,
			       uint32_t *len)
{
	*len = orders->len;
	return writer < orders->writers ? orders->items + (size_t)writer * orders->len : NULL;
}
