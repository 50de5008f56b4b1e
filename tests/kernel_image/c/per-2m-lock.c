/* As merged, under a lock for each 2M region: after host/designs/per_2m_lock.py. */
#include "kernel.h"

#define REGIONS 1024

atomic_t pamt_refcounts[REGIONS];
static spinlock_t pamt_region_locks[REGIONS];

int tdx_pamt_get(u64 pfn, void *cache)
{
	spinlock_t *lock = &pamt_region_locks[pfn / 512];
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = &pamt_refcounts[pfn / 512];
	int seen, error = alloc_pair(pair);
	u64 status = 0;

	if (error)
		return error;
	spin_lock(lock);
	seen = atomic_read(count);
	if (!seen)
		status = tdh_phymem_pamt_add(pfn, pair);
	if (!status)
		atomic_set(count, seen + 1);
	spin_unlock(lock);
	WARN_ON_ONCE(status);
	if (seen || status)
		free_pair(pair);
	return status ? -EIO : 0;
}

void tdx_pamt_put(u64 pfn)
{
	spinlock_t *lock = &pamt_region_locks[pfn / 512];
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = &pamt_refcounts[pfn / 512];
	int seen;

	spin_lock(lock);
	seen = atomic_read(count);
	if (seen > 1) {
		atomic_set(count, seen - 1);
		spin_unlock(lock);
		return;
	}
	if (tdh_phymem_pamt_remove(pfn, pair)) {
		spin_unlock(lock);
		WARN_ON_ONCE(1);
		return;
	}
	atomic_set(count, 0);
	spin_unlock(lock);
	reset_and_free_pair(pair);
}
