"""Finding a design: one that comes with dpamt, by name, or a user's own file, by path."""

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import TDX_MISSING_PAMT_PAGE_PAIR
from dpamt.errors import DpamtError, InputError
from dpamt.host.core import demote, refcounts
from dpamt.host.designs.base import SEPT_CACHE_PAGES, Design
from dpamt.host.designs.beside import find_beside
from dpamt.host.designs.untouched import check_untouched, members
from dpamt.inputs import read_text
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.primitives import missing
from dpamt.visible import check_name

SHIPPED: Final = (
    "static",
    "lazy",
    "v1",
    "v2",
    "v3-simple",
    "v3",
    "v4",
    "v5",
    "v6",
    "merged",
    "per-2m-lock",
    "per-2m-rwlock",
    "global-rwlock",
)
"""Names of the designs that come with dpamt, oldest first; then those that were only discussed."""

_REQUIRED: Final = {
    "tdx_pamt_get": ("kernel", "cpu", "pfn", "cache"),
    "tdx_pamt_put": ("kernel", "cpu", "pfn"),
}
_OPTIONAL: Final = {
    "init_pamt_metadata": ("kernel",),
    "populate_pamt_metadata": ("kernel", "start_pfn", "end_pfn"),
    "free_pamt_metadata": ("kernel",),
    "tdx_pamt_demote": ("kernel", "cpu", "tdr", "gpa", "pfn", "sept", "pages"),
}
_AT_BOOT: Final = frozenset({"init_pamt_metadata", "populate_pamt_metadata"})
"""What runs before there is a second CPU, and so is not watched as a thread is."""
_HOOKS: Final = {
    "tdx_pamt_missing": ("kernel", "cpu", "pfn", "cache"),
    "tdx_pamt_hint": ("kernel", "cpu", "pfn"),
    "tdx_pamt_work": ("kernel", "cpu", "item"),
}


def load_design(name_or_path: str) -> Design:
    """The design of that name, or in that Python file (contract: :mod:`dpamt.host.designs.base`).

    Raises InputError for an unknown name, a missing or faulty file, a missing function, and a
    function whose parameters are not the contract's.
    """
    if name_or_path in SHIPPED:
        module = importlib.import_module(f"dpamt.host.designs.{name_or_path.replace('-', '_')}")
        return _design_of(module, name_or_path, name_or_path)
    path = Path(name_or_path)
    if path.suffix != ".py" and "/" not in name_or_path:
        raise InputError(
            f"design {name_or_path!r}: expected one of {', '.join(SHIPPED)}, or a Python file"
        )
    check_name(name_or_path)
    module = _import(path)
    design = _design_of(module, path.stem, str(path))
    hooks: dict[str, Any] = {
        name: _guarded(getattr(design, name), str(path))
        for name in (*_REQUIRED, *_OPTIONAL, *_HOOKS)
        if getattr(design, name) is not None
    }
    design = replace(design, **hooks)
    return replace(
        design,
        tdx_pamt_get=_returning_errno(design.tdx_pamt_get, design.source),
        init_pamt_metadata=_returning_errno(design.init_pamt_metadata, design.source),
        populate_pamt_metadata=_returning_errno(design.populate_pamt_metadata, design.source),
        tdx_pamt_missing=design.tdx_pamt_missing
        and _returning_errno(design.tdx_pamt_missing, design.source),
    )


def _import(path: Path) -> ModuleType:
    """Run the user's file as a module; an error in it is reported with its line."""
    source = read_text(str(path), "expected a Python file with a design")
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        raise InputError(f"{path}:{line}: {reason}; expected a Python file with a design") from None
    module = ModuleType(f"dpamt_user_design_{path.stem}")
    module.__file__ = str(path)
    find_beside(path)
    before = members()
    try:
        exec(code, module.__dict__)  # running it is what the user asked for
    except (Exception, SystemExit) as error:
        line = _line_in(path, error)
        raise InputError(
            f"{path}:{line}: {error_text(error)}; expected a design that loads"
        ) from None
    check_untouched(before, str(path))
    return module


def error_text(error: BaseException) -> str:
    """Type and message of an exception, if it has one."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _line_in(path: Path, error: BaseException) -> int:
    """The last line of the user's file on the way to the error."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _design_of(module: ModuleType, name: str, source: str) -> Design:
    functions = {
        wanted: _function(module, source, wanted, parameters)
        for wanted, parameters in _REQUIRED.items()
    }
    for wanted, parameters in _OPTIONAL.items():
        default = demote if wanted == "tdx_pamt_demote" else refcounts
        here = module if hasattr(module, wanted) else default
        functions[wanted] = _function(here, source, wanted, parameters)
    for wanted, parameters in _HOOKS.items():
        if hasattr(module, wanted):
            functions[wanted] = _function(module, source, wanted, parameters)
    removal = _one_of(module, source, "REMOVAL", ("at-once", "worker", "rcu"))
    if (removal != "at-once") != ("tdx_pamt_work" in functions):
        raise InputError(
            f'{source}: REMOVAL is "{removal}"; expected "worker" with a function '
            "tdx_pamt_work(kernel, cpu, item), and neither without the other"
        )
    return Design(
        name,
        source,
        _flag(module, source, "DYNAMIC_PAMT", True),
        _flag(module, source, "MEMINFO", False),
        _flag(module, source, "POOL_FOR_EVERY_VM", False),
        counts=_one_of(module, source, "COUNTS", ("pages", "at-least", "none")),
        tolerated=_tolerated(module, source),
        sept_backing=_one_of(module, source, "SEPT_BACKING", ("link", "top-up")),
        sept_cache_pages=_pages(module, source, "SEPT_CACHE_PAGES", SEPT_CACHE_PAGES),
        sept_put=_one_of(module, source, "SEPT_PUT", ("at-once", "rcu")),
        split_backs_sept=_flag(module, source, "SPLIT_BACKS_SEPT", True),
        cache_from_create=_flag(module, source, "CACHE_FROM_CREATE", True),
        pairs_may_stay=_flag(module, source, "PAIRS_MAY_STAY", False),
        spare_pages=_pages(module, source, "SPARE_PAGES", 0),
        removal=removal,
        dpamt_names=_flag(module, source, "DPAMT_NAMES", False),
        code=None,
        helpers=None,
        **functions,
    )


def _function(
    module: ModuleType, source: str, name: str, parameters: tuple[str, ...]
) -> Callable[..., Any]:
    expected = f"expected a function {name}({', '.join(parameters)})"
    function = getattr(module, name, None)
    if function is None:
        raise InputError(f"{source}: {name} is missing; {expected}")
    if not inspect.isfunction(function):
        raise InputError(f"{source}: {name} is {type(function).__name__}; {expected}")
    found = tuple(inspect.signature(function).parameters)
    line = function.__code__.co_firstlineno
    if found != parameters:
        raise InputError(f"{source}:{line}: {name}({', '.join(found)}); {expected}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InputError(f"{source}:{line}: {name} awaits or yields; {expected} that returns")
    return function


def _guarded(function: Callable[..., Any], source: str) -> Callable[..., Any]:
    """The user's function; an exception in it is reported in one line, with its place."""
    if function.__module__.startswith("dpamt."):
        return function

    at_boot = function.__name__ in _AT_BOOT

    @wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            if not at_boot:
                return function(*arguments)
            before = members()
            result = function(*arguments)
            check_untouched(before, source)
            return result
        except Deadlock as error:  # of one CPU alone: nobody else can let the lock go
            if str(error).startswith(f"{source}:"):
                raise
            line = _line_in(Path(source), error)
            raise Deadlock(f"{source}:{line}: {function.__name__}: {error}") from None
        except DpamtError:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:
            line = _line_in(Path(source), error)
            unknown = missing(error) if isinstance(error, Exception) else ""
            if unknown:
                raise InputError(f"{source}:{line}: {function.__name__}: {unknown}") from None
            what = f"{function.__name__}: {error_text(error)}"
            raise InputError(f"{source}:{line}: {what}; expected a design that runs") from None

    return guarded


def _returning_errno(function: Callable[..., Any], source: str) -> Callable[..., int]:
    """The user's function, refused when it returns anything but 0 or a negative errno.

    What comes with dpamt is typed, and goes without the extra call.
    """
    if function.__module__.startswith("dpamt."):
        return function
    name, line = function.__name__, inspect.unwrap(function).__code__.co_firstlineno

    @wraps(function)
    def checked(*arguments: Any) -> int:
        error = function(*arguments)
        if type(error) is not int or error > 0:
            raise InputError(
                f"{source}:{line}: {name} returned {error!r}; expected 0 or a negative errno"
            )
        return error

    return checked


def _flag(module: ModuleType, source: str, name: str, default: bool) -> bool:
    value = getattr(module, name, default)
    if not isinstance(value, bool):
        raise InputError(f"{source}: {name} is {value!r}; expected True or False")
    return value


def _one_of(module: ModuleType, source: str, name: str, values: tuple[str, ...]) -> Any:
    """A declared constant out of ``values``; the first is the default."""
    value = getattr(module, name, values[0])
    if value not in values:
        expected = ", ".join(f'"{one}"' for one in values)
        raise InputError(f"{source}: {name} is {value!r}; expected one of {expected}")
    return value


def _pages(module: ModuleType, source: str, name: str, default: int) -> int:
    value = getattr(module, name, default)
    if type(value) is not int or value < default:
        raise InputError(f"{source}: {name} is {value!r}; expected a number from {default} up")
    return value


def _tolerated(module: ModuleType, source: str) -> frozenset[tuple[int, int]]:
    value = getattr(module, "TOLERATED", ())
    pairs = list(value) if isinstance(value, (tuple, list, set, frozenset)) else [value]
    for pair in pairs:
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and all(type(part) is int for part in pair)
        ):
            raise InputError(
                f"{source}: TOLERATED has {pair!r}; expected pairs (leaf number, status code)"
            )
    if getattr(module, "tdx_pamt_missing", None) is None:
        for leaf, status in pairs:
            if status == TDX_MISSING_PAMT_PAGE_PAIR:
                where = f"{source}:{_line_of(source, 'TOLERATED')}: TOLERATED"
                raise InputError(
                    f"{where}: {LEAF_NAMES.get(leaf, leaf)} may answer TDX_MISSING_PAMT_PAGE_PAIR; "
                    "expected a function tdx_pamt_missing too, or the page is lost to the guest"
                )
    return frozenset(pairs)


def _line_of(source: str, name: str) -> int:
    """The line of a file where a name is given its value; 1 where that is not to be seen."""
    path = Path(source)
    if path.suffix != ".py":
        return 1
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return node.lineno
    return 1
