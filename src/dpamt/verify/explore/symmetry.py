"""Threads of one class may be interchanged: proved for each of them, or not used.

The search keeps the threads of a class sorted, and learns the automaton of the first alone.  That
is sound when permuting the threads is an automorphism of the transition system (symmetry reduction:
Clarke, Enders, Filkorn, Jha 1996; Emerson, Sistla 1996; Ip, Dill 1996).  Here a permutation moves
the threads and, with them, the words that each has for itself (:class:`OwnWord`: the PAMT and S-EPT
entries of its own page), with the page that such a word names.  All other words stay.  What has to
be shown of the ``j``-th thread is that its automaton is the first's under that renaming:

* every step of the first has, after the renamed results, the renamed step of the ``j``-th: the same
  method, the renamed address, the renamed arguments; steps on words that are nobody's own are the
  same to the bit, so no such word ever tells threads apart;
* histories that are one place of the first are one place of the ``j``-th, so that what was learned
  of one of them holds for the others;
* what happens on the way (SEAMCALLs with their statuses, WARNs, the end) is the same except for
  pages;
* the sum of an add that the first drops is dropped by the ``j``-th too.

The argument goes by induction over the edges that the search has used.  It is enough to run, for
each thread, the histories of the leaves of the tree in which the first's nodes were found (each run
is held against the expected steps all along), and both histories of every edge that led to a node
known before.  What differs is not guessed at: the class is taken apart, each thread a class of its
own, and the verdict says so.
"""

from dataclasses import replace
from typing import Any

from dpamt.errors import DpamtError
from dpamt.sync.observed import Address, Watch
from dpamt.verify.learn.automaton import (
    Automaton,
    Event,
    Node,
    OtherStepError,
    Recorder,
    Step,
    run_once,
)
from dpamt.verify.learn.values import payload_shift
from dpamt.verify.programs.problem import Problem, ThreadClass


class NotAlikeError(Exception):
    """The threads of a class are no images of the first one."""

    def __init__(self, kind: int, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


class Image:
    """One more thread of a class, held against the automaton of the first."""

    def __init__(self, problem: Problem, number: int, instance: int, automaton: Automaton) -> None:
        kind = problem.classes[number]
        self._recorder: Recorder = problem.recorder
        self._watch: Watch = problem.shared.watch
        self._start = kind.starts[instance]
        self._automaton = automaton
        self._pages = (kind.pages[0], kind.pages[instance]) if kind.pages else (0, 0)
        self._there: dict[Address, Address] = {}
        self._shifts: dict[Address, int] = {}
        for word in kind.own:
            here = Address(word.array, word.indices[0])
            self._there[here] = Address(word.array, word.indices[instance])
            if word.shift >= 0:
                shift = word.shift - payload_shift(problem.shared.array(word.array))
                self._shifts[here] = shift
        self._done: set[tuple[int, Any]] = set()
        self._keys: dict[int, Any] = {}
        """By node: the place where this thread then stands."""

    def check(self) -> str:
        """What differs so far; empty: nothing.  What was checked before is not run again."""
        nodes = self._automaton.nodes
        inner = {node.before for node in nodes}
        try:
            for node in nodes:
                for result, (target, _) in list(node.edges.items()):
                    found = nodes[target]
                    if found.before == node.number and found.history[-1:] == (result,):
                        continue
                    if (node.number, result) not in self._done:
                        self._done.add((node.number, result))
                        self._edge(node, result, found)
                if node.number not in inner:
                    self._place_of(node)
        except _DiffersError as differs:
            return str(differs)
        return ""

    def _edge(self, node: Node, result: Any, target: Node) -> None:
        """An edge to a node that was known before leads where this thread's place is the same."""
        chain = self._chain(node)
        events = node.edges[result][1]
        key = self._run([*chain, target], [*self._results(chain[:-1], node), result], events)
        if key != self._place_of(target):
            raise _DiffersError(f"it tells apart what is one place at {_where(target)}")

    def _place_of(self, node: Node) -> Any:
        """Where this thread stands after the renamed history of a node."""
        if node.number not in self._keys:
            chain = self._chain(node)
            self._keys[node.number] = self._run(chain, self._results(chain[:-1], node), None)
        return self._keys[node.number]

    def _chain(self, node: Node) -> list[Node]:
        """The nodes that the history of a node goes through, itself last."""
        chain = [node]
        while chain[-1].before >= 0:
            chain.append(self._automaton.nodes[chain[-1].before])
        chain.reverse()
        return chain

    def _results(self, before: list[Node], node: Node) -> list[Any]:
        return list(node.history[: len(before)])

    def _run(self, chain: list[Node], results: list[Any], last: tuple[Event, ...] | None) -> Any:
        """Run the renamed results against the renamed steps; the place at their end."""
        nodes = chain[:-1]
        history, steps = [], []
        for node, result in zip(nodes, results, strict=True):
            assert node.step is not None
            steps.append(self._step(node.step))
            # A sum that the first drops is a number here: this one may look at it.
            history.append(0 if node.dropped else self._value(node.step.address, result))
        recorder = self._recorder
        recorder.watch_drops, recorder.drops = True, {}
        try:
            ran = run_once(self._start, recorder, self._watch, tuple(history), steps)
        except OtherStepError as other:
            raise _DiffersError(_difference(other.expected, other.step, other.where)) from None
        except DpamtError as error:
            raise _DiffersError(str(error)) from None
        finally:
            recorder.watch_drops = False
        end = chain[-1]
        stopped = ran.stopped
        if stopped is None or end.step is None:
            if stopped is not None or end.end is None or not self._same(end.end, ran.end):
                raise _DiffersError(f"it ends in another way than at {_where(end)}")
        elif (
            stopped.step != self._step(end.step)
            or stopped.leaf != end.leaf
            or stopped.dropped != end.dropped
        ):
            raise _DiffersError(_difference(self._step(end.step), stopped.step, _where(end)))
        for position, dropped in recorder.drops.items():
            if nodes[position].dropped != dropped:
                raise _DiffersError(f"it looks at the sum of the add at {_where(nodes[position])}")
        self._compare_events(nodes, results, last, ran.trail)
        return ran.key()

    def _compare_events(
        self,
        nodes: list[Node],
        results: list[Any],
        last: tuple[Event, ...] | None,
        trail: tuple[tuple[int, Event], ...],
    ) -> None:
        expected = [(0, event) for event in self._automaton.first_events]
        for n, (node, result) in enumerate(zip(nodes, results, strict=True)):
            told = node.edges[None if node.dropped else result][1]
            if last is not None and n == len(nodes) - 1:
                told = last
            expected += [(n + 1, event) for event in told]
        if len(expected) != len(trail) or not all(
            a == b and self._same(one, other)
            for (a, one), (b, other) in zip(expected, trail, strict=True)
        ):
            raise _DiffersError("what it does on its way is not the same")

    # The renaming.

    def _step(self, step: Step) -> Step:
        address = self._there.get(step.address, step.address)
        arguments = tuple(self._value(step.address, value) for value in step.arguments)
        return Step(address, step.method, arguments)

    def _value(self, address: Address, value: Any) -> Any:
        """A payload of a word, as this thread's word has it: with its own page in it."""
        shift = self._shifts.get(address, -1)
        here, there = self._pages
        if shift < 0 or type(value) is not int or value < 0 or value >> shift != here:
            return value
        return there << shift | value & (1 << shift) - 1

    def _same(self, event: Event, other: Event | None) -> bool:
        if other is None or event.kind != other.kind:
            return False
        if event.kind == "seamcall":
            return (event.subject, event.detail[-1]) == (other.subject, other.detail[-1])
        here, there = (f"{page:#x}" for page in self._pages)
        return _text(event).replace(here, there) == _text(other).replace(here, there)


class _DiffersError(Exception):
    """What is not the same."""


def _difference(expected: Step, step: Step, where: str) -> str:
    if expected.address != step.address:
        return f"{where}: {expected.address} of one is {step.address} of another"
    if expected.method != step.method:
        return f"{where}: {expected.method} of {step.address} of one is {step.method} of another"
    return f"{where}: {step.address}.{step.method} of {expected.arguments} and {step.arguments}"


def _text(event: Event) -> str:
    return f"{event.subject} {event.detail if event.kind == 'raised' else ''}"


def _where(node: Node) -> str:
    if not node.sites:
        return "the end"
    site = node.sites[-1]
    return f"{site.file}:{site.line}"


def images_of(problem: Problem, automata: tuple[Automaton, ...]) -> list[tuple[int, Image]]:
    """(class, image) of every thread that is not the first of its class."""
    return [
        (number, Image(problem, number, instance, automata[number]))
        for number, kind in enumerate(problem.classes)
        for instance in range(1, kind.count)
    ]


def told_apart(problem: Problem, number: int) -> Problem:
    """The problem with each thread of a class as a class of its own."""
    classes: list[ThreadClass] = []
    first: list[int] = []
    for n, kind in enumerate(problem.classes):
        first.append(len(classes))
        if n == number:
            classes += [ThreadClass(kind.name, start) for start in kind.starts]
        else:
            classes.append(kind)
    return replace(
        problem,
        classes=tuple(
            replace(kind, interrupts=first[kind.interrupts]) if kind.interrupts >= 0 else kind
            for kind in classes
        ),
    )
