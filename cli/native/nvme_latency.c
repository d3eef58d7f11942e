// SPDX-License-Identifier: MIT
/* How long single transfers take. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "nvme.h"

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The smallest value that @share of them do not exceed. */
static double percentile(const uint64_t *sorted, size_t n, double share)
{
	size_t i = (size_t)((double)n * share);

	return (double)sorted[i < n ? i : n - 1];
}

static int run(struct nvme_bench *bench, struct nvme_thread *thread, unsigned int depth,
	       size_t transfers)
{
	long ret = 0;

	while (thread->nr_latencies < transfers && ret >= 0)
		ret = nvme_turn(bench, thread, depth);
	return ret < 0 ? (int)ret : nvme_drain(bench, thread);
}

int nvme_time(struct nvme_bench *bench, bool write, unsigned int depth, size_t transfers,
	      struct nvme_latency *latency)
{
	struct nvme_thread *thread = &bench->threads[0];
	size_t n;
	int ret;

	if (!depth || depth >= NVME_MAX_DEPTH || !transfers)
		return -EINVAL;
	/* what is in flight at the end is counted as well */
	thread->latencies = calloc(transfers + 2 * NVME_MAX_DEPTH, sizeof(uint64_t));
	if (!thread->latencies)
		return -ENOMEM;
	thread->nr_latencies = 0;
	thread->write = write;
	ret = run(bench, thread, depth, transfers);
	n = thread->nr_latencies;
	qsort(thread->latencies, n, sizeof(uint64_t), compare);
	*latency = (struct nvme_latency){
		.p50 = percentile(thread->latencies, n, 0.5),
		.p99 = percentile(thread->latencies, n, 0.99),
		.p999 = percentile(thread->latencies, n, 0.999),
		.max = percentile(thread->latencies, n, 1),
	};
	free(thread->latencies);
	thread->latencies = NULL;
	return ret;
}
