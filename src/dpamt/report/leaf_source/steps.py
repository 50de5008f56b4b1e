"""What a leaf does, read from the source of its handler: checks, locks, effects, in their order.

The handler is followed through every function of the module that it calls, branch by branch, as
:mod:`dpamt.report.leaf_source.scope` can tell them apart.  Nothing is written down here a second
time: what a page says of a leaf is what the code of the leaf says.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Final, TypeGuard

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.module.pamt import Pamt
from dpamt.module.releases import Release
from dpamt.report.leaf_source.locks import is_lock_step, lock_words
from dpamt.report.leaf_source.pamt_changes import changes_pamt, gives_hint, written_types
from dpamt.report.leaf_source.scope import PART, UNKNOWN, Scope, negated
from dpamt.report.leaf_source.statuses import Told, operand_of, told_statuses

_RELEASE_FIELDS: Final = frozenset(Release.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Check:
    """A status that the leaf may end with: ``when`` is the source of the conditions, outer first.

    ``function`` is where it is raised.  A shutdown of the module has no status and a ``fatal``.
    """

    status: str
    details: str
    when: tuple[str, ...]
    function: str
    fatal: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock taken: in words, by ``function``, for the operand (empty: none is named).

    ``when`` is the source of the condition of the function that takes it.
    """

    words: str
    function: str
    operand: str
    when: str


@dataclass(frozen=True, slots=True)
class Effect:
    """A change of PAMT: the method that makes it, and what it leaves (``4K NDA``, ``2M PAMT``)."""

    method: str
    types: tuple[str, ...]


@dataclass(slots=True)
class LeafSteps:
    """Everything read from one handler; ``functions`` are those it goes through, in order."""

    checks: list[Check] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    hints: set[str] = field(default_factory=set)
    release_fields: set[str] = field(default_factory=set)
    functions: list[FunctionType] = field(default_factory=list)


def leaf_steps(handler: FunctionType, owner: type | None = None) -> LeafSteps:
    """Read a handler; ``owner`` is its class when it is a method.

    Raises LookupError for a call that cannot be followed, and for a lock, or bits 31:0 of a status,
    that there is no word for: a page that is silent about them would be wrong.
    """
    reader = _Reader()
    reader.read(Scope(handler, {}, {}, owner))
    return reader.found


@dataclass(frozen=True, slots=True)
class _Frame:
    scope: Scope
    conditions: tuple[str, ...]


class _Reader:
    def __init__(self) -> None:
        self.found = LeafSteps()
        self._frames: list[_Frame] = []
        self._types: list[str] | None = None
        """What the change of PAMT that is being followed leaves."""

    def read(self, scope: Scope) -> None:
        """Follow a function to its end."""
        if any(frame.scope.function is scope.function for frame in self._frames):
            return
        self._frames.append(_Frame(scope, ()))
        if scope.function not in self.found.functions:
            self.found.functions.append(scope.function)
        self._block(scope.node.body, scope, ())
        self._frames.pop()

    # Statements.

    def _block(self, body: Iterable[ast.stmt], scope: Scope, under: tuple[str, ...]) -> bool:
        """Follow statements; whether they always end the function."""
        self._frames[-1] = _Frame(scope, under)
        for statement in body:
            if self._statement(statement, scope, under):
                return True
            if scope.owner is not Pamt and _leaves_early(statement):
                under = (*under, negated(scope.text(statement.test)))
            self._frames[-1] = _Frame(scope, under)
        return False

    def _statement(self, node: ast.stmt, scope: Scope, under: tuple[str, ...]) -> bool:
        if isinstance(node, ast.If):
            return self._if(node, scope, under)
        if isinstance(node, ast.Raise):
            if node.exc is not None:
                self._raise(node.exc, scope)
            return True
        if isinstance(node, ast.Return):
            if node.value is not None:
                self._calls(node.value, scope)
            return True
        if isinstance(node, ast.For):
            return self._for(node, scope, under)
        if isinstance(node, ast.While):
            self._calls(node.test, scope)
            self._block(node.body, scope, under)
            return False
        if isinstance(node, ast.Try):
            ended = self._block(node.body, scope, under)
            self._block(node.finalbody, scope, under)
            return ended
        self._calls(node, scope)
        if isinstance(node, ast.Assign):
            self._assign(node.targets, node.value, scope)
        elif isinstance(node, ast.AugAssign):
            self._assign([node.target], node.value, scope)
        return False

    def _if(self, node: ast.If, scope: Scope, under: tuple[str, ...]) -> bool:
        self._calls(node.test, scope)
        test = scope.value(node.test)
        text = scope.text(node.test)
        if test is not UNKNOWN:
            return self._block(node.body if test else node.orelse, scope, under)
        ended = self._block(node.body, scope, (*under, text))
        other = self._block(node.orelse, scope, (*under, negated(text)))
        return ended and other

    def _for(self, node: ast.For, scope: Scope, under: tuple[str, ...]) -> bool:
        """A loop over a list written there is followed for each item, another one once."""
        self._calls(node.iter, scope)
        turns: list[ast.expr | None] = [None]
        if isinstance(node.iter, ast.Tuple):
            turns = [*node.iter.elts]
        for turn in turns:
            targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
            values = turn.elts if isinstance(turn, ast.Tuple) else [turn] * len(targets)
            for target, value in zip(targets, values, strict=True):
                if isinstance(target, ast.Name):
                    scope.assigned[target.id] = []
                    scope.assign(target.id, [] if value is None else [value])
            self._block(node.body, scope, under)
        return False

    def _assign(self, targets: list[ast.expr], value: ast.expr, scope: Scope) -> None:
        hinted = _holds_hint(value, scope)
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            for part in parts:
                if isinstance(part, ast.Name):
                    one = part is target
                    scope.assign(part.id, [value if one else PART])
                    if hinted:
                        scope.hinted.add(part.id)
                elif isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name):
                    if hinted:
                        scope.hinted.add(part.value.id)
                elif _is_register(part):
                    register = part.attr.upper()
                    self.found.written.add(register)
                    if hinted:
                        self.found.hints.add(register)

    # Calls.

    def _calls(self, node: ast.AST, scope: Scope) -> None:
        """Every call in an expression, its arguments first; and the release data it reads."""
        for child in ast.iter_child_nodes(node):
            self._calls(child, scope)
        if isinstance(node, ast.Attribute) and node.attr in _RELEASE_FIELDS:
            if ast.unparse(node.value).endswith("release"):
                self.found.release_fields.add(node.attr)
        elif isinstance(node, ast.Call):
            self._call(node, scope)

    def _call(self, call: ast.Call, scope: Scope) -> None:
        if is_lock_step(call):
            for words in lock_words(call, scope):
                self._lock(words)
            return
        if self._types is not None:
            self._types += written_types(call, scope)
        reached = scope.called(call)
        if reached is not None:
            self._follow(call, *reached, scope)
            return
        choice = scope.chosen(call)
        if choice is not None:
            test, chosen, other = choice
            self._follow_under(scope.text(test), call, chosen, scope)
            self._follow_under(negated(scope.text(test)), call, other, scope)
        elif _is_given_the_processor(call) and not scope.makes_object(call):
            raise LookupError(f"{scope.name}: cannot follow {ast.unparse(call)}")

    def _follow_under(
        self, condition: str, call: ast.Call, function: FunctionType, scope: Scope
    ) -> None:
        """Follow one of two functions that a call may reach."""
        frame = self._frames[-1]
        self._frames[-1] = _Frame(scope, (*frame.conditions, condition))
        self._follow(call, function, None, scope)
        self._frames[-1] = frame

    def _follow(
        self, call: ast.Call, function: FunctionType, owner: type | None, scope: Scope
    ) -> None:
        inner = scope.enter(call, function, owner)
        if owner is Pamt and scope.owner is not Pamt and changes_pamt(function):
            self._types = []
            self.read(inner)
            effect = Effect(function.__name__, tuple(dict.fromkeys(self._types)))
            self._types = None
            if effect not in self.found.effects:
                self.found.effects.append(effect)
        else:
            self.read(inner)

    def _lock(self, words: str) -> None:
        outer = self._frames[1] if len(self._frames) > 1 else self._frames[0]
        named = [name for frame in self._frames if (name := operand_of(frame.scope))]
        when = [text for text in self._frames[-1].conditions if not _is_about_walks(text)]
        lock = Lock(words, outer.scope.name, named[-1] if named else "", " and ".join(when))
        if lock not in self.found.locks:
            self.found.locks.append(lock)

    # Statuses.

    def _raise(self, node: ast.expr, scope: Scope) -> None:
        for told in told_statuses(node, scope):
            if isinstance(node, ast.Call):
                for argument in node.args:
                    self._calls_outside_statuses(argument, scope)
            check = Check(
                told.status, told.details, self._when(told), self._frames[-1].scope.name, told.fatal
            )
            if check not in self.found.checks:
                self.found.checks.append(check)

    def _calls_outside_statuses(self, node: ast.expr, scope: Scope) -> None:
        """Release data read inside a status."""
        for child in ast.walk(node):
            if isinstance(child, ast.Attribute):
                self._calls(child, scope)

    def _when(self, told: Told) -> tuple[str, ...]:
        """The handler's own branches, then those of the function that raises.

        Where that one has none, its nearest caller's: it was called because of them.
        """
        own = self._frames[-1].conditions
        index = len(self._frames) - 1
        while not own and index > 1:
            index -= 1
            own = self._frames[index].conditions
        outer = self._frames[0].conditions if len(self._frames) > 1 else ()
        return (*(when for when in outer if when not in own), *own, *told.when)


def _leaves_early(statement: ast.stmt) -> TypeGuard[ast.If]:
    """``if ...: return``: what follows is only for the other case."""
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and isinstance(statement.body[-1], ast.Return)
    )


def _is_given_the_processor(call: ast.Call) -> bool:
    """Whether a call could check or lock: it is handed the logical processor."""
    return any(isinstance(argument, ast.Name) and argument.id == "lp" for argument in call.args)


def _is_about_walks(text: str) -> bool:
    """Conditions of how a lock is reached rather than whether: the lock's words tell them."""
    return "DECLINED" in text or "entry" in text


def _is_register(node: ast.expr) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "args"
        and node.attr in REGISTER_NAMES
    )


def _holds_hint(node: ast.expr, scope: Scope) -> bool:
    """Whether a removal hint flows into an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in scope.hinted:
            return True
        if isinstance(part, ast.Call):
            reached = scope.called(part)
            if reached is not None and gives_hint(reached[0]):
                return True
    return False
