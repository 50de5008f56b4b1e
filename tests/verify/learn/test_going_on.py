"""A thread that goes on in the same run learns what runs from its start would; what differs the
second time is refused."""

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.sync.observed import ObservedShared
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.learn.automaton import Automaton, Event, Recorder
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.programs.faults import faults
from dpamt.verify.programs.get_put import regions, softirq
from dpamt.verify.programs.ground import APART, Choices
from dpamt.verify.programs.problem import SEAMCALL, WORDS, Problem, ThreadClass
from dpamt.verify.programs.whole_tds import early_end, split_and_fault
from dpamt.verify.properties.named import KERNEL, properties

PROBLEMS: dict[str, tuple[Callable[[], Problem], str]] = {
    "merged, words": (lambda: regions(load_design("merged"), (2,)), WORDS),
    "v2, four CPUs": (lambda: regions(load_design("v2"), (4,)), SEAMCALL),
    "v3, no memory": (lambda: regions(load_design("v3"), (3,), APART, Choices(1)), SEAMCALL),
    "v5, softirq": (lambda: softirq(load_design("v5")), SEAMCALL),
    "lazy, KVM's path": (lambda: faults(load_design("lazy"), 1, 2), WORDS),
    "merged, early end": (lambda: early_end(load_design("merged")), SEAMCALL),
    "v6, split": (lambda: split_and_fault(load_design("v6")), SEAMCALL),
}
_STATES = 3000


def searched(name: str) -> tuple[Search, tuple[Any, ...]]:
    make, granularity = PROBLEMS[name]
    search = search_of(make(), properties(), granularity, _STATES)
    found = search.explore()
    said = (
        found.verdict,
        found.states,
        found.transitions,
        found.depth,
        found.ends,
        found.restarts,
        sorted((name, fault.state) for name, fault in found.faults.items()),
        sorted(search.problem.recorder.lines.lines) if search.problem.recorder.lines else [],
    )
    return search, said


def learned(automaton: Automaton) -> dict[tuple[Any, ...], tuple[Hashable, ...]]:
    """By history, what a thread is at; by edge, what happened: numbers of nodes have no part."""
    nodes = automaton.nodes
    first = min(nodes, key=lambda node: len(node.history))
    told: dict[tuple[Any, ...], tuple[Hashable, ...]] = {}
    seen: dict[int, tuple[Any, ...]] = {first.number: ()}
    pending = [first.number]
    while pending:
        node = nodes[pending.pop(0)]
        way = seen[node.number]
        edges = []
        for result, (target, events) in sorted(node.edges.items(), key=lambda edge: repr(edge[0])):
            if target not in seen:
                seen[target] = (*way, result)
                pending.append(target)
            edges.append((result, seen[target], events))
        told[way] = (node.step, node.sites, node.leaf, node.dropped, node.end, tuple(edges))
    assert len(told) == len(nodes)
    return told


@pytest.mark.parametrize("name", PROBLEMS)
def test_going_on_learns_what_single_runs_learn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search, said = searched(name)
    go = Automaton.go
    with monkeypatch.context() as patch:
        patch.setattr(
            Automaton, "go", lambda self, node, result, further: go(self, node, result, None)
        )
        other, said_before = searched(name)
    assert said == said_before
    for automaton, before in zip(search.automata, other.automata, strict=True):
        assert learned(automaton) == learned(before)
        assert automaton.runs < before.runs / 2
        assert before.runs >= len(before.nodes)


@pytest.mark.parametrize("name", PROBLEMS)
def test_frames_that_wait_stand_as_they_did(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = ControlPoints.of
    places = 0
    reused = 0

    def both(self: ControlPoints, frame: Any, stop: Any, called: str) -> Any:
        nonlocal places, reused
        stack = len(self._stack)
        known = of(self, frame, stop, called)
        reused += stack > 0 and any(self._settled)
        places += 1
        self.forget()
        assert of(self, frame, stop, called) == known
        return known

    monkeypatch.setattr(ControlPoints, "of", both)
    searched(name)
    assert places > 50
    assert reused > 10


class Machine:
    """Words of a small program."""

    def __init__(self) -> None:
        self.shared = ObservedShared()
        self.recorder = Recorder(ControlPoints((), (Machine,)))
        self.words = self.shared.words("words")
        self.a, self.b = (self.words.at(n) for n in range(2))


def problem(*threads: Callable[[Machine], object]) -> Problem:
    machine = Machine()
    return Problem(
        "a small program",
        machine.shared,
        machine.recorder,
        machine.recorder._places,
        tuple(
            ThreadClass(f"{n}", lambda thread=thread: lambda: thread(machine))  # type: ignore[misc]
            for n, thread in enumerate(threads)
        ),
        list,
    )


@pytest.mark.parametrize("differs", ["address", "argument", "end", "local", "one more step"])
def test_what_differs_the_second_time_is_refused_though_nothing_follows(differs: str) -> None:
    """One block, gone through in one run: only the run at the end can see it."""
    runs = 0

    def thread(machine: Machine) -> object:
        nonlocal runs
        machine.a.store(1)
        runs += 1
        first = runs == 1
        if differs == "address":
            word = machine.a if first else machine.b
            word.store(2)
        elif differs == "argument":
            machine.a.store(2 if first else 3)
        elif differs == "end":
            return 1 if first else 2
        elif differs == "local":
            held = 1 if first else 2
            machine.a.store(2)
            return held
        elif not first:
            machine.a.store(2)
        return 0

    with pytest.raises(InputError, match="no word shows"):
        search_of(problem(thread), properties(), WORDS).explore()


def test_a_steady_thread_is_run_once_more_and_no_oftener() -> None:
    runs = 0

    def thread(machine: Machine) -> None:
        nonlocal runs
        runs += 1
        machine.a.store(1)
        machine.b.store(1)
        machine.a.store(2)

    search = search_of(problem(thread), properties(), WORDS)
    search.explore()
    assert [len(automaton.nodes) for automaton in search.automata] == [4]
    assert runs == 3  # to the first step, through the block, and once more to the end
    (automaton,) = search.automata
    automaton.prove_steady()
    assert runs == 3


def test_what_the_search_raises_does_not_pass_through_the_thread() -> None:
    """A restart of the search comes up while the thread stands before its step."""
    caught: list[BaseException] = []

    def sets(machine: Machine) -> None:
        try:
            machine.a.load()
            machine.b.load()
            machine.a.store(1)
            machine.b.store(1)
        except BaseException as error:
            caught.append(error)
            raise

    def looks(machine: Machine) -> None:
        one = machine.b.load()
        other = machine.a.load()
        if one and not other:
            machine.recorder.tell(Event("bug", "a before b"))
        if other and not one:
            machine.recorder.tell(Event("bug", "b before a"))

    search = search_of(problem(sets, looks), properties(), WORDS)
    found = search.explore()
    assert found.restarts
    assert {type(error).__name__ for error in caught} == {"_Suspended"}
    assert set(found.faults) == {KERNEL}


def test_an_object_that_a_thread_makes_and_returns_is_no_difference() -> None:
    def thread(machine: Machine) -> object:
        machine.a.store(1)
        return object()

    found = search_of(problem(thread), properties(), WORDS).explore()
    assert set(found.faults) == {KERNEL}  # of what it returned, and nothing was refused
