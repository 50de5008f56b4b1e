"""How a shutdown came about: of the calls before it, those on the memory that it names."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT, SIZE_2M
from dpamt.abi.status import status_name
from dpamt.module.fatal import ModuleFatal

REMEMBERED: Final = 4096
"""Calls before the shutdown that are looked through."""
TOLD: Final = 12
"""Calls that the story has at most: the last ones."""
_HOST_MEMORY: Final = ("hpa", "region")
_GUEST_MEMORY: Final = "gpa"


class Trail:
    """The last calls: what each was called, its registers before and after, and its status."""

    def __init__(self) -> None:
        self._calls: deque[tuple[str, tuple[int, ...], str]] = deque(maxlen=REMEMBERED)

    def add(self, text: str, registers: Mapping[str, int], status: int | None = None) -> None:
        """Remember a call, or a step of another CPU, which has no status."""
        answer = "" if status is None else f": {status_name(status)}"
        self._calls.append((text, tuple(registers.values()), answer))

    def story(self, fatal: ModuleFatal) -> tuple[str, ...]:
        """The last of those that name the 2M region, or the guest page, that the shutdown names."""
        told = [text + answer for text, named, answer in self._calls if _about(fatal, named)]
        return tuple(told[-TOLD:])


def _about(fatal: ModuleFatal, named: tuple[int, ...]) -> bool:
    addresses = [value % MAX_PA_LIMIT for value in named]
    return any(low <= at < high for low, high in _ranges(fatal) for at in addresses)


def _ranges(fatal: ModuleFatal) -> Iterator[tuple[int, int]]:
    """The memory that the state of a shutdown names, in bytes."""
    for name in _HOST_MEMORY:
        if name in fatal.state:
            first = fatal.state[name] & -SIZE_2M
            yield first, first + SIZE_2M
    if _GUEST_MEMORY in fatal.state:
        first = fatal.state[_GUEST_MEMORY] >> PAGE_SHIFT << PAGE_SHIFT
        yield first, first + (1 << PAGE_SHIFT)
