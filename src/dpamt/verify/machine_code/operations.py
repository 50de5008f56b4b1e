"""What machine code does at a place: a step on a word, a call that is answered, an end."""

from typing import Final, NamedTuple

from dpamt.verify.machine_code.memory import Cell

LOAD: Final = "load"
STORE: Final = "store"
ATOMIC_STEP: Final = "atomic"
CALL: Final = "call"
WARN: Final = "warn"
BUG: Final = "bug"
OOPS: Final = "oops"
FENCE: Final = "fence"
CLEAR: Final = "clear"
RETURN: Final = "return"
"""Kinds of operations."""


class Operation(NamedTuple):
    """What a thread does at a place."""

    kind: str
    site: int
    """Address of the instruction."""
    cell: Cell | None = None
    method: str = ""
    """Of an atomic step: the word's method; of a call: the function that is answered; of a return:
    what was not put back."""
    arguments: tuple[int, ...] = ()
    """Of a store or an atomic step: the method's arguments; of a call: six registers; of a return:
    what is returned; of a clear: the page frame number."""
    atomic: str = ""
    """Of a call: why nothing may sleep here, by the CPU's own state; empty: it may."""


class Returned(NamedTuple):
    """What an answered function leaves: RAX, and 64-bit words that it wrote by address."""

    value: int
    written: tuple[tuple[int, int], ...] = ()
    taken: tuple[int, ...] = ()
    """Page frame numbers of the pages that the thread has from now on."""
    let_go: tuple[int, ...] = ()
    """Those that it no longer has."""
