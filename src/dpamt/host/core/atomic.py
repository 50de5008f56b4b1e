"""Helpers of the kernel over a counter and a lock together.

Source: Linux lib/dec_and_lock.c.
"""

from dpamt.sync import SpinLock, Word


def atomic_dec_and_lock(counter: Word, lock: SpinLock) -> bool:
    """Lower the counter; True, with the lock held, when it is 0 now, else False and not held.

    Only with the lock held does it go from 1 to 0.
    """
    lowered = counter.add_unless(-1, 1)
    if lowered:
        return False
    lock.lock()
    count = counter.add(-1)
    if not count:
        return True
    lock.unlock()
    return False
