"""Classes of locks: which is taken while which is held, and which a softirq takes.

What one search has seen is a :class:`LockOrder`; :func:`joined` is what several say together, since
one trial may have one side of a breach (a softirq that takes a lock) and another trial the other
(a task that takes it with softirqs on).  Source of the rules: :mod:`dpamt.verify.explore.context`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from dpamt.sync.observed import Address

_Name = TypeVar("_Name")


class Taken(NamedTuple):
    """One acquisition: the lock's class, and where."""

    name: str
    where: str


class Edge(NamedTuple):
    """A lock taken while another one is held."""

    held: Taken
    taken: Taken


Uses = dict[str, dict[bool, str]]
"""By class, and whether exclusively: where it was taken first."""


@dataclass(slots=True)
class LockOrder:
    """What was seen of lock classes."""

    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)
    """(held, taken): where each was taken."""
    nested: dict[tuple[Address, Address], Edge] = field(default_factory=dict)
    """The same within one class, lock by lock; of one machine, so no other one's are taken in."""
    in_softirq: Uses = field(default_factory=dict)
    with_softirqs: Uses = field(default_factory=dict)
    """Taken by a task with softirqs on."""

    def use(self, name: str, in_softirq: bool, exclusively: bool, where: str) -> None:
        """A lock of that class was taken there."""
        uses = self.in_softirq if in_softirq else self.with_softirqs
        uses.setdefault(name, {}).setdefault(exclusively, where)

    def both_ways(self, name: str) -> str:
        """Whether a softirq can want the class while its holder, a task, has softirqs on."""
        for one, there in self.in_softirq.get(name, {}).items():
            for other, here in self.with_softirqs.get(name, {}).items():
                if one or other:
                    return (
                        f"{name} is taken in a softirq in {there}, and with softirqs on in "
                        f"{here}: a softirq that interrupts there waits for its own CPU"
                    )
        return ""

    def cycle(self, held: str, taken: str) -> str:
        """Whether there is a way back over the edge between two classes."""
        way = way_over(self.edges, taken, held)
        return cycle_text([self.edges[held, taken], *way]) if way else ""

    def unsafe_below(self, *names: str) -> str:
        """Whether a lock of softirqs is held as one is taken that tasks hold with softirqs on.

        Only ways that one class, or the edge between two, is part of.
        """
        for safe, uses in self.in_softirq.items():
            for unsafe, others in self.with_softirqs.items():
                if safe == unsafe:
                    continue
                way = way_over(self.edges, safe, unsafe)
                if not way or not ({safe, unsafe} & set(names) or _touches(way, names)):
                    continue
                there, here = next(iter(uses.values())), next(iter(others.values()))
                return (
                    f"{safe}, which a softirq takes in {there}, is held in "
                    f"{way[0].held.where} as {way[0].taken.name} is taken in "
                    f"{way[0].taken.where}; {unsafe} is taken with softirqs on in {here}"
                )
        return ""

    def breaches(self) -> Iterator[tuple[str, frozenset[str], str]]:
        """(rule, classes, sentence) of everything that is broken."""
        for name in self.in_softirq:
            text = self.both_ways(name)
            if text:
                yield "both ways", frozenset({name}), text
            text = self.unsafe_below(name)
            if text:
                yield "unsafe below", frozenset({name}), text
        for held, taken in self.edges:
            text = self.cycle(held, taken)
            if text:
                way = way_over(self.edges, taken, held)
                yield "cycle", frozenset(edge.held.name for edge in way) | {held}, text

    def take_in(self, other: "LockOrder") -> None:
        """What another one has seen too."""
        for edge, places in other.edges.items():
            self.edges.setdefault(edge, places)
        for mine, theirs in (
            (self.in_softirq, other.in_softirq),
            (self.with_softirqs, other.with_softirqs),
        ):
            for name, uses in theirs.items():
                for exclusively, where in uses.items():
                    mine.setdefault(name, {}).setdefault(exclusively, where)

    def kept(self) -> list[Any]:
        """As plain values, for :func:`taken_up`."""
        return [
            [[*edge.held, *edge.taken] for edge in self.edges.values()],
            [[held, taken, *edge.held, *edge.taken] for (held, taken), edge in self.nested.items()],
            *(
                [[name, how, where] for name, ways in uses.items() for how, where in ways.items()]
                for uses in (self.in_softirq, self.with_softirqs)
            ),
        ]


def taken_up(kept: list[Any]) -> LockOrder:
    """What :meth:`LockOrder.kept` gave.  Raises TypeError or ValueError for anything else."""
    edges, nested, *uses = kept
    order = LockOrder()
    for held_lock, taken_lock, held, held_at, taken, taken_at in nested:
        locks = Address(*held_lock), Address(*taken_lock)
        order.nested[locks] = Edge(Taken(held, held_at), Taken(taken, taken_at))
    for held, held_at, taken, taken_at in edges:
        order.edges[held, taken] = Edge(Taken(held, held_at), Taken(taken, taken_at))
    for in_softirq, ways in zip((True, False), uses, strict=True):
        for name, exclusively, where in ways:
            order.use(name, in_softirq, exclusively, where)
    return order


def joined(orders: Iterable[LockOrder]) -> tuple[str, ...]:
    """What several break together and none of them alone, a sentence each."""
    every = list(orders)
    whole = LockOrder()
    alone = set()
    for order in every:
        whole.take_in(order)
        alone |= {(rule, classes) for rule, classes, _ in order.breaches()}
    found: dict[tuple[str, frozenset[str]], str] = {}
    for rule, classes, text in whole.breaches():
        if (rule, classes) not in alone:
            found.setdefault((rule, classes), text)
    return tuple(found.values())


def way_over(edges: dict[tuple[_Name, _Name], Edge], first: _Name, last: _Name) -> list[Edge]:
    """A way over edges from one lock to another; empty when there is none."""
    ways: dict[_Name, list[Edge]] = {first: []}
    pending = [first]
    while pending:
        here = pending.pop(0)
        for (start, end), edge in edges.items():
            if start == here and end not in ways:
                ways[end] = [*ways[here], edge]
                pending.append(end)
    return ways.get(last, []) if first != last else []


def _touches(way: list[Edge], names: tuple[str, ...]) -> bool:
    return any((edge.held.name, edge.taken.name) == names for edge in way)


def cycle_text(edges: list[Edge]) -> str:
    """Edges that lead back to where they began, in words."""
    return "; ".join(
        f"{edge.taken.name} is taken in {edge.taken.where} while {edge.held.name} is held since "
        f"{edge.held.where}"
        for edge in edges
    )
