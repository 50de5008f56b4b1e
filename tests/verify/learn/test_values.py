"""Outcomes of steps, held against the words of a machine that do them in sequence."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import ModelError
from dpamt.sync.kernel_locks import Deadlock
from dpamt.sync.observed import Address, ObservedShared
from dpamt.sync.steps import WAITS
from dpamt.verify.learn.automaton import Step
from dpamt.verify.learn.values import (
    BLOCKED,
    DONE,
    MISUSED,
    Operations,
    read_word,
    value_text,
    write_word,
)

SMALL = st.integers(0, 3)
LOCK_STEPS: list[tuple[str, st.SearchStrategy[tuple[Any, ...]]]] = [
    (name, st.just(())) for name in ("try_shared", "try_exclusive")
]
STEPS: dict[str, list[tuple[str, st.SearchStrategy[tuple[Any, ...]]]]] = {
    "words": [
        ("load", st.just(())),
        ("store", st.tuples(SMALL)),
        ("add", st.tuples(st.integers(-2, 2))),
        ("add_unless", st.tuples(st.integers(-1, 1), SMALL)),
        ("inc_not_zero", st.just(())),
        ("compare_and_swap", st.tuples(SMALL, SMALL)),
        ("set_bits", st.tuples(SMALL)),
        ("clear_bits", st.tuples(SMALL)),
    ],
    "host_priority_words": [
        *LOCK_STEPS,
        ("try_exclusive_guest", st.just(())),
        ("load", st.just(())),
        ("store", st.tuples(SMALL)),
        ("contended", st.just(())),
    ],
    "entry_pages": [
        *LOCK_STEPS,
        ("try_exclusive_guest", st.just(())),
        ("load", st.just(())),
        ("store", st.tuples(SMALL)),
        ("clear", st.just(())),
    ],
    "shared_exclusive_locks": LOCK_STEPS,
    "spinlocks": [("lock", st.just(())), ("unlock", st.just(()))],
    "rwlocks": [
        (name, st.just(())) for name in ("read_lock", "read_unlock", "write_lock", "write_unlock")
    ],
}
SEQUENCES = st.sampled_from(sorted(STEPS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        st.lists(
            st.sampled_from(STEPS[kind]).flatmap(lambda step: st.tuples(st.just(step[0]), step[1])),
            max_size=12,
        ),
    )
)


def word_of(shared: ObservedShared, kind: str, index: int) -> tuple[Any, Any]:
    """(array, what does one step of that word)."""
    array = getattr(shared, kind)("array")
    if kind == "entry_pages":
        page = array.at(index >> 9)
        return array, lambda method, arguments: getattr(page, method)(index & 511, *arguments)
    return array, lambda method, arguments: getattr(array.at(index), method)(*arguments)


@given(SEQUENCES, st.integers(0, 2000))
def test_a_step_does_what_the_word_itself_does(
    sequence: tuple[str, list[tuple[str, tuple[Any, ...]]]], index: int
) -> None:
    kind, steps = sequence
    array, do = word_of(ObservedShared(), kind, index)
    operations = Operations(array)
    for method, arguments in steps:
        before = read_word(array, index)
        said = operations.outcome(Step(Address("array", index), method, arguments), before)
        try:
            result, how = do(method, arguments), DONE
        except Deadlock:
            result, how = None, BLOCKED if method in WAITS else MISUSED
        assert said.how == how
        assert said.value == read_word(array, index)
        if how == DONE:
            assert said.result == result
            assert type(said.result) is type(result)
        else:
            assert said.value == before


@given(SEQUENCES, st.integers(0, 2000))
def test_a_value_put_back_is_read_again(
    sequence: tuple[str, list[tuple[str, tuple[Any, ...]]]], index: int
) -> None:
    kind, steps = sequence
    array, do = word_of(ObservedShared(), kind, index)
    seen = [read_word(array, index)]
    for method, arguments in steps:
        try:
            do(method, arguments)
        except Deadlock:
            continue
        seen.append(read_word(array, index))
    for value in seen:
        write_word(array, index, value)
        assert read_word(array, index) == value


def value_of(kind: str, text: str) -> object:
    """What a text says, read back by what its words mean."""
    if kind == "spinlocks":
        return {"held": True, "free": False}[text]
    if kind == "rwlocks":
        readers, _, word = text.partition(" ")
        return {"free": 0, "write-held": 1}[text] if not word else int(readers) << 1
    if kind == "words":
        assert ("x" in text) == (abs(int(text, 0)) > 9)
        return int(text, 0)
    value = 0
    for part in text.split(", ") if text != "free" else ():
        count, _, word = part.partition(" ")
        if part in ("exclusive", "wanted by the host"):
            value |= {"exclusive": 1, "wanted by the host": 2}[part]
        else:
            assert word in ("shared", "")
            value |= int(count, 0) << (2 if word else 16)
    return value


@given(SEQUENCES, st.sampled_from([0, 1, 9, 10, 11, 0x7340, -9, -10, -11]))
def test_the_text_of_a_value_says_all_of_it(
    sequence: tuple[str, list[tuple[str, tuple[Any, ...]]]], number: int
) -> None:
    kind, steps = sequence
    array, do = word_of(ObservedShared(), kind, 3)
    if kind in ("words", "host_priority_words", "entry_pages"):
        do("store", (number if kind == "words" else abs(number),))
    for method, arguments in steps:
        try:
            do(method, arguments)
        except Deadlock:
            continue
        value = read_word(array, 3)
        text = value_text(array, value)
        assert value_of(kind, text) == value
        may_be_free = kind in ("spinlocks", "rwlocks", "shared_exclusive_locks")
        assert (text == "free") == (may_be_free and not value)
        if kind in ("host_priority_words", "entry_pages"):
            assert text.split(", ")[0] not in ("exclusive", "free")  # the payload comes first


def test_an_array_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="steps on a list are not known"):
        Operations([])
