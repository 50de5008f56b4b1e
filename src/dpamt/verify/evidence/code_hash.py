"""Hashes of everything that a verdict could depend on: whether a later one is about the same.

Four parts, so that a difference can be named; the first is the same for every verdict of one dpamt:

``dpamt``       every function, constant and declaration of the rooms that a verdict runs through,
                from their compiled files, and the source of the compiled search; so whatever is
                called there is in it
``design``      what the design's functions are and what its file defines: code, default arguments,
                closures, globals with their values, declarations; and the same of every module of
                the user's that can be reached from there by a name or by an import in a function
``properties``  the same of the functions of a user's file of properties
``ran``         the code that stood on a thread's stack at a step, whoever defined it

Code is hashed as bytecode with names and constants, constants with their types and code within
code; not its file's path, not its line numbers.  So hashes can be compared under one minor release
of Python only.  Libraries count by name and version.
"""

import dataclasses
import dis
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

import dpamt
from dpamt.host.designs.base import Design
from dpamt.verify.explore.search import Search
from dpamt.verify.learn.automaton import Automaton

_ROOT: Final = Path(dpamt.__file__).parent
_ROOMS: Final = ("abi", "sync", "platform", "host", "module", "verify")
"""Rooms whose code has a part in a verdict."""
_LIBRARIES: Final = tuple(
    {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PLAIN: Final = (bool, int, float, complex, str, bytes, range, type(None), type(Ellipsis))
_OWN: Final = "dpamt"
_LIBRARY: Final = "library"
_USER: Final = "user"
"""Whose a module is."""


def code_hash(automata: Iterable[Automaton]) -> str:
    """SHA-256 of the code that stood on a thread's stack."""
    return _of_all(code for automaton in automata for code in automaton.codes())


def hashes_of(search: Search) -> dict[str, str]:
    """All parts but ``dpamt``, of a search."""
    world = search.problem.world
    asked = tuple(judge.function for judge in search.properties if judge.function is not None)
    return {
        "design": design_hash(world.design) if world is not None else "",
        "properties": functions_hash(asked) if asked else "",
        "ran": _with_other(code_hash(search.automata), world.design if world is not None else None),
    }


def _with_other(digest: str, design: Design | None) -> str:
    """The hash of what ran, with code that is not Python."""
    if design is None or design.code is None:
        return digest
    return hashlib.sha256(f"{digest} {design.code.digest()}".encode()).hexdigest()


def design_hash(design: Design) -> str:
    """The part ``design``."""
    digest = _of_value(_defined(design))
    if design.code is None:
        return digest
    return hashlib.sha256(f"{digest} {design.code.identity()}".encode()).hexdigest()


def functions_hash(functions: Iterable[object]) -> str:
    """The part ``properties``."""
    return _of_value(tuple(functions))


def _defined(design: Design) -> dict[str, Any]:
    """What the design's file defines; its path is not part of it."""
    values = {field.name: getattr(design, field.name) for field in dataclasses.fields(design)}
    del values["name"], values["source"], values["code"], values["helpers"]
    return values


@cache
def dpamt_hash() -> str:
    """The part ``dpamt``; about a second, once in a process."""
    digest = hashlib.sha256()
    files = [
        _ROOT / "errors.py",
        *(file for room in _ROOMS for file in (_ROOT / room).rglob("*.py")),
    ]
    for file in sorted(files):
        name = file.relative_to(_ROOT).as_posix()
        code = SourceFileLoader(name, str(file)).get_code(name)
        digest.update(f"{name} {_of_all([code] if code else [])}\n".encode())
    for file in sorted((_ROOT / "verify").rglob("*.[ch]")):  # the compiled search
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _of_all(codes: Iterable[CodeType]) -> str:
    """Of code objects in whatever order, each once."""
    digest = hashlib.sha256()
    for one in sorted({_of_code(code) for code in codes}):
        digest.update(one.encode())
    return digest.hexdigest()


@cache
def _of_code(code: CodeType) -> str:
    return _of_value(code, follow=False)


def _of_value(value: object, follow: bool = True) -> str:
    shown = _Shown(follow)
    shown.value(value)
    return shown.digest.hexdigest()


class _Shown:
    """Values written into a digest; objects that may be reached twice are named the second time.

    With ``follow`` what code reaches by its globals and imports is written too.
    """

    def __init__(self, follow: bool) -> None:
        self.digest = hashlib.sha256()
        self._follow = follow
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []

    def _token(self, *parts: object) -> None:
        self.digest.update(f"{parts!r}\n".encode("utf-8", "surrogatepass"))

    def value(self, value: object) -> None:
        """Write a value of any kind."""
        kind = type(value)
        if isinstance(value, int) and kind is int:
            self._token("int", hex(value))
        elif kind in _PLAIN:
            self._token(kind.__name__, value)
        elif isinstance(value, tuple):
            self._token(kind.__name__, len(value))
            self._each(value)
        elif isinstance(value, frozenset | set):
            self._token(kind.__name__, sorted(_of_value(item, self._follow) for item in value))
        elif isinstance(value, CodeType):
            self._code(value)
        else:
            self._object(value)

    def _each(self, values: Iterable[object]) -> None:
        for value in values:
            self.value(value)

    def _object(self, value: object) -> None:
        """Something that may be reached on several ways."""
        known = self._seen.get(id(value))
        if known is not None:
            self._token("again", known)
            return
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)  # so that its id stays its own
        kind = type(value)
        if isinstance(value, list):
            self._token("list", len(value))
            self._each(value)
        elif isinstance(value, Mapping):
            self._token(kind.__name__, len(value))
            for key, item in value.items():
                self.value(key)
                self.value(item)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self._token("method")
            self._each((value.__func__, value.__self__))
        elif isinstance(value, ModuleType):
            self._module(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, BuiltinFunctionType):
            self._token("builtin", value.__qualname__)
        elif isinstance(value, CellType):
            self._token("cell")
            self._each(_inside(value))
        else:
            self._instance(value)

    def _code(self, code: CodeType) -> None:
        self._token(
            "code",
            code.co_qualname,
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            code.co_code,
            code.co_exceptiontable,
        )
        self.value(code.co_consts)
        if self._follow:
            for name in _imported(code):
                module = sys.modules.get(name)
                if module is not None:
                    self.value(module)

    def _function(self, function: FunctionType) -> None:
        whose, name = _whose(function.__globals__)
        self._token("function", whose, name if whose != _USER else "", function.__qualname__)
        if whose == _LIBRARY:
            return
        follow, self._follow = self._follow, self._follow and whose == _USER
        self.value(function.__code__)
        self._follow = follow
        self.value(function.__dict__)  # what it wraps stands there
        if whose == _USER:  # dpamt's wrappers have the file's path in theirs
            self._each((function.__defaults__, function.__kwdefaults__, function.__closure__))
        if whose == _USER and self._follow:
            self._namespace(function.__globals__)

    def _module(self, module: ModuleType) -> None:
        whose, name = _whose(vars(module))
        if whose != _USER:
            self._token("module", name, str(getattr(module, "__version__", "")))
        else:
            self._token("module")
            self._namespace(vars(module))

    def _namespace(self, names: Mapping[str, Any]) -> None:
        """The globals of a file of the user's."""
        known = self._seen.get(id(names))
        if known is not None:
            self._token("again", known)
            return
        self._seen[id(names)] = len(self._seen)
        self._kept.append(names)
        for name in sorted(names):
            if not (name.startswith("__") and name.endswith("__")):
                self._token("name", name)
                self.value(names[name])

    def _class(self, kind: type) -> None:
        module = sys.modules.get(kind.__module__)
        whose = _whose(vars(module))[0] if module is not None else _USER
        if kind.__module__ == "builtins" or whose != _USER:
            self._token("class", kind.__module__, kind.__qualname__)
            return
        self._token("class", kind.__qualname__)
        self._each(kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            if name not in ("__dict__", "__weakref__", "__module__", "__doc__"):
                self._token("name", name)
                self.value(value)

    def _instance(self, value: object) -> None:
        """What it is, and what it holds where that can be seen."""
        self.value(type(value))
        for name in ("__func__", "__wrapped__", "fget", "fset", "fdel"):
            if hasattr(type(value), name) or name == "__wrapped__":
                inner = getattr(value, name, None)
                if inner is not None and inner is not value:
                    self._token("part", name)
                    self.value(inner)
        if isinstance(value, partial):
            self._each((value.func, value.args, value.keywords))
        elif dataclasses.is_dataclass(value):
            self._each(getattr(value, field.name, None) for field in dataclasses.fields(value))
        elif _is_users(type(value)):
            for base in type(value).__mro__:
                slots = base.__dict__.get("__slots__", ())
                for name in (slots,) if isinstance(slots, str) else slots:
                    self._token("slot", name)
                    self.value(getattr(value, name, None))
            for name, item in sorted(getattr(value, "__dict__", {}).items()):
                self._token("name", name)
                self.value(item)


def _is_users(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    return module is None or _whose(vars(module))[0] == _USER


def _whose(names: Mapping[str, Any]) -> tuple[str, str]:
    """Whose a module is, by its globals, and its name."""
    name = str(names.get("__name__", ""))
    file = names.get("__file__")
    if file is None:
        return (_LIBRARY if name in sys.builtin_module_names else _USER), name
    path = Path(file).absolute()
    if path.is_relative_to(_ROOT):
        return _OWN, name
    in_library = any(path.is_relative_to(folder) for folder in _LIBRARIES)
    return (_LIBRARY if in_library else _USER), name


def _inside(cell: CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # the variable has no value yet
        return ()


def _imported(code: CodeType) -> list[str]:
    """The modules that a function imports when it runs."""
    if not code.co_names:
        return []
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    return sorted(found)
