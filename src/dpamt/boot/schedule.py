"""A counterexample of `dpamt verify` followed by C code: who may go on, step by step.

The exerciser's threads announce what they are about to do to words and locks that CPUs share; what
the module is asked shows by itself.  One CPU goes at a time: it does its step, and when it comes to
its next one, the CPU of the next step of the schedule is let go.  An announcement brings the result
of the step before it, so the code is held against the counterexample word by word.  Code that
announces nothing (the kernel's own get and put) is followed from SEAMCALL to SEAMCALL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.abi.status import status_name
from dpamt.boot.exerciser import ANNOUNCING, Exercise
from dpamt.boot.request import Request
from dpamt.errors import InputError

LEAF_STEP: Final = 0xFFF0
"""The leaf of an announcement (``guest/step.c``); no module has it."""
_STEPS: Final = ("", "load", "inc_not_zero", "add", "store", "lock", "unlock", "begin", "end")
"""By the number in RCX (``enum step`` in ``guest/exerciser.h``); those on words as `dpamt verify`
names them."""
_BEGIN: Final = "begin"
_END: Final = "end"
CHOICE: Final = "choose"
"""The method of a step of a counterexample that is a choice: of an allocation to fail, or, at an
instruction, of a store to leave its buffer."""
_WORDS: Final = ("host.pamt_refcounts[", "pamt_lock[")
_LEAVES: Final = {name: leaf for leaf, name in LEAF_NAMES.items()}
_PROGRAM: Final = re.compile(r"(get, use, put|get, put) in region (\d)")
MAX_REGIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Point:
    """A step of a schedule that can be seen from outside."""

    cpu: int
    what: str
    """The operation, or the name of a leaf."""
    leaf: int
    """-1: no SEAMCALL."""
    expected: int | str | None
    """What comes of it: a value, the name of a status; None: nothing to tell."""
    at: int
    """Its number in the counterexample."""
    address: int = 0
    """Of the instruction before which the CPU stands; 0: none is known."""
    site: str = ""
    """That instruction as the counterexample tells it: function, file and line."""
    word: str = ""
    """The word that it touches, as the counterexample names it."""
    after: int | None = None
    """The word's value after it; None: nothing to tell."""

    def __str__(self) -> str:
        where = f" at {self.site}" if self.site else ""
        return f"CPU {self.cpu}, step {self.at}: {self.what}{where}"


@dataclass(slots=True)
class Followed:
    """How far a schedule was followed."""

    design: str
    """The C code that ran."""
    broken: str
    text: str
    cpus: int
    points: list[Point]
    done: list[int | str | None] = field(default_factory=list)
    """What came of each step that was made."""
    words: list["SeenWord | None"] = field(default_factory=list)
    """The word that each such step touched in the guest's memory; None: not looked at."""
    departure: str = ""
    """Where the C code did something else; empty: nowhere."""

    @property
    def is_same(self) -> bool:
        """Whether every step came as in the counterexample."""
        return not self.departure and len(self.done) == len(self.points)

    @property
    def by_instruction(self) -> bool:
        """Whether it was followed from instruction to instruction of the kernel's own code."""
        return any(point.address for point in self.points)


@dataclass(frozen=True, slots=True)
class SeenWord:
    """A word of the guest before and after an instruction; values are signed."""

    address: int
    """Virtual."""
    before: int
    after: int


def points_of(found: Mapping[str, Any], announced: bool) -> list[Point]:
    """The steps of a counterexample (its JSON form); without ``announced`` its SEAMCALLs alone.

    A SEAMCALL stands where it ends, as dpamt answers it in one step.  Raises InputError.
    """
    points = []
    try:
        for step in found["steps"]:
            cpu, at = int(step["cpu"]), int(step["at"])
            if step["seamcall"]:
                leaf = _LEAVES[step["seamcall"]]
                for event in step["events"]:
                    name, arrow, status = event.partition(" -> ")
                    if arrow and name == step["seamcall"]:
                        points.append(Point(cpu, name, leaf, status, at))
            elif announced and step["word"].startswith(_WORDS):
                result = step["result"]
                expected = None if result is None else int(result)
                points.append(Point(cpu, step["method"], -1, expected, at))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"counterexample: steps: {what}; expected the form of --save") from None
    return points


def exercise_of(found: Mapping[str, Any], design: str) -> Exercise:
    """The threads of a counterexample: each a page of its region, got, used and put.

    Raises InputError for programs that the exerciser does not have.
    """
    regions, uses = [], []
    for cpu in found["cpus"]:
        match = _PROGRAM.fullmatch(cpu)
        if match is None or int(match[2]) >= MAX_REGIONS:
            raise InputError(
                f"counterexample: a CPU runs {cpu!r}; the exerciser has 'get, use, put' and "
                '\'get, put\' of a page (trials "one region", "two regions", "words")'
            )
        uses.append(match[1] == "get, use, put")
        regions.append(int(match[2]))
    choices = [step for step in found["steps"] if step.get("method") == CHOICE]
    fails = any(step["result"] and not step.get("address") for step in choices)
    if fails or (any(found["choices"]) and not choices):
        raise InputError(
            "counterexample: an allocation fails in it; expected one of a trial without"
        )
    parameters = {
        "design": design,
        "threads": str(len(regions)),
        "regions": ",".join(map(str, regions)),
        "uses": ",".join(str(int(use)) for use in uses),
    }
    return Exercise(f"replay of {found['broken']}", "replay", parameters)


def is_step(request: Request) -> bool:
    """Whether it is an announcement: no SEAMCALL and no breakpoint."""
    leaf = request.registers["rax"] & RAX_LEAF_MASK
    return leaf == LEAF_STEP and not request.is_breakpoint


class Follower:
    """Lets CPUs go in the order of a schedule; what it says to answer is to be answered at once."""

    _where = "in C"

    def __init__(
        self, found: Mapping[str, Any], design: str, points: list[Point] | None = None
    ) -> None:
        if points is None:
            points = points_of(found, design in ANNOUNCING)
        self.result = Followed(design, found["broken"], found["text"], len(found["cpus"]), points)
        self._leaves = {point.leaf for point in points}
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._waiting: dict[int, Request] = {}
        self._running = -1
        """The CPU that was let go and has not come to its next step."""
        self._awaited: Point | None = None
        """The step that was made and has brought no result yet."""
        self._free = False
        """Whether everybody goes as they come."""

    @property
    def is_waiting(self) -> bool:
        """Whether somebody is kept."""
        return bool(self._waiting)

    @property
    def has_begun(self) -> bool:
        """Whether every CPU has come to the beginning of the schedule."""
        return len(self._begun) == self.result.cpus

    def take(self, request: Request) -> list[Request]:
        """A request came: those to answer now, in order."""
        cpu, what = request.cpu, _what(request)
        if what == _BEGIN:
            self._begun.add(cpu)
            self._waiting[cpu] = request
            return self._all() if self.has_begun else []
        if self._free:
            return [*self._all(), request]
        if cpu not in self._begun or cpu in self._ended:
            return [request]
        if not self._concerns(request):
            return [request]
        self._see_result(request)
        if self._running == cpu:
            self._running = -1
        if what == _END:
            self._ended.add(cpu)
            return [request, *self._next()]
        self._waiting[cpu] = request
        return self._next()

    def answered(self, request: Request, status: int) -> None:
        """The module answered a SEAMCALL."""
        point = self._awaited
        if point is not None and point.cpu == request.cpu and point.leaf >= 0:
            self._came(point, status_name(status))

    def missing(self, seconds: float) -> str:
        """Who is waited for, after ``seconds`` in which nobody came."""
        points, done = self.result.points, len(self.result.done)
        within = f"within {seconds:.0f} s"
        if not self.has_begun:
            count = self.result.cpus - len(self._begun)
            return f"{count} of {self.result.cpus} CPUs did not come to the beginning {within}"
        if self._awaited is not None:
            return f"{self._awaited}; the CPU did not come to the end of it {within}"
        if done < len(points):
            return f"{points[done]}; the CPU did not come there {within}"
        return f"nobody came {within}"

    def give_up(self, why: str) -> list[Request]:
        """Let everybody go; the schedule ends here."""
        if not self._free:
            self._depart(why)
        return self._all()

    def _next(self) -> list[Request]:
        """Whose turn it is, if it is there."""
        result = self.result
        if self._free:
            return self._all()
        if self._running >= 0:
            return []
        if len(result.done) == len(result.points):
            self._free = True
            return self._all()
        point = result.points[len(result.done)]
        request = self._waiting.get(point.cpu)
        if request is None:
            if point.cpu in self._ended:
                return self.give_up(f"{point}; the C code is at its end")
            return []
        if not self._is_at(request, point):
            if self._may_pass(request):
                self._running = point.cpu
                return [self._waiting.pop(point.cpu)]
            return self.give_up(f"{point}; {self._instead(request, point)}")
        self._awaited = point
        self._running = point.cpu
        return [self._waiting.pop(point.cpu)]

    # What a request is to the schedule.

    def _concerns(self, request: Request) -> bool:
        """Whether a request can be a step of the schedule."""
        return is_step(request) or request.registers["rax"] & RAX_LEAF_MASK in self._leaves

    def _is_at(self, request: Request, point: Point) -> bool:
        """Whether a CPU is about to make a step."""
        return _what(request) == point.what

    def _may_pass(self, request: Request) -> bool:
        """Whether what a CPU is about to do may be no step of the counterexample: a load of a word
        that nobody else touches."""
        return _what(request) == "load"

    def _instead(self, request: Request, point: Point) -> str:
        """What a CPU is about to do, where the schedule has ``point``."""
        return f"in C it is {_what(request)}"

    def _see_result(self, request: Request) -> None:
        """What came of the step before, where it was one on a word."""
        point = self._awaited
        if point is None or point.cpu != request.cpu:
            return
        value = request.registers["rdx"]
        if not is_step(request) or point.expected is None:
            self._came(point, point.expected)
        else:
            self._came(point, value - (1 << 64) if value >> 63 else value)

    def _came(self, point: Point, value: int | str | None, word: SeenWord | None = None) -> None:
        self._awaited = None
        self.result.done.append(value)
        self.result.words.append(word)
        if value != point.expected:
            self._depart(f"{point}: {point.expected}; {self._where} it is {value}")

    def _depart(self, why: str) -> None:
        self.result.departure = self.result.departure or why
        self._free = True

    def _all(self) -> list[Request]:
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting


def _what(request: Request) -> str:
    if request.is_breakpoint:
        return "an instruction"
    registers = request.registers
    leaf = registers["rax"] & RAX_LEAF_MASK
    if leaf != LEAF_STEP:
        return LEAF_NAMES.get(leaf, f"leaf {leaf}")
    number = registers["rcx"]
    return _STEPS[number] if number < len(_STEPS) else f"step {number}"
