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
#define NS_PER_S	1000000000u

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

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
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
	if (ret)
		log->error = ret;
	else
		log->written = to;
	pthread_cond_broadcast(&log->changed);
}

/* Make durable what is in the buffer, for all who wait for it. */
static void flush(struct log *log)
{
	const uint64_t begin = now_ns();

	log->target = log->tail;
	log->covered = log->waiting;
	log->waiting = 0;
	write_out(log, true);
	log->company = log->covered + log->waiting;
	log->covered = 0;
	log->flushed_at = now_ns();
	log->flush_ns = log->flushed_at - begin;
	if (log->error)
		return;
	log->durable = log->target;
	log->flushes++;
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

/* The caller's record has been appended. */
static void join(struct log *log, uint64_t end)
{
	if (log->flushing && end <= log->target)
		log->covered++;
	else
		log->waiting++;
}

/*
 * Others may join the flush that is due: as many as had to do with the last one are likely to be back
 * soon, and whoever comes last makes it.  But to wait for longer than a flush takes is worse than to make
 * one more.  False if nobody is to be waited for any longer.
 */
static bool wait_for_company(struct log *log)
{
	const uint64_t patience = log->delay < log->flush_ns ? log->delay : log->flush_ns;
	const uint64_t until = log->flushed_at + patience;
	const struct timespec end = { .tv_sec = (time_t)(until / NS_PER_S),
				      .tv_nsec = (long)(until % NS_PER_S) };

	if (log->waiting >= log->company || now_ns() >= until)
		return false;
	pthread_cond_timedwait(&log->changed, &log->lock, &end);
	return true;
}

int log_wait(struct log *log, uint64_t end)
{
	int ret = 0;

	pthread_mutex_lock(&log->lock);
	if (log->durable < end)
		join(log, end);
	while (log->durable < end) {
		if (log->error) {
			ret = log->error;
			break;
		}
		if (log->flushing)
			pthread_cond_wait(&log->changed, &log->lock);
		else if (!wait_for_company(log))
			flush(log);
	}
	pthread_mutex_unlock(&log->lock);
	return ret;
}
