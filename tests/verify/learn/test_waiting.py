"""What waits on a frame's stack during a call, and what becomes of the call's result."""

import functools
import sys
import types
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dpamt.errors import InputError, ModelError
from dpamt.verify.learn.waiting import call_under_way, check_nothing_waits, is_dropped


class HereError(Exception):
    """Carries the frame that made a step."""

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame


class Word:
    def load(self, *_: object) -> Any:
        raise HereError(sys._getframe(1))

    def __enter__(self) -> "Word":
        return self

    def __exit__(self, *_: object) -> None:
        pass


Function = Callable[[Word], object]


def frame_of(function: Function) -> FrameType:
    with pytest.raises(HereError) as stopped:
        function(Word())
    return stopped.value.frame


def alone(word: Word) -> object:
    word.load()
    return None


def kept(word: Word) -> object:
    seen = word.load(1, 2)
    return [seen]


def given_on(word: Word) -> object:
    return word.load()


def in_a_condition(word: Word) -> object:
    if not word.load():
        return 1
    return 2


def in_a_range(word: Word) -> object:
    for _ in range(3):
        word.load()
    return None


def in_a_handler(word: Word) -> object:
    try:
        raise ValueError
    except ValueError:
        word.load()
    return None


def an_operand(word: Word) -> object:
    first = int
    second = word.load
    return first() + second()


def an_argument(word: Word) -> object:
    return str(word.load())


def of_a_list(word: Word) -> object:
    return [1, word.load()]


def in_a_for(word: Word) -> object:
    for _ in [1, 2]:
        word.load()
    return None


def in_a_with(word: Word) -> object:
    with word:
        word.load()
    return None


def in_a_finally(word: Word) -> object:
    try:
        raise ValueError
    finally:
        word.load()


def of_a_comparison(word: Word) -> object:
    return 1 < word.load() < 3


FINE = [alone, kept, given_on, in_a_condition, in_a_range, in_a_handler]
WAITING = [an_operand, an_argument, of_a_list, in_a_for, in_a_with, in_a_finally, of_a_comparison]


@pytest.mark.parametrize("function", [*FINE, *WAITING])
def test_whether_a_value_waits(function: Function) -> None:
    call = call_under_way(frame_of(function))
    assert call is not None
    assert call.waits is (function in WAITING)


def test_a_step_inside_an_operator_is_no_call() -> None:
    class Odd:
        def __add__(self, other: object) -> object:
            raise HereError(sys._getframe(1))

    def add(_: Word) -> object:
        return Odd() + 1

    assert call_under_way(frame_of(add)) is None


DROPS: dict[Function, bool] = {
    alone: True,
    kept: False,
    given_on: False,
    in_a_condition: False,
    in_a_range: True,
}


@pytest.mark.parametrize("function", DROPS)
def test_whether_the_result_is_dropped(function: Function) -> None:
    assert is_dropped(frame_of(function), frame_of.__code__) is DROPS[function]


def test_a_result_that_is_given_on_and_dropped_there() -> None:
    def outer(word: Word) -> object:
        given_on(word)
        return None

    assert is_dropped(frame_of(outer), frame_of.__code__)


def mapped(word: Word) -> object:
    return list(map(word.load, [1]))


def cached(word: Word) -> object:
    load = functools.cache(word.load)
    return load()


def through_another_name(word: Word) -> object:
    load = word.load
    return load()


def given_one_of_two(word: Word) -> object:
    which = 1
    word.load(1 if which else 2)
    return None


def given_a_sum_or_nothing(word: Word) -> object:
    """From 3.12 on each branch has a call instruction of its own."""
    which = 0
    word.load(which + 1 if which else 0)
    return None


def in_a_module(_: Word) -> object:
    """A global's attribute that is called: a NULL goes on the stack with the global in 3.11."""
    return HERE.step(1)


HERE = types.SimpleNamespace()


def test_a_function_of_a_module_is_named_by_itself() -> None:
    HERE.step = lambda *_: Word().load()
    frame = frame_of(in_a_module)
    assert frame.f_back is not None
    call = call_under_way(frame.f_back)
    assert call is not None
    assert (call.named, call.waits) == ("attribute step", False)


@pytest.mark.parametrize("function", [given_one_of_two, given_a_sum_or_nothing])
def test_a_choice_among_the_arguments_is_no_function_in_c(function: Function) -> None:
    check_nothing_waits(frame_of(function), "load")


@pytest.mark.parametrize("function", [mapped, cached, an_operand])
def test_what_keeps_a_position_of_its_own_is_refused(function: Function) -> None:
    with pytest.raises(InputError, match=r"test_waiting.py:\d+: load\(\) is called inside"):
        check_nothing_waits(frame_of(function), "load")


def test_a_method_in_a_local_is_fine_when_it_stands_alone() -> None:
    check_nothing_waits(frame_of(through_another_name), "load")


def test_a_breach_of_ours_is_a_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(an_operand)
    monkeypatch.setitem(frame.f_globals, "__name__", "dpamt.here")
    with pytest.raises(ModelError):
        check_nothing_waits(frame, "load")


@pytest.mark.parametrize("branches", range(1, 60, 3))
def test_a_loop_of_any_length_is_walked_through(branches: int) -> None:
    """A jump over more than 255 instructions has a prefix, and others jump to the prefix."""
    lines = ["def long(word, which):", "    at = 0", "    while at < which:", "        at += 1"]
    for n in range(branches):
        lines += [f"        {'elif' if n else 'if'} at == {n + 2} and which:"]
        lines += ["            if at > which:", f"                which = at + {n}"]
    lines += ["        else:", "            word.load(1)"]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    frame = frame_of(lambda word: names["long"](word, 1))
    check_nothing_waits(frame, "load")
    assert is_dropped(frame, frame_of.__code__)
