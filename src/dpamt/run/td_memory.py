"""A TD's memory in a run, and what a guest does to it: which pages, in which order.

Memory is followed in 2M ranges: not in use, in use as a 2M page, or in use as 4K pages.  What is
chosen depends on the scenario and its seed alone, so that `dpamt run` and `dpamt boot --kvm` make
the same TDs do the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M, SIZE_2M
from dpamt.run.guest_program import (
    ACCEPT_2M,
    ACCEPT_4K,
    MAP_PRIVATE,
    MAP_SHARED,
    Instruction,
)
from dpamt.run.scenario import Step, TdGroup

UNUSED: Final = 0
SMALL: Final = 1
HUGE: Final = 2

Tick = Callable[[int], None]
"""Called with the number of 2M ranges that were done since."""


def td_seed(seed: int, group: str, number: int) -> str:
    """Of what TD ``number`` of a group chooses once and for all."""
    return f"{seed}/{group}/{number}"


def step_seed(seed: int, where: str, td: str, again: int) -> str:
    """Of what a TD chooses in a step, done for the ``again``-th time."""
    return f"{seed}/{where}/{td}/{again}"


class TdMemory(ABC):
    """The memory of TD ``number`` of a group."""

    def __init__(self, group: TdGroup, number: int, seed: str) -> None:
        self.group = group
        self.number = number
        self.name = f"{group.name} (TD {number})"
        self.ranges = bytearray(group.memory // SIZE_2M)
        """What each 2M range is."""
        self.image_ranges = -(-group.image // SIZE_2M)
        self._wants_2m = self._choose_2m(Random(seed))

    def _choose_2m(self, random: Random) -> set[int]:
        beyond = range(self.image_ranges, len(self.ranges))
        return set(random.sample(beyond, round(self.group.share_2m * len(beyond))))

    @abstractmethod
    def _execute(self, work: Sequence[list[Instruction]], tick: Tick) -> None:
        """Have the guests do work items."""

    @abstractmethod
    def _give_back(self, index: int) -> None:
        """Have the host take a 2M range out of guest_memfd."""

    def act(self, step: Step, random: Random, tick: Tick) -> None:
        """One step of a phase, of those that a living TD does."""
        share = 1.0 if step.share is None else step.share
        if step.do == "fault":
            self.fault(self.group.faulted if step.share is None else step.share, tick)
        elif step.do == "convert":
            self.convert(share, step.chunk, random, tick)
        elif step.do == "balloon":
            self.balloon(share, random, tick)
        else:
            self.split(share, random, tick)

    def in_use(self) -> list[int]:
        """Ranges in use beyond the image."""
        return [index for index in range(self.image_ranges, len(self.ranges)) if self.ranges[index]]

    def fault(self, share: float, tick: Tick) -> None:
        """Accept memory from low addresses up, until ``share`` of it is in use."""
        if not self.ranges[0]:
            self._finish_image()
        wanted = round(share * len(self.ranges)) - sum(1 for state in self.ranges if state)
        unused = (index for index, state in enumerate(self.ranges) if not state)
        chosen = [index for index, _ in zip(unused, range(max(wanted, 0)), strict=False)]
        self._accept(chosen, [index in self._wants_2m for index in chosen], tick)

    def _finish_image(self) -> None:
        """The image's ranges are in use at 4K; accept what the image leaves of the last one."""
        for index in range(self.image_ranges):
            self.ranges[index] = SMALL
        rest = self.image_ranges * SIZE_2M - self.group.image >> PAGE_SHIFT
        if rest:
            self._execute([[Instruction(ACCEPT_4K, self.group.image, rest)]], _no_tick)

    def _accept(self, indices: Sequence[int], as_2m: Sequence[bool], tick: Tick) -> None:
        work = []
        for index, wants_2m in zip(indices, as_2m, strict=True):
            self.ranges[index] = HUGE if wants_2m else SMALL
            work.append([_accept_range(index, wants_2m)])
        self._execute(work, tick)

    def convert(self, share: float, chunk: int, random: Random, tick: Tick) -> None:
        """Turn ``share`` of the memory in use to shared and back, ``chunk`` bytes at once."""
        ranges = self.in_use()
        per_range = -(-SIZE_2M // chunk)
        total = len(ranges) * per_range
        work = []
        for choice in sorted(random.sample(range(total), round(share * total))):
            index, part = ranges[choice // per_range], choice % per_range
            work.append(self._conversion(index, part * chunk, min(chunk, SIZE_2M - part * chunk)))
        self._execute(work, tick)

    def split(self, share: float, random: Random, tick: Tick) -> None:
        """Convert one page of ``share`` of the 2M pages to shared and back."""
        huge = [index for index, state in enumerate(self.ranges) if state == HUGE]
        work = [
            self._conversion(index, random.randrange(PAGES_PER_2M) * PAGE_SIZE, PAGE_SIZE)
            for index in sorted(random.sample(huge, round(share * len(huge))))
        ]
        self._execute(work, tick)

    def _conversion(self, index: int, offset: int, size: int) -> list[Instruction]:
        gpa, pages = index * SIZE_2M + offset, size >> PAGE_SHIFT
        there_and_back = [
            Instruction(MAP_SHARED, gpa, pages),
            Instruction(MAP_PRIVATE, gpa, pages),
        ]
        if size == SIZE_2M:
            return [*there_and_back, _accept_range(index, self.ranges[index] == HUGE)]
        self.ranges[index] = SMALL
        return [*there_and_back, Instruction(ACCEPT_4K, gpa, pages)]

    def balloon(self, share: float, random: Random, tick: Tick) -> None:
        """Give ``share`` of the memory in use back to the host, then take it again."""
        ranges = self.in_use()
        chosen = sorted(random.sample(ranges, round(share * len(ranges))))
        was_2m = [self.ranges[index] == HUGE for index in chosen]
        for index in chosen:
            self._give_back(index)
            self.ranges[index] = UNUSED
        self._accept(chosen, was_2m, tick)


def _accept_range(index: int, wants_2m: bool) -> Instruction:
    kind = ACCEPT_2M if wants_2m else ACCEPT_4K
    return Instruction(kind, index * SIZE_2M, PAGES_PER_2M)


def _no_tick(_ranges: int) -> None:
    """For work too small to tell of."""
