// SPDX-License-Identifier: MIT
/* abi list | abi run NAME: exits 0, 1, or 77 if a case cannot be tried here. */
#define _GNU_SOURCE
#include "abi.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

static struct abi_case *cases;
static int last_fd = -1;

void abi_register(struct abi_case *c)
{
	c->next = cases;
	cases = c;
}

int set_up(int fd, unsigned long pool, unsigned int interfaces, __u64 flags, int backing)
{
	struct exmap_ioctl_setup setup = {
		.fd = backing,
		.max_interfaces = (int)interfaces,
		.buffer_size = pool,
		.flags = flags,
	};

	return ioctl(fd, EXMAP_IOCTL_SETUP, &setup);
}

struct region open_region(unsigned long pages, unsigned long pool, unsigned int interfaces,
			  __u64 flags, int backing)
{
	struct region r = { .pages = pages };
	unsigned int i;

	r.fd = open("/dev/exmap", O_RDWR);
	CHECK(r.fd >= 0);
	CHECK(!set_up(r.fd, pool, interfaces, flags, backing));
	r.mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, EXMAP_OFF_EXMAP);
	CHECK(r.mem != MAP_FAILED);
	for (i = 0; i < interfaces; i++) {
		r.itf[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd,
				EXMAP_OFF_INTERFACE(i));
		CHECK(r.itf[i] != MAP_FAILED);
	}
	r.words = mmap(NULL, (pages * 4 + PAGE - 1) & ~(PAGE - 1), PROT_READ, MAP_SHARED, r.fd,
		       EXMAP_OFF_RESIDENCY);
	CHECK(r.words != MAP_FAILED);
	last_fd = r.fd;
	return r;
}

int act(struct region *r, unsigned int interface, unsigned int opcode, unsigned int len, __u64 flags)
{
	struct exmap_action_params params = {
		.interface = (__u16)interface,
		.iov_len = (__u16)len,
		.opcode = (__u16)opcode,
		.flags = flags,
	};

	return ioctl(r->fd, EXMAP_IOCTL_ACTION, &params);
}

int one(struct region *r, unsigned int interface, unsigned int opcode, __u64 page, unsigned int len,
	__u64 flags, int *changed)
{
	struct exmap_iov *iov = &r->itf[interface]->iov[0];

	iov->page = page;
	iov->len = len;
	CHECK(act(r, interface, opcode, 1, flags) >= 0);
	if (changed)
		*changed = iov->pages;
	return iov->res;
}

struct exmap_counters counters(struct region *r)
{
	struct exmap_counters c = { .flags = 0 };

	CHECK(!ioctl(r->fd, EXMAP_IOCTL_COUNTERS, &c));
	return c;
}

void check_conserved(int fd)
{
	struct exmap_counters c = { .flags = 0 };

	CHECK(!ioctl(fd, EXMAP_IOCTL_COUNTERS, &c));
	CHECK(c.total == c.free + c.mapped + c.quarantine + c.busy + c.snapshot);
}

bool mapped(struct region *r, __u64 page)
{
	return EXMAP_RES_MAPPED(__atomic_load_n(&r->words[page], __ATOMIC_ACQUIRE));
}

static __thread sigjmp_buf landing;

static void land(int signal)
{
	siglongjmp(landing, signal);
}

int touch_signal(char *address, bool write)
{
	struct sigaction action = { .sa_handler = land };
	int signal;

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	signal = sigsetjmp(landing, 1);
	if (signal)
		return signal;
	if (write)
		*(volatile char *)address = 1;
	else
		(void)*(volatile char *)address;
	return 0;
}

int in_child(void (*run)(void *), void *arg)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		run(arg);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	return status;
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(!sched_setaffinity(0, sizeof(set), &set));
}

int backing_file(unsigned int pages)
{
	int fd = memfd_create("backing", MFD_CLOEXEC);
	char content[PAGE];
	unsigned int i;

	CHECK(fd >= 0);
	for (i = 0; i < pages; i++) {
		memset(content, (int)i, sizeof(content));
		CHECK(write(fd, content, sizeof(content)) == (ssize_t)sizeof(content));
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct abi_case *c;

	for (c = cases; c; c = c->next) {
		if (argc == 2 && !strcmp(argv[1], "list"))
			puts(c->name);
		if (argc == 3 && !strcmp(argv[1], "run") && !strcmp(argv[2], c->name)) {
			c->run();
			if (last_fd >= 0 && fcntl(last_fd, F_GETFD) >= 0)
				check_conserved(last_fd);
			return 0;
		}
	}
	return argc == 2 ? 0 : 2;
}
