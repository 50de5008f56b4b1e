"""A state put back into the words of the machine, for audits that read the machine itself."""

from typing import Any, Protocol

from dpamt.sync.observed import Address
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.state import REST
from dpamt.verify.learn.values import read_word, write_word
from dpamt.verify.programs.problem import Problem, ThreadClass


class _Searched(Protocol):
    problem: Problem
    engine: Engine
    capacity: int


def restore(search: _Searched, state: tuple[int, ...]) -> None:
    """Give every word that the search knows its value in ``state``."""
    words = search.engine.words
    pages: dict[Address, Any] = {}
    values: dict[Address, Any] = {}
    for n, slot in enumerate(words.shared):
        _sort(slot.address, slot.values[state[n]], pages, values)
    position = search.capacity
    for number, kind in enumerate(search.problem.classes):
        slots = words.own[number]
        for instance in range(kind.count):
            local = search.engine.locals[state[position]]
            position += 1
            for n, slot in enumerate(slots):
                value = slot.values[local.own[n] if n < len(local.own) else 0]
                if kind.count > 1:
                    address, value = _of_instance(kind, slot.address, value, instance)
                else:
                    address = slot.address
                _sort(address, value, pages, values)
    array_of = search.problem.shared.array
    for address, rest in pages.items():
        name = address.array.removesuffix(REST)
        _fill(array_of(name).at(address.number), rest, words.start_pages[name, address.number])
    for address, value in values.items():
        array = array_of(address.array)
        if read_word(array, address.number) != value:
            write_word(array, address.number, value)


def _sort(
    address: Address, value: Any, pages: dict[Address, Any], values: dict[Address, Any]
) -> None:
    (pages if address.array.endswith(REST) else values)[address] = value


def _fill(page: Any, rest: tuple[Any, ...], start: Any) -> None:
    if rest[0] == "start":
        page.restore(start)
    elif rest[0] == "fill":
        page.fill(rest[1])
    else:
        page.fill_run(rest[1], rest[2])


def _of_instance(
    kind: ThreadClass, address: Address, value: Any, instance: int
) -> tuple[Address, Any]:
    """The word of another instance that corresponds to the first one's, with its value there."""
    for word in kind.own:
        if (word.array, word.indices[0]) == address:
            there = Address(word.array, word.indices[instance])
            if word.shift >= 0 and value >> word.shift == kind.pages[0]:
                low = value & (1 << word.shift) - 1
                return there, kind.pages[instance] << word.shift | low
            return there, value
    raise AssertionError(address)
