/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What the parts of the exerciser share. */
#ifndef DPAMT_EXERCISER_H
#define DPAMT_EXERCISER_H

#include <linux/mm.h>
#include <linux/types.h>
#include <asm/tdx.h>

#define DPAMT "dpamt: "

enum design { DESIGN_NONE, DESIGN_MERGED, DESIGN_V6, DESIGN_KERNEL, DESIGN_V2, DESIGN_V5 };

/* Bugs that can be seeded, one at a time. */
enum bug { SEEDED_NONE, SEEDED_PUT_TOO_MANY, SEEDED_MISSING_GET, SEEDED_UNLOCKED_COUNT };

extern enum design chosen_design;
extern enum bug chosen_bug;

/* Of a kernel with Dynamic PAMT: where its pamt_refcounts and max_pfn are; neither is exported. */
extern unsigned long kernel_counts, kernel_max_pfn;

/* The kernel's __seamcall_ret, by its address: it is not exported. */
u64 raw_seamcall(u64 leaf, struct tdx_module_args *args);

/*
 * A schedule that is followed (dpamt boot --replay): what a thread is about to do to what CPUs share
 * is announced, with the result of what it did before, and it goes on when it is its turn.
 */
enum step {
	STEP_LOAD = 1, STEP_INC_NOT_ZERO, STEP_ADD, STEP_STORE, STEP_LOCK, STEP_UNLOCK, STEP_BEGIN, STEP_END,
};

extern bool scheduled;

/* step.c */
void step(enum step what);
long came(long result);

/* pamt.c */
int pamt_init(void);
void pamt_exit(void);
int pamt_get(unsigned long pfn);
void pamt_put(unsigned long pfn);
long pamt_counted(void);
struct page *alloc_control_page(void);
void free_control_page(struct page *page);

/* td.c */
#define TD_PAGES 64

struct test_td {
	struct tdx_td td;
	struct tdx_vp vp;
	int hkid;
	struct page *sept[3];
	struct page *guest[TD_PAGES];
	int tdcs_given, tdcx_given;	/* pages that are the module's */
	bool vp_given;
	u64 status;		/* of the first SEAMCALL that failed */
	const char *failed;	/* its name */
};

int td_build(struct test_td *t);
int td_add_page(struct test_td *t, u64 gpa, struct page *page);
int td_remove_page(struct test_td *t, u64 gpa, unsigned long pfn);
void td_teardown(struct test_td *t);

#endif
