// SPDX-License-Identifier: MIT
/* What a controller can reach: the pool and its queues, behind an IOMMU. */
#define _GNU_SOURCE
#include "nvme_queue.h"

static struct queue open_behind_iommu(struct region *r)
{
	struct queue q = open_queue(r);

	if (!(q.info.features & EXMAP_NVME_IOMMU)) {
		puts("there is no IOMMU");
		_exit(SKIP);
	}
	return q;
}

static void transfer_at(struct queue *q, struct region *r, int opcode, __u64 address)
{
	struct command *c = &q->sq[q->tail];

	add(q, r, opcode, 0, 1, 0);
	c->prp1 = address;
	ring(q);
	reap(q); /* whatever it says */
}

static __u64 physical_address(const void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 word;

	CHECK(fd >= 0 && pread(fd, &word, 8, (off_t)((unsigned long)address / PAGE * 8)) == 8);
	close(fd);
	CHECK(word & (__u64)1 << 63);
	return (word & (((__u64)1 << 55) - 1)) * PAGE;
}

CASE(nvme_controller_does_not_reach_foreign_memory)
{
	struct region r = pool_of(64);
	struct queue q = open_behind_iommu(&r);
	char *canary = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	const __u64 targets[] = { physical_address(memset(canary, 0x22, PAGE)),
				  q.info.iova_base + 64 * PAGE, q.info.iova_base - PAGE, 0 };
	unsigned int i;

	alloc_all(&r);
	write_poison(&r, &q, 1);
	for (i = 0; i < 4; i++)
		transfer_at(&q, &r, READ_COMMAND, targets[i]);
	for (i = 0; i < PAGE; i++)
		CHECK(canary[i] == 0x22);
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

static int open_log(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	CHECK(fd >= 0 && lseek(fd, 0, SEEK_END) >= 0);
	return fd;
}

/* Wait a second or two for a line of the kernel log with these words. */
static bool logged(int log, const char *words)
{
	time_t end = now() + 2;
	char line[1024];

	while (now() < end) {
		ssize_t n = read(log, line, sizeof(line) - 1);

		if (n > 0) {
			line[n] = 0;
			if (strstr(line, words))
				return true;
		} else {
			usleep(10000);
		}
	}
	return false;
}

/* Have the controller read a page to an address: does the kernel log a fault? */
static bool read_faults(struct queue *q, struct region *r, __u64 address)
{
	int log = open_log();
	bool found = false;
	unsigned int i;

	/* the kernel reports ten faults in five seconds at most, and earlier cases have made some */
	for (i = 0; i < 10 && !found; i++) {
		transfer_at(q, r, READ_COMMAND, address);
		found = logged(log, "DMAR: [DMA Write");
	}
	close(log);
	return found;
}

CASE(nvme_read_into_foreign_memory_is_a_fault_in_the_log)
{
	struct region r = pool_of(64);
	struct queue q = open_behind_iommu(&r);

	alloc_all(&r);
	CHECK(read_faults(&q, &r, q.info.iova_base + 64 * PAGE));
}

CASE(nvme_frames_that_have_left_the_pool_are_out_of_reach)
{
	struct region r = pool_of(64);
	struct exmap_resize smaller = { .pool_pages = 32 };
	struct queue q = open_behind_iommu(&r);
	__u64 addresses[64];
	struct exmap_nvme_addresses args = { .count = 64,
					     .addresses = (__u64)(unsigned long)addresses };
	unsigned int i;

	CHECK(!ioctl(r.fd, EXMAP_IOCTL_RESIZE, &smaller));
	CHECK(!ioctl(q.fd, EXMAP_IOCTL_NVME_ADDRESSES, &args));
	for (i = 0; addresses[i]; i++)
		CHECK(i < 63);
	CHECK(!one(&r, 0, EXMAP_OP_ALLOC, 0, 32, 0, NULL));
	CHECK(read_faults(&q, &r, q.info.iova_base + i * PAGE));
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}

CASE(nvme_controller_cannot_write_what_it_only_has_to_read)
{
	/* where pair.c and pci.c put them */
	const __u64 window = 0x1000000, lists = 0x200000;
	const __u64 poison = 0xeeeeeeeeeeeeeeee;
	struct region r = pool_of(64);
	struct queue q = open_behind_iommu(&r);
	const __u64 submissions = q.info.prp_base - lists;

	alloc_all(&r);
	write_poison(&r, &q, 1);
	/* no faults to look for: QEMU keeps them to itself where it has read before */
	transfer_at(&q, &r, READ_COMMAND, q.info.prp_base);
	CHECK(q.prp[PAGE / 8 - 1] != poison);
	transfer_at(&q, &r, READ_COMMAND, submissions);
	CHECK(q.sq[PAGE / sizeof(*q.sq) - 1].lba != poison);
	/* the answers to Identify have been there */
	CHECK(read_faults(&q, &r, submissions - q.info.qid * window + lists));
	CHECK(!transfer(&q, &r, READ_COMMAND, 0, 1, 0));
}
