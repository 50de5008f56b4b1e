/* One lock around every get and put: after host/designs/merged.py. */
#include "kernel.h"

atomic_t *dpamt_refcounts;
spinlock_t dpamt_lock;

static inline atomic_t *count_of(u64 pfn)
{
	return &dpamt_refcounts[pfn / 512];
}

int tdx_pamt_get(u64 pfn, void *cache)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = count_of(pfn);
	int error = alloc_pair(pair);
	u64 status;

	if (error)
		return error;
	spin_lock(&dpamt_lock);
	if (atomic_inc_not_zero(count)) {
		spin_unlock(&dpamt_lock);
		reset_and_free_pair(pair);
		return 0;
	}
	status = tdh_phymem_pamt_add(pfn, pair);
	if (WARN_ON_ONCE(status)) {
		spin_unlock(&dpamt_lock);
		reset_and_free_pair(pair);
		return -EIO;
	}
	atomic_set(count, 1);
	spin_unlock(&dpamt_lock);
	return 0;
}

void tdx_pamt_put(u64 pfn)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = count_of(pfn);

	spin_lock(&dpamt_lock);
	if (atomic_read(count) > 1) {
		atomic_dec(count);
		spin_unlock(&dpamt_lock);
		return;
	}
	if (WARN_ON_ONCE(tdh_phymem_pamt_remove(pfn, pair))) {
		spin_unlock(&dpamt_lock);
		return;
	}
	atomic_set(count, 0);
	spin_unlock(&dpamt_lock);
	reset_and_free_pair(pair);
}
