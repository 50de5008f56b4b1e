"""Pairs of a fresh host, against page after page taken from a list of pages."""

from collections.abc import Iterable, Iterator
from itertools import count
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.plan import fresh
from dpamt.plan.fresh import fresh_pairs, single_regions
from dpamt.plan.td_size import TdPages

from .hand_out import HandOut, as_allocator

POOLED = 5 + 10
"""Of a VCPU: 5 S-EPT pages, and 10 pages of pairs (Dynamic PAMT v6 07/11)."""


def td_pages(single: int, vcpus: int, folios: int) -> TdPages:
    """As many single pages, whatever they are."""
    return TdPages(
        1, single // 3, single // 3, single - 2 * (single // 3) + folios * 512, 7, folios, vcpus
    )


def by_hand(
    pages: Iterable[int], single: int, vcpus: int, folios: int
) -> tuple[int, list[int], int]:
    """Pairs, their regions as they come, and the pages that were taken; no end but the list's."""
    supply = iter(pages)
    regions: list[int] = []
    taken = 0
    while taken < single + POOLED * vcpus + 2 * (folios + len(regions)):
        page = next(supply, None)
        if page is None:
            break
        taken += 1
        if page // 512 not in regions:
            regions.append(page // 512)
    return folios + len(regions), regions, taken


PAGES = st.lists(st.integers(0, 12 * 512), unique=True, max_size=300)


@given(PAGES, st.integers(0, 120), st.integers(0, 3), st.integers(0, 9))
def test_page_after_page(pages: list[int], single: int, vcpus: int, folios: int) -> None:
    made = td_pages(single, vcpus, folios)
    assert made.single == single
    pairs, regions, taken = by_hand(pages, single, vcpus, folios)
    host = HandOut(pages)
    assert fresh_pairs(as_allocator(host), made) == pairs
    assert len(host.taken) == taken
    assert list(single_regions(as_allocator(HandOut(pages)), made)) == regions


@pytest.mark.parametrize("taken_one_by_one", [512, 1024])
@given(st.integers(0, 9000), st.integers(0, 3), st.integers(0, 600))
def test_whole_regions_after_the_pages_taken_one_by_one(
    taken_one_by_one: int, single: int, vcpus: int, folios: int
) -> None:
    """The closed form at the end is what going on page by page would have come to."""
    made = td_pages(single, vcpus, folios)
    pairs, regions, _ = by_hand(count(), single, vcpus, folios)
    with mock.patch.object(fresh, "_TAKEN", taken_one_by_one):
        assert fresh_pairs(as_allocator(HandOut(count())), made) == pairs
        seen = list(single_regions(as_allocator(HandOut(count())), made))
    assert seen == regions[: taken_one_by_one // 512]


def test_half_a_million_pages_are_taken_one_by_one() -> None:
    host = HandOut(count())
    assert fresh_pairs(as_allocator(host), td_pages(600_000, 0, 0)) == -(-600_000 // 510)
    assert len(host.taken) == 1 << 19


def test_memory_that_is_not_there_is_not_counted() -> None:
    def two_regions() -> Iterator[int]:
        yield from range(1024)

    assert fresh_pairs(as_allocator(HandOut(two_regions())), td_pages(5000, 0, 3)) == 5
