"""What is seen of KVM after a SEAMCALL that failed, held against what its source says it does."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dpamt.abi.leaves import (
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    leaf_name,
)
from dpamt.boot.kvm.reactions import Does

if TYPE_CHECKING:
    from dpamt.boot.kvm.sweep import Life

_INTERNAL_ERROR: Final = 17
"""KVM_EXIT_INTERNAL_ERROR (Linux include/uapi/linux/kvm.h)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """``errors`` are the errnos that the VMM got, ``ended_by`` the exits that ended its vCPUs."""

    errors: list[str] = field(default_factory=list)
    ended_by: list[int] = field(default_factory=list)
    bugged: bool = False
    stuck: bool = False
    """Whether a call into KVM came back by a signal only."""


def contradiction(life: "Life") -> str:
    """What of a life is not as its reaction says; empty: nothing is, or none is known."""
    if life.expected is None:
        return ""
    does, seen = life.expected.does, life.seen
    error = life.expected.error
    if seen.stuck:
        return "KVM did not come back until a signal came"
    is_told = seen.bugged and error in seen.errors
    checks: dict[Does, list[tuple[bool, str]]] = {
        Does.AGAIN: [
            (life.again, f"{leaf_name(life.leaf)} was not made again"),
            *_unharmed(life),
        ],
        Does.GOES_ON: _unharmed(life),
        Does.REFUSES: [
            (seen.errors == [error], _errors(seen, error)),
            (not seen.bugged, "the VM is bugged"),
            _nothing_left(life),
        ],
        Does.BUGS: [(is_told, _errors(seen, error, bugged=True)), _nothing_left(life)],
        Does.EXITS: [
            (_INTERNAL_ERROR in seen.ended_by, "KVM_RUN did not end by it"),
            (not seen.bugged, "the VM is bugged"),
            _nothing_left(life),
        ],
        Does.LOSES: [
            (is_told or (life.at_the_end and not seen.errors), _errors(seen, error, bugged=True)),
            _something_left(life),
        ],
        Does.LEAKS: [(not seen.errors, _errors(seen, "")), _something_left(life)],
    }
    return "; ".join(what for holds, what in checks[does] if not holds)


def _unharmed(life: "Life") -> list[tuple[bool, str]]:
    seen = life.seen
    return [
        (not seen.errors and not seen.ended_by, _errors(seen, "")),
        (not seen.bugged, "the VM is bugged"),
        _nothing_left(life),
    ]


def _errors(seen: Seen, due: str, bugged: bool = False) -> str:
    got = ", ".join(seen.errors) or "no error"
    state = "" if seen.bugged == bugged else f", the VM {'' if seen.bugged else 'not '}bugged"
    return f"the VMM got {got}{state}, where {due or 'no error'} is due"


def _nothing_left(life: "Life") -> tuple[bool, str]:
    return not life.kept and not life.pairs and not life.counts, "something was not given back"


def _something_left(life: "Life") -> tuple[bool, str]:
    if life.leaf == TDH_PHYMEM_PAGE_WBINVD:
        return True, ""  # the module has let it go by then
    if life.leaf in (TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE):
        return True, ""  # the pair may be that of an earlier life
    return bool(life.kept), "everything was given back"
