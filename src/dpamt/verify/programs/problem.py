"""What is verified: a machine at rest, the threads that then run on it, and what may be chosen.

A :class:`Problem` is made by the programs of :mod:`dpamt.verify.programs`, or by a user's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Recorder, Start
from dpamt.verify.learn.control_point import ControlPoints

if TYPE_CHECKING:
    from dpamt.verify.learn.values import Operations
    from dpamt.verify.programs.world import World

SEAMCALL: Final = "seamcall"
LOCKS: Final = "locks"
WORDS: Final = "words"
GRANULARITIES: Final = (SEAMCALL, LOCKS, WORDS)
"""Where CPUs are switched: around SEAMCALLs; also at the module's locks; at every shared word.
The words of the host are always seen one by one."""
LOCK_STEPS: Final = frozenset(
    {
        "try_shared",
        "try_exclusive",
        "try_exclusive_guest",
        "try_shared_guest",
        "promote",
        "release_shared",
        "release_exclusive",
        "store_and_release",
    }
)
"""Steps of the module before which CPUs are switched at ``locks``."""


@dataclass(frozen=True, slots=True)
class OwnWord:
    """A word that each instance of a thread class has for itself, by instance.

    ``pages`` says which page the instance names where the word's value holds a page frame number,
    ``shift`` at which bit; -1: the value names no page.
    """

    array: str
    indices: tuple[int, ...]
    shift: int = -1


@dataclass(frozen=True, slots=True)
class ThreadClass:
    """Threads that run the same function and differ in their own words only.

    ``start`` makes the private objects of the first instance.  ``interrupts`` names another class
    (by position, with one instance, as this one): this thread runs on the same CPU on top of it, as
    a softirq does, and the other stands still until it has ended.  One of a later ``phase`` does
    nothing before every thread of an earlier phase has ended.
    """

    name: str
    start: Start
    count: int = 1
    own: tuple[OwnWord, ...] = ()
    pages: tuple[int, ...] = ()
    interrupts: int = -1
    phase: int = 0
    softirq: bool = False
    starts: tuple[Start, ...] = ()
    """Starts of all instances, for runs in which each is run for itself; empty: there is one."""


@dataclass(slots=True)
class Problem:
    """A machine at rest and its threads.

    ``at_rest`` is asked when every thread has ended, with the words of that moment put back into
    the machine: a sentence for everything that is wrong.  ``always`` is asked in
    every state, of what the state says.
    """

    name: str
    shared: ObservedShared
    recorder: Recorder
    places: ControlPoints
    classes: tuple[ThreadClass, ...]
    at_rest: Callable[[], list[str]]
    always: Callable[[], list[str]] = list
    always_arrays: tuple[str, ...] = ()
    """Arrays that ``always`` looks at; it is asked once for each of their contents."""
    bounds: dict[str, str] = field(default_factory=dict)
    """What the verdict holds for, in words."""
    assumptions: list[str] = field(default_factory=list)
    """What the verdict rests on and was not proved, a sentence each."""
    world: "World | None" = None
    """The machine, for properties that a user adds."""
    operations: "dict[str, Operations]" = field(default_factory=dict)
    """What steps do to words, by array; filled by every search of the problem."""
