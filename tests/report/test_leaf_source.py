"""The reading of the leaves' source, held against what the leaves do and against the tables."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.abi.pages import PAGE_TYPE_NAMES, PAGES_PER_1G, PAGES_PER_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, status_name
from dpamt.module.leaves.table import HANDLERS
from dpamt.module.module import TdxModule
from dpamt.module.pamt import TYPE_MASK, Pamt
from dpamt.module.processor import LogicalProcessor
from dpamt.module.view import ModuleView
from dpamt.report.leaf_source.pamt_changes import changes_pamt, gives_hint
from dpamt.report.leaf_source.scope import UNKNOWN, Scope, definition, negated
from dpamt.report.leaf_source.steps import LeafSteps, leaf_steps
from dpamt.trace.decode_details import details_of
from dpamt.trace.vector_file import read_vectors
from dpamt.trace.vectors import replay
from dpamt.trace.why import Why, watching

DATA = Path(__file__).parents[1] / "data"
TABLES: dict[str, Any] = json.loads((DATA / "tdx-module-tables.json").read_text())
SCENARIOS = read_vectors(DATA / "module-vectors.jsonl")


def function(leaf: int) -> FunctionType:
    handler = HANDLERS[leaf]
    assert isinstance(handler, FunctionType)
    return handler


STEPS: dict[str, LeafSteps] = {LEAF_NAMES[leaf]: leaf_steps(function(leaf)) for leaf in HANDLERS}
REGISTER_RANGES = {"R9 to R11": ["R9", "R10", "R11"]}


def test_missing_pair_operands_are_those_of_the_module() -> None:
    found = {}
    for name, steps in STEPS.items():
        told = [c.details for c in steps.checks if c.status == "TDX_MISSING_PAMT_PAGE_PAIR"]
        if told:
            found[name] = [
                register for words in told for register in REGISTER_RANGES.get(words, [words])
            ]
    assert found == TABLES["missing_pair_operands"]


def test_hint_registers_are_those_of_the_module() -> None:
    order = ["RCX", "RDX", "R8", "R9", "R10", "R11", "R12", "R13"]
    found = {
        name: sorted(steps.hints, key=order.index) for name, steps in STEPS.items() if steps.hints
    }
    assert found == TABLES["hint_registers"]


def checks(name: str) -> list[tuple[str, str]]:
    return [(c.status.removeprefix("TDX_"), c.details) for c in STEPS[name].checks if c.status]


def test_order_of_pamt_add_is_that_of_the_module() -> None:
    """Source: Intel TDX module source (open release), tdh_phymem_pamt_add.c."""
    assert checks("TDH.PHYMEM.PAMT.ADD") == [
        ("OPERAND_INVALID", "RAX"),
        ("OPERAND_INVALID", "RCX"),
        ("OPERAND_INVALID", "RDX"),
        ("OPERAND_ADDR_RANGE_ERROR", "RDX"),
        ("OPERAND_INVALID", "R8"),
        ("OPERAND_ADDR_RANGE_ERROR", "R8"),
        ("OPERAND_ADDR_RANGE_ERROR", "RCX"),
        ("OPERAND_BUSY", "RCX"),
        ("HPA_RANGE_NOT_FREE", "RCX"),
        ("OPERAND_BUSY", "RDX"),
        ("PAGE_NOT_FREE", "RDX"),
        ("OPERAND_BUSY", "R8"),
        ("PAGE_NOT_FREE", "R8"),
        ("PAGE_NOT_FREE", "RDX"),
        ("PAGE_NOT_FREE", "R8"),
    ]


def test_order_of_pamt_remove_is_that_of_the_module() -> None:
    """Source: Intel TDX module source (open release), tdh_phymem_pamt_remove.c."""
    assert checks("TDH.PHYMEM.PAMT.REMOVE") == [
        ("OPERAND_INVALID", "RAX"),
        ("OPERAND_INVALID", "RCX"),
        ("OPERAND_ADDR_RANGE_ERROR", "RCX"),
        ("OPERAND_BUSY", "RCX"),
        ("NO_PAMT_PAGE_PAIR", "RCX"),
        ("PAMT_PAGE_NOT_EMPTY", "page 0 of the pair"),
        ("PAMT_PAGE_NOT_EMPTY", "page 1 of the pair"),
    ]


def test_the_end_of_demote_is_that_of_the_module() -> None:
    """The pair of DEMOTE: both formats, then both ranges, then each page, then both bits."""
    demote = checks("TDH.MEM.PAGE.DEMOTE")
    first = demote.index(("OPERAND_INVALID", "R12"))
    assert demote[first:] == [
        ("OPERAND_INVALID", "R12"),
        ("OPERAND_INVALID", "R13"),
        ("OPERAND_ADDR_RANGE_ERROR", "R12"),
        ("OPERAND_ADDR_RANGE_ERROR", "R13"),
        ("OPERAND_BUSY", "R12"),
        ("PAGE_NOT_FREE", "R12"),
        ("OPERAND_BUSY", "R13"),
        ("PAGE_NOT_FREE", "R13"),
        ("PAGE_NOT_FREE", "R12"),
        ("PAGE_NOT_FREE", "R13"),
    ]
    conditions = {check.when for check in STEPS["TDH.MEM.PAGE.DEMOTE"].checks[first + 4 :]}
    assert any("level != LEVEL_1G" in when for when in conditions)


class Watched:
    """A logical processor that keeps what it was asked, what it answered and why."""

    def __init__(self, lp: LogicalProcessor, seen: list[tuple[str, int, Why]]) -> None:
        self._lp = lp
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lp, name)

    def seamcall(self, rax: int, args: TdxModuleArgs) -> int:
        with watching() as whys:
            status = self._lp.seamcall(rax, args)
        if whys:
            self._seen.append((LEAF_NAMES.get(rax & RAX_LEAF_MASK, ""), status, whys[-1]))
        return status


@pytest.mark.parametrize("part", range(4))
def test_every_refusal_met_is_a_check_that_was_read(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded scenarios: status, operand, function and condition of each refusal stand there."""
    seen: list[tuple[str, int, Why]] = []
    real = TdxModule.processor
    monkeypatch.setattr(
        TdxModule, "processor", lambda module, index: Watched(real(module, index), seen)
    )
    for scenario in SCENARIOS[part::4]:
        if all("repeat" not in c or c["repeat"]["count"] < 600 for c in scenario.calls):
            replay(scenario)
    assert len(seen) > 80
    for name, status, why in seen:
        if why.path[-1] == "admit":
            continue
        details = details_of(status).removeprefix("operand ")
        matching = [
            check
            for check in STEPS[name].checks
            if (check.status, check.function) == (status_name(status), why.path[-1])
            and (check.details == details or details in REGISTER_RANGES.get(check.details, []))
        ]
        if not matching:  # bits 31:0 that the source does not fix, told in words
            matching = [
                check
                for check in STEPS[name].checks
                if (check.status, check.function) == (status_name(status), why.path[-1])
                and " " in check.details
            ]
        assert matching, (name, hex(status), why)
        assert status & STATUS_MASK


def types_of(module: TdxModule) -> dict[tuple[str, int], str]:
    """Page type of every PAMT entry that is in use, by level and page."""
    types = {}
    for page, use in ModuleView(module).used_pages().items():
        types["4K", page] = PAGE_TYPE_NAMES[use.type]
    for region, word in module.pamt.first_2m.non_zero():
        types["2M", region * PAGES_PER_2M] = PAGE_TYPE_NAMES[word.load() & TYPE_MASK]
    for block, word in module.pamt.first_1g.non_zero():
        types["1G", block * PAGES_PER_1G] = PAGE_TYPE_NAMES[word.load() & TYPE_MASK]
    return types


class Compared(Watched):
    """A logical processor that looks at all page types before and after each call."""

    def seamcall(self, rax: int, args: TdxModuleArgs) -> int:
        module = self._lp.module
        before = types_of(module)
        status = self._lp.seamcall(rax, args)
        after = types_of(module)
        for level, page in before.keys() | after.keys():
            now = after.get((level, page), "NDA")
            if before.get((level, page), "NDA") != now:
                self.changes.add((LEAF_NAMES[rax & RAX_LEAF_MASK], f"{level} {now}"))
        return status

    changes: set[tuple[str, str]] = set()  # noqa: RUF012  (one for the whole replay)


def test_every_change_of_a_page_type_met_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded scenarios: what becomes of PAMT entries is what the effects say, and no less."""
    real = TdxModule.processor
    monkeypatch.setattr(TdxModule, "processor", lambda module, i: Compared(real(module, i), []))
    Compared.changes.clear()
    for scenario in SCENARIOS:
        if all("repeat" not in c or c["repeat"]["count"] < 20 for c in scenario.calls):
            replay(scenario)
    assert len(Compared.changes) > 12
    kept = "the type it had"
    for name, change in Compared.changes:
        told = {item for effect in STEPS[name].effects for item in effect.types}
        assert change in told or f"{change[:2]} {kept}" in told, (name, change)
    told_and_met = {
        (name, item)
        for name, steps in STEPS.items()
        for effect in steps.effects
        for item in effect.types
        if item.startswith("4K") and kept not in item and effect.method.startswith("use")
    }
    assert told_and_met <= Compared.changes


def locks(name: str) -> list[tuple[str, str]]:
    return [
        (lock.operand, lock.words)
        for lock in STEPS[name].locks
        if "should the walk end there" not in lock.words and not lock.words.startswith("PAMT 1G")
    ]


def test_locks_of_aug_are_those_of_the_module() -> None:
    """TDR shared, OP_STATE shared, tree shared, entry, then the page: 4K, or 2M exclusively."""
    assert locks("TDH.MEM.PAGE.AUG") == [
        ("RDX", "PAMT 2M entry shared"),
        ("RDX", "PAMT 4K entry shared"),
        ("", "OP_STATE shared"),
        ("", "S-EPT tree shared"),
        ("", "S-EPT entry exclusive"),
        ("R8", "PAMT 2M entry shared"),
        ("R8", "PAMT 4K entry exclusive"),
        ("R8", "PAMT 2M entry shared"),
    ]
    promoted = [lock for lock in STEPS["TDH.MEM.PAGE.AUG"].locks if "walk end" in lock.words]
    assert {lock.function for lock in promoted} == {"lock_new_entry", "lock_new_2m_page"}


EXPECTED_TREE = {"TDH.MEM.RANGE.BLOCK": "exclusive", "TDH.MEM.PAGE.REMOVE": "shared"}


@pytest.mark.parametrize("name", EXPECTED_TREE)
def test_the_tree_is_locked_as_the_module_does(name: str) -> None:
    words = [lock.words for lock in STEPS[name].locks if "tree" in lock.words]
    assert words == [f"S-EPT tree {EXPECTED_TREE[name]}"]


# The reader itself.


def sample(level: int, hpa: int, other: int) -> int:
    found = level | 1
    again = found
    again = hpa
    if level == 3 or hpa:
        return found
    return again if other else 0


def scope(**known: Any) -> Scope:
    assert isinstance(sample, FunctionType)
    return Scope(sample, known, {"level": "LEVEL_3"})


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def test_what_is_known_and_what_is_not() -> None:
    known = scope(level=3)
    assert known.value(expression("level | 4")) == 7
    assert known.value(expression("level == 3")) is True
    assert known.value(expression("level == 3 or hpa")) is True
    assert known.value(expression("level != 3 and hpa")) is False
    assert known.value(expression("hpa")) is UNKNOWN
    assert known.value(expression("hpa == 3 or level == 4")) is UNKNOWN
    assert known.value(expression("1 if level == 3 else hpa")) == 1
    assert known.value(expression("hpa & 3 < 0")) is False
    assert known.value(expression("hpa < 0")) is UNKNOWN
    assert known.text(expression("level <= hpa")) == "LEVEL_3 <= hpa"
    assert definition(sample).name == "sample"


def test_a_name_is_known_while_it_is_assigned_once() -> None:
    known = scope(level=3)
    known.assign("found", [expression("level | 8")])
    assert known.value(expression("found")) == 11
    known.assign("found", [expression("hpa")])
    assert known.value(expression("found")) is UNKNOWN
    known.assign("loop", [expression("loop")])
    assert known.value(expression("loop")) is UNKNOWN
    known.assign("level", [expression("hpa")])
    assert known.value(expression("level")) is UNKNOWN


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("a == b", "a != b"),
        ("a < 0", "a >= 0"),
        ("a in b", "a not in b"),
        ("a is None", "a is not None"),
        ("not a", "a"),
        ("a", "not a"),
        ("a or b", "not (a or b)"),
    ],
)
def test_negation(text: str, opposite: str) -> None:
    assert negated(text) == opposite
    values: Iterator[tuple[int, int]] = ((a, b) for a in (0, 1) for b in (0, 1))
    if "in" not in text and "is" not in text:
        for a, b in values:
            assert bool(eval(text)) != bool(eval(opposite)), (a, b)


def test_which_methods_change_pamt_and_which_give_the_hint() -> None:
    methods = {name: m for name, m in vars(Pamt).items() if isinstance(m, FunctionType)}
    changing = {name for name, method in methods.items() if changes_pamt(method)}
    assert {"use_4k", "free_4k", "set_large", "split_2m", "merge_1g", "take_pair_page"} < changing
    assert not changing & {"walk", "find", "bitmap_bit", "in_range", "bepoch", "any_use_of"}
    assert {name for name, method in methods.items() if gives_hint(method)} >= {"free_4k"}


def unfollowed(lp: Any) -> None:
    lp.module.something(lp)


def unnamed_lock(lp: Any) -> None:
    lp.locks.exclusive(lp.module.a_lock_without_a_name)


@pytest.mark.parametrize(
    ("handler", "told"), [(unfollowed, "cannot follow"), (unnamed_lock, "no word for the lock")]
)
def test_what_cannot_be_read_is_not_passed_over(handler: FunctionType, told: str) -> None:
    with pytest.raises(LookupError, match=told):
        leaf_steps(handler)
