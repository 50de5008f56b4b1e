"""All words of a machine as one number, and what a step does to them."""

from collections.abc import Hashable
from typing import Any, Final, NamedTuple

from dpamt.sync import Word
from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.observed import PAGE_READS, PAGE_WRITES, WAITS, Address, ObservedShared
from dpamt.sync.shared_exclusive import SharedExclusiveLock
from dpamt.verify.learn.automaton import Step

DONE: Final = "done"
WAITING: Final = "waits"
MISUSED: Final = "misused"

Unit = tuple[str, int]
"""A word that stands alone, or a whole page of entries."""
Values = tuple[int, ...]
"""By unit: which of its values; a unit that was not touched yet has its first."""


class Outcome(NamedTuple):
    """How a step went, its result, and the memory after it."""

    how: str
    result: Any
    memory: int


class Memory:
    """The contents that the words of a machine can have together, by number; 0 is the first.

    The machine's own words do every operation, and have their first values again after it; nobody
    may observe them meanwhile.
    """

    def __init__(self, shared: ObservedShared) -> None:
        self.shared = shared
        self.units: dict[Unit, int] = {}
        self._names: list[Unit] = []
        self.values: list[list[Hashable]] = []
        self._numbers: list[dict[Hashable, int]] = []
        self._done: dict[tuple[int, int, int], tuple[str, Any, int]] = {}
        self.steps: list[Step] = []
        self._step_numbers: dict[Step, int] = {}
        self._step_units: list[int] = []
        self.contents: list[Values] = [()]
        self._memories: dict[Values, int] = {(): 0}
        self._outcomes: list[dict[int, Outcome]] = [{}]

    def number_of(self, step: Step) -> int:
        """The number of a step on a word."""
        number = self._step_numbers.get(step)
        if number is None:
            number = self._step_numbers[step] = len(self.steps)
            self.steps.append(step)
            self._step_units.append(self._unit(step))
        return number

    def do(self, memory: int, step: int) -> Outcome:
        """Do a step, by number."""
        known = self._outcomes[memory].get(step)
        if known is None:
            known = self._outcomes[memory][step] = self._do(memory, step)
        return known

    def _do(self, memory: int, step: int) -> Outcome:
        unit = self._step_units[step]
        values = self.contents[memory]
        before = values[unit] if unit < len(values) else 0
        key = unit, before, step
        if key not in self._done:
            self._done[key] = self._try(unit, before, self.steps[step])
        how, result, after = self._done[key]
        if after == before:
            return Outcome(how, result, memory)
        changed = [*values, *[0] * (unit + 1 - len(values))]
        changed[unit] = after
        while changed and not changed[-1]:
            changed.pop()
        return Outcome(how, result, self._memory(tuple(changed)))

    def _memory(self, values: Values) -> int:
        memory = self._memories.setdefault(values, len(self.contents))
        if memory == len(self.contents):
            self.contents.append(values)
            self._outcomes.append({})
        return memory

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

    def _try(self, unit: int, before: int, step: Step) -> tuple[str, Any, int]:
        name = self._names[unit]
        word = self._word(name)
        _put(word, self.values[unit][before])
        arguments = step.arguments
        if (
            isinstance(self.shared.array(name[0]), EntryPages)
            and step.method not in PAGE_READS | PAGE_WRITES
        ):
            arguments = step.address.number & 511, *arguments
        how, result = DONE, None
        try:
            result = getattr(word, step.method)(*arguments)
        except Deadlock as deadlock:
            how, result = (WAITING, None) if step.method in WAITS else (MISUSED, str(deadlock))
        if isinstance(result, list):
            result = tuple(result)
        value = _look(word)
        _put(word, self.values[unit][0])
        after = self._numbers[unit].setdefault(value, len(self.values[unit]))
        if after == len(self.values[unit]):
            self.values[unit].append(value)
        return how, result, after

    def put(self, memory: int) -> None:
        """Give the machine's words the values of that memory."""
        values = self.contents[memory]
        for unit, number in self.units.items():
            value = self.values[number][values[number] if number < len(values) else 0]
            _put(self._word(unit), value)

    def seen_at(self, addresses: list[Address], memories: set[int]) -> set[tuple[Hashable, ...]]:
        """What those words hold together, in any of the memories."""
        looks: list[tuple[int, list[Hashable]]] = []
        for array, number in addresses:
            entry = isinstance(self.shared.array(array), EntryPages)
            unit = self.units[array, number >> 9 if entry else number]
            values = self.values[unit]
            if entry:
                values = [page[number & 511] for page in values]  # type: ignore[index]
            looks.append((unit, values))
        found = set()
        for memory in memories:
            state = self.contents[memory]
            found.add(
                tuple(values[state[unit] if unit < len(state) else 0] for unit, values in looks)
            )
        return found


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
