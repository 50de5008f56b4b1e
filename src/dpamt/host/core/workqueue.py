"""Work for later, of designs: items that wait for the kernel's worker, or for an RCU callback.

An item is a number of the design's, such as a region.  It is queued once at a time: queued again
before the worker has begun it, nothing more happens; queued while the worker is at it, it is done
again.  The worker is a thread of its own, in task context, that may run at any time beside all
others; it takes all that waits.  A plain run lets it work where nothing else runs.

With :func:`call_rcu` the items are done in softirq context instead: nothing there may sleep, and a
lock that is taken there must be taken with softirqs off elsewhere.  RCU's readers are not modelled,
so neither is their grace period: a callback may run at any time after it was asked for.

Source: Linux kernel/workqueue.c (queue_work_on, process_one_work: PENDING is cleared before the
function is called); lib/llist.c for the list.
"""

from dpamt.host.core.kernel import Cpu, Kernel


def queue_work(kernel: Kernel, item: int) -> bool:
    """Have ``tdx_pamt_work`` called for the item; False when it waits already."""
    pending = kernel.work_pending.at(item)
    was = pending.xchg(1)
    if was:
        return False
    head = kernel.work_head
    following = kernel.work_next.at(item)
    pushed = False
    while not pushed:
        first = head.load()
        following.store(first)
        pushed = head.compare_and_swap(first, item + 1)
    return True


def call_rcu(kernel: Kernel, item: int) -> bool:
    """Have ``tdx_pamt_work`` called in softirq context; False when the item waits already."""
    return queue_work(kernel, item)


def run_work(kernel: Kernel, cpu: Cpu) -> None:
    """The worker does what waits, latest first; what is queued meanwhile waits on."""
    work = kernel.design.tdx_pamt_work
    if work is None:
        return
    following = kernel.work_head.xchg(0)
    while following:
        item = following - 1
        following = kernel.work_next.at(item).load()
        pending = kernel.work_pending.at(item)
        pending.store(0)
        work(kernel, cpu, item)
