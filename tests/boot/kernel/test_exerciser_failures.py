"""What threads of a real kernel do when pages run out or a SEAMCALL fails: nothing may be left."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.boot.exerciser import parse_exercise
from dpamt.boot.forced import parse_forced
from dpamt.boot.outcome import Booted
from dpamt.module.view import ModuleView

Boot = Callable[..., Booted]

BUILDING = (
    "TDH.MNG.CREATE",
    "TDH.MNG.KEY.CONFIG",
    "TDH.MNG.ADDCX",
    "TDH.MNG.INIT",
    "TDH.VP.CREATE",
    "TDH.VP.ADDCX",
    "TDH.VP.INIT",
    "TDH.MEM.SEPT.ADD",
    "TDH.MEM.PAGE.ADD",
    "TDH.MR.FINALIZE",
    "TDH.MEM.PAGE.AUG",
)
"""The SEAMCALLs that build a TD, in their order."""
SEVERAL = ("TDH.MNG.ADDCX", "TDH.VP.ADDCX", "TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.AUG")
"""Those that a TD takes several of: the third finds two that are the module's already."""


@pytest.fixture
def exercised(booted: Boot, build: Path) -> Boot:
    def exercised(text: str, **options: object) -> Booted:
        given = {"pamt": "dynamic", "cpus": 2, "timeout": 400.0, "build": build, **options}
        return booted(exercise=parse_exercise(text), **given)

    return exercised


def nothing_is_left(found: Booted) -> None:
    assert found.ended == "reboot"
    assert found.initialized is not None
    assert not found.complaints
    assert found.told is not None
    assert found.told.counted == 0
    assert found.module is not None
    view = ModuleView(found.module)
    assert not view.tds()
    assert not view.pairs()
    assert not view.check()
    leaves = Counter(leaf for (leaf, status), n in found.counts.items() if not status)
    assert leaves[TDH_PHYMEM_PAMT_ADD] == leaves[TDH_PHYMEM_PAMT_REMOVE]


@pytest.mark.parametrize("text", ["life:rounds=20:fail=1", "life:design=v6:rounds=20:fail=1"])
def test_pages_that_run_out_while_a_td_is_made(text: str, exercised: Boot) -> None:
    """By the kernel's own fault injection, in the exerciser's threads only."""
    found = exercised(text)
    nothing_is_left(found)
    assert found.clean, found.findings
    assert found.told is not None
    assert found.told.fail == 1
    assert sum(thread.scant for thread in found.told.threads) > 0
    assert not any(thread.failed for thread in found.told.threads)


def test_pages_that_run_out_in_get(exercised: Boot) -> None:
    found = exercised("hammer:rounds=1000:use-every=50:fail=20")
    nothing_is_left(found)
    assert found.told is not None
    assert all(t.scant > 0 and t.did + t.scant == 1000 for t in found.told.threads)


@pytest.mark.parametrize(("leaves", "nth"), [(BUILDING, 1), (SEVERAL, 3)])
def test_each_seamcall_of_a_td_fails_once(
    leaves: tuple[str, ...], nth: int, exercised: Boot
) -> None:
    """A life for each SEAMCALL that is refused, and one more that nothing befalls."""
    rules = tuple(parse_forced(f"{leaf}:answer=TDX_OPERAND_INVALID:nth={nth}") for leaf in leaves)
    found = exercised(f"life:threads=1:rounds={len(leaves) + 1}", forced=rules)
    nothing_is_left(found)
    assert [hits for _, _, hits in found.injected] == [1] * len(leaves)
    assert found.told is not None
    (thread,) = found.told.threads
    assert (thread.did, thread.failed) == (len(leaves) + 1, len(leaves))
    assert thread.first == leaves[0].removeprefix("TDH.").removeprefix("MEM.")
