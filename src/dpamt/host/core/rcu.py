"""Freeing S-EPT pages from RCU callbacks: a list for each CPU, run in its softirq context.

A softirq interrupts the task of its CPU wherever softirqs are enabled, locks held or not, and the
task goes on only after it: a spinlock that both take is a self-deadlock (lockdep report of Y. Zhao,
2026-02-06).  A plain run takes it at a quiescent point, where the task holds none.

Source: `[RFC PATCH v5 00/45] TDX: Dynamic PAMT + S-EPT Hugepage` (2026-01-28); Linux
arch/x86/kvm/mmu/tdp_mmu.c (tdp_mmu_free_sp_rcu_callback), lib/llist.c for the list.
"""

from dpamt.host.core.kernel import Cpu, Kernel


def call_rcu(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The S-EPT page is put and freed when nobody reads it any more."""
    head = kernel.rcu_heads.at(cpu.index)
    following = kernel.rcu_next.at(pfn)
    pushed = False
    while not pushed:
        first = head.load()
        following.store(first)
        pushed = head.compare_and_swap(first, pfn)


def rcu_softirq(kernel: Kernel, cpu: Cpu) -> None:
    """The callbacks of this CPU, latest first."""
    head = kernel.rcu_heads.at(cpu.index)
    pfn = head.load()
    while pfn:
        following = kernel.rcu_next.at(pfn)
        after = following.load()
        head.store(after)
        following.store(0)
        kernel.tdx_pamt_put(kernel, cpu, pfn)
        kernel.allocator.free_page(pfn)
        pfn = head.load()
