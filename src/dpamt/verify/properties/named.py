"""What has to be true in every interleaving, each with the name it is reported by.

A property looks at events of a thread, at states, at the machine when every thread has ended, or at
threads that wait for ever.  Lines about a machine at rest, and about states, begin with the name of
the property that they break (``leaked: ...``).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from dpamt.abi.leaves import (
    LEAF_NAMES,
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
)
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_PAMT_PAGE_NOT_EMPTY,
    status_name,
)
from dpamt.verify.learn import automaton as events
from dpamt.verify.learn.automaton import Event

RETRIED_WHEN_BUSY: Final = frozenset(
    {
        TDH_MEM_SEPT_ADD,
        TDH_MEM_PAGE_ADD,
        TDH_MEM_PAGE_AUG,
        TDH_MEM_RANGE_BLOCK,
        TDH_MEM_TRACK,
        TDH_MEM_PAGE_REMOVE,
        TDH_MEM_PAGE_DEMOTE,
    }
)
"""SEAMCALLs that Linux makes again after TDX_OPERAND_BUSY: the fault's by RET_PF_RETRY, the zap's
once, with VCPUs kept out.  Source: Linux arch/x86/kvm/vmx/tdx.c; reference F.5, F.6."""


@dataclass(frozen=True, slots=True)
class Property:
    """A named property and what it is asked about; each part returns what is wrong, or ""/False."""

    name: str
    meaning: str
    of_event: Callable[[Event], str] | None = None
    of_rest: Callable[[str], bool] | None = None
    of_state: Callable[[str], bool] | None = None
    of_deadlock: Callable[[list[str]], str] | None = None
    function: Callable[..., object] | None = None
    """The function of a user's file that is asked; None of dpamt's own."""


def _answer(event: Event) -> tuple[int, int]:
    """(leaf, status code) of a SEAMCALL event; (-1, 0) of any other."""
    if event.kind != "seamcall":
        return -1, 0
    leaf, status = event.subject, event.detail[-1]
    assert isinstance(leaf, int)
    assert isinstance(status, int)
    return leaf, status & STATUS_MASK


def _told(leaf: int, status: int) -> str:
    return f"{LEAF_NAMES[leaf]} returned {status_name(status)}"


def _missing(event: Event) -> str:
    leaf, status = _answer(event)
    return _told(leaf, status) if status == TDX_MISSING_PAMT_PAGE_PAIR else ""


def _double_add(event: Event) -> str:
    leaf, status = _answer(event)
    wrong = leaf == TDH_PHYMEM_PAMT_ADD and status == TDX_HPA_RANGE_NOT_FREE
    return _told(leaf, status) if wrong else ""


def _bad_remove(event: Event) -> str:
    leaf, status = _answer(event)
    wrong = leaf == TDH_PHYMEM_PAMT_REMOVE and status in (
        TDX_NO_PAMT_PAGE_PAIR,
        TDX_PAMT_PAGE_NOT_EMPTY,
    )
    return _told(leaf, status) if wrong else ""


def _busy(retried: frozenset[int]) -> Callable[[Event], str]:
    def busy(event: Event) -> str:
        leaf, status = _answer(event)
        if status == TDX_OPERAND_BUSY and leaf not in retried:
            return _told(leaf, status)
        return ""

    return busy


def _fatal(event: Event) -> str:
    if event.kind == "raised" and event.subject == "ModuleFatal":
        return str(event.detail[0])
    return ""


def _kernel(event: Event) -> str:
    if event.kind in ("warn", "bug", "misuse"):
        return str(event.subject)
    if event.kind == "raised" and event.subject != "ModuleFatal":
        return str(event.detail[0])
    if event.kind == "returned" and event.subject not in (None, 0):
        return f"a thread ended with {event.subject}"
    return ""


def _of_kind(kind: str) -> Callable[[Event], str]:
    return lambda event: str(event.subject) if event.kind == kind else ""


def _line(name: str) -> Callable[[str], bool]:
    def begins(line: str) -> bool:
        return line.startswith(name + ": ")

    return begins


def _deadlock(standing: list[str]) -> str:
    return "; ".join(standing)


MISSING: Final = "missing-pair"
DOUBLE_ADD: Final = "double-add"
BAD_REMOVE: Final = "bad-remove"
FATAL: Final = "fatal"
PAGE: Final = "page"
OWNERS: Final = "two-owners"
AT_REST: Final = "at-rest"
LEAK: Final = "leak"
BUSY: Final = "busy"
KERNEL: Final = "kernel"
DEADLOCK: Final = "deadlock"
LIVELOCK: Final = "livelock"
CONTEXT: Final = events.CONTEXT
LOCK_ORDER: Final = events.LOCK_ORDER
"""Names of the properties."""

PROPERTY_NAMES: Final = (
    MISSING,
    DOUBLE_ADD,
    BAD_REMOVE,
    FATAL,
    PAGE,
    OWNERS,
    AT_REST,
    LEAK,
    BUSY,
    KERNEL,
    DEADLOCK,
    LIVELOCK,
    CONTEXT,
    LOCK_ORDER,
)


def properties(
    tolerated: frozenset[tuple[int, int]] = frozenset(), retried: frozenset[int] = RETRIED_WHEN_BUSY
) -> tuple[Property, ...]:
    """All properties.

    ``tolerated`` are answers, (leaf, status code), that the design declares to be part of its
    protocol (v2 takes TDX_HPA_RANGE_NOT_FREE from PAMT.ADD for success); ``retried`` are the leaves
    that may be busy.
    """
    never = [
        Property(MISSING, "no SEAMCALL meets a missing page pair", _missing),
        Property(DOUBLE_ADD, "no PAMT.ADD where a pair is installed", _double_add),
        Property(BAD_REMOVE, "no PAMT.REMOVE of an absent or used pair", _bad_remove),
        Property(FATAL, "the module never shuts down", _fatal),
        Property(BUSY, "TDX_OPERAND_BUSY only where Linux tries again", _busy(retried)),
        Property(KERNEL, "no WARN, no BUG, no error returned, no lock misused", _kernel),
        Property(PAGE, "no page is given, reset or freed by who does not have it", _of_kind(PAGE)),
        Property(OWNERS, "no page has two owners", of_rest=_line(OWNERS), of_state=_line(OWNERS)),
        Property(AT_REST, "count, pair and use agree when nothing runs", of_rest=_line(AT_REST)),
        Property(LEAK, "every page is back when nothing uses it", of_rest=_line(LEAK)),
        Property(
            DEADLOCK,
            "no thread waits for ever, no lock is held at the end",
            of_rest=_line(DEADLOCK),
            of_deadlock=_deadlock,
        ),
        Property(LIVELOCK, "no threads go round without getting on", _of_kind("repeats")),
        Property(CONTEXT, "nothing sleeps where it may not, nothing is kept", _of_kind(CONTEXT)),
        Property(
            LOCK_ORDER, "locks are taken in one order, safe from softirqs", _of_kind(LOCK_ORDER)
        ),
    ]
    return tuple(_tolerating(judge, tolerated) for judge in never)


def _tolerating(judge: Property, tolerated: frozenset[tuple[int, int]]) -> Property:
    if not tolerated or judge.of_event is None:
        return judge
    asked = judge.of_event

    def unless_tolerated(event: Event) -> str:
        return "" if _answer(event) in tolerated else asked(event)

    return replace(judge, of_event=unless_tolerated)
