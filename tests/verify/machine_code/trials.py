"""The trials that small designs in C are put through, and which properties fail in them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dpamt.errors import DpamtError
from dpamt.host.designs.base import Design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, CROSSED, Choices
from dpamt.verify.programs.own_pages import own_pages
from dpamt.verify.programs.problem import SEAMCALL, WORDS, Problem
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify


class SmallTrial(NamedTuple):
    name: str
    make: Callable[[Design], Problem]
    granularity: str


ONE_REGION = SmallTrial("2 CPUs", lambda d: regions(d, (2,)), SEAMCALL)
EVERY_WORD = SmallTrial("2 CPUs, every word", lambda d: regions(d, (2,)), WORDS)
NO_MEMORY = SmallTrial("2 CPUs, no memory", lambda d: regions(d, (2,), APART, Choices(1)), SEAMCALL)
PAGES = SmallTrial("2 CPUs, pages", own_pages, SEAMCALL)
THREE = SmallTrial("3 CPUs", lambda d: regions(d, (3,)), SEAMCALL)
CROSS = SmallTrial("1 + 1 CPUs", lambda d: regions(d, (1, 1), CROSSED), SEAMCALL)


def broken(design: Design, trial: SmallTrial) -> tuple[str, ...]:
    """The properties that fail."""
    said = verify(trial.make(design), properties(design.tolerated), trial.granularity, 200_000)
    assert not said.stopped
    return tuple(name for name, how in said.properties.items() if how != "holds")


def first_failure(load: Callable[[], Design], trials: Iterator[SmallTrial]) -> str:
    """What is found first, in whatever way it is found; empty: nothing."""
    try:
        design = load()
        for trial in trials:
            found = broken(design, trial)
            if found:
                return f"{trial.name}: {', '.join(found)}"
    except DpamtError as error:  # one CPU alone comes to grief, or leaves all memory there is
        return f"{type(error).__name__}: {error}"
    return ""
