"""A verification from its problem to its verdict: the search, its counterexamples, its bounds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import status_name
from dpamt.verify.cluster.coordinator import sharded_search
from dpamt.verify.cluster.team import Team
from dpamt.verify.evidence.code_hash import hashes_of
from dpamt.verify.evidence.counterexample import Counterexample, counterexample
from dpamt.verify.explore.lock_order import LockOrder
from dpamt.verify.explore.search import (
    BOUND,
    FAILS,
    HOLDS,
    MOST_STATES,
    Found,
    Progress,
    Search,
    search_of,
)
from dpamt.verify.programs.problem import SEAMCALL, Problem
from dpamt.verify.properties.named import Property


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one search says, and within which bounds."""

    problem: str
    granularity: str
    verdict: str
    """``holds``, ``fails`` or ``not finished``."""
    properties: dict[str, str]
    """By property: the same."""
    states: int
    transitions: int
    depth: int
    ends: int
    nodes: int
    seconds: float
    code: dict[str, str]
    """SHA-256 of the design, of the properties and of what ran: whether the code is the same."""
    module: str
    """Release of the TDX module that answered; empty: no machine was made."""
    stopped: str = ""
    """Why the search is not finished, and what it has seen; empty: it is finished."""
    bounds: dict[str, str] = field(default_factory=dict)
    counterexamples: tuple[Counterexample, ...] = ()
    assumptions: tuple[str, ...] = ()
    """What the verdict rests on and was not proved, a sentence each."""
    not_reached: tuple[str, ...] = ()
    """Lines of the design that were not reached: ``file:line text``."""
    taken_up: str = ""
    """The file that kept the search, whose states were taken as it has them; empty: none."""
    lock_order: LockOrder = field(default_factory=LockOrder)
    """What was seen of lock classes, to be joined with other trials'; no part of the document."""

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "problem": self.problem,
            "granularity": self.granularity,
            "verdict": self.verdict,
            "properties": self.properties,
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "ends": self.ends,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "code": self.code,
            "module": self.module,
            "stopped": self.stopped,
            "bounds": self.bounds,
            "assumptions": list(self.assumptions),
            "not_reached": list(self.not_reached),
            "taken_up": self.taken_up,
            "counterexamples": [found.as_json() for found in self.counterexamples],
        }


def verify(
    problem: Problem,
    properties: tuple[Property, ...],
    granularity: str = SEAMCALL,
    most_states: int = MOST_STATES,
    progress: Callable[[Progress], None] | None = None,
    ready: Callable[[Search], Found | None] | None = None,
    team: Team | None = None,
) -> Verdict:
    """Search every interleaving of the problem's threads; at most ``most_states`` states.

    A property that fails has its nearest counterexample; one that did not fail in a search that was
    not finished is ``not finished`` too.  ``ready`` is called with the search before it begins; it
    may take up a search that was kept, and returns what that had found.  With a ``team`` its shards
    keep and expand the states.
    """
    if team is None:
        search = search_of(problem, properties, granularity, most_states, progress)
    else:
        search = sharded_search(team, problem, properties, granularity, most_states, progress)
    found = search.explore(ready(search) if ready is not None else None)
    return verdict_of(search, found)


def verdict_of(search: Search, found: Found) -> Verdict:
    """What a finished search says."""
    verdicts = {
        judge.name: FAILS if judge.name in found.faults else (BOUND if found.stopped else HOLDS)
        for judge in search.properties
    }
    world = search.problem.world
    return Verdict(
        search.problem.name,
        search.granularity,
        found.verdict,
        verdicts,
        found.states,
        found.transitions,
        found.depth,
        found.ends,
        sum(len(automaton.nodes) for automaton in search.automata),
        found.seconds,
        hashes_of(search),
        world.module.release.name if world is not None else "",
        _covered(found),
        dict(search.problem.bounds),
        tuple(counterexample(search, fault) for fault in found.faults.values()),
        (*_tolerated(search), *search.assumptions()),
        search.not_reached(),
        lock_order=search.engine.context.order,
    )


def _tolerated(search: Search) -> list[str]:
    """The answers of the module that the design declares to be benign."""
    if search.problem.world is None:
        return []
    design = search.problem.world.design
    return [
        f"{LEAF_NAMES[leaf]} may answer {status_name(status)}: declared "
        f"{'by the design (TOLERATED)' if design.code is None else 'with --tolerate'}"
        for leaf, status in sorted(design.tolerated)
    ]


def _covered(found: Found) -> str:
    if not found.stopped:
        return ""
    return (
        f"{found.stopped}: {found.states:,} states seen, all that are at most {found.depth:,} "
        f"moves from the start, and some that are {found.depth + 1:,} moves from it"
    )
