"""The search in compiled code is the search in Python: every state, every number, every verdict."""

from dataclasses import dataclass
from typing import Any

import pytest

from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.explore.compiled.engine import CompiledGraph
from dpamt.verify.explore.compiled.library import library, why_not
from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS
from dpamt.verify.programs.suite import trials_of

NEVER = 1 << 60
DYNAMIC = [name for name in SHIPPED if load_design(name).dynamic_pamt]

pytestmark = pytest.mark.skipif(library() is None, reason=why_not() or "there is a compiler")


@dataclass(frozen=True)
class Came:
    """All that a search came to."""

    numbers: tuple[Any, ...]
    faults: dict[str, Any]
    states: list[tuple[int, ...]]
    ways: list[tuple[int, int]]
    ends: list[int]
    locals: list[Any]


def searched(asked: Asked, compiled_from: int, jobs: int = 1) -> Came:
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    search = search_of(trial.make(design), judges, asked.granularity, asked.most_states)
    search.compiled_from, search.jobs = compiled_from, jobs
    found = search.explore()
    assert isinstance(search.graph, CompiledGraph) == (compiled_from < NEVER)
    numbers = (found.verdict, found.stopped, found.states, found.transitions, found.depth)
    return Came(
        (*numbers, found.ends, found.restarts),
        found.faults,
        *reached(search),
        sorted(set(search.graph.ends)),
        search.engine.locals,
    )


def reached(search: Search) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """Every state in order, and from where and how each was found."""
    graph = search.graph
    if isinstance(graph, Graph):
        states = [search.packing.unpack(key) for key in graph.numbers]
        return states, list(zip(graph.parents, graph.moves, strict=True))
    numbers = range(len(graph))
    return [graph.state(n) for n in numbers], [graph.found_from(n) for n in numbers]


def asked_of_suite(name: str) -> list[Asked]:
    design = load_design(name)
    return [
        Asked(name, trial.name, (), "apart", 0, trial.granularity, 1_000_000)
        for trial in trials_of(design, False)
    ]


BY_HAND = [
    Asked("v6", "", (5,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v2", "", (4,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("lazy", "", (2, 1), "crossed", 0, SEAMCALL, 1_000_000),
    Asked("global-rwlock", "", (2,), "own", 0, LOCKS, 1_000_000),
    Asked("merged", "", (2,), "straddling", 0, LOCKS, 1_000_000),
    Asked("merged", "", (2,), "apart", 1, WORDS, 1_000_000),
    Asked("v1", "", (2, 2), "apart", 1, SEAMCALL, 1_000_000),
    Asked("v6", "", (3, 3), "apart", 0, SEAMCALL, 10_000),
]


@pytest.mark.parametrize("asked", BY_HAND, ids=lambda asked: f"{asked.design} {asked.cpus}")
def test_it_is_the_same_search(asked: Asked) -> None:
    whole = searched(asked, NEVER)
    for compiled_from, jobs in ((1, 1), (500, 1), (1, 3)):
        if whole.numbers[2] > compiled_from:
            assert searched(asked, compiled_from, jobs) == whole


@pytest.mark.parametrize("name", DYNAMIC)
def test_every_trial_of_the_suite(name: str) -> None:
    for asked in asked_of_suite(name):
        assert searched(asked, 1) == searched(asked, NEVER), asked.trial
