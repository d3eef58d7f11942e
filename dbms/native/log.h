/* SPDX-License-Identifier: MIT */
/*
 * The write-ahead log: a ring of blocks in the backing.
 *
 * A record is one transaction, all that it changes.  Its LSN is the number of
 * bytes that came before it since the database was made, and it lies at its LSN
 * modulo the size of the ring, so that no record of an earlier lap passes for it.
 * One thread at a time appends; any number wait for their records to be durable,
 * and one of those flushes for all (group commit).
 *
 * After a flush that failed nothing is known about the pages of the kernel's
 * cache: the log takes no record any more, and nobody is told that a flush that
 * came later was a success.
 */
#ifndef EXDB_LOG_H
#define EXDB_LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * struct log_record - what a record begins with; the payload follows, then up to 7 bytes
 * @lsn: its own
 * @durable: records before this LSN were durable when this one was appended
 * @length: bytes of the payload
 * @crc: CRC32C of the log's number, the payload, and the fields above
 */
struct log_record {
	uint64_t lsn;
	uint64_t durable;
	uint32_t length;
	uint32_t crc;
};

/**
 * struct log - the log of an open database
 * @lock: protects what follows it
 * @changed: @durable, @head, @flushing or @error has
 * @fd: the backing
 * @offset: of the ring in the backing
 * @size: of the ring
 * @id: the log's number, so that another database's records are not taken for its own
 * @delay: nanoseconds that a flush waits for others to join it, at most
 * @buffer: the last bytes of the log, at their LSN modulo @buffer_size
 * @buffer_size: a divisor of @size
 * @last: a copy of the block that the log ends in, while it is written
 * @head: records before it are not needed any more
 * @written: bytes before it were written
 * @durable: bytes before it are on the disk
 * @tail: where the next record goes
 * @flushes: that were made
 * @flush_ns: that the last flush took
 * @flushed_at: when it ended
 * @target: bytes before it are on the disk after the flush that is being made
 * @covered: threads that wait for that flush
 * @waiting: threads that wait for the next one
 * @company: threads that waited for the last one, or came while it was made
 * @flushing: somebody writes
 * @error: a write or flush has failed
 */
struct log {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int fd;
	uint64_t offset;
	uint64_t size;
	uint32_t id;
	uint64_t delay;
	uint8_t *buffer;
	uint64_t buffer_size;
	uint8_t *last;
	uint64_t head;
	uint64_t written;
	uint64_t durable;
	uint64_t tail;
	uint64_t flushes;
	uint64_t flush_ns;
	uint64_t flushed_at;
	uint64_t target;
	unsigned int covered;
	unsigned int waiting;
	unsigned int company;
	bool flushing;
	int error;
};

/* One record at recovery. */
typedef int (*log_replay_fn)(void *arg, uint8_t *payload, uint32_t length);

int log_init(struct log *log, int fd, uint64_t first_block, uint64_t blocks);
void log_exit(struct log *log);

/* Whether a record of so many bytes can be appended before the next checkpoint. */
bool log_has_room(struct log *log, uint64_t length);

/* The longest payload. */
uint64_t log_record_max(const struct log *log);

/* Append a record; *end is what log_wait wants.  One caller at a time. */
int log_append(struct log *log, const uint8_t *payload, uint32_t length, uint64_t *end);

/* Return when all before @end is on the disk, or -EIO and the like. */
int log_wait(struct log *log, uint64_t end);

/* Records before @lsn are not needed any more. */
void log_truncate(struct log *log, uint64_t lsn);

/* Where the next record will go. */
uint64_t log_tail(struct log *log);

/*
 * log_replay.c: call @fn for the records from @lsn on.  *end is where the last
 * one ended.  -EILSEQ if a record is damaged that had been durable.
 */
int log_replay(struct log *log, uint64_t lsn, log_replay_fn fn, void *arg, uint64_t *end);

/* Go on at @lsn, whatever was there. */
void log_start(struct log *log, uint64_t lsn);

/* Go on at an LSN that no record has had; the log is empty. */
void log_skip_lap(struct log *log);

/* Of a record as it should be. */
uint32_t log_checksum(const struct log *log, const struct log_record *record,
		      const uint8_t *payload);

static inline uint64_t log_record_size(uint64_t length)
{
	return (sizeof(struct log_record) + length + 7) / 8 * 8;
}

#endif /* EXDB_LOG_H */
