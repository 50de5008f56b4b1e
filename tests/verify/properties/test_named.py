"""Which answer, event and line breaks which property: the whole table, written by hand.

Each SEAMCALL with each status, each kind of event, each line of an audit.  What the table does not
name breaks nothing.
"""

from typing import Final

import pytest

from dpamt.abi import status as s
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.verify.learn.automaton import Event
from dpamt.verify.properties.named import PROPERTY_NAMES, Property, properties

RETRIED: Final = {
    *("TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.ADD", "TDH.MEM.PAGE.AUG", "TDH.MEM.RANGE.BLOCK"),
    *("TDH.MEM.TRACK", "TDH.MEM.PAGE.REMOVE", "TDH.MEM.PAGE.DEMOTE"),
}
"""SEAMCALLs that KVM makes again when they are busy: docs of the reference, F.5 and F.6."""
STATUSES: Final = {
    name: value
    for name, value in vars(s).items()
    if name.startswith("TDX_") and isinstance(value, int)
}
DETAILS: Final = (0, 1, 0x100, 0xFFFFFFFF)
"""Low halves of a status: an operand, an OP_STATE, anything."""
AT_PAMT: Final = {
    ("TDH.PHYMEM.PAMT.ADD", "TDX_HPA_RANGE_NOT_FREE"): "double-add",
    ("TDH.PHYMEM.PAMT.REMOVE", "TDX_NO_PAMT_PAGE_PAIR"): "bad-remove",
    ("TDH.PHYMEM.PAMT.REMOVE", "TDX_PAMT_PAGE_NOT_EMPTY"): "bad-remove",
}


def broken(judges: tuple[Property, ...], event: Event) -> dict[str, str]:
    said = {one.name: one.of_event(event) for one in judges if one.of_event is not None}
    return {name: text for name, text in said.items() if text}


def expected(leaf: str, status: str) -> set[str]:
    if status == "TDX_MISSING_PAMT_PAGE_PAIR":
        return {"missing-pair"}
    if status == "TDX_OPERAND_BUSY":
        return set() if leaf in RETRIED else {"busy"}
    name = AT_PAMT.get((leaf, status))
    return {name} if name else set()


def test_every_answer_of_every_seamcall() -> None:
    judges = properties()
    assert RETRIED <= {*LEAF_NAMES.values()}
    met = 0
    for leaf, name in LEAF_NAMES.items():
        for status, value in STATUSES.items():
            if value & 0xFFFFFFFF:
                continue
            for detail in DETAILS:
                said = broken(judges, Event("seamcall", leaf, (7, 8, value | detail)))
                assert said.keys() == expected(name, status), (name, status)
                met += len(said)
                for text in said.values():
                    assert text == f"{name} returned {s.status_name(value)}"
    assert met == len(DETAILS) * (2 * len(LEAF_NAMES) - len(RETRIED) + len(AT_PAMT))


@pytest.mark.parametrize("status", ["TDX_HPA_RANGE_NOT_FREE", "TDX_MISSING_PAMT_PAGE_PAIR"])
def test_an_answer_that_is_tolerated_breaks_nothing_and_all_others_do(status: str) -> None:
    numbers = {name: leaf for leaf, name in LEAF_NAMES.items()}
    add, aug = numbers["TDH.PHYMEM.PAMT.ADD"], numbers["TDH.MEM.PAGE.AUG"]
    strict, lenient = properties(), properties(frozenset({(add, STATUSES[status])}))
    assert [one.name for one in lenient] == [one.name for one in strict]
    for leaf in (add, aug):
        for name, value in STATUSES.items():
            event = Event("seamcall", leaf, (value,))
            is_tolerated = leaf == add and name == status
            assert broken(lenient, event) == ({} if is_tolerated else broken(strict, event))
    for kind in ("warn", "bug", "misuse"):
        assert broken(lenient, Event(kind, "x")) == {"kernel": "x"}


def test_which_leaves_may_be_busy_is_the_callers_to_say() -> None:
    leaves = sorted(LEAF_NAMES)
    for leaf in leaves:
        judges = properties(retried=frozenset({leaves[0]}))
        said = broken(judges, Event("seamcall", leaf, (s.TDX_OPERAND_BUSY,)))
        assert said.keys() == (set() if leaf == leaves[0] else {"busy"})


@pytest.mark.parametrize(
    ("event", "name", "text"),
    [
        (Event("warn", "W"), "kernel", "W"),
        (Event("bug", "B"), "kernel", "B"),
        (Event("misuse", "M"), "kernel", "M"),
        (Event("raised", "KernelOops", ("O",)), "kernel", "O"),
        (Event("raised", "ModuleFatal", ("F",)), "fatal", "F"),
        (Event("returned", -5), "kernel", "a thread ended with -5"),
        (Event("returned", 1), "kernel", "a thread ended with 1"),
        (Event("returned", 0), "", ""),
        (Event("returned", None), "", ""),
        (Event("log", "L"), "", ""),
        (Event("alloc", 3), "", ""),
        (Event("free", 3), "", ""),
        (Event("page", "P"), "page", "P"),
        (Event("repeats", "R"), "livelock", "R"),
        (Event("context", "C"), "context", "C"),
        (Event("lock-order", "L"), "lock-order", "L"),
        (Event("ModuleFatal", "ModuleFatal", ("x",)), "", ""),
    ],
)
def test_every_other_event(event: Event, name: str, text: str) -> None:
    assert broken(properties(), event) == ({name: text} if name else {})


def test_every_line_of_an_audit_and_who_is_asked_when() -> None:
    """At rest and in every state: by the name that the line begins with and its colon."""
    judges = properties()
    assert [judge.name for judge in judges] == [
        *("missing-pair", "double-add", "bad-remove", "fatal", "busy", "kernel", "page"),
        *("two-owners", "at-rest", "leak", "deadlock", "livelock", "context", "lock-order"),
    ]
    assert {*PROPERTY_NAMES} == {judge.name for judge in judges}
    at_rest, always = {"two-owners", "at-rest", "leak", "deadlock"}, {"two-owners"}
    for line_of in [*PROPERTY_NAMES, "other"]:
        for line, counts in ((f"{line_of}: what", True), (f"{line_of} what", False), ("", False)):
            said = {one.name for one in judges if one.of_rest is not None and one.of_rest(line)}
            assert said == ({line_of} & at_rest if counts else set())
            said = {one.name for one in judges if one.of_state is not None and one.of_state(line)}
            assert said == ({line_of} & always if counts else set())
    waiting = {one.name: one.of_deadlock(["a", "b"]) for one in judges if one.of_deadlock}
    assert waiting == {"deadlock": "a; b"}
    assert all(judge.function is None and judge.meaning for judge in judges)
