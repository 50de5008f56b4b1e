"""Properties of a user's own: functions of a Python file, asked about a small view of the machine.

A file has functions ``name(view)`` that return True (or nothing wrong: "") when all is well, and
False, or a sentence, when it is not.  They are asked when every thread has ended; one that has
``name.always = True`` is asked in every state that the search keeps.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpamt.abi.pages import PAGE_TYPE_NAMES
from dpamt.errors import InputError
from dpamt.host.designs.untouched import check_untouched, members
from dpamt.inputs import read_text
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import PROPERTY_NAMES, Property
from dpamt.visible import check_name


@dataclass(frozen=True, slots=True)
class View:
    """The machine at one moment.  Pages are frame numbers, regions page >> 9."""

    counts: dict[int, int]
    """By region: its count, where it is not 0."""
    pairs: dict[int, tuple[int, int]]
    """By region: the two pages of the pair that the module has for it."""
    used: dict[int, str]
    """By page: what the module uses it for, by the name of its page type."""


Predicate = Callable[[View], object]


@dataclass(frozen=True, slots=True)
class Custom:
    """One function of a user's file."""

    file: str
    name: str
    predicate: Predicate
    always: bool

    def line(self, view: View) -> str:
        """``name: what is wrong``; empty when nothing is."""
        try:
            said = self.predicate(view)
        except (Exception, SystemExit, GeneratorExit) as error:
            raise InputError(
                f"{self.file}: {self.name}: {type(error).__name__}: {error}; expected an answer"
            ) from error
        if isinstance(said, str):
            return f"{self.name}: {said}" if said else ""
        if not isinstance(said, bool):
            raise InputError(
                f"{self.file}: {self.name}: returned {said!r}; expected True, False or a sentence"
            )
        return "" if said else f"{self.name}: does not hold"


_KNOWN: Final = frozenset(PROPERTY_NAMES)


def load_properties(path: str) -> tuple[Custom, ...]:
    """The functions of a file.  Raises InputError for a file that cannot be used."""
    check_name(path)
    source = read_text(path, "expected a Python file of properties")
    names: dict[str, object] = {"__name__": Path(path).stem, "__file__": path}
    try:
        before = members()
        exec(compile(source, path, "exec"), names)
        check_untouched(before, path)
    except SyntaxError as error:
        line = error.lineno or 1  # of a zero byte Python says no line
        raise InputError(f"{path}:{line}: {error.msg}; expected Python") from None
    except InputError:
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}; expected it to load") from None
    found = []
    for name, value in names.items():
        if not inspect.isfunction(value) or name.startswith("_"):
            continue
        if value.__code__.co_filename != path:
            continue
        where = f"{path}:{value.__code__.co_firstlineno}: {name}"
        if list(inspect.signature(value).parameters) != ["view"]:
            raise InputError(f"{where}: expected one parameter, view")
        if name in _KNOWN:
            raise InputError(f"{where}: expected a name that no property has yet")
        found.append(Custom(path, name, value, bool(getattr(value, "always", False))))
    if not found:
        raise InputError(f"{path}: expected a function name(view) -> bool or str")
    return tuple(found)


def with_custom(problem: Problem, custom: tuple[Custom, ...]) -> Problem:
    """The problem, asking these too."""
    at_rest = problem.at_rest
    problem.at_rest = lambda: [*at_rest(), *_lines(problem, custom)]
    every_state = tuple(one for one in custom if one.always)
    if every_state:
        problem.always = lambda: _lines(problem, every_state)
        problem.always_arrays = ("",)
    return problem


def properties_of(custom: tuple[Custom, ...]) -> tuple[Property, ...]:
    """As properties that have a name and a verdict."""

    def begins(name: str) -> Callable[[str], bool]:
        return lambda line: line.startswith(f"{name}: ")

    return tuple(
        Property(
            one.name,
            f"{one.file}: {one.name}",
            of_rest=begins(one.name),
            of_state=begins(one.name) if one.always else None,
            function=one.predicate,
        )
        for one in custom
    )


def _lines(problem: Problem, custom: tuple[Custom, ...]) -> list[str]:
    view = view_of(problem)
    return [line for one in custom if (line := one.line(_copy(view)))]


def _copy(view: View) -> View:
    """One for each property: what one of them changes in it, no other one sees."""
    return View(dict(view.counts), dict(view.pairs), dict(view.used))


def view_of(problem: Problem) -> View:
    """The machine of a problem as it is now."""
    world = problem.world
    assert world is not None
    return View(
        dict(world.kernel.pamt_refcounts.non_zero()),
        {region: (pair.pfn0, pair.pfn1) for region, pair in world.view.pairs().items()},
        {page: PAGE_TYPE_NAMES[use.type] for page, use in world.view.used_pages().items()},
    )
