/* SPDX-License-Identifier: MIT */
/* libexmap: what the parts of the posix backend share; not installed. */
#ifndef EXMAP_POSIX_H
#define EXMAP_POSIX_H

#include <pthread.h>

#include "internal.h"

/**
 * struct frame - a frame of the pool, which is only a number here
 * @page: that it is, or was last, bound to
 * @lazy: in quarantine
 * @holds: WRITEs that use it
 * @hole: taken away by RESIZE
 */
struct frame {
	uint32_t page;
	bool lazy;
	bool hole;
	uint32_t holds;
};

struct interface_state {
	uint32_t *quarantine;
	size_t nr_quarantine;
	size_t capacity;
};

struct posix {
	struct exmap_base base;
	uint32_t id;
	uint64_t flags;
	pthread_mutex_t lock; /* protects all that follows, and the words */
	uint32_t refs; /* the region's user, and snapshots */
	bool closed;
	uint32_t *words;
	int backing;
	int backing_mode;
	uint32_t threshold;
	struct frame *frames;
	uint32_t *free;
	uint32_t capacity;
	uint32_t nr_free;
	struct interface_state *interfaces;
	struct exmap_counters c;
};

static inline struct posix *posix_of(struct exmap *ex)
{
	return (struct posix *)ex;
}

static inline void exmap_posix_set_word(struct posix *p, uint64_t page, uint32_t word)
{
	__atomic_store_n(&p->words[page], word, __ATOMIC_RELEASE);
}

/* A free frame, if need be after a flush; -ENOMEM.  The lock is held. */
int exmap_posix_take_frame(struct posix *p, uint32_t *frame);

/* Part a frame from its page, and free it.  The lock is held. */
void exmap_posix_drop(struct posix *p, uint32_t frame);

/* READ or WRITE a vector; how many iovs failed.  The lock is held, but not during I/O. */
int exmap_posix_transfer(struct posix *p, struct exmap_iov *iov, unsigned int len, bool write,
			 uint64_t flags);

/* The length of the backing. */
int exmap_posix_backing_bytes(const struct posix *p, uint64_t *bytes);

/* Retire all quarantines.  The lock is held. */
void exmap_posix_flush(struct posix *p);

/* Drop a reference.  The lock is held, and gone afterwards. */
void exmap_posix_put(struct posix *p);

#endif /* EXMAP_POSIX_H */
