"""The search in compiled code is the search in Python: every state, every number, every verdict."""

import ctypes
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.asked import ALL, NONE, Asked, prepare
from dpamt.verify.explore.compiled.engine import CompiledGraph
from dpamt.verify.explore.compiled.library import library, why_not
from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.explore.state import Knowledge
from dpamt.verify.programs.ground import APART, PLACEMENTS
from dpamt.verify.programs.problem import GRANULARITIES, LOCKS, SEAMCALL, WORDS
from dpamt.verify.programs.suite import trials_of
from tests.verify.searched import states_of

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
    search.begin(Knowledge(reduced=asked.reductions == ALL))
    search.compiled_from, search.jobs = compiled_from, jobs
    return came_to(search)


def came_to(search: Search) -> Came:
    found = search.explore()
    assert isinstance(search.graph, CompiledGraph) == (search.compiled_from < NEVER)
    numbers = (found.verdict, found.stopped, found.states, found.transitions, found.depth)
    return Came(
        (*numbers, found.ends, found.restarts),
        found.faults,
        list(states_of(search)),
        ways_of(search),
        sorted(set(search.graph.ends)),
        search.engine.locals,
    )


def ways_of(search: Search) -> list[tuple[int, int]]:
    """From where and how each state was found."""
    graph = search.graph
    if isinstance(graph, Graph):
        return list(zip(graph.parents, graph.moves, strict=True))
    return [graph.found_from(n) for n in range(len(graph))]


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


def test_a_hundred_random_programs() -> None:
    """Designs, sizes, placements, failures and granularities at random; of each the first states.

    The threads are learned once: a search in Python settles what is known of the words, and both
    searches that are compared begin with it.
    """
    pick = Random(20261201)
    for _ in range(100):
        asked = _random_program(pick)
        design = load_design(asked.design)
        trial, judges = prepare(asked, design)
        search = search_of(trial.make(design), judges, asked.granularity, asked.most_states)
        search.begin(Knowledge(reduced=asked.reductions == ALL))
        came = []
        for compiled_from in (NEVER, NEVER, 1):
            search.compiled_from = compiled_from
            search.jobs = pick.choice((1, 2, 5))
            search.restarts = 0
            search.begin(search.knowledge)
            came.append(came_to(search))
        assert came[1] == came[2], asked


def _random_program(pick: Random) -> Asked:
    cpus = pick.choice(((2,), (3,), (4,), (1, 1), (2, 1), (2, 2), (1, 1, 1)))
    pairs = pick.choice(PLACEMENTS if len(cpus) > 1 else (APART, "own", "straddling"))
    granularity = pick.choice(GRANULARITIES)
    reductions = pick.choice((ALL, NONE))
    failures = pick.choice((0, 0, 1))
    name = pick.choice(DYNAMIC)
    return Asked(name, "", cpus, pairs, failures, granularity, 1500, reductions=reductions)


@pytest.mark.parametrize("name", DYNAMIC)
def test_whole_tds_and_faults(name: str) -> None:
    """Threads on one CPU, phases, whole pages written: one trial that has them, of each design."""
    for asked in asked_of_suite(name):
        if asked.trial in ("faults", "softirq", "split a hole", "teardown"):
            assert searched(asked, 1) == searched(asked, NEVER), asked.trial


def test_properties_of_ones_own_are_asked_of_every_state(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(
        "def few(view):\n    return sum(view.counts.values()) < 15\n\n\nfew.always = True\n",
        encoding="utf-8",
    )
    asked = Asked("v6", "", (3,), APART, 0, SEAMCALL, 1_000_000, str(file))
    whole = searched(asked, NEVER)
    assert "few" in whole.faults
    assert searched(asked, 1, 2) == whole


def test_without_reductions_there_are_more_states_and_the_same_verdict() -> None:
    for name in ("v6", "v2", "merged"):
        asked = Asked(name, "", (3,), APART, 0, SEAMCALL, 1_000_000)
        plain = replace(asked, reductions=NONE)
        less, more = searched(asked, 1), searched(plain, 1)
        assert less.numbers[0] == more.numbers[0]
        assert less.faults.keys() == more.faults.keys()
        assert less.numbers[2] * 3 < more.numbers[2]


def test_what_fails_is_learned_again_where_it_was_forgotten() -> None:
    """A local whose blocks turn out to read more is learned again, its failing blocks too."""
    design = load_design("v2")
    asked = Asked("v2", "", (3,), APART, 0, SEAMCALL, 1_000_000)
    trial, judges = prepare(asked, design)
    search = search_of(trial.make(design), judges, SEAMCALL)
    search.compiled_from = 1
    assert search.explore().faults
    graph = search.graph
    assert isinstance(graph, CompiledGraph)
    tables = graph._learned
    for local in range(len(tables._generation)):
        tables._generation[local] += 1
    tables._first_of.clear()
    size = ctypes.c_int64()
    at = graph._call.dpamt_column(graph._at, 3, size)
    onward = (ctypes.c_uint32 * len(graph)).from_address(at)
    onward[:] = list(range(len(graph)))  # no edge is kept: every state is expanded again
    assert graph.stuck() == -1


INTERRUPTED = """
import threading
from concurrent.futures import ThreadPoolExecutor

from dpamt.host.designs.load import load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.explore.search import search_of
from dpamt.verify.explore.state import Knowledge

submit = ThreadPoolExecutor.submit


def interrupted(pool, function, *arguments):
    begun = submit(pool, function, *arguments)
    if threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
    return begun


ThreadPoolExecutor.submit = interrupted
asked = Asked("v6", "", (8,), "apart", 0, "seamcall", 1_000_000)
trial, judges = prepare(asked, load_design("v6"))
search = search_of(trial.make(load_design("v6")), judges, asked.granularity, asked.most_states)
search.begin(Knowledge())
search.compiled_from, search.jobs = 1, 3
try:
    search.explore()
except KeyboardInterrupt:
    search.graph.close()
    print("ended")
"""


def test_ctrl_c_between_the_shares_of_a_chunk_leaves_no_thread_waiting() -> None:
    """A signal comes when a share has been given away: the threads that wait for each other all
    come, and the pool ends.  In a process of its own, which would never end."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr[-2000:]
