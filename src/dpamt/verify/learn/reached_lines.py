"""Which lines of a design ran in the threads that were learned, and which did not.

A run of a thread repeats what earlier runs did up to its last recorded result; only what follows is
new.  So lines are traced (``sys.settrace``) from there on, and only in the design's own files: the
frames that stand on the stack already get a tracer, and so do those that are called.  What was run
before, with the results that led there, was traced when it was new.

Counted are the functions that a thread may come to: the hooks of the design and what they call in
their files.  What runs at boot only is not asked for.  Nor is what runs only without Dynamic PAMT,
``if not kernel.dynamic_pamt: return 0``: no trial has such a host, and no thread changes a plain
attribute of its kernel (:mod:`dpamt.sync.plain_state`).
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import unwrap
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

from dpamt.host.designs.base import Design
from dpamt.verify.learn.control_point import short_path
from dpamt.verify.learn.source_text import source_lines

HOOKS: Final = (
    "tdx_pamt_get",
    "tdx_pamt_put",
    "tdx_pamt_missing",
    "tdx_pamt_hint",
    "tdx_pamt_demote",
    "tdx_pamt_work",
)
_DEFAULTS: Final = "dpamt.host.core."
"""Where functions lie that are not the design's own."""

Line = tuple[str, int]


class ReachedLines:
    """The lines of some files that ran since they were last found to be new."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = frozenset(files)
        self.lines: set[Line] = set()
        self._before: Callable[..., Any] | None = None
        self._traces = False

    def kept(self) -> list[list[int]]:
        """The lines by file, in the order of the files' names: to be kept beside a search."""
        return [
            sorted(line for name, line in self.lines if name == file)
            for file in sorted(self._files)
        ]

    def take_up(self, kept: list[list[int]]) -> None:
        """Add what was kept.  Raises ValueError for lines of other files."""
        for file, lines in zip(sorted(self._files), kept, strict=True):
            self.lines.update((file, int(line)) for line in lines)

    def begin(self, frame: FrameType | None, stop: CodeType) -> None:
        """From here on lines are new; ``frame`` and those around it, up to ``stop``, run on."""
        if not self._files or self._traces:
            return
        self._before = sys.gettrace()
        self._traces = True
        while frame is not None and frame.f_code is not stop:
            if frame.f_code.co_filename in self._files:
                frame.f_trace = self._line
            frame = frame.f_back
        sys.settrace(self._call)

    def end(self) -> None:
        """The run is over."""
        if self._traces:
            self._traces = False
            sys.settrace(self._before)

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def reached_lines_of(design: Design) -> ReachedLines:
    """Nothing reached yet of the files of a design."""
    return ReachedLines(function.__code__.co_filename for function in _own_functions(design))


def not_reached(design: Design, reached: ReachedLines) -> tuple[str, ...]:
    """``file:line text`` of each line of the design that a thread may come to and none did."""
    lines = {line for function in _own_functions(design) for line in _lines(function.__code__)}
    missing = sorted(lines - reached.lines)
    texts = {file: source_lines(file) for file in {file for file, _ in missing}}
    static = {file: _without_dynamic_pamt(text) for file, text in texts.items()}
    return tuple(
        f"{short_path(file)}:{line} {texts[file][line - 1].strip() if texts[file] else ''}".rstrip()
        for file, line in missing
        if line not in static[file]
    )


def _without_dynamic_pamt(text: Sequence[str]) -> set[int]:
    """The lines that run only where the kernel that a function is given has no Dynamic PAMT."""
    try:
        functions = [
            n for n in ast.walk(ast.parse("".join(text))) if isinstance(n, ast.FunctionDef)
        ]
    except SyntaxError:  # it is another file by now
        return set()
    found: set[int] = set()
    for function in functions:
        given = {one.arg for one in (*function.args.posonlyargs, *function.args.args)}
        parts = list(ast.walk(function))
        given -= {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for part in parts:
            if isinstance(part, ast.If) and "kernel" in given and _is_static(part.test):
                first, last = part.body[0], part.body[-1]
                found.update(range(first.lineno, (last.end_lineno or last.lineno) + 1))
    return found


def _is_static(test: ast.expr) -> bool:
    """Whether it is ``not kernel.dynamic_pamt``."""
    return ast.unparse(test) == "not kernel.dynamic_pamt"


def _own_functions(design: Design) -> list[FunctionType]:
    """The hooks that are the design's own, and the functions of their files that they name."""
    if design.code is not None:
        return []  # what is its own is not Python
    hooks = [unwrap(hook) for name in HOOKS if (hook := getattr(design, name)) is not None]
    pending = [
        hook
        for hook in hooks
        if isinstance(hook, FunctionType) and not hook.__module__.startswith(_DEFAULTS)
    ]
    found: dict[CodeType, FunctionType] = {}
    while pending:
        function = pending.pop()
        code = function.__code__
        if code in found:
            continue
        found[code] = function
        for name in _names(code):
            other = function.__globals__.get(name)
            if isinstance(other, FunctionType) and other.__code__.co_filename == code.co_filename:
                pending.append(other)
    return list(found.values())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _lines(code: CodeType) -> Iterator[Line]:
    """The lines of a function that have instructions, its ``def`` left out."""
    for _, _, line in code.co_lines():
        if line is not None and line != code.co_firstlineno:
            yield code.co_filename, line
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _lines(part)
