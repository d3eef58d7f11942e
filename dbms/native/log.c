// SPDX-License-Identifier: MIT
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "crc32c.h"
#include "disk.h"
#include "log.h"
#include "page.h"

#define BUFFER_MAX	(4u << 20)

static_assert(sizeof(struct log_record) == 24, "on-disk format");

static uint64_t block_begin(uint64_t lsn)
{
	return lsn / PAGE_SIZE * PAGE_SIZE;
}

static void *map_memory(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

int log_init(struct log *log, int fd, uint64_t first_block, uint64_t blocks)
{
	log->fd = fd;
	log->offset = first_block * PAGE_SIZE;
	log->size = blocks * PAGE_SIZE;
	log->buffer_size = log->size;
	while (log->buffer_size > BUFFER_MAX && log->buffer_size % (2 * PAGE_SIZE) == 0)
		log->buffer_size /= 2;
	log->buffer = map_memory(log->buffer_size);
	log->last = map_memory(PAGE_SIZE);
	return log->buffer && log->last ? 0 : -ENOMEM;
}

void log_exit(struct log *log)
{
	if (log->buffer)
		munmap(log->buffer, log->buffer_size);
	if (log->last)
		munmap(log->last, PAGE_SIZE);
}

void log_start(struct log *log, uint64_t lsn)
{
	log->head = lsn;
	log->written = lsn;
	log->durable = lsn;
	log->tail = lsn;
}

void log_skip_lap(struct log *log)
{
	pthread_mutex_lock(&log->lock);
	log_start(log, (log->tail / log->size + 2) * log->size);
	pthread_mutex_unlock(&log->lock);
}

uint64_t log_record_max(const struct log *log)
{
	return log->size / 2 - 2 * PAGE_SIZE < UINT32_MAX ? log->size / 2 - 2 * PAGE_SIZE :
							    UINT32_MAX;
}

bool log_has_room(struct log *log, uint64_t length)
{
	bool room;

	pthread_mutex_lock(&log->lock);
	/* the block that the log ends in is written whole */
	room = log->tail + log_record_size(length) + PAGE_SIZE - block_begin(log->head) <=
	       log->size;
	pthread_mutex_unlock(&log->lock);
	return room;
}

uint64_t log_tail(struct log *log)
{
	uint64_t tail;

	pthread_mutex_lock(&log->lock);
	tail = log->tail;
	pthread_mutex_unlock(&log->lock);
	return tail;
}

void log_truncate(struct log *log, uint64_t lsn)
{
	pthread_mutex_lock(&log->lock);
	log->head = lsn;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
}

uint32_t log_checksum(const struct log *log, const struct log_record *record,
		      const uint8_t *payload)
{
	uint32_t crc = crc32c(0, &log->id, sizeof(log->id));

	crc = crc32c(crc, payload, record->length);
	return crc32c(crc, record, offsetof(struct log_record, crc));
}

/* Write whole blocks from the buffer, in pieces where the buffer or the ring begins anew. */
static int write_blocks(struct log *log, uint64_t from, uint64_t to)
{
	int ret = 0;

	while (from < to && !ret) {
		uint64_t place = from % log->buffer_size, n = to - from;

		if (n > log->buffer_size - place)
			n = log->buffer_size - place;
		ret = disk_write_bytes(log->fd, log->buffer + place, n,
				       log->offset + from % log->size);
		from += n;
	}
	return ret;
}

/*
 * Write what is in the buffer, and wait for the disk if @sync.  The lock is held,
 * and given up meanwhile.  A block that was full only in part is written again,
 * with the same beginning.
 */
static void write_out(struct log *log, bool sync)
{
	const uint64_t from = block_begin(log->written), to = log->tail;
	const uint64_t full = block_begin(to);
	int ret;

	log->flushing = true;
	memcpy(log->last, log->buffer + full % log->buffer_size, to - full);
	memset(log->last + (to - full), 0, PAGE_SIZE - (to - full));
	pthread_mutex_unlock(&log->lock);
	ret = write_blocks(log, from, full);
	if (!ret && to > full)
		ret = disk_write_bytes(log->fd, log->last, PAGE_SIZE,
				       log->offset + full % log->size);
	if (!ret && sync)
		ret = disk_sync(log->fd);
	pthread_mutex_lock(&log->lock);
	log->flushing = false;
	if (ret) {
		log->error = ret;
	} else {
		log->written = to;
		if (sync)
			log->durable = to;
		log->flushes += sync;
	}
	pthread_cond_broadcast(&log->changed);
}

/* Put bytes at the tail, making room in the buffer as needed; the lock is held. */
static int put(struct log *log, const void *data, uint64_t size)
{
	const uint8_t *from = data;

	while (size && !log->error) {
		uint64_t place = log->tail % log->buffer_size, n = log->buffer_size - place;
		uint64_t room = log->buffer_size - (log->tail - block_begin(log->written));

		if (!room) {
			if (log->flushing)
				pthread_cond_wait(&log->changed, &log->lock);
			else
				write_out(log, false);
			continue;
		}
		n = n < room ? n : room;
		n = n < size ? n : size;
		memcpy(log->buffer + place, from, n);
		log->tail += n;
		from += n;
		size -= n;
	}
	return log->error;
}

int log_append(struct log *log, const uint8_t *payload, uint32_t length, uint64_t *end)
{
	static const uint8_t zeros[8];
	struct log_record record = { .length = length };
	int ret;

	pthread_mutex_lock(&log->lock);
	record.lsn = log->tail;
	record.durable = log->durable;
	pthread_mutex_unlock(&log->lock);
	record.crc = log_checksum(log, &record, payload);

	pthread_mutex_lock(&log->lock);
	ret = put(log, &record, sizeof(record));
	if (!ret)
		ret = put(log, payload, length);
	if (!ret)
		ret = put(log, zeros, log_record_size(length) - sizeof(record) - length);
	*end = log->tail;
	pthread_mutex_unlock(&log->lock);
	return ret;
}

/* Let others join the flush that we are about to make. */
static void wait_for_company(struct log *log)
{
	const struct timespec delay = { .tv_nsec = log->delay };

	log->flushing = true;
	pthread_mutex_unlock(&log->lock);
	nanosleep(&delay, NULL);
	pthread_mutex_lock(&log->lock);
	log->flushing = false;
}

int log_wait(struct log *log, uint64_t end)
{
	int ret = 0;

	pthread_mutex_lock(&log->lock);
	while (log->durable < end) {
		if (log->error) {
			ret = log->error;
			break;
		}
		if (log->flushing) {
			pthread_cond_wait(&log->changed, &log->lock);
			continue;
		}
		if (log->delay && log->committers > 1)
			wait_for_company(log);
		write_out(log, true);
	}
	pthread_mutex_unlock(&log->lock);
	return ret;
}
