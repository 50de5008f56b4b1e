/* Counts and pairs under read, collisions settled under write: after host/designs/global_rwlock.py. */
#include "kernel.h"

typedef struct { u64 word; } rwlock_t;

extern void _raw_read_lock(rwlock_t *lock);
extern void _raw_read_unlock(rwlock_t *lock);
extern void _raw_write_lock(rwlock_t *lock);
extern void _raw_write_unlock(rwlock_t *lock);

atomic_t *pamt_refcounts;
rwlock_t pamt_rwlock;

#define TDX_OPERAND_BUSY 0x8000020000000000ul

static int is(u64 status, u64 code)
{
	return (status & 0xffffffff00000000ul) == code;
}

int tdx_pamt_get(u64 pfn, void *cache)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = &pamt_refcounts[pfn / 512];
	int raised, error = alloc_pair(pair);
	u64 status = 0;

	if (error)
		return error;
	_raw_read_lock(&pamt_rwlock);
	raised = atomic_inc_not_zero(count);
	if (!raised) {
		status = tdh_phymem_pamt_add(pfn, pair);
		if (!status)
			atomic_set(count, 1);
	}
	_raw_read_unlock(&pamt_rwlock);
	if (is(status, TDX_OPERAND_BUSY) || is(status, TDX_HPA_RANGE_NOT_FREE)) {
		status = 0;
		_raw_write_lock(&pamt_rwlock);
		raised = atomic_inc_not_zero(count);
		if (!raised) {
			status = tdh_phymem_pamt_add(pfn, pair);
			if (!status)
				atomic_set(count, 1);
		}
		_raw_write_unlock(&pamt_rwlock);
	}
	WARN_ON_ONCE(status);
	if (raised || status)
		free_pair(pair);
	return status ? -EIO : 0;
}

void tdx_pamt_put(u64 pfn)
{
	struct page *pair[2] = { NULL, NULL };
	atomic_t *count = &pamt_refcounts[pfn / 512];
	u64 status;

	_raw_read_lock(&pamt_rwlock);
	if (!atomic_dec_and_test(count)) {
		_raw_read_unlock(&pamt_rwlock);
		return;
	}
	status = tdh_phymem_pamt_remove(pfn, pair);
	if (status)
		atomic_set(count, 1);
	_raw_read_unlock(&pamt_rwlock);
	if (is(status, TDX_OPERAND_BUSY)) {
		_raw_write_lock(&pamt_rwlock);
		if (!atomic_dec_and_test(count)) {
			_raw_write_unlock(&pamt_rwlock);
			return;
		}
		status = tdh_phymem_pamt_remove(pfn, pair);
		if (status)
			atomic_set(count, 1);
		_raw_write_unlock(&pamt_rwlock);
	}
	if (status) {
		WARN_ON_ONCE(1);
		return;
	}
	reset_and_free_pair(pair);
}
