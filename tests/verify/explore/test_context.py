"""What may not sleep, and the order of locks: broken by what code does, whatever the schedule."""

import re
from pathlib import Path

import pytest

from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions, softirq
from dpamt.verify.programs.problem import SEAMCALL, WORDS
from dpamt.verify.properties.named import CONTEXT, DEADLOCK, LOCK_ORDER, properties
from dpamt.verify.verdict import Verdict, verify
from tests.verify.judge.problems import one_by_one, plain
from tests.verify.judge.search import Judge

ONE_LOCK = Path(__file__).parents[2] / "data" / "designs" / "one_lock.py"
TEXT = ONE_LOCK.read_text(encoding="utf-8")
IN_SOFTIRQ = TEXT.replace("DYNAMIC_PAMT: Final = True\n", 'SEPT_PUT: Final = "rcu"\n')


def design_of(text: str, tmp_path: Path) -> Design:
    assert text != TEXT
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return load_design(str(path))


def in_get(old: str, new: str, text: str = TEXT) -> str:
    assert old in text
    return text.replace(old, new, 1)


def verdict(design: Design) -> Verdict:
    return verify(regions(design, (2,)), properties(), WORDS)


def broken(said: Verdict) -> set[str]:
    return {name for name, how in said.properties.items() if how == "fails"}


def text_of(said: Verdict, name: str) -> str:
    return next(one.text for one in said.counterexamples if one.broken == name)


ALLOCATES = in_get(
    """    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
""",
    "",
)
ALLOCATES = in_get(
    "    lock.lock()\n",
    """    lock.lock()
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        lock.unlock()
        return -ENOMEM
""",
    ALLOCATES,
)
MUTEX = in_get("    lock.lock()\n", "    lock.lock()\n    kernel.tdx_lock.lock()\n")
MUTEX = in_get("    lock.unlock()\n", "    kernel.tdx_lock.unlock()\n    lock.unlock()\n", MUTEX)
NESTED = re.sub(
    r"^( +)lock\.lock\(\)$",
    r"\1kernel.tdx_lock.lock()\n\1outer.lock()\n\1lock.lock()",
    TEXT,
    flags=re.MULTILINE,
)
"""Under a mutex nobody can deadlock on the two locks below it, and the two orders are there."""
NESTED = re.sub(
    r"^( +)lock\.unlock\(\)$",
    r"\1lock.unlock()\n\1outer.unlock()\n\1kernel.tdx_lock.unlock()",
    NESTED,
    flags=re.MULTILINE,
)
TWO_ORDERS = in_get(
    "    lock = kernel.pamt_lock\n",
    "    lock, outer = kernel.pamt_lock, kernel.pamt.region_locks.at(1)\n",
    NESTED,
)
ONE_ORDER = TWO_ORDERS.replace(
    "    lock = kernel.pamt_lock\n",
    "    lock, outer = kernel.pamt_lock, kernel.pamt.region_locks.at(1)\n",
)
TWO_ORDERS = TWO_ORDERS.replace(
    "    lock = kernel.pamt_lock\n",
    "    outer, lock = kernel.pamt_lock, kernel.pamt.region_locks.at(1)\n",
)


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        (ALLOCATES, CONTEXT, "alloc_page(GFP_KERNEL) for tdx_pamt_get, first page may sleep"),
        (MUTEX, CONTEXT, "mutex_lock(tdx_lock) may sleep, in tdx_pamt_get (mine.py:"),
        (
            in_get("    lock.lock()\n", "    lock.lock_irqsave()\n"),
            CONTEXT,
            "a thread ends with interrupts off by pamt_lock",
        ),
        (
            in_get("    lock.unlock()\n", "    lock.unlock_bh()\n"),
            CONTEXT,
            "unlock_bh of pamt_lock in tdx_pamt_get",
        ),
        (TWO_ORDERS, LOCK_ORDER, "is taken in tdx_pamt_put (mine.py:"),
    ],
)
def test_a_broken_rule_names_both_places(
    text: str, expected: str, said: str, tmp_path: Path
) -> None:
    found = verdict(design_of(text, tmp_path))
    assert expected in broken(found)
    assert said in text_of(found, expected)
    assert text_of(found, expected).count("mine.py:") >= (2 if "while" in said else 1)
    assert DEADLOCK not in broken(found)


@pytest.mark.parametrize("text", [ALLOCATES, MUTEX, TWO_ORDERS, ONE_ORDER])
def test_a_plain_search_says_the_same(text: str, tmp_path: Path) -> None:
    design = design_of(text, tmp_path)
    judge = Judge(one_by_one(design, (2,)), properties())
    said = verify(regions(design, (2,)), properties(), SEAMCALL)
    assert judge.explore(SEAMCALL).broken == broken(said)


@pytest.mark.parametrize(
    "text",
    [
        ONE_ORDER,
        TEXT.replace("lock.lock()", "lock.lock_irqsave()").replace(
            "lock.unlock()", "lock.unlock_irqrestore()"
        ),
        TEXT.replace(
            "    lock.lock()\n",
            "    taken = False\n    while not taken:\n        taken = lock.trylock()\n",
        ),
    ],
)
def test_what_keeps_the_rules_holds(text: str, tmp_path: Path) -> None:
    found = verdict(design_of(text, tmp_path))
    assert not broken(found), found.counterexamples[0].text


def test_a_trylock_whose_answer_nobody_heeds_is_no_lock(tmp_path: Path) -> None:
    text = TEXT.replace("    lock.lock()\n", "    lock.trylock()\n")
    assert broken(verdict(design_of(text, tmp_path)))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (("lock()", "unlock()"), {DEADLOCK, LOCK_ORDER}),
        (("lock_bh()", "unlock_bh()"), set[str]()),
        (("lock_irqsave()", "unlock_irqrestore()"), set[str]()),
    ],
)
def test_a_lock_of_a_softirq_is_taken_with_softirqs_off(
    form: tuple[str, str], expected: set[str], tmp_path: Path
) -> None:
    text = IN_SOFTIRQ.replace("lock.lock()", f"lock.{form[0]}")
    design = design_of(text.replace("lock.unlock()", f"lock.{form[1]}"), tmp_path)
    said = verify(softirq(design), properties(), WORDS)
    assert broken(said) == expected
    judge = Judge(plain(softirq(design)), properties())
    assert judge.explore(WORDS).broken == expected


def test_the_fault_path_takes_nothing_that_sleeps_under_mmu_lock(tmp_path: Path) -> None:
    """A get that asks the allocator, whatever pool it is given, does so under mmu_lock."""
    from dpamt.verify.programs.faults import faults

    text = in_get("alloc_pamt_pages(kernel, cache)", "alloc_pamt_pages(kernel, None)")
    search = search_of(faults(design_of(text, tmp_path), 1), properties(), SEAMCALL)
    found = search.explore()
    assert "mmu_lock held since kvm_tdp_mmu_page_fault" in found.faults[CONTEXT].text
