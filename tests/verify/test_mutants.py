"""Single lines of merged and v6 changed for the worse: the verifier names what that breaks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import dpamt
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, CROSSED, Choices
from dpamt.verify.programs.problem import SEAMCALL, Problem
from dpamt.verify.properties.named import (
    AT_REST,
    BAD_REMOVE,
    DEADLOCK,
    DOUBLE_ADD,
    KERNEL,
    LEAK,
    LIVELOCK,
    MISSING,
    properties,
)
from dpamt.verify.verdict import verify

DESIGNS: Final = Path(dpamt.__file__).parent / "host" / "designs"


class Mutant(NamedTuple):
    """A line of a design (which of those that read so, from 1 on), what stands there instead, and
    a property that breaks; or, with no property, why nothing can break."""

    design: str
    line: str
    mutated: str
    broken: str
    which: int = 1
    equivalent: str = ""


GET_AND_PUT_OF_MERGED: Final = [
    # get
    Mutant("merged", "return -ENOMEM", "return 0", MISSING),
    Mutant("merged", "lock.lock()", "pass", KERNEL, 1),
    Mutant("merged", "raised = refcount.inc_not_zero()", "raised = False", DOUBLE_ADD),
    Mutant("merged", "raised = refcount.inc_not_zero()", "raised = True", MISSING),
    Mutant("merged", "raised = refcount.inc_not_zero()", "raised = refcount.load()", BAD_REMOVE),
    Mutant("merged", "if raised:", "if not raised:", MISSING),
    Mutant("merged", "lock.unlock()", "pass", DEADLOCK, 1),
    Mutant("merged", "reset_and_free_pamt_pages(kernel, pages[0], pages[1])", "pass", LEAK, 1),
    Mutant("merged", "if status:", "if not status:", KERNEL, 1),
    Mutant("merged", "refcount.store(1)", "refcount.store(2)", LEAK),
    Mutant("merged", "refcount.store(1)", "refcount.store(0)", DOUBLE_ADD),
    Mutant("merged", "refcount.store(1)", "pass", DOUBLE_ADD),
    Mutant("merged", "refcount.store(1)", "refcount.add(1)", "", 1, "it is 0 under the lock"),
    Mutant("merged", "lock.unlock()", "pass", DEADLOCK, 3),
    # put
    Mutant("merged", "lock.lock()", "pass", KERNEL, 2),
    Mutant("merged", "count = refcount.load()", "count = 1", BAD_REMOVE),
    Mutant("merged", "count = refcount.load()", "count = 2", LEAK),
    Mutant("merged", "if count > 1:", "if count > 0:", LEAK),
    Mutant("merged", "if count > 1:", "if count > 2:", BAD_REMOVE),
    Mutant("merged", "if count > 1:", "if count == 1:", LEAK),
    Mutant("merged", "refcount.add(-1)", "pass", LEAK),
    Mutant("merged", "refcount.add(-1)", "refcount.store(0)", DOUBLE_ADD),
    Mutant("merged", "refcount.add(-1)", "refcount.add(1)", LEAK),
    Mutant("merged", "lock.unlock()", "pass", DEADLOCK, 4),
    Mutant("merged", "if status:", "if not status:", LEAK, 2),
    Mutant("merged", "refcount.store(0)", "refcount.store(1)", MISSING),
    Mutant("merged", "refcount.store(0)", "pass", MISSING),
    Mutant("merged", "lock.unlock()", "pass", DEADLOCK, 6),
    Mutant("merged", "reset_and_free_pamt_pages(kernel, first, second)", "pass", LEAK),
    Mutant(
        "merged",
        "status, first, second = tdx_pamt_remove(kernel, cpu, pfn)",
        "status, first, second = tdx_pamt_remove(kernel, cpu, pfn + PAGES_PER_2M)",
        BAD_REMOVE,
    ),
    Mutant(
        "merged",
        "status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])",
        "status = tdx_pamt_add(kernel, cpu, pfn + PAGES_PER_2M, pages[0], pages[1])",
        MISSING,
    ),
    Mutant(
        "merged",
        "status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])",
        "status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[0])",
        KERNEL,
    ),
    Mutant(
        "merged",
        "refcount = tdx_find_dpamt_refcount(kernel, pfn)",
        "refcount = kernel.dpamt_refcounts.at(pfn)",
        DOUBLE_ADD,
        1,
    ),
    Mutant(
        "merged",
        "refcount = tdx_find_dpamt_refcount(kernel, pfn)",
        "refcount = kernel.dpamt_refcounts.at(pfn // PAGES_PER_2M + 1)",
        LEAK,
        2,
    ),
    Mutant(
        "merged", "lock = kernel.dpamt_lock", "lock = kernel.pamt.region_locks.at(0)", BAD_REMOVE, 1
    ),
    Mutant(
        "merged", "lock = kernel.dpamt_lock", "lock = kernel.pamt.region_locks.at(0)", BAD_REMOVE, 2
    ),
    Mutant(
        "merged",
        "status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])",
        "lock.unlock(); status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1]); lock.lock()",
        DOUBLE_ADD,
    ),
    Mutant(
        "merged",
        "status, first, second = tdx_pamt_remove(kernel, cpu, pfn)",
        "lock.unlock(); status, first, second = tdx_pamt_remove(kernel, cpu, pfn); lock.lock()",
        MISSING,
    ),
]

GET_AND_PUT_OF_V6: Final = [
    # get
    Mutant("v6", "raised = refcount.inc_not_zero()", "raised = refcount.add(1) > 1", AT_REST),
    Mutant("v6", "if raised:", "if not raised:", MISSING),
    Mutant("v6", "return -ENOMEM", "return 0", MISSING),
    Mutant("v6", "lock.lock()", "pass", KERNEL),
    Mutant("v6", "count = refcount.load()", "count = 0", DOUBLE_ADD),
    Mutant("v6", "if count:", "if count > 1:", DOUBLE_ADD),
    Mutant("v6", "refcount.add(1)", "pass", BAD_REMOVE),
    Mutant("v6", "refcount.add(1)", "refcount.store(1)", BAD_REMOVE),
    Mutant("v6", "refcount.add(1)", "refcount.add(2)", LEAK),
    Mutant("v6", "if not status:", "if status:", LEAK),
    Mutant("v6", "refcount.store(1)", "refcount.store(2)", LEAK, 1),
    Mutant("v6", "refcount.store(1)", "refcount.add(1)", "", 1, "the count is 0 under the lock"),
    Mutant("v6", "refcount.store(1)", "pass", DOUBLE_ADD, 1),
    Mutant("v6", "lock.unlock()", "pass", DEADLOCK, 1),
    Mutant("v6", "if count or status:", "if status:", LEAK),
    Mutant("v6", "free_pamt_pages(kernel, pages[0], pages[1])", "pass", LEAK),
    # put
    Mutant(
        "v6", "last = atomic_dec_and_lock(refcount, lock)", "last = not refcount.add(-1)", KERNEL
    ),
    Mutant("v6", "if not last:", "if last:", KERNEL),
    Mutant("v6", "if status:", "if not status:", LEAK, 2),
    Mutant("v6", "lock.unlock()", "pass", DEADLOCK, 3),
    Mutant("v6", "free_pamt_pages(kernel, first, second)", "pass", LEAK),
    Mutant("v6", "refcount.store(1)", "pass", "", 2, "the module never refuses in these programs"),
    Mutant("v6", "lock = kernel.pamt_lock", "lock = kernel.pamt.region_locks.at(0)", BAD_REMOVE, 1),
    Mutant(
        "v6",
        "status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])",
        "refcount.store(1); status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])",
        MISSING,
    ),
    Mutant(
        "v6",
        "status, first, second = tdx_pamt_remove(kernel, cpu, pfn)",
        "lock.unlock(); status, first, second = tdx_pamt_remove(kernel, cpu, pfn); lock.lock()",
        DOUBLE_ADD,
    ),
]

MUTANTS: Final = GET_AND_PUT_OF_MERGED + GET_AND_PUT_OF_V6


class Switched(NamedTuple):
    """A design whose machine is set up by its own functions, and run by mutated ones."""

    design: Design
    now: dict[str, Design]

    def problem(self, make: Callable[[Design], Problem], mutant: Design) -> Problem:
        self.now["design"] = self.design
        problem = make(
            replace(
                self.design, tdx_pamt_get=self._get(), tdx_pamt_put=self._put(), source="mutant"
            )
        )
        self.now["design"] = mutant
        return problem

    def _get(self) -> Callable[[Kernel, Cpu, int, PamtCache | None], int]:
        now = self.now

        def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
            return now["design"].tdx_pamt_get(kernel, cpu, pfn, cache)

        return tdx_pamt_get

    def _put(self) -> Callable[[Kernel, Cpu, int], None]:
        now = self.now

        def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
            now["design"].tdx_pamt_put(kernel, cpu, pfn)

        return tdx_pamt_put


def mutated(mutant: Mutant, directory: Path) -> Design:
    """The design with that one line changed."""
    lines = (DESIGNS / f"{mutant.design}.py").read_text(encoding="utf-8").split("\n")
    found = [n for n, line in enumerate(lines) if line.strip() == mutant.line]
    at = found[mutant.which - 1]
    lines[at] = lines[at].replace(mutant.line, mutant.mutated)
    file = directory / f"{mutant.design}_mutant.py"
    file.write_text("\n".join(lines), encoding="utf-8")
    return load_design(str(file))


PROBLEMS: Final[tuple[Callable[[Design], Problem], ...]] = (
    lambda design: regions(design, (2,)),
    lambda design: regions(design, (3,)),
    lambda design: regions(design, (2,), APART, Choices(1)),
    lambda design: regions(design, (1, 1), CROSSED),
)


def broken_by(name: str, design: Design, until: str) -> set[str]:
    """What breaks: CPUs in one region, allocations failing, pairs crossed; enough when ``until`` is
    in it.
    """
    broken: set[str] = set()
    switched = Switched(load_design(name), {})
    for make in PROBLEMS:
        problem = switched.problem(make, design)
        said = verify(problem, properties(), SEAMCALL, most_states=20_000)
        broken |= {name for name, verdict in said.properties.items() if verdict == "fails"}
        if until in broken:
            break
    return broken


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.design}: {m.line} -> {m.mutated}")
def test_a_mutant_is_caught_by_name(mutant: Mutant, tmp_path: Path) -> None:
    broken = broken_by(mutant.design, mutated(mutant, tmp_path), mutant.broken)
    if mutant.equivalent:
        assert not broken
    else:
        assert mutant.broken in broken


@pytest.mark.parametrize("name", ["merged", "v6"])
def test_unchanged_nothing_breaks(name: str, tmp_path: Path) -> None:
    line = "if not kernel.dynamic_pamt:"
    unchanged = mutated(Mutant(name, line, line, ""), tmp_path)
    assert not broken_by(name, unchanged, "")


def test_there_are_enough_of_each() -> None:
    caught = [mutant for mutant in MUTANTS if mutant.broken]
    assert len(caught) >= 60
    assert len({(m.design, m.line, m.mutated, m.which) for m in MUTANTS}) == len(MUTANTS)
    assert LIVELOCK not in {m.broken for m in MUTANTS}
