"""Ways round a word's operations: to where its value lies, or to what runs the threads.

While threads are explored a word is an object that says what is done to it; what it holds itself is
the value of the start.  Code that gets at that by another way than an operation reads a constant,
and no search could see that it does.  So a design may not name what begins with an underscore on an
object that is not its own, may not ask for an attribute by a name that is made while it runs
(``getattr``, ``attrgetter``, ``str.format``), nor call a method of a class past the object's own
(``super`` with arguments, ``mro``), nor reach frames and the search itself.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

from dpamt.sync import (
    Mutex,
    RwLock,
    SpinLock,
    Word,
)
from dpamt.sync.entry_pages import EntryPage, EntryPages
from dpamt.sync.host_priority import HostPriorityWord, HostPriorityWords
from dpamt.sync.kernel_locks import RwLocks, SpinLocks
from dpamt.sync.lock_set import LockSet
from dpamt.sync.shared import Shared
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.words import Words

_KINDS: Final = (
    *(Word, Words, HostPriorityWord, HostPriorityWords, EntryPage, EntryPages, LockSet, Shared),
    *(SharedExclusiveLock, SharedExclusiveLocks, SpinLock, SpinLocks, RwLock, RwLocks, Mutex),
)
HIDDEN: Final = frozenset(
    {
        *(name for kind in _KINDS for name in dir(kind) if name[0] == "_" != name[1]),
        *("_arrays", "_observed", "_name"),
    }
)
"""Where words and locks keep what they hold."""
_OF_THE_SEARCH: Final = frozenset(
    {
        *("watch", "observer", "mro", "gi_frame", "gi_code", "cr_frame", "cr_code", "ag_frame"),
        *("ag_code", "tb_frame", "tb_next", "f_back", "f_locals", "f_globals", "f_builtins"),
        *("f_code", "f_trace", "gi_yieldfrom", "cr_await", "cr_origin"),
    }
)
_BY_NAME: Final = frozenset({"getattr", "setattr", "delattr", "hasattr"})
_MAKERS: Final = frozenset(
    {"attrgetter", "methodcaller", "update_wrapper", "get_type_hints", "ForwardRef", "format_map"}
)
"""What asks for attributes by names that are values, or evaluates a text."""
_FIELD: Final = re.compile(r"\{[^{}]*[.\[]_")
"""A field of a format that names a private attribute."""
_PYTHONS_OWN: Final = frozenset(
    {"__builtins__", "__loader__", "__spec__", "BaseException", "BaseExceptionGroup"}
)
"""Names of what leads everywhere, and of exceptions that stop more than the design."""
_OWN: Final = ("self", "cls")


def behind_words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what is done) of every such way that a file takes."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    checked = {
        id(call.func)
        for call in calls
        if _is_by_public_name(call) or (_names(call.func, "super") and not call.args)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if _is_hidden(node.attr, node.value) or node.attr in _MAKERS:
                yield node.lineno, f".{node.attr} is used"
        elif isinstance(node, ast.Name):
            if node.id in _BY_NAME and id(node) not in checked:
                yield node.lineno, f"{node.id}() is used with a name that is no public constant"
            elif node.id == "super" and id(node) not in checked:
                yield node.lineno, "super() is used with arguments"
            elif node.id in _MAKERS or node.id in _PYTHONS_OWN:
                yield node.lineno, f"{node.id} is used"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in _MAKERS:
                    yield node.lineno, f"{alias.name} is imported"
        elif isinstance(node, ast.MatchClass):
            for name in node.kwd_attrs:
                if name.startswith("_") or name in _OF_THE_SEARCH:
                    yield node.lineno, f".{name} is matched"
        elif isinstance(node, ast.Call):
            yield from _formats(node)


def changes_of_imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what is done) where something that a file imports is changed."""
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if _root(node) in imported:
                yield node.lineno, f"{ast.unparse(node)} is changed, and is not the file's own"
        elif isinstance(node, ast.Call) and node.args:
            sets = any(_names(node.func, name) for name in ("setattr", "delattr"))
            if sets and _root(node.args[0]) in imported:
                what = ast.unparse(node.args[0])
                yield node.lineno, f"{what} is changed, and is not the file's own"


def destructors(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what is done) of methods that run whenever Python lets an object go."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__del__":
            yield node.lineno, "__del__ is defined: it runs at no place of its own"


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _names(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_hidden(name: str, owner: ast.expr) -> bool:
    if name in _OF_THE_SEARCH:
        return True
    if not name.startswith("_"):
        return False
    if name == "__init__" and isinstance(owner, ast.Call) and _names(owner.func, "super"):
        return False
    is_own = isinstance(owner, ast.Name) and owner.id in _OWN
    return not is_own or name in HIDDEN or (name.startswith("__") and name.endswith("__"))


def _is_by_public_name(call: ast.Call) -> bool:
    """``getattr(x, "name")`` and the like, with a name that could be written behind a dot."""
    if not any(_names(call.func, name) for name in _BY_NAME) or len(call.args) < 2:
        return False
    name = call.args[1]
    if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
        return False
    return not name.value.startswith("_") and name.value not in _OF_THE_SEARCH


def _formats(call: ast.Call) -> Iterator[tuple[int, str]]:
    """``text.format(...)`` and ``wraps(f, names)``."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "format":
        text = call.func.value
        if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            yield call.lineno, "format() is used of a text that is no constant"
        elif _FIELD.search(text.value):
            yield call.lineno, "format() is used with a private name"
    called = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    called = call.func.id if isinstance(call.func, ast.Name) else called
    if called == "wraps" and len(call.args) + len(call.keywords) != 1:
        yield call.lineno, "wraps() is used with names"
