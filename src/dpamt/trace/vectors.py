"""Replay of vector files: the same SEAMCALLs to dpamt's module, and its answers beside the record.

A scenario agrees when every call gives the recorded status and registers (registers that the record
does not list keep their input), a recorded shutdown happens, and the metadata left behind is the
recorded one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpamt.abi.exits import TDG_MEM_PAGE_ACCEPT
from dpamt.abi.leaves import LEAF_NAMES, RAX_VERSION_SHIFT
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK, TdxModuleArgs
from dpamt.abi.status import status_name
from dpamt.errors import InputError
from dpamt.module.fatal import ModuleFatal
from dpamt.module.guest import Guest
from dpamt.module.module import TdxModule
from dpamt.sync import StepLockSet
from dpamt.trace.vector_file import Json, Scenario, number, read_vectors
from dpamt.trace.vector_final import compare_metadata, compare_rdmd
from dpamt.trace.vector_locks import OtherCpu
from dpamt.trace.vector_machine import build_module

RECORDED_RELEASE: Final = "1.5.25"
"""The release that module-vectors.jsonl was recorded from."""

_LEAVES: Final = {name: leaf for leaf, name in LEAF_NAMES.items()}
_ACCEPT: Final = "TDG.MEM.PAGE.ACCEPT"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: RAX (None: the module shut down) and the registers afterwards."""

    status: int | None
    registers: dict[str, int]

    def __str__(self) -> str:
        if self.status is None:
            return "shutdown of the module"
        shown = [f"{self.status:#x} ({status_name(self.status)})"]
        shown += [f"{name}={value:#x}" for name, value in self.registers.items()]
        return " ".join(shown)


@dataclass(frozen=True, slots=True)
class CallDifference:
    """The first call that differs: its index from 0, its repetition, and both answers.

    Registers that agree are left out of both.
    """

    index: int
    repetition: int
    call: str
    recorded: Answer
    given: Answer

    def __str__(self) -> str:
        again = f", repetition {self.repetition}" if self.repetition else ""
        return (
            f"call {self.index}{again}: {self.call}: recorded {self.recorded}, given {self.given}"
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of one scenario: ``calls`` made, the first that differs, and what else differs.

    ``final`` is empty where a call differs: what follows from it means nothing.
    """

    id: str
    title: str
    calls: int
    difference: CallDifference | None
    final: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether everything was as recorded."""
        return self.difference is None and not self.final

    def __str__(self) -> str:
        if self.agrees:
            return f"{self.id} agrees ({self.calls} calls): {self.title}"
        what = str(self.difference) if self.difference else "; ".join(self.final)
        return f"{self.id} differs: {self.title}: {what}"


def replay_file(path: Path, release: str = RECORDED_RELEASE) -> list[Replay]:
    """Replay every scenario of a vector file.  Raises InputError for a file that is not one."""
    return [replay(scenario, release) for scenario in read_vectors(path)]


def replay(
    scenario: Scenario, release: str = RECORDED_RELEASE, step_by_step: bool = False
) -> Replay:
    """Replay one scenario; ``step_by_step`` takes every lock by itself, as under observation.

    Raises InputError where the scenario cannot be understood.
    """
    try:
        module = build_module(scenario, release)
        if step_by_step:
            module.processor(0).locks = StepLockSet()
        return _Player(scenario, module).play()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{scenario.place}: {type(error).__name__} {error}; expected a scenario as described"
        ) from error


class _Player:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, module: TdxModule) -> None:
        self._scenario = scenario
        self._module = module
        self._other = OtherCpu(module, scenario.place)
        self._calls = 0
        for lock in scenario.setup.get("held", []):
            self._other.hold(lock)

    def play(self) -> Replay:
        scenario = self._scenario
        for index, call in enumerate(scenario.calls):
            if call["leaf"].startswith("@"):
                self._other.step(call)
                continue
            difference = self._play_call(index, call)
            if difference is not None:
                return Replay(scenario.id, scenario.title, self._calls, difference, ())
        final = compare_metadata(self._module, scenario.final)
        self._other.release_all()
        final += compare_rdmd(self._module, scenario.final)
        return Replay(scenario.id, scenario.title, self._calls, None, tuple(final))

    def _play_call(self, index: int, call: Json) -> CallDifference | None:
        place = f"{self._scenario.place}: call {index}"
        repeat = call.get("repeat", {"count": 1, "step": {}})
        inputs = {name: number(call.get(name, 0), place) for name in REGISTER_NAMES}
        expected = dict(call["expect"])
        for repetition in range(repeat["count"]):
            args = _args(inputs, place)
            recorded = _recorded(expected, inputs, place)
            given = self._call(call, args, place)
            self._calls += 1
            ignored = frozenset(expected.get("stale", ()))
            if not _same(recorded, given, ignored):
                shown = _shown_call(call, inputs)
                recorded, given = _only_differences(recorded, given, ignored)
                return CallDifference(index, repetition, shown, recorded, given)
            _advance(inputs, repeat["step"], place)
            _advance(expected, repeat.get("expect_step", {}), place)
        return None

    def _call(self, call: Json, args: TdxModuleArgs, place: str) -> Answer:
        lp = self._module.processor(0)
        try:
            with self._other.beside(args.rdx):
                if call["leaf"] == _ACCEPT:
                    td = self._module.tds.at(number(call["tdr"], place) >> PAGE_SHIFT)
                    status = Guest(lp, td).tdcall(TDG_MEM_PAGE_ACCEPT, args)
                else:
                    status = lp.seamcall(_rax(call, place), args)
        except ModuleFatal:
            return Answer(None, {})
        return Answer(status, dict(zip(REGISTER_NAMES, args.as_tuple(), strict=True)))


def _args(inputs: dict[str, int], place: str) -> TdxModuleArgs:
    try:
        return TdxModuleArgs.of(**inputs)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error


def _rax(call: Json, place: str) -> int:
    name = call["leaf"]
    if name.startswith("#"):
        leaf = int(name[1:])
    elif name in _LEAVES:
        leaf = _LEAVES[name]
    else:
        raise InputError(f"{place}: leaf {name!r}; expected a leaf's name or #number")
    version: int = call.get("version", 0)
    return leaf | version << RAX_VERSION_SHIFT


def _recorded(expected: Json, inputs: dict[str, int], place: str) -> Answer:
    if expected.get("fatal"):
        return Answer(None, {})
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
        Answer(recorded.status, {name: recorded.registers[name] for name in sorted(names)}),
        Answer(given.status, {name: given.registers[name] for name in sorted(names)}),
    )


def _advance(registers: dict[str, int] | Json, step: Json, place: str) -> None:
    for name, delta in step.items():
        value = number(registers.get(name, 0), place) + number(delta, place)
        registers[name] = value & U64_MASK


def _shown_call(call: Json, inputs: dict[str, int]) -> str:
    version = f" version {call['version']}" if call.get("version") else ""
    registers = [f"{name}={value:#x}" for name, value in inputs.items() if value]
    return f"{call['leaf']}{version}({', '.join(registers)})"
