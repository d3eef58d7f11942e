// SPDX-License-Identifier: GPL-2.0
/*
 * exmap - TLBs: the only code that invalidates them.
 *
 * flush_tlb_mm_range is not exported, so we do what it does: raise the mm's
 * tlb_gen, so that a CPU that switches to it later flushes by itself, and
 * interrupt those that use it now.  A CPU that runs our handler does not note
 * the new generation; its next flush by the core is therefore a full one.
 */
#include <linux/cpumask.h>
#include <linux/hardirq.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/smp.h>
#include <asm/invpcid.h>
#include <asm/mmu.h>
#include <asm/tlbflush.h>

#include "exmap.h"
#include "trace.h"

struct flush_request {
	unsigned long start;	/* of the region */
	const u32 *pages;
	unsigned int nr;	/* 0: everything */
	int cpu;		/* that asked */
	unsigned int ipis;
};

static void flush_everything(void)
{
	if (exmap_tlb_needs_every_cpu())
		invpcid_flush_all_nonglobals();
	else
		__flush_tlb_local();
}

static void flush_here(void *info)
{
	const struct flush_request *request = info;
	unsigned int i;

	/* so that the interrupt shows as what it is in /proc/interrupts */
	if (smp_processor_id() != request->cpu)
		exmap_count_tlb_interrupt();

	if (!request->nr)
		flush_everything();
	for (i = 0; i < request->nr; i++)
		__flush_tlb_one_user(request->start +
				     ((unsigned long)request->pages[i] << PAGE_SHIFT));
}

/*
 * A CPU in lazy mode runs a kernel thread on a borrowed address space; it looks
 * at tlb_gen before it returns to user space (switch_mm_irqs_off).
 */
static bool wants_interrupt(int cpu, void *info)
{
	struct flush_request *request = info;

	if (!exmap_tlb_needs_every_cpu() && exmap_cpu_is_lazy(cpu))
		return false;
	request->ipis += cpu != request->cpu;
	return true;
}

/* Returns the number of CPUs that were interrupted. */
static unsigned int flush(struct exmap_region *region, struct flush_request *request)
{
	struct mm_struct *mm = region->mm;
	const struct cpumask *cpus = mm_cpumask(mm);

	if (exmap_tlb_needs_every_cpu())
		cpus = cpu_online_mask;

	atomic64_inc(&mm->context.tlb_gen);
	/* entries are written before the CPUs' states are read */
	smp_mb__after_atomic();

	request->cpu = get_cpu();
	on_each_cpu_cond_mask(wants_interrupt, flush_here, request, true, cpus);
	put_cpu();
	return request->ipis;
}

/* Nobody looks at the clock while nobody listens: then it is 0. */
static u64 begin_trace(void)
{
	return trace_exmap_flush_enabled() ? ktime_get_ns() : 0;
}

static u64 elapsed(u64 begin)
{
	return begin ? ktime_get_ns() - begin : 0;
}

void exmap_tlb_init(struct exmap_tlb *tlb)
{
	atomic64_set(&tlb->started, 1);
	atomic64_set(&tlb->done, 1);
}

/**
 * exmap_tlb_flush - flush all of the region's translations everywhere
 * @region: whose
 * @counts: of an interface that the caller holds
 * @reason: for the tracepoint
 *
 * Whatever was unmapped before the call may be retired afterwards, by every
 * interface.
 */
void exmap_tlb_flush(struct exmap_region *region, struct exmap_counts *counts,
		     enum exmap_flush_reason reason)
{
	struct flush_request request = { .start = region->start };
	struct exmap_tlb *tlb = &region->tlb;
	s64 ticket = atomic64_inc_return(&tlb->started);
	s64 done = atomic64_read(&tlb->done);
	u64 begin = begin_trace();
	unsigned int ipis;

	ipis = flush(region, &request);
	/* release: pairs with exmap_tlb_done */
	while (done < ticket && !atomic64_try_cmpxchg_release(&tlb->done, &done, ticket))
		;
	exmap_count(&counts->flushes, 1);
	exmap_count(&counts->flush_ipis, ipis);
	trace_exmap_flush(region->id, reason, 0, ipis, elapsed(begin));
}

/* Flush up to EXMAP_RANGED_PAGES single pages; retires nothing by itself. */
void exmap_tlb_flush_pages(struct exmap_region *region, struct exmap_counts *counts,
			   const u32 *pages, unsigned int nr)
{
	struct flush_request request = { .start = region->start, .pages = pages, .nr = nr };
	u64 begin = begin_trace();
	unsigned int ipis;

	if (exmap_tlb_needs_every_cpu())
		request.nr = 0;
	ipis = flush(region, &request);
	exmap_count(&counts->flushes_ranged, 1);
	exmap_count(&counts->flush_ipis, ipis);
	trace_exmap_flush(region->id, EXMAP_FLUSH_FREE, nr, ipis, elapsed(begin));
}
