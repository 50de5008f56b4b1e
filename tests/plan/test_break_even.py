"""Where both modes cost the same: found by mapping one more 2M range, or page, at a time."""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.plan.break_even import break_even
from dpamt.plan.host_size import HostSize
from dpamt.plan.plan import plan_host
from dpamt.platform.read_machine import machine_from_text
from dpamt.run.facts import PamtFacts

PAGE, REGION, PAIR = 4096, 2 << 20, 8192


@cache
def small_host() -> HostSize:
    text = "BIOS-e820: [mem 0x0000000000100000-0x0000000007ffffff] usable\n"
    return plan_host(machine_from_text(text, "small"), []).host


def host(static: int, idle: int, memory: int, regions: int) -> HostSize:
    """A host of these figures: all that the point depends on."""
    return replace(
        small_host(),
        static=PamtFacts(static, 0, 0, 0, 0, 0),
        dynamic=PamtFacts(0, 0, 0, idle, 0, 0),
        tdx_bytes=memory,
        regions=regions,
    )


@cache
def all_hit(regions: int) -> list[float]:
    """Of pages that each go to a region at random: how many regions are hit, page after page."""
    hit = [0.0]
    while len(hit) < regions * 513 + 2:
        hit.append(hit[-1] + 1 - hit[-1] / regions)
    return hit


def regions_hit(pages: int, regions: int) -> float:
    return all_hit(regions)[pages]


FIGURES = st.tuples(
    st.integers(-3, 60),
    st.integers(0, PAIR - 1),
    st.integers(1, 40),
    st.integers(0, 20),
    st.none() | st.integers(1, 300),
)
"""Pairs, bytes more than they take, regions, pages at idle, pages of memory (None: all regions)."""


@given(FIGURES)
def test_the_point_is_where_adding_up_arrives(
    figures: tuple[int, int, int, int, int | None],
) -> None:
    pairs, over, regions, idle, few = figures
    memory = few * PAGE if few is not None else regions * REGION - 5 * PAGE
    size = host(
        idle * PAGE + 40 * PAIR + pairs * PAIR + over, idle * PAGE + 40 * PAIR, memory, regions
    )
    point = break_even(size)
    static, dynamic = size.static.total, size.dynamic.total
    assert (point.pairs, point.regions) == (pairs, regions)
    if pairs <= 0:
        assert (point.packed, point.scattered, point.one_each) == (0.0, 0.0, 0.0)
        return
    if pairs >= regions:
        assert (point.packed, point.scattered, point.one_each) == (None, None, None)
        return
    # A guest's page brings 1/512 of an S-EPT page with it.
    all_pages = Fraction(memory, PAGE) * Fraction(513, 512)
    used = 0
    while dynamic + (used + 1) * PAIR <= static:
        used += 1
    packed = used * 512 / all_pages
    assert point.packed == (pytest.approx(float(packed)) if packed <= 1 else None)
    assert point.one_each == pytest.approx(float(used / all_pages))
    page = 0
    while regions_hit(page, regions) < used - 1e-6:
        page += 1
    low, high = (page - 1) / all_pages, page / all_pages
    if high < 1:
        assert point.scattered is not None
        assert float(low) - 1e-9 <= point.scattered <= float(high) + 1e-9
    if low > 1:
        assert point.scattered is None


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(0, 511), st.integers(0, 9), st.booleans())
def test_the_curve_counts_regions(regions: int, pages_of: int, idle: int, few: bool) -> None:
    memory = (pages_of + 1) * PAGE if few else regions * REGION - pages_of * PAGE
    point = break_even(host(10**9, idle * PAGE, memory, regions))
    assert [at.share for at in point.curve] == [index / 100 for index in range(101)]
    pages = [
        Fraction(index, 100) * Fraction(memory, PAGE) * Fraction(513, 512) for index in range(101)
    ]
    for at, used in zip(point.curve, pages, strict=True):
        assert (at.packed - idle * PAGE) % PAIR == (at.scattered - idle * PAGE) % PAIR == 0
        packed = (at.packed - idle * PAGE) // PAIR
        scattered = (at.scattered - idle * PAGE) // PAIR
        assert packed <= regions
        if packed < regions:
            assert abs(packed - used / 512) <= Fraction(1, 2)
        else:
            assert used / 512 >= regions - Fraction(1, 2)
        low = regions_hit(int(used), regions)
        high = regions_hit(int(used) + 1, regions)
        assert scattered == packed or low - 0.501 <= scattered <= high + 0.501
        assert scattered >= max(packed, low - 0.501)
    assert point.curve[0].packed == point.curve[0].scattered == idle * PAGE


def test_scattered_pages_bring_their_share_of_s_ept_pages() -> None:
    """4,096 pages in 4,096 regions: 8 S-EPT pages more."""
    hit = 0.0
    for _ in range(4096 + 8):
        hit += 1 - hit / 4096
    last = break_even(host(10**9, 0, 4096 * PAGE, 4096)).curve[-1]
    assert last.scattered == round(hit) * PAIR
    assert last.packed == 8 * PAIR


def test_shares_above_all_memory_are_no_answer() -> None:
    """Memory in many regions of which each has few pages: pairs for all of it cost too little."""
    point = break_even(host(30 * PAIR, 0, 20 * REGION, 40))
    assert point.packed is None
    assert point.scattered == pytest.approx(regions_needed(30, 40), rel=1e-3)
    # Exactly all of it is an answer: 512 pages of guests are 513 with their S-EPT page.
    assert break_even(host(513 * PAIR, 0, 512 * REGION, 514)).packed == 1.0
    few = break_even(host(39 * PAIR, 0, 16 * PAGE, 40))
    assert (few.packed, few.scattered) == (None, None)
    assert few.one_each == pytest.approx(39 / 16 * 512 / 513)


def regions_needed(pairs: int, regions: int) -> float:
    """The share of 20 regions' memory whose pages hit that many regions."""
    pages = 0
    while regions_hit(pages, regions) < pairs:
        pages += 1
    before = regions_hit(pages - 1, regions)
    part = (pairs - before) / (regions_hit(pages, regions) - before)
    return (pages - 1 + part) / (20 * 513)
