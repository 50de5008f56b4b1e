"""Zapping ranges of a TD, against a plain table of what is mapped, at every page size."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_PHYMEM_PAGE_WBINVD,
)
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SIZE, PAGES_PER_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.kvm.mirror import LEAF, PFN_SHIFT, PRESENT
from dpamt.host.kvm.vm import Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole, kvm_gmem_release, tdp_mmu_zap_range
from tests.host.rig import Host, booted, fault, make_td

MIB = 16
PAGES = MIB * 256
ERROR = 0xC000_0B00_0000_0001
BUSY = 0x8000_0200_0000_0001


@dataclass
class Mapped:
    """A TD with a 2M page at range 1 and 2, and 4K pages in ranges 0 and 4; page to frame."""

    host: Host
    vm: Vm
    small: dict[int, int]
    large: dict[int, int]

    def still_small(self) -> dict[int, int]:
        entries = dict(self.vm.mirror[LEVEL_4K].non_zero())
        return {gfn: word >> PFN_SHIFT for gfn, word in entries.items()}

    def still_large(self) -> dict[int, int]:
        entries = dict(self.vm.mirror[LEVEL_2M].non_zero())
        return {at: word >> PFN_SHIFT for at, word in entries.items() if word & LEAF}

    def is_free(self, pfn: int) -> bool:
        return self.host.allocator.is_free(pfn)


SMALL = (0, 1, 7, 511, 4 * 512, 4 * 512 + 5)


def mapped(huge: bool = True) -> Mapped:
    host = booted("merged", 96)
    vm = make_td(host, MIB, huge=huge)
    for gfn in SMALL:
        assert fault(host, vm, gfn * PAGE_SIZE, LEVEL_4K) in (0, 1)
    for at in (1, 2):
        assert fault(host, vm, at * PAGES_PER_2M * PAGE_SIZE, LEVEL_2M) in (0, 1)
    made = Mapped(host, vm, {}, {})
    made.small, made.large = made.still_small(), made.still_large()
    assert set(made.small) >= set(SMALL) or not huge
    return made


def refusing(host: Host, leaf: int, status: int, times: int, first: int = 0) -> None:
    """The wall refuses some calls of that leaf."""
    for cpu in host.kernel.cpus:
        cpu.seamcall = _around(cpu.seamcall, leaf, status, first, first + times)


def _around(
    call: Callable[[int, TdxModuleArgs], int], leaf: int, status: int, first: int, end: int
) -> Callable[[int, TdxModuleArgs], int]:
    made = 0

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        nonlocal made
        if rax & 0xFFFF != leaf:
            return call(rax, args)
        made += 1
        return status if first < made <= end else call(rax, args)

    return seamcall


BORDERS = st.integers(0, 6).map(lambda at: at * 512) | st.integers(0, 6 * 512)


@settings(max_examples=8, deadline=None)
@given(BORDERS, BORDERS)
@example(512, 1024)
@example(0, 511)
@example(511, 1025)
@example(600, 1536)
@example(0, 5 * 512)
def test_a_hole_takes_what_is_in_it_and_nothing_else(one: int, other: int) -> None:
    first, end = sorted((one, other))
    made = mapped()
    vm, host = made.vm, made.host
    assert kvm_gmem_punch_hole(vm, host.cpu, first * PAGE_SIZE, (end - first) * PAGE_SIZE) == 0
    backing: dict[int, int] = dict(made.small)
    for at, base in made.large.items():
        backing |= {at * 512 + slot: base + slot for slot in range(512)}
    left = made.still_small()
    for at, base in made.still_large().items():
        left |= {at * 512 + slot: base + slot for slot in range(512)}
    assert left == {gfn: pfn for gfn, pfn in backing.items() if not first <= gfn < end}
    words = [made.vm.mirror[LEVEL_4K].at(gfn).load() for gfn in range(first, end)]
    assert all(word == 0 for word in words)
    # A folio goes back when none of its pages is left; else its punched pages are marked.
    punched = set()
    for at, pfn in {
        0: made.small[0],
        1: made.large[1],
        2: made.large[2],
        4: made.small[4 * 512],
    }.items():
        inside = set(range(max(first, at * 512), min(end, at * 512 + 512)))
        assert made.is_free(pfn) == (len(inside) == 512)
        punched |= inside if len(inside) < 512 else set()
    assert {gfn for gfn, _ in vm.gmem.punched.non_zero()} == punched
    assert vm.bugged.load() == 0
    assert host.audit(idle=False) == []
    # Every page of the hole can come back, and is then mapped as any other.
    for gfn in sorted({first, (first + end) // 2}):
        if gfn < PAGES:
            assert fault(host, vm, gfn * PAGE_SIZE) in (0, 1, 2)  # 2: it is there
            assert made.vm.mirror[LEVEL_4K].at(gfn).load() & PRESENT or made.still_large()
    assert host.audit(idle=False) == []


def test_a_hole_off_page_borders_or_beyond_the_end_is_refused() -> None:
    made = mapped()
    vm, cpu = made.vm, made.host.cpu
    memory = MIB << 20
    for gpa, size in (
        (1, PAGE_SIZE),
        (0, 1),
        (2048, 4096),
        (0, memory + PAGE_SIZE),
        (memory, 4096),
    ):
        assert kvm_gmem_punch_hole(vm, cpu, gpa, size) == -22
    assert (made.still_small(), made.still_large()) == (made.small, made.large)
    assert vm.invalidate.load() == 0
    assert kvm_gmem_punch_hole(vm, cpu, memory - PAGE_SIZE, PAGE_SIZE) == 0
    assert kvm_gmem_punch_hole(vm, cpu, 0, memory) == 0
    assert (made.still_small(), made.still_large()) == ({}, {})
    assert vm.invalidate.load() % 1024 == 0
    assert vm.invalidate.load() > 0


def test_a_hole_whose_split_fails_changes_nothing() -> None:
    made = mapped()
    refusing(made.host, TDH_MEM_PAGE_DEMOTE, ERROR, 9)
    middle = (512 + 100) * PAGE_SIZE
    assert kvm_gmem_punch_hole(made.vm, made.host.cpu, middle, 50 * PAGE_SIZE) == -5
    assert made.still_large().keys() == made.large.keys()
    assert made.vm.invalidate.load() % 1024 == 0
    assert all(not made.is_free(base) for base in made.large.values())


@pytest.mark.parametrize("leaf", [TDH_MEM_RANGE_BLOCK, TDH_MEM_PAGE_REMOVE, TDH_PHYMEM_PAGE_WBINVD])
@pytest.mark.parametrize("huge", [False, True])
def test_what_the_module_keeps_is_never_anybody_elses(leaf: int, huge: bool) -> None:
    """The one page whose zap fails is lost, the others of the hole are free."""
    made = mapped(huge)
    host, vm = made.host, made.vm
    small, large = sorted(made.small), sorted(made.large)
    for failing in range(len(small) + len(large)):
        made = mapped(huge)
        host, vm = made.host, made.vm
        order = sorted([*made.small, *(at * 512 for at in made.large)])
        gfn = order[failing]
        calls = [
            512 if leaf == TDH_PHYMEM_PAGE_WBINVD and g not in made.small else 1 for g in order
        ]
        refusing(host, leaf, ERROR, 1, sum(calls[:failing]))
        kvm_gmem_release(vm, host.cpu)
        assert vm.bugged.load()
        assert (made.still_small(), made.still_large()) == ({}, {})
        lost = {made.small[gfn]} if gfn in made.small else set()
        if not lost:
            base = made.large[gfn // 512]
            lost = set(range(base, base + 512))
        if huge:  # a folio is lost whole
            lost = {page for pfn in lost for page in range(pfn & ~511, (pfn & ~511) + 512)}
        taken = {*made.small.values()}
        for base in made.large.values():
            taken |= set(range(base, base + 512))
        for pfn in sorted(taken):
            assert made.is_free(pfn) == (pfn not in lost), (gfn, hex(pfn))
        assert vm.invalidate.load() % 1024 == 0


def test_a_large_page_that_reaches_across_an_end_is_a_bug_of_the_caller() -> None:
    for first, end in ((513, 1024), (512, 1023), (600, 700)):
        made = mapped()
        made.vm.mmu_lock.write_lock()
        tdp_mmu_zap_range(made.vm, made.host.cpu, first, end)
        made.vm.mmu_lock.write_unlock()
        assert made.vm.bugged.load()
        assert "2M leaf at page 0x200 crosses the zapped range" in made.host.log[-1]
        assert made.still_large() == made.large
        assert made.still_small() == made.small


def test_a_busy_zap_is_tried_again_and_loses_nothing() -> None:
    made = mapped()
    refusing(made.host, TDH_MEM_PAGE_REMOVE, BUSY, 1)
    kvm_gmem_release(made.vm, made.host.cpu)
    assert made.vm.bugged.load() == 0
    assert all(made.is_free(pfn) for pfn in (*made.small.values(), *made.large.values()))
