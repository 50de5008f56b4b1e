"""A scenario of `dpamt run` as the script of the VMM: the same TDs, doing the same to their memory.

``build``, ``fault``, ``convert``, ``balloon``, ``shutdown`` and ``crash`` mean what they mean there
(docs/scenario.md).  All TDs of a step, and all
vCPUs of a TD, work at the same time here, each on its share.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.boot.kvm import guest
from dpamt.boot.kvm.guest import word
from dpamt.boot.kvm.script import Script
from dpamt.errors import InputError
from dpamt.run.guest_program import ACCEPT_2M, ACCEPT_4K, MAP_PRIVATE, MAP_SHARED, Instruction
from dpamt.run.scenario import END_PHASE, ENDING_STEPS, INIT_PHASE, Scenario, Step, TdGroup
from dpamt.run.td_memory import SMALL, TdMemory, Tick, step_seed, td_seed

MAX_TDS: Final = 32
MAX_VCPUS: Final = 16
MAX_WORDS: Final = 1 << 15
"""Of one vCPU in one step; as in ``guest/vmm/vmm.h``."""
_ROOM: Final = 512 << 20
"""What the guest's kernel keeps for itself."""

_PUNCH: Final = 2
"""ORDER_PUNCH in ``guest/vmm/vmm.h``."""
_WORDS: Final = {
    ACCEPT_4K: guest.ACCEPT,
    ACCEPT_2M: guest.ACCEPT_2M,
    MAP_SHARED: guest.SHARE,
    MAP_PRIVATE: guest.UNSHARE,
}


def translate(scenario: Scenario, cpus: int, memory: int) -> Script:
    """The script for a machine of ``cpus`` CPUs and ``memory`` bytes.

    Raises InputError for a scenario that KVM cannot run there, naming the place.
    """
    return _Translation(scenario, cpus, memory).script()


class _ScriptedTd(TdMemory):
    """A TD whose guests' work becomes lines."""

    def __init__(self, group: TdGroup, number: int, seed: str, index: int, out: list[str]) -> None:
        super().__init__(group, number, seed)
        self.index = index
        self._out = out
        self._words: list[list[int]] = [[] for _ in range(group.vcpus)]

    def _execute(self, work: Sequence[list[Instruction]], tick: Tick) -> None:
        for turn, item in enumerate(work):
            self._words[turn % self.group.vcpus] += [
                word(_WORDS[kind], gpa >> PAGE_SHIFT, pages) for kind, gpa, pages in item
            ]
        # This KVM maps 4K pages, whatever level the guest asks for.
        for index, state in enumerate(self.ranges):
            if state:
                self.ranges[index] = SMALL

    def write_words(self) -> None:
        """What the guests are to do becomes lines."""
        for vcpu, listed in enumerate(self._words):
            if len(listed) > MAX_WORDS:
                raise InputError(
                    f"{self.name}: {len(listed):,} instructions for vCPU {vcpu} in one step; "
                    f"expected {MAX_WORDS:,} at most"
                )
            if listed:
                self._out.append(f"words {self.index} {vcpu} {' '.join(map(str, listed))}")
            listed.clear()

    def _give_back(self, index: int) -> None:
        first = index * PAGES_PER_2M
        self._out.append(f"order {self.index} {_PUNCH} {first} {PAGES_PER_2M} 0")


class _Translation:
    def __init__(self, scenario: Scenario, cpus: int, memory: int) -> None:
        self._scenario = scenario
        self._cpus = cpus
        self._memory = memory
        self._out: list[str] = []
        self._alive: list[_ScriptedTd] = []
        self._built: dict[str, int] = {}
        self._names: list[str] = []

    def script(self) -> Script:
        """Every phase, and the shutdown of what is left."""
        scenario = self._scenario
        phases = [INIT_PHASE]
        self._end_of(phases)
        for number, phase in enumerate(scenario.phases):
            for index, step in enumerate(phase.steps):
                where = f"phase[{number}].steps[{index}]"
                self._step(step, where)
            phases.append(phase.name)
            self._end_of(phases)
        if self._alive:
            self._destroy(list(self._alive), "shutdown")
            phases.append(END_PHASE)
            self._end_of(phases)
        return Script("\n".join(self._out) + "\n", tuple(phases), tuple(self._names))

    def _end_of(self, phases: list[str]) -> None:
        self._out.append(f"phase {len(phases)}")

    def _step(self, step: Step, where: str) -> None:
        if step.do == "split":
            raise InputError(
                f"{self._scenario.place(where)}: split: KVM of this kernel maps 4K pages only; "
                "expected a scenario without it"
            )
        chosen = []
        for group in self._scenario.tds:
            if step.td not in ("all", group.name):
                continue
            tds = [td for td in self._alive if td.group is group]
            if step.do == "build":
                for _ in range(group.count - len(tds) if step.count is None else step.count):
                    self._build(group, where)
            else:
                chosen += tds if step.count is None else tds[: step.count]
        if step.do in ENDING_STEPS:
            self._destroy(chosen, step.do)
        elif step.do != "build":
            for again in range(step.times):
                self._act(step, chosen, where, again)

    def _act(self, step: Step, tds: list["_ScriptedTd"], where: str, again: int) -> None:
        """A step of all its TDs at once: each has its words, then all begin."""
        for td in tds:
            seed = step_seed(self._scenario.seed, where, td.name, again)
            td.act(step, Random(seed), _no_tick)
            td.write_words()
        self._out.append("go")

    def _build(self, group: TdGroup, where: str) -> None:
        place = self._scenario.place(where)
        if len(self._names) == MAX_TDS:
            raise InputError(f"{place}: more than {MAX_TDS} TDs; expected as many at most")
        if group.vcpus > min(self._cpus, MAX_VCPUS):
            raise InputError(
                f"{place}: {group.name} has {group.vcpus} vCPUs; KVM gives a TD as many as the "
                f"machine has CPUs: expected {min(self._cpus, MAX_VCPUS)} at most, or --smp "
                f"{group.vcpus}"
            )
        number = self._built[group.name] = self._built.get(group.name, 0) + 1
        seed = td_seed(self._scenario.seed, group.name, number)
        td = _ScriptedTd(group, number, seed, len(self._names), self._out)
        self._names.append(td.name)
        self._alive.append(td)
        taken = sum(one.group.memory for one in self._alive)
        if taken + _ROOM > self._memory:
            raise InputError(
                f"{place}: {taken >> 20:,} MiB of TDs on {self._memory >> 20:,} MiB; expected "
                f"{_ROOM >> 20} MiB more than that (--memory)"
            )
        pages, image = group.memory >> PAGE_SHIFT, group.image >> PAGE_SHIFT
        self._out += [f"td {td.index} {group.vcpus} {pages} {image}", f"build {td.index}"]

    def _destroy(self, tds: list[_ScriptedTd], do: str) -> None:
        for td in tds:
            self._out.append(f"{'kill' if do == 'crash' else 'close'} {td.index}")
            self._alive.remove(td)


def _no_tick(_ranges: int) -> None:
    """Nothing is done yet."""
