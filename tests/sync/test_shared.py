"""The whole shared state: named, copied, compared and put back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import Shared


def build() -> tuple[Shared, list[object]]:
    shared = Shared()
    arrays: list[object] = [
        shared.words("a"),
        shared.host_priority_words("b"),
        shared.entry_pages("c"),
        shared.shared_exclusive_locks("d"),
        shared.spinlock("e"),
        shared.mutex("f"),
        shared.rwlock("g"),
        shared.spinlocks("h"),
        shared.rwlocks("i"),
    ]
    return shared, arrays


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 99)), max_size=20))
def test_restore_undoes_everything(steps: list[tuple[int, int, int]]) -> None:
    shared, _ = build()
    words = shared._arrays["a"]
    before = shared.snapshot()
    for which, index, value in steps:
        array = shared._arrays["abcdefghi"[which]]
        if which == 0:
            array.at(index).store(value)  # type: ignore[attr-defined]
        elif which == 1:
            array.at(index).try_shared()  # type: ignore[attr-defined]
        elif which == 2:
            array.at(index).store(value, value)  # type: ignore[attr-defined]
        elif which == 3:
            array.at(index).try_exclusive()  # type: ignore[attr-defined]
        elif which == 7 and not array.at(index).is_locked():  # type: ignore[attr-defined]
            array.at(index).lock()  # type: ignore[attr-defined]
        elif which == 8:
            array.at(index).read_lock()  # type: ignore[attr-defined]
    after = shared.snapshot()
    shared.restore(before)
    assert shared.snapshot() == before
    shared.restore(after)
    assert shared.snapshot() == after
    assert hash(after) == hash(shared.snapshot())
    assert shared._arrays["a"] is words


def test_a_name_is_used_once_until_it_is_forgotten() -> None:
    shared, _ = build()
    with pytest.raises(ValueError, match="a exists already"):
        shared.words("a")
    shared.forget("a")
    shared.words("a")


def test_locks_are_part_of_the_snapshot() -> None:
    shared = Shared()
    spin, rw = shared.spinlock("pamt_lock"), shared.rwlock("mmu_lock")
    free = shared.snapshot()
    spin.lock()
    rw.read_lock()
    assert shared.snapshot() != free
    shared.restore(free)
    assert not spin.is_locked()
    assert not rw.is_locked()
