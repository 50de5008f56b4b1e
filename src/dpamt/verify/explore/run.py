"""A block while it is worked out: where the thread is, its reads, writes and events; its ways."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from dpamt.sync.observed import Address
from dpamt.verify.explore.learned_blocks import MicroStep
from dpamt.verify.learn.automaton import Event


@dataclass(slots=True)
class Run:
    """A block being worked out."""

    node: int
    own: dict[int, int]
    held: dict[Address, bool]
    reads: dict[int, int] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)
    others: set[tuple[str, int]] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    fills: list[tuple[str, int, str, tuple[Any, ...]]] = field(default_factory=list)
    steps: list[MicroStep] = field(default_factory=list)
    places: dict[Hashable, int] = field(default_factory=dict)
    """Places of a long block that it came to more than once, with how many steps lead there."""
    nodes: set[int] = field(default_factory=set)
    """Nodes that a long block came to."""
    noticed: int = 0
    """Steps done that are no right movers: none, or only left movers may follow."""
    misused: bool = False
    """Whether a lock was misused: nothing that comes after it means anything."""

    def has_been_here(self) -> bool:
        """Whether the block comes to where it was twice before; then the last round is taken back.

        What own words and writes are is looked at only where the node is not a new one.
        """
        if self.node not in self.nodes:
            self.nodes.add(self.node)
            return False
        here = self.node, frozenset(self.own.items()), frozenset(self.writes.items())
        before = self.places.setdefault(here, len(self.steps))
        if before == len(self.steps):
            return False
        del self.steps[before:]
        return True

    def copy(self) -> "Run":
        """The same up to here, to go another way from; reads and pages looked at are of both."""
        return Run(
            self.node,
            dict(self.own),
            dict(self.held),
            self.reads,
            dict(self.writes),
            self.others,
            list(self.events),
            list(self.fills),
            list(self.steps),
            dict(self.places),
            set(self.nodes),
            self.noticed,
            self.misused,
        )


@dataclass(slots=True)
class Ways:
    """All ways that a block of a thread of class ``kind`` goes in a state."""

    kind: int
    state: tuple[int, ...]
    others: tuple[int, ...]
    """The other threads' locals."""
    ends: list[Run] = field(default_factory=list)
    """Those that are worked out."""
    pending: list[tuple[Run, Any]] = field(default_factory=list)
    """Those that are not: how far they are, and the result of the step there."""
