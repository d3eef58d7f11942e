// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - NVMe I/O queues that the kernel drives, for whoever has a controller's
 * descriptor.
 *
 * A channel is a pair of queues behind a mutex.  Whoever has it locked pushes
 * commands, rings once, and polls until all have completed: nothing is in flight
 * while it is unlocked.  Completions are looked for without a pause at first, then
 * between short sleeps.  A controller that completes nothing for too long is reset,
 * before anybody learns that his pages were not transferred.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "nvme.h"
#include "trace.h"

#define PRP_PAGES	4	/* of memory for PRP lists */
#define LIST_ENTRIES	(PAGE_SIZE / sizeof(__le64))
#define SPIN_NS		(200 * NSEC_PER_USEC)
#define CHECK_NS	(10 * NSEC_PER_MSEC)
#define TIMEOUT_NS	(30 * NSEC_PER_SEC)

/* What a command is for: where its result goes, and what that is if it succeeds. */
struct command_slot {
	long *ret;
	long len;
};

/**
 * struct exmap_nvme_channel - a pair that the kernel drives
 * @lock: held while commands are in flight
 * @dead: the controller has lost it; written with @lock or with the controller's lock
 * @stuck: commands are in flight that will not complete, so that it has to be reset
 * @pair: alive if this is one of the controller's @nr_channels
 * @bounce: for data that is not in frames
 * @slots: by command identifier; @ret is NULL if it is free
 * @ids: stack of free identifiers
 * @nr_ids: how many
 * @tail: next free entry of the submission queue
 * @rung: the tail that the controller knows
 * @head: next entry of the completion queue to look at
 * @phase: its phase tag, once it is there
 * @unacked: entries taken since the controller was told the head
 * @lists: entries of @pair.prp that are in use
 *
 * Made with the first descriptor of the controller, dies with the controller.
 */
struct exmap_nvme_channel {
	struct mutex lock;	/* see above */
	bool dead;
	bool stuck;
	struct exmap_nvme_pair pair;
	struct exmap_nvme_block bounce;
	struct command_slot slots[EXMAP_NVME_CHANNEL_DEPTH];
	u16 ids[EXMAP_NVME_CHANNEL_DEPTH];
	u16 nr_ids;
	u16 tail;
	u16 rung;
	u16 head;
	u16 phase;
	u16 unacked;
	u32 lists;
};

static void __iomem *doorbell(struct exmap_nvme_channel *ch, bool cq)
{
	struct exmap_nvme_controller *ctrl = ch->pair.ctrl;

	return ctrl->bar + NVME_REG_DBS + exmap_nvme_doorbell(ctrl, ch->pair.qid, cq);
}

/* One less than entries, so that a full queue does not look empty: Base 3.3.1.5. */
static u16 max_commands(const struct exmap_nvme_channel *ch)
{
	return ch->pair.depth - 1;
}

static void free_ids(struct exmap_nvme_channel *ch)
{
	u16 id;

	for (id = 0; id < max_commands(ch); id++) {
		ch->slots[id].ret = NULL;
		ch->ids[id] = id;
	}
	ch->nr_ids = max_commands(ch);
	ch->lists = 0;
}

static unsigned int in_flight(const struct exmap_nvme_channel *ch)
{
	return max_commands(ch) - ch->nr_ids;
}

/* The PRP list of all pages but the first, which lies in one page: Base 4.1.1. */
static u64 write_list(struct exmap_nvme_channel *ch, const u64 *addresses, unsigned int nr)
{
	__le64 *list = (__le64 *)page_address(ch->pair.prp.pages) + ch->lists;
	u64 address = ch->pair.prp.addr + ch->lists * sizeof(*list);
	unsigned int i;

	for (i = 1; i < nr; i++)
		list[i - 1] = cpu_to_le64(addresses[i]);
	ch->lists += nr - 1;
	return address;
}

/* Is there room for another list, after the end of the page if need be? */
static bool find_list(struct exmap_nvme_channel *ch, unsigned int nr)
{
	if (nr <= 2)
		return true;
	if (ch->lists % LIST_ENTRIES + nr - 1 > LIST_ENTRIES)
		ch->lists = round_up(ch->lists, LIST_ENTRIES);
	return ch->lists + nr - 1 <= PRP_PAGES * LIST_ENTRIES;
}

/**
 * exmap_nvme_channel_push - put a transfer into the queue
 * @ch: locked
 * @opcode: nvme_cmd_read, nvme_cmd_write or nvme_cmd_flush
 * @pos: offset on the medium, a multiple of its blocks, as is
 * @len: how many bytes; 0 for a flush
 * @addresses: where the controller sees its pages, exmap_nvme_command_pages at most
 * @ret: becomes @len or -EIO, before exmap_nvme_channel_wait returns
 */
void exmap_nvme_channel_push(struct exmap_nvme_channel *ch, u8 opcode, u64 pos, size_t len,
			     const u64 *addresses, long *ret)
{
	/* what decides whether PRP entry 2 is a page or a list: Base 4.1.1 */
	unsigned int nr = DIV_ROUND_UP(len, PAGE_SIZE);
	struct exmap_nvme_controller *ctrl = ch->pair.ctrl;
	struct nvme_command *cmd;
	u16 id;

	if (!ch->nr_ids || !find_list(ch, nr))
		exmap_nvme_channel_wait(ch);
	id = ch->ids[--ch->nr_ids];
	ch->slots[id].ret = ret;
	ch->slots[id].len = len;

	cmd = (struct nvme_command *)page_address(ch->pair.sq.pages) + ch->tail;
	memset(cmd, 0, sizeof(*cmd));
	cmd->rw.opcode = opcode;
	cmd->rw.command_id = id;
	cmd->rw.nsid = cpu_to_le32(ctrl->nsid);
	if (len) {
		cmd->rw.slba = cpu_to_le64(pos >> ctrl->lba_shift);
		cmd->rw.length = cpu_to_le16((len >> ctrl->lba_shift) - 1);
		cmd->rw.dptr.prp1 = cpu_to_le64(addresses[0]);
	}
	if (nr == 2)
		cmd->rw.dptr.prp2 = cpu_to_le64(addresses[1]);
	else if (nr > 2)
		cmd->rw.dptr.prp2 = cpu_to_le64(write_list(ch, addresses, nr));
	ch->tail = (ch->tail + 1) % ch->pair.depth;
	trace_exmap_nvme_submit(exmap_nvme_controller_id(ctrl), ch->pair.qid, id, opcode, pos, len);
}

static void note_failure(struct exmap_nvme_channel *ch, u32 commands, u16 status)
{
	const struct exmap_queue_failure failure = { .commands = commands, .status = status };

	exmap_nvme_note_failure(ch->pair.ctrl, ch->pair.qid, &failure);
}

static void end_command(struct exmap_nvme_channel *ch, u16 id, u16 status)
{
	struct command_slot *slot = &ch->slots[id];

	*slot->ret = status ? -EIO : slot->len;
	slot->ret = NULL;
	ch->ids[ch->nr_ids++] = id;
	if (status)
		note_failure(ch, 1, status);
	trace_exmap_nvme_complete(exmap_nvme_controller_id(ch->pair.ctrl), ch->pair.qid, id,
				  status, in_flight(ch));
}

/*
 * One doorbell for a quarter of the queue: until then the controller has room, and if it
 * had none there would be more to take.
 */
static void acknowledge(struct exmap_nvme_channel *ch)
{
	if (ch->unacked < DIV_ROUND_UP(ch->pair.depth, 4))
		return;
	ch->unacked = 0;
	writel(ch->head, doorbell(ch, true));
}

/* Take the completions that are there; returns whether there were any. */
static bool reap(struct exmap_nvme_channel *ch)
{
	const struct nvme_completion *cq = page_address(ch->pair.cq.pages);
	bool found = false;

	for (;;) {
		const struct nvme_completion *cqe = &cq[ch->head];
		u16 id, status = le16_to_cpu(READ_ONCE(cqe->status));

		if ((status & 1) != ch->phase)
			break;
		dma_rmb(); /* the phase tag is written last */
		id = READ_ONCE(cqe->command_id);
		if (id < max_commands(ch) && ch->slots[id].ret)
			end_command(ch, id, status >> 1 & 0x7ff);
		found = true;
		ch->unacked++;
		if (++ch->head == ch->pair.depth) {
			ch->head = 0;
			ch->phase ^= 1;
		}
	}
	acknowledge(ch);
	return found;
}

/* A reset has made an end of what was in flight, or will before the channel is left. */
static void lose_commands(struct exmap_nvme_channel *ch)
{
	u16 id;

	note_failure(ch, in_flight(ch), 0);
	for (id = 0; id < max_commands(ch); id++) {
		if (ch->slots[id].ret)
			*ch->slots[id].ret = -EIO;
	}
	free_ids(ch);
}

/* Has the controller failed, gone, or been reset behind our back?  Base 3.1.3.6 */
static bool has_failed(struct exmap_nvme_channel *ch)
{
	u32 status = readl(ch->pair.ctrl->bar + NVME_REG_CSTS);

	return (status & NVME_CSTS_CFS) || !(status & NVME_CSTS_RDY);
}

static void pause_for(u64 waited)
{
	if (waited < SPIN_NS) {
		cpu_relax();
		cond_resched();
	} else {
		usleep_range(20, 50);
	}
}

/* Poll until a completion is there; false if none will come. */
static bool wait_progress(struct exmap_nvme_channel *ch)
{
	u64 begin = ktime_get_ns(), checked = begin;

	while (!reap(ch)) {
		u64 now = ktime_get_ns();

		if (READ_ONCE(ch->dead))
			return false;
		if (now - checked > CHECK_NS) {
			checked = now;
			ch->stuck = has_failed(ch) || now - begin > TIMEOUT_NS;
		}
		if (ch->stuck)
			return false;
		pause_for(now - begin);
	}
	return true;
}

/* Ring for all that was pushed, and wait until nothing is in flight. */
void exmap_nvme_channel_wait(struct exmap_nvme_channel *ch)
{
	lockdep_assert_held(&ch->lock);
	if (ch->rung != ch->tail) {
		ch->rung = ch->tail;
		dma_wmb(); /* commands and lists come before their doorbell */
		writel(ch->tail, doorbell(ch, false));
	}
	while (in_flight(ch)) {
		if (!wait_progress(ch)) {
			WRITE_ONCE(ch->dead, true);
			lose_commands(ch);
		}
	}
	ch->lists = 0;
}

/* Memory of the channel's own that data can be copied through, and where the controller sees it. */
u64 exmap_nvme_channel_bounce(struct exmap_nvme_channel *ch, void **memory)
{
	*memory = page_address(ch->bounce.pages);
	return ch->bounce.addr;
}

static int create_bounce(struct exmap_nvme_channel *ch)
{
	u64 window = EXMAP_NVME_WINDOWS + ch->pair.qid * EXMAP_NVME_WINDOW;

	return exmap_nvme_block_create(ch->pair.ctrl, &ch->bounce, EXMAP_NVME_BOUNCE_PAGES,
				       window + EXMAP_NVME_WINDOW_BOUNCE,
				       IOMMU_READ | IOMMU_WRITE);
}

static void drop_channel(struct exmap_nvme_channel *ch)
{
	exmap_nvme_block_unmap(ch->pair.ctrl, &ch->bounce);
	exmap_nvme_block_free(&ch->bounce);
	exmap_nvme_pair_drop(&ch->pair);
	exmap_nvme_pair_free(&ch->pair);
}

/* Both queues are empty.  Somebody may have waited for the lock since the last reset. */
static void begin(struct exmap_nvme_channel *ch)
{
	mutex_lock(&ch->lock);
	ch->tail = 0;
	ch->rung = 0;
	ch->head = 0;
	ch->phase = 1;
	ch->unacked = 0;
	ch->stuck = false;
	free_ids(ch);
	WRITE_ONCE(ch->dead, false);
	mutex_unlock(&ch->lock);
}

/* Bring a channel to life.  An error of the controller's makes an end of all of them. */
static int create_channel(struct exmap_nvme_controller *ctrl, struct exmap_nvme_channel *ch)
{
	int ret;

	ch->pair.ctrl = ctrl;
	ch->pair.depth = min_t(u32, EXMAP_NVME_CHANNEL_DEPTH, NVME_CAP_MQES(ctrl->cap) + 1);
	ret = exmap_nvme_pair_alloc(&ch->pair, PRP_PAGES);
	if (ret)
		return ret;
	ret = create_bounce(ch);
	if (ret)
		goto err_pair;
	ret = exmap_nvme_pair_create(&ch->pair);
	if (ret)
		goto err_controller;
	begin(ch);
	return 0;

err_controller:
	exmap_nvme_controller_fail(ctrl, -EIO);
err_pair:
	drop_channel(ch);
	return ret;
}

/* As many channels as there are; one is enough. */
static int create_channels(struct exmap_nvme_controller *ctrl)
{
	unsigned int nr = 0;
	int ret = -ENOMEM;

	while (nr < EXMAP_NVME_CHANNELS && ctrl->channels[nr]) {
		ret = create_channel(ctrl, ctrl->channels[nr]);
		if (ret)
			break;
		nr++;
		/* pairs with the load in exmap_nvme_channel_get */
		smp_store_release(&ctrl->nr_channels, nr);
	}
	return ctrl->nr_channels ? 0 : ret;
}

static int revive(struct exmap_nvme_controller *ctrl)
{
	int ret = 0;

	if (mutex_lock_killable(&ctrl->lock))
		return -EINTR;
	exmap_nvme_controller_check(ctrl);
	if (ctrl->state == EXMAP_NVME_GONE)
		ret = -ENODEV;
	else if (ctrl->state == EXMAP_NVME_DOWN && exmap_nvme_controller_start(ctrl))
		ret = -EIO;
	if (!ret && !ctrl->nr_channels)
		ret = create_channels(ctrl);
	mutex_unlock(&ctrl->lock);
	return ret;
}

/* Lock a channel: that of this CPU, or another one that nobody has. */
static struct exmap_nvme_channel *lock_any(struct exmap_nvme_controller *ctrl, unsigned int nr)
{
	unsigned int i, first = raw_smp_processor_id() % nr;
	struct exmap_nvme_channel *ch;

	for (i = 0; i < nr; i++) {
		ch = ctrl->channels[(first + i) % nr];
		if (mutex_trylock(&ch->lock))
			return ch;
	}
	ch = ctrl->channels[first];
	return mutex_lock_killable(&ch->lock) ? ERR_PTR(-EINTR) : ch;
}

/**
 * exmap_nvme_channel_get - lock a channel of a controller
 * @ctrl: started again if it has failed; not locked
 *
 * Returns an ERR_PTR: ENODEV if the controller is gone, EIO if it fails just now.
 */
struct exmap_nvme_channel *exmap_nvme_channel_get(struct exmap_nvme_controller *ctrl)
{
	struct exmap_nvme_channel *ch;
	unsigned int nr = smp_load_acquire(&ctrl->nr_channels); /* create_channels */
	int ret;

	if (!nr) {
		ret = revive(ctrl);
		nr = smp_load_acquire(&ctrl->nr_channels); /* create_channels */
		if (ret || !nr)
			return ERR_PTR(ret ?: -EIO);
	}
	ch = lock_any(ctrl, nr);
	if (!IS_ERR(ch) && READ_ONCE(ch->dead)) {
		mutex_unlock(&ch->lock);
		ch = ERR_PTR(-EIO);
	}
	return ch;
}

/*
 * Unlock a channel; returns whether the controller has failed.  Nothing that was pushed
 * can reach memory any more.
 */
bool exmap_nvme_channel_put(struct exmap_nvme_channel *ch)
{
	struct exmap_nvme_controller *ctrl = ch->pair.ctrl;
	bool stuck = ch->stuck, dead = ch->dead;

	mutex_unlock(&ch->lock);
	if (!stuck)
		return dead;
	mutex_lock(&ctrl->lock);
	/* somebody else may have been faster, and even have started it again */
	if (READ_ONCE(ch->dead) && ctrl->nr_channels)
		exmap_nvme_controller_fail(ctrl, -EIO);
	mutex_unlock(&ctrl->lock);
	return true;
}

/* Room for channels, which are made when there is something to do. */
int exmap_nvme_channels_alloc(struct exmap_nvme_controller *ctrl)
{
	unsigned int i, nr = min3(num_online_cpus(), ctrl->nr_queues, (u32)EXMAP_NVME_CHANNELS);

	lockdep_assert_held(&ctrl->lock);
	for (i = 0; i < nr; i++) {
		if (ctrl->channels[i])
			continue;
		ctrl->channels[i] = kvzalloc(sizeof(*ctrl->channels[i]), EXMAP_GFP);
		if (!ctrl->channels[i])
			return i ? 0 : -ENOMEM;
		mutex_init(&ctrl->channels[i]->lock);
		ctrl->channels[i]->dead = true;
	}
	return 0;
}

void exmap_nvme_channels_free(struct exmap_nvme_controller *ctrl)
{
	unsigned int i;

	for (i = 0; i < EXMAP_NVME_CHANNELS; i++)
		kvfree(ctrl->channels[i]);
}

/* Wait until those have left the channels who have them. */
void exmap_nvme_channels_sync(struct exmap_nvme_controller *ctrl)
{
	unsigned int i;

	lockdep_assert_held(&ctrl->lock);
	for (i = 0; i < ctrl->nr_channels; i++) {
		mutex_lock(&ctrl->channels[i]->lock);
		mutex_unlock(&ctrl->channels[i]->lock);
	}
}

static void kill_all(struct exmap_nvme_controller *ctrl)
{
	unsigned int i;

	for (i = 0; i < ctrl->nr_channels; i++)
		WRITE_ONCE(ctrl->channels[i]->dead, true);
}

static void drop_all(struct exmap_nvme_controller *ctrl)
{
	unsigned int i, nr = ctrl->nr_channels;

	WRITE_ONCE(ctrl->nr_channels, 0);
	for (i = 0; i < nr; i++)
		drop_channel(ctrl->channels[i]);
}

/* The controller has been reset: who waits for it is told. */
void exmap_nvme_channels_drop(struct exmap_nvme_controller *ctrl)
{
	kill_all(ctrl);
	exmap_nvme_channels_sync(ctrl);
	drop_all(ctrl);
}

static void kill_idle(struct exmap_nvme_channel *ch)
{
	mutex_lock(&ch->lock);
	WRITE_ONCE(ch->dead, true);
	mutex_unlock(&ch->lock);
}

/* What is in flight is waited for; then there are no channels.  May reset the controller. */
void exmap_nvme_channels_delete(struct exmap_nvme_controller *ctrl)
{
	unsigned int i;

	lockdep_assert_held(&ctrl->lock);
	for (i = 0; i < ctrl->nr_channels; i++)
		kill_idle(ctrl->channels[i]);
	for (i = 0; i < ctrl->nr_channels; i++) {
		if (exmap_nvme_pair_delete(&ctrl->channels[i]->pair)) {
			exmap_nvme_controller_fail(ctrl, -EIO);
			return;
		}
	}
	drop_all(ctrl);
}
