"""Reading functions of the module as source: what an expression is, as far as one can tell.

A scope is one function called in one place: its parameters that are known there, its names.  What
cannot be known without running is :data:`UNKNOWN`, and whoever asks takes both branches.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, Final

from dpamt.module.pamt import Pamt

UNKNOWN: Final = object()
PART: Final = ast.Name("_")
"""Stands for what a name is given out of a tuple: its parts are not distinguished."""

L2_REGISTER: Final = "OPERAND_R8 + vm"
"""The operand id of the register that belongs to an L2 VM, as the source writes it."""

_MODULE: Final = "dpamt.module."
_OBJECTS: Final[dict[str, type]] = {"pamt": Pamt}
"""What a name or an attribute of this name is, where a method is called on it."""

_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


@cache
def definition(function: FunctionType) -> ast.FunctionDef:
    """The source of a function, parsed."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{function.__qualname__} is not a plain function")
    return node


def plain_function(owner: type, name: str) -> FunctionType:
    """A method that is a plain function."""
    method = getattr(owner, name)
    if not isinstance(method, FunctionType):
        raise TypeError(f"{owner.__name__}.{name} is not a plain function")
    return method


class Scope:
    """One function, called with what is known of its arguments.

    ``texts`` are the callers' words for parameters that are constants by name.
    """

    def __init__(
        self,
        function: FunctionType,
        known: dict[str, Any],
        texts: dict[str, str],
        owner: type | None = None,
    ) -> None:
        self.function = function
        self.node = definition(function)
        self.known = known
        self.texts = texts
        self.owner = owner
        self.given: dict[str, tuple[ast.expr, Scope]] = {}
        """Parameter to the caller's expression, and its scope."""
        self.assigned: dict[str, list[ast.expr]] = {}
        self._asked: set[str] = set()
        self.hinted: set[str] = set()
        """Names that hold a removal hint."""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.node.name

    # Values.

    def value(self, node: ast.expr) -> Any:
        """The value of an expression, or UNKNOWN."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left, right = self.value(node.left), self.value(node.right)
            return UNKNOWN if left is UNKNOWN or right is UNKNOWN else left | right
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            compare = _COMPARE.get(type(node.ops[0]))
            left, right = self.value(node.left), self.value(node.comparators[0])
            if isinstance(node.ops[0], ast.Lt) and right == 0 and _is_bits(node.left):
                return False
            known = compare is not None and left is not UNKNOWN and right is not UNKNOWN
            return compare(left, right) if compare and known else UNKNOWN
        if isinstance(node, ast.BoolOp):
            return self._bool(node)
        if isinstance(node, ast.IfExp):
            test = self.value(node.test)
            return UNKNOWN if test is UNKNOWN else self.value(node.body if test else node.orelse)
        return UNKNOWN

    def _bool(self, node: ast.BoolOp) -> Any:
        """One part decides ``or`` when it is true, ``and`` when it is false."""
        values = [self.value(part) for part in node.values]
        decides = isinstance(node.op, ast.Or)
        if any(value is not UNKNOWN and bool(value) == decides for value in values):
            return decides
        return UNKNOWN if UNKNOWN in values else not decides

    def _named(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        if name in self.assigned:
            return self._value_assigned(name)
        if name in self._parameters():
            return UNKNOWN
        found = self.function.__globals__.get(name, UNKNOWN)
        return found if isinstance(found, int | frozenset | FunctionType | type) else UNKNOWN

    def _value_assigned(self, name: str) -> Any:
        """The value of a local name that is assigned once, and not from itself."""
        expressions = self.assigned[name]
        if len(expressions) != 1 or name in self._asked:
            return UNKNOWN
        self._asked.add(name)
        value = self.value(expressions[0])
        self._asked.discard(name)
        return value

    def assign(self, name: str, expressions: list[ast.expr]) -> None:
        """Note what a name is given, besides what it was given before."""
        self.known.pop(name, None)
        self.texts.pop(name, None)
        self.assigned.setdefault(name, []).extend(expressions)

    def _parameters(self) -> list[str]:
        return [argument.arg for argument in self.node.args.args]

    # Calls.

    def called(self, call: ast.Call) -> tuple[FunctionType, type | None] | None:
        """The function of the module that a call reaches, and its class if it is a method."""
        target = call.func
        if isinstance(target, ast.Name):
            found = self._named(target.id)
            if isinstance(found, FunctionType) and found.__module__.startswith(_MODULE):
                return found, None
            return None
        if isinstance(target, ast.Attribute):
            owner = self._class_of(target.value)
            method = getattr(owner, target.attr, None) if owner else None
            if isinstance(method, FunctionType):
                return method, owner
        return None

    def chosen(self, call: ast.Call) -> tuple[ast.expr, FunctionType, FunctionType] | None:
        """(test, function if true, else) of a call of a name set to one of two functions."""
        if not isinstance(call.func, ast.Name):
            return None
        for source in self.sources(call.func):
            if isinstance(source, ast.IfExp):
                one, other = self.value(source.body), self.value(source.orelse)
                if isinstance(one, FunctionType) and isinstance(other, FunctionType):
                    return source.test, one, other
        return None

    def makes_object(self, call: ast.Call) -> bool:
        """Whether a call makes an object of a class."""
        return isinstance(call.func, ast.Name) and isinstance(self._named(call.func.id), type)

    def _class_of(self, node: ast.expr) -> type | None:
        name = node.attr if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Name):
            name = node.id
            if name == "self":
                return self.owner
            for expression in self.assigned.get(name, []):
                if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
                    made = self.function.__globals__.get(expression.func.id)
                    if isinstance(made, type) and made.__module__.startswith(_MODULE):
                        return made
        return _OBJECTS.get(name or "")

    def enter(self, call: ast.Call, function: FunctionType, owner: type | None) -> "Scope":
        """The scope of a function called from here."""
        names = [argument.arg for argument in definition(function).args.args]
        if owner is not None:
            names = names[1:]
        given = dict(zip(names, call.args, strict=False))
        given |= {word.arg: word.value for word in call.keywords if word.arg}
        known, texts = {}, {}
        for name, expression in given.items():
            value = self.value(expression)
            if value is not UNKNOWN:
                known[name] = value
            text = self.text(expression)
            if (text.isupper() and text.isidentifier()) or text == L2_REGISTER:
                texts[name] = text
        inner = Scope(function, known, texts, owner)
        inner.given = {name: (expression, self) for name, expression in given.items()}
        return inner

    # Words.

    def text(self, node: ast.expr) -> str:
        """Source of an expression, parameters that are constants under their callers' names."""
        return ast.unparse(_Named(self.texts).visit(copy.deepcopy(node)))

    def sources(self, node: ast.expr) -> list[ast.expr]:
        """What a name has been assigned; the expression itself when it is none of ours."""
        if isinstance(node, ast.Name) and node.id in self.assigned:
            found = self.assigned[node.id]
            return [node if source is PART else source for source in found] or [node]
        return [node]


def _is_bits(node: ast.expr) -> bool:
    """``x & mask``: never below 0."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd)


class _Named(ast.NodeTransformer):
    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self._texts.get(node.id, node.id))


def negated(text: str) -> str:
    """The opposite of a condition, as source."""
    node = ast.parse(text, mode="eval").body
    opposite: dict[type[ast.cmpop], type[ast.cmpop]] = {
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Lt: ast.GtE,
        ast.GtE: ast.Lt,
        ast.Gt: ast.LtE,
        ast.LtE: ast.Gt,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    }
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        flipped = opposite[type(node.ops[0])]()
        return ast.unparse(ast.Compare(node.left, [flipped], node.comparators))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ast.unparse(node.operand)
    return ast.unparse(ast.UnaryOp(ast.Not(), node))
