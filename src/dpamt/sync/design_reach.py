"""What a design may reach besides its arguments: a list of modules, and no way round it.

A design is run again and again, and only what it does to words and locks is explored.  Files,
clocks, random numbers, processes, and functions that reach what no name shows are nobody's state
there, so a design that asks for them is refused with its line, before it runs.  Nor may it reach
behind a word, to where its state lies or to a method of its class (``word._value``,
``Word.load(word)``): that reads the word as it was at the start.  Modules of the user's own beside
the design are held to the same.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dpamt.sync.behind_words import behind_words, changes_of_imported, destructors
from dpamt.sync.discipline import Breach

ALLOWED: Final = frozenset(
    {
        *("__future__", "abc", "collections", "dataclasses", "enum", "functools", "itertools"),
        *("math", "operator", "types", "typing"),
    }
)
"""Modules without state of their own; what a design keeps of them is looked at while it runs."""
ALLOWED_ROOMS: Final = frozenset({"abi", "errors", "host", "platform", "sync"})
"""Rooms of dpamt on the host's side of the wall."""
_REFUSED: Final = frozenset(
    {
        *("__import__", "breakpoint", "compile", "eval", "exec", "exit", "globals", "hash", "help"),
        *("id", "input", "locals", "open", "quit", "vars"),
    }
)


def out_of_reach(file: Path) -> list[Breach]:
    """Every import and call that a design must not make, in order of files and lines.

    Reads the file and the user's modules that it imports, as UTF-8 Python source.
    """
    found: list[Breach] = []
    pending, seen = [file], {file}
    while pending:
        now = pending.pop()
        tree = ast.parse(now.read_bytes())
        found += [Breach(now, line, said) for line, said in _behind_words(tree)]
        own_names = set(_bound(tree))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "."] if not node.level else []
                names = _with_members(names, node)
            elif isinstance(node, ast.Name):
                if node.id in _REFUSED and node.id not in own_names:
                    found.append(Breach(now, node.lineno, f"{node.id}() is called"))
                continue
            for name in names:
                beside = _beside(file, name)
                if beside is not None and beside not in seen:
                    seen.add(beside)
                    pending.append(beside)
                if beside is None and not _is_allowed(name):
                    assert isinstance(node, (ast.Import, ast.ImportFrom))
                    found.append(Breach(now, node.lineno, f"{name} is imported"))
    return sorted(set(found))


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that the file itself gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _behind_words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what is done) where private attributes or classes of words are used."""
    yield from behind_words(tree)
    yield from changes_of_imported(tree)
    yield from destructors(tree)
    annotations: set[int] = set()
    kinds: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dpamt.sync"):
            kinds |= {alias.asname or alias.name for alias in node.names}
        for name in ("annotation", "returns"):
            hint = getattr(node, name, None)
            if isinstance(hint, ast.AST):
                annotations |= {id(part) for part in ast.walk(hint)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in kinds and id(node) not in annotations:
            yield node.lineno, f"{node.id} is used, and is no word itself"


def _with_members(names: list[str], node: ast.ImportFrom) -> list[str]:
    """``from dpamt import module`` names dpamt.module."""
    if names != ["dpamt"]:
        return names
    return [f"dpamt.{alias.name}" for alias in node.names]


def _beside(file: Path, name: str) -> Path | None:
    """The user's module of that name beside the file; None where Python would take another one.

    A file ``random.py`` beside a design is not what ``import random`` finds.
    """
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names:
        return None
    own = file.parent / Path(*name.split("."))
    for one in (own / "__init__.py", own.with_suffix(".py")):  # in Python's order
        if one.exists():
            break
    else:
        return None
    taken = find_spec(first)
    if taken is None or taken.origin is None:
        return one
    return one if Path(taken.origin).resolve().is_relative_to(file.parent.resolve()) else None


def _is_allowed(name: str) -> bool:
    first, *rest = name.split(".")
    if first == "dpamt":
        return not rest or rest[0] in ALLOWED_ROOMS
    return first in ALLOWED
