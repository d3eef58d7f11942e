/* SPDX-License-Identifier: MIT */
/* Cases that prove the sentences of uapi/exmap.h: a tiny harness over raw system calls. */
#ifndef ABI_H
#define ABI_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "exmap.h"

#define PAGE 4096ul
#define SKIP 77

#define CHECK(condition)                                                                  \
	do {                                                                              \
		if (!(condition)) {                                                       \
			printf("%s:%d: %s: errno %d (%s)\n", __FILE__, __LINE__,          \
			       #condition, errno, strerror(errno));                       \
			fflush(stdout);                                                   \
			_exit(1);                                                         \
		}                                                                         \
	} while (0)

/* The call fails with this errno. */
#define FAILS(call, error) CHECK((long)(call) == -1 && errno == (error))

struct abi_case {
	const char *name;
	void (*run)(void);
	struct abi_case *next;
};

void abi_register(struct abi_case *c);

#define CASE(id)                                                              \
	static void id(void);                                                 \
	__attribute__((constructor)) static void id##_register(void)          \
	{                                                                     \
		static struct abi_case c = { .name = #id, .run = id };        \
		abi_register(&c);                                             \
	}                                                                     \
	static void id(void)

/* A region of a case; the harness checks the frames of the last one at the end. */
struct region {
	int fd;
	char *mem;
	unsigned long pages;
	struct exmap_user_interface *itf[8];
	const __u32 *words;
};

struct region open_region(unsigned long pages, unsigned long pool, unsigned int interfaces,
			  __u64 flags, int backing);
int set_up(int fd, unsigned long pool, unsigned int interfaces, __u64 flags, int backing);
int act(struct region *r, unsigned int interface, unsigned int opcode, unsigned int len, __u64 flags);
/* One iov; returns its res, and the pages in *changed if not NULL. */
int one(struct region *r, unsigned int interface, unsigned int opcode, __u64 page, unsigned int len,
	__u64 flags, int *changed);
struct exmap_counters counters(struct region *r);
bool mapped(struct region *r, __u64 page);
void check_conserved(int fd);

/* 0, or the number of the signal that touching the address raises. */
int touch_signal(char *address, bool write);
/* Run in a child; returns its wait status. */
int in_child(void (*run)(void *), void *arg);
void pin_to_cpu(int cpu);
/* An anonymous file of so many pages; page n is full of bytes n. */
int backing_file(unsigned int pages);

/* Has fork copy a mapping of ours; false if the kernel refuses that for special ones, as 7.2 does. */
static inline bool let_fork_copy(void *addr, size_t len)
{
	int ret = madvise(addr, len, MADV_DOFORK);

	CHECK(!ret || errno == EINVAL);
	return !ret;
}

#endif /* ABI_H */
