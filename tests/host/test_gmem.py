"""guest_memfd: pages and folios, and another CPU that faults the same page at the same time."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGES_PER_2M
from dpamt.host.kvm.gmem import NO_MEMORY, SITE_FOLIO, SITE_PAGE, GuestMemfd
from dpamt.platform.page_allocator import Snapshot
from tests.host.rig import Host, booted

HOST = booted("merged", 48)


def gmem_of(host: Host, huge: bool) -> GuestMemfd:
    return GuestMemfd(host.kernel, host.kernel.vm_ids.add(1), huge)


@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("fpP"), st.integers(0, 3 * PAGES_PER_2M - 1)), max_size=50),
    st.sets(st.integers(0, 30)),
)
@settings(max_examples=60, deadline=None)
def test_pages_stay_until_punched(
    huge: bool, moves: list[tuple[str, int]], failing: set[int]
) -> None:
    """Against a naive oracle: a GFN's page is its own, the same until punched; all goes back."""
    gmem = gmem_of(HOST, huge)
    before = HOST.allocator.snapshot()
    first = HOST.allocator.allocations
    HOST.allocator.fail_when = lambda _site, ordinal: ordinal - first in failing
    known: dict[int, int] = {}
    for move, gfn in moves:
        if move == "f":
            pfn, level = gmem.get_pfn(gfn)
            if pfn == NO_MEMORY:
                assert gfn not in known
                continue
            assert known.setdefault(gfn, pfn) == pfn
            assert level == LEVEL_4K or (huge and (pfn - gfn) % PAGES_PER_2M == 0)
            assert not HOST.allocator.is_free(pfn)
        elif move == "p":
            gmem.punch(gfn)
            known.pop(gfn, None)
        else:
            gmem.punch_range(gfn & ~(PAGES_PER_2M - 1))
            known = {k: v for k, v in known.items() if k // PAGES_PER_2M != gfn // PAGES_PER_2M}
        assert len(set(known.values())) == len(known)
    HOST.allocator.fail_when = None
    for gfn in range(0, 3 * PAGES_PER_2M, PAGES_PER_2M):
        gmem.punch_range(gfn)
    assert HOST.allocator.snapshot() == before
    assert dict(gmem.ranges.non_zero()) == dict(gmem.pages.non_zero()) == {}
    assert dict(gmem.punched.non_zero()) == {}
    gmem.forget()


GFNS = st.sampled_from([0, 511, 512, 513, 1023, 1024]) | st.integers(0, 3 * PAGES_PER_2M - 1)
MOVES = st.tuples(st.sampled_from("fffplP"), GFNS)


@given(st.booleans(), st.lists(MOVES, max_size=30), st.sets(st.integers(0, 12)))
@settings(max_examples=40, deadline=None)
def test_a_leaked_page_is_nobodys_again(
    huge: bool, moves: list[tuple[str, int]], failing: set[int]
) -> None:
    """It is out of the file and not free; a folio is lost whole.  All else goes back."""
    host = booted("merged", 48)
    gmem = gmem_of(host, huge)
    before = host.allocator.snapshot()
    first = host.allocator.allocations
    host.allocator.fail_when = lambda _site, ordinal: ordinal - first in failing
    known: dict[int, int] = {}
    folios: dict[int, int] = {}
    lost: set[int] = set()
    for move, gfn in moves:
        at = gfn // PAGES_PER_2M
        if move == "f":
            pfn, _ = gmem.get_pfn(gfn)
            if pfn == NO_MEMORY:
                continue
            assert pfn not in lost
            assert known.setdefault(gfn, pfn) == pfn
            if gmem.ranges.at(at).load() > 0x3FF:
                folios[at] = pfn - gfn % PAGES_PER_2M
        elif move == "l":
            gmem.leak(gfn)
            if at in folios:
                base = folios.pop(at)
                lost |= set(range(base, base + PAGES_PER_2M))
                known = {k: v for k, v in known.items() if k // PAGES_PER_2M != at}
            elif gfn in known:
                lost.add(known.pop(gfn))
        elif move == "p":
            gmem.punch(gfn)
            known.pop(gfn, None)
        else:
            gmem.punch_range(at * PAGES_PER_2M)
            known = {k: v for k, v in known.items() if k // PAGES_PER_2M != at}
        folios = {k: v for k, v in folios.items() if gmem.ranges.at(k).load() > 0x3FF}
        assert host.allocator.free_among(lost) == []
        assert {gfn for gfn, _ in gmem.pages.non_zero()} == {
            gfn for gfn in known if gfn // PAGES_PER_2M not in folios
        }
        for at in range(3):
            if at not in folios:
                pages = [gfn for gfn in known if gfn // PAGES_PER_2M == at]
                assert gmem.ranges.at(at).load() == len(pages)
                assert not any(
                    number // PAGES_PER_2M == at for number, _ in gmem.punched.non_zero()
                )
    host.allocator.fail_when = None
    for at in range(3):
        gmem.punch_range(at * PAGES_PER_2M)
    free = pages_of(host.allocator.snapshot())
    assert pages_of(before) - free == lost
    assert free <= pages_of(before)
    assert not any([*gmem.ranges.non_zero(), *gmem.pages.non_zero(), *gmem.punched.non_zero()])


def pages_of(snapshot: Snapshot) -> set[int]:
    return {pfn for _, ranges in snapshot for start, end in ranges for pfn in range(start, end)}


def test_a_punched_range_ends_where_it_ends() -> None:
    host = booted("merged", 48)
    gmem = gmem_of(host, False)
    before, first, last, after = (gmem.get_pfn(gfn)[0] for gfn in (511, 512, 1023, 1024))
    gmem.punch_range(512)
    assert dict(gmem.pages.non_zero()) == {511: before, 1024: after}
    assert host.allocator.free_among([before, first, last, after]) == [first, last]


def test_a_punched_page_of_a_folio_comes_back_and_counts_again() -> None:
    host = booted("merged", 48)
    before = host.allocator.snapshot()
    gmem = gmem_of(host, True)
    base = gmem.get_pfn(77)[0] - 77
    assert gmem.get_pfn(0) == (base, LEVEL_2M)
    gmem.punch(77)
    assert gmem.get_pfn(80) == (base + 80, LEVEL_4K)
    assert gmem.get_pfn(77) == (base + 77, LEVEL_4K)
    assert gmem.get_pfn(77) == (base + 77, LEVEL_2M)
    assert [*gmem.punched.non_zero()] == []
    for gfn in range(PAGES_PER_2M):
        assert host.allocator.free_among(range(base, base + PAGES_PER_2M)) == []
        gmem.punch(gfn)
        if gfn == 100:  # in use again: the folio stays for it
            gmem.get_pfn(100)
    assert host.allocator.free_among([base + 100]) == []
    gmem.punch(100)
    assert gmem.ranges.at(0).load() == 0
    assert [gmem.punched.at(gfn).load() for gfn in (0, 100, 511)] == [0, 0, 0]
    assert host.allocator.snapshot() == before


def test_the_words_of_a_file_are_its_own_and_go_with_it() -> None:
    host = booted("merged", 48)
    one, other = GuestMemfd(host.kernel, 7, False), GuestMemfd(host.kernel, 8, False)
    one.get_pfn(3)
    other.get_pfn(3)
    one.forget()
    again = GuestMemfd(host.kernel, 7, False)
    assert [*again.pages.non_zero(), *again.ranges.non_zero(), *again.punched.non_zero()] == []
    assert [gfn for gfn, _ in other.pages.non_zero()] == [3]
    assert (one.vm_id, one.huge, one.kernel) == (7, False, host.kernel)


def meanwhile(host: Host, at: str, action: Callable[[], object]) -> None:
    """Let another CPU act inside the next allocation at that site."""

    def fail_when(site: str, _ordinal: int) -> bool:
        if site == at:
            host.allocator.fail_when = None
            action()
        return False

    host.allocator.fail_when = fail_when


@pytest.mark.parametrize("huge", [False, True])
def test_the_faster_cpu_wins(huge: bool) -> None:
    host = booted("merged", 48)
    before = host.allocator.snapshot()
    gmem = gmem_of(host, huge)
    other: list[tuple[int, int]] = []
    meanwhile(host, SITE_FOLIO if huge else SITE_PAGE, lambda: other.append(gmem.get_pfn(77)))
    assert gmem.get_pfn(77) == other[0]
    assert other[0][1] == (LEVEL_2M if huge else LEVEL_4K)
    gmem.punch_range(0)
    assert host.allocator.snapshot() == before


def test_a_folio_comes_while_a_page_is_allocated() -> None:
    host = booted("merged", 48)
    before = host.allocator.snapshot()
    gmem = gmem_of(host, True)
    # The first CPU finds no folio; while it takes a page, the second CPU finds one.
    first_folio = host.allocator.allocations

    def fail_when(site: str, ordinal: int) -> bool:
        if site == SITE_PAGE:
            host.allocator.fail_when = None
            gmem.get_pfn(80)
        return ordinal == first_folio

    host.allocator.fail_when = fail_when
    pfn, level = gmem.get_pfn(77)
    base = gmem.get_pfn(0)[0]
    assert (pfn, level) == (base + 77, LEVEL_4K)
    assert gmem.get_pfn(77) == (base + 77, LEVEL_2M)
    gmem.punch_range(0)
    assert host.allocator.snapshot() == before


def test_a_page_comes_while_a_folio_is_allocated() -> None:
    host = booted("merged", 48)
    before = host.allocator.snapshot()
    gmem = gmem_of(host, True)

    def other() -> None:
        host.allocator.fail_when = lambda site, _ordinal: site == SITE_FOLIO
        gmem.get_pfn(80)
        host.allocator.fail_when = None

    meanwhile(host, SITE_FOLIO, other)
    assert gmem.get_pfn(77)[1] == LEVEL_4K
    assert len(dict(gmem.pages.non_zero())) == 2
    gmem.punch_range(0)
    assert host.allocator.snapshot() == before
