/* The count falls to 0 before the lock is taken: after host/designs/v2.py. */
#include "kernel.h"

atomic_t *pamt_refcounts;
spinlock_t pamt_lock;

static inline atomic_t *count_of(u64 pfn)
{
	return &pamt_refcounts[pfn / 512];
}

static int not_free(u64 status)
{
	return (status & 0xffffffff00000000ul) == TDX_HPA_RANGE_NOT_FREE;
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
		if (!status || not_free(status))
			atomic_set(count, 1);
	}
	spin_unlock(&pamt_lock);
	if (seen || status)
		free_pair(pair);
	if (status && !not_free(status)) {
		_printk("PAMT.ADD failed\n");
		return -EIO;
	}
	return 0;
}

void tdx_pamt_put(u64 pfn)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = count_of(pfn);

	if (!atomic_dec_and_test(count))
		return;
	spin_lock(&pamt_lock);
	if (atomic_read(count)) {
		spin_unlock(&pamt_lock);
		return;
	}
	if (tdh_phymem_pamt_remove(pfn, pair)) {
		atomic_inc(count);
		spin_unlock(&pamt_lock);
		_printk("PAMT.REMOVE failed\n");
		return;
	}
	spin_unlock(&pamt_lock);
	free_pair(pair);
}
