// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * get and put of page pairs: the kernel's own where it exports them; for kernels that have none, the
 * merged design, the optimised one that was posted as v6, and two with the races for which they were
 * given up, v2 and v5.
 *
 * Written from the protocols, not from the patches: merged commits of 2026-09-04 (ad52ce8389d9,
 * eca9d4a3f1f8), "[PATCH v6 00/11] Dynamic PAMT" (2026-05-25), "[PATCHv2 00/12] TDX: Enable Dynamic
 * PAMT" (2025-06-09), "[RFC PATCH v5 00/45] TDX: Dynamic PAMT + S-EPT Hugepage" (2026-01-28).
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/vmalloc.h>

#include "exerciser.h"

#define LEAF_PAMT_ADD		58
#define LEAF_PAMT_REMOVE	59
#define LEVEL_2M		1
#define RANGE_NOT_FREE		0xc0000304U	/* TDX_HPA_RANGE_NOT_FREE: the pair is there already */
#define REGIONS			(64UL << (30 - 21))	/* 64 GiB */

static atomic_t *counts;
static DEFINE_SPINLOCK(pamt_lock);
static bool warned_add, warned_remove;

int pamt_init(void)
{
	counts = vzalloc(REGIONS * sizeof(*counts));
	return counts ? 0 : -ENOMEM;
}

void pamt_exit(void)
{
	vfree(counts);
}

/* The sum of all counts: 0 when nobody uses anything. */
long pamt_counted(void)
{
	long sum = 0;
	unsigned long n;

	if (chosen_design == DESIGN_KERNEL) {
		int *own = kernel_counts ? *(int **)kernel_counts : NULL;
		unsigned long regions = DIV_ROUND_UP(*(unsigned long *)kernel_max_pfn, 512);

		for (n = 0; own && n < regions; n++)
			sum += abs(READ_ONCE(own[n]));
		return sum;
	}
	for (n = 0; n < REGIONS; n++)
		sum += abs(atomic_read(&counts[n]));
	return sum;
}

static u64 pamt_add(unsigned long pfn, struct page *first, struct page *second)
{
	struct tdx_module_args args = {
		.rcx = ALIGN_DOWN(PFN_PHYS(pfn), 1UL << 21) | LEVEL_2M,
		.rdx = page_to_phys(first),
		.r8 = page_to_phys(second),
	};

	return raw_seamcall(LEAF_PAMT_ADD, &args);
}

static u64 pamt_remove(unsigned long pfn, struct page **first, struct page **second)
{
	struct tdx_module_args args = {
		.rcx = ALIGN_DOWN(PFN_PHYS(pfn), 1UL << 21) | LEVEL_2M,
	};
	u64 status = raw_seamcall(LEAF_PAMT_REMOVE, &args);

	if (!status) {
		*first = pfn_to_page(PHYS_PFN(args.rdx));
		*second = pfn_to_page(PHYS_PFN(args.r8));
	}
	return status;
}

static void warn_once(bool *warned, const char *what, unsigned long pfn, u64 status)
{
	if (!xchg(warned, true))
		pr_warn(DPAMT "warn %s pfn 0x%lx status 0x%llx\n", what, pfn, status);
}

static int alloc_pair(struct page **first, struct page **second)
{
	*first = alloc_page(GFP_KERNEL);
	*second = alloc_page(GFP_KERNEL);
	if (*first && *second)
		return 0;
	if (*first)
		__free_page(*first);
	if (*second)
		__free_page(*second);
	return -ENOMEM;
}

/* Under the lock: install a pair, or count one more; 1 when the pages were used. */
static int add_locked(unsigned long pfn, struct page *first, struct page *second, u64 *status)
{
	atomic_t *count = &counts[pfn >> 9];

	*status = 0;
	if (atomic_read(count) > 0) {
		atomic_inc(count);
		return 0;
	}
	*status = pamt_add(pfn, first, second);
	if (*status)
		return 0;
	atomic_set(count, 1);
	return 1;
}

/* Steps on what CPUs share, announced. */

static int shared_load(atomic_t *count)
{
	step(STEP_LOAD);
	return came(atomic_read(count));
}

static bool shared_inc_not_zero(atomic_t *count)
{
	step(STEP_INC_NOT_ZERO);
	return came(atomic_inc_not_zero(count));
}

static int shared_add(atomic_t *count, int by)
{
	step(STEP_ADD);
	return came(atomic_add_return(by, count));
}

static void shared_store(atomic_t *count, int value)
{
	step(STEP_STORE);
	atomic_set(count, value);
}

static void shared_lock(void)
{
	step(STEP_LOCK);
	spin_lock(&pamt_lock);
}

static void shared_unlock(void)
{
	step(STEP_UNLOCK);
	spin_unlock(&pamt_lock);
}

/* v2 and v5: a put lets the count fall to 0 before it has the lock, so a pair may be in place. */
static int optimistic_get(unsigned long pfn)
{
	atomic_t *count = &counts[pfn >> 9];
	struct page *first, *second;
	u64 status = 0;
	int seen;

	if (chosen_design == DESIGN_V2 && shared_load(count) < 0)
		pr_warn_once(DPAMT "negative count pfn 0x%lx\n", pfn);
	if (shared_inc_not_zero(count))
		return 0;
	if (alloc_pair(&first, &second))
		return -ENOMEM;
	shared_lock();
	seen = shared_load(count);
	if (seen) {
		shared_add(count, 1);
	} else {
		status = pamt_add(pfn, first, second);
		if (!status || status >> 32 == RANGE_NOT_FREE)
			shared_store(count, 1);
	}
	shared_unlock();
	if (seen || status) {
		__free_page(first);
		__free_page(second);
	}
	if (!status || status >> 32 == RANGE_NOT_FREE)
		return 0;
	warn_once(&warned_add, "PAMT.ADD", pfn, status);
	return -EIO;
}

static void optimistic_put(unsigned long pfn)
{
	atomic_t *count = &counts[pfn >> 9];
	struct page *first, *second;
	u64 status;

	if (shared_add(count, -1))
		return;
	shared_lock();
	if (shared_load(count)) {
		shared_unlock();
		return;
	}
	status = pamt_remove(pfn, &first, &second);
	if (status) {
		shared_add(count, 1);
		shared_unlock();
		warn_once(&warned_remove, "PAMT.REMOVE", pfn, status);
		return;
	}
	shared_unlock();
	__free_page(first);
	__free_page(second);
}

static bool is_optimistic(void)
{
	return chosen_design == DESIGN_V2 || chosen_design == DESIGN_V5;
}

int pamt_get(unsigned long pfn)
{
	struct page *first, *second;
	atomic_t *count;
	u64 status;
	int used;

	if (chosen_design == DESIGN_NONE)
		return 0;
#ifdef DPAMT_KERNEL_PAMT
	if (chosen_design == DESIGN_KERNEL)
		return tdx_pamt_get(pfn, NULL);
#endif
	if (pfn >> 9 >= REGIONS)
		return -ERANGE;
	if (is_optimistic())
		return optimistic_get(pfn);
	count = &counts[pfn >> 9];
	if (chosen_bug == SEEDED_UNLOCKED_COUNT) {
		/* Reads, waits, writes: what another CPU did in between is lost. */
		int seen = atomic_read(count);

		if (seen > 0) {
			udelay(20);
			atomic_set(count, seen + 1);
			return 0;
		}
	} else if (chosen_design == DESIGN_V6 && atomic_inc_not_zero(count)) {
		return 0;
	}

	if (alloc_pair(&first, &second))
		return -ENOMEM;
	spin_lock(&pamt_lock);
	used = add_locked(pfn, first, second, &status);
	spin_unlock(&pamt_lock);
	if (status)
		warn_once(&warned_add, "PAMT.ADD", pfn, status);
	if (!used) {
		__free_page(first);
		__free_page(second);
	}
	return status ? -EIO : 0;
}

void pamt_put(unsigned long pfn)
{
	struct page *first, *second;
	atomic_t *count;
	u64 status;

#ifdef DPAMT_KERNEL_PAMT
	if (chosen_design == DESIGN_KERNEL) {
		tdx_pamt_put(pfn);
		return;
	}
#endif
	if (chosen_design == DESIGN_NONE || pfn >> 9 >= REGIONS)
		return;
	if (is_optimistic()) {
		optimistic_put(pfn);
		return;
	}
	count = &counts[pfn >> 9];
	if (chosen_design == DESIGN_V6) {
		if (!atomic_dec_and_lock(count, &pamt_lock))
			return;
	} else {
		spin_lock(&pamt_lock);
		if (atomic_read(count) > 1) {
			atomic_dec(count);
			spin_unlock(&pamt_lock);
			return;
		}
	}
	status = pamt_remove(pfn, &first, &second);
	if (status) {
		if (chosen_design == DESIGN_V6)
			atomic_set(count, 1);
		spin_unlock(&pamt_lock);
		warn_once(&warned_remove, "PAMT.REMOVE", pfn, status);
		return;
	}
	atomic_set(count, 0);
	spin_unlock(&pamt_lock);
	__free_page(first);
	__free_page(second);
}

struct page *alloc_control_page(void)
{
	struct page *page;

#ifdef DPAMT_KERNEL_PAMT
	if (chosen_design == DESIGN_KERNEL)
		return tdx_alloc_control_page();
#endif
	page = alloc_page(GFP_KERNEL);
	if (page && pamt_get(page_to_pfn(page))) {
		__free_page(page);
		return NULL;
	}
	return page;
}

void free_control_page(struct page *page)
{
	if (!page)
		return;
#ifdef DPAMT_KERNEL_PAMT
	if (chosen_design == DESIGN_KERNEL) {
		tdx_free_control_page(page);
		return;
	}
#endif
	pamt_put(page_to_pfn(page));
	__free_page(page);
}
