"""All words of a machine as one number, and what a step does to them."""

from collections.abc import Hashable
from typing import Any, Final, NamedTuple

from dpamt.sync import Word
from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.observed import Address, ObservedShared
from dpamt.sync.shared_exclusive import SharedExclusiveLock
from dpamt.sync.steps import PAGE_READS, PAGE_WRITES, WAITS
from dpamt.verify.learn.automaton import Step

DONE: Final = "done"
WAITING: Final = "waits"
MISUSED: Final = "misused"

UNIT_BITS: Final = 16
"""Of a unit's value, by number, in a memory."""
UNIT: Final = (1 << UNIT_BITS) - 1

Unit = tuple[str, int]
"""A word that stands alone, or a whole page of entries."""


class Outcome(NamedTuple):
    """How a step went, its result, and by how much it changes the memory."""

    how: str
    result: Any
    delta: int


class Memory:
    """The contents of all words together, as one number.

    A word that a thread touches becomes a unit; its values are numbered as they are seen, 0 being
    the first, and unit ``n`` has ``UNIT_BITS`` bits from bit ``n * UNIT_BITS`` on.  So the memory
    before anybody runs is 0, and new units change no memory.

    The machine's own words do every operation, and have their first values again after it; nobody
    may observe them meanwhile.
    """

    def __init__(self, shared: ObservedShared) -> None:
        self.shared = shared
        self.units: dict[Unit, int] = {}
        self._names: list[Unit] = []
        self.values: list[list[Hashable]] = []
        self._numbers: list[dict[Hashable, int]] = []
        self._outcomes: dict[tuple[int, int], Outcome] = {}
        self.steps: list[Step] = []
        self._step_numbers: dict[Step, int] = {}
        self.unit_of: list[int] = []
        """By step."""

    def number_of(self, step: Step) -> int:
        """The number of a step on a word."""
        number = self._step_numbers.get(step)
        if number is None:
            number = self._step_numbers[step] = len(self.steps)
            self.steps.append(step)
            self.unit_of.append(self._unit(step))
        return number

    def do(self, memory: int, step: int) -> Outcome:
        """What a step, by number, does."""
        unit = self.unit_of[step]
        before = memory >> UNIT_BITS * unit & UNIT
        known = self._outcomes.get((step, before))
        if known is None:
            how, result, after = self._try(unit, before, self.steps[step])
            assert after <= UNIT, f"{self._names[unit]} has too many values"
            known = Outcome(how, result, after - before << UNIT_BITS * unit)
            self._outcomes[step, before] = known
        return known

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
        for unit, number in self.units.items():
            value = self.values[number][memory >> UNIT_BITS * number & UNIT]
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
            looks.append((UNIT_BITS * unit, values))
        return {
            tuple(values[memory >> bits & UNIT] for bits, values in looks) for memory in memories
        }


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
