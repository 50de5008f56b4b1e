"""A thread as an automaton, learned on demand from the functions it runs.

A node is a place where the thread stands before a step; an edge is a result of that step and leads
to the next node.  To learn an edge the thread is run again from its start: the results of its
earlier steps are fed back, so it comes to where it was, and goes on to the next step.  Two
histories that lead to the same place are one node, which keeps the first of them.

Some steps are no operations on words: a *mark* says that a SEAMCALL begins (result None), a
*choice* has several results that the search explores all of.
"""

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from dpamt.errors import Finding, InputError
from dpamt.sync.observed import Address, Watch
from dpamt.verify.learn.control_point import CallSite, ControlPoints, sites_of
from dpamt.verify.learn.plain_state import PlainState
from dpamt.verify.learn.reached_lines import ReachedLines
from dpamt.verify.learn.waiting import is_dropped

MARK: Final = "mark"
CHOICE: Final = "choose"
NO_LEAF: Final = -1
"""The thread is in no SEAMCALL."""
_NOWHERE: Final = Address("", 0)
MAY_SLEEP: Final = "may-sleep"
CONTEXT: Final = "context"
LOCK_ORDER: Final = "lock-order"
"""Kinds of events."""


class Step(NamedTuple):
    """What a thread is about to do: a method of the word at an address."""

    address: Address
    method: str
    arguments: tuple[Any, ...]


class Event(NamedTuple):
    """Something a thread did that properties look at.

    ``kind``: seamcall (subject: leaf, detail: operands and status), warn, bug, log (subject: text),
    alloc, free (subject: page), returned (subject: the value), raised (subject: type; detail:
    text), misuse (subject: text; a lock released that is not held), may-sleep (subject: what may,
    detail: call sites), context and lock-order (subject: the rule that is broken, with its places;
    see :mod:`dpamt.verify.explore.context`).
    """

    kind: str
    subject: Hashable
    detail: tuple[Hashable, ...] = ()


Events = tuple[Event, ...]


class Stopped(NamedTuple):
    """A thread before a step: where it stands, and what becomes of the result of an ``add``."""

    step: Step
    place: Hashable
    sites: tuple[CallSite, ...]
    leaf: int
    dropped: bool


@dataclass(slots=True)
class Node:
    """A place of a thread; ``step`` None: it has ended, and ``end`` says how."""

    number: int
    step: Step | None
    sites: tuple[CallSite, ...]
    leaf: int
    """The SEAMCALL that the thread is inside of; -1: none."""
    dropped: bool
    """The step is an add, and nobody ever looks at what it returns: from the bytecode."""
    history: tuple[Any, ...]
    before: int = -1
    """The node from which this one was first reached; -1: there is none."""
    end: Event | None = None
    edges: dict[Hashable, tuple[int, Events]] = field(default_factory=dict)


class _Suspended(BaseException):
    """Stops a thread before a step that has no result yet; not an Exception: nobody catches it."""


Body = Callable[[], object]
Start = Callable[[], Body]
"""Makes the private objects of a thread afresh and returns what it runs."""


class Recorder:
    """The observer of one thread's runs, and the way for wrappers to tell it events."""

    def __init__(self, places: ControlPoints) -> None:
        self._places = places
        self._history: tuple[Any, ...] = ()
        self._expected: list[Step] | None = None
        self._position = 0
        self.events: list[Event] = []
        self.trail: list[tuple[int, Event]] = []
        """All events of the run, each with the number of results before it."""
        self.leaf = -1
        self.stopped: Stopped | None = None
        self.watch_drops = False
        self.drops: dict[int, bool] = {}
        """By position, where it is asked for: whether the result of an add is dropped."""
        self.plain: PlainState | None = None
        """What no thread may change; None: nothing is watched."""
        self.lines: ReachedLines | None = None
        """The lines of the design that ran; None: nobody asks."""

    def begin(self, history: tuple[Any, ...], steps: list[Step] | None = None) -> None:
        """Start a run with these results, of these steps where they are known."""
        self._history = history
        self._expected = steps
        self._position = 0
        self.events = []
        self.trail = []
        self.leaf = -1
        self.stopped = None

    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """The recorded result of the step; the first step without one ends the run."""
        position = self._position
        if position < len(self._history):
            self._position = position + 1
            if self._expected is not None:
                expected = self._expected[position]
                if (
                    expected.method != method
                    or expected.address != address
                    or expected.arguments != arguments
                ):
                    raise OtherStepError(expected, Step(address, method, arguments))
                if self.watch_drops and method == "add":
                    self.drops[position] = is_dropped(sys._getframe(2), _enter.__code__)
            if position + 1 == len(self._history):
                self.events = []
                if self.lines is not None:
                    self.lines.begin(sys._getframe(2), _enter.__code__)
            return self._history[position]
        if self.stopped is None:
            if self.lines is not None:
                self.lines.end()
            frame = sys._getframe(2)
            key, sites = self._places.of(frame, _enter.__code__, method)
            dropped = method == "add" and is_dropped(frame, _enter.__code__)
            self.stopped = Stopped(Step(address, method, arguments), key, sites, self.leaf, dropped)
        raise _Suspended

    def mark(self, leaf: int) -> None:
        """A SEAMCALL begins; with NO_LEAF, a thread that is not there from the start."""
        self.leaf = leaf
        self.step(_NOWHERE, MARK, (leaf,))

    def choose(self, what: str, results: int) -> int:
        """One of ``results`` ways to go on, 0 the usual one."""
        chosen: int = self.step(_NOWHERE, CHOICE, (what, results))
        return chosen

    def tell(self, event: Event) -> None:
        """An event of the run; those before its last result belong to earlier edges."""
        if self.stopped is None:
            self.events.append(event)
            self.trail.append((self._position, event))

    def may_sleep(self, what: str) -> None:
        """The thread calls what may sleep; the caller's caller is where it does so."""
        if self.stopped is None:
            new = self._position == len(self._history)  # else an earlier edge has reported it
            sites = sites_of(sys._getframe(2), _enter.__code__) if new else ()
            self.tell(Event(MAY_SLEEP, what, sites))


class OtherStepError(InputError):
    """After the same results a thread does something else than was expected of it."""

    def __init__(self, expected: Step, step: Step) -> None:
        frame: FrameType | None = sys._getframe(2)
        here = frame
        while frame is not None and frame.f_globals.get("__name__", "").startswith("dpamt."):
            frame = frame.f_back
        if frame is None or frame.f_code is _enter.__code__ or here is None:
            frame = here
        where = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self.expected = expected
        self.step = step
        self.where = where
        super().__init__(
            f"{where}: {step.method} of {step.address} with {step.arguments}, and the time before, "
            f"after the same results, {expected.method} of {expected.address} with "
            f"{expected.arguments}: it goes by something that no word shows (a global, the time, "
            "a random number)"
        )


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a thread: where it was stopped, or how it ended, and what happened last."""

    stopped: Stopped | None
    end: Event | None
    events: Events
    """Since the last result; the end is the last of them."""
    trail: tuple[tuple[int, Event], ...]
    """Everything that happened, each with the number of results that were given before it."""

    def key(self) -> Hashable:
        """What is equal where the thread would go on alike."""
        if self.stopped is None:
            return ("end", self.end)
        return (self.stopped.step, self.stopped.place, self.stopped.leaf)


def run_once(
    start: Start,
    recorder: Recorder,
    watch: Watch,
    history: tuple[Any, ...],
    steps: "list[Step] | None" = None,
) -> Ran:
    """Run a thread from its start, with these results of its steps, to its next step or its end.

    ``steps`` are those that the results are of, where they are known: the run must make the same.
    """
    body = start()
    recorder.begin(history, steps)
    end: Event | None = None
    watch.observer = recorder
    if recorder.lines is not None and not history:
        recorder.lines.begin(None, _enter.__code__)
    try:
        value = _enter(body)
        end = Event("returned", value if isinstance(value, Hashable) else repr(value))
    except _Suspended:
        pass
    except Finding as finding:
        end = Event("raised", type(finding).__name__, (str(finding),))
    finally:
        watch.observer = None
        if recorder.lines is not None:
            recorder.lines.end()
    if recorder.stopped is not None:
        return Ran(recorder.stopped, None, tuple(recorder.events), tuple(recorder.trail))
    assert end is not None
    trail = (*recorder.trail, (len(history), end))
    return Ran(None, end, (*recorder.events, end), trail)


def _enter(body: Body) -> object:
    """The outermost frame that a place shows is the one below this."""
    return body()


class Automaton:
    """The nodes of one thread, node 0 its first."""

    def __init__(self, name: str, start: Start, recorder: Recorder, watch: Watch) -> None:
        self.name = name
        self._start = start
        self._recorder = recorder
        self._watch = watch
        self._known: dict[Any, int] = {}
        self.nodes: list[Node] = []
        self.runs = 0
        self._from = -1
        """The node that the run under way goes on from."""
        if recorder.plain is not None:
            recorder.plain.begin()
        first, self.first_events = self._run(())
        assert first == 0

    def codes(self) -> set[CodeType]:
        """The functions that have stood on the thread's stack at a step."""
        return {
            frame[0]
            for key in self._known
            if isinstance(key, tuple) and key[0] != "end"
            for frame in key[1]
        }

    def after(self, node: int, result: Hashable) -> tuple[int, Events]:
        """The node that follows when the step of ``node`` gave ``result``, and what happened."""
        edges = self.nodes[node].edges
        if self.nodes[node].dropped:
            result = None  # whatever it is, nobody looks
        known = edges.get(result)
        if known is None:
            history = (*self.nodes[node].history, result)
            known = edges[result] = self._run(history, self._steps_to(node))
        return known

    def _steps_to(self, number: int) -> list[Step]:
        """The steps whose results are the history of a node, and the step of the node itself."""
        steps: list[Step] = []
        self._from = number
        while number >= 0:
            node = self.nodes[number]
            assert node.step is not None
            steps.append(node.step)
            number = node.before
        steps.reverse()
        return steps

    def reach(self, history: tuple[Any, ...]) -> int:
        """The node that a history leads to, learned if it is not known."""
        number = 0
        for result in history:
            number = self.after(number, result)[0]
        return number

    def _run(self, history: tuple[Any, ...], steps: list[Step] | None = None) -> tuple[int, Events]:
        known = self._once(history, steps)
        plain = self._recorder.plain
        if plain is not None:
            plain.ran(lambda: self._untraced(history))
        return known

    def _untraced(self, history: tuple[Any, ...]) -> None:
        """A run once more, for somebody who traces it himself."""
        recorder = self._recorder
        lines, recorder.lines = recorder.lines, None
        try:
            self._once(history, None)
        finally:
            recorder.lines = lines

    def _once(self, history: tuple[Any, ...], steps: list[Step] | None) -> tuple[int, Events]:
        self.runs += 1
        ran = run_once(self._start, self._recorder, self._watch, history, steps)
        stopped = ran.stopped
        if stopped is None:
            node = Node(0, None, (), -1, False, history, end=ran.end)
        else:
            step, _, sites, leaf, dropped = stopped
            node = Node(0, step, sites, leaf, dropped, history)
        return self._node(ran.key(), node), ran.events

    def _node(self, key: Hashable, node: Node) -> int:
        """The number of the node with that key: a known one, or this."""
        number = self._known.setdefault(key, len(self.nodes))
        if number == len(self.nodes):
            node.number = number
            node.before = self._from
            self.nodes.append(node)
        return number
