"""Designs made wrong by machine: one small change to the code of a design that is given.

A mutant is its text, as :func:`ast.unparse` writes it, and a name that stays: the design, the line
of its file, what was done.  Which of all mutants are taken is drawn with a seed, evenly over
designs and kinds of change.
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import dpamt

_SHIPPED: Final = Path(dpamt.__file__).parent / "host" / "designs"
GIVEN: Final = Path(__file__).parents[2] / "data" / "designs"
DECLARED: Final = GIVEN / "declared"
SOURCES: Final[dict[str, Path]] = {
    "merged": _SHIPPED / "merged.py",
    "v6": _SHIPPED / "v6.py",
    "per-2m-lock": _SHIPPED / "per_2m_lock.py",
    **{path.stem: path for path in sorted(GIVEN.glob("right_*.py"))},
}
"""The designs that are mutated, by name."""
SEED: Final = 20261129
TAKEN: Final = 330
"""Mutants of the suite; some of them do not run."""

_NOT_REACHED: Final = (
    "init_pamt_metadata",
    "populate_pamt_metadata",
    "free_pamt_metadata",
    "tdx_pamt_demote",
    "tdx_pamt_work",
)
"""Functions of a design that get, use and put do not run."""
_LOCK_KEYS: Final = (
    "kernel.pamt_lock",
    "kernel.dpamt_lock",
    "kernel.pamt.region_locks.at(pfn // PAGES_PER_2M)",
    "kernel.pamt.region_locks.at(pfn)",
    "kernel.pamt.region_locks.at(pfn // PAGES_PER_2M + 1)",
    "kernel.pamt.region_locks.at(cpu.index)",
    "kernel.pamt.region_locks.at(cpu.package)",
)
_WORD_KEYS: Final = ("pfn // PAGES_PER_2M", "pfn", "pfn // PAGES_PER_2M + 1", "0")
_WEAKER: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Gt: (ast.GtE, ast.NotEq),
    ast.GtE: (ast.Gt, ast.Eq),
    ast.Lt: (ast.LtE, ast.NotEq),
    ast.LtE: (ast.Lt, ast.Eq),
    ast.Eq: (ast.GtE, ast.LtE),
    ast.NotEq: (ast.Gt, ast.Lt),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A design with one change."""

    name: str
    """``design:line:kind``, with a number where a line has several."""
    design: str
    """The design that was changed."""
    kind: str
    text: str

    def diff(self) -> str:
        """What was changed, as a unified diff."""
        before = _Text(ast.parse(SOURCES[self.design].read_text(encoding="utf-8"))).whole
        lines = difflib.unified_diff(
            before.splitlines(), self.text.splitlines(), self.design, self.name, lineterm="", n=2
        )
        return "\n".join(lines)


def all_mutants(design: str) -> list[Mutant]:
    """Every mutant of a design, without those that read like an earlier one."""
    text_of = _Text(ast.parse(SOURCES[design].read_text(encoding="utf-8")))
    seen = {text_of.whole}
    found: list[Mutant] = []
    names: dict[str, int] = {}
    for line, kind, text in _changes(text_of):
        if text in seen:
            continue
        seen.add(text)
        name = f"{design}:{line}:{kind}"
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name} ({names[name]})"
        found.append(Mutant(name, design, kind, text))
    return found


def taken(count: int = TAKEN, seed: int = SEED) -> list[Mutant]:
    """Mutants drawn from all, one of each design and kind in turn."""
    random = Random(seed)
    heaps: dict[tuple[str, str], list[Mutant]] = {}
    for design in SOURCES:
        for mutant in all_mutants(design):
            heaps.setdefault((design, mutant.kind), []).append(mutant)
    for heap in heaps.values():
        random.shuffle(heap)
    drawn: list[Mutant] = []
    while len(drawn) < count and any(heaps.values()):
        for heap in heaps.values():
            if heap and len(drawn) < count:
                drawn.append(heap.pop())
    return sorted(drawn, key=lambda mutant: mutant.name)


# The changes: each yields (line, kind, the design's text with it).

_Change = tuple[int, str, str]


class _Text:
    """A design and the text of it, in which one function at a time is written anew."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self._parts = [ast.unparse(node) for node in tree.body]
        self.functions = [
            (place, node)
            for place, node in enumerate(tree.body)
            if isinstance(node, ast.FunctionDef) and node.name not in _NOT_REACHED
        ]
        self.whole = self._joined(self._parts)

    def _joined(self, parts: list[str]) -> str:
        return "\n\n".join(parts) + "\n"

    def now(self, place: int) -> str:
        """The text with the function at that place as its tree is now."""
        parts = [*self._parts]
        parts[place] = ast.unparse(self.tree.body[place])
        return self._joined(parts)


class _In(NamedTuple):
    """A function of a design, to be changed."""

    text: _Text
    place: int

    def with_body(self, body: list[ast.stmt], changed: list[ast.stmt]) -> str:
        """The design with other statements in that body."""
        kept = [*body]
        body[:] = changed or [ast.Pass()]
        text = self.text.now(self.place)
        body[:] = kept
        return text

    def with_field(self, node: ast.AST, field: str, value: object) -> str:
        """The design with another value in that field."""
        kept = getattr(node, field)
        setattr(node, field, value)
        text = self.text.now(self.place)
        setattr(node, field, kept)
        return text


def _changes(text: _Text) -> Iterator[_Change]:
    for place, function in text.functions:
        at = _In(text, place)
        for body in _bodies(function):
            yield from _statements(at, body)
        for statement in function.body:
            for node in ast.walk(statement):
                yield from _conditions(at, node)
                yield from _constants(at, node)
                yield from _keys(at, node)


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(function):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list) and body:
                yield body


def _without_docstring(body: list[ast.stmt]) -> range:
    first = body[0]
    doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return range(int(doc), len(body))


def _is_guard(statement: ast.stmt) -> bool:
    """``if not kernel.dynamic_pamt``: never taken on the verifier's machine."""
    return isinstance(statement, ast.If) and "dynamic_pamt" in ast.unparse(statement.test)


def _statements(at: _In, body: list[ast.stmt]) -> Iterator[_Change]:
    """Dropped, duplicated, swapped; a lock released earlier or taken later."""
    places = [n for n in _without_docstring(body) if not _is_guard(body[n])]
    for n in places:
        line, statement = body[n].lineno, body[n]
        if isinstance(statement, ast.Pass):
            continue
        yield line, "dropped", at.with_body(body, [*body[:n], *body[n + 1 :]])
        if not isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
            twice = [*body[: n + 1], statement, *body[n + 1 :]]
            yield line, "duplicated", at.with_body(body, twice)
        if n + 1 in places:
            swapped = [*body[:n], body[n + 1], statement, *body[n + 2 :]]
            yield line, "swapped", at.with_body(body, swapped)
        for further in (2, 3):
            rest = [*body[:n], *body[n + 1 :]]
            if _calls(statement, "unlock") and n - further in places:
                moved = [*rest[: n - further], statement, *rest[n - further :]]
                yield line, "unlocked early", at.with_body(body, moved)
            if _calls(statement, ".lock") and n + further in places:
                moved = [*rest[: n + further], statement, *rest[n + further :]]
                yield line, "locked late", at.with_body(body, moved)


def _calls(statement: ast.stmt, method: str) -> bool:
    return isinstance(statement, ast.Expr) and ast.unparse(statement).endswith(f"{method}()")


def _conditions(at: _In, node: ast.AST) -> Iterator[_Change]:
    """Negated, or another one that is near."""
    if isinstance(node, (ast.If, ast.While)) and not _is_guard(node):
        test = node.test
        plain = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        negated = test.operand if plain else ast.UnaryOp(ast.Not(), test)  # type: ignore[attr-defined]
        yield node.lineno, "negated", at.with_field(node, "test", negated)
        if isinstance(test, ast.BoolOp):
            for part in test.values:
                yield node.lineno, "weakened", at.with_field(node, "test", part)
            other = ast.And() if isinstance(test.op, ast.Or) else ast.Or()
            turned = ast.BoolOp(other, test.values)
            yield node.lineno, "weakened", at.with_field(node, "test", turned)
        if isinstance(node, ast.If):
            for constant in (True, False):
                fixed = ast.Constant(constant)
                yield node.lineno, "decided", at.with_field(node, "test", fixed)
    if isinstance(node, ast.Compare):
        for operator in _WEAKER.get(type(node.ops[0]), ()):
            yield node.lineno, "weakened", at.with_field(node, "ops", [operator()])


def _constants(at: _In, node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for by in (1, -1):
            yield node.lineno, "off by one", at.with_field(node, "value", node.value + by)


def _keys(at: _In, node: ast.AST) -> Iterator[_Change]:
    """The lock or the word of another page, region, CPU or package."""
    if isinstance(node, ast.Assign) and ast.unparse(node.value) in _LOCK_KEYS:
        for key in _LOCK_KEYS:
            value = ast.parse(key, mode="eval").body
            yield node.lineno, "wrong lock", at.with_field(node, "value", value)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".at"):
        for key in _WORD_KEYS:
            arguments = [ast.parse(key, mode="eval").body]
            yield node.lineno, "wrong key", at.with_field(node, "args", arguments)
