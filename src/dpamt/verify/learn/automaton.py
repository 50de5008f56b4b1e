"""A thread as an automaton, learned on demand from the functions it runs.

A node is a place where the thread stands before a step; an edge is a result of that step and leads
to the next node.  To learn an edge the thread is run again from its start: the results of its
earlier steps are fed back, so it comes to where it was, and goes on to the next step.  Two
histories that lead to the same place are one node, which keeps the first of them.

A thread that has come to a place for the first time may go on from there in the same run, with the
result that the search has for its step (``Further``): it is what a run from the start would come
to, if the thread goes by nothing but its results.  That is held against it later.  Every run from
the start must make the steps that are known; where no run led over a place that was gone on to,
:meth:`Automaton.prove_steady` makes one.

Some steps are no operations on words: a *mark* says that a SEAMCALL begins (result None), a
*choice* has several results that the search explores all of.
"""

import sys
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from dpamt.errors import Finding, InputError
from dpamt.sync.observed import Address, Watch
from dpamt.verify.learn.control_point import CallSite, ControlPoints, sites_of
from dpamt.verify.learn.going_on import STOP, Further, GoingOn
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

    def key(self) -> Hashable:
        """What is equal where the thread would go on alike."""
        return self.step, self.place, self.leaf


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
        self._length = 0
        """How many results there are: those of the history, and those of a run that goes on."""
        self._expected: list[Step] | None = None
        self._further: Callable[[Stopped], Any] | None = None
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

    def begin(
        self,
        history: tuple[Any, ...],
        steps: list[Step] | None = None,
        further: Callable[[Stopped], Any] | None = None,
    ) -> None:
        """Start a run with these results, of these steps where they are known.

        There may be one step more than results: the one that it must come to.  ``further`` says
        how it goes on then: with a result, or STOP.
        """
        self._history = history
        self._length = len(history)
        self._expected = steps
        self._further = further
        self._position = 0
        self.events = []
        self.trail = []
        self.leaf = -1
        self.stopped = None

    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """The recorded result of the step; the first step without one ends the run."""
        position = self._position
        if position < self._length:
            self._position = position + 1
            if self._expected is not None:
                if self._expected[position] != (address, method, arguments):
                    raise OtherStepError(self._expected[position], Step(address, method, arguments))
                if self.watch_drops and method == "add":
                    self.drops[position] = is_dropped(sys._getframe(2), _enter.__code__)
            if position + 1 == self._length:
                self.events = []
                if self.lines is not None:
                    self.lines.begin(sys._getframe(2), _enter.__code__)
            return self._history[position]
        if self.stopped is None:
            if self.lines is not None:
                self.lines.end()
            step = Step(address, method, arguments)
            expected = self._expected
            if expected is not None and expected[position:] not in ([], [step]):
                raise OtherStepError(expected[position], step)
            frame = sys._getframe(2)
            key, sites = self._places.of(frame, _enter.__code__, method)
            dropped = method == "add" and is_dropped(frame, _enter.__code__)
            stopped = Stopped(step, key, sites, self.leaf, dropped)
            result = self._further(stopped) if self._further is not None else STOP
            if result is not STOP:
                self._position = self._length = position + 1
                self.events = []
                if self.lines is not None:
                    self.lines.begin(frame, _enter.__code__)
                return result
            self.stopped = stopped
        raise _Suspended

    def over(self) -> None:
        """The run has ended."""
        self._places.forget()
        if self.lines is not None:
            self.lines.end()

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
            new = self._position == self._length  # else an earlier edge has reported it
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
        return ("end", self.end) if self.stopped is None else self.stopped.key()


def run_once(
    start: Start,
    recorder: Recorder,
    watch: Watch,
    history: tuple[Any, ...],
    steps: "list[Step] | None" = None,
    further: Callable[[Stopped], Any] | None = None,
) -> Ran:
    """Run a thread from its start, with these results of its steps, to its next step or its end.

    ``steps`` are those that the results are of, where they are known: the run must make the same.
    ``further`` is asked at the next step how it goes on.
    """
    body = start()
    recorder.begin(history, steps, further)
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
        recorder.over()
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
        self.recorder = recorder
        self.watch = watch
        self._known: dict[Hashable, int] = {}
        self.nodes: list[Node] = []
        self.runs = 0
        self.come_from = -1
        """The node that the run under way goes on from."""
        self._proved: set[int] = set()
        """Nodes that :meth:`prove_steady` has run to."""
        if recorder.plain is not None:
            recorder.plain.begin()
        ran = self._once((), None, None)
        first, self.first_events = self.arrive(ran.stopped, ran.end, ()), ran.events
        assert first == 0
        if recorder.plain is not None:
            recorder.plain.ran(lambda: self.untraced(()))

    def codes(self) -> set[CodeType]:
        """The functions that have stood on the thread's stack at a step."""
        return {
            frame.code
            for key in self._known
            if isinstance(key, tuple) and key[0] != "end"
            for frame in key[1]
        }

    def after(self, node: int, result: Hashable) -> tuple[int, Events]:
        """The node that follows when the step of ``node`` gave ``result``, and what happened."""
        edge = self.go(node, result, None)
        assert edge is not None
        return edge

    def go(self, node: int, result: Hashable, further: Further | None) -> tuple[int, Events] | None:
        """The same; from a place that is new the thread goes on as ``further`` says.

        None: it was ``further`` that stopped it, and was given all nodes on the way.
        """
        here = self.nodes[node]
        if here.dropped:
            result = None  # whatever it is, nobody looks
        known = here.edges.get(result)
        return known if known is not None else self._learn(here, result, further)

    def _learn(self, node: Node, result: Any, further: Further | None) -> tuple[int, Events] | None:
        """Run the thread to learn an edge, and those behind it as long as ``further`` says."""
        self.come_from = node.number
        run = GoingOn(self, node, result, further)
        plain = self.recorder.plain
        try:
            ran = self._once(run.history, self.steps_to(node.number), run.arrived)
        except BaseException:
            if plain is not None and run.node is not node:
                plain.made(run.again)
            raise
        if ran.stopped is None:
            run.ended(ran)
        if plain is not None:
            plain.ran(run.again)
        if run.failure is not None:
            raise run.failure
        return run.edge

    def steps_to(self, number: int) -> list[Step]:
        """The steps whose results are the history of a node, and the step of the node itself."""
        steps: list[Step] = []
        while number >= 0:
            node = self.nodes[number]
            if node.step is not None:
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

    def prove_steady(self) -> None:
        """Run the thread from its start to every place that no other run led over.

        Raises InputError where it does something else than the first time.
        """
        inner = {node.before for node in self.nodes}
        leaves = [node for node in self.nodes if node.number not in inner | self._proved]
        self._proved.update(node.number for node in leaves)
        plain = self.recorder.plain
        with plain.together() if plain is not None else nullcontext():
            for node in leaves:
                self._come_again(node)

    def _come_again(self, node: Node) -> None:
        ran = self.untraced(node.history, self.steps_to(node.number))
        plain = self.recorder.plain
        if plain is not None:
            plain.ran(lambda: self.untraced(node.history))
        if node.end is not None and ran.end is not None:
            steady = _is_alike(node.end, ran.end)
        else:
            steady = self._known.get(ran.key()) == node.number
        if not steady:
            site = node.sites[-1] if node.sites else None
            where = f"{site.file}:{site.line}: " if site is not None else ""
            raise InputError(
                f"{where}{self.name}: a second run with the same results comes to another place: "
                "it goes by something that no word shows (a global, the time, a random number)"
            )

    def untraced(self, history: tuple[Any, ...], steps: list[Step] | None = None) -> Ran:
        """A run once more, of which the lines are known or are traced by somebody else."""
        recorder = self.recorder
        lines, recorder.lines = recorder.lines, None
        try:
            return self._once(history, steps, None)
        finally:
            recorder.lines = lines

    def _once(
        self,
        history: tuple[Any, ...],
        steps: list[Step] | None,
        arrived: Callable[[Stopped], Any] | None,
    ) -> Ran:
        self.runs += 1
        return run_once(self._start, self.recorder, self.watch, history, steps, arrived)

    def arrive(self, stopped: Stopped | None, end: Event | None, history: tuple[Any, ...]) -> int:
        """The node where a thread has come to."""
        if stopped is None:
            return self._node(("end", end), Node(0, None, (), -1, False, history, end=end))
        step, _, sites, leaf, dropped = stopped
        return self._node(stopped.key(), Node(0, step, sites, leaf, dropped, history))

    def _node(self, key: Hashable, node: Node) -> int:
        """The number of the node with that key: a known one, or this."""
        number = self._known.setdefault(key, len(self.nodes))
        if number == len(self.nodes):
            node.number = number
            node.before = self.come_from
            self.nodes.append(node)
        return number


def _is_alike(end: Event, again: Event) -> bool:
    """Whether two runs end alike: an object that a thread has made is another one each time."""
    if end == again:
        return True
    kind = type(end.subject)
    return end.kind == again.kind and kind is type(again.subject) and kind.__eq__ is object.__eq__
