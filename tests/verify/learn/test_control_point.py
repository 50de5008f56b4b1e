"""ControlPoints: equal exactly where what a thread holds would act alike."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import ModelError
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.control_point import ControlPoints

PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, "", "a", b""])
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(0, 2), inner, max_size=2)
    ),
    max_leaves=6,
)


class Pair(NamedTuple):
    first: int
    second: int


class Other(NamedTuple):
    first: int
    second: int


class Level(IntEnum):
    SMALL = 1


class Slotted:
    __slots__ = ("__hidden", "seen")

    def __init__(self, seen: int, hidden: int = 0) -> None:
        self.seen = seen
        self.__hidden = hidden

    def act(self) -> int:
        return self.seen + self.__hidden


class Child(Slotted):
    def __init__(self, seen: int, more: int) -> None:
        super().__init__(seen)
        self.more = more


class Machine:
    pass


PLACES = ControlPoints((), (Machine,))
"""Places are compared with others of the same machine."""


def show(*values: Any) -> Any:
    PLACES.forget()
    return tuple(PLACES.show(value) for value in values)


def typed(value: Any) -> Any:
    """The value with the type of everything in it: an independent notion of acting alike."""
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(typed(item) for item in value)
    if isinstance(value, dict):
        return "dict", tuple((typed(k), typed(v)) for k, v in value.items())
    return type(value).__name__, value


@given(VALUES, VALUES)
def test_values_are_shown_alike_if_they_are_alike(one: Any, other: Any) -> None:
    assert (show(one) == show(other)) == (typed(one) == typed(other))
    hash(show(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0, False),
        (1, True),
        (1, 1.0),
        (1, Level.SMALL),
        ((1, 2), [1, 2]),
        ((1, 2), Pair(1, 2)),
        (Pair(1, 2), Other(1, 2)),
        ({1: 2}, {1: 3}),
        (frozenset({1, 2}), frozenset({1})),
        (frozenset([0, 8]), frozenset([8, 0])),
        (0.0, -0.0),
        (complex(0, 0.0), complex(0, -0.0)),
        (range(0), range(5, 5)),
        (range(0, 5, 5), range(1)),
        (Slotted(1), Slotted(2)),
        (Slotted(1, 2), Slotted(1, 3)),
        (Child(1, 2), Child(1, 3)),
        (Child(1, 2), Slotted(1)),
        (Slotted(1).act, Slotted(2).act),
        (ValueError("a"), ValueError("b")),
        (ValueError("a"), KeyError("a")),
    ],
)
def test_what_acts_otherwise_is_told_apart(one: Any, other: Any) -> None:
    assert show(one) != show(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Slotted(1, 2),
        lambda: Child(1, 2),
        lambda: Slotted(1).act,
        lambda: Pair(1, 2),
        lambda: ValueError("a", 1),
        lambda: [Slotted(1), (Slotted(1), {1: [2]})],
        lambda: adder(1),
        lambda: frozenset({3, 1, 2}),
        lambda: range(5),
        lambda: float("nan"),
    ],
)
def test_equal_things_made_twice_are_shown_alike(make: Callable[[], Any]) -> None:
    assert show(make()) == show(make())


def test_a_set_that_can_change_is_refused() -> None:
    """How it goes through its values next time is nothing that can be seen."""
    with pytest.raises(ModelError, match="a thread holds a set across a step"):
        show({1, 2})


def adder(amount: int) -> Callable[[int], int]:
    def add(number: int) -> int:
        return number + amount

    return add


def test_functions_differ_by_what_they_close_over_and_by_their_defaults() -> None:
    def with_default(amount: int) -> Callable[..., int]:
        return lambda number=amount: number

    def with_keyword(amount: int) -> Callable[..., int]:
        def only(*, number: int = amount) -> int:
            return number

        return only

    for make in (adder, with_default, with_keyword):
        assert show(make(1)) == show(make(1))
        assert show(make(1)) != show(make(2))


def test_a_function_that_names_itself_is_shown() -> None:
    def make(amount: int) -> Callable[[int], int]:
        def down(number: int) -> int:
            return down(number - amount) if number else 0

        return down

    assert show(make(1)) == show(make(1))
    assert show(make(1)) != show(make(2))


def test_one_list_under_two_names_is_no_two_lists() -> None:
    """To append to one of them shows in the other only where they are the same."""
    one: list[int] = []
    assert show(one, one) != show([], [])
    assert show([one, 1, one]) != show([[], 1, []])
    again: list[int] = []
    assert show([one, one]) == show([again, again])
    assert show(one, [1]) == show([], [1])


def test_a_list_that_holds_itself_is_shown() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert show(one) == show(other)


def test_words_are_their_addresses_and_machines_themselves() -> None:
    shared = ObservedShared()
    words = shared.words("counters")
    assert show(words.at(1)) == show(words.at(1))
    assert show(words.at(1)) != show(words.at(2))
    words.at(1).store(7)
    before = show(words.at(1))
    words.at(1).store(8)
    assert show(words.at(1)) == before
    places = ControlPoints((), (Machine,))
    machine, other = Machine(), Machine()
    assert places.show(machine) == places.show(machine) != places.show(other)


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "hidden",
    [
        iter([1]),
        iter(range(3)),
        enumerate([1]),
        zip([1], [2], strict=True),
        map(abs, [1]),
        generator(),
        partial(int, "1"),
        deque([1]),
        Random(1),
        bytearray(b"a"),
        {1: 2}.items(),
        memoryview(b"a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_shown_is_refused_by_name(hidden: Any) -> None:
    with pytest.raises(ModelError, match=type(hidden).__name__):
        show(hidden)
    with pytest.raises(ModelError, match="cannot be shown"):
        show([1, (hidden,)])


class MoreThanAnInteger(int):
    pass


class MoreThanAList(list[int]):
    pass


class MoreThanATuple(tuple[int, ...]):
    pass


@pytest.mark.parametrize(
    "hidden",
    [
        MoreThanAnInteger(7),
        MoreThanAList([1]),
        MoreThanATuple((1,)),
        defaultdict(int),
        staticmethod(len),
        OSError(1, "a"),
        StopIteration(1),
        {Pair(1, 2)},
    ],
    ids=lambda hidden: type(hidden).__name__,
)
def test_what_holds_more_than_it_shows_is_refused(hidden: Any) -> None:
    with pytest.raises(ModelError, match="cannot be shown"):
        ControlPoints((), ()).show(hidden)


def test_what_an_exception_came_from_and_attributes_of_functions_are_shown() -> None:
    def function() -> None:
        pass

    points = ControlPoints((), ())
    before = points.show(function)
    points.forget()
    assert points.show(function) == before
    points.forget()
    function.seen = 1  # type: ignore[attr-defined]
    assert points.show(function) != before
    error, other = ValueError(1), ValueError(1)
    other.__cause__ = KeyError(2)
    assert points.show(error) != points.show(other)


def test_what_is_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep]
    with pytest.raises(ModelError, match="too deep"):
        show(deep)
