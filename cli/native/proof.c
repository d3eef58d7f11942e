// SPDX-License-Identifier: MIT
/*
 * Proof that something makes no system call: a thread does it many times under a
 * seccomp filter that turns every system call into a signal, which is
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

struct job {
	void (*work)(void *arg);
	void *arg;
	struct bench_proof *proof;
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

static void *work_trapped(void *arg)
{
	struct job *job = arg;

	trapped = 0; /* before the trap: the first touch of it may allocate */
	job->error = open_sigsys();
	if (!job->error)
		job->error = trap_syscalls();
	if (job->error)
		return NULL;
	job->work(job->arg);
	job->proof->syscalls = trapped;
	syscall(SYS_getppid);
	job->proof->control = trapped - job->proof->syscalls;
	return NULL;
}

int bench_prove(void (*work)(void *arg), void *arg, struct bench_proof *proof)
{
	struct sigaction action = { .sa_handler = count_trap }, old;
	struct job job = { .work = work, .arg = arg, .proof = proof };
	pthread_t thread;
	int ret;

	if (sigaction(SIGSYS, &action, &old))
		return -errno;
	ret = -pthread_create(&thread, NULL, work_trapped, &job);
	if (!ret)
		pthread_join(thread, NULL);
	sigaction(SIGSYS, &old, NULL);
	return ret ? ret : job.error;
}

struct checks {
	const struct exmap *ex;
	uint64_t n;
	uint64_t found; /* keeps the compiler from dropping them */
};

static void check_residency(void *arg)
{
	struct checks *checks = arg;
	uint64_t i;

	for (i = 0; i < checks->n; i++)
		checks->found += exmap_is_mapped(checks->ex, i * 7919 % checks->ex->region_pages);
}

int presence_prove(struct presence_bench *bench, uint64_t checks, struct bench_proof *proof)
{
	struct checks work = { .ex = presence_region(bench), .n = checks };

	return bench_prove(check_residency, &work, proof);
}
