"""Replay of vector files: the same SEAMCALLs to dpamt's module, and its answers beside the record.

A scenario agrees when every call gives the recorded status and registers (registers that the record
does not list keep their input), a recorded shutdown happens, and the metadata left behind is the
recorded one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dpamt.abi.exits import TDG_MEM_PAGE_ACCEPT
from dpamt.abi.leaves import LEAF_NAMES, RAX_VERSION_SHIFT
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK, TdxModuleArgs
from dpamt.abi.status import status_name
from dpamt.errors import DpamtError, Finding, ModelError
from dpamt.module.fatal import ModuleFatal
from dpamt.module.guest import Guest, TdExit
from dpamt.module.module import TdxModule
from dpamt.sync import StepLockSet
from dpamt.trace.fatal_story import Trail
from dpamt.trace.vector_file import Json, Race, Scenario, VectorFile, number, read_vectors
from dpamt.trace.vector_final import compare_metadata, compare_rdmd
from dpamt.trace.vector_locks import OtherCpu
from dpamt.trace.vector_machine import build_module
from dpamt.trace.vector_shape import ACCEPT
from dpamt.trace.why import Why, watching

RECORDED_RELEASE: Final = "1.5.25"
"""The release that module-vectors.jsonl was recorded from."""

SHUTDOWN: Final = "shutdown of the module"

_ADDRESSES: Final[tuple[str, ...]] = ("hpa", "gpa")
"""Keys of a step of another CPU that are addresses."""
_LEAVES: Final = {name: leaf for leaf, name in LEAF_NAMES.items()}

Watch = Callable[[Scenario, int, int], None]
"""Called before each scenario with the scenario, its index from 0, and how many there are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: RAX and the registers afterwards; or ``event``, when there was no answer.

    ``event`` is :data:`SHUTDOWN`, or how the guest left its TD in the middle of a TDCALL.
    """

    status: int | None
    registers: dict[str, int]
    event: str = ""

    def __str__(self) -> str:
        if self.status is None:
            return self.event
        shown = [f"{self.status:#x} ({status_name(self.status)})"]
        shown += [f"{name}={value:#x}" for name, value in self.registers.items()]
        return " ".join(shown)


@dataclass(frozen=True, slots=True)
class CallDifference:
    """The first call that differs: its index from 0, its repetition, and both answers.

    Registers that agree are left out of both.  ``why`` is the check that refused the model's call,
    None where none did; ``shutdown`` what shut the model down, and ``story`` the calls that led
    there.
    """

    index: int
    repetition: int
    call: str
    recorded: Answer
    given: Answer
    why: Why | None = None
    shutdown: str = ""
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        again = f", repetition {self.repetition}" if self.repetition else ""
        because = f", because {self.why}" if self.why else ""
        return (
            f"call {self.index}{again}: {self.call}: recorded {self.recorded}, "
            f"given {self.given}{because}"
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of one scenario: ``calls`` made, the first that differs, and what else differs.

    ``setup`` says why the model does not accept the set-up; then nothing was called.  ``final`` is
    empty where a call differs: what follows from it means nothing.
    """

    id: str
    title: str
    calls: int
    difference: CallDifference | None
    final: tuple[str, ...]
    setup: str = ""

    @property
    def agrees(self) -> bool:
        """Whether everything was as recorded."""
        return self.difference is None and not self.final and not self.setup

    def __str__(self) -> str:
        if self.agrees:
            return f"{self.id} agrees ({self.calls} calls): {self.title}"
        what = str(self.difference) if self.difference else self.setup or "; ".join(self.final)
        return f"{self.id} differs: {self.title}: {what}"


def replay_file(path: Path, release: str = RECORDED_RELEASE) -> list[Replay]:
    """Replay every scenario of a vector file.  Raises InputError for a file that is not one."""
    return [replay(scenario, release) for scenario in read_vectors(path)]


def replay_all(file: VectorFile, release: str, watch: Watch | None = None) -> list[Replay]:
    """Replay every scenario of a file that has been read.

    Raises as :func:`replay`, and ModelError, naming the scenario, where the model breaks down.
    """
    results = []
    for index, scenario in enumerate(file.scenarios):
        if watch is not None:
            watch(scenario, index, len(file.scenarios))
        try:
            results.append(replay(scenario, release))
        except DpamtError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ModelError(f"{scenario.place}: {scenario.id}: {what}") from error
    return results


def replay(
    scenario: Scenario, release: str = RECORDED_RELEASE, step_by_step: bool = False
) -> Replay:
    """Replay one scenario; ``step_by_step`` takes every lock by itself, as under observation.

    Raises InputError for an unknown release, and where a step of another CPU cannot be done.
    """
    try:
        module = build_module(scenario, release)
    except Finding as refused:
        return Replay(scenario.id, scenario.title, 0, None, (), str(refused))
    if step_by_step:
        module.processor(0).locks = StepLockSet()
    result = _Player(scenario, module).play()
    if result.difference is None:
        return result
    # Why is asked of the same call in a second replay: to watch a call makes it slow.
    asked = result.difference.index, result.difference.repetition
    return _Player(scenario, build_module(scenario, release), asked).play()


def play_before(race: Race, module: TdxModule) -> Replay:
    """Bring a module to where the two calls of a race begin, one call after another."""
    return _Player(race.before, module).play()


class _Player:
    """One scenario under way; the call ``asked`` (index, repetition) is watched."""

    def __init__(
        self, scenario: Scenario, module: TdxModule, asked: tuple[int, int] | None = None
    ) -> None:
        self._scenario = scenario
        self._module = module
        self._other = OtherCpu(module)
        self._asked = asked
        self._calls = 0
        self._shutdown = ""
        self._trail = None if asked is None else Trail()
        self._story: tuple[str, ...] = ()
        for index, lock in enumerate(scenario.setup.get("held", [])):
            self._other.hold(lock, f"{scenario.place}: setup.held[{index}]")

    def play(self) -> Replay:
        scenario = self._scenario
        for index, call in enumerate(scenario.calls):
            if call["leaf"].startswith("@"):
                self._other.step(call, f"{scenario.place}: calls[{index}]")
                self._remember_step(index, call)
                continue
            difference = self._play_call(index, call)
            if difference is not None:
                return Replay(scenario.id, scenario.title, self._calls, difference, ())
        final = compare_metadata(self._module, scenario.final)
        self._other.release_all()
        final += compare_rdmd(self._module, scenario.final)
        return Replay(scenario.id, scenario.title, self._calls, None, tuple(final))

    def _play_call(self, index: int, call: Json) -> CallDifference | None:
        place = f"{self._scenario.place}: calls[{index}]"
        repeat = call.get("repeat", {"count": 1, "step": {}})
        inputs = {name: number(call.get(name, 0), place) for name in REGISTER_NAMES}
        expected = dict(call["expect"])
        for repetition in range(repeat["count"]):
            recorded = recorded_answer(expected, inputs, place)
            whys: list[Why] = []
            if self._asked == (index, repetition):
                with watching() as whys:
                    given = self._call(call, inputs, place)
            else:
                given = self._call(call, inputs, place)
            self._calls += 1
            if self._trail is not None and given.status is not None:
                shown = f"calls[{index}] {shown_call(call, inputs)}"
                before = {f"{name} before": value for name, value in inputs.items()}
                self._trail.add(shown, before | given.registers, given.status)
            ignored = frozenset(expected.get("stale", ()))
            if not _same(recorded, given, ignored):
                shown = shown_call(call, inputs)
                recorded, given = _only_differences(recorded, given, ignored)
                why = whys[-1] if whys else None
                return CallDifference(
                    index, repetition, shown, recorded, given, why, self._shutdown, self._story
                )
            _advance(inputs, repeat["step"], place)
            _advance(expected, repeat.get("expect_step", {}), place)
        return None

    def _remember_step(self, index: int, call: Json) -> None:
        if self._trail is not None:
            place = f"{self._scenario.place}: calls[{index}]"
            named = {key: number(call[key], place) for key in _ADDRESSES if key in call}
            told = ", ".join(f"{key}={value}" for key, value in call.items() if key != "leaf")
            self._trail.add(f"calls[{index}] {call['leaf']}({told})", named)

    def _call(self, call: Json, inputs: dict[str, int], place: str) -> Answer:
        lp = self._module.processor(0)
        args = TdxModuleArgs.of(**inputs)
        try:
            with self._other.beside(args.rdx, place):
                if call["leaf"] == ACCEPT:
                    guest = Guest(lp, self._other.running_td(call, place))
                    status = guest.tdcall(TDG_MEM_PAGE_ACCEPT, args)
                else:
                    status = lp.seamcall(rax_of(call), args)
        except ModuleFatal as fatal:
            self._shutdown = str(fatal)
            if self._trail is not None:
                self._story = self._trail.story(fatal)
            return Answer(None, {}, SHUTDOWN)
        except TdExit as left:
            return Answer(None, {}, f"TD exit: {left}")
        return Answer(status, dict(zip(REGISTER_NAMES, args.as_tuple(), strict=True)))


def rax_of(call: Json) -> int:
    """RAX of a call: its leaf and version."""
    name = call["leaf"]
    leaf = int(name[1:]) if name.startswith("#") else _LEAVES[name]
    version: int = call.get("version", 0)
    return leaf | version << RAX_VERSION_SHIFT


def recorded_answer(expected: Json, inputs: dict[str, int], place: str) -> Answer:
    """What a record says a call gave; a register that is not listed came back as it went in."""
    if expected.get("fatal"):
        return Answer(None, {}, SHUTDOWN)
    registers = {
        name: number(expected[name], place) if name in expected else value
        for name, value in inputs.items()
    }
    return Answer(number(expected["status"], place), registers)


def _same(recorded: Answer, given: Answer, ignored: frozenset[str]) -> bool:
    recorded, given = _only_differences(recorded, given, ignored)
    return recorded == given


def _only_differences(
    recorded: Answer, given: Answer, ignored: frozenset[str]
) -> tuple[Answer, Answer]:
    names = [
        name
        for name in recorded.registers.keys() & given.registers.keys()
        if recorded.registers[name] != given.registers[name] and name not in ignored
    ]
    return (
        _with_registers(recorded, names),
        _with_registers(given, names),
    )


def _with_registers(answer: Answer, names: list[str]) -> Answer:
    return replace(answer, registers={name: answer.registers[name] for name in sorted(names)})


def _advance(registers: dict[str, int] | Json, step: Json, place: str) -> None:
    for name, delta in step.items():
        value = number(registers.get(name, 0), place) + number(delta, place)
        registers[name] = value & U64_MASK


def shown_call(call: Json, inputs: dict[str, int]) -> str:
    """A call as it is printed: its leaf and the registers that are not 0."""
    version = f" version {call['version']}" if call.get("version") else ""
    registers = [f"{name}={value:#x}" for name, value in inputs.items() if value]
    return f"{call['leaf']}{version}({', '.join(registers)})"
