"""The kernel's own KVM makes, runs and ends TDs, with static PAMT and with Dynamic PAMT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MNG_CREATE,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ENTER,
)
from dpamt.abi.pages import PT_REG, PT_TDR
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.boot.delays import parse_delay
from dpamt.boot.forced import parse_forced
from dpamt.boot.kvm.compare import Compared, compare
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.selftests import NAMES, Checks, load_checks
from dpamt.boot.kvm.sweep import Sweep, sweep_script
from dpamt.boot.kvm.tour import tour
from dpamt.boot.kvm.translate import translate
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot
from dpamt.module.injection_rules import parse_rule
from dpamt.report.kvm_text import kvm_text
from dpamt.run.scenario import Scenario, load_scenario

pytest.importorskip("capstone")

HYPERCALL = 3
"""KVM_EXIT_HYPERCALL."""
SCENARIOS = Path(__file__).parent / "scenarios"
BUSY = (
    "TDH.MEM.PAGE.AUG:busy=SEPT_TREE:every=100",
    "TDH.MEM.RANGE.BLOCK:busy=SEPT_TREE:every=101",
    "TDH.MEM.TRACK:busy=TD_EPOCH:every=103",
    "TDH.MEM.PAGE.REMOVE:busy=SEPT_TREE:every=107",
)
"""1 % of the calls that KVM makes beside running vCPUs; no two tries of one call in a row."""


@pytest.fixture(params=["static", "dynamic"])
def tree(build: Path, request: pytest.FixtureRequest) -> Path:
    return build if request.param == "static" else dynamic(build)


def dynamic(build: Path) -> Path:
    found = build.parent / "build-dynamic"
    if not (found / "vmlinux").exists():
        pytest.skip("no build-dynamic beside the kernel: make test-kernel builds one")
    return found


def run(
    tree: Path,
    script: Script,
    coverage: bool = False,
    sweep: tuple[str, ...] = (),
    checks: Checks | None = None,
    **more: Any,
) -> Booted:
    kvm = KvmOptions(script, build=tree, coverage=coverage, sweep=sweep, checks=checks)
    return boot(BootOptions(tree / "vmlinux", kvm=kvm, **{"timeout": 110.0, **more}))


def scenario(name: str, times: int = 1) -> Scenario:
    """A scenario of this folder, its conversions made so often."""
    found = load_scenario(str(SCENARIOS / name))
    phases = tuple(
        replace(phase, steps=tuple(replace(s, times=min(s.times, times)) for s in phase.steps))
        for phase in found.phases
    )
    return replace(found, phases=phases)


def compared(wanted: Scenario, booted: Booted) -> Compared:
    assert booted.machine is not None
    assert booted.module is not None
    release = booted.module.release.name
    return compare(wanted, booted.machine, release, booted.module.pamt.dynamic, booted.phases)


def done(booted: Booted, leaf: int, status: int = TDX_SUCCESS) -> int:
    return sum(
        count
        for (which, came), count in booted.counts.items()
        if which == leaf and came & STATUS_MASK == status
    )


def test_one_scenario_on_the_model_and_on_the_kernel(tree: Path) -> None:
    """Three TDs with 4 and 2 vCPUs: counts by leaf, pages and pairs of each phase, the end."""
    wanted = scenario("three-tds.toml")
    booted = run(tree, translate(wanted, 4, 4 << 30), cpus=4)
    assert booted.clean, (booted.findings, booted.complaints)
    found = compared(wanted, booted)
    assert found.findings() == []
    assert found.counts - len(found.different) > 50
    assert [phase.name for phase in booted.phases] == ["module init", "up", "churn", "gone"]
    assert [phase.tds for phase in booted.phases] == [0, 3, 2, 0]
    up, gone = booted.phases[1], booted.phases[3]
    assert up.guest_pages == 2048  # half of 8 and twice 4 MiB
    is_dynamic = booted.module is not None and booted.module.pamt.dynamic
    assert (up.pairs > 0) is is_dynamic
    assert gone.pairs == gone.guest_pages == gone.control_pages == 0
    assert done(booted, TDH_PHYMEM_PAMT_ADD) == done(booted, TDH_PHYMEM_PAMT_REMOVE)
    # Each guest page went in once for itself, and once more for each conversion.
    assert done(booted, TDH_MEM_PAGE_REMOVE) == done(booted, TDH_MEM_RANGE_BLOCK)


def test_two_tds_convert_in_the_same_regions(build: Path) -> None:
    """Faults beside zaps on four vCPUs, in shared 2M regions; then with 1 % of the calls BUSY."""
    wanted = scenario("two-that-convert.toml")
    script = translate(wanted, 2, 4 << 30)
    plain = run(dynamic(build), script)
    assert plain.clean, (plain.findings, plain.complaints)
    assert compared(wanted, plain).findings() == []
    rules = tuple(map(parse_rule, BUSY))
    busy = run(dynamic(build), script, inject=rules)
    assert busy.clean, (busy.findings, busy.complaints)
    assert all(hits for _, _, hits in busy.injected)
    for leaf in (TDH_MEM_PAGE_AUG, TDH_MEM_RANGE_BLOCK, TDH_MEM_PAGE_REMOVE):
        assert done(busy, leaf) == done(plain, leaf)  # each was tried again, and came
        assert done(busy, leaf, TDX_OPERAND_BUSY) > 5


def test_a_tour_runs_most_lines_of_kvms_tdx_code(build: Path) -> None:
    booted = run(dynamic(build), tour(), coverage=True)
    assert booted.clean, (booted.findings, booted.complaints)
    assert booted.guests_refused == {}
    assert booted.coverage is not None
    assert booted.coverage.ran >= 0.75 * booted.coverage.lines
    ran = {one.name: one.ran for one in booted.coverage.functions}
    assert ran["tdx_deliver_interrupt"]
    assert ran["tdx_inject_nmi"]
    assert not ran["tdx_get_exit_info"]  # a tracer's
    text = kvm_text(booted, None, "it is a tour")
    assert "lines with code in arch/x86/kvm/vmx/tdx.c" in text
    assert "tdx_get_exit_info: not called" in text


def test_each_seamcall_of_a_life_fails_in_its_turn(build: Path) -> None:
    """The kernel goes on after each as its source says; what it does not give back is told."""
    booted = run(build, sweep_script(), sweep=("TDX_OPERAND_INVALID",))
    sweep = finished(booted)
    assert len(sweep.lives) > 60
    # A VP.ENTER that fails makes KVM WARN where it prepares the exit (docs/boot-kvm.md).
    (warned,) = booted.complaints
    assert "vt_cache_reg" in warned.text
    assert booted.findings == []
    created = next(life for life in sweep.lives if life.leaf == TDH_MNG_CREATE)
    assert created.reactions[0].endswith("was not built: TDX_INIT_VM: EIO")
    assert (created.tds, created.kept) == (0, ())
    blocked = [life for life in sweep.lives if life.leaf == TDH_MEM_RANGE_BLOCK and life.came]
    assert len(blocked) == 3
    assert all({kind for _, kind in life.kept} == {PT_TDR, PT_REG} for life in blocked)
    entered = [life for life in sweep.lives if life.leaf == TDH_VP_ENTER and life.came]
    assert all("KVM_EXIT_INTERNAL_ERROR" in life.reactions[0] for life in entered)


BUSY_AND_MORE = (
    "busy",
    "TDH.MEM.RANGE.BLOCK:busy:row=2",
    "TDH.MEM.TRACK:busy:row=2",
    "TDH.MEM.PAGE.REMOVE:busy:row=2",
    "TDH.MEM.PAGE.AUG:busy:row=3",
    "no-entropy",
    "no-entropy:row=10",
    "no-key",
)


def test_each_lock_is_held_and_each_pair_refused_in_its_turn(build: Path) -> None:
    """Dynamic PAMT: top-up, get under mmu_lock, link, set and teardown fail; nothing is lost but
    what is named."""
    sweeps = (*BUSY_AND_MORE, "TDH.PHYMEM.PAMT.*:TDX_OPERAND_INVALID")
    booted = run(dynamic(build), sweep_script(), sweep=sweeps, timeout=300.0)
    sweep = finished(booted)
    assert booted.clean, (booted.findings, booted.complaints)
    came = [life for life in sweep.lives if life.came]
    assert len(came) > 300
    assert sum(1 for life in came if life.expected is not None) > 0.95 * len(came)
    added = [life for life in came if life.leaf == TDH_PHYMEM_PAMT_ADD]
    # How many pages need a pair of their own is the kernel's allocator's choice: of the 15 control
    # pages 10 to 15, of the S-EPT and guest pages, under mmu_lock, 1 to 6. Each is refused in four
    # ways. Seen in five boots: 44 to 61 and 5 to 23.
    control = [life for life in added if not life.where.startswith("tdx_sept_")]
    assert len(control) > 24
    assert {life.where for life in control} == {"tdx_vm_ioctl", "tdx_vcpu_unlocked_ioctl"}
    assert all("ENOMEM" in life.seen.errors for life in control)
    assert "tdx_sept_set_private_spte" in {life.where for life in added}
    assert not any(life.kept or life.pairs or life.counts for life in added)
    removed = [life for life in came if life.leaf == TDH_PHYMEM_PAMT_REMOVE]
    assert len(removed) > 10  # 29 to 35 were seen
    assert all(life.pairs and life.counts and not life.kept for life in removed)
    twice = [life for life in came if life.leaf == TDH_MEM_RANGE_BLOCK and life.tries == 2]
    assert all({kind for _, kind in life.kept} == {PT_TDR, PT_REG} for life in twice)
    once = [life for life in came if life.leaf == TDH_MEM_RANGE_BLOCK and life.tries == 1]
    assert once
    assert all(life.again and not life.kept for life in once)


def test_locks_that_are_held_on_a_kernel_without_dynamic_pamt(build: Path) -> None:
    booted = run(build, sweep_script(), sweep=BUSY_AND_MORE, timeout=300.0)
    sweep = finished(booted)
    assert booted.clean, (booted.findings, booted.complaints)
    assert len([life for life in sweep.lives if life.came]) > 200


def finished(booted: Booted) -> Sweep:
    """Its sweep, which came to its end."""
    assert booted.ended == "reboot", booted.stacks
    assert booted.sweep is not None
    assert booted.sweep.done
    assert [life.line for life in booted.sweep.lives if life.contradicts] == []
    return booted.sweep


def test_what_kvms_selftests_check(tree: Path) -> None:
    """Life and death, devices, calls, conversions, slots that move, crashes: in one boot."""
    checks = load_checks()
    booted = run(tree, checks.script, checks=checks)
    assert booted.clean, (booted.findings, booted.complaints)
    assert booted.checks == {name: [] for name in NAMES}
    assert booted.vmm is not None
    crashed = [index for index, name in enumerate(checks.script.tds) if name.startswith("crash")]
    converted = [booted.vmm.exits[td, HYPERCALL] for td in crashed]
    assert max(converted) > 2  # the last of them were in the middle of it
    assert all(count < 4000 for count in converted)


def test_a_vmm_is_killed_while_its_vcpus_are_in_the_module(build: Path) -> None:
    """Each AUG, BLOCK and REMOVE takes 15 ms, so that a kill comes in the middle of one."""
    checks = load_checks(("crash",))
    delays = tuple(map(parse_delay, ("TDH.MEM.PAGE.*:delay=15", "TDH.MEM.RANGE.BLOCK:delay=15")))
    booted = run(dynamic(build), checks.script, checks=checks, delays=delays)
    assert booted.clean, (booted.findings, booted.complaints)
    assert booted.checks == {"crash": []}
    assert done(booted, TDH_MEM_PAGE_REMOVE) > 0
    assert done(booted, TDH_PHYMEM_PAMT_ADD) == done(booted, TDH_PHYMEM_PAMT_REMOVE) > 0


def test_a_td_that_is_left_is_told_beside_the_verdict(build: Path) -> None:
    """A VPFLUSHDONE that fails: KVM leaks the TD, and the report says so."""
    script = Script("phase 1\ntd 0 1 512 4\nbuild 0\nclose 0\nphase 2\n", ("boot", "life"), ("td",))
    rule = parse_forced("TDH.MNG.VPFLUSHDONE:answer=TDX_OPERAND_INVALID")
    booted = run(build, script, forced=(rule,))
    assert not booted.clean
    (leak,) = [found for found in booted.findings if found.startswith("leak: 1 TD alive")]
    assert "1 TDR, " in leak
    assert [one.kind for one in booted.complaints] == ["WARNING"]


def test_modules_of_the_user_are_taken_as_they_are(build: Path) -> None:
    tree = dynamic(build)
    script = Script("phase 1\ntd 0 1 512 4\nbuild 0\nclose 0\nphase 2\n", ("boot", "life"), ("td",))
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.ko")}
    if len(before) < 3:
        pytest.skip("this build has no modules")
    kvm = KvmOptions(script, modules=tree)
    booted = boot(BootOptions(tree / "vmlinux", kvm=kvm, timeout=60.0))
    assert booted.clean, (booted.findings, booted.complaints)
    assert booted.prepared is not None
    assert booted.prepared.intel.is_relative_to(tree)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*.ko")} == before
