"""Checks that code keeps the discipline of ``sync``: every step stands alone in its statement.

Code that is to be run step by step must show its whole state in its position and its locals
whenever it is stopped before a step.  So a call that may reach a step must not be made

* in the middle of an expression, where another value waits for it;
* in a comprehension, a generator or a lambda;
* in the body of a ``for`` whose iterator is not a ``range`` (the iterator hides its position);

and no handler may catch what stops a step (a bare ``except`` or ``except BaseException``).

Which calls may reach a step is decided by name, over all the files checked together: the
operations of ``sync``, and every function that calls one, however far down.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

STEPS: Final = frozenset(
    {
        # Word, HostPriorityWord, EntryPage, SharedExclusiveLock, LockSet
        "load",
        "store",
        "add",
        "inc_not_zero",
        "add_unless",
        "compare_and_swap",
        "set_bits",
        "clear",
        "clear_bits",
        "try_shared",
        "try_exclusive",
        "contended",
        "try_shared_guest",
        "try_exclusive_guest",
        "promote",
        "release_shared",
        "release_exclusive",
        "fill",
        "fill_run",
        "zero",
        "any_non_zero",
        "shared",
        "exclusive",
        "shared_entry",
        "exclusive_entry",
        "path",
        "tree_walk",
        "release_all",
        # SpinLock, Mutex, RwLock
        "lock",
        "unlock",
        "read_lock",
        "read_unlock",
        "write_lock",
        "write_unlock",
        # the page allocator and the SEAMCALL, each one step seen from Linux
        "alloc_page",
        "alloc_pages",
        "free_page",
        "free_pages",
        "seamcall",
    }
)
"""Names of the operations that are one visible step each."""


class Breach(NamedTuple):
    """A place that breaks the discipline."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def _called_name(call: ast.Call) -> str | None:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


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
    def __init__(self, file: Path, reaching: frozenset[str]) -> None:
        self.file = file
        self.reaching = reaching
        self.breaches: list[Breach] = []

    def _steps_in(self, node: ast.AST) -> list[ast.Call]:
        return [
            call
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and _called_name(call) in self.reaching
        ]

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

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._alone([node.target, node.value])

    def visit_Return(self, node: ast.Return) -> None:
        self._whole(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._alone([part for part in (node.exc, node.cause) if part is not None])

    def visit_Assert(self, node: ast.Assert) -> None:
        self._whole(node.test)

    def visit_If(self, node: ast.If) -> None:
        self._whole(node.test)
        self._body(node.body, node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._whole(node.test)
        self._body(node.body, node.orelse)

    def visit_For(self, node: ast.For) -> None:
        self._alone([node.iter])
        ranged = isinstance(node.iter, ast.Call) and _called_name(node.iter) == "range"
        if not ranged and any(self._steps_in(statement) for statement in node.body):
            self._breach(node, "a step in the body of a for that is not over a range")
        self._body(node.body, node.orelse)

    def visit_With(self, node: ast.With) -> None:
        self._alone([item.context_expr for item in node.items])
        self._body(node.body)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id == "BaseException"
        ):
            self._breach(node, "a handler that would catch what stops a step")
        self._body(node.body)

    def _body(self, *bodies: list[ast.stmt]) -> None:
        for body in bodies:
            for statement in body:
                self.visit(statement)


def check_files(files: Iterable[Path]) -> list[Breach]:
    """Every breach of the discipline in ``files``, in order; reads them as UTF-8 Python source."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)}
    reaching = reaching_names(trees.values())
    breaches: list[Breach] = []
    for file, tree in trees.items():
        checker = _Checker(file, reaching)
        for function in _functions(tree):
            checker._body(function.body)
        breaches.extend(checker.breaches)
    return sorted(set(breaches))
