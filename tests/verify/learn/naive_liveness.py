"""Liveness once more: for each variable alone, a search back from where it is read.

The lines of a loop over a range are found by their indentation, not by a parser.
"""

import dis
import re
from types import CodeType

ENDS = {
    "RETURN_VALUE",
    "RETURN_CONST",
    "RAISE_VARARGS",
    "RERAISE",
    "JUMP_FORWARD",
    "JUMP_BACKWARD",
    "JUMP_BACKWARD_NO_INTERRUPT",
}
"""Instructions that the next one does not follow."""


def live_after(code: CodeType, source: str) -> dict[int, set[str]]:
    """By offset of an instruction, inline caches too: what may be read once it is done."""
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    offsets = [i.offset for i in instructions]
    follow: dict[int, set[int]] = {}
    for number, one in enumerate(instructions):
        after = set()
        if one.opname not in ENDS and number + 1 < len(offsets):
            after.add(offsets[number + 1])
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            after.add(one.argval)
        for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
            if one.offset in range(entry.start, entry.end, 2):
                after.add(entry.target)
        follow[one.offset] = after
    before: dict[int, list[int]] = {offset: [] for offset in offsets}
    for offset, after in follow.items():
        for target in after:
            before[target].append(offset)
    live: dict[int, set[str]] = {offset: set() for offset in offsets}
    for name in code.co_varnames:
        reads = {i.offset for i in instructions if name in read_by(i)}
        writes = {i.offset for i in instructions if name in written_by(i)} - reads
        todo = [*reads]
        seen = set(reads)
        while todo:
            for offset in before[todo.pop()]:
                live[offset].add(name)
                if offset not in seen and offset not in writes:
                    seen.add(offset)
                    todo.append(offset)
    kept = kept_by_line(source)
    always = {*code.co_cellvars, *code.co_freevars}
    found: dict[int, set[str]] = {}
    for start, end, line in code.co_lines():
        for offset in range(start, end, 2):
            at = max((o for o in offsets if o <= offset), default=None)
            if at is not None:
                own = {name for name in kept.get(line or 0, set()) if name in code.co_varnames}
                found[offset] = live[at] | own | always
    return found


def names_of(instruction: dis.Instruction) -> tuple[str, ...]:
    argument = instruction.argval
    return argument if isinstance(argument, tuple) else (argument,)


def read_by(instruction: dis.Instruction) -> tuple[str, ...]:
    name = instruction.opname
    if name == "STORE_FAST_LOAD_FAST":
        written, read = names_of(instruction)
        return () if read == written else (read,)
    return names_of(instruction) if name.startswith("LOAD_FAST") else ()


def written_by(instruction: dis.Instruction) -> tuple[str, ...]:
    name = instruction.opname
    if name == "STORE_FAST_LOAD_FAST":
        return names_of(instruction)[:1]
    return names_of(instruction) if name.startswith(("STORE_FAST", "DELETE_FAST")) else ()


def kept_by_line(source: str) -> dict[int, set[str]]:
    """Line (from 1) to the names in the heads of the loops over ranges around it."""
    kept: dict[int, set[str]] = {}
    around: list[tuple[int, set[str]]] = []
    for number, line in enumerate(source.splitlines(), 1):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        around = [(at, names) for at, names in around if at < depth]
        kept[number] = {name for _, names in around for name in names}
        head = re.match(r"\s*for (\w+) in range\((.*)\):", line)
        if head:
            around.append((depth, {head[1], *re.findall(r"\b[a-z]\w*\b", head[2])}))
    return kept
