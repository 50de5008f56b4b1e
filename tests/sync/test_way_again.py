"""A way gone before is taken again only for the same part of the key, and if it still stands."""

import pytest

from dpamt.sync import BUSY, EntryPages, EntryPath, HostPriorityWord, LockSet, Way, way_down
from dpamt.sync.entry_pages import ZEROS, EntryPage
from dpamt.sync.host_priority import EX, HP, READER

KIND = 0x84
LOW = 0x201
"""A key with upper part 1 and last index 1."""
HIGH = LOW << 18


def tree() -> EntryPages:
    """Page 1, whose even entries link to page 2 and the odd ones to page 3."""
    pages = EntryPages()
    for index in range(512):
        pages.at(1).store(index, (2 + index % 2) << 8 | KIND)
    for page in (2, 3):
        for index in range(512):
            pages.at(page).store(index, page * 1000 + index)
    return pages


def go(locks: LockSet, pages: EntryPages, key: int, way: Way) -> tuple[EntryPage, int, int] | None:
    found = locks.tree_walk(HostPriorityWord(), key, way, KIND)
    locks.release_all()
    return found


@pytest.mark.parametrize(
    "keys", [(LOW, HIGH), (HIGH, LOW), (1, LOW), (LOW, LOW + 512), (LOW, LOW + 5)]
)
def test_another_key_is_another_way(keys: tuple[int, int]) -> None:
    """Keys of which one's upper part is the other's, shifted, too."""
    pages, locks = tree(), LockSet()
    way = way_down(pages, 1, 1, 0)
    for key in (*keys, *keys):
        page = 2 + (key >> 9 & 511) % 2
        index = key & 511
        assert go(locks, pages, key, way) == (pages.at(page), index, page * 1000 + index)


def test_another_way_is_not_taken_for_the_last() -> None:
    pages, locks = tree(), LockSet()
    other = tree()
    ways = way_down(pages, 1, 1, 0), way_down(other, 1, 1, 0)
    for at, way in ((pages, ways[0]), (other, ways[1]), (pages, ways[0])):
        found = go(locks, at, LOW, way)
        assert found is not None
        assert found[0] is at.at(3)


def test_the_same_way_is_taken_while_it_stands() -> None:
    pages, locks = tree(), LockSet()
    way = way_down(pages, 1, 1, 0)
    for index in (1, 1, 7):
        assert go(locks, pages, 512 + index, way) == (pages.at(3), index, 3000 + index)
    pages.at(1).store(1, 2 << 8 | KIND)
    assert go(locks, pages, LOW, way) is None
    assert go(locks, pages, LOW, way) == (pages.at(2), 1, 2001)
    pages.at(1).store(1, 0)
    assert go(locks, pages, LOW, way) is None
    assert go(locks, pages, LOW, way) is None
    pages.at(1).store(1, 3 << 8 | KIND)
    assert go(locks, pages, LOW, way) == (pages.at(3), 1, 3001)


def test_where_a_way_takes_its_indices() -> None:
    pages = EntryPages()
    assert way_down(pages, 7, 3, 1) == (9, 18, pages, 7, (27, 18))
    assert way_down(pages, 7, 4, 2) == (18, 27, pages, 7, (36, 27))
    assert way_down(pages, 7, 2, 2) == (18, 27, pages, 7, ())


def test_short_cuts_lock_no_other_page() -> None:
    """Pages that were never locked share their locks; taking one gives the page its own."""
    pages, locks = tree(), LockSet()
    assert locks.tree_walk(HostPriorityWord(), LOW, way_down(pages, 1, 1, 0), KIND)
    assert [pages.at(page).locked() for page in (1, 2, 3)] == [{}, {}, {1: EX}]
    path, other = EntryPage(), EntryPage()
    words = HostPriorityWord(), HostPriorityWord()
    assert locks.path(EntryPath(*words, 0, path), 5, EX) == 0
    assert (path.locked(), other.locked()) == ({5: EX}, {})
    locks.release_all()
    assert not any(ZEROS)


def test_a_failed_reader_leaves_its_count_and_host_priority() -> None:
    page, word = EntryPage(), HostPriorityWord()
    page.try_exclusive(8)
    word.try_exclusive()
    for readers in (1, 2, 3):
        assert page.try_shared(8) == word.try_shared() == BUSY
        assert page.lock_word(8) == word.lock_word() == readers * READER | HP | EX
    for _ in range(1 << 14):
        page.try_shared(8)
        word.try_shared()
    assert page.lock_word(8) == word.lock_word() == 3 * READER | HP | EX
    page.release_exclusive(8)
    word.release_exclusive()
    assert page.lock_word(8) == word.lock_word() == HP


def test_a_path_leaves_the_readers_that_came_later() -> None:
    words, page = (HostPriorityWord(), HostPriorityWord()), EntryPage()
    mine, other = LockSet(), LockSet()
    assert mine.path(EntryPath(*words, 0, page), 5, READER) == 0
    assert other.shared_entry(page, 5) == 0
    mine.release_all()
    assert page.locked() == {5: READER}
    assert [word.lock_word() for word in words] == [0, 0]
    other.release_all()
    assert page.locked() == {}
