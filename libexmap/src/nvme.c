// SPDX-License-Identifier: MIT
/* libexmap: NVMe queues, what both backends share. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define BATCH		64
#define POLLS		256		/* between looks at the clock */
#define CHECK_NS	100000000ull	/* without a result, between looks at the controller */
#define SLEEP_NS	1000000000ull	/* the same, while asleep */

static const struct exmap_nvme_ops *ops_of(const struct exmap_nvme_queue *queue)
{
	return ((const struct exmap_nvme_base *)queue)->ops;
}

int exmap_nvme_init(struct exmap_nvme_queue *queue, struct exmap *ex,
		    const struct exmap_nvme_config *config)
{
	const uint32_t depth = config->depth;
	uint32_t i;

	queue->residency = ex->residency;
	queue->region_pages = ex->region_pages;
	queue->backend = ex->backend;
	queue->depth = depth;
	queue->phase = 1;
	queue->fd = -1;
	queue->ack_after = config->interrupts ? 1 : (depth + 3) / 4;
	queue->tags = calloc(depth, sizeof(*queue->tags));
	queue->ids = calloc(depth, sizeof(*queue->ids));
	queue->event = config->interrupts ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	if (!queue->tags || !queue->ids || (config->interrupts && queue->event < 0)) {
		exmap_nvme_exit(queue);
		return -ENOMEM;
	}
	/* a queue that is full looks empty: one less than there are entries */
	queue->free = depth - 1;
	for (i = 0; i < queue->free; i++)
		queue->ids[i] = (uint16_t)i;
	return 0;
}

void exmap_nvme_exit(struct exmap_nvme_queue *queue)
{
	if (queue->event >= 0)
		close(queue->event);
	free(queue->tags);
	free(queue->ids);
}

int exmap_nvme_open(struct exmap *ex, const struct exmap_nvme_config *config,
		    struct exmap_nvme_queue **out)
{
	*out = NULL;
	if (config->depth < 2 || config->depth > EXMAP_NVME_MAX_DEPTH || !config->device)
		return -EINVAL;
	return ((struct exmap_base *)ex)->ops->nvme(ex, config, out);
}

void exmap_nvme_close(struct exmap_nvme_queue *queue)
{
	if (queue)
		ops_of(queue)->close(queue);
}

int exmap_nvme_check(struct exmap_nvme_queue *queue)
{
	return ops_of(queue)->check(queue);
}

int exmap_nvme_reset(struct exmap_nvme_queue *queue)
{
	return ops_of(queue)->reset(queue);
}

uint64_t exmap_nvme_slow_address(const struct exmap_nvme_queue *queue, uint64_t page, uint32_t word)
{
	return ops_of(queue)->address(queue, page, word);
}

void exmap_nvme_slow_ring(struct exmap_nvme_queue *queue)
{
	ops_of(queue)->ring(queue);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Poll a while; returns the results found. */
static size_t spin(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results, size_t max)
{
	unsigned int i;
	size_t n;

	for (i = 0; i < POLLS; i++) {
		n = exmap_nvme_reap(queue, results, max);
		if (n)
			return n;
		__builtin_ia32_pause();
	}
	return 0;
}

/* What has come until now is about to be looked for. */
static void clear_event(struct exmap_nvme_queue *queue)
{
	eventfd_t count;

	if (queue->event >= 0)
		eventfd_read(queue->event, &count);
}

/* Sleep until an interrupt; returns the results found. */
static size_t sleep_and_reap(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results,
			     size_t max, uint64_t timeout_ns)
{
	const uint64_t ns = timeout_ns < SLEEP_NS ? timeout_ns : SLEEP_NS;
	const struct timespec time = { .tv_sec = (time_t)(ns / SLEEP_NS),
				       .tv_nsec = (long)(ns % SLEEP_NS) };
	struct pollfd event = { .fd = queue->event, .events = POLLIN };

	ppoll(&event, 1, &time, NULL);
	clear_event(queue);
	return exmap_nvme_reap(queue, results, max);
}

long exmap_nvme_wait(struct exmap_nvme_queue *queue, struct exmap_nvme_result *results,
		     size_t min, size_t max, uint64_t timeout_ns)
{
	size_t in_flight = queue->depth - 1 - queue->free, n;
	uint64_t begin, time, checked;
	int ret;

	if (min > max)
		min = max;
	if (min > in_flight)
		min = in_flight;
	exmap_nvme_ring(queue);
	clear_event(queue);
	n = exmap_nvme_reap(queue, results, max);
	begin = time = checked = n < min ? now() : 0;
	while (n < min) {
		uint64_t left = time - begin < timeout_ns ? timeout_ns - (time - begin) : 0;
		size_t more = queue->event < 0 ?
				      spin(queue, results + n, max - n) :
				      sleep_and_reap(queue, results + n, max - n, left);

		time = more && queue->event < 0 ? time : now();
		n += more;
		if (more)
			continue;
		if (time - begin >= timeout_ns)
			break;
		if (time - checked < CHECK_NS)
			continue;
		checked = time;
		ret = exmap_nvme_check(queue);
		if (ret)
			return n ? (long)n : ret;
	}
	return (long)n;
}

long exmap_nvme_submit_vector(struct exmap_nvme_queue *queue, unsigned int opcode,
			      const uint64_t *pages, const uint64_t *lbas, const uint64_t *tags,
			      size_t n, unsigned int each)
{
	size_t i;

	for (i = 0; i < n; i++) {
		int ret = exmap_nvme_submit(queue, opcode, pages[i], each, lbas[i],
					    tags ? tags[i] : i);

		if (ret == -EAGAIN || (ret && i))
			break;
		if (ret)
			return ret;
	}
	return (long)i;
}

/* Wait for at least one, and count what succeeded. */
static int reap_some(struct exmap_nvme_queue *queue, uint64_t timeout_ns, size_t *done)
{
	struct exmap_nvme_result results[BATCH];
	long i, n = exmap_nvme_wait(queue, results, 1, BATCH, timeout_ns);
	int error = 0;

	if (n < 0)
		return (int)n;
	if (!n) {
		/* nothing may be written any more when the caller hears of it */
		exmap_nvme_reset(queue);
		return -ETIMEDOUT;
	}
	for (i = 0; i < n; i++) {
		int ret = exmap_nvme_error(results[i].status);

		*done += !ret;
		error = error ? error : ret;
	}
	return error;
}

static size_t in_flight(const struct exmap_nvme_queue *queue)
{
	return queue->depth - 1 - queue->free;
}

/* After these nothing comes any more. */
static bool is_over(long error)
{
	return error == -ETIMEDOUT || error == -ENODEV;
}

long exmap_nvme_vector(struct exmap_nvme_queue *queue, unsigned int opcode, const uint64_t *pages,
		       const uint64_t *lbas, size_t n, unsigned int each, uint64_t timeout_ns,
		       size_t *done)
{
	size_t next = 0, succeeded = 0;
	long error = 0;

	if (in_flight(queue))
		return -EBUSY;
	while ((next < n && !error) || in_flight(queue)) {
		long ret = 0;

		if (!error)
			ret = exmap_nvme_submit_vector(queue, opcode, pages + next, lbas + next, NULL,
						       n - next, each);
		if (ret < 0)
			error = ret;
		else
			next += (size_t)ret;
		if (!in_flight(queue))
			break;
		ret = reap_some(queue, timeout_ns, &succeeded);
		error = error ? error : ret;
		if (is_over(ret) || (ret == -EIO && exmap_nvme_check(queue)))
			break;
	}
	if (done)
		*done = succeeded;
	return error ? error : (long)n;
}
