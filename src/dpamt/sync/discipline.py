"""Checks that code keeps the discipline of ``sync``: every step stands alone in its statement.

Code that is to be run step by step must show its whole state in its position and its locals
whenever it is stopped before a step.  So a call that may reach a step must not be made

* in the middle of an expression, where another value waits for it;
* in a comprehension, a generator or a lambda;
* in the body of a ``for`` whose iterator is not a ``range`` (the iterator hides its position), nor
  of one that changes its variable or what its range was made of (they stand for the position);
* in a ``finally``, a ``with`` or ahead of a bare ``raise`` in a handler (what is to be returned or
  raised afterwards is in no local);
* in a generator, a coroutine, a ``match`` or a class body, a default argument or a decorator.

No handler may catch what stops a step (a bare ``except`` or ``except BaseException``), and nothing
may be kept where no local shows it: in a global, an object named in the file's outermost scope, or
a variable of an enclosing function.

Which calls may reach a step is decided by name, over all the files checked together: the
operations of ``sync``, and every function that calls one, however far down.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dpamt.sync.steps import OF_WORDS

STEPS: Final = frozenset(
    {
        *OF_WORDS,
        # LockSet
        "shared",
        "exclusive",
        "shared_entry",
        "exclusive_entry",
        "path",
        "tree_walk",
        "release_all",
        # the page allocator and the SEAMCALL, each one step seen from Linux
        "alloc_page",
        "alloc_pages",
        "free_page",
        "free_pages",
        "seamcall",
        # choices and marks of the verifier
        "choose",
        "mark",
    }
)
"""Names of the operations that are one visible step each."""

_CHANGING: Final = frozenset(
    {"append", "extend", "insert", "pop", "remove", "clear", "add", "discard", "update"}
)
"""Methods of containers that change how many there are in them."""


class Breach(NamedTuple):
    """A place that breaks the discipline."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _called_name(call: ast.Call) -> str | None:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _functions(tree: ast.AST) -> Iterator[_Function]:
    return (node for node in ast.walk(tree) if isinstance(node, _Function))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What belongs to the function itself, and not to one inside it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, _Function | ast.Lambda | ast.ClassDef):
            yield from _own_nodes(child)


def _bound(scope: ast.AST) -> Iterator[str]:
    """Names that are bound in the scope itself."""
    for part in _own_nodes(scope):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name


def reaching_names(trees: Iterable[ast.AST]) -> frozenset[str]:
    """The names of steps and of every function of ``trees`` that may reach one."""
    calls: dict[str, set[str]] = {}
    for tree in trees:
        for function in _functions(tree):
            called = calls.setdefault(function.name, set())
            for node in ast.walk(function):
                name = _called_name(node) if isinstance(node, ast.Call) else None
                if name is not None:
                    called.add(name)
    reaching = set(STEPS)
    while True:
        found = {
            name for name, called in calls.items() if name not in reaching and called & reaching
        }
        if not found:
            return frozenset(reaching)
        reaching |= found


class _Checker(ast.NodeVisitor):
    def __init__(self, file: Path, tree: ast.Module, reaching: frozenset[str]) -> None:
        self.file = file
        self.outermost = frozenset(_bound(tree))
        self.reaching = reaching
        self.breaches: list[Breach] = []

    def _steps_in(self, node: ast.AST) -> list[ast.Call]:
        return [
            call
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and _called_name(call) in self.reaching
        ]

    def function(self, node: _Function) -> None:
        """Check one function, without those inside it."""
        self._kept(node)
        if any(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in _own_nodes(node)):
            self._refuse(node.body, "a step in a generator")
        elif isinstance(node, ast.AsyncFunctionDef):
            self._refuse(node.body, "a step in a coroutine")
        else:
            self._body(node.body)

    def _kept(self, function: _Function) -> None:
        """Nothing named in the file's outermost scope may be changed."""
        arguments = function.args
        own = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        own |= set(_bound(function))
        for part in _own_nodes(function):
            changed: ast.expr | None = None
            if isinstance(part, (ast.Subscript, ast.Attribute)):
                if not isinstance(part.ctx, ast.Load):
                    changed = part.value
            elif (
                isinstance(part, ast.Call)
                and isinstance(part.func, ast.Attribute)
                and part.func.attr in _CHANGING
            ):
                changed = part.func.value
            if isinstance(changed, ast.Name) and changed.id in self.outermost - own:
                self._breach(changed, f"{changed.id} is changed, and no local shows it")

    def _refuse(self, nodes: Iterable[ast.AST], reason: str) -> None:
        """No step may be anywhere in ``nodes``."""
        for node in nodes:
            for call in self._steps_in(node):
                self._breach(call, reason)

    def _breach(self, node: ast.expr | ast.stmt | ast.excepthandler, reason: str) -> None:
        self.breaches.append(Breach(self.file, node.lineno, reason))

    def _whole(self, node: ast.expr | None) -> None:
        """``node`` is all that its statement evaluates before it acts."""
        if node is None:
            return
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._whole(node.operand)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                self._whole(value)
        elif isinstance(node, ast.IfExp):
            self._whole(node.test)
            self._whole(node.body)
            self._whole(node.orelse)
        elif isinstance(node, ast.Call) and _called_name(node) in self.reaching:
            self._alone([node.func, *node.args, *(k.value for k in node.keywords)])
        else:
            self._alone([node])

    def _alone(self, parts: Iterable[ast.AST]) -> None:
        for part in parts:
            for call in self._steps_in(part):
                self._breach(
                    call, f"{_called_name(call)}() is called in the middle of an expression"
                )

    def visit_Expr(self, node: ast.Expr) -> None:
        self._whole(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._whole(node.value)
        self._alone(node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._whole(node.value)
        self._alone([node.target])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._alone([node.target, node.value])

    def visit_Return(self, node: ast.Return) -> None:
        self._whole(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._alone([part for part in (node.exc, node.cause) if part is not None])

    def visit_Assert(self, node: ast.Assert) -> None:
        self._whole(node.test)
        if node.msg is not None:
            self._alone([node.msg])

    def visit_If(self, node: ast.If) -> None:
        self._whole(node.test)
        self._body(node.body, node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._whole(node.test)
        self._body(node.body, node.orelse)

    def visit_For(self, node: ast.For) -> None:
        self._alone([node.iter, node.target])
        steps = any(self._steps_in(statement) for statement in node.body)
        if steps and not (isinstance(node.iter, ast.Call) and _called_name(node.iter) == "range"):
            self._breach(node, "a step in the body of a for that is not over a range")
        elif steps:
            self._position(node)
        self._body(node.body, node.orelse)

    def _position(self, loop: ast.For) -> None:
        """The variable and the names in the range stand for where the loop is."""
        if not isinstance(loop.target, ast.Name):
            self._breach(loop, "a step in the body of a for whose variable is not a plain name")
        names = {
            part.id
            for whole in (loop.target, loop.iter)
            for part in ast.walk(whole)
            if isinstance(part, ast.Name)
        }
        for part in (part for statement in loop.body for part in ast.walk(statement)):
            if isinstance(part, ast.Name) and part.id in names:
                if not isinstance(part.ctx, ast.Load):
                    self._breach(part, f"{part.id} is changed inside the for that it belongs to")
            elif (
                isinstance(part, ast.Call)
                and isinstance(part.func, ast.Attribute)
                and part.func.attr in _CHANGING
                and isinstance(part.func.value, ast.Name)
                and part.func.value.id in names
            ):
                name = part.func.value.id
                self._breach(part, f"{name} is changed inside the for over its range")

    def visit_With(self, node: ast.With) -> None:
        self._refuse([node], "a step in a with statement, whose exit waits for it")

    def visit_Match(self, node: ast.Match) -> None:
        self._refuse([node], "a step in a match statement, whose subject waits for it")

    def visit_Try(self, node: ast.Try) -> None:
        for handler in node.handlers:
            self.visit(handler)
        self._body(node.body, node.orelse)
        self._refuse(node.finalbody, "a step in a finally, behind what is returned or raised")

    def visit_TryStar(self, node: ast.TryStar) -> None:
        self._refuse([node], "a step in a try with except*")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(
            one is None or (isinstance(one, ast.Name) and one.id == "BaseException")
            for one in caught
        ):
            self._breach(node, "a handler that would catch what stops a step")
        if any(self._steps_in(statement) for statement in node.body):
            for part in _own_nodes(node):
                if isinstance(part, ast.Raise) and part.exc is None:
                    self._breach(part, "a bare raise in a handler with a step: name what is raised")
        self._body(node.body)

    def visit_Global(self, node: ast.Global) -> None:
        self._breach(node, "a global that is written: no local shows it")

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self._breach(node, "a variable of an enclosing function that is written")

    def visit_Delete(self, node: ast.Delete) -> None:
        self._alone(node.targets)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A function inside another: its body is checked by itself, the rest is evaluated here."""
        defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        self._alone([*defaults, *node.decorator_list])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Methods are checked by themselves."""
        methods = [part for part in node.body if isinstance(part, _Function)]
        others = [part for part in node.body if not isinstance(part, _Function)]
        self._refuse([*others, *node.bases, *node.decorator_list], "a step in a class body")
        self._body(list(methods))

    def _body(self, *bodies: list[ast.stmt]) -> None:
        for body in bodies:
            for statement in body:
                self.visit(statement)


def check_files(files: Iterable[Path]) -> list[Breach]:
    """Every breach of the discipline in ``files``, in order; reads them as UTF-8 Python source."""
    trees = {file: ast.parse(file.read_bytes()) for file in sorted(files)}
    reaching = reaching_names(trees.values())
    breaches: list[Breach] = []
    for file, tree in trees.items():
        checker = _Checker(file, tree, reaching)
        for function in _functions(tree):
            checker.function(function)
        breaches.extend(checker.breaches)
    return sorted(set(breaches))
