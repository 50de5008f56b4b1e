"""Threads as automata: histories that were merged to one node go on alike, to the end.

The real functions are run again without merging, and held against each other and against the walk
through the automaton, with the results that words gave in a search and with random ones.
"""

from collections.abc import Callable, Hashable
from functools import cache
from random import Random
from typing import Any

import pytest

from dpamt.abi.leaves import TDH_MEM_PAGE_AUG, TDH_MEM_PAGE_REMOVE
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.errors import Finding
from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.sync.host_priority import PAYLOAD_SHIFT
from dpamt.sync.observed import Address
from dpamt.verify.explore.search import Search
from dpamt.verify.learn.automaton import (
    CHOICE,
    MARK,
    NO_LEAF,
    Automaton,
    Event,
    Step,
    _enter,
    _Suspended,
)
from dpamt.verify.learn.liveness import Liveness
from dpamt.verify.programs.faults import faults
from dpamt.verify.programs.get_put import regions, softirq
from dpamt.verify.programs.ground import APART, OWN, Choices
from dpamt.verify.programs.own_pages import demote_and_get
from dpamt.verify.programs.problem import WORDS, Problem, ThreadClass
from dpamt.verify.properties.named import properties

History = tuple[Any, ...]
Said = tuple[Hashable, ...]
"""What a run does after its history: steps (with the SEAMCALL they are in), events, its end."""

_LONGEST = 2000

PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{
        f"{name}, one region": lambda name=name: regions(load_design(name), (2,))  # type: ignore[misc]
        for name in SHIPPED
        if load_design(name).dynamic_pamt
    },
    "merged, own pair": lambda: regions(load_design("merged"), (2,), OWN),
    "v3, no memory": lambda: regions(load_design("v3"), (2,), APART, Choices(1)),
    "merged, DEMOTE": lambda: demote_and_get(load_design("merged")),
    "v5, softirq": lambda: softirq(load_design("v5")),
    "v6, KVM's path": lambda: faults(load_design("v6"), 1, 2),
    "lazy, KVM's path": lambda: faults(load_design("lazy"), 2),
}


class Merges(Automaton):
    """An automaton that keeps every history that led to a node known before."""

    def _node(self, key: Any, node: Any) -> int:
        number = super()._node(key, node)
        if self.nodes[number].history != node.history:
            self.__dict__.setdefault("merged", []).append((number, node.history))
        return number

    @property
    def pairs(self) -> list[tuple[History, History]]:
        """(history kept by the node, another one that led to it)."""
        return [(self.nodes[n].history, other) for n, other in self.__dict__.get("merged", [])]


class Learned:
    """A problem whose automata a search has filled."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.automata = tuple(
            Merges(kind.name, kind.start, problem.recorder, problem.shared.watch)
            for kind in problem.classes
        )
        search = Search(problem, self.automata, properties(), WORDS, 3000)
        search.explore()
        self.results: dict[Hashable, list[Any]] = {}
        """What steps gave: of one kind on one array."""
        for automaton in self.automata:
            for node in automaton.nodes:
                for result in node.edges:
                    assert node.step is not None
                    known = self.results.setdefault(_kind(node.step), [])
                    if result not in known:
                        known.append(result)

    def run(self, kind: ThreadClass, history: History, answer: Callable[[Step], Any]) -> list[Said]:
        """The real functions, without merging: first fed the history, then what is answered."""
        said: list[Said] = []
        place = 0
        stopped = False
        recorder, watch = self.problem.recorder, self.problem.shared.watch

        def step(address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
            nonlocal place, stopped
            place += 1
            if place <= len(history):
                return history[place - 1]
            if stopped or place > len(history) + _LONGEST:
                raise _Suspended
            now = Step(address, method, arguments)
            said.append(("step", now, recorder.leaf))
            try:
                return answer(now)
            except StopIteration:
                stopped = True
                raise _Suspended from None

        def tell(event: Event) -> None:
            # What is told before the next step belongs to the edge, not to the node it leads to.
            if (place > len(history) or not history) and not stopped:
                said.append(("event", event))

        body = kind.start()
        recorder.begin(())
        recorder.leaf = NO_LEAF
        recorder.step, recorder.tell = step, tell  # type: ignore[method-assign]
        watch.observer = recorder
        try:
            said.append(("returned", repr(_enter(body))))
        except _Suspended:
            said.append(("goes on",))
        except (Finding, ArithmeticError, LookupError, TypeError, ValueError) as error:
            said.append(("raised", type(error).__name__, str(error)))
        finally:
            watch.observer = None
            del recorder.step, recorder.tell
        return said


def _kind(step: Step) -> Hashable:
    return step.address.array, step.method, step.arguments if step.method == CHOICE else ()


@cache
def learned(name: str) -> Learned:
    return Learned(PROBLEMS[name]())


@pytest.mark.parametrize("name", PROBLEMS)
def test_merged_histories_go_on_alike(name: str) -> None:
    """Pairs of histories of one node, with the same random results behind both."""
    known = learned(name)
    pick = Random(name)
    tried = 0
    for kind, automaton in zip(known.problem.classes, known.automata, strict=True):
        pairs = automaton.pairs
        for _ in range(1 + 12 // len(pairs) if pairs else 0):
            for pair in pick.sample(pairs, min(60, len(pairs))):
                assert not _differ(known, kind, pair, pick)
                tried += 1
    assert tried >= 10


@pytest.mark.parametrize("name", PROBLEMS)
def test_walks_through_the_automaton_are_runs(name: str) -> None:
    """A walk passes many merges; the run with its results does the same, step by step."""
    known = learned(name)
    pick = Random(name)
    for kind, automaton in zip(known.problem.classes, known.automata, strict=True):
        for _ in range(40):
            expected: list[Said] = []
            results: list[Any] = []
            node = automaton.nodes[0]
            expected += [("event", event) for event in automaton.first_events]
            while node.step is not None and len(results) < _LONGEST:
                expected.append(("step", node.step, node.leaf))
                results.append(pick.choice(list(node.edges)) if node.edges else None)
                if not node.edges:
                    break
                number, events = automaton.after(node.number, results[-1])
                node = automaton.nodes[number]
                expected += [("event", event) for event in events]
            given = iter(results)
            said = known.run(kind, (), lambda step, given=given: next(given))  # type: ignore[misc]
            if node.end is not None:
                assert expected.pop() == ("event", node.end)
                assert said.pop()[0] == node.end.kind
                assert said == expected
            else:
                assert said[: len(expected)] == expected


def _histories(automaton: Automaton, longest: int) -> int:
    """How many histories of at most that many results the automaton's nodes stand for."""
    ways = {0: 1}
    found = 1
    for _ in range(longest):
        after: dict[int, int] = {}
        for node, count in ways.items():
            for target, _events in automaton.nodes[node].edges.values():
                after[target] = after.get(target, 0) + count
        found += sum(after.values())
        ways = after
    return found


def test_nodes_are_fewer_than_histories() -> None:
    known = learned("merged, one region")
    (automaton,) = known.automata
    assert _histories(automaton, 200) > 2 * len(automaton.nodes)
    kinds = {node.step.method for node in automaton.nodes if node.step is not None}
    assert {MARK, "lock", "unlock", "load", "store", "try_shared", "release_shared"} <= kinds


def test_a_place_that_shows_too_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: a place that hides one local merges what goes on differently."""
    real = Liveness.after
    monkeypatch.setattr(
        Liveness, "after", lambda self, at: tuple(n for n in real(self, at) if n != "status")
    )
    known = Learned(PROBLEMS["v2, one region"]())
    (kind,), (automaton,) = known.problem.classes, known.automata
    pick = Random(1)
    assert any(_differ(known, kind, pair, pick) for pair in automaton.pairs)


def _differ(
    known: Learned, kind: ThreadClass, pair: tuple[History, History], pick: Random
) -> list[list[Said]]:
    """What each of two histories goes on with, given the same random results; empty: the same."""
    answers: list[Any] = []

    def invent(step: Step) -> Any:
        answers.append(pick.choice(known.results.get(_kind(step), [None])))
        return answers[-1]

    said = known.run(kind, pair[0], invent)
    given = iter(answers)
    again = known.run(kind, pair[1], lambda step: next(given))
    return [] if said == again else [said, again]


@pytest.mark.parametrize("name", [name for name in SHIPPED if load_design(name).dynamic_pamt])
def test_threads_of_one_class_are_interchangeable(name: str) -> None:
    """The second thread's automaton does what the first one's does, its own words renamed.

    The first may have fewer nodes: its GPA is 0, which other zeros happen to be equal to.
    """
    known = learned(f"{name}, one region")
    (kind,), (first,) = known.problem.classes, known.automata
    recorder, watch = known.problem.recorder, known.problem.shared.watch
    second = Automaton("second", kind.starts[1], recorder, watch)
    renamed = _Renamed(kind)
    pairs = {(0, 0)}
    pending = [(0, 0)]
    while pending:
        numbers = pending.pop()
        here, there = first.nodes[numbers[0]], second.nodes[numbers[1]]
        if here.step is None or there.step is None:
            assert there.end == here.end
            continue
        assert there.step == renamed.step(here.step)
        assert there.leaf == here.leaf
        for result, (number, events) in list(here.edges.items()):
            other, told = second.after(there.number, renamed.value(here.step.address, result))
            assert told == tuple(renamed.event(event) for event in events)
            if (number, other) not in pairs:
                pairs.add((number, other))
                pending.append((number, other))
    assert {number for number, _ in pairs} == set(range(len(first.nodes)))
    assert {number for _, number in pairs} == set(range(len(second.nodes)))


class _Renamed:
    """What stands for the second instance where the first one has its own."""

    def __init__(self, kind: ThreadClass) -> None:
        self._page, self._other = kind.pages
        self._own = {Address(word.array, word.indices[0]): word for word in kind.own}

    def address(self, address: Address) -> Address:
        word = self._own.get(address)
        return address if word is None else Address(address.array, word.indices[1])

    def value(self, address: Address, value: Any) -> Any:
        """A payload: a page frame number in it is the thread's page."""
        word = self._own.get(address)
        if word is None or word.shift < 0 or type(value) is not int:
            return value
        shift = word.shift - PAYLOAD_SHIFT
        if value >> shift != self._page:
            return value
        return self._other << shift | value & (1 << shift) - 1

    def step(self, step: Step) -> Step:
        arguments = tuple(self.value(step.address, argument) for argument in step.arguments)
        return Step(self.address(step.address), step.method, arguments)

    def event(self, event: Event) -> Event:
        """Operands hold addresses: the page's, and (of AUG and REMOVE, in RCX) the GPA."""
        if event.kind == "log":
            text = str(event.subject)
            return Event("log", text.replace(f"{self._page:#x}", f"{self._other:#x}"))
        if event.kind != "seamcall":
            return event
        operands, status = event.detail
        assert isinstance(operands, tuple)
        if event.subject in (TDH_MEM_PAGE_AUG, TDH_MEM_PAGE_REMOVE):
            operands = (operands[0] + PAGE_SIZE, *operands[1:])
        pages = {self._page << PAGE_SHIFT: self._other << PAGE_SHIFT}
        return Event(event.kind, event.subject, (tuple(pages.get(o, o) for o in operands), status))
