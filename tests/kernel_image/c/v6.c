/* The count goes from 1 to 0 with the lock held: after host/designs/v6.py. */
#include "kernel.h"

atomic_t *pamt_refcounts;
spinlock_t pamt_lock;

static inline atomic_t *count_of(u64 pfn)
{
	return &pamt_refcounts[pfn / 512];
}

int tdx_pamt_get(u64 pfn, void *cache)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = count_of(pfn);
	u64 status = 0;
	int seen, error;

	if (atomic_inc_not_zero(count))
		return 0;
	error = alloc_pair(pair);
	if (error)
		return error;
	spin_lock(&pamt_lock);
	seen = atomic_read(count);
	if (seen) {
		atomic_inc(count);
	} else {
		status = tdh_phymem_pamt_add(pfn, pair);
		if (!status)
			atomic_set(count, 1);
	}
	spin_unlock(&pamt_lock);
	WARN_ON_ONCE(status);
	if (seen || status)
		free_pair(pair);
	return status ? -EIO : 0;
}

void tdx_pamt_put(u64 pfn)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = count_of(pfn);

	if (!atomic_dec_and_lock(count, &pamt_lock))
		return;
	if (tdh_phymem_pamt_remove(pfn, pair)) {
		atomic_set(count, 1);
		spin_unlock(&pamt_lock);
		WARN_ON_ONCE(1);
		return;
	}
	spin_unlock(&pamt_lock);
	reset_and_free_pair(pair);
}
