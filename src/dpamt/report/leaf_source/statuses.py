"""The statuses that a ``raise`` of the module can tell, read from its source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Final

from dpamt.abi import status_details as kinds
from dpamt.abi.operands import OPERAND_NAMES, OPERAND_R8
from dpamt.abi.status import STATUS_MASK, STATUS_NAMES
from dpamt.abi.status_details import DETAILS, OPERAND
from dpamt.abi.td_params import MAX_L2_VMS
from dpamt.module.fatal import ModuleFatal
from dpamt.module.refused import Refused
from dpamt.report.leaf_source.scope import L2_REGISTER, UNKNOWN, Scope, definition, negated
from dpamt.trace.decode_details import details_of

_IN_WORDS: Final = {
    kinds.OP_STATE: "number of the OP_STATE",
    kinds.VCPU_STATE: "number of the VCPU state",
    kinds.PAIR_PAGE: "page of the pair",
    kinds.TDMR: "TDMR index",
    kinds.TDMR_LEVEL: "TDMR index, PAMT level",
    kinds.TDMR_OVERLAP: "TDMR index, PAMT level, other TDMR",
    kinds.TDMR_AREA: "TDMR index, reserved area",
    kinds.L2_ENTRY: "VM, level",
    kinds.LEVEL: "level",
    kinds.MSR: "MSR",
    kinds.X2APIC_ID: "x2APIC ID",
    kinds.VMCS_FIELD: "VMCS field",
    kinds.LIST_INDEX: "list entry",
    kinds.EXIT_REASON: "exit reason",
}
"""What bits 31:0 hold, where the source does not fix it."""


L2_REGISTERS: Final = f"{OPERAND_NAMES[OPERAND_R8 + 1]} to {OPERAND_NAMES[OPERAND_R8 + MAX_L2_VMS]}"


@dataclass(frozen=True, slots=True)
class Told:
    """A status by name, bits 31:0 in words, and what of the raise itself chooses it."""

    status: str
    details: str
    when: tuple[str, ...] = ()
    fatal: str = ""


def told_statuses(node: ast.expr, scope: Scope) -> Iterator[Told]:
    """What the exception of a ``raise`` tells; nothing when it is no answer of the module."""
    if not isinstance(node, ast.Call):
        return
    kind = scope.value(node.func) if isinstance(node.func, ast.Name) else UNKNOWN
    if kind is Refused:
        yield from _statuses(node.args[0], scope)
    elif kind is ModuleFatal:
        yield Told("", "", fatal=str(scope.value(node.args[0])))
    elif isinstance(kind, FunctionType):
        inner = scope.enter(node, kind, None)
        for returned in _returned(kind):
            yield from told_statuses(returned, inner)


def _returned(function: FunctionType) -> Iterator[ast.expr]:
    for node in ast.walk(definition(function)):
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value


def _statuses(node: ast.expr, scope: Scope) -> Iterator[Told]:
    """The alternatives of a status expression."""
    parts = _parts(node)
    for index, part in enumerate(parts):
        choice = _choice(part, scope)
        if choice is not None:
            others = [*parts[:index], *parts[index + 1 :]]
            test, inner = choice
            for branch, when in ((test.body, test.test), (test.orelse, None)):
                text = inner.text(test.test)
                text = text if when is not None else negated(text)
                yield _told([inner.value(branch)], others, scope, (text,))
            return
    yield _told([], parts, scope, ())


def _choice(node: ast.expr, scope: Scope) -> tuple[ast.IfExp, Scope] | None:
    """A part that is one of two statuses, chosen there or in a function called there."""
    if isinstance(node, ast.IfExp):
        return node, scope
    if isinstance(node, ast.Call):
        reached = scope.called(node)
        if reached is not None:
            inner = scope.enter(node, *reached)
            for returned in _returned(reached[0]):
                if isinstance(returned, ast.IfExp):
                    return returned, inner
    return None


def _parts(node: ast.expr) -> list[ast.expr]:
    """The operands of a chain of ``|``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_parts(node.left), *_parts(node.right)]
    return [node]


def _told(values: list[int], parts: list[ast.expr], scope: Scope, when: tuple[str, ...]) -> Told:
    """One status, put together from known values and expressions."""
    status = 0
    open_parts = []
    for value in values:
        status |= value
    for part in parts:
        found = scope.value(part)
        if isinstance(found, int):
            status |= found
        else:
            open_parts.append(part)
    code = status & STATUS_MASK
    if not code and open_parts:
        return Told("TDX_SUCCESS", _IN_WORDS[kinds.EXIT_REASON], when)
    return Told(STATUS_NAMES[code], _details(status, open_parts, scope), when)


def _details(status: int, open_parts: list[ast.expr], scope: Scope) -> str:
    kind = DETAILS.get(status & STATUS_MASK, OPERAND)
    if not open_parts:
        return details_of(status).removeprefix("operand ")
    if kind != OPERAND:
        return _IN_WORDS[kind]
    text = scope.text(open_parts[0])
    if status & ~STATUS_MASK == 0 and text == L2_REGISTER:
        return L2_REGISTERS
    raise LookupError(f"{scope.name}: no words for bits 31:0, {text}")


def operand_of(scope: Scope) -> str:
    """The operand that a function was given to name, in words; empty where it names none."""
    known = scope.known.get("operand")
    if isinstance(known, int):
        return OPERAND_NAMES[known]
    return L2_REGISTERS if scope.texts.get("operand") == L2_REGISTER else ""
