"""A kernel with Dynamic PAMT of its own: its get and put are run, its refcounts are audited.

Linux 7.3 has none, and is told so; DPAMT_KERNEL_BUILD may name the build of one that has.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.boot.exerciser import exports, parse_exercise
from dpamt.boot.forced import parse_forced
from dpamt.boot.outcome import Booted
from dpamt.errors import InputError
from dpamt.module.view import ModuleView

Boot = Callable[..., Booted]


@pytest.fixture
def exercised(booted: Boot, build: Path) -> Boot:
    def exercised(text: str, **options: object) -> Booted:
        return booted(exercise=parse_exercise(text), build=build, timeout=400.0, **options)

    return exercised


@pytest.fixture
def has_dynamic_pamt(build: Path) -> None:
    if "tdx_pamt_get" not in exports(build / "vmlinux.symvers"):
        pytest.skip("this kernel has no Dynamic PAMT; DPAMT_KERNEL_BUILD may name one that has")


def test_a_kernel_without_is_refused(exercised: Boot, build: Path) -> None:
    if "tdx_pamt_get" in exports(build / "vmlinux.symvers"):
        pytest.skip("this kernel has Dynamic PAMT")
    with pytest.raises(InputError, match="exports no tdx_pamt_get; expected one with Dynamic"):
        exercised("life:design=kernel")


@pytest.mark.usefixtures("has_dynamic_pamt")
@pytest.mark.parametrize("text", ["life:threads=2:rounds=2", "hammer:rounds=2000:use-every=20"])
def test_its_own_get_and_put(text: str, exercised: Boot) -> None:
    found = exercised(text)
    assert found.clean, (found.findings, found.complaints)
    assert found.module is not None
    assert found.module.pamt.dynamic
    assert not ModuleView(found.module).pairs()
    assert found.told is not None
    assert (found.told.design, found.told.counted) == ("kernel", 0)
    callers = {call.caller for call in found.calls if call.leaf == TDH_PHYMEM_PAMT_ADD}
    assert callers
    assert all("pamt" in caller for caller in callers)


@pytest.mark.usefixtures("has_dynamic_pamt")
@pytest.mark.parametrize(
    ("bug", "named"), [("put-too-many", "bad-remove"), ("missing-get", "missing-pair")]
)
def test_a_seeded_bug_around_them(bug: str, named: str, exercised: Boot) -> None:
    found = exercised(f"hammer:rounds=2000:use-every=10:bug={bug}", cpus=4)
    assert {named, "bad-remove"} & {line.partition(":")[0] for line in found.findings}
    assert any(complaint.kind == "WARNING" for complaint in found.complaints)


@pytest.mark.usefixtures("has_dynamic_pamt")
def test_its_counts_are_held_against_the_modules_tree(exercised: Boot) -> None:
    """An ADD that the kernel is told went well, and that the module never saw."""
    rule = parse_forced("TDH.PHYMEM.PAMT.ADD:answer=TDX_SUCCESS:nth=1")
    found = exercised("life:threads=1", forced=(rule,))
    assert any(line.endswith("and it has no pair") for line in found.findings), found.findings
