"""The threads of a replay: each CPU a thread of the operating system, one runs at a time.

A thread stops before every step until the schedule says that it is its turn, and then does the step
on the real word.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.errors import Finding
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.observed import Address
from dpamt.sync.steps import ACQUIRES, RELEASES, WAITS
from dpamt.verify.evidence.counterexample import StepTold, event_text
from dpamt.verify.explore.context import KERNEL_LOCK_STEPS, Held, context_of, kept_off
from dpamt.verify.learn.automaton import CHOICE, MARK, NO_LEAF, Body, Event, Start, Step
from dpamt.verify.learn.control_point import CallSite, short_path, sites_of, sites_of_frame
from dpamt.verify.learn.values import BLOCKED, Operations, do_step, read_word, value_text
from dpamt.verify.programs.problem import Problem

MOST_STEPS: Final = 1_000_000
"""A schedule has no more; a run that has left its own and goes on longer goes on for ever."""


class _Stopped(BaseException):
    """Ends a thread that stands before a step when the run is over."""


class _Turn:
    """Given by one thread and taken by another; a bare lock, as a step costs two of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.take = self._lock.acquire

    def give(self) -> None:
        """Let the one go on that takes it; once, however often it was given."""
        try:
            self._lock.release()
        except RuntimeError:  # given before, and not taken yet
            return


class Cpu:
    """One CPU: its thread, where it stands, and its events since its last step."""

    def __init__(self, number: int, start: Start, kind: int = 0) -> None:
        self.number = number
        self.start = start
        self.go = _Turn()
        self.standing: tuple[Address, str, tuple[Any, ...]] | None = None
        self.site: tuple[str, str, int, int] = ("", "", 0, 0)
        self.sites: tuple[CallSite, ...] = ()
        self.leaf = NO_LEAF
        self.held: set[Address] = set()
        self.kind = kind
        self.context: Held = {}
        self.taken: dict[Address, tuple[CallSite, ...]] = {}
        """What its rules go by (explore/context.py), and where it took what it holds."""
        self.begun = False
        self.ended = False
        self.result: Any = None
        self.events: list[Event] = []


class Run:
    """The threads of one replay; one of them runs at a time, as the schedule says."""

    def __init__(self, problem: Problem, found: Mapping[str, Any]) -> None:
        self._problem = problem
        self._found = found
        self._back = _Turn()
        self._here = threading.local()
        self._stopping = False
        self._failure: BaseException | None = None
        self._choices = list(found["choices"])
        self._named = {name for name, _ in found["start"]}
        self._expected = {step["at"]: step for step in found["steps"]}
        starts = [
            (start, number)
            for number, kind in enumerate(problem.classes)
            for start in kind.starts or (kind.start,)
        ]
        self._cpus = [Cpu(number, *start) for number, start in enumerate(starts)]
        self._context = context_of(problem)
        self._over = list(_interrupted(problem))
        self._first: dict[Address, Any] = {}
        self.told: list[StepTold] = []
        self.events: list[Event] = []
        self.departure = ""
        self.done = 0
        self.stuck = False
        self._last = -1
        self._begin()

    # The scheduler's side.

    def _begin(self) -> None:
        recorder, watch = self._problem.recorder, self._problem.shared.watch
        self._threads = [
            threading.Thread(target=self._run, args=(cpu,), daemon=True) for cpu in self._cpus
        ]
        for thread in self._threads:
            thread.start()
            self._back.take()
        # The wrappers of the machine speak to its recorder, a single one: let it speak to us.
        recorder.step = self.step  # type: ignore[method-assign]
        recorder.tell = self._tell  # type: ignore[method-assign]
        watch.observer = self
        for cpu in self._cpus:
            self._resume(cpu)
            self.events += self._context.begun(cpu.kind, tuple(cpu.events))

    def follow(self) -> None:
        """Do what the schedule says; then, if the code has left it, go on to the end."""
        for number, count in self._found["turns"]:
            for _ in range(count):
                cpu = self._cpus[number]
                if not self._can_go(cpu):
                    self._depart(f"CPU{number} cannot go on where the counterexample lets it")
                    break
                self._one(cpu)
        if self.departure:
            self._to_the_end()
        self.stuck = not any(self._can_go(cpu) for cpu in self._cpus)

    def _to_the_end(self) -> None:
        began = self.done
        while self.done - began < MOST_STEPS:
            able = [cpu for cpu in self._cpus if self._can_go(cpu)]
            if not able:
                return
            while self._can_go(able[0]) and self.done - began < MOST_STEPS:
                self._one(able[0])
        self.departure += "; it then went on for ever"

    def end(self) -> None:
        """Stop the threads and give the machine back to whoever wants to look at it."""
        self._problem.shared.watch.observer = None
        self._stopping = True
        for cpu in self._cpus:
            cpu.go.give()
        for thread in self._threads:
            thread.join()
        recorder = self._problem.recorder
        for name in ("step", "tell"):
            vars(recorder).pop(name, None)
        if self._failure is not None:
            raise self._failure

    def waiting(self) -> list[str]:
        """Where the threads that have not ended stand."""
        lines = []
        for cpu in self._cpus:
            if cpu.ended or cpu.standing is None:
                continue
            address, method, _ = cpu.standing
            what = f"waits for {address.array}" if method in WAITS else "is interrupted"
            held = ", ".join(lock.array for lock in sorted(cpu.held))
            holding = f", holding {held}" if held else ""
            lines.append(f"CPU{cpu.number} {what} in {cpu.site[0]}{holding}")
        return lines

    def changed(self) -> tuple[tuple[str, str, str], ...]:
        """Words named by the counterexample that are not as they were."""
        shared = self._problem.shared
        lines = []
        for address, before in self._first.items():
            array = shared.array(address.array)
            now = read_word(array, address.number)
            if now != before:
                lines.append((str(address), value_text(array, before), value_text(array, now)))
        return tuple(lines)

    def _depart(self, how: str) -> None:
        if not self.departure:
            self.departure = f"step {len(self.told) + 1}: {how}"

    def _can_go(self, cpu: Cpu) -> bool:
        """Whether the thread is on its CPU, has not ended and need not wait."""
        if cpu.ended or cpu.standing is None:
            return False
        for upper, lower in self._over:
            top = self._cpus[upper]
            if cpu.number == lower and top.begun and not top.ended:
                return False
        address, method, _ = cpu.standing
        if method not in WAITS:
            return True
        operations = Operations(self._array(address))
        step = Step(address, method, ())
        return operations.outcome(step, self._value(address)).how != BLOCKED

    def _one(self, cpu: Cpu) -> None:
        """Let the thread do its step and go on to where it stands next; note what happened."""
        assert cpu.standing is not None
        address, method, arguments = cpu.standing
        site, leaf = cpu.site, cpu.leaf
        if method == MARK:
            leaf = arguments[0]
        named = str(address) in self._named
        if named and address not in self._first:
            self._first[address] = self._value(address)
        cpu.begun = True
        cpu.events = []
        sites, step_done = cpu.sites, Step(address, method, arguments)
        self._resume(cpu)
        if method in ACQUIRES:
            cpu.taken[address] = sites
            off = kept_off(step_done)
            if off is not None:
                cpu.taken[off] = sites
        found = tuple(cpu.events)
        cpu.events = [
            *self._context.after(
                cpu.kind,
                step_done,
                sites,
                cpu.result,
                cpu.context,
                found,
                lambda lock: cpu.taken.get(lock, ()),
            )
        ]
        self.events += cpu.events
        texts = tuple(text for text in map(event_text, found) if text)
        step = StepTold(
            cpu.number,
            *site[:3],
            str(address) if address.array else "",
            method,
            arguments,
            cpu.result,
            LEAF_NAMES.get(leaf, ""),
            texts,
            cpu.number != self._last,
            self.done,
            value_text(self._array(address), self._value(address)) if named else "",
            site[3],
        )
        expected = self._expected.get(self.done)
        if expected is not None and not self.departure:
            self._compare(step, expected)
        if expected is not None or (self.departure and (texts or named)):
            self.told.append(step)
            self._last = cpu.number
        self.done += 1

    def _compare(self, step: StepTold, expected: Mapping[str, Any]) -> None:
        for name in ("cpu", "word", "method", "arguments", "result", "seamcall", "events"):
            is_now = _plain(getattr(step, name))
            if is_now != expected[name]:
                self._depart(
                    f"CPU{step.cpu} in {step.function} ({step.file}:{step.line}): {name} is "
                    f"{is_now!r}, in the counterexample {expected[name]!r}"
                )
                return

    def _array(self, address: Address) -> Any:
        return self._problem.shared.array(address.array)

    def _value(self, address: Address) -> Any:
        watch = self._problem.shared.watch
        observer, watch.observer = watch.observer, None
        try:
            return read_word(self._array(address), address.number)
        finally:
            watch.observer = observer

    def _resume(self, cpu: Cpu) -> None:
        cpu.standing = None
        cpu.go.give()
        self._back.take()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # The threads' side.

    def _run(self, cpu: Cpu) -> None:
        self._here.cpu = cpu
        try:
            body: Body = cpu.start()
            self._back.give()
            cpu.go.take()
            if self._stopping:
                return
            ended = _ended_with(body)
            cpu.events.append(ended)
        except _Stopped:
            return
        except BaseException as failure:
            self._failure = failure
        cpu.ended = True
        self._back.give()

    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """Stand before the step until it is this thread's turn, then do it."""
        cpu: Cpu = self._here.cpu
        cpu.standing = address, method, arguments
        frame = sys._getframe(1)
        cpu.site = _site(frame)
        if method in KERNEL_LOCK_STEPS or method in ACQUIRES:  # nobody asks for others'
            cpu.sites = sites_of(frame, _ended_with.__code__)
        self._back.give()
        cpu.go.take()
        if self._stopping:
            raise _Stopped
        cpu.result = self._perform(cpu, address, method, arguments)
        return cpu.result

    def _perform(self, cpu: Cpu, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == MARK:
            cpu.leaf = arguments[0]
            return None
        if method == CHOICE:
            choice = self._choices.pop(0) if self._choices else 0
            return choice if choice in range(arguments[1]) else 0
        watch = self._problem.shared.watch
        watch.observer = None
        try:
            result = do_step(self._array(address), address.number, method, arguments)
            if method in RELEASES:
                cpu.held.discard(address)
            elif method in ACQUIRES and _is_taken(method, result):
                cpu.held.add(address)
            return result
        except Deadlock as misuse:
            cpu.events.append(Event("misuse", str(misuse)))
            return None
        finally:
            watch.observer = self

    def _tell(self, event: Event) -> None:
        cpu: Cpu = self._here.cpu
        if event.kind == "seamcall":
            cpu.leaf = NO_LEAF
        cpu.events.append(event)


def _ended_with(body: Callable[[], object]) -> Event:
    try:
        value = body()
    except Finding as finding:
        return Event("raised", type(finding).__name__, (str(finding),))
    return Event("returned", value if isinstance(value, (int, str)) else repr(value))


def _is_taken(method: str, result: Any) -> bool:
    return bool(result >= 0) if ACQUIRES[method] is None else result is not False


def _interrupted(problem: Problem) -> Iterator[tuple[int, int]]:
    """(CPU that runs on top, CPU below) of classes that interrupt others."""
    firsts = []
    first = 0
    for kind in problem.classes:
        firsts.append(first)
        first += kind.count
    for number, kind in enumerate(problem.classes):
        if kind.interrupts >= 0:
            yield firsts[number], firsts[kind.interrupts]


def _site(frame: FrameType | None) -> tuple[str, str, int, int]:
    """Function, file, line and instruction of the host or the module that asks for a step."""
    while frame is not None:
        code = frame.f_code
        skipped = "/sync/" in code.co_filename or "<" in code.co_qualname
        if not skipped and not code.co_filename.endswith("verify/learn/automaton.py"):
            site = sites_of_frame(frame)[-1]
            return site.function, short_path(site.file), site.line, site.address
        frame = frame.f_back
    return "", "", 0, 0


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    if value is None or type(value) in (int, str, bool):
        return value
    return json.loads(json.dumps(value, default=str))
