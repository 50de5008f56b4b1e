"""Memory holes of a TDMR, against counting page by page."""

from hypothesis import given
from hypothesis import strategies as st

from dpamt.host.core.reserved_areas import memory_holes

TOP = 60


@given(
    st.sets(st.integers(0, TOP)),
    st.integers(0, TOP),
    st.integers(1, TOP),
)
def test_holes_are_what_no_range_covers(cuts: set[int], base: int, size: int) -> None:
    edges = sorted(cuts)
    memory = list(zip(edges[::2], edges[1::2], strict=False))
    end = base + size
    covered = {unit for start, stop in memory for unit in range(start, stop)}
    holes = memory_holes(base, end, memory)
    assert [unit for start, stop in holes for unit in range(start, stop)] == [
        unit for unit in range(base, end) if unit not in covered
    ]
    assert all(start < stop for start, stop in holes)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=10))
def test_touching_ranges_leave_no_hole(sizes: list[int]) -> None:
    memory, position = [], 0
    for size in sizes:
        memory.append((position, position + size))
        position += size
    assert memory_holes(0, position, memory) == []
