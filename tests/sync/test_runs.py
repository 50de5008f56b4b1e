"""Runs of words and of payloads: the same as word by word, however they are kept."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import EntryPage, Words
from dpamt.sync.runs import uniform, with_run
from dpamt.sync.words import RUN_WORDS

starts = st.sampled_from((0, 1, 7, 256, 500, 511))


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, Sequence[int]]:
    """(start, values) inside a chunk: uniform, rising, falling or anything."""
    start = draw(starts)
    length = min(draw(st.sampled_from((1, 2, 5, 200, 511, 512))), RUN_WORDS - start)
    first = draw(st.integers(0, 3))
    kind = draw(st.sampled_from(("uniform", "rising", "falling", "list")))
    if kind == "uniform":
        return start, uniform(first, length)
    if kind == "rising":
        return start, range(first, first + length * 256, 256)
    if kind == "falling":
        return start, range(first + length, first, -1)
    return start, [first + (index * 7) % 5 for index in range(length)]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("run"), runs()),
        st.tuples(st.just("store"), st.tuples(starts, st.integers(0, 3))),
        st.tuples(st.just("touch"), st.tuples(starts, st.just(0))),
        st.tuples(st.just("clear"), st.tuples(starts, st.just(0))),
    ),
    max_size=12,
)


@given(operations, st.sampled_from((0, 3 * RUN_WORDS)), runs())
def test_words(script: list[Any], base: int, look: tuple[int, Sequence[int]]) -> None:
    words, plain, kept = Words(), [0] * RUN_WORDS, {}
    for what, (start, value) in script:
        if what == "run":
            words.store_run(base + start, value)
            plain[start : start + len(value)] = value
        elif what == "store":
            words.at(base + start).store(value)
            plain[start] = value
        elif what == "touch":
            kept[start] = words.at(base + start)
        else:
            words.clear(base + start)
            plain[start] = 0
        first, end = look[0], look[0] + len(look[1])
        assert list(words.load_run(base + first, base + end)) == plain[first:end]
    found = tuple((base + index, value) for index, value in enumerate(plain) if value)
    assert words.capture() == found
    assert all(word.load() == plain[index] for index, word in kept.items())
    words.restore(())
    assert words.capture() == ()
    words.restore(found)
    assert [words.at(base + index).load() for index in range(RUN_WORDS)] == plain


@given(operations, starts)
def test_entry_pages(script: list[Any], locked: int) -> None:
    page, plain = EntryPage(), [0] * RUN_WORDS
    page.try_exclusive(locked)
    for what, (start, value) in script:
        if what == "run":
            page.store_run(start, value)
            plain[start : start + len(value)] = value
        elif what == "clear":
            page.clear(start)
            plain[start] = 0
        else:
            page.store(start, value)
            plain[start] = value
        assert list(page.payloads()) == plain
        assert list(page.load_run(start, 512)) == plain[start:]
        assert page.any_non_zero(start, 512) == any(plain[start:])
        assert page.unlocked(0, 512) is False
        assert page.unlocked(0, locked) is page.unlocked(locked + 1, 512) is True
    captured = page.capture()
    page.release_exclusive(locked)
    assert page.unlocked(0, 512)
    other = EntryPage()
    other.restore(captured)
    assert list(other.payloads()) == plain
    assert other.locked() == {locked: 1}


def test_what_goes_on_evenly_stays_compact() -> None:
    """One word before or after a run that continues it costs nothing."""
    page = EntryPage()
    page.store(0, 1000)
    page.store_run(1, range(1256, 1256 + 511 * 256, 256))
    assert isinstance(page._payloads, range)
    assert with_run([5] * 512, 3, uniform(5, 509)) is uniform(5, 512)
    words = Words()
    words.at(0).store(16)
    words.store_run(1, range(32, 32 + 511 * 16, 16))
    assert isinstance(words._runs[0], range)
    words.store_run(0, uniform(0, 512))
    assert not words._runs
