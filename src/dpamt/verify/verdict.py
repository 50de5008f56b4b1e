"""A verification from its setting to its verdict: the search, its counterexamples, its bounds."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

from dpamt.verify.automaton import Automaton
from dpamt.verify.counterexample import Counterexample, counterexample
from dpamt.verify.properties import Property
from dpamt.verify.search import BOUND, FAILS, HOLDS, Found, Progress, Search
from dpamt.verify.setting import SEAMCALL, Setting

if TYPE_CHECKING:
    from dpamt.verify.shards import Team

MOST_STATES: Final = 5_000_000
"""A search of more states than this stops unfinished, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one search says, and within which bounds."""

    setting: str
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
    code: str
    """SHA-256 of the functions that the threads ran through: whether the code is the same."""
    stopped: str = ""
    """Why the search is not finished, and what it has seen; empty: it is finished."""
    bounds: dict[str, str] = field(default_factory=dict)
    counterexamples: tuple[Counterexample, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "setting": self.setting,
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
            "stopped": self.stopped,
            "bounds": self.bounds,
            "counterexamples": [found.as_json() for found in self.counterexamples],
        }


def verify(
    setting: Setting,
    properties: tuple[Property, ...],
    granularity: str = SEAMCALL,
    most_states: int = MOST_STATES,
    progress: Callable[[Progress], None] | None = None,
    ready: Callable[[Search], Found | None] | None = None,
    team: "Team | None" = None,
) -> Verdict:
    """Search every interleaving of the setting's threads; at most ``most_states`` states.

    A property that fails has its nearest counterexample; one that did not fail in a search that was
    not finished is ``not finished`` too.  ``ready`` is called with the search before it begins; it
    may take up a search that was kept, and returns what that had found.  With a ``team`` its shards
    keep and expand the states.
    """
    search = search_of(setting, properties, granularity, most_states, progress, team)
    found = search.explore(ready(search) if ready is not None else None)
    return verdict_of(search, found)


def search_of(
    setting: Setting,
    properties: tuple[Property, ...],
    granularity: str,
    most_states: int = MOST_STATES,
    progress: Callable[[Progress], None] | None = None,
    team: "Team | None" = None,
) -> Search:
    """The search over a setting, not yet begun."""
    automata = tuple(
        Automaton(kind.name, kind.start, setting.recorder, setting.shared.watch)
        for kind in setting.classes
    )
    if team is None:
        return Search(setting, automata, properties, granularity, most_states, progress)
    from dpamt.verify.shards import ShardedSearch

    sharded = ShardedSearch(setting, automata, properties, granularity, most_states, progress)
    sharded.team = team
    return sharded


def verdict_of(search: Search, found: Found) -> Verdict:
    """What a finished search says."""
    verdicts = {
        judge.name: FAILS if judge.name in found.faults else (BOUND if found.stopped else HOLDS)
        for judge in search.properties
    }
    return Verdict(
        search.setting.name,
        search.granularity,
        found.verdict,
        verdicts,
        found.states,
        found.transitions,
        found.depth,
        found.ends,
        sum(len(automaton.nodes) for automaton in search.automata),
        found.seconds,
        code_hash(search.automata),
        _covered(found),
        dict(search.setting.bounds),
        tuple(counterexample(search, fault) for fault in found.faults.values()),
    )


def _covered(found: Found) -> str:
    if not found.stopped:
        return ""
    return (
        f"{found.stopped}: {found.states:,} states seen, every one that {found.depth:,} moves of "
        f"a CPU lead to, and some of those that {found.depth + 1:,} lead to"
    )


def code_hash(automata: tuple[Automaton, ...]) -> str:
    """SHA-256 over the names and bytecode of every function that stood on a thread's stack."""
    codes = {}
    for automaton in automata:
        for code in automaton.codes():
            codes[code.co_qualname, code.co_filename, code.co_firstlineno] = code
    digest = hashlib.sha256()
    for name in sorted(codes):
        code = codes[name]
        digest.update(repr((code.co_qualname, code.co_names, code.co_varnames)).encode())
        digest.update(code.co_code)
        digest.update(repr([_constant(value) for value in code.co_consts]).encode())
    return digest.hexdigest()


def _constant(value: object) -> str:
    """A constant of a function so that it is the same in every process."""
    if isinstance(value, CodeType):
        return value.co_qualname
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
