// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The life of one TD through the kernel's own SEAMCALL wrappers, in KVM's order
 * (Linux arch/x86/kvm/vmx/tdx.c: __tdx_td_init, tdx_td_vcpu_init, tdx_mmu_release_hkid, tdx_vm_destroy).
 */
#include <linux/slab.h>
#include <linux/string.h>

#include "exerciser.h"

#define BUSY_CLASS	0x8000020000000000ULL
#define CLASS_MASK	0xffffffff00000000ULL
#define BUSY_TRIES	16
#define INTERRUPTED	0x8000000300000000ULL	/* TDX_INTERRUPTED_RESUMABLE */
#define NOT_ASSOCIATED	0x8000070200000000ULL	/* TDX_VCPU_NOT_ASSOCIATED */

/* Do it again while another CPU holds a lock: how often KVM may, is a rule of its own. */
#define WHILE_BUSY(expression) ({						\
	u64 __status;								\
	int __tries = BUSY_TRIES;						\
										\
	do {									\
		__status = (expression);					\
	} while ((__status & CLASS_MASK) == BUSY_CLASS && --__tries);		\
	__status;								\
})
#define TRY(t, name, expression) noted(t, name, WHILE_BUSY(expression))

static u64 noted(struct test_td *t, const char *name, u64 status)
{
	if (status && !t->failed) {
		t->failed = name;
		t->status = status;
	}
	return status;
}

/* TD_PARAMS (Intel TDX Module 1.5 ABI specification): XFAM x87 and SSE, one VCPU, 4-level EPT, 1 GHz. */
static void fill_params(u8 *params)
{
	*(u64 *)(params + 8) = 3;
	*(u16 *)(params + 16) = 1;
	*(u64 *)(params + 24) = 6 | 3 << 3;
	*(u16 *)(params + 40) = 40;
}

static int alloc_pages_of(struct page ***pages, int count)
{
	int n;

	*pages = kcalloc(count, sizeof(**pages), GFP_KERNEL);
	if (!*pages)
		return -ENOMEM;
	for (n = 0; n < count; n++) {
		(*pages)[n] = alloc_control_page();
		if (!(*pages)[n])
			return -ENOMEM;
	}
	return 0;
}

static int build_vcpu(struct test_td *t)
{
	int n;

	t->vp.tdvpr_page = alloc_control_page();
	if (!t->vp.tdvpr_page)
		return -ENOMEM;
	t->vp.tdvpr_pa = page_to_phys(t->vp.tdvpr_page);
	if (alloc_pages_of(&t->vp.tdcx_pages, t->td.tdcx_nr_pages))
		return -ENOMEM;
	if (TRY(t, "VP.CREATE", tdh_vp_create(&t->td, &t->vp)))
		return -EIO;
	t->vp_given = true;
	for (n = 0; n < t->td.tdcx_nr_pages; n++) {
		if (TRY(t, "VP.ADDCX", tdh_vp_addcx(&t->vp, t->vp.tdcx_pages[n])))
			return -EIO;
		t->tdcx_given++;
	}
	return TRY(t, "VP.INIT", tdh_vp_init(&t->vp, 0, 0)) ? -EIO : 0;
}

static int build_tree(struct test_td *t)
{
	u64 err1, err2;
	int level;

	for (level = PG_LEVEL_512G; level > PG_LEVEL_4K; level--) {
		struct page *page = alloc_control_page();

		if (!page)
			return -ENOMEM;
		if (TRY(t, "SEPT.ADD", tdh_mem_sept_add(&t->td, 0, level, page, &err1, &err2))) {
			free_control_page(page);
			return -EIO;
		}
		t->sept[PG_LEVEL_512G - level] = page;
	}
	return 0;
}

/* The first page comes with what is in it, before the TD is finalized. */
static int add_first_page(struct test_td *t, struct page *source)
{
	struct page *page = alloc_control_page();
	u64 err1, err2;

	if (!page)
		return -ENOMEM;
	if (TRY(t, "PAGE.ADD", tdh_mem_page_add(&t->td, 0, page_to_pfn(page), source, &err1, &err2))) {
		free_control_page(page);
		return -EIO;
	}
	t->guest[0] = page;
	return 0;
}

/* A TD that is finalized, with S-EPT pages for its first 2 MiB and its first page; what is there when it fails is
 * taken down by td_teardown(). */
int td_build(struct test_td *t)
{
	const struct tdx_sys_info *info = tdx_get_sysinfo();
	u8 *params;
	u64 err;
	int n, result = -EIO;

	t->td.tdcs_nr_pages = info->td_ctrl.tdcs_base_size / PAGE_SIZE;
	t->td.tdcx_nr_pages = info->td_ctrl.tdvps_base_size / PAGE_SIZE - 1;
	t->hkid = tdx_guest_keyid_alloc();
	if (t->hkid < 0)
		return t->hkid;
	t->td.tdr_page = alloc_control_page();
	if (!t->td.tdr_page)
		return -ENOMEM;
	if (TRY(t, "MNG.CREATE", tdh_mng_create(&t->td, t->hkid))) {
		free_control_page(t->td.tdr_page);
		t->td.tdr_page = NULL;
		return -EIO;
	}
	if (TRY(t, "MNG.KEY.CONFIG", tdh_mng_key_config(&t->td)))
		return -EIO;
	if (alloc_pages_of(&t->td.tdcs_pages, t->td.tdcs_nr_pages))
		return -ENOMEM;
	for (n = 0; n < t->td.tdcs_nr_pages; n++) {
		if (TRY(t, "MNG.ADDCX", tdh_mng_addcx(&t->td, t->td.tdcs_pages[n])))
			return -EIO;
		t->tdcs_given++;
	}

	params = (u8 *)get_zeroed_page(GFP_KERNEL);
	if (!params)
		return -ENOMEM;
	fill_params(params);
	if (!TRY(t, "MNG.INIT", tdh_mng_init(&t->td, __pa(params), &err)))
		result = 0;
	if (!result)
		result = build_vcpu(t);
	if (!result)
		result = build_tree(t);
	if (!result)
		result = add_first_page(t, virt_to_page(params));
	free_page((unsigned long)params);
	if (result)
		return result;
	return TRY(t, "MR.FINALIZE", tdh_mr_finalize(&t->td)) ? -EIO : 0;
}

/* The caller has the page backed. */
int td_add_page(struct test_td *t, u64 gpa, struct page *page)
{
	u64 err1, err2;

	return TRY(t, "PAGE.AUG", tdh_mem_page_aug(&t->td, gpa, PG_LEVEL_4K, page_to_pfn(page),
						   &err1, &err2)) ? -EIO : 0;
}

int td_remove_page(struct test_td *t, u64 gpa, unsigned long pfn)
{
	u64 err1, err2;

	if (TRY(t, "RANGE.BLOCK", tdh_mem_range_block(&t->td, gpa, PG_LEVEL_4K, &err1, &err2)))
		return -EIO;
	if (TRY(t, "TRACK", tdh_mem_track(&t->td)))
		return -EIO;
	if (TRY(t, "PAGE.REMOVE", tdh_mem_page_remove(&t->td, gpa, PG_LEVEL_4K, &err1, &err2)))
		return -EIO;
	return TRY(t, "PAGE.WBINVD", tdh_phymem_page_wbinvd_hkid(t->hkid, pfn)) ? -EIO : 0;
}

/* Back to the allocator, when the module gives it up. */
static void reclaim(struct test_td *t, struct page *page)
{
	u64 type, owner, size;

	if (!page)
		return;
	if (TRY(t, "PAGE.RECLAIM", tdh_phymem_page_reclaim(page, &type, &owner, &size)))
		return;	/* it stays the module's */
	free_control_page(page);
}

/* The first ``given`` are the module's, the rest never were. */
static void reclaim_all(struct test_td *t, struct page **pages, int count, int given)
{
	int n;

	if (!pages)
		return;
	for (n = 0; n < count; n++) {
		if (n < given)
			reclaim(t, pages[n]);
		else
			free_control_page(pages[n]);
	}
	kfree(pages);
}

void td_teardown(struct test_td *t)
{
	u64 status;
	int n;

	if (t->td.tdr_page) {
		if (t->vp_given) {
			status = WHILE_BUSY(tdh_vp_flush(&t->vp));
			if ((status & CLASS_MASK) != NOT_ASSOCIATED)
				noted(t, "VP.FLUSH", status);
		}
		TRY(t, "MNG.VPFLUSHDONE", tdh_mng_vpflushdone(&t->td));
		status = WHILE_BUSY(tdh_phymem_cache_wb(false));
		while ((status & CLASS_MASK) == INTERRUPTED)
			status = WHILE_BUSY(tdh_phymem_cache_wb(true));
		noted(t, "PHYMEM.CACHE.WB", status);
		TRY(t, "MNG.KEY.FREEID", tdh_mng_key_freeid(&t->td));
		for (n = 0; n < TD_PAGES; n++)
			reclaim(t, t->guest[n]);
		for (n = 2; n >= 0; n--)
			reclaim(t, t->sept[n]);
		reclaim_all(t, t->vp.tdcx_pages, t->td.tdcx_nr_pages, t->tdcx_given);
		if (t->vp_given)
			reclaim(t, t->vp.tdvpr_page);
		else
			free_control_page(t->vp.tdvpr_page);
		reclaim_all(t, t->td.tdcs_pages, t->td.tdcs_nr_pages, t->tdcs_given);
		reclaim(t, t->td.tdr_page);
	}
	if (t->hkid >= 0)
		tdx_guest_keyid_free(t->hkid);
}
