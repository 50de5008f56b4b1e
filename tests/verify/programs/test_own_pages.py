"""Pages by their names, refusals, packages: what is wrong with a design is told by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import STRADDLING, Choices
from dpamt.verify.programs.own_pages import demote_and_get, own_pages
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS, Problem
from dpamt.verify.programs.refusals import PAIR_LEAVES
from dpamt.verify.properties.named import (
    AT_REST,
    BUSY,
    DEADLOCK,
    DOUBLE_ADD,
    KERNEL,
    LEAK,
    LIVELOCK,
    PAGE,
    properties,
)
from dpamt.verify.verdict import Verdict, verify

ONE_LOCK = Path(__file__).parents[2] / "data" / "designs" / "one_lock.py"

REMOVE = "    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)\n    if status:\n"
WARN_REMOVE = '        kernel.log.warn_once("PAMT.REMOVE"'
RESET = "    tdx_quirk_reset_page(kernel, first)\n"
ADD = "        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])\n"
GIVE_BACK = "    if count or status:\n        free_pamt_pages(kernel, pages[0], pages[1])\n"
FREE_AGAIN = "    if status:\n        free_pamt_pages(kernel, pages[0], pages[1])\n"
NO_PAGES = "    if pages is None:\n        return -ENOMEM\n"

DEMOTE_THAT_FREES = """

def tdx_pamt_demote(kernel, cpu, tdr, gpa, pfn, sept, pages):
    lock = kernel.pamt_lock
    lock.lock()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    lock.unlock()
    if status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return status
"""
DEMOTE_AGAIN_AND_AGAIN = """

def tdx_pamt_demote(kernel, cpu, tdr, gpa, pfn, sept, pages):
    lock = kernel.pamt_lock
    status = 1
    while status:
        lock.lock()
        status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
        lock.unlock()
    return status
"""
IMPORT_DEMOTE = "from dpamt.host.core.demote import demote_and_count\n"


def changed(tmp_path: Path, *changes: tuple[str, str], more: str = "") -> Design:
    """one_lock.py with some of its text changed, each piece in the last place where it stands."""
    text = ONE_LOCK.read_text()
    for before, after in changes:
        at = text.rindex(before)
        text = text[:at] + after + text[at + len(before) :]
    if more:
        text = text.replace(
            "from dpamt.host.core.kernel", IMPORT_DEMOTE + "from dpamt.host.core.kernel"
        )
    path = tmp_path / "changed.py"
    path.write_text(text + more)
    return load_design(str(path))


def broken(problem: Problem, granularity: str = SEAMCALL) -> set[str]:
    return {
        name for name, said in said_of(problem, granularity).properties.items() if said == "fails"
    }


def said_of(problem: Problem, granularity: str = SEAMCALL) -> Verdict:
    return verify(problem, properties(), granularity)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(RESET, "")], {PAGE}),
        ([(GIVE_BACK, "")], {LEAK}),
        ([(GIVE_BACK, GIVE_BACK + FREE_AGAIN)], {PAGE}),
        (
            [
                (
                    NO_PAGES,
                    "    if pages is None:\n        kernel.allocator.free_page(pfn)\n"
                    "        return -ENOMEM\n",
                )
            ],
            {PAGE},
        ),
        (
            [
                (
                    "    tdx_quirk_reset_page(kernel, second)\n",
                    "    tdx_quirk_reset_page(kernel, pfn)\n",
                )
            ],
            {PAGE},
        ),
        ([("        lock.unlock()\n" + WARN_REMOVE, WARN_REMOVE)], {DEADLOCK}),
        (
            [
                (
                    "        lock.unlock()\n" + WARN_REMOVE,
                    "        refcount.store(0)\n        lock.unlock()\n" + WARN_REMOVE,
                )
            ],
            {AT_REST},
        ),
        ([(ADD, ADD + "        while status:\n    " + ADD)], {LIVELOCK}),
        ([("    if not status:\n        refcount", "    if True:\n        refcount")], {AT_REST}),
    ],
    ids=[
        "no reset",
        "not given back",
        "freed twice after a refused ADD",
        "another page freed",
        "another page reset",
        "a lock kept after a refused REMOVE",
        "a count lost after a refused REMOVE",
        "ADD until it succeeds",
        "counted after a refused ADD",
    ],
)
def test_what_one_change_breaks_is_told_by_its_name(
    tmp_path: Path, changes: list[tuple[str, str]], expected: set[str]
) -> None:
    assert expected <= broken(own_pages(changed(tmp_path, *changes)))


@pytest.mark.parametrize(
    ("more", "expected"), [(DEMOTE_THAT_FREES, {PAGE}), (DEMOTE_AGAIN_AND_AGAIN, {LIVELOCK})]
)
def test_a_demote_that_is_refused(tmp_path: Path, more: str, expected: set[str]) -> None:
    assert broken(demote_and_get(changed(tmp_path, more=more)), WORDS) == expected


def test_a_lock_that_is_kept_at_the_end_is_told_where_nobody_waits(tmp_path: Path) -> None:
    kept = changed(tmp_path, ("        lock.unlock()\n" + WARN_REMOVE, WARN_REMOVE))
    texts = {found.broken: found.text for found in said_of(own_pages(kept, cpus=1)).counterexamples}
    assert "pamt_lock is held, and every thread has ended" in texts[DEADLOCK]


def test_a_lock_of_each_package_is_two_locks(tmp_path: Path) -> None:
    """Every CPU its own package: one lock for each does not exclude the other."""
    lock = "    lock = kernel.pamt_lock\n"
    own = "    lock = kernel.pamt.region_locks.at(cpu.package)\n"
    design = changed(tmp_path, (lock, own), (lock, own))
    assert DOUBLE_ADD in broken(own_pages(design))
    assert DOUBLE_ADD in broken(regions(design, (2,)))


@pytest.mark.parametrize(
    ("which", "expected"), [("0, 1", set[str]()), ("0,", {BUSY, KERNEL}), ("1,", {BUSY, KERNEL})]
)
def test_the_regions_of_both_pages_are_to_be_locked(
    tmp_path: Path, which: str, expected: set[str]
) -> None:
    """A get that takes the locks of its target's region and of those of a pair's pages."""
    takes = (
        "    status = 0\n"
        f"    chosen = [pfn, *(pages[n] for n in ({which}))]\n"
        "    regions = sorted({page // PAGES_PER_2M for page in chosen})\n"
        "    for index in range(len(regions)):\n"
        "        kernel.pamt.region_locks.at(regions[index]).lock()\n"
    )
    drops = (
        "    for index in range(len(regions)):\n"
        "        kernel.pamt.region_locks.at(regions[index]).unlock()\n"
    )
    lock = "    lock = kernel.pamt_lock\n"
    warns = '    if status:\n        kernel.log.warn_once("PAMT.ADD"'
    design = changed(
        tmp_path,
        (lock, "    lock = kernel.pamt.region_locks.at(pfn // PAGES_PER_2M)\n"),
        (lock, ""),
        ("    lock.unlock()\n" + warns, drops + warns),
        ("    status = 0\n    lock.lock()\n", takes),
    )
    said = broken(regions(design, (1, 1, 1), STRADDLING), LOCKS)
    assert said >= expected
    assert bool(said) == bool(expected)


@pytest.mark.parametrize("make", [own_pages, demote_and_get])
def test_refusals_are_no_answers_of_the_module(make: Callable[[Design], Problem]) -> None:
    said = said_of(make(load_design("merged")))
    assert said.verdict == "holds"
    assert said.bounds["allocations that fail or SEAMCALLs that are refused"] == "at most 1"
    assert "TDH.PHYMEM.PAMT.REMOVE" in said.bounds["SEAMCALLs that may be refused"]


def test_a_pair_that_was_not_removed_stays_with_its_count() -> None:
    """And only then: two refusals leave no more than one."""
    design = load_design("merged")
    for refusals in (0, 1, 2):
        problem = own_pages(design, choices=Choices(refusals, refused=PAIR_LEAVES, memory=False))
        assert said_of(problem).verdict == "holds", refusals


def test_regions_have_numbers_above_those_of_the_first_gib() -> None:
    world = own_pages(load_design("merged")).world
    assert world is not None
    assert world.free_region(0) >> 9 > 511
    assert {cpu.package for cpu in world.kernel.cpus} == {0, 1}
