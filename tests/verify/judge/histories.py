"""What threads do after each history of results: a tree for each thread, grown on demand."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from dpamt.errors import Finding, InputError
from dpamt.sync.observed import Address
from dpamt.verify.learn.automaton import (
    CHOICE,
    MARK,
    MAY_SLEEP,
    Event,
    Step,
    Stopped,
    _enter,
    _Suspended,
)
from dpamt.verify.programs.problem import Problem
from tests.verify.judge.context import NOTHING, Held, held_after
from tests.verify.judge.memory import DONE, Memory

LONGEST: Final = 600
"""Results after which a history is cut.  A get, use and put of the shipped designs has 120."""


@dataclass(slots=True)
class Standing:
    """A thread after one history of results: what it is about to do, or how it ended."""

    thread: int
    before: int
    """The standing before its last result; -1: it has had none."""
    result: Any
    length: int
    step: Step | None
    number: int
    """Of the step, where it is one on a word; -1: a choice or a mark, or it has ended."""
    leaf: int
    events: tuple[Event, ...]
    """What it did since the last result."""
    refused: InputError | None = None
    """Its code is refused here: raised when the search comes to it."""
    held: Held = NOTHING
    """The kernel's locks that the thread holds."""
    cut: bool = False
    """Whether it would go on, and the judge does not."""
    after: dict[Hashable, int] = field(default_factory=dict)


class Histories:
    """The trees of all threads of a problem."""

    def __init__(self, problem: Problem, memory: Memory, longest: int = LONGEST) -> None:
        self.problem = problem
        self.memory = memory
        self.longest = longest
        self.recorder = problem.recorder
        self.starts = [kind.start for kind in problem.classes]
        self.standings: list[Standing] = []
        self.runs = 0
        self._fed: list[Any] = []
        self._position = 0
        self._thread = self._before = self._memory = 0
        self._result: Any = None
        self._done = False
        # Threads are known by what they were told, never by where they stand.
        self.recorder.step = self._step  # type: ignore[method-assign]
        self.recorder.may_sleep = self._may_sleep  # type: ignore[method-assign]
        self.first = tuple(self._run(thread, -1, None, 0) for thread in range(len(self.starts)))

    def after(self, number: int, result: Hashable, memory: int) -> int:
        """The standing that follows; it is learned with the words as in ``memory``."""
        standing = self.standings[number]
        known = standing.after.get(result)
        if known is None:
            known = self._run(standing.thread, number, result, memory)
        return known

    def _run(self, thread: int, before: int, result: Any, memory: int) -> int:
        recorder, watch = self.recorder, self.problem.shared.watch
        self.runs += 1
        self._fed = self._results(before)
        if before >= 0:
            self._fed.append(result)
        self._position = 0
        self._thread, self._before, self._result = thread, before, result
        self._memory = memory
        self._done = False
        found = len(self.standings)
        body = self.starts[thread]()
        recorder.begin(())
        end: Event | None = None
        refused: InputError | None = None
        watch.observer = recorder
        try:
            end = Event("returned", _plain(_enter(body)))
        except _Suspended:
            pass
        except Finding as finding:
            end = Event("raised", type(finding).__name__, (str(finding),))
        except InputError as error:
            end, refused = Event("raised", "InputError", (str(error),)), error
        finally:
            watch.observer = None
        if end is not None:
            self._add(None, -1, -1, (*recorder.events, end), refused)
        return found

    def _results(self, number: int) -> list[Any]:
        results = []
        while number >= 0:
            standing = self.standings[number]
            if standing.before >= 0:
                results.append(standing.result)
            number = standing.before
        return results[::-1]

    def _add(
        self,
        step: Step | None,
        number: int,
        leaf: int,
        events: tuple[Event, ...],
        refused: InputError | None = None,
    ) -> int:
        here = len(self.standings)
        length, held = 0, NOTHING
        if self._before >= 0:
            parent = self.standings[self._before]
            length = parent.length + 1
            assert parent.step is not None
            held = held_after(parent.held, parent.step, self._result)
            parent.after[self._result] = here
        self.standings.append(
            Standing(
                self._thread,
                self._before,
                self._result,
                length,
                step,
                number,
                leaf,
                events,
                refused,
                held,
                step is not None and length >= self.longest,
            )
        )
        return here

    def _may_sleep(self, what: str) -> None:
        """Recorder.may_sleep, without the place."""
        self.recorder.tell(Event(MAY_SLEEP, what))

    def _step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """Recorder.step: what was told before, then what the words answer to a thread alone."""
        position = self._position
        if position < len(self._fed):
            self._position = position + 1
            if position + 1 == len(self._fed):
                self.recorder.events = []
            return self._fed[position]
        if self._done:
            raise _Suspended  # on its way out, and its code does one more step there
        watch = self.problem.shared.watch
        watch.observer = None  # while the words themselves answer
        try:
            how, result = self._alone(Step(address, method, arguments))
        finally:
            watch.observer = self.recorder
        if how != DONE or self.standings[-1].cut:
            self._done = True
            step = Step(address, method, arguments)
            self.recorder.stopped = Stopped(step, None, (), self.recorder.leaf, False)
            raise _Suspended
        self._before, self._result = len(self.standings) - 1, result
        return result

    def _alone(self, step: Step) -> tuple[str, Any]:
        """How a new step goes when no other thread runs, and its result."""
        on_word = step.method not in (MARK, CHOICE)
        number = self.memory.number_of(step) if on_word else -1
        self._add(step, number, self.recorder.leaf, tuple(self.recorder.events))
        self.recorder.events = []
        if not on_word:
            return DONE, 0 if step.method == CHOICE else None
        how, result, delta = self.memory.do(self._memory, number)
        self._memory += delta
        return how, result


def _plain(value: object) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)
