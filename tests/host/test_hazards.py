"""Hazards that one CPU at a time can show: in the designs of the table, and in no other."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
)
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY, TDX_OPERAND_INVALID
from dpamt.host.core.kernel import KernelBehaviour, KernelOops
from dpamt.host.core.page_cache import SITE_PAIR
from dpamt.host.core.rcu import rcu_softirq
from dpamt.host.core.seamcall import tdh_phymem_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM
from dpamt.host.designs.hazards import BY_ID, HAZARDS
from dpamt.host.designs.load import SHIPPED
from dpamt.host.kvm.legacy import LegacyVm, legacy_vcpu_fault
from dpamt.host.kvm.mmu import mmu_topup_memory_caches
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Cmr, Machine, MemoryBlock
from dpamt.platform.page_allocator import PageAllocator
from dpamt.sync import Deadlock
from tests.host.rig import Host, booted, fault, make_td, small_machine
from tests.host.test_init import OLDER
from tests.host.test_refusals import refuse

DYNAMIC = tuple(name for name in SHIPPED if name != "static")
COUNTED = tuple(name for name in DYNAMIC if name != "lazy")
EVERY_DYNAMIC_DESIGN = pytest.mark.parametrize("design", DYNAMIC)
EVERY_COUNTED_DESIGN = pytest.mark.parametrize("design", COUNTED)

PFN = 0x1234
REGION = PFN >> 9


def has(hazard: str, design: str) -> bool:
    """Whether the table says so."""
    return design in BY_ID[hazard].designs


def get(host: Host, pfn: int = PFN) -> int:
    return host.kernel.tdx_pamt_get(host.kernel, host.cpu, pfn, None)


def put(host: Host, pfn: int = PFN) -> None:
    host.kernel.tdx_pamt_put(host.kernel, host.cpu, pfn)


def count(host: Host, region: int = REGION) -> int:
    return host.kernel.pamt_refcounts.at(region).load()


def has_pair(host: Host, region: int = REGION) -> bool:
    return region in ModuleView(host.module).pairs()


def test_the_table_is_whole_and_names_designs() -> None:
    expected = [f"H{number}" for number in range(1, 43)] + [f"L{number}" for number in range(1, 5)]
    at = expected.index("H7") + 1
    expected[at:at] = ["H7b", "H7c"]
    assert [hazard.id for hazard in HAZARDS] == expected
    for hazard in HAZARDS:
        assert set(hazard.designs) <= set(DYNAMIC), hazard.id
        assert hazard.fixed_in in ("", *DYNAMIC), hazard.id
        assert hazard.fixed_in not in hazard.designs, hazard.id
        assert hazard.designs or hazard.note, hazard.id
        if hazard.fixed_in and hazard.fixed_in in COUNTED:
            later = DYNAMIC[DYNAMIC.index(hazard.fixed_in) : DYNAMIC.index("merged") + 1]
            assert not set(hazard.designs) & set(later), hazard.id


@EVERY_COUNTED_DESIGN
def test_h6_a_failed_remove_forgets_the_pair(design: str) -> None:
    host = booted(design)
    assert get(host) == 0
    wall = refuse(host, TDH_PHYMEM_PAMT_REMOVE, 1, TDX_OPERAND_INVALID)
    put(host)
    assert has_pair(host)
    assert (count(host) == 0) == has("H6", design)
    told = "tdx.c at tdx_pamt_put" if design == "merged" else "PAMT.REMOVE"
    assert any(told in line for line in host.log)
    # The next get finds the pair, and where the count is 0 by the module's answer.
    before = wall.counts.get(TDH_PHYMEM_PAMT_ADD, 0)
    assert get(host) == 0
    assert wall.counts.get(TDH_PHYMEM_PAMT_ADD, 0) - before == has("H6", design)
    put(host)
    assert has_pair(host) == (not has("H6", design) and design != "v3-simple")


@EVERY_COUNTED_DESIGN
def test_h7_a_failed_add_is_success(design: str) -> None:
    host = booted(design)
    refuse(host, TDH_PHYMEM_PAMT_ADD, 1, TDX_OPERAND_INVALID)
    free = host.allocator.free_count
    assert get(host) == (0 if has("H7", design) else -EIO)
    assert (count(host), has_pair(host)) == (0, False)
    assert host.allocator.free_count == free
    if has("H7", design):
        put(host)
        assert count(host) == (0 if design == "v3-simple" else -1)


@EVERY_COUNTED_DESIGN
def test_h7_the_next_seamcall_meets_no_pair(design: str) -> None:
    host = booted(design)
    vm = make_td(host, mib=64)
    refuse(host, TDH_PHYMEM_PAMT_ADD, 10_000, TDX_OPERAND_INVALID)
    page, result = 0, 0
    while not result:
        result = fault(host, vm, page << 12)
        page += 1
    assert result == -EIO
    assert vm.bugged.load() == has("H7", design)
    missing = any("0x80000308" in line for line in host.log)
    assert missing == has("H7", design)


@EVERY_COUNTED_DESIGN
def test_h7b_the_first_put_removes_the_pair_of_two(design: str) -> None:
    host = booted(design)
    assert get(host) == get(host, PFN + 1) == 0
    assert count(host) == (1 if has("H7b", design) else 2)
    put(host)
    assert has_pair(host) != has("H7b", design)


@EVERY_COUNTED_DESIGN
def test_h7c_a_put_too_many(design: str) -> None:
    host = booted(design)
    put(host)
    assert count(host) == (-1 if has("H7c", design) else 0)


@EVERY_DYNAMIC_DESIGN
def test_h8_and_h9_an_older_module(design: str) -> None:
    host = Host(small_machine(), design, release=OLDER)
    # Before the memory list is whole nothing is freed; after it everything is.
    host.allocator.fail_when = lambda site, _ordinal: site == "TDMR array"
    if has("H8", design) or has("H9", design):
        expected = "populated" if has("H9", design) else "freed"
        with pytest.raises(KernelOops, match=expected):
            host.boot()
    else:
        assert host.boot() == -ENOMEM
        assert host.allocator.snapshot() == host.at_power_on
    if not has("H9", design):
        assert booted(design, release=OLDER).audit() == []


PARTIAL = (MemoryBlock(256, 1024 * 512 + 100),)
LONE = (MemoryBlock(256, 0x10000), MemoryBlock(0x80000, 0x80001))


@EVERY_COUNTED_DESIGN
@pytest.mark.parametrize("blocks", [PARTIAL, LONE], ids=["partial region", "lone page"])
def test_h10_a_page_without_a_counter(design: str, blocks: tuple[MemoryBlock, ...]) -> None:
    end = blocks[-1].end_pfn
    host = Host(Machine("edge", (Cmr(1 << 20, 3 << 30),), blocks, end), design)
    assert host.boot() == 0
    if has("H10", design):
        with pytest.raises(KernelOops):
            get(host, end - 1)
    else:
        assert get(host, end - 1) == 0
        put(host, end - 1)
        assert host.audit() == []


@EVERY_COUNTED_DESIGN
def test_h17_no_second_page(design: str) -> None:
    host = booted(design)
    host.allocator.fail_when = lambda site, _ordinal: site == SITE_PAIR[1]
    free = host.allocator.free_count
    assert get(host) == -ENOMEM
    assert free - host.allocator.free_count == has("H17", design)


@EVERY_DYNAMIC_DESIGN
def test_h18_a_vcpu_freed_before_its_init(design: str) -> None:
    host = booted(design)
    vm = Vm(host.kernel)
    assert tdx_td_init(vm, host.cpu) == 0
    assert isinstance(tdx_vcpu_create(vm), Vcpu)
    if has("H18", design):
        with pytest.raises(KernelOops, match="never initialised"):
            kvm_destroy_vm(vm, host.cpu)
    else:
        kvm_destroy_vm(vm, host.cpu)
        assert host.audit() == []


@EVERY_DYNAMIC_DESIGN
def test_h23_the_lock_around_demote(design: str) -> None:
    """Whether anything of the host keeps an ADD of the pair's region away during a DEMOTE."""
    host = booted(design)
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    call, state = host.cpu.seamcall, host.kernel.pamt
    kept_away: list[bool] = []

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax == TDH_MEM_PAGE_DEMOTE:
            pair_regions = {args.r12 >> 21, args.r13 >> 21}
            locks = state.region_rwlocks
            kept_away.append(
                state.lock.is_locked()
                or state.rwlock.is_locked()
                or pair_regions <= set(locks.held())
            )
        return call(rax, args)

    host.cpu.seamcall = seamcall
    assert kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M) == 0
    assert set(kept_away) == {not has("H23", design)}


def next_page(host: Host) -> int:
    """The page that the next allocation returns."""
    page = host.allocator.alloc_page("test")
    assert page is not None
    host.allocator.free_page(page)
    return page


def exhaust_regions(host: Host) -> None:
    """Allocate until the next page lies in a region without a pair."""
    pairs = ModuleView(host.module).pairs()
    while next_page(host) >> 9 in pairs:
        assert host.allocator.alloc_page("test") is not None


@EVERY_DYNAMIC_DESIGN
@pytest.mark.parametrize("backed", [False, True])
def test_h25_a_splits_s_ept_page(design: str, backed: bool) -> None:
    host = booted(design)
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    if not backed:
        exhaust_regions(host)
    result = kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M)
    if has("H25", design) and not backed:
        assert result == -EIO
        assert any("0x80000308" in line for line in host.log)
        return
    assert result == 0
    kvm_destroy_vm(vm, host.cpu)
    # Where the region has a pair the split goes well; its page is put without ever being counted.
    assert bool(host.audit(idle=False)) == has("H25", design)


@EVERY_DYNAMIC_DESIGN
def test_h27_a_softirq_while_the_lock_is_held(design: str) -> None:
    host = booted(design)
    vm = make_td(host)
    assert fault(host, vm, 0) == 0
    before = host.kernel.rcu_heads.at(0).load()
    call = host.cpu.seamcall
    interrupted: list[int] = []

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        waiting = host.kernel.rcu_heads.at(0).load()
        if host.kernel.pamt_lock.is_locked() and waiting:
            interrupted.append(waiting)
            rcu_softirq(host.kernel, host.cpu)
        return call(rax, args)

    host.cpu.seamcall = seamcall
    while count(host, next_page(host) >> 9) > 1:
        assert host.allocator.alloc_page("test") is not None
    if has("H27", design):
        with pytest.raises(Deadlock, match="pamt_lock taken while held"):
            destroy_and_get(host, vm)
        assert interrupted
    else:
        destroy_and_get(host, vm)
        assert not interrupted
    assert before == 0


def destroy_and_get(host: Host, vm: Vm) -> None:
    """A TD's end, with another page's get as soon as its S-EPT pages are reclaimed."""
    reclaim: list[int] = []
    head = host.kernel.rcu_heads.at(0)
    call = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if head.load() and not reclaim:
            reclaim.append(1)
            assert get(host, 0x3FE00) == 0
        return call(rax, args)

    host.cpu.seamcall = seamcall
    kvm_destroy_vm(vm, host.cpu)


@EVERY_DYNAMIC_DESIGN
def test_h28_waiting_pages_that_are_counted(design: str) -> None:
    host = booted(design)
    vm = make_td(host)
    before = sum(value for _, value in host.kernel.pamt_refcounts.non_zero())
    assert mmu_topup_memory_caches(host.kernel, host.cpu, vm.vcpus[0]) == 0
    after = sum(value for _, value in host.kernel.pamt_refcounts.non_zero())
    assert after - before == (40 if has("H28", design) else 0)
    assert host.audit(idle=False) == [] or design == "v3-simple"
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@EVERY_DYNAMIC_DESIGN
def test_h29_pairs_that_come_back_dirty(design: str) -> None:
    host = booted(design)
    vm = make_td(host)
    pairs = ModuleView(host.module).pairs()
    for pair in pairs.values():
        for page in pair[:2]:
            host.memory.write(page << 12, b"ciphertext")
    kvm_destroy_vm(vm, host.cpu)
    dirty = [
        page
        for pair in pairs.values()
        for page in pair[:2]
        if host.memory.read(page << 12, 10) == b"ciphertext"
    ]
    assert bool(dirty) == has("H29", design)


@EVERY_COUNTED_DESIGN
def test_h35_pages_taken_for_nothing(design: str) -> None:
    host = booted(design)
    assert get(host) == 0
    before = host.allocator.allocations
    assert get(host, PFN + 1) == 0
    assert host.allocator.allocations - before == (2 if has("H35", design) else 0)


@EVERY_DYNAMIC_DESIGN
def test_h38_pools_of_other_vms(design: str) -> None:
    host = booted(design)
    free = host.allocator.free_count
    assert legacy_vcpu_fault(LegacyVm(host.kernel, 1), 0) == 0
    assert (host.allocator.free_count < free) == has("H38", design)


@EVERY_COUNTED_DESIGN
def test_h42_pages_given_back_under_the_lock(design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = booted(design)
    refuse(host, TDH_PHYMEM_PAMT_ADD, 1, TDX_OPERAND_INVALID)
    free_page = PageAllocator.free_page
    held: list[bool] = []

    def watch(allocator: PageAllocator, pfn: int) -> None:
        locks = host.kernel.pamt
        held.append(
            locks.lock.is_locked()
            or locks.rwlock.is_locked()
            or any(locks.region_locks.held())
            or any(locks.region_rwlocks.held())
        )
        free_page(allocator, pfn)

    monkeypatch.setattr(PageAllocator, "free_page", watch)
    get(host)
    assert held == [has("H42", design)] * 2


def lazy_hooks(host: Host) -> tuple[Callable[[int], int], Callable[[int], None]]:
    missing, hint = host.kernel.design.tdx_pamt_missing, host.kernel.design.tdx_pamt_hint
    assert missing is not None
    assert hint is not None
    return (
        lambda pfn: missing(host.kernel, host.cpu, pfn, None),
        lambda pfn: hint(host.kernel, host.cpu, pfn),
    )


def test_l1_a_pair_that_goes_between_add_and_use_is_added_again() -> None:
    host = booted("lazy")
    vm = make_td(host)
    assert fault(host, vm, 0) == 0
    exhaust_regions(host)
    call = host.cpu.seamcall
    losses = [4]
    missing: list[int] = []

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        region = args.r8 >> 21
        if rax == TDH_MEM_PAGE_AUG and losses[0] and has_pair(host, region):
            losses[0] -= 1
            status, first, second = tdh_phymem_pamt_remove(host.cpu, args.r8 >> 12)
            assert status == 0
            host.kernel.pamt_pairs.add(-1)
            host.allocator.free_page(first)
            host.allocator.free_page(second)
        status = call(rax, args)
        if status & STATUS_MASK == 0x80000308_00000000:
            missing.append(rax)
        return status

    host.cpu.seamcall = seamcall
    assert fault(host, vm, 0x9000) == 0
    assert missing == [TDH_MEM_PAGE_AUG] * 5
    host.cpu.seamcall = call
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit(idle=False) == []


def test_l2_a_busy_add_is_tried_again_from_the_start() -> None:
    host = booted("lazy")
    vm = make_td(host)
    exhaust_regions(host)
    wall = refuse(host, TDH_PHYMEM_PAMT_ADD, 3)
    assert fault(host, vm, 0) == 0
    assert wall.counts[TDH_PHYMEM_PAMT_ADD] >= 4
    assert host.audit(idle=False) == []


def test_l3_a_busy_remove_leaves_the_pair() -> None:
    host = booted("lazy")
    missing, hint = lazy_hooks(host)
    assert missing(PFN) == 0
    refuse(host, TDH_PHYMEM_PAMT_REMOVE, 1, TDX_OPERAND_BUSY)
    hint(PFN)
    assert has_pair(host)
    assert "PAMT.REMOVE failed" in host.log[-1]


def test_l4_a_late_hint_is_benign() -> None:
    host = booted("lazy")
    _missing, hint = lazy_hooks(host)
    vm = make_td(host)
    lines = len(host.log)
    hint(vm.tdr)
    hint(PFN)
    assert len(host.log) == lines
    assert host.audit(idle=False) == []


def test_the_busy_reserve_takes_the_lock_for_writing() -> None:
    """global-rwlock: one BUSY costs a second try, two are an error with nothing counted."""
    for times, error in ((1, 0), (2, -EIO)):
        host = booted("global-rwlock")
        wall = refuse(host, TDH_PHYMEM_PAMT_ADD, times)
        assert get(host) == error
        assert wall.counts[TDH_PHYMEM_PAMT_ADD] == 2
        assert (count(host), has_pair(host)) == ((0, False) if error else (1, True))
        assert not host.kernel.pamt.rwlock.is_locked()
    for times, left in ((1, 0), (2, 1)):
        host = booted("global-rwlock")
        assert get(host) == 0
        wall = refuse(host, TDH_PHYMEM_PAMT_REMOVE, times)
        put(host)
        assert wall.counts[TDH_PHYMEM_PAMT_REMOVE] == 2
        assert (count(host), has_pair(host)) == (left, bool(left))
    host = booted("global-rwlock", behaviour=replace(KernelBehaviour(), demote_lock="none"))
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    wall = refuse(host, TDH_MEM_PAGE_DEMOTE, 1)
    assert kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M) == 0
    assert wall.counts[TDH_MEM_PAGE_DEMOTE] == 2
    assert vm.wait_for_sept_zap.load() == 0
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@pytest.mark.parametrize("design", ["per-2m-lock", "per-2m-rwlock"])
def test_regions_lock_each_for_itself(design: str) -> None:
    host = booted(design)
    held: list[tuple[int, ...]] = []
    call = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax in (TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE):
            state = host.kernel.pamt
            held.append((*state.region_locks.held(), *state.region_rwlocks.held()))
        return call(rax, args)

    host.cpu.seamcall = seamcall
    assert get(host) == 0
    pair = ModuleView(host.module).pairs()[REGION][:2]
    others = {page >> 9 for page in pair} if design == "per-2m-rwlock" else set()
    put(host)
    assert held == [tuple(sorted({REGION} | others)), (REGION,)]
    assert not any(host.kernel.pamt.region_rwlocks.held())
    # Pair pages in the region that they are for: its own lock is not taken twice.
    own = next_page(host)
    assert get(host, own) == 0
    put(host, own)
    assert host.audit() == []
    assert fault(host, make_td(host), 0, LEVEL_4K) == 0
