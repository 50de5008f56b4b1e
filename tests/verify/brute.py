"""A plain search to hold the verifier against: no merged nodes, no symmetry, no reduction.

A thread is the history of its results and nothing else; a state is the value of every word that
was touched and the history of every thread.  Each step is done by the machine's own word.  CPUs may
be switched before every step, but for what the granularity makes one step.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from dpamt.errors import Finding
from dpamt.host.designs.base import Design
from dpamt.sync import Word
from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.observed import PAGE_READS, PAGE_WRITES, WAITS, Address
from dpamt.sync.shared import Snapshot
from dpamt.sync.shared_exclusive import SharedExclusiveLock
from dpamt.verify.explore.context import Held, context_of, keeps_softirqs_off
from dpamt.verify.learn.automaton import (
    CHOICE,
    CONTEXT,
    LOCK_ORDER,
    MARK,
    Event,
    Start,
    Step,
    _enter,
    _Suspended,
)
from dpamt.verify.learn.control_point import CallSite, ControlPoints, sites_of
from dpamt.verify.programs.get_put import APART, Choices, Ground, get_use_put
from dpamt.verify.programs.problem import LOCK_STEPS, LOCKS, SEAMCALL, Problem, ThreadClass
from dpamt.verify.properties.named import LIVELOCK, Property

_PAGE = re.compile("page 0x[0-9a-f]+")

Unit = tuple[str, int]
"""A word that stands alone, or a whole page of entries."""
Values = tuple[int, ...]
"""By unit: which of its values; a unit that was not touched yet has its first."""
State = tuple[Values, tuple[int, ...]]


class _NoPlaces(ControlPoints):
    """Threads are known by their history, never by where they stand."""

    def of(self, frame: Any, stop: Any, called: str) -> tuple[Hashable, tuple[CallSite, ...]]:
        return (), sites_of(frame, stop)


@dataclass
class Standing:
    """A thread after one history of results: what it is about to do, or how it ended."""

    thread: int
    history: tuple[Any, ...]
    step: Step | None
    leaf: int
    events: tuple[Event, ...]
    """What it did since the last result."""
    sites: tuple[CallSite, ...]
    held: Held
    after: dict[Hashable, int] = field(default_factory=dict)


class Way(NamedTuple):
    """One way for a thread to go on to where CPUs may be switched again."""

    values: Values
    standing: int
    events: tuple[Event, ...]


class Brute:
    """Everything that threads can do on one machine, once :meth:`explore` is done."""

    def __init__(
        self, problem: Problem, properties: tuple[Property, ...], granularity: str
    ) -> None:
        assert all(kind.count == 1 for kind in problem.classes)
        self.problem = problem
        self.properties = properties
        self.granularity = granularity
        self.shared = problem.shared
        self.recorder = problem.recorder
        self.recorder._places = _NoPlaces((), ())
        self.starts: list[Start] = [kind.start for kind in problem.classes]
        self.interrupts = [
            (number, kind.interrupts)
            for number, kind in enumerate(problem.classes)
            if kind.interrupts >= 0
        ]
        self.context = context_of(problem)
        self.standings: list[Standing] = []
        self.units: dict[Unit, int] = {}
        self._names: list[Unit] = []
        self.values: list[list[Hashable]] = []
        self._numbers: list[dict[Hashable, int]] = []
        self._done: dict[tuple[int, int, Step], tuple[str, Any, int]] = {}
        self.first = tuple(self._run(thread, ()) for thread in range(len(self.starts)))
        self.broken: set[str] = set()
        self.reached: set[Values] = set()
        self.answers: set[Hashable] = set()
        self.states = 0
        self.rests: set[Snapshot] = set()
        """The whole machine when every thread has ended."""

    # Threads.

    def _run(self, thread: int, history: tuple[Any, ...], before: Standing | None = None) -> int:
        recorder, watch = self.recorder, self.shared.watch
        body = self.starts[thread]()
        recorder.begin(history)
        end: Event | None = None
        watch.observer = recorder
        try:
            end = Event("returned", _enter(body))
        except _Suspended:
            pass
        except Finding as finding:
            end = Event("raised", type(finding).__name__, (str(finding),))
        finally:
            watch.observer = None
        events = tuple(recorder.events)
        stopped = recorder.stopped or (None, (), (), -1)
        if end is not None:
            events = (*events, end)
        held: Held = {}
        if before is not None and before.step is not None:
            held = dict(before.held)
            events = self.context.after(
                thread, before.step, before.sites, history[-1], held, events, lambda _: ()
            )
        standing = Standing(thread, history, stopped[0], stopped[3], events, stopped[2], held)
        self.standings.append(standing)
        return len(self.standings) - 1

    def _after(self, number: int, result: Hashable) -> int:
        standing = self.standings[number]
        if result not in standing.after:
            history = (*standing.history, result)
            standing.after[result] = self._run(standing.thread, history, standing)
        return standing.after[result]

    # Words.

    def _unit(self, step: Step) -> int:
        array, number = step.address
        whole = step.method in PAGE_READS or step.method in PAGE_WRITES
        if isinstance(self.shared.array(array), EntryPages) and not whole:
            number >>= 9
        unit = self.units.setdefault((array, number), len(self.units))
        if unit == len(self.values):
            self._names.append((array, number))
            start = _look(self._word((array, number)))
            self.values.append([start])
            self._numbers.append({start: 0})
        return unit

    def _word(self, unit: Unit) -> Any:
        array = self.shared.array(unit[0])
        return array.at(unit[1]) if hasattr(array, "at") else array

    def _do(self, values: Values, step: Step) -> tuple[str, Any, Values]:
        """(how it went, its result, all values after it)."""
        unit = self._unit(step)
        before = values[unit] if unit < len(values) else 0
        key = unit, before, step
        if key not in self._done:
            self._done[key] = self._try(unit, before, step)
        how, result, after = self._done[key]
        if after == before:
            return how, result, values
        changed = [*values, *[0] * (unit + 1 - len(values))]
        changed[unit] = after
        while changed and not changed[-1]:
            changed.pop()
        return how, result, tuple(changed)

    def _try(self, unit: int, before: int, step: Step) -> tuple[str, Any, int]:
        name = self._names[unit]
        word = self._word(name)
        _put(word, self.values[unit][before])
        arguments = step.arguments
        if name[1] != step.address.number or (
            isinstance(self.shared.array(name[0]), EntryPages)
            and step.method not in PAGE_READS | PAGE_WRITES
        ):
            arguments = step.address.number & 511, *arguments
        how, result = "done", None
        try:
            result = getattr(word, step.method)(*arguments)
        except Deadlock as deadlock:
            how, result = ("waits", None) if step.method in WAITS else ("misused", str(deadlock))
        if isinstance(result, list):
            result = tuple(result)
        value = _look(word)
        _put(word, self.values[unit][0])
        after = self._numbers[unit].setdefault(value, len(self.values[unit]))
        if after == len(self.values[unit]):
            self.values[unit].append(value)
        return how, result, after

    def reached_at(self, addresses: list[Address]) -> set[tuple[Hashable, ...]]:
        """What those words hold together, in every state that was reached."""
        looks: list[tuple[int, list[Hashable]]] = []
        for array, number in addresses:
            entry = isinstance(self.shared.array(array), EntryPages)
            unit = self.units[array, number >> 9 if entry else number]
            values = self.values[unit]
            if entry:
                values = [page[number & 511] for page in values]  # type: ignore[index]
            looks.append((unit, values))
        return {
            tuple(values[state[unit] if unit < len(state) else 0] for unit, values in looks)
            for state in self.reached
        }

    def put(self, values: Values) -> None:
        """Give the machine's words these values."""
        for unit, number in self.units.items():
            value = self.values[number][values[number] if number < len(values) else 0]
            _put(self._word(unit), value)

    # The search.

    def _may_switch(self, standing: Standing) -> bool:
        """Whether another CPU may come in before the standing's step."""
        step = standing.step
        assert step is not None
        if step.method == CHOICE:
            return False
        if step.method == MARK:
            return self.granularity == SEAMCALL
        if standing.leaf < 0:
            return True
        if self.granularity == LOCKS:
            return step.method in LOCK_STEPS
        return self.granularity != SEAMCALL

    def ways(self, values: Values, number: int) -> list[Way]:
        """How a thread can go on; none: it waits."""
        ways = []
        pending: list[tuple[Values, int, tuple[Event, ...], bool]] = [(values, number, (), True)]
        while pending:
            values, number, events, first = pending.pop()
            standing = self.standings[number]
            step = standing.step
            if step is None or (not first and self._may_switch(standing)):
                ways.append(Way(values, number, events))
                continue
            results: list[tuple[Any, Values]]
            if step.method == CHOICE:
                results = [(choice, values) for choice in range(step.arguments[1])]
            elif step.method == MARK:
                results = [(None, values)]
            else:
                how, result, after = self._do(values, step)
                if how == "waits":
                    assert first, "a thread waits inside a step of this granularity"
                    continue
                if how == "misused":
                    ways.append(Way(after, number, (*events, Event("misuse", result))))
                    continue
                results = [(result, after)]
            for result, after in results:
                come_to = self._after(number, result)
                pending.append((after, come_to, (*events, *self.standings[come_to].events), False))
        return ways

    def _is_off(self, threads: tuple[int, ...], position: int) -> bool:
        for upper, lower in self.interrupts:
            top = threads[upper]
            began = self.standings[top].step is not None and top != self.first[upper]
            if position == lower and began:
                return True
            below = self.standings[threads[lower]]
            if position == upper and not began and keeps_softirqs_off(below.held.items()):
                return True
        return self.standings[threads[position]].step is None

    def explore(self) -> None:
        """Everything; what is broken is in ``broken``, how it can end in ``rests``."""
        first: State = (), self.first
        numbers = {first: 0}
        before: list[list[int]] = [[]]
        good: list[int] = []
        pending = [first]
        for here in count():
            if here == len(pending):
                break
            state = pending[here]
            values, threads = state
            moved = False
            for position in range(len(threads)):
                if self._is_off(threads, position):
                    continue
                for way in self.ways(values, threads[position]):
                    moved = True
                    if self._judge(way.events):
                        good.append(here)
                        continue
                    following = [*threads]
                    following[position] = way.standing
                    after: State = way.values, tuple(following)
                    number = numbers.setdefault(after, len(pending))
                    if number == len(pending):
                        pending.append(after)
                        before.append([])
                    before[number].append(here)
            if not moved:
                good.append(here)
                self._judge_rest(values, threads)
        self.states = len(pending)
        self.reached = {values for values, _ in pending}
        self._judge_endless(before, good)

    def _judge(self, events: tuple[Event, ...]) -> bool:
        for event in events:
            told = answer(event)
            if told in self.answers:
                continue
            self.answers.add(told)
            for judge in self.properties:
                if judge.of_event is not None and judge.of_event(event):
                    self.broken.add(judge.name)
        return any(event.kind in ("raised", "misuse") for event in events)

    def _judge_rest(self, values: Values, threads: tuple[int, ...]) -> None:
        if any(self.standings[thread].step is not None for thread in threads):
            self.broken |= {judge.name for judge in self.properties if judge.of_deadlock}
            return
        self.put(values)
        self.rests.add(self.shared.snapshot())
        lines = self.problem.at_rest()
        for judge in self.properties:
            if judge.of_rest is not None and any(judge.of_rest(line) for line in lines):
                self.broken.add(judge.name)
        self.put(())

    def _judge_endless(self, before: list[list[int]], good: list[int]) -> None:
        leads = set(good)
        pending = [*leads]
        while pending:
            for earlier in before[pending.pop()]:
                if earlier not in leads:
                    leads.add(earlier)
                    pending.append(earlier)
        if len(leads) < len(before):
            self.broken.add(LIVELOCK)


def answer(event: Event) -> Hashable:
    """What an event says, without the pages that tell equal threads apart."""
    if event.kind == "seamcall":
        return event.kind, event.subject, event.detail[-1]
    if event.kind in ("alloc", "free"):
        return event.kind
    if event.kind in (CONTEXT, LOCK_ORDER):
        return event.kind
    subject = event.subject
    return event.kind, _PAGE.sub("a page", subject) if isinstance(subject, str) else subject


def _look(word: Any) -> Hashable:
    value: Hashable
    if isinstance(word, Word):
        value = word.load()
    elif isinstance(word, SharedExclusiveLock):
        value = word.lock_word()
    else:
        value = word.capture()
    return value


def _put(word: Any, value: Any) -> None:
    if isinstance(word, Word):
        word.store(value)
    else:
        word.restore(value)


def one_by_one(
    design: Design,
    cpus: tuple[int, ...],
    placement: str = APART,
    choices: Choices | None = None,
    order: tuple[int, ...] = (),
) -> Problem:
    """As programs.regions, but every thread stands for itself, with its own page and GPA."""
    ground = Ground(design, choices)
    ground.begin()
    kinds = []
    users = [
        (number, ground.region(number) + instance)
        for number, instances in enumerate(cpus)
        for instance in range(instances)
    ]
    for gfn, (number, pfn) in enumerate(users):
        pair = ground.donors(number, len(cpus), placement)
        kinds.append(ThreadClass(f"page {gfn}", ground.start(pair, _user(ground, pfn, gfn << 12))))
    return Problem(
        "one by one",
        ground.world.shared,
        ground.world.recorder,
        ground.world.places,
        tuple(kinds),
        lambda: ground.at_rest(len(cpus)),
    )


def _user(ground: Ground, pfn: int, gpa: int) -> Any:
    return lambda cpu: get_use_put(ground.world, cpu, ground.tdr, pfn, gpa)
