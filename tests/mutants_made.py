"""The mutants of a source file: mutmut's operators, each applied alone to the file as it is."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import get_ignored_lines


@dataclass(frozen=True)
class Mutant:
    """One small bug.  ``first`` and ``last`` are the lines of what changes, from 1."""

    file: str
    module: cst.Module
    mutation: Mutation
    first: int
    last: int
    function: str
    body: tuple[int, int]
    """Lines of the function or method around it; the whole file where there is none."""

    @property
    def line(self) -> int:
        return self.first

    @cached_property
    def source(self) -> str:
        """The whole file with the bug in it."""
        changed = deep_replace(self.module, self.mutation.original_node, self.mutation.mutated_node)
        assert isinstance(changed, cst.Module)
        code: str = changed.code
        return code

    @cached_property
    def change(self) -> str:
        """The function, the old lines and the new ones."""
        lines = list(
            difflib.unified_diff(
                self.module.code.splitlines(), self.source.splitlines(), n=0, lineterm=""
            )
        )
        old = [line[1:].strip() for line in lines if re.match(r"-(?!--)", line)]
        new = [line[1:].strip() for line in lines if re.match(r"\+(?!\+\+)", line)]
        where = f"{self.file.removesuffix('.py').replace('/', '.')}.{self.function}".rstrip(".")
        return f"{where}: {' '.join(old)}  ->  {' '.join(new)}"


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """All mutants of ``root/file``, in mutmut's order."""
    code = (root / file).read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(code))
    visitor = MutationVisitor(
        mutation_operators, get_ignored_lines(file, code, wrapper, None), None
    )
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    owners = dict(_owners(module))
    found = []
    for mutation in visitor.mutations:
        at = positions.get(mutation.original_node)
        function = mutation.contained_by_top_level_function
        if not isinstance(function, cst.FunctionDef):  # a constant of a class or of the file
            function = None
        around = positions.get(function) if function is not None else None
        if at is None:  # an operator such as `and` has no position of its own
            at = around
        if at is None:
            continue
        body = (around.start.line, around.end.line) if around else (1, code.count("\n") + 1)
        name = owners.get(function, "") if function is not None else ""
        found.append(Mutant(file, module, mutation, at.start.line, at.end.line, name, body))
    return found


def _owners(module: cst.Module) -> Iterator[tuple[cst.CSTNode, str]]:
    """Functions and methods with their names, ``Class.method``."""
    for node in module.body:
        if isinstance(node, cst.FunctionDef):
            yield node, node.name.value
        elif isinstance(node, cst.ClassDef):
            for part in node.body.body:
                if isinstance(part, cst.FunctionDef):
                    yield part, f"{node.name.value}.{part.name.value}"
