"""Faults and zaps in bulk leave the machine as they do page by page, in every design."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.tdx_errno import EIO
from dpamt.host.kvm.bulk import fault_in_run
from dpamt.host.kvm.mmu import RET_PF_RETRY, kvm_tdp_mmu_page_fault
from dpamt.host.kvm.vm import Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.module.bulk import ModuleBulk
from tests.host.rig import ALL_DESIGNS, Host, booted, fault, make_td

GUEST_PAGES = 4 * PAGES_PER_2M


class Twin:
    """A host with a TD that may run."""

    def __init__(self, design: str, huge: bool, fragmentation: float, bulk: bool) -> None:
        self.host: Host = booted(design, 256)
        self.host.allocator.fragment(fragmentation)
        self.vm: Vm = make_td(self.host, GUEST_PAGES * 4 // 1024, huge=huge)
        self.bulk = ModuleBulk(self.host.module.processor(0))
        if bulk:
            self.host.cpu.bulk = self.bulk

    def state(self) -> object:
        """Everything that can be seen, and what the next allocations will be."""
        host, vcpu = self.host, self.vm.vcpus[0]
        allocator = host.allocator
        return (
            host.shared.snapshot(),
            allocator.snapshot(),
            allocator.allocations,
            allocator.shortages,
            tuple(allocator._front),
            frozenset(allocator._held),
            tuple(vcpu.pamt_cache.pages),
            tuple(vcpu.sept_cache),
            tuple(host.log),
            host.memory.resident_pages,
        )

    def fault_pages(self, gfn: int, pages: int) -> int:
        """Fault, in bulk where that works; how many of them did."""
        end, in_bulk = min(gfn + pages, GUEST_PAGES), 0
        vcpu, cpu = self.vm.vcpus[0], self.host.cpu
        while gfn < end:
            done = 0
            if cpu.bulk is not None:
                cpu.running_vcpu = vcpu
                done = fault_in_run(self.vm, vcpu, cpu, cpu.bulk, gfn, end - gfn)
                cpu.running_vcpu = None
                assert done >= 0
            if not done:
                fault(self.host, self.vm, gfn << PAGE_SHIFT)
                done = 1
            else:
                in_bulk += done
            gfn += done
        return in_bulk


steps = st.tuples(
    st.sampled_from(("fault", "fault", "hole", "empty", "fault 2M", "fail", "shared")),
    st.sampled_from((0, 1, 100, PAGES_PER_2M - 3, PAGES_PER_2M, 3 * PAGES_PER_2M - 60)),
    st.sampled_from((1, 2, 63, 200, PAGES_PER_2M, PAGES_PER_2M + 5)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ALL_DESIGNS),
    st.booleans(),
    st.sampled_from((0.0, 1.0)),
    st.lists(steps, max_size=6),
)
def test_bulk_is_page_by_page(
    design: str, huge: bool, fragmentation: float, script: list[tuple[str, int, int]]
) -> None:
    one, other = (Twin(design, huge, fragmentation, bulk) for bulk in (True, False))
    for what, gfn, pages in script:
        for twin in (one, other):
            apply(twin, what, gfn, pages)
        assert one.state() == other.state(), (what, gfn, pages)
    for twin in (one, other):
        twin.host.allocator.fail_when = None
        kvm_gmem_punch_hole(twin.vm, twin.host.cpu, 0, GUEST_PAGES << PAGE_SHIFT)
        assert twin.host.audit(idle=False) == []
    assert one.state() == other.state()


def apply(twin: Twin, what: str, gfn: int, pages: int) -> None:
    """One step of a script."""
    vm, cpu = twin.vm, twin.host.cpu
    if what == "fault":
        twin.fault_pages(gfn, pages)
    elif what == "hole":
        count = min(pages, GUEST_PAGES - gfn)
        assert kvm_gmem_punch_hole(vm, cpu, gfn << PAGE_SHIFT, count << PAGE_SHIFT) == 0
    elif what == "empty":  # S-EPT pages stay
        assert kvm_gmem_punch_hole(vm, cpu, 0, GUEST_PAGES << PAGE_SHIFT) == 0
    elif what == "fault 2M":
        fault(twin.host, vm, gfn << PAGE_SHIFT, 1)
    elif what == "fail":
        twin.host.allocator.fail_when = lambda site, ordinal: ordinal % 97 == pages % 97
        cpu.running_vcpu = vm.vcpus[0]
        kvm_tdp_mmu_page_fault(vm, vm.vcpus[0], cpu, gfn << PAGE_SHIFT, 0, 0)
        cpu.running_vcpu = None
        twin.host.allocator.fail_when = None
    else:
        shared = vm.shared_counts.at(gfn // PAGES_PER_2M)
        shared.store(1 - shared.load())


@pytest.mark.parametrize("design", ALL_DESIGNS)
@pytest.mark.parametrize("huge", [False, True])
def test_most_of_it_goes_in_bulk(design: str, huge: bool) -> None:
    """With folios all but the page that brings the upper S-EPT pages; else more, at each pair."""
    twin = Twin(design, huge, 0.0, True)
    in_bulk = twin.fault_pages(0, GUEST_PAGES)
    assert in_bulk >= GUEST_PAGES - (4 if huge else 40)
    assert twin.host.audit(idle=False) == []
    kvm_gmem_punch_hole(twin.vm, twin.host.cpu, 0, GUEST_PAGES << PAGE_SHIFT)
    assert twin.host.audit(idle=False) == []


@pytest.mark.parametrize("design", ["merged", "v2"])
def test_it_is_not_used_where_something_is_held(design: str) -> None:
    twin = Twin(design, True, 0.0, True)
    twin.fault_pages(0, 3)
    kernel, vm, cpu, vcpu = twin.host.kernel, twin.vm, twin.host.cpu, twin.vm.vcpus[0]
    cpu.running_vcpu = vcpu
    for lock in (kernel.pamt_lock, vm.mmu_lock):
        take = getattr(lock, "lock", None) or lock.read_lock  # type: ignore[union-attr]
        give = getattr(lock, "unlock", None) or lock.read_unlock  # type: ignore[union-attr]
        take()
        before = twin.state()
        assert fault_in_run(vm, vcpu, cpu, twin.bulk, 3, 9) == 0
        assert twin.state() == before
        give()
    vm.invalidate.add(1)
    assert fault_in_run(vm, vcpu, cpu, twin.bulk, 3, 9) == 0
    vm.invalidate.add(-1)
    cpu.running_vcpu = None
    assert fault_in_run(vm, vcpu, cpu, twin.bulk, 3, 9) == 0
    cpu.running_vcpu = vcpu
    assert fault_in_run(vm, vcpu, cpu, twin.bulk, 3, 9) == 9


def test_a_design_of_the_users_goes_page_by_page() -> None:
    twin = Twin("merged", True, 0.0, True)
    kernel = twin.host.kernel
    shipped = kernel.tdx_pamt_get
    kernel.tdx_pamt_get = lambda kernel, cpu, pfn, cache: shipped(kernel, cpu, pfn, cache)
    assert twin.fault_pages(0, 40) == 0
    kernel.tdx_pamt_get = shipped
    assert twin.fault_pages(40, 40) == 40


@pytest.mark.parametrize("design", ["merged", "v2"])
@pytest.mark.parametrize("huge", [False, True])
def test_a_folio_and_its_pair_come_in_bulk(design: str, huge: bool) -> None:
    one, other = Twin(design, huge, 0.0, True), Twin(design, huge, 0.0, False)
    for twin in (one, other):
        twin.fault_pages(0, PAGES_PER_2M)
        kvm_gmem_punch_hole(twin.vm, twin.host.cpu, 0, PAGES_PER_2M << PAGE_SHIFT)
    in_bulk = one.fault_pages(0, PAGES_PER_2M)
    assert in_bulk == PAGES_PER_2M if huge else in_bulk < PAGES_PER_2M
    other.fault_pages(0, PAGES_PER_2M)
    assert one.state() == other.state()


@pytest.mark.parametrize("design", ["merged", "v2"])
@pytest.mark.parametrize("what", ["pair", "page"])
def test_a_first_page_that_the_module_refuses_is_one_fault(design: str, what: str) -> None:
    """Another CPU holds what PAMT.ADD, or the AUG after it, needs: no second try, nothing left."""
    results, states = [], []
    for in_bulk in (True, False):
        twin = Twin(design, True, 0.0, in_bulk)
        twin.fault_pages(0, 1)
        kvm_gmem_punch_hole(twin.vm, twin.host.cpu, 0, PAGES_PER_2M << PAGE_SHIFT)
        pairs = twin.host.kernel.pamt_pairs.load()
        lp, vm, cpu = twin.host.module.processor(1), twin.vm, twin.host.cpu
        pfn, level = vm.gmem.get_pfn(0)
        assert level == LEVEL_2M
        region = lp.pamt.find_region(pfn // PAGES_PER_2M)
        assert region is not None
        lock = region.top if what == "pair" else lp.tds.at(vm.tdr).tree
        assert lock.try_exclusive() == 0
        cpu.running_vcpu = vm.vcpus[0]
        if in_bulk:
            results.append(fault_in_run(vm, vm.vcpus[0], cpu, twin.bulk, 0, PAGES_PER_2M))
        else:
            results.append(kvm_tdp_mmu_page_fault(vm, vm.vcpus[0], cpu, 0, 0, 0))
        cpu.running_vcpu = None
        lock.release_exclusive()
        states.append(twin.state())
        assert twin.host.kernel.pamt_pairs.load() == pairs
    assert results == ([0, RET_PF_RETRY] if what == "page" else [-EIO, -EIO])
    assert states[0] == states[1]
