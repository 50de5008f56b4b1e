"""Liveness, held against execution: what is called dead may be anything at all."""

import ctypes
import dis
import linecache
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dpamt.verify.learn.liveness as liveness
from dpamt.verify.learn.liveness import Liveness, exception_handlers

from . import naive_liveness

NAMES = "abcde"
_FILES = count()

NAME = st.sampled_from(NAMES)
VALUE = (
    NAME
    | st.integers(0, 3).map(str)
    | st.tuples(NAME, NAME).map(" + ".join)
    | NAME.map("step({})".format)
)
SIMPLE = (
    st.tuples(NAME, VALUE).map(" = ".join)
    | st.tuples(NAME, NAME).map(" += ".join)
    | NAME.map("step({})".format)
    | st.tuples(NAME, NAME, NAME, NAME).map("{0[0]}, {0[1]} = {0[2]}, {0[3]}".format)
    | st.just("a = (lambda: d)()")
)
LEAVING = st.sampled_from(["return a", "raise ValueError(b)", "return step(c)"])


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    block = inner.map(indented)
    return st.one_of(
        st.tuples(inner, inner).map(lambda two: [*two[0], *two[1]]),
        st.tuples(NAME, block, block).map(lambda p: [f"if {p[0]} % 2:", *p[1], "else:", *p[2]]),
        st.tuples(NAME, NAME, block).map(lambda p: [f"for {p[0]} in range({p[1]} % 3):", *p[2]]),
        st.tuples(NAME, block).map(
            lambda p: ["while more():", *p[1], f"    if {p[0]} % 2:", "        break"]
        ),
        st.tuples(block, NAME, block).map(
            lambda p: ["try:", *p[0], f"except ValueError as {p[1]}x:", *p[2]]
        ),
        st.tuples(block, LEAVING).map(
            lambda p: ["try:", *p[0], f"    {p[1]}", "except ValueError:", f"    {p[1]}"]
        ),
    )


BODY = st.recursive(SIMPLE.map(lambda line: [line]), compound, max_leaves=12)


def made(body: list[str], leaving: str) -> tuple[Callable[..., Any], str]:
    """The function with that body, in a file that can be looked into."""
    file = f"<function {next(_FILES)} of test_liveness>"
    head = f"def f(step, more, {', '.join(NAMES)}):"
    source = "\n".join([head, *indented([*body, leaving]), ""])
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {}
    exec(compile(source, file, "exec"), space)
    function: Callable[..., Any] = space["f"]
    return function, source


class Steps:
    """Answers steps by number; with ``live``, gives everything dead another value before."""

    def __init__(self, live: Liveness | None) -> None:
        self.live = live
        self.taken: list[Any] = []
        self.turns = 0

    def step(self, value: Any) -> int:
        self.taken.append(value)
        if self.live is not None:
            overwrite_dead(sys._getframe(1), self.live)
        return 3 * len(self.taken) % 5

    def more(self) -> bool:
        self.turns += 1
        if self.live is not None:
            overwrite_dead(sys._getframe(1), self.live)
        return self.turns % 3 != 0 and self.turns < 20


class Junk:
    """Nothing can be done with it."""


def overwrite_dead(frame: FrameType, live: Liveness) -> None:
    kept = live.after(frame.f_lasti)
    here = frame.f_locals
    for name in set(here) - set(kept):
        here[name] = Junk()
    if sys.version_info < (3, 13):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def result_of(function: Callable[..., Any], live: Liveness | None) -> tuple[Any, ...]:
    steps = Steps(live)
    try:
        outcome: tuple[Any, ...] = "returned", function(steps.step, steps.more, 0, 1, 2, 3, 4)
    except (ValueError, UnboundLocalError) as error:
        outcome = "raised", type(error), str(error)
    except TypeError as error:
        outcome = "junk was used", str(error)
    return outcome, steps.taken, steps.turns


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODY, LEAVING)
def test_what_is_dead_may_be_anything(body: list[str], leaving: str) -> None:
    function, source = made(body, leaving)
    live = Liveness(function.__code__)
    assert result_of(function, live) == result_of(function, None), source


def live_at_steps(source: str) -> list[set[str]]:
    """The live locals at each call of step(), in order of the code."""
    function, _ = made(source.split("\n"), "return 0")
    code = function.__code__
    live = Liveness(code)
    lines = source.split("\n")
    found = []
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("CALL") and instruction.opname != "CALL_INTRINSIC_1":
            line = instruction.positions.lineno if instruction.positions else None
            if line is not None and 0 < line - 1 <= len(lines) and "step(" in lines[line - 2]:
                found.append(set(live.after(instruction.offset)) & set(NAMES))
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("step(1)\na = 1\nreturn a + b", [{"b"}]),
        ("a = step(a)\nreturn a", [set()]),
        ("step(a)\nif b:\n    return c\nreturn d", [{"b", "c", "d"}]),
        ("for a in range(b):\n    step(1)", [{"a", "b"}]),
        ("while more():\n    step(a)\n    a = b", [{"b"}]),
        ("try:\n    step(1)\nexcept ValueError:\n    return c\nreturn d", [{"c", "d"}]),
        ("step(1)\ndel a", [set()]),
    ],
)
def test_no_more_is_live_than_can_be_read(source: str, expected: list[set[str]]) -> None:
    assert live_at_steps(source) == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODY, LEAVING)
def test_exactly_what_can_be_read_is_live(body: list[str], leaving: str) -> None:
    """Neither less nor more, after each instruction."""
    function, source = made(body, leaving)
    code = function.__code__
    live = Liveness(code)
    for offset, names in naive_liveness.live_after(code, source).items():
        assert live.after(offset) == tuple(sorted(names)), (source, offset)


@pytest.mark.parametrize(
    "source",
    [
        "for a in range(b):\n    for c in range(d, e):\n        step(1)\n    step(2)\nstep(a)",
        "for a in range(b):\n    step(1)\n\n    if c:\n        step(2)\nelse:\n    step(3)",
        "for a in range(len([b])):\n    a = step(a)\nwhile more():\n    step(e)",
        "try:\n    a = step(1)\nexcept ValueError:\n    b = step(2)\nfinally:\n    step(a)",
        "for a in (b, c):\n    step(a)",
        "a = yield from step(b)\nif a:\n    step(c)",
        "with step(b) as a:\n    while a:\n        a = more() or c",
    ],
)
def test_loops_and_handlers_exactly(source: str) -> None:
    function, text = made(source.split("\n"), "return a")
    code = function.__code__
    live = Liveness(code)
    text = text.replace("for a in (b, c)", "for a in range(b, c)")  # any loop counts as one
    for offset, names in naive_liveness.live_after(code, text).items():
        assert live.after(offset) == tuple(sorted(names)), offset


def test_a_function_whose_source_is_gone_has_no_loops() -> None:
    function, text = made(["for a in range(b):", "    step(1)"], "return c")
    renamed = function.__code__.replace(co_name="g")
    bare = naive_liveness.live_after(function.__code__, text.replace("range", "other"))
    live = Liveness(renamed)
    assert all(live.after(offset) == tuple(sorted(names)) for offset, names in bare.items())
    assert liveness.liveness_of(renamed) is liveness.liveness_of(renamed)


def test_a_decorated_function_is_found_by_its_first_line() -> None:
    source = "def f(step, b):\n    for a in range(b):\n        step(1)\n    return 0\n"
    decorated = f"same = lambda one: one\n@same\n@same\n{source}"
    file = f"<function {next(_FILES)} of test_liveness>"
    linecache.cache[file] = (len(decorated), None, decorated.splitlines(keepends=True), file)
    space: dict[str, Any] = {}
    exec(compile(decorated, file, "exec"), space)
    code = space["f"].__code__
    live = Liveness(code)
    for offset, names in naive_liveness.live_after(code, decorated).items():
        assert live.after(offset) == tuple(sorted(names))


def test_exception_tables_of_all_sizes() -> None:
    """Each row as dis reads it: offsets and depths in one byte and in several."""
    for blocks in (0, 1, 5, 60, 400):
        lines = [
            line
            for number in range(blocks)
            for line in ("try:", f"    step({number})", "except ValueError:", "    step(a)")
        ]
        for code in every_code(
            made([*lines, "with step as b:", "    step(b)"], "return a")[0].__code__
        ):
            rows = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
            assert [tuple(row) for row in exception_handlers(code)] == [
                (row.start, row.end, row.target, row.depth, bool(row.lasti)) for row in rows
            ]
            assert all(type(row.keeps_position) is bool for row in exception_handlers(code))


def test_the_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    function, _ = made(["step(a)", "b = c"], "return b")
    live = Liveness(function.__code__)
    monkeypatch.setattr(live, "after", lambda offset: ())
    assert result_of(function, live) != result_of(function, None)


def test_variables_of_closures_are_always_live() -> None:
    function, _ = made(["step(1)", "a = (lambda: d)()"], "return a")
    code = function.__code__
    live = Liveness(code)
    for instruction in dis.get_instructions(code):
        assert "d" in live.after(instruction.offset)


def every_code(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return [code, *(each for c in inner for each in every_code(c))]


def test_the_exception_table_is_the_one_that_dis_prints() -> None:
    source = Path(liveness.__file__).read_text(encoding="utf-8")
    handlers = 0
    for code in every_code(compile(source, liveness.__file__, "exec")):
        printed = dis.Bytecode(code).dis()
        for handler in exception_handlers(code):
            handlers += 1
            row = f"{handler.start} to {handler.end - 2} -> {handler.target} "
            assert sys.version_info >= (3, 13) or row in printed
    assert handlers


@pytest.mark.parametrize(
    ("name", "argument", "read", "written"),
    [
        ("LOAD_FAST", "a", {"a"}, set()),
        ("LOAD_FAST_CHECK", "a", {"a"}, set()),
        ("LOAD_FAST_AND_CLEAR", "a", {"a"}, set()),
        ("LOAD_FAST_BORROW", "a", {"a"}, set()),
        ("LOAD_FAST_LOAD_FAST", ("a", "b"), {"a", "b"}, set()),
        ("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("a", "b"), {"a", "b"}, set()),
        ("STORE_FAST", "a", set(), {"a"}),
        ("STORE_FAST_MAYBE_NULL", "a", set(), {"a"}),
        ("STORE_FAST_STORE_FAST", ("a", "b"), set(), {"a", "b"}),
        ("STORE_FAST_LOAD_FAST", ("a", "b"), {"b"}, {"a"}),
        ("STORE_FAST_LOAD_FAST", ("a", "a"), set(), {"a"}),
        ("DELETE_FAST", "a", set(), {"a"}),
        ("LOAD_GLOBAL", "a", set(), set()),
        ("LOAD_DEREF", "a", set(), set()),
    ],
)
def test_instructions_of_all_versions(
    name: str, argument: object, read: set[str], written: set[str]
) -> None:
    assert liveness._uses(name, argument) == (frozenset(read), frozenset(written))
