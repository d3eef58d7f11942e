// SPDX-License-Identifier: MIT
/* Reading the log at recovery. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "disk.h"
#include "log.h"
#include "page.h"

/* The ring in memory: it is read once, and whole. */
static int read_ring(const struct log *log, uint8_t **out)
{
	uint8_t *ring = mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	int ret;

	if (ring == MAP_FAILED)
		return -ENOMEM;
	ret = disk_read_bytes(log->fd, ring, log->size, log->offset);
	if (ret)
		munmap(ring, log->size);
	else
		*out = ring;
	return ret;
}

static void copy_out(const struct log *log, const uint8_t *ring, uint64_t lsn, void *to,
		     uint64_t size)
{
	uint64_t place = lsn % log->size, n = log->size - place;

	n = n < size ? n : size;
	memcpy(to, ring + place, n);
	memcpy((uint8_t *)to + n, ring, size - n);
}

/* The record at @lsn, its payload copied; false if there is none, or it is damaged. */
static bool read_record(const struct log *log, const uint8_t *ring, uint64_t lsn,
			struct log_record *record, uint8_t *payload)
{
	copy_out(log, ring, lsn, record, sizeof(*record));
	if (record->lsn != lsn || !record->length || record->length > log_record_max(log))
		return false;
	copy_out(log, ring, lsn + sizeof(*record), payload, record->length);
	return record->crc == log_checksum(log, record, payload);
}

/*
 * The log seems to end at @lsn.  If a later record says that what is there had
 * been durable, that is no end but damage.
 */
static bool is_damaged(const struct log *log, const uint8_t *ring, uint64_t lsn, uint64_t head,
		       uint8_t *payload)
{
	struct log_record record;
	uint64_t at;

	for (at = lsn + 8; at < head + log->size; at += 8) {
		uint64_t number;

		memcpy(&number, ring + at % log->size, sizeof(number));
		if (number == at && read_record(log, ring, at, &record, payload) &&
		    record.durable > lsn)
			return true;
	}
	return false;
}

int log_replay(struct log *log, uint64_t lsn, log_replay_fn fn, void *arg, uint64_t *end)
{
	const uint64_t head = lsn;
	struct log_record record;
	uint8_t *ring, *payload;
	int ret = read_ring(log, &ring);

	if (ret)
		return ret;
	ret = -ENOMEM;
	payload = malloc(log_record_max(log));
	if (!payload)
		goto out;
	ret = 0;
	while (!ret && read_record(log, ring, lsn, &record, payload)) {
		ret = fn(arg, payload, record.length);
		lsn += log_record_size(record.length);
	}
	if (!ret && is_damaged(log, ring, lsn, head, payload))
		ret = -EILSEQ;
	*end = lsn;
	free(payload);
out:
	munmap(ring, log->size);
	return ret;
}
