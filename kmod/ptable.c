// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - page tables: the only code that reads or writes page-table entries.
 *
 * Tables are made by the core (apply_to_page_range) and stay its property; we
 * keep a pointer to each and write entries under its page-table lock, so that
 * the slow path of get_user_pages takes its references against a stable entry.
 * Nobody else writes our entries: mmu notifiers empty them before the core
 * looks (notifier.c), and the flags of the mapping keep fork, migration and
 * reclaim away.
 */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <asm/pgalloc.h>

#include "exmap.h"
#include "ptable.h"

static int note_table(pte_t *pte, unsigned long addr, void *data)
{
	pte_t **table = data;

	*table = (pte_t *)((unsigned long)pte & PAGE_MASK);
	return 0;
}

/* The caller keeps the tables from being freed, and the chunk has had one. */
static pmd_t *chunk_pmd(struct exmap_region *region, u64 nr)
{
	unsigned long addr = exmap_region_address(region, nr * EXMAP_CHUNK_PAGES);
	p4d_t *p4d = p4d_offset(pgd_offset(region->mm, addr), addr);

	return pmd_offset(pud_offset(p4d, addr), addr);
}

static struct exmap_chunk *make_chunk(struct exmap_region *region, u64 nr)
{
	u64 first = nr * EXMAP_CHUNK_PAGES;
	struct exmap_chunk *chunk, *old;
	struct page *words;

	words = exmap_residency_page(region, first / EXMAP_RESIDENCY_WORDS);
	if (!words)
		return NULL;
	chunk = kzalloc(sizeof(*chunk), EXMAP_GFP);
	if (!chunk)
		return NULL;
	chunk->words = (u32 *)page_address(words) + first % EXMAP_RESIDENCY_WORDS;
	spin_lock_init(&chunk->lock);
	mutex_init(&chunk->view_lock);

	old = cmpxchg(&region->chunks[nr], NULL, chunk);
	if (old) {
		kfree(chunk);
		return old;
	}
	return chunk;
}

static bool publish_table(struct exmap_region *region, struct exmap_chunk *chunk, pte_t *table,
			  spinlock_t *ptl, u64 seq)
{
	bool valid;

	spin_lock(&region->gate);
	valid = !region->invalidations && region->inval_seq == seq;
	if (valid) {
		WRITE_ONCE(chunk->ptl, ptl);
		/* pair with smp_load_acquire in exmap_walk_to_table and exmap_chunk_ready */
		smp_store_release(&chunk->table, table); /* see above */
		smp_store_release(&chunk->ptes, table); /* see above */
	}
	spin_unlock(&region->gate);
	return valid;
}

static u64 wait_for_gate(struct exmap_region *region)
{
	u64 seq;

	for (;;) {
		bool closed;

		spin_lock(&region->gate);
		closed = region->invalidations;
		seq = region->inval_seq;
		spin_unlock(&region->gate);
		if (!closed)
			return seq;
		wait_event(region->wait, !exmap_region_gate_closed(region));
	}
}

/**
 * exmap_chunk_populate - give a chunk its page table
 * @region: mapped
 * @nr: the chunk's number
 *
 * The caller keeps the mapping from going away: by mmap_lock, or because it
 * handles a fault in it.  0, also for a parked chunk, or -ENOMEM.
 */
int exmap_chunk_populate(struct exmap_region *region, u64 nr)
{
	unsigned long addr = exmap_region_address(region, nr * EXMAP_CHUNK_PAGES);
	struct exmap_chunk *chunk;
	pte_t *table;
	u64 seq;
	int ret;

	chunk = smp_load_acquire(&region->chunks[nr]); /* pairs with cmpxchg in make_chunk */
	if (!chunk)
		chunk = make_chunk(region, nr);
	if (!chunk)
		return -ENOMEM;

	do {
		seq = wait_for_gate(region);
		if (smp_load_acquire(&chunk->table)) /* pairs with publish_table */
			return 0;
		ret = apply_to_page_range(region->mm, addr, PAGE_SIZE, note_table, &table);
		if (ret)
			return ret;
	} while (!publish_table(region, chunk, table,
				pte_lockptr(region->mm, chunk_pmd(region, nr)), seq));
	return 0;
}

/* The same for a caller that holds no lock but interface->io_lock. */
int exmap_chunk_populate_unlocked(struct exmap_region *region, u64 nr)
{
	struct vm_area_struct *vma;
	int ret = -EPROTO;

	if (mmap_read_lock_killable(region->mm))
		return -EINTR;
	/* munmap takes the vma out of the tree before it lets go of the write lock */
	vma = vma_lookup(region->mm, region->start);
	if (vma && vma->vm_private_data == region && vma->vm_file &&
	    vma->vm_file->f_op == &exmap_fops)
		ret = exmap_chunk_populate(region, nr);
	mmap_read_unlock(region->mm);
	return ret;
}

/* Map the zero page, read-only.  Returns false if there was an entry. */
bool exmap_pte_map_zero(struct exmap_walk *walk, u64 page)
{
	struct exmap_region *region = walk->region;
	pte_t *ptep = exmap_pte_of(walk, page);
	unsigned long addr = exmap_region_address(region, page);
	pte_t pte;

	if (!pte_none(*ptep))
		return false;
	pte = pte_wrprotect(pfn_pte(page_to_pfn(ZERO_PAGE(addr)), region->prot));
	set_pte_at(region->mm, addr, ptep, pte_mkspecial(pte));
	return true;
}

bool exmap_pte_accessed(struct exmap_walk *walk, u64 page)
{
	return pte_young(*exmap_pte_of(walk, page));
}

bool exmap_pte_dirty(struct exmap_walk *walk, u64 page)
{
	return pte_dirty(*exmap_pte_of(walk, page));
}

/* The processor sets accessed and dirty bits behind our back, hence the atomic operations. */
static void change_pte(pte_t *ptep, pte_t (*change)(pte_t pte))
{
	pteval_t old = READ_ONCE(ptep->pte);

	while (!try_cmpxchg(&ptep->pte, &old, change(__pte(old)).pte))
		;
}

void exmap_pte_clear_accessed(struct exmap_walk *walk, u64 page)
{
	clear_bit(_PAGE_BIT_ACCESSED, (unsigned long *)&exmap_pte_of(walk, page)->pte);
}

void exmap_pte_clear_dirty(struct exmap_walk *walk, u64 page)
{
	change_pte(exmap_pte_of(walk, page), pte_mkclean);
}

/* The caller flushes. */
void exmap_pte_protect(struct exmap_walk *walk, u64 page)
{
	change_pte(exmap_pte_of(walk, page), pte_wrprotect);
}

/* A CPU whose TLB has the old entry faults once, and finds this one. */
void exmap_pte_unprotect(struct exmap_walk *walk, u64 page)
{
	change_pte(exmap_pte_of(walk, page), pte_mkwrite_novma);
}

/*
 * The page of a chunk's table, for export.  Our reference keeps its memory from
 * being reused while it is mapped, also when the core has dropped the table.
 */
struct page *exmap_chunk_table(struct exmap_region *region, u64 nr)
{
	struct exmap_walk walk = { .region = region };
	struct exmap_chunk *chunk = exmap_walk_to_table(&walk, nr * EXMAP_CHUNK_PAGES);
	struct page *table = NULL;

	if (!chunk)
		return NULL;
	if (!chunk->exported) {
		chunk->exported = virt_to_page(chunk->table);
		get_page(chunk->exported);
	}
	if (chunk->exported == virt_to_page(chunk->table))
		table = chunk->exported;
	exmap_walk_end(&walk);
	return table;
}

/* A hint, unless the caller holds an interface. */
bool exmap_chunk_parked(struct exmap_region *region, u64 nr)
{
	/* pairs with make_chunk */
	struct exmap_chunk *chunk = smp_load_acquire(&region->chunks[nr]);

	return chunk && READ_ONCE(chunk->table) && !READ_ONCE(chunk->ptes);
}

void exmap_park_end(struct exmap_parking *parking)
{
	if (!parking->pmds)
		return;
	__acquire(parking->lock);
	spin_unlock(parking->lock);
	parking->pmds = NULL;
}

/* Lock the table of tables that the chunk's is plugged into, unless it is already. */
static void park_begin(struct exmap_parking *parking, u64 nr)
{
	struct exmap_region *region = parking->region;
	unsigned long addr = exmap_region_address(region, nr * EXMAP_CHUNK_PAGES);
	pmd_t *pmd;

	if (parking->pmds && parking->base == (addr & PUD_MASK))
		return;
	exmap_park_end(parking);
	pmd = chunk_pmd(region, nr);
	parking->lock = pmd_lock(region->mm, pmd);
	__release(parking->lock); /* for sparse: it is carried along */
	parking->base = addr & PUD_MASK;
	parking->pmds = pmd - pmd_index(addr);
}

/**
 * exmap_chunk_park - take a chunk's table out of the tree, and keep it
 * @parking: all interfaces are held, and mmap_lock for writing
 * @nr: a chunk that is the region's alone
 *
 * The caller flushes before he lets go of either.  The table is still the core's
 * property: exmap_chunk_plug brings it back before the core wants to free it.
 * Returns false if the chunk has none.
 */
bool exmap_chunk_park(struct exmap_parking *parking, u64 nr)
{
	struct exmap_region *region = parking->region;
	struct exmap_chunk *chunk = region->chunks[nr];

	mmap_assert_write_locked(region->mm);
	if (!chunk || !chunk->table)
		return false;
	if (chunk->ptes) {
		park_begin(parking, nr);
		pmd_clear(&parking->pmds[pmd_index(region->start + nr * PMD_SIZE)]);
		WRITE_ONCE(chunk->ptes, NULL);
	}
	return true;
}

/* Put a parked table back.  An interface is held; others may be doing the same. */
void exmap_chunk_plug(struct exmap_region *region, u64 nr)
{
	struct exmap_chunk *chunk = region->chunks[nr];
	pmd_t *pmd = chunk_pmd(region, nr);
	spinlock_t *ptl = pmd_lock(region->mm, pmd);

	if (pmd_none(*pmd))
		pmd_populate(region->mm, pmd, virt_to_page(chunk->table));
	spin_unlock(ptl);

	/* after the last of those who prepare it has let go of the lock */
	spin_lock(&chunk->lock);
	/* pairs with smp_load_acquire in exmap_chunk_ready */
	smp_store_release(&chunk->ptes, chunk->table);
	spin_unlock(&chunk->lock);
}
