from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dpamt.platform.buddy import MAX_PAGE_ORDER, BuddyZone, aligned_chunks, merged


@given(st.integers(0, 1 << 40), st.integers(0, 5000))
def test_aligned_chunks_cover_exactly_and_cannot_be_joined(start: int, size: int) -> None:
    position = start
    chunks = list(aligned_chunks(start, start + size))
    for pfn, order in chunks:
        assert pfn == position
        assert pfn % (1 << order) == 0
        assert 0 <= order <= MAX_PAGE_ORDER
        position += 1 << order
    assert position == start + size
    taken = set(chunks)
    for pfn, order in chunks:
        assert order == MAX_PAGE_ORDER or (pfn ^ (1 << order), order) not in taken


@given(st.sets(st.integers(0, 200)))
def test_merged_ranges_are_the_same_pages(pages: set[int]) -> None:
    ranges = merged((page, page + 1) for page in pages)
    assert {page for start, end in ranges for page in range(start, end)} == pages
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


@given(kernel=st.integers(0, 511))
def test_a_spoiled_region_is_nine_chunks_of_all_orders(kernel: int) -> None:
    zone = BuddyZone(0, [(0x800, 0xA00)], [0x800 + kernel])
    free = set(range(0x800, 0xA00)) - {0x800 + kernel}
    assert zone.free == 511
    assert {pfn for pfn in range(0x700, 0xB00) if zone.holds(pfn)} == free
    for order in reversed(range(9)):
        assert zone.take(order + 1) is None
        chunk = zone.take(order)
        assert chunk is not None
        assert chunk[1] == order
        taken = set(range(chunk[0], chunk[0] + (1 << order)))
        assert taken <= free
        free -= taken
        assert zone.free_ranges() == merged((pfn, pfn + 1) for pfn in free)
    assert zone.free == 0


@given(st.data())
def test_carved_runs_come_back_whole(data: st.DataObject) -> None:
    kernel = data.draw(st.sets(st.integers(1, 5), max_size=4))
    spoiling = [region * 512 + data.draw(st.integers(0, 511)) for region in sorted(kernel)]
    zone = BuddyZone(0, [(100, 512 * 6 + 77)], spoiling)
    before = zone.free_ranges()
    held = []
    for _ in range(data.draw(st.integers(1, 6))):
        ranges = zone.free_ranges()
        if not ranges:
            break
        start, end = data.draw(st.sampled_from(ranges))
        low = data.draw(st.integers(start, end - 1))
        high = data.draw(st.integers(low + 1, end))
        zone.carve(low, high)
        held.append((low, high))
        assert zone.free_ranges() == merged(
            piece
            for a, b in ranges
            for piece in ([(a, b)] if (a, b) != (start, end) else [(a, low), (high, b)])
            if piece[0] < piece[1]
        )
    for low, high in data.draw(st.permutations(held)):
        zone.release(low, high)
    assert zone.free_ranges() == before
    assert zone.free == sum(end - start for start, end in before)


def test_refill_takes_the_smallest_chunk_and_no_more_than_the_limit() -> None:
    zone = BuddyZone(0, [(0x403, 0xC00)])
    assert zone.take(0, 6) == (0x403, 0)
    assert zone.take(0, 6) == (0x404, 2)
    big = zone.take(3, 5)
    assert big == (0x408, 3)
    for expected in (0x410, 0x420, 0x440):
        chunk = zone.take(0, 6)
        assert chunk is not None
        assert chunk[0] == expected
        assert chunk[1] == min((expected & -expected).bit_length() - 1, 6)
    chunk = zone.take(0, 6)
    assert chunk == (0x480, 6)


@given(st.lists(st.integers(0, MAX_PAGE_ORDER), max_size=40))
def test_what_a_zone_shows_of_itself_is_all_that_is_free(orders: list[int]) -> None:
    """Chunks and whole blocks, as copies: nobody changes the zone through them."""
    zone = BuddyZone(0, [(0x803, 0x4000)], [])
    for order in orders:
        zone.take(order)
    chunks, blocks = zone.chunks(), zone.whole_blocks()
    pages = [
        pfn + slot
        for order, starts in enumerate(chunks)
        for pfn in starts
        for slot in range(1 << order)
    ]
    size = 1 << MAX_PAGE_ORDER
    pages += [pfn for first, end in blocks for pfn in range(first * size, end * size)]
    assert len(pages) == len(set(pages)) == zone.free
    assert all(zone.holds(pfn) for pfn in pages)
    for starts in chunks:
        starts.clear()
    blocks.clear()
    assert sum(end - start for start, end in zone.free_ranges()) == len(pages)
