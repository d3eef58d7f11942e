// SPDX-License-Identifier: MIT
/*
 * Proof that a residency check is no system call: a thread does many of them
 * under a seccomp filter that turns every system call into a signal, which is
 * counted.  The filter is the thread's own and dies with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

struct proof {
	const struct exmap *ex;
	uint64_t checks;
	uint64_t syscalls;
	uint64_t control;
	int error;
};

static __thread volatile uint64_t trapped;

static void count_trap(int signal)
{
	(void)signal;
	trapped++;
}

/* The kernel ends a thread with exit, and a handler with rt_sigreturn. */
static int trap_syscalls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? -errno : 0;
}

/* Its signals are open to SIGSYS whatever the caller's mask was. */
static int open_sigsys(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	return -pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void *check_trapped(void *arg)
{
	struct proof *proof = arg;
	uint64_t i, found = 0;

	trapped = 0; /* before the trap: the first touch of it may allocate */
	proof->error = open_sigsys();
	if (!proof->error)
		proof->error = trap_syscalls();
	if (proof->error)
		return NULL;
	for (i = 0; i < proof->checks; i++)
		found += exmap_is_mapped(proof->ex, i * 7919 % proof->ex->region_pages);
	proof->syscalls = trapped;
	syscall(SYS_getppid);
	proof->control = trapped - proof->syscalls;
	return found == UINT64_MAX ? arg : NULL;
}

int presence_prove(struct presence_bench *bench, uint64_t checks, struct presence_proof *proof)
{
	struct sigaction action = { .sa_handler = count_trap }, old;
	struct proof work = { .ex = presence_region(bench), .checks = checks };
	pthread_t thread;
	int ret;

	if (sigaction(SIGSYS, &action, &old))
		return -errno;
	ret = -pthread_create(&thread, NULL, check_trapped, &work);
	if (!ret)
		pthread_join(thread, NULL);
	sigaction(SIGSYS, &old, NULL);
	if (!ret)
		ret = work.error;
	proof->checks = work.checks;
	proof->syscalls = work.syscalls;
	proof->control = work.control;
	return ret;
}
