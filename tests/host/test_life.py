"""Whole lives of TDs, in every design: nothing is left behind, whatever fails on the way."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pkgutil import walk_packages

import pytest

import dpamt.host
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGES_PER_2M, SIZE_2M
from dpamt.host.core.meminfo import meminfo_line, pamt_account
from dpamt.host.core.tdx_errno import EFAULT, EINVAL, EIO, ENOMEM, ENOSPC
from dpamt.host.kvm.attributes import kvm_convert
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.mmu import RET_PF_SPURIOUS, tdx_handle_ept_violation
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from tests.host.rig import ALL_DESIGNS, DYNAMIC_DESIGNS, Host, booted, fault, make_td, small_machine

BOTH_SIZES = pytest.mark.parametrize("huge", [False, True], ids=["4K", "2M"])
EVERY_DESIGN = pytest.mark.parametrize("design", ALL_DESIGNS)


@EVERY_DESIGN
def test_one_page(design: str) -> None:
    host = booted(design)
    vm = make_td(host)
    assert host.audit() == []
    assert fault(host, vm, 0x5000) == 0
    assert host.audit() == []
    assert fault(host, vm, 0x5000) == RET_PF_SPURIOUS
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []
    assert host.allocator.snapshot() == host.after_boot


def live_a_life(host: Host, huge: bool, audited: bool = False) -> int:
    """Build, run, convert, split, punch, destroy; the first error, with the VM destroyed."""
    vm = Vm(host.kernel, 16 << 20, huge)
    try:
        return _live(host, vm, audited)
    finally:
        host.cpu.running_vcpu = None
        kvm_destroy_vm(vm, host.cpu)


def _live(host: Host, vm: Vm, audited: bool) -> int:
    cpu = host.cpu
    steps: list[Callable[[], int]] = [lambda: tdx_td_init(vm, cpu)]

    def new_vcpu() -> int:
        vcpu = tdx_vcpu_create(vm)
        return tdx_vcpu_init(vm, vcpu, cpu) if isinstance(vcpu, Vcpu) else vcpu

    steps += [new_vcpu, new_vcpu]
    steps.append(lambda: tdx_init_mem_region(vm, vm.vcpus[0], cpu, 0, 3, True))
    steps.append(lambda: tdx_td_finalize(vm, cpu))
    steps += [partial(fault, host, vm, page << 12, LEVEL_2M) for page in (600, 5, 2000)]
    steps.append(lambda: fault(host, vm, SIZE_2M + 0x7000, LEVEL_4K))
    steps.append(lambda: kvm_convert(vm, cpu, SIZE_2M + 0x3000, 0x9000, False))
    steps.append(lambda: kvm_convert(vm, cpu, SIZE_2M + 0x4000, 0x1000, True))
    steps.append(lambda: fault(host, vm, SIZE_2M + 0x4000, LEVEL_2M))
    if audited:  # the conversion has split a leaf already: enough for the many short lives
        steps.append(lambda: kvm_split_huge_leaf(vm, cpu, 2000))
    steps.append(lambda: kvm_gmem_punch_hole(vm, cpu, 2 * SIZE_2M, 3 * SIZE_2M))
    for step in steps:
        result = step()
        assert not audited or host.audit(idle=False) == []
        if result < 0:
            return result
    return 0


@EVERY_DESIGN
@BOTH_SIZES
@pytest.mark.parametrize("fragmentation", [0.0, 0.6, 1.0])
def test_a_life_leaves_nothing(design: str, huge: bool, fragmentation: float) -> None:
    if design == "static" and fragmentation == 1.0:
        # Not one free stretch of the 4 MiB that static PAMT wants: this host does not boot.
        host = Host(small_machine(), design, seed=7, fragmentation=fragmentation)
        assert host.boot() == -ENOMEM
        return
    host = booted(design, seed=7, fragmentation=fragmentation)
    assert live_a_life(host, huge, True) == 0
    assert host.audit() == []
    assert host.kernel.log.warnings == []
    assert not any("bugged" in line for line in host.log)


@EVERY_DESIGN
@BOTH_SIZES
def test_every_allocation_of_a_life_may_fail(design: str, huge: bool) -> None:
    host = booted(design, seed=7, fragmentation=0.3)
    boot = host.allocator.allocations
    sites = sites_of(host, lambda: live_a_life(host, huge))
    count = host.allocator.allocations - boot
    failed_sites = set()
    # One host lives on: what a failure left behind would show in all later lives too.
    for failing in range(count):
        first = host.allocator.allocations

        def fail(site: str, ordinal: int, at: int = first + failing) -> bool:
            if ordinal == at:
                failed_sites.add(site)
            return ordinal == at

        host.allocator.fail_when = fail
        result = live_a_life(host, huge)
        host.allocator.fail_when = None
        assert host.audit() == []
        assert result in (0, -ENOMEM)
        assert not any("bugged" in line for line in host.log)
    assert failed_sites == sites


def sites_of(host: Host, action: Callable[[], int]) -> set[str]:
    """Where an action, which has to succeed, allocates."""
    sites = set()

    def note(site: str, _ordinal: int) -> bool:
        sites.add(site)
        return False

    host.allocator.fail_when = note
    assert action() == 0
    host.allocator.fail_when = None
    return sites


def test_boots_and_lives_reach_every_allocation_site() -> None:
    """So the exhaustive failures here and of a boot (test_init.py) leave no site out."""
    reached = set()
    for design in ALL_DESIGNS:
        host = Host(small_machine(), design)
        reached |= sites_of(host, host.boot)
        for huge in (False, True):
            reached |= sites_of(host, partial(live_a_life, host, huge))
    named = set()
    for found in walk_packages(dpamt.host.__path__, "dpamt.host."):
        for name, value in vars(import_module(found.name)).items():
            if name.startswith("SITE_"):
                named |= {value} if isinstance(value, str) else set(value)
    assert reached == named


@EVERY_DESIGN
@BOTH_SIZES
def test_memory_runs_out_for_good(design: str, huge: bool) -> None:
    host = booted(design)
    boot = host.allocator.allocations
    assert live_a_life(host, huge) == 0
    count = host.allocator.allocations - boot
    for left in range(0, count, 3):
        first = host.allocator.allocations
        host.allocator.fail_when = lambda _site, ordinal, at=first + left: ordinal >= at
        assert live_a_life(host, huge) == -ENOMEM
        host.allocator.fail_when = None
        assert host.audit() == []


@EVERY_DESIGN
def test_a_full_machine(design: str) -> None:
    host = booted(design, 24)
    vm = make_td(host, mib=64)
    mapped = 0
    while True:
        result = fault(host, vm, mapped << 12)
        if result:
            break
        mapped += 1
    assert result == -ENOMEM
    assert mapped > 1000
    assert host.allocator.free_count < 16
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@pytest.mark.parametrize("release", ["1.5.25", "2.0.08", "2.0.18"])
@BOTH_SIZES
def test_every_release(release: str, huge: bool) -> None:
    host = booted("merged", release=release)
    vm = make_td(host, huge=huge)
    # A module whose DEMOTE may be interrupted gets no 2M pages.
    assert vm.huge_pages == (huge and release == "2.0.18")
    kvm_destroy_vm(vm, host.cpu)
    assert live_a_life(host, huge, True) == 0
    assert host.audit() == []


def test_two_mib_pages_need_no_pair() -> None:
    host = booted("merged")
    vm = make_td(host, huge=True)
    before = pamt_account(host.kernel).pairs
    assert fault(host, vm, 0x234000, LEVEL_2M) == 0
    used = pamt_account(host.kernel).pairs - before
    assert fault(host, vm, 0x434000, LEVEL_2M) == 0
    assert pamt_account(host.kernel).pairs - before == used
    assert kvm_split_huge_leaf(vm, host.cpu, 0x234) == 0
    assert pamt_account(host.kernel).pairs - before == used + 2 * 4096
    assert host.audit(idle=False) == []
    counts = dict(host.kernel.pamt_refcounts.non_zero())
    assert PAGES_PER_2M in counts.values()
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_fragmented_memory_has_no_2m_pages_and_falls_back() -> None:
    host = booted("merged", fragmentation=1.0)
    vm = make_td(host, huge=True)
    assert fault(host, vm, 0x234000, LEVEL_2M) == 0
    assert fault(host, vm, 0x235000, LEVEL_2M) == 0
    assert len(host.module.pamt.first_2m.capture()) > 0
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_keyids_run_out() -> None:
    host = booted("merged", 128)
    assert len(host.kernel.guest_keyids) == 31
    vms = [make_td(host) for _ in range(31)]
    last = Vm(host.kernel)
    assert tdx_td_init(last, host.cpu) == -ENOSPC
    kvm_destroy_vm(vms.pop(5), host.cpu)
    assert tdx_td_init(last, host.cpu) == 0
    for vm in [*vms, last]:
        kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@pytest.mark.parametrize("design", DYNAMIC_DESIGNS)
def test_tds_share_regions(design: str) -> None:
    host = booted(design)
    first, second = make_td(host), make_td(host)
    for page in range(40):
        assert fault(host, first, page << 12) == 0
        assert fault(host, second, page << 12) == 0
    assert host.audit() == []
    kvm_destroy_vm(first, host.cpu)
    assert host.audit() == []
    kvm_destroy_vm(second, host.cpu)
    assert host.audit() == []


def test_only_the_june_2025_design_shows_its_pairs_in_meminfo() -> None:
    host = booted("v2")
    assert meminfo_line(host.kernel) == "TDX:\t\t       0 kB"
    vm = make_td(host)
    pairs = host.kernel.pamt_pairs.load()
    assert pairs > 0
    assert meminfo_line(host.kernel) == f"TDX:\t\t{8 * pairs:>8} kB"
    kvm_destroy_vm(vm, host.cpu)
    assert meminfo_line(host.kernel) == "TDX:\t\t       0 kB"
    assert meminfo_line(booted("merged").kernel) is None


def test_a_map_without_a_running_vcpu_bugs_the_vm() -> None:
    host = booted()
    vm = make_td(host)
    assert host.cpu.running_vcpu is None
    assert tdx_handle_ept_violation(vm, vm.vcpus[0], host.cpu, 0, LEVEL_4K) == -EIO
    assert vm.bugged.load() == 1
    assert tdx_vcpu_run(vm, vm.vcpus[0], host.cpu) == -EIO
    assert kvm_convert(vm, host.cpu, 0, 4096, False) == -EIO
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_what_user_space_gets_wrong() -> None:
    host = booted()
    vm = Vm(host.kernel, 16 << 20)
    assert tdx_vcpu_create(vm) == -EIO
    assert tdx_td_finalize(vm, host.cpu) == -EINVAL
    assert tdx_td_init(vm, host.cpu, max_vcpus=2) == 0
    assert tdx_td_init(vm, host.cpu) == -EINVAL
    vcpu = tdx_vcpu_create(vm)
    late = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    assert isinstance(late, Vcpu)
    assert tdx_vcpu_create(vm) == -EINVAL
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 1) == -EINVAL
    assert tdx_vcpu_init(vm, vcpu, host.cpu) == 0
    assert tdx_vcpu_init(vm, vcpu, host.cpu) == -EINVAL
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 12, 1) == -EINVAL
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 0) == -EINVAL
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 2) == 0
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 1) == -EIO  # twice
    assert tdx_td_finalize(vm, host.cpu) == 0
    assert tdx_td_finalize(vm, host.cpu) == -EINVAL
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0x10000, 1) == -EINVAL
    assert tdx_vcpu_init(vm, late, host.cpu) == -EINVAL
    assert tdx_vcpu_create(vm) == -EIO
    assert tdx_vcpu_run(vm, late, host.cpu) == -EINVAL
    for gpa, size in ((1, 4096), (0, 0), (0, 100), (0, (16 << 20) + 4096)):
        assert kvm_convert(vm, host.cpu, gpa, size, False) == -EINVAL
    assert kvm_gmem_punch_hole(vm, host.cpu, 0, (16 << 20) + 4096) == -EINVAL
    assert fault(host, vm, 16 << 20) == -EFAULT
    assert kvm_convert(vm, host.cpu, 0x4000, 0x1000, False) == 0
    assert fault(host, vm, 0x4000) == -EFAULT
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_a_vcpu_freed_before_its_init() -> None:
    host = booted()
    vm = Vm(host.kernel)
    assert tdx_td_init(vm, host.cpu) == 0
    tdx_vcpu_create(vm)
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_a_td_without_vcpus_cannot_be_finalised_and_a_dead_vm_does_nothing_more() -> None:
    host = booted()
    vm = Vm(host.kernel, 16 << 20)
    assert tdx_td_init(vm, host.cpu) == 0
    vcpu = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    assert tdx_td_finalize(vm, host.cpu) == -EIO  # TDX_NO_VCPUS
    assert vm.bugged.load() == 1
    assert host.log[-1] == "kvm_intel: SEAMCALL TDH_MR_FINALIZE failed: 0xc000060900000000"
    for result in (
        tdx_td_init(vm, host.cpu),
        tdx_vcpu_create(vm),
        tdx_vcpu_init(vm, vcpu, host.cpu),
        tdx_init_mem_region(vm, vcpu, host.cpu, 0, 1),
        tdx_td_finalize(vm, host.cpu),
        kvm_convert(vm, host.cpu, 0, 4096, False),
    ):
        assert result == -EIO
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []
