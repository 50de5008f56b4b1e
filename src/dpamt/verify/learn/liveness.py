"""Which locals of a function may still be read after a given instruction: from its bytecode.

Two histories that leave a thread at the same place with the same *live* locals go on alike, so what
is dead must not tell them apart.  The bytecode does not show one thing: a ``for`` over a range
keeps its position on the stack.  The discipline of ``sync`` allows such loops, so there the loop's
variable and the names in its range count as live in its body (read from the source).

Source: CPython's ``dis`` documentation and Objects/exception_handling_notes.txt (the exception
table), 3.11 to 3.14.
"""

import dis
from collections.abc import Iterator
from functools import cache
from types import CodeType
from typing import TYPE_CHECKING, Final, NamedTuple

from dpamt.verify.learn.source_text import source_lines

if TYPE_CHECKING:
    import ast

NO_FALL_THROUGH: Final = frozenset(
    {
        "RETURN_VALUE",
        "RETURN_CONST",
        "RAISE_VARARGS",
        "RERAISE",
        "JUMP_FORWARD",
        "JUMP_BACKWARD",
        "JUMP_BACKWARD_NO_INTERRUPT",
        "JUMP_ABSOLUTE",
    }
)


_JUMPS: Final = frozenset({*dis.hasjrel, *dis.hasjabs})
_FOR_ITER: Final = frozenset({dis.opmap["FOR_ITER"]})


class Handler(NamedTuple):
    """A row of a code object's exception table: [start, end) is covered; offsets in bytes."""

    start: int
    end: int
    target: int
    depth: int
    """How many values stay on the stack."""
    keeps_position: bool
    """Whether the position of the instruction that raised is pushed before the exception."""


def exception_handlers(code: CodeType) -> list[Handler]:
    """The code's exception table."""
    table = iter(code.co_exceptiontable)
    rows: list[Handler] = []
    while True:
        try:
            start = _varint(table)
        except StopIteration:
            return rows
        length, target = _varint(table), _varint(table)
        stack = _varint(table)
        rows.append(
            Handler(2 * start, 2 * (start + length), 2 * target, stack >> 1, bool(stack & 1))
        )


def _varint(table: Iterator[int]) -> int:
    byte = next(table)
    value = byte & 63
    while byte & 64:
        byte = next(table)
        value = value << 6 | byte & 63
    return value


def _locals_of(code: CodeType) -> tuple[str, ...]:
    return (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def _uses(name: str, argument: object) -> tuple[frozenset[str], frozenset[str]]:
    """(locals that an instruction reads before it writes them, locals that it writes)."""
    if "_FAST" not in name:
        return frozenset(), frozenset()
    names = argument if isinstance(argument, tuple) else (argument,)
    if name == "STORE_FAST_LOAD_FAST":
        written, read = names
        return frozenset({read} - {written}), frozenset({written})
    if name.startswith(("STORE_FAST", "DELETE_FAST")):
        return frozenset(), frozenset(names)
    return frozenset(names), frozenset()


class Liveness:
    """The live locals of one code object, by instruction."""

    def __init__(self, code: CodeType) -> None:
        self._after: dict[int, int] = {}
        """By offset: the locals that may be read once the instruction there is done."""
        self._bits: dict[str, int] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._loops = _range_loops(code)
        self._lines = list(code.co_lines()) if self._loops else []
        self._always = frozenset(code.co_cellvars) | frozenset(code.co_freevars)
        self._solve(code)

    def _solve(self, code: CodeType) -> None:
        """Backwards over the instructions until nothing changes; a set of locals is a bit mask."""
        instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        handlers = exception_handlers(code)
        place = {instruction.offset: n for n, instruction in enumerate(instructions)}
        bits = {name: 1 << n for n, name in enumerate(dict.fromkeys(_locals_of(code)))}
        reads, keeps = [0] * len(instructions), [-1] * len(instructions)
        jumps: list[list[int]] = []
        falls: list[bool] = []
        for n, instruction in enumerate(instructions):
            name, offset = instruction.opname, instruction.offset
            falls.append(name not in NO_FALL_THROUGH and n + 1 < len(instructions))
            targets = [place[h.target] for h in handlers if h.start <= offset < h.end]
            if instruction.opcode in _JUMPS:
                targets.append(place[instruction.argval])
            elif "_FAST" in name:
                read, written = _uses(name, instruction.argval)
                reads[n] = sum(bits[local] for local in read)
                keeps[n] = ~sum(bits[local] for local in written)
            jumps.append(targets)
        before = [0] * len(instructions)
        after = [0] * len(instructions)
        changed = True
        while changed:
            changed = False
            for n in range(len(instructions) - 1, -1, -1):
                live = before[n + 1] if falls[n] else 0
                for target in jumps[n]:
                    live |= before[target]
                after[n] = live
                now = reads[n] | live & keeps[n]
                if now != before[n]:
                    before[n] = now
                    changed = True
        self._bits = bits
        self._after = {i.offset: after[n] for n, i in enumerate(instructions)}

    def after(self, offset: int) -> tuple[str, ...]:
        """Names that may be read once the instruction at ``offset`` (f_lasti) is done; sorted."""
        while offset not in self._after:
            offset -= 2  # an inline cache entry: its instruction lies before it
        known = self._names.get(offset)
        if known is None:
            known = self._names[offset] = self._named(offset)
        return known

    def _named(self, offset: int) -> tuple[str, ...]:
        line = next((line or 0 for first, end, line in self._lines if first <= offset < end), 0)
        live = self._after[offset]
        names = {name for name, bit in self._bits.items() if live & bit} | self._always
        for first, last, kept in self._loops:
            if first <= line <= last:
                names |= kept
        return tuple(sorted(names))


@cache
def liveness_of(code: CodeType) -> Liveness:
    """The liveness of a code object, worked out once."""
    return Liveness(code)


def _range_loops(code: CodeType) -> list[tuple[int, int, frozenset[str]]]:
    """(first line, last line, names) of the body of each loop over a range in the function.

    Its source is read only where the bytecode has a loop.
    """
    if not _FOR_ITER & set(code.co_code[::2]):
        return []
    functions = _functions("".join(source_lines(code.co_filename)))
    function = functions.get((code.co_name, code.co_firstlineno))
    if function is None:
        return []
    import ast

    own = set(code.co_varnames)
    loops = []
    for node in ast.walk(function):
        if isinstance(node, ast.For):
            names = {part.id for part in ast.walk(node.iter) if isinstance(part, ast.Name)}
            names |= {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
            last = max(statement.end_lineno or 0 for statement in node.body)
            loops.append((node.body[0].lineno, last, frozenset(names & own)))
    return loops


@cache
def _functions(source: str) -> "dict[tuple[str, int], ast.FunctionDef]":
    """The functions of a file with that text, by name and first line."""
    import ast

    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name, first] = node
    return found
