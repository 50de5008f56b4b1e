"""What the methods of PAMT do to it, read from their source: writes, page types, removal hints."""

import ast
from types import FunctionType
from typing import Final

from dpamt.abi.pages import PAGE_TYPE_NAMES, PT_NDA
from dpamt.module.pamt import Pamt
from dpamt.module.td import Td
from dpamt.report.leaf_source.scope import Scope, definition, plain_function

_WRITES: Final = ("store", "fill", "fill_run", "zero", "add", "set_bits", "clear_bits")
_WRITES_TYPE: Final = ("store", "fill")
_KEPT: Final = "the type it had"


def changes_pamt(function: FunctionType) -> bool:
    """Whether a method of PAMT writes to it, itself or through another."""
    for node in ast.walk(definition(function)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _WRITES:
                return True
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "self":
                method = getattr(Pamt, node.func.attr, None)
                if isinstance(method, FunctionType) and changes_pamt(method):
                    return True
    return False


def gives_hint(function: FunctionType) -> bool:
    """Whether a method of PAMT returns the removal hint, itself or from another."""
    for node in ast.walk(definition(function)):
        if isinstance(node, ast.Return) and node.value is not None:
            for part in ast.walk(node.value):
                if isinstance(part, ast.Name) and part.id == "REMOVAL_HINT":
                    return True
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self":
                    method = getattr(Pamt, part.attr, None)
                    if isinstance(method, FunctionType) and gives_hint(method):
                        return True
    return False


def written_types(call: ast.Call, scope: Scope) -> list[str]:
    """``4K REG`` where a call writes the type of a PAMT entry; nothing where it does not."""
    target = call.func
    if not isinstance(target, ast.Attribute) or target.attr not in _WRITES_TYPE:
        return []
    entry = target.value
    if not isinstance(entry, ast.Attribute) or entry.attr not in ("entries", "first"):
        return []
    level = "4K"
    if entry.attr == "first":
        level = "1G" if "block" in ast.unparse(entry) else "2M"
    return [f"{level} {_type_of(call.args[-1], scope)}"]


def _type_of(node: ast.expr, scope: Scope) -> str:
    """The page type in an entry, followed to where a caller has put it together."""
    for source in scope.sources(node):
        if scope.value(source) == PT_NDA:
            return PAGE_TYPE_NAMES[PT_NDA]
        if isinstance(source, ast.Name) and source.id in scope.given:
            return _type_of(*scope.given[source.id])
        for name in _names_in(source):
            if name.startswith("PT_"):
                return name.removeprefix("PT_")
    return _KEPT


def _names_in(node: ast.expr) -> list[str]:
    """Names of an expression; of an entry that a TD keeps ready, those that made it."""
    names = []
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.append(part.id)
        elif isinstance(part, ast.Attribute):
            names += _KEPT_BY_TD.get(part.attr, [])
    return names


def _kept_by_td() -> dict[str, list[str]]:
    """Attribute of a TD to the names in what it is set to."""
    kept = {}
    for node in ast.walk(definition(plain_function(Td, "__init__"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            kept[node.targets[0].attr] = [
                name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)
            ]
    return kept


_KEPT_BY_TD: Final = _kept_by_td()
