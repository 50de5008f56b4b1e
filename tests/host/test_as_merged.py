"""M1 to M13: where the host follows the text that was merged, line by line, each by its number.

M1 to M9 are of a complete arch/x86/virt/vmx/tdx/tdx.c with Dynamic PAMT, read on 2026-11-29; M10 to
M13 of Linux 7.3.4's KVM with patches 7 and 9 of `[PATCH v6 00/11] Dynamic PAMT` (2026-05-25).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from dpamt.abi.leaves import (
    LEAF_NAMES,
    RAX_LEAF_MASK,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_MNG_CREATE,
    TDH_MNG_KEY_CONFIG,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_SYS_CONFIG,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_RD,
    TDH_SYS_TDMR_INIT,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_OPERAND_INVALID
from dpamt.host.core import control_pages, refcounts
from dpamt.host.core.init import SITE_TDMR_POINTERS
from dpamt.host.core.kernel import KernelBehaviour, KernelLog, KernelOops
from dpamt.host.core.page_cache import (
    PamtCache,
    tdx_free_pamt_cache,
    tdx_topup_pamt_cache,
)
from dpamt.host.core.pamt_areas import SITE_PAMT
from dpamt.host.core.refcounts import SITE_REFCOUNTS
from dpamt.host.core.tdmr import SITE_TDMR_ARRAY
from dpamt.host.core.tdx_errno import EIO
from dpamt.host.designs import merged
from dpamt.host.kvm import sept
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.module.view import ModuleView
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import PhysicalMemory
from tests.host.rig import Host, booted, fault, make_td, small_machine
from tests.host.test_init import OLDER
from tests.host.test_refusals import Wall, refuse

PFN = 0x1234
REGION = PFN >> 9


def get(host: Host, pfn: int = PFN) -> int:
    return host.kernel.tdx_pamt_get(host.kernel, host.cpu, pfn, None)


def put(host: Host, pfn: int = PFN) -> None:
    host.kernel.tdx_pamt_put(host.kernel, host.cpu, pfn)


def count(host: Host) -> int:
    return host.kernel.dpamt_refcounts.at(REGION).load()


def seen(patch: pytest.MonkeyPatch, where: Any, method: str, see: Callable[..., None]) -> None:
    """``see`` is told the arguments of each call of a class's method, before it is made."""
    plain = getattr(where, method)

    def watched(self: Any, *words: Any, **named: Any) -> Any:
        see(*words, **named)
        return plain(self, *words, **named)

    patch.setattr(where, method, watched)


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pages that the kernel resets, in their order."""
    pages: list[int] = []
    seen(monkeypatch, PhysicalMemory, "clear_page", pages.append)
    return pages


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pages that the allocator gets back, in their order."""
    pages: list[int] = []
    seen(monkeypatch, PageAllocator, "free_page", pages.append)
    return pages


def test_m1_names() -> None:
    host = booted()
    assert host.kernel.dpamt_lock is host.kernel.pamt_lock
    assert host.kernel.dpamt_refcounts is host.kernel.pamt_refcounts
    assert host.kernel.dpamt_lock.name == "dpamt_lock"
    assert booted("v6").kernel.pamt_lock.name == "pamt_lock"
    for name in ("init_dpamt_refcounts", "free_dpamt_refcounts"):
        assert callable(getattr(refcounts, name))
    for name in ("tdx_alloc_control_page", "tdx_free_control_page"):
        assert callable(getattr(control_pages, name))
    assert merged.tdx_find_dpamt_refcount(host.kernel, PFN) is host.kernel.dpamt_refcounts.at(
        REGION
    )


def test_m1_no_bound_is_checked() -> None:
    """The counters of 1 GiB fill half a page: behind them there is memory, then there is none."""
    host = booted()
    beyond = host.kernel.machine.max_pfn
    assert merged.tdx_find_dpamt_refcount(host.kernel, beyond).load() == 0
    with pytest.raises(KernelOops, match="no memory behind counter 1024"):
        get(host, 1024 * 512)


def test_m2_a_get_counts_under_the_lock_and_adds_only_from_0() -> None:
    host = booted()
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    assert [get(host), get(host), get(host)] == [0, 0, 0]
    assert count(host) == 3
    assert wall.counts[TDH_PHYMEM_PAMT_ADD] == 1
    host.kernel.dpamt_refcounts.at(REGION).store(-1)  # inc-not-zero goes on from a negative count
    assert get(host) == 0
    assert count(host) == 0
    assert wall.counts[TDH_PHYMEM_PAMT_ADD] == 1


@pytest.mark.parametrize("erratum", [True, False])
def test_m3_get_resets_the_pages_that_it_gives_back(
    erratum: bool, cleared: list[int], freed: list[int]
) -> None:
    host = booted(behaviour=KernelBehaviour(partial_write_erratum=erratum))
    cleared.clear()
    freed.clear()
    back = freed
    assert get(host) == 0
    assert cleared == []  # they are the module's now
    assert get(host) == 0  # only counted
    assert len(back) == 2
    assert cleared == (back if erratum else [])
    other = 0x4321
    refuse(host, TDH_PHYMEM_PAMT_ADD)
    assert get(host, other) == -EIO  # ADD failed
    assert len(back) == 4
    assert cleared == (back if erratum else [])
    pair = list(ModuleView(host.module).pairs()[REGION][:2])
    put(host)
    put(host)
    assert back[4:] == pair
    assert cleared == (back if erratum else [])


def test_m3_only_put_resets_in_v6(cleared: list[int]) -> None:
    host = booted("v6")
    cleared.clear()
    refuse(host, TDH_PHYMEM_PAMT_ADD)
    assert get(host) == -EIO
    assert cleared == []


@pytest.mark.parametrize(
    ("leaf", "place"),
    [(TDH_PHYMEM_PAMT_ADD, "tdx_pamt_get"), (TDH_PHYMEM_PAMT_REMOVE, "tdx_pamt_put")],
)
def test_m4_a_warn_without_text_or_status_under_the_lock(
    leaf: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = booted()
    held: list[bool] = []
    refuse(host, leaf, 2)
    lock = host.kernel.dpamt_lock
    seen(monkeypatch, KernelLog, "warn_on_once", lambda *_: held.append(lock.is_locked()))
    before = len(host.log)
    for step in (get, get) if leaf == TDH_PHYMEM_PAMT_ADD else (get, put, get, put, put):
        step(host)
    assert held == [True, True]
    assert host.log[before:] == [f"WARNING: arch/x86/virt/vmx/tdx/tdx.c at {place}"]
    assert host.kernel.log.warnings == [
        f"WARN_ON_ONCE in {place}, printed while dpamt_lock is held: who wants it waits for the "
        "console"
    ]


def test_m5_put_counts_down_removes_and_stores_0() -> None:
    host = booted()
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    for _ in range(3):
        get(host)
    counts = []
    for _ in range(3):
        put(host)
        counts.append((count(host), wall.counts.get(TDH_PHYMEM_PAMT_REMOVE, 0)))
    assert counts == [(2, 0), (1, 0), (0, 1)]
    refuse(host, TDH_PHYMEM_PAMT_REMOVE)
    get(host)
    put(host)
    assert count(host) == 1  # the pair stays, and its count
    assert REGION in ModuleView(host.module).pairs()


@pytest.mark.parametrize("design", ["merged", "v2"])
def test_m6_told_just_before_sys_config(design: str) -> None:
    host = Host(small_machine(), design)
    host.allocator.fail_when = lambda site, _ordinal: site == SITE_TDMR_ARRAY
    assert host.boot() == -12
    assert not any("Enable Dynamic PAMT" in line for line in host.log)
    host = Host(small_machine(), design)
    last: list[str] = []
    around(host, TDH_SYS_CONFIG, lambda: last.append(host.log[-1]))
    assert host.boot() == 0
    assert last == ["virt/tdx: Enable Dynamic PAMT"]


def around(host: Host, leaf: int, before: Callable[[], None]) -> None:
    """Something that happens before each SEAMCALL of a leaf on the first CPU."""
    call = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax & RAX_LEAF_MASK == leaf:
            before()
        return call(rax, args)

    host.cpu.seamcall = seamcall


def test_m7_nothing_clears_the_feature_when_the_initialisation_fails() -> None:
    host = Host(small_machine())
    refuse(host, TDH_SYS_TDMR_INIT)
    assert host.boot() == -5
    assert host.kernel.dynamic_pamt
    with pytest.raises(KernelOops, match="no memory behind counter"):  # they were freed
        get(host)
    older = Host(small_machine(), release=OLDER)
    assert older.boot() == 0
    assert not older.kernel.dynamic_pamt


def test_m7_bit_36_alone() -> None:
    """Wide physical addresses make the module refuse; Linux asks nothing but the bit."""
    host = Host(replace(small_machine(), keyid_bits=3, private_keyids=(4, 8)))
    assert host.boot() == -5
    assert "virt/tdx: Enable Dynamic PAMT" in host.log


def test_m8_a_topup_without_dynamic_pamt_warns_once() -> None:
    host = booted(release=OLDER)
    cache = PamtCache()
    for _ in range(2):
        assert tdx_topup_pamt_cache(host.kernel, cache, 5) == 0
    assert cache.pages == []
    assert host.kernel.log.warnings == ["WARN_ON_ONCE in tdx_topup_pamt_cache"]
    host = booted()
    assert tdx_topup_pamt_cache(host.kernel, cache, 5) == 0
    assert len(cache.pages) == 10
    tdx_free_pamt_cache(host.kernel, cache)
    assert host.kernel.log.warnings == []


def test_m9_the_order_of_the_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    host = Host(small_machine())
    seen(monkeypatch, KernelLog, "info", happened.append)
    for name in ("alloc_page", "alloc_pages", "alloc_contig"):
        seen(monkeypatch, PageAllocator, name, lambda *words, **_: happened.append(site_of(words)))
    for leaf in (TDH_SYS_CONFIG, TDH_SYS_KEY_CONFIG, TDH_SYS_TDMR_INIT):
        around(host, leaf, partial(happened.append, LEAF_NAMES[leaf]))
    assert host.boot() == 0
    once = list(dict.fromkeys(happened))
    assert once[once.index("Module version: 2.0.18") :] == [
        "Module version: 2.0.18",
        SITE_REFCOUNTS,
        SITE_TDMR_ARRAY,
        SITE_PAMT,
        SITE_TDMR_POINTERS,
        "Enable Dynamic PAMT",
        "TDH.SYS.CONFIG",
        "TDH.SYS.KEY.CONFIG",
        "TDH.SYS.TDMR.INIT",
        "44 KB allocated for PAMT",
        "TDX-Module initialized",
    ]


def site_of(words: tuple[Any, ...]) -> str:
    return next(word for word in words if isinstance(word, str))


def test_m9_undone_in_reverse_refcounts_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still there at each free: PAMT, the TDMR array, the refcounts."""
    host = Host(small_machine())
    kernel = host.kernel
    left: list[tuple[bool, bool, bool]] = []

    def look(*_: Any) -> None:
        there = bool(kernel.pamt_areas), kernel.tdmr_array is not None
        left.append((*there, bool(kernel.refcount_pages)))

    for name in ("free_page", "free_pages", "free_contig"):
        seen(monkeypatch, PageAllocator, name, look)
    refuse(host, TDH_SYS_TDMR_INIT)
    assert host.boot() == -5
    assert list(dict.fromkeys(left)) == [
        (True, True, True),  # the pointer array, then PAMT
        (False, True, True),  # the TDMR array
        (False, False, False),  # the counters' only page, taken out of the list before
    ]
    assert host.after_boot == host.at_power_on


def test_m9_a_failed_read_after_the_version_shows_the_version() -> None:
    host = Host(small_machine())
    refuse(host, TDH_SYS_RD, 1, TDX_OPERAND_BUSY, 3)
    assert host.boot() == -5
    assert "virt/tdx: Module version: 2.0.18" in host.log
    host = Host(small_machine())
    refuse(host, TDH_SYS_RD, 1, TDX_OPERAND_BUSY, 1)
    assert host.boot() == -5
    assert "virt/tdx: Module version: 0.0.00" in host.log


def test_m10_a_track_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = booted()
    vm = make_td(host)
    assert fault(host, vm, 0x5000) == 0
    wall = refuse(host, TDH_MEM_TRACK, 1, TDX_OPERAND_INVALID)
    kicked: list[Vm] = []
    monkeypatch.setattr(sept, "kvm_make_all_vcpus_leave", kicked.append)
    assert kvm_gmem_punch_hole(vm, host.cpu, 0x5000, 0x1000) == 0
    assert vm.bugged.load() == 1
    assert kicked == [vm]
    assert wall.counts[TDH_MEM_PAGE_REMOVE] == 1
    told = [line for line in host.log if line.startswith("kvm_intel: ")]
    assert told == ["kvm_intel: SEAMCALL TDH_MEM_TRACK failed: 0xc000010000000000"]


@pytest.mark.parametrize("tracked", [True, False])
def test_m10_a_put_may_follow(tracked: bool) -> None:
    """Where REMOVE works all the same, page, count and pair are given back; else they are lost."""
    host = booted()
    vm = make_td(host)
    assert fault(host, vm, 0x5000) == 0
    total = sum(value for _, value in host.kernel.dpamt_refcounts.non_zero())
    call = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax == TDH_MEM_TRACK and not tracked:
            return TDX_OPERAND_INVALID
        status = call(rax, args)
        return TDX_OPERAND_INVALID if rax == TDH_MEM_TRACK else status

    host.cpu.seamcall = seamcall
    kvm_gmem_punch_hole(vm, host.cpu, 0x5000, 0x1000)
    left = sum(value for _, value in host.kernel.dpamt_refcounts.non_zero())
    assert vm.bugged.load() == 1
    assert total - left == tracked


@pytest.mark.parametrize(("leaf", "bugged"), [(TDH_MEM_PAGE_AUG, 1), (TDH_MEM_SEPT_ADD, 0)])
def test_m11_a_leaf_bugs_the_vm_first_an_sept_page_is_put_first(leaf: int, bugged: int) -> None:
    host = booted()
    vm = make_td(host)
    at_put: list[int] = []
    plain = host.kernel.tdx_pamt_put

    def tdx_pamt_put(kernel: Any, cpu: Any, pfn: int) -> None:
        at_put.append(vm.bugged.load())
        plain(kernel, cpu, pfn)

    host.kernel.tdx_pamt_put = tdx_pamt_put
    refuse(host, leaf, 1, TDX_OPERAND_INVALID)
    assert fault(host, vm, 0x5000) == -EIO
    assert vm.bugged.load() == 1
    assert at_put == [bugged]


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The control pages that the allocator gives, in their order."""
    pages: list[int] = []
    plain = PageAllocator.alloc_page

    def alloc_page(self: PageAllocator, site: str) -> int | None:
        pfn = plain(self, site)
        if pfn is not None and site.startswith(("TDR", "TDC", "TDV")):
            pages.append(pfn)
        return pfn

    monkeypatch.setattr(PageAllocator, "alloc_page", alloc_page)
    return pages


def last(freed: list[int], pages: list[int]) -> list[int]:
    """The order in which ``pages`` were freed for the last time: as pair pages they come and go."""
    return list(dict.fromkeys(pfn for pfn in reversed(freed) if pfn in pages))[::-1]


@pytest.mark.parametrize("leaf", [TDH_MNG_CREATE, TDH_MNG_KEY_CONFIG])
def test_m12_td_init_unwinds_tdcs_ascending_then_the_tdr(
    leaf: int, allocated: list[int], freed: list[int]
) -> None:
    host = booted()
    refuse(host, leaf, 1, TDX_OPERAND_INVALID)
    assert tdx_td_init(Vm(host.kernel), host.cpu) == -EIO
    tdr, *tdcs = allocated
    assert len(tdcs) == 9
    assert last(freed, allocated) == [*tdcs, tdr]


def test_m13_vcpu_free_reclaims_tdcx_pages_then_the_tdvpr(freed: list[int]) -> None:
    host = booted()
    vm = make_td(host)
    vcpu = vm.vcpus[0]
    order = [*vcpu.tdcx, vcpu.tdvpr]
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    freed.clear()
    kvm_destroy_vm(vm, host.cpu)
    assert [pfn for pfn in freed if pfn in order] == order
    assert wall.counts[TDH_PHYMEM_PAGE_RECLAIM] >= len(order)


@pytest.mark.parametrize("leaf", [TDH_VP_CREATE, TDH_VP_ADDCX])
def test_m13_a_vcpu_that_cannot_be_initialised(
    leaf: int, allocated: list[int], freed: list[int]
) -> None:
    host = booted()
    vm = Vm(host.kernel)
    assert tdx_td_init(vm, host.cpu) == 0
    vcpu = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    allocated.clear()
    refuse(host, leaf, 1, TDX_OPERAND_INVALID)
    assert tdx_vcpu_init(vm, vcpu, host.cpu) == -EIO
    tdvpr, *tdcx = allocated
    wanted = tdcx if leaf == TDH_VP_ADDCX else [*tdcx, tdvpr]
    assert last(freed, wanted) == wanted
    assert vm.bugged.load() == 1
