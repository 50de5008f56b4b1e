"""A plain store, then a plain load of another word by the same thread: what x86 may turn round.

A store waits in the CPU's store buffer while later loads of other words go ahead of it (Intel SDM
volume 3, 9.2.3.4 "Loads May Be Reordered with Earlier Stores to Different Locations"), so two CPUs
that each store one word and then load the other's may both see the old value.  The search is
sequentially consistent and never does that.  So each such pair of lines is shown, where both words
are changed and touched by several threads, as something that the verdict rests on.

Between the two nothing may have emptied the buffer: an atomic read-modify-write (LOCK prefix, XCHG)
or taking a lock does, and so does a SEAMCALL (it leaves and enters the VMX root).  Releasing a lock
does not: on x86 that is a plain store (queued_spin_unlock()).  Stores that one lock guards at every
use of the word are left out: whoever takes that lock sees them, for the release comes after them.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from dpamt.sync.observed import Address
from dpamt.sync.steps import LOOKS, TRIES, UNLOCKS
from dpamt.verify.learn.automaton import CHOICE, MARK, Automaton, Node, Step
from dpamt.verify.learn.control_point import sites_text

_OF_THE_VERIFIER: Final = "verify."
"""Begins the names of words that no kernel has."""
_MOST_VISITS: Final = 200_000


class Turned(NamedTuple):
    """A store and the load that may go ahead of it, with their places."""

    stored: str
    stored_at: str
    loaded: str
    loaded_at: str

    def __str__(self) -> str:
        return (
            f"x86 may load {self.loaded} in {self.loaded_at} before {self.stored} is stored in "
            f"{self.stored_at} (store buffer); this search does not"
        )


Stores = frozenset[tuple[Address, str]]
"""Stores that may wait still, with their places."""


def may_be_turned(automaton: Automaton, is_shared: Callable[[Address], bool]) -> Iterator[Turned]:
    """Every such pair on a way that was learned; ``is_shared``: the word is changed and seen by
    several threads, and no lock guards it."""
    seen: set[tuple[int, Stores]] = set()
    told: set[Turned] = set()
    pending: list[tuple[int, Stores]] = [(0, frozenset())]
    while pending and len(seen) < _MOST_VISITS:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        number, waiting = here
        node = automaton.nodes[number]
        step = node.step
        if step is None:
            continue
        if node.leaf < 0 and _is_load(step) and waiting and is_shared(step.address):
            where = sites_text(node.sites)
            for stored, stored_at in waiting:
                pair = Turned(stored.array, stored_at, step.address.array, where)
                if stored != step.address and pair not in told:
                    told.add(pair)
                    yield pair
        after = _after(node, step, waiting, is_shared)
        pending += [(target, after) for target, _ in node.edges.values()]


def _is_load(step: Step) -> bool:
    return step.method == "load" or step.method in LOOKS - TRIES


def _after(node: Node, step: Step, waiting: Stores, is_shared: Callable[[Address], bool]) -> Stores:
    """What waits in the buffer after the step of a node."""
    if step.method == CHOICE or step.address.array.startswith(_OF_THE_VERIFIER):
        return waiting
    if node.leaf >= 0 or step.method == MARK:
        return frozenset()
    if step.method == "store":
        if not is_shared(step.address):
            return waiting
        return waiting | {(step.address, sites_text(node.sites))}
    if _is_load(step) or step.method in UNLOCKS:
        return waiting
    return frozenset()
