/* SPDX-License-Identifier: MIT */
/*
 * Cases in which the kernel runs out of memory, at each allocation in turn: the n-th one of a call
 * fails (/proc/thread-self/fail-nth), for n = 1, 2, ... until a call has fewer than n.  Copies from
 * and to user space are failed in the same way.  Kernels with fault injection only: ci/debug.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include "../abi/abi.h"

/* What is tried again and again; only `call` meets failures. */
struct probe {
	void (*prepare)(void);
	long (*call)(void);
	/* Puts things back, given what call returned, with its errno. */
	void (*finish)(long ret);
	/* What it may fail with, besides ENOMEM and EFAULT. */
	int error;
	/* Only allocations below the module's functions fail. */
	bool module_only;
	/* Else a call in which there was nothing to fail fails the case. */
	bool may_need_nothing;
};

/* Returns how many failures were injected. */
unsigned int fail_each(const struct probe *probe);

/* Bytes that the process has locked, as RLIMIT_MEMLOCK counts them. */
unsigned long locked_bytes(void);
unsigned long available_bytes(void);

#endif /* FAULTS_H */
