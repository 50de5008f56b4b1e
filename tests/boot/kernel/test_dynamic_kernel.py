"""Kernels with Dynamic PAMT of their own: get and put are run, refcounts audited, failures named.

``build-dynamic`` and ``build-v2`` beside the build of Linux 7.3.4 (patches/README.md).
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
)
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.boot.exerciser import Exercise, exports, parse_exercise
from dpamt.boot.forced import parse_forced
from dpamt.boot.hold import parse_hold
from dpamt.boot.outcome import DYNAMIC, Booted, BootOptions
from dpamt.boot.schedule import exercise_of
from dpamt.boot.session import boot
from dpamt.cli.main import main
from dpamt.errors import InputError
from dpamt.host.core.init import tdx_enable
from dpamt.host.designs import merged
from dpamt.module.view import ModuleView
from dpamt.plan.expect.cases import LAUNCHED, case_of_tds
from dpamt.plan.expect.expected import expect
from dpamt.plan.expect.td_range import InUse
from dpamt.plan.mix import parse_mix
from dpamt.report.boot_text import boot_text
from tests.host.rig import Host

Boot = Callable[..., Booted]
ADD_BUSY = "TDH.PHYMEM.PAMT.ADD:answer=TDX_OPERAND_BUSY:nth=3"
REMOVE_BUSY = "TDH.PHYMEM.PAMT.REMOVE:answer=TDX_OPERAND_BUSY:nth=2"
ADD_THAT_WAS_NONE = "TDH.PHYMEM.PAMT.ADD:answer=TDX_SUCCESS:nth=1"


def built(build: Path, variant: str) -> Path:
    """The build of a variant, beside that of the kernel as it is."""
    found = build.parent / f"build-{variant}"
    if not (found / "vmlinux").exists():
        pytest.skip(f"no {found.name} beside the kernel: make test-kernel builds one")
    return found


@pytest.fixture(scope="session")
def dynamic(build: Path) -> Path:
    return built(build, "dynamic")


@pytest.fixture(scope="session")
def with_v2s_put(build: Path) -> Path:
    return built(build, "v2")


def run(build: Path, exercise: str | Exercise | None = None, **options: Any) -> Booted:
    chosen = parse_exercise(exercise) if isinstance(exercise, str) else exercise
    given = {"timeout": 120.0, **options}
    return boot(BootOptions(build / "vmlinux", exercise=chosen, build=build, **given))


def names(found: Booted) -> set[str]:
    return {line.partition(":")[0] for line in found.findings}


def test_a_kernel_without_is_refused(build: Path) -> None:
    assert "tdx_pamt_get" not in exports(build)
    with pytest.raises(InputError, match="exports no tdx_pamt_get; expected one with Dynamic"):
        run(build, "life:design=kernel")


KVM_ASKS = frozenset(
    {
        "tdx_supports_dynamic_pamt",
        "tdx_alloc_control_page",
        "tdx_free_control_page",
        "tdx_topup_pamt_cache",
        "tdx_free_pamt_cache",
        "tdx_pamt_get",
        "tdx_pamt_put",
    }
)


def test_kvms_half_is_built_and_finds_what_it_asks_of_the_core(dynamic: Path) -> None:
    """The modules that were built: each symbol that one needs is in the kernel or in another."""
    there = set(exports(dynamic))
    needs = {}
    for name in ("virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-intel.ko"):
        with (dynamic / name).open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            symbols = [(one.name, one["st_shndx"]) for one in table.iter_symbols() if one.name]
        needs[name] = {symbol for symbol, where in symbols if where == "SHN_UNDEF"}
        there |= {symbol for symbol, where in symbols if where != "SHN_UNDEF"}
    assert needs["arch/x86/kvm/kvm-intel.ko"] >= KVM_ASKS
    assert set.union(*needs.values()) <= there


@pytest.mark.parametrize(("cpus", "mib", "nodes"), [(1, 4096, 1), (4, 12000, 2)])
@pytest.mark.parametrize("design", ["static", "merged"])
def test_the_log_is_that_of_dpamts_own_host(
    design: str, cpus: int, mib: int, nodes: int, request: pytest.FixtureRequest
) -> None:
    """Line for line on the same memory map; the test kernels are built without ACPI S3."""
    kernel = request.getfixturevalue("build" if design == "static" else "dynamic")
    found = run(kernel, cpus=cpus, memory=mib << 20, nodes=nodes)
    assert found.clean, (found.findings, found.complaints)
    assert found.machine is not None
    host = Host(found.machine, design)
    assert tdx_enable(host.kernel) == 0
    said = [line for line in found.console if line.startswith("virt/tdx: ")]
    assert said == [line for line in host.log if "ACPI S3" not in line]
    assert ("virt/tdx: Enable Dynamic PAMT" in said) is (design == "merged")


@pytest.mark.parametrize("text", ["life:threads=2:rounds=2", "hammer:rounds=2000:use-every=20"])
def test_its_own_get_and_put(text: str, dynamic: Path) -> None:
    found = run(dynamic, text)
    assert found.clean, (found.findings, found.complaints)
    assert found.module is not None
    assert found.module.pamt.dynamic
    assert not ModuleView(found.module).pairs()
    assert found.told is not None
    assert (found.told.design, found.told.counted) == ("kernel", 0)
    callers = {call.caller for call in found.calls if call.leaf == TDH_PHYMEM_PAMT_ADD}
    assert callers
    assert all("pamt" in caller for caller in callers)
    assert (found.audit.name, found.audit.wrong) == ("dpamt_refcounts", 0)
    assert found.audit.points > 2
    report = boot_text(BootOptions(dynamic / "vmlinux"), found, None, None, False)
    points = f"refcounts audited at {found.audit.points:,} quiet points: clean (dpamt_refcounts)"
    assert points in report
    assert "failed: 0x" not in report


def test_pages_and_pairs_of_a_td_are_what_dpamt_expect_says(dynamic: Path) -> None:
    """Page for page, when as much of the TD's 2 MiB is in use as ever, and when it is gone."""
    found = run(dynamic, "life:threads=1")
    assert found.clean, (found.findings, found.complaints)
    done = [call.leaf for call in found.calls if not call.status]
    mapped, gone = Counter(done[: done.index(TDH_MEM_RANGE_BLOCK)]), Counter(done)
    memory = mapped[TDH_MEM_PAGE_ADD] + mapped[TDH_MEM_PAGE_AUG]
    control = sum(
        mapped[leaf] for leaf in (TDH_MNG_CREATE, TDH_MNG_ADDCX, TDH_VP_CREATE, TDH_VP_ADDCX)
    )
    share = memory / PAGES_PER_2M
    case = case_of_tds([parse_mix("2MiB/1vcpu")])
    expectation = expect(case, in_use=InUse(share, share))
    (launched,) = (one for one in expectation.checkpoints if one.checkpoint.name == LAUNCHED)
    closed = expectation.checkpoints[-1]
    assert launched.pages_least == launched.pages_most
    pages = launched.pages_most
    assert pages.control == control
    assert pages.sept == mapped[TDH_MEM_SEPT_ADD]
    assert (pages.guest_4k, pages.guest_2m) == (memory, 0)
    pairs = mapped[TDH_PHYMEM_PAMT_ADD] - mapped[TDH_PHYMEM_PAMT_REMOVE]
    assert launched.pairs_least <= pairs <= launched.pairs_most
    assert closed.pairs_least == closed.pairs_most == 0
    assert gone[TDH_PHYMEM_PAMT_ADD] == gone[TDH_PHYMEM_PAMT_REMOVE]


@pytest.mark.parametrize(
    ("bug", "named"), [("put-too-many", "bad-remove"), ("missing-get", "missing-pair")]
)
def test_a_seeded_bug_around_them(bug: str, named: str, dynamic: Path) -> None:
    found = run(dynamic, f"hammer:rounds=2000:use-every=10:bug={bug}", cpus=4)
    assert {named, "bad-remove"} & names(found)
    assert any(complaint.kind == "WARNING" for complaint in found.complaints)


def test_an_add_that_was_none_is_named_by_the_audit(dynamic: Path) -> None:
    """The kernel is told that it went well, and the module never saw it."""
    found = run(dynamic, "life:threads=1", forced=(parse_forced(ADD_THAT_WAS_NONE),))
    assert any(line.endswith("and it has no pair") for line in found.findings), found.findings
    assert found.audit.wrong


def test_a_remove_that_was_busy_is_a_leak_named_by_the_audit(dynamic: Path) -> None:
    found = run(dynamic, "life:threads=1:rounds=3", forced=(parse_forced(REMOVE_BUSY),))
    leaks = [line for line in found.findings if line.startswith("leak: region")]
    assert len(leaks) == 1
    assert leaks[0].endswith("its refcount is 1, and TDX uses 0 of its pages")
    assert found.told is not None
    assert found.told.counted == 1
    assert [one.kind for one in found.complaints] == ["WARNING"]  # WARN_ON_ONCE, under the lock
    assert "tdx_pamt_put" in found.complaints[0].text
    assert found.audit.wrong == 1


def test_an_add_that_was_busy_is_an_error_and_nothing_is_counted(dynamic: Path) -> None:
    found = run(dynamic, "life:threads=1:rounds=3", forced=(parse_forced(ADD_BUSY),))
    assert "tdx_pamt_get" in found.complaints[0].text
    assert found.told is not None
    assert found.told.counted == 0
    assert found.audit.wrong == 0
    assert not names(found) & {"leak", "at-rest", "missing-pair", "bad-remove"}


def test_counters_with_another_name_are_told_loudly(dynamic: Path, tmp_path: Path) -> None:
    """The symbol renamed in a copy of vmlinux; everything else is the same."""
    vmlinux = tmp_path / "vmlinux"
    data = (dynamic / "vmlinux").read_bytes()
    assert data.count(b"\0dpamt_refcounts\0") == 1
    vmlinux.write_bytes(data.replace(b"\0dpamt_refcounts\0", b"\0xpamt_refcounts\0"))
    found = boot(BootOptions(vmlinux, timeout=120.0))
    assert not found.clean
    (told,) = found.findings
    assert told.startswith("refcounts NOT audited: the kernel has tdx_pamt_get, but its counters")
    with pytest.raises(InputError, match="its counters are not found"):
        boot(BootOptions(vmlinux, exercise=parse_exercise("life"), build=dynamic))


WINDOWS = tuple(
    parse_hold(f"0@tdx_pamt_put/_raw_spin_lock:until=1:2:nth={nth}", 2) for nth in (20, 60)
)
"""CPU 0 has counted down to 0 and stands before its put's lock until CPU 1 has come to get, where
it adds, and then to its own put's lock.  Whoever has the lock first removes the pair; so does the
other.  With a pause, so that no thread is done before the other has begun."""
HAMMER = "hammer:threads=2:rounds=600:use-every=1000000:pause=500"


def test_v2s_put_removes_a_pair_twice(with_v2s_put: Path) -> None:
    """Counted down to 0, and not locked yet: why v2 was given up, in the kernel's own code."""
    found = run(with_v2s_put, HAMMER, hold=WINDOWS)
    assert any(line.startswith("bad-remove: TDH.PHYMEM.PAMT.REMOVE") for line in found.findings), (
        found.findings,
        found.held,
    )
    removed = {call.caller for call in found.calls if call.leaf == TDH_PHYMEM_PAMT_REMOVE}
    assert all("pamt" in caller for caller in removed)


def test_a_documented_hold_rule_succeeds(build: Path) -> None:
    """Of docs/boot.md, on the static kernel, with the exerciser's own get and put."""
    rule = parse_hold("0@TDH.MNG.CREATE:until=1:3", 2)
    exercise = "hammer:threads=2:rounds=200:use-every=10"
    found = run(build, exercise, hold=(rule,), pamt=DYNAMIC, cpus=2)
    assert found.clean, (found.findings, found.complaints)
    assert found.held == [1]


def test_the_merged_put_does_not(dynamic: Path) -> None:
    found = run(dynamic, HAMMER, hold=WINDOWS)
    assert found.clean, (found.findings, found.complaints)
    assert found.held == [1, 1]
    removed = [call for call in found.calls if call.leaf == TDH_PHYMEM_PAMT_REMOVE]
    assert removed
    assert not any(call.status for call in removed)


def test_a_counterexample_is_tried_on_the_kernels_own(dynamic: Path, tmp_path: Path) -> None:
    """That of a put that goes without the lock: merged does not do that, and departs."""
    source = Path(merged.__file__).read_text(encoding="utf-8")
    locked = "    lock.lock()\n    count = refcount.load()\n"
    assert source.count(locked) == 1
    mine = tmp_path / "mine.py"
    body = source.replace(locked, "    count = refcount.load()\n    lock.lock()\n")
    mine.write_text(body, encoding="utf-8")
    kept = tmp_path / "kept.json"
    assert main(["verify", str(mine), "--cpus", "2", "--save", str(kept)]) == 1
    found = json.loads(kept.read_text())["designs"][0]["trials"][0]["counterexamples"][0]
    came = run(dynamic, exercise_of(found, "kernel"), replay=found, cpus=2)
    assert came.followed is not None
    assert came.followed.departure
    assert names(came) == {"replay"}
    assert came.audit.wrong == 0
