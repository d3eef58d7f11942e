// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - what snapshots hold of each chunk, and how the live region leaves
 * content to them.
 *
 * RECORD  What a snapshot knows of a chunk: one word for each page, which says
 * absent, a frame that is the snapshot's own, or SAME: as in the next newer
 * snapshot of that chunk, or in the live region if there is none.  No record at
 * all means that the chunk has been parked ever since, which is SAME for every
 * page.  Only the newest snapshot of a chunk ever gets anything recorded; the
 * older ones look through it, so that a page is copied once, however many
 * snapshots are alive.
 *
 *	freeze		no record (or all_absent, if the chunk has no table)
 *	attach		a record: SAME for mapped pages, else absent
 *	write		a SAME page is copied out: the copy is recorded, the
 *			writer keeps its frame and gets a writable entry
 *	FREE		a SAME page's frame itself is recorded
 *	close		what the next older snapshot looks through is moved to
 *			it, the rest is free; what remains is all_same
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "exmap.h"
#include "ptable.h"
#include "trace.h"

#define SAME	EXMAP_RES_SNAPSHOT
#define EXMAP_COPY_AHEAD	8u	/* pages */

static struct exmap_record all_absent;
static struct exmap_record all_same = { .words = { [0 ... EXMAP_CHUNK_PAGES - 1] = SAME } };

static bool is_own(const struct exmap_record *record)
{
	return record && record != &all_absent && record != &all_same;
}

static struct exmap_record **record_of(struct exmap_snapshot *snap, u64 nr)
{
	return &snap->records[nr - snap->first];
}

/* The snapshot that gets what a chunk loses, or NULL.  The chunk's lock is held. */
static struct exmap_snapshot *newest(struct exmap_region *region, u64 nr)
{
	struct exmap_snapshot *snap, *found = NULL;

	list_for_each_entry_rcu(snap, &region->snapshots, node, true) {
		if (exmap_snapshot_covers(snap, nr) && *record_of(snap, nr) != &all_same)
			found = snap;
	}
	return found;
}

/* The one that looks through @snap, or NULL. */
static struct exmap_snapshot *next_older(struct exmap_snapshot *snap, u64 nr)
{
	struct exmap_snapshot *other, *found = NULL;

	list_for_each_entry_rcu(other, &snap->region->snapshots, node, true) {
		if (other == snap)
			break;
		if (exmap_snapshot_covers(other, nr) && *record_of(other, nr) != &all_same)
			found = other;
	}
	return found;
}

/* Does the newest snapshot share page @i of a chunk with the live region? */
static bool is_shared(struct exmap_snapshot *snap, u64 nr, unsigned int i)
{
	struct exmap_record *record;

	if (!snap)
		return false;
	record = *record_of(snap, nr);
	return !record || record->words[i] == SAME;
}

/**
 * exmap_snapshot_resolve - what a snapshot holds of a page
 * @snap: the caller's
 * @nr: a chunk that it covers
 * @i: a page of the chunk
 *
 * Returns a residency word: 0 for an absent page, else its frame, with
 * EXMAP_RES_SNAPSHOT if the live region has it too.  The chunk's lock is held.
 */
u32 exmap_snapshot_resolve(struct exmap_snapshot *snap, u64 nr, unsigned int i)
{
	struct exmap_region *region = snap->region;
	struct exmap_snapshot *s = snap;
	struct exmap_record *record;
	u32 word;

	lockdep_assert_held(&region->chunks[nr]->lock);
	list_for_each_entry_from_rcu(s, &region->snapshots, node) {
		record = exmap_snapshot_covers(s, nr) ? *record_of(s, nr) : NULL;
		if (record && record->words[i] != SAME)
			return record->words[i];
	}
	word = READ_ONCE(region->chunks[nr]->words[i]);
	return EXMAP_RES_MAPPED(word) ? word | SAME : 0;
}

/* The chunk as it was at the freeze: nothing has happened to it since. */
static void fill_record(struct exmap_chunk *chunk, struct exmap_record *record)
{
	unsigned int i;

	record->nr_frames = 0;
	record->pinned = false;
	for (i = 0; i < EXMAP_CHUNK_PAGES; i++)
		record->words[i] = EXMAP_RES_MAPPED(READ_ONCE(chunk->words[i])) ? SAME : 0;
}

/* Write-protect what is shared, and say so in the residency words.  Both locks are held. */
static void protect(struct exmap_walk *walk, const struct exmap_record *record)
{
	struct exmap_chunk *chunk = walk->chunk;
	u64 page = walk->nr * EXMAP_CHUNK_PAGES;
	bool parked = !chunk->ptes;
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		if (record->words[i] != SAME)
			continue;
		if (parked)
			exmap_pte_protect_parked(walk, page + i);
		else
			exmap_pte_protect(walk, page + i);
		WRITE_ONCE(chunk->words[i], READ_ONCE(chunk->words[i]) | EXMAP_RES_SNAPSHOT);
	}
}

/**
 * exmap_snapshot_prepare - before a table is used again
 * @walk: at the chunk
 * @record: see exmap_snapshot_attach
 *
 * Returns false if that takes a record and there is none.
 */
bool exmap_snapshot_prepare(struct exmap_walk *walk, struct exmap_record **record)
{
	struct exmap_chunk *chunk = walk->chunk;
	struct exmap_snapshot *snap;
	bool ready = true;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(walk->region, walk->nr);
	if (snap && !*record_of(snap, walk->nr)) {
		ready = *record;
		if (ready)
			fill_record(chunk, *record);
		*record_of(snap, walk->nr) = *record;
		*record = NULL;
	}
	if (snap && ready)
		protect(walk, *record_of(snap, walk->nr));
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return ready;
}

/**
 * exmap_snapshot_attach - plug the table of a parked chunk in again
 * @region: an interface of it is held
 * @nr: the chunk
 * @record: of any content, or NULL; set to NULL if it was used
 *
 * The chunk stays parked if it takes a record and there is none.
 */
void exmap_snapshot_attach(struct exmap_region *region, u64 nr, struct exmap_record **record)
{
	struct exmap_walk walk = { .region = region };
	bool ready = true;

	if (!exmap_walk_to_table(&walk, nr * EXMAP_CHUNK_PAGES))
		return;
	if (!walk.chunk->ptes)
		ready = exmap_snapshot_prepare(&walk, record);
	exmap_walk_end(&walk);
	if (!ready)
		return;
	exmap_chunk_plug(region, nr);
	trace_exmap_attach(region->id, nr);
}

struct exmap_record *exmap_snapshot_alloc_record(gfp_t gfp)
{
	return kmalloc(sizeof(struct exmap_record), gfp);
}

/* The copy goes to the reservation's account, else to the interface's. */
static int take_frame(struct exmap_op *op, struct exmap_snapshot *snap, u32 *frame)
{
	struct exmap_pool *pool = &op->region->pool;
	bool found;
	int ret;

	spin_lock(&pool->lock);
	found = snap->nr_reserve;
	if (found)
		*frame = snap->reserve[--snap->nr_reserve];
	spin_unlock(&pool->lock);
	if (found)
		return 0;
	ret = exmap_op_take_frame(op, frame);
	if (!ret)
		op->itf->counts.snapshot++;
	return ret;
}

/* Record a copy of a page's live frame.  Both locks are held. */
static void record_copy(struct exmap_op *op, struct exmap_snapshot *snap, u64 page, u32 live,
			u32 frame)
{
	struct exmap_record *record = *record_of(snap, op->walk.nr);
	struct page **pages = op->region->pool.pages;

	copy_highpage(pages[frame], pages[live]);
	trace_exmap_copy_out(snap, page);
	record->words[page % EXMAP_CHUNK_PAGES] = frame + 1;
	record->nr_frames++;
	exmap_count(&op->itf->counts.copies, 1);
}

static int copy_out(struct exmap_op *op, struct exmap_snapshot *snap, u64 page, u32 live)
{
	u32 frame;
	int ret;

	if (op->walk.chunk->viewed)
		return -ESTALE;
	ret = take_frame(op, snap, &frame);
	if (ret)
		return ret;
	record_copy(op, snap, page, live, frame);
	return 1;
}

/* The page is the live region's alone from now on. */
static void make_writable(struct exmap_walk *walk, u64 page, u32 word)
{
	WRITE_ONCE(walk->chunk->words[page % EXMAP_CHUNK_PAGES], word & ~EXMAP_RES_SNAPSHOT);
	exmap_pte_unprotect(walk, page);
}

/* Writes come one page after the other: copy some ahead, as far as there are frames at hand. */
static void copy_ahead(struct exmap_op *op, struct exmap_snapshot *snap, u64 page)
{
	struct exmap_chunk *chunk = op->walk.chunk;
	struct exmap_record *record = *record_of(snap, op->walk.nr);
	unsigned int i = page % EXMAP_CHUNK_PAGES, end;

	if (!i || record->words[i - 1] == SAME)
		return;
	end = min(i + 1 + EXMAP_COPY_AHEAD, EXMAP_CHUNK_PAGES);
	for (i++; i < end && record->words[i] == SAME; i++) {
		u32 word = READ_ONCE(chunk->words[i]);

		page++;
		if (copy_out(op, snap, page, EXMAP_RES_FRAME(word)) < 0)
			return;
		make_writable(&op->walk, page, word);
	}
}

/* Which pages of a block are shared with @holder, and, for a reader, with what he reads. */
static u32 shared_pages(struct exmap_op *op, struct exmap_snapshot *holder,
			struct exmap_snapshot *reader, u64 first, u32 shared[EXMAP_COPY_BLOCK])
{
	u32 i = first % EXMAP_CHUNK_PAGES, end = i + EXMAP_COPY_BLOCK, nr = 0;
	u64 chunk_nr = op->walk.nr;

	for (; i < end; i++) {
		u32 word = READ_ONCE(op->walk.chunk->words[i]);

		if (!EXMAP_RES_MAPPED(word) || !(word & EXMAP_RES_SNAPSHOT) ||
		    !is_shared(holder, chunk_nr, i))
			continue;
		if (!reader || (exmap_snapshot_resolve(reader, chunk_nr, i) & SAME))
			shared[nr++] = i;
	}
	return nr;
}

/* Copy what is shared of a block; -EBUSY if too few frames are to spare, or views share. */
static int copy_block(struct exmap_op *op, struct exmap_snapshot *holder,
		      struct exmap_snapshot *reader, u64 first)
{
	u32 shared[EXMAP_COPY_BLOCK], frames[EXMAP_COPY_BLOCK], i;
	u32 nr = shared_pages(op, holder, reader, first, shared), got;

	if (!nr)
		return 0;
	if (op->walk.chunk->viewed)
		return -EBUSY;
	got = exmap_pool_take_spare(&op->region->pool, frames, nr);
	for (i = 0; i < got; i++) {
		u64 page = round_down(first, EXMAP_CHUNK_PAGES) + shared[i];
		u32 word = READ_ONCE(*exmap_walk_word(&op->walk, page));

		record_copy(op, holder, page, EXMAP_RES_FRAME(word), frames[i]);
		make_writable(&op->walk, page, word);
	}
	op->itf->counts.snapshot += got;
	return got < nr ? -EBUSY : 0;
}

/* No snapshot of the chunk is left: spare the other pages their faults. */
static void unprotect_chunk(struct exmap_walk *walk)
{
	u64 page = walk->nr * EXMAP_CHUNK_PAGES;
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 word = READ_ONCE(walk->chunk->words[i]);

		if (word & EXMAP_RES_SNAPSHOT)
			make_writable(walk, page + i, word);
	}
}

/**
 * exmap_snapshot_unshare - make a page writable, after copying it out: a step
 * @op: with the page's chunk locked
 * @page: mapped or not
 *
 * 1 if it was copied, 0 if there was no need, -ENOMEM, or -ESTALE if the chunk
 * has to be taken out of the views first.
 */
int exmap_snapshot_unshare(struct exmap_op *op, u64 page)
{
	struct exmap_chunk *chunk = op->walk.chunk;
	u32 *word = exmap_walk_word(&op->walk, page);
	struct exmap_snapshot *snap;
	u32 old;
	int ret = 0;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	old = READ_ONCE(*word);
	if (!EXMAP_RES_MAPPED(old) || !(old & EXMAP_RES_SNAPSHOT))
		goto out;
	snap = newest(op->region, op->walk.nr);
	if (!snap) {
		unprotect_chunk(&op->walk);
		goto out;
	}
	if (is_shared(snap, op->walk.nr, page % EXMAP_CHUNK_PAGES))
		ret = copy_out(op, snap, page, EXMAP_RES_FRAME(old));
	if (ret < 0)
		goto out;
	make_writable(&op->walk, page, old);
	/* a reader that copies would do it for each of them: one fault now, not eight in a race */
	if (ret && op->in_fault && snap->readers_copy)
		copy_block(op, snap, NULL, round_down(page, EXMAP_COPY_BLOCK));
	else if (ret && op->in_fault)
		copy_ahead(op, snap, page);
out:
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return ret;
}

/**
 * exmap_snapshot_copy_read - copy what is shared of a block before a view shows it
 * @op: with the block's chunk locked
 * @snap: the view's
 * @first: page of the region, a multiple of EXMAP_COPY_BLOCK
 *
 * 0, or -EBUSY if there are no frames to spare or if views share the chunk.
 */
int exmap_snapshot_copy_read(struct exmap_op *op, struct exmap_snapshot *snap, u64 first)
{
	struct exmap_chunk *chunk = op->walk.chunk;
	struct exmap_snapshot *holder;
	int ret = 0;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	/* NULL if all that shared it are broken; the words say so at the next write only */
	holder = newest(op->region, op->walk.nr);
	if (holder)
		ret = copy_block(op, holder, snap, first);
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return ret;
}

/* A page will not be copied any more: back with the frame that was set aside for it. */
static int unreserve_one(struct exmap_snapshot *snap)
{
	struct exmap_pool *pool = &snap->region->pool;
	int nr;

	spin_lock(&pool->lock);
	nr = snap->reserve_all && snap->nr_reserve;
	if (nr)
		pool->free[pool->nr_free++] = snap->reserve[--snap->nr_reserve];
	spin_unlock(&pool->lock);
	return nr;
}

/**
 * exmap_snapshot_keep - leave the frame of a page to its snapshot
 * @region: an interface of it is held
 * @walk: at the page, whose entry has just been removed
 * @page: its word has EXMAP_RES_SNAPSHOT
 * @old: the word
 *
 * Returns -ENOENT if nobody shares it any more.  Otherwise the caller sees to the
 * word, and the counts: snapshots have gained as many frames as this returns.
 */
int exmap_snapshot_keep(struct exmap_region *region, struct exmap_walk *walk, u64 page, u32 old)
{
	struct exmap_chunk *chunk = walk->chunk;
	u32 frame = EXMAP_RES_FRAME(old);
	struct exmap_record *record;
	struct exmap_snapshot *snap;
	int gained = -ENOENT;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(region, walk->nr);
	if (is_shared(snap, walk->nr, page % EXMAP_CHUNK_PAGES)) {
		record = *record_of(snap, walk->nr);
		record->words[page % EXMAP_CHUNK_PAGES] = frame + 1;
		record->nr_frames++;
		/* get_user_pages may have been faster; see exmap_quarantine_drain */
		record->pinned |= page_ref_count(region->pool.pages[frame]) != 1;
		gained = 1 - unreserve_one(snap);
		trace_exmap_keep(snap, page);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	return gained;
}

/**
 * exmap_snapshot_leave_chunk - what the death of a region leaves to snapshots
 * @region: dead, all interfaces are held
 * @nr: a chunk, whose entries are gone
 * @drop: called for each page that nobody shares
 *
 * The words of the others stay: they are what the snapshots resolve to.
 */
void exmap_snapshot_leave_chunk(struct exmap_region *region, u64 nr,
				void (*drop)(struct exmap_region *region, u64 page, u32 *word))
{
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_counts *counts = &region->ctl->counts;
	struct exmap_snapshot *snap;
	unsigned int i;

	rcu_read_lock();
	spin_lock(&chunk->lock);
	snap = newest(region, nr);
	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 *word = &chunk->words[i];

		if (!EXMAP_RES_MAPPED(*word))
			continue;
		WRITE_ONCE(*word, *word & ~EXMAP_RES_SNAPSHOT);
		counts->mapped--;
		if (is_shared(snap, nr, i))
			counts->snapshot++;
		else
			drop(region, nr * EXMAP_CHUNK_PAGES + i, word);
	}
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
}

/* What an older snapshot looks through a newer one becomes its own. */
static void merge(struct exmap_record *older, struct exmap_record *newer)
{
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 word = newer->words[i];

		if (older->words[i] != SAME || word == SAME)
			continue;
		older->words[i] = word;
		newer->words[i] = SAME;
		older->nr_frames += !!word;
		newer->nr_frames -= !!word;
	}
	older->pinned |= newer->pinned;
}

/* Pages of a dead region that only the snapshot just removed has shared. */
static void free_ghosts(struct exmap_region *region, u64 nr)
{
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_snapshot *snap = newest(region, nr);
	unsigned int i;

	for (i = 0; i < EXMAP_CHUNK_PAGES; i++) {
		u32 *word = &chunk->words[i];

		if (!EXMAP_RES_MAPPED(*word) || is_shared(snap, nr, i))
			continue;
		exmap_pool_return(&region->pool, EXMAP_RES_FRAME(*word));
		region->ctl->counts.snapshot--;
		WRITE_ONCE(*word, 0);
	}
}

/* The chunk has no page at the freeze. */
void exmap_snapshot_set_absent(struct exmap_snapshot *snap, u64 nr)
{
	*record_of(snap, nr) = &all_absent;
}

/**
 * exmap_snapshot_detach_chunk - take a chunk away from a snapshot
 * @snap: no view of it maps the chunk
 * @nr: a chunk that it covers
 *
 * Returns a record whose frames are free now, or NULL.
 */
struct exmap_record *exmap_snapshot_detach_chunk(struct exmap_snapshot *snap, u64 nr)
{
	struct exmap_region *region = snap->region;
	struct exmap_chunk *chunk = region->chunks[nr];
	struct exmap_record *record = *record_of(snap, nr);
	struct exmap_snapshot *older;

	if (!chunk) {
		*record_of(snap, nr) = &all_same;
		return NULL;
	}
	mutex_lock(&region->ctl->lock);
	rcu_read_lock();
	spin_lock(&chunk->lock);
	record = *record_of(snap, nr);
	older = next_older(snap, nr);
	*record_of(snap, nr) = &all_same;
	if (is_own(record) && older) {
		struct exmap_record **inherits = record_of(older, nr);

		if (is_own(*inherits))
			merge(*inherits, record);
		else if (!*inherits)
			swap(*inherits, record);
	}
	if (region->dead)
		free_ghosts(region, nr);
	spin_unlock(&chunk->lock);
	rcu_read_unlock();
	mutex_unlock(&region->ctl->lock);
	return is_own(record) ? record : NULL;
}

/* How many frames are a snapshot's own. */
u64 exmap_snapshot_frames(struct exmap_snapshot *snap)
{
	struct exmap_region *region = snap->region;
	u64 nr, frames = 0;

	for (nr = snap->first; nr < snap->first + snap->nr_chunks; nr++) {
		struct exmap_chunk *chunk = region->chunks[nr];
		struct exmap_record *record;

		if (!chunk)
			continue;
		spin_lock(&chunk->lock);
		record = *record_of(snap, nr);
		frames += record ? record->nr_frames : 0;
		spin_unlock(&chunk->lock);
	}
	return frames;
}
