/* SPDX-License-Identifier: MIT */
/*
 * The published exmap ABI, as a client of it has it: plain C types, no word of
 * this project.  Whoever was built against it must run unmodified.
 */
#ifndef PUBLISHED_EXMAP_H
#define PUBLISHED_EXMAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

struct exmap_ioctl_setup {
	int fd;
	int max_interfaces;
	size_t buffer_size;
	uint64_t flags;
};

struct exmap_action_params {
	uint16_t interface;
	uint16_t iov_len;
	uint16_t opcode;
	uint64_t flags;
};

struct exmap_ioctl_stats {
	uint64_t flags;
	uint64_t buffer_size;
	uint64_t alloc_count;
	uint32_t max_interfaces;
};

struct exmap_iov {
	union {
		uint64_t value;
		struct {
			uint64_t page : 52;
			uint64_t len : 12;
		};
		struct {
			int32_t res;
			int16_t pages;
		};
	};
};

struct exmap_user_interface {
	struct exmap_iov iov[512];
};

struct exmap_uring_cmd {
	struct iovec iov;
};

enum { OP_READ = 0, OP_ALLOC = 1, OP_FREE = 2, OP_WRITE = 3 };

#define SETUP _IOC(_IOC_WRITE, 'k', 1, sizeof(struct exmap_ioctl_setup))
#define ACTION _IOC(_IOC_WRITE, 'k', 2, sizeof(struct exmap_action_params))
#define CLONE _IOC(_IOC_WRITE, 'k', 3, sizeof(int))
#define STATS _IOC(_IOC_WRITE, 'k', 4, sizeof(struct exmap_ioctl_stats))

#define OFF_EXMAP 0x0000
#define OFF_PTEXPORT 0x1000000000000000UL
#define OFF_INTERFACE(n) (0xe000000000000000UL | ((uint64_t)(n) << 12))

#endif /* PUBLISHED_EXMAP_H */
