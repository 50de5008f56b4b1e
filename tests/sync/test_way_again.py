"""A way gone before is taken again only for the same part of the key, and if it still stands."""

import pytest

from dpamt.sync import EntryPages, HostPriorityWord, LockSet, Way, way_down
from dpamt.sync.entry_pages import EntryPage

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


@pytest.mark.parametrize("keys", [(LOW, HIGH), (HIGH, LOW), (LOW, LOW + 512), (LOW, LOW + 5)])
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
