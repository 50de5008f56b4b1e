"""Runs of pages in a run: the bulk wall, counted, and faults of a guest taken ahead.

A guest that accepts page after page leaves the TD at each one that is not there, and comes back
when it is.  Taking many of these turns at once needs all who have a part in them: the host maps
the pages, the module accepts them, the guest goes on behind them, and the calls are counted.
"""

from collections.abc import Callable, Sequence

from dpamt.abi.exits import EXIT_REASON_EPT_VIOLATION
from dpamt.abi.leaves import (
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_TRACK,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_VP_ENTER,
)
from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.kvm.bulk import WORTH_IT, fault_in_run
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.module.bulk import ModuleBulk
from dpamt.run.counter import SeamcallCounter
from dpamt.run.guest_program import LazyGuest


class CountedBulk:
    """The bulk calls of a logical processor, counted as the SEAMCALLs that they stand for."""

    def __init__(self, calls: ModuleBulk, counter: SeamcallCounter) -> None:
        self.calls = calls
        self.counter = counter

    def _count(self, done: int, *leaves: int) -> int:
        if done:
            for leaf in leaves:
                self.counter.add(leaf, 0, done)
        return done

    def page_add(self, tdr: int, gfn: int, pages: Sequence[int], source: int) -> int:
        """MEM.PAGE.ADD of each page."""
        return self._count(self.calls.page_add(tdr, gfn, pages, source), TDH_MEM_PAGE_ADD)

    def page_aug(self, tdr: int, gfn: int, pages: Sequence[int]) -> int:
        """MEM.PAGE.AUG of each 4K page."""
        return self._count(self.calls.page_aug(tdr, gfn, pages), TDH_MEM_PAGE_AUG)

    def page_block(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.RANGE.BLOCK of each 4K page."""
        return self._count(self.calls.page_block(tdr, gfn, count), TDH_MEM_RANGE_BLOCK)

    def page_remove(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.PAGE.REMOVE of each 4K page."""
        return self._count(self.calls.page_remove(tdr, gfn, count), TDH_MEM_PAGE_REMOVE)

    def page_zap(self, tdr: int, gfn: int, count: int, track: bool) -> int:
        """For each 4K page RANGE.BLOCK, MEM.TRACK if ``track``, PAGE.REMOVE and PAGE.WBINVD."""
        tracks = (TDH_MEM_TRACK,) if track else ()
        return self._count(
            self.calls.page_zap(tdr, gfn, count, track),
            TDH_MEM_RANGE_BLOCK,
            *tracks,
            TDH_MEM_PAGE_REMOVE,
            TDH_PHYMEM_PAGE_WBINVD,
        )


def faults_ahead(guest: LazyGuest) -> Callable[[Vm, Vcpu, Cpu, int], int]:
    """What :attr:`dpamt.host.kvm.vm.Vcpu.faults_ahead` is for a VCPU that runs ``guest``."""

    def ahead(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int) -> int:
        bulk, gfn = cpu.bulk, gpa >> PAGE_SHIFT
        if not isinstance(bulk, CountedBulk):
            return 0
        most = min(guest.accepts_from(gpa), PAGES_PER_2M - gfn % PAGES_PER_2M)
        # The last one stays: the guest leaves at it again, as it did at the first.
        pages = bulk.calls.free_entries(vm.tdr, gfn, most) - 1
        waiting = vm.wait_for_sept_zap.load()
        bugged = vm.bugged.load()
        signal = vcpu.signal_pending.load()
        if pages < WORTH_IT or waiting or bugged or signal:
            return 0
        done = fault_in_run(vm, vcpu, cpu, bulk, gfn, pages)
        if done > 0:
            bulk.calls.page_accept(vm.tdr, gfn, done)
            bulk.counter.add(TDH_VP_ENTER, EXIT_REASON_EPT_VIOLATION, done)
            guest.accepted(done)
        return done

    return ahead
