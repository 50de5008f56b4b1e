"""TDs from kernel threads of a real kernel: clean where the code is right, else caught by name."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.abi.leaves import TDH_MNG_CREATE, TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY
from dpamt.boot.exerciser import parse_exercise
from dpamt.boot.outcome import DYNAMIC, GDB, STATIC, Booted
from dpamt.module.injection_rules import parse_rule
from dpamt.module.view import ModuleView

Boot = Callable[..., Booted]


@pytest.fixture
def exercised(booted: Boot, build: Path) -> Boot:
    def exercised(text: str, **options: object) -> Booted:
        given = {"pamt": DYNAMIC, "cpus": 2, "timeout": 400.0, "build": build, **options}
        return booted(exercise=parse_exercise(text), **given)

    return exercised


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_whole_lives(design: str, exercised: Boot) -> None:
    found = exercised(f"life:design={design}:threads=4:rounds=2", cpus=4)
    assert found.clean, (found.findings, found.complaints)
    assert found.told is not None
    assert [thread.did for thread in found.told.threads] == [2] * 4
    assert sum(n for (leaf, status), n in found.counts.items() if leaf == TDH_MNG_CREATE) == 8
    pairs = Counter(leaf for leaf, _ in found.counts.elements())
    assert pairs[TDH_PHYMEM_PAMT_ADD] == pairs[TDH_PHYMEM_PAMT_REMOVE] > 0
    assert found.module is not None
    assert not ModuleView(found.module).pairs()


def test_static_pamt_needs_no_pairs(exercised: Boot) -> None:
    found = exercised("life:design=none", pamt=STATIC)
    assert found.clean, (found.findings, found.complaints)


def test_through_the_gdb_stub(exercised: Boot) -> None:
    found = exercised("life:threads=1", transport=GDB)
    assert found.clean, (found.findings, found.complaints)


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_two_threads_hammer_one_region(design: str, exercised: Boot) -> None:
    """100,000 rounds of get, use and put."""
    found = exercised(f"hammer:design={design}:rounds=50000", timeout=900.0)
    assert found.clean, (found.findings, found.complaints)
    assert found.told is not None
    assert [thread.did for thread in found.told.threads] == [50_000] * 2
    assert found.told.counted == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hammer:rounds=2000:use-every=10:bug=put-too-many", {"bad-remove"}),
        ("hammer:rounds=2000:use-every=10:bug=missing-get", {"missing-pair", "bad-remove"}),
        (
            "hammer:design=v6:threads=4:rounds=4000:use-every=100:bug=unlocked-count",
            {"missing-pair", "bad-remove", "at-rest"},
        ),
    ],
)
def test_a_seeded_bug_is_caught_by_name(text: str, names: set[str], exercised: Boot) -> None:
    found = exercised(text, cpus=4)
    caught = {line.partition(":")[0] for line in found.findings}
    assert caught & names, found.findings


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_busy_now_and_then_is_what_the_rules_say(design: str, exercised: Boot) -> None:
    """A failed ADD fails its get; a failed REMOVE leaves count and pair; one WARN each at most."""
    rule = "TDH.PHYMEM.PAMT.*:busy=RCX:share=0.01:seed=5"
    found = exercised(
        f"hammer:design={design}:rounds=3000:use-every=100", inject=(parse_rule(rule),)
    )
    assert found.told is not None
    busy = {
        leaf: sum(
            n
            for (which, status), n in found.counts.items()
            if which == leaf and status & STATUS_MASK == TDX_OPERAND_BUSY
        )
        for leaf in (TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE)
    }
    assert sum(busy.values()) == found.injected[0][2] > 0
    failed = sum(thread.failed for thread in found.told.threads)
    assert failed == busy[TDH_PHYMEM_PAMT_ADD]
    warned = Counter(name for name, _ in found.told.warnings)
    assert warned["PAMT.ADD"] == min(1, busy[TDH_PHYMEM_PAMT_ADD])
    assert warned["PAMT.REMOVE"] == min(1, busy[TDH_PHYMEM_PAMT_REMOVE])
    assert not any(line.startswith(("missing-pair", "double-add")) for line in found.findings)


def test_a_hostile_guest_is_refused(exercised: Boot) -> None:
    found = exercised("hostile:rounds=5")
    assert found.ended == "reboot"
    assert not found.complaints
    assert found.told is not None
    assert [thread.did for thread in found.told.threads] == [5 * 199] * 2


def test_the_known_warning_of_a_cpu_that_goes_offline(exercised: Boot) -> None:
    """tdx_cpu_flush_cache() asserts that preemption is off, and its caller has it on."""
    found = exercised("life:threads=1:offline=1")
    (warning,) = found.complaints
    assert warning.kind == "WARNING"
    assert "arch/x86/virt/vmx/tdx/tdx.c" in warning.text
    assert any(frame.startswith("tdx_offline_cpu+") for frame in warning.stack)
    assert found.told is not None
    assert found.told.offline == 1
