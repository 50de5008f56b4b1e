"""Which check refused a call: watched from outside while the module answers it.

The module raises a refusal where it finds it and keeps no record.  For the one call that somebody
asks about, Python's trace hook sees the raise: the functions it went through, and the source of the
condition above it.  Nothing of the module is changed, and other calls cost nothing.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

import dpamt
from dpamt.module.fatal import ModuleFatal
from dpamt.module.refused import Refused

_PACKAGE: Final = Path(dpamt.__file__).parent
_MODULE: Final = str(_PACKAGE / "module")


@dataclass(frozen=True, slots=True)
class Why:
    """A refusal: ``path`` are the functions, outermost first; ``place`` is file:line of the raise.

    ``condition`` is the source of what was found true there, empty for a raise without one;
    ``values`` are the numbers in it.
    """

    path: tuple[str, ...]
    place: str
    condition: str
    values: dict[str, int]

    def __str__(self) -> str:
        found = f": {self.condition}" if self.condition else ""
        values = ", ".join(f"{name} = {value:#x}" for name, value in self.values.items())
        with_values = f" with {values}" if values else ""
        return f"{' > '.join(self.path)} ({self.place}){found}{with_values}"


@contextmanager
def watching() -> Iterator[list[Why]]:
    """While open, refusals and shutdowns of the module are appended to the list, the last last."""
    seen: list[Why] = []
    last: BaseException | None = None

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal last
        if not frame.f_code.co_filename.startswith(_MODULE):
            return None
        frame.f_trace_lines = False
        if event == "exception" and issubclass(arg[0], Refused | ModuleFatal):
            # Every frame that it passes through reports it; the first one is where it is raised.
            if arg[1] is not last:
                seen.append(_why(frame))
            last = arg[1]
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def _why(raised: FrameType) -> Why:
    path = []
    frame: FrameType | None = raised
    while frame is not None and frame.f_code.co_filename.startswith(_MODULE):
        if not frame.f_code.co_filename.endswith("processor.py"):
            path.append(frame.f_code.co_name)
        frame = frame.f_back
    file = Path(raised.f_code.co_filename)
    place = f"{file.relative_to(_PACKAGE).as_posix()}:{raised.f_lineno}"
    condition = condition_of(file, raised.f_lineno)
    return Why(tuple(reversed(path)), place, condition, _values(condition, raised.f_locals))


def _values(condition: str, values: dict[str, Any]) -> dict[str, int]:
    """The local variables of a condition that are numbers."""
    nodes = ast.walk(ast.parse(condition)) if condition else ()
    names = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
    return {name: values[name] for name in names if type(values.get(name)) is int}


def condition_of(file: Path, line: int) -> str:
    """The source of the innermost condition that governs ``line``; empty where there is none."""
    found = ""
    for node in _branches(file):
        for body, test in ((node.body, ast.unparse(node.test)), (node.orelse, "")):
            if body and body[0].lineno <= line <= (body[-1].end_lineno or 0):
                found = test or f"not ({ast.unparse(node.test)})"
    return found


@cache
def _branches(file: Path) -> tuple[ast.If, ...]:
    """Every ``if`` of a source file, outer ones before those inside them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return tuple(sorted(branches, key=lambda node: (node.lineno, -(node.end_lineno or 0))))
