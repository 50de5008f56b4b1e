"""Finds what a design changes of the kernel it is given besides words: state that no step shows.

A name that holds the kernel, or anything reached from it, is followed through plain assignments
within a function.  Changed are attributes and items that are assigned to or deleted, and
containers that a method changes; operations of words are no such change.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dpamt.sync.discipline import STEPS, Breach

SHARED_ARGUMENT: Final = "kernel"
"""The argument by which functions of a design are given what all CPUs share."""
_HOOKS: Final = (
    "tdx_pamt_get",
    "tdx_pamt_put",
    "tdx_pamt_missing",
    "tdx_pamt_hint",
    "tdx_pamt_demote",
    "tdx_pamt_work",
)
_CHANGING: Final = frozenset(
    {
        "append",
        "appendleft",
        "difference_update",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "reverse",
        "setdefault",
        "sort",
        "update",
        "__setattr__",
        "__setitem__",
    }
)


def plain_changes(file: Path) -> list[Breach]:
    """Every such change that any CPU may make at any time, in order of lines.

    What is called at boot only may change the kernel.
    """
    tree = ast.parse(file.read_bytes())
    found = [
        Breach(file, node.lineno, f"{ast.unparse(node)} is changed, and is no word")
        for function in _at_any_time(tree)
        for node in _changed(function)
    ]
    return sorted(set(found))


def _at_any_time(tree: ast.Module) -> list[ast.FunctionDef]:
    """The hooks of get and put, and what they call in the file."""
    functions = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}
    reached: dict[str, ast.FunctionDef] = {}
    pending: list[str] = [name for name in _HOOKS if name in functions]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached[name] = functions[name]
            names = {part.id for part in ast.walk(functions[name]) if isinstance(part, ast.Name)}
            pending += names & functions.keys()
    return list(reached.values())


def _changed(function: ast.FunctionDef) -> Iterator[ast.expr]:
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    shared = names & {SHARED_ARGUMENT}
    parts = [part for statement in function.body for part in ast.walk(statement)]
    while True:
        more = {
            target.id
            for part in parts
            if isinstance(part, ast.Assign) and _root(part.value) in shared
            for target in part.targets
            if isinstance(target, ast.Name)
        }
        if more <= shared:
            break
        shared |= more
    for part in parts:
        if isinstance(part, (ast.Attribute, ast.Subscript)):
            if not isinstance(part.ctx, ast.Load) and _root(part) in shared:
                yield part
        elif isinstance(part, ast.Call):
            called = part.func
            if isinstance(called, ast.Attribute) and called.attr in _CHANGING - STEPS:
                if _root(called.value) in shared:
                    yield called.value
            elif isinstance(called, ast.Name) and called.id in ("setattr", "delattr"):
                yield from (one for one in part.args[:1] if _root(one) in shared)


def _root(node: ast.expr) -> str | None:
    """The name that an expression of attributes and items begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
