from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dpamt.platform.block_ranges import BlockRanges


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8))))
def test_ranges_hold_the_same_blocks_as_a_set(operations: list[tuple[int, int]]) -> None:
    ranges, oracle = BlockRanges(), set[int]()
    for start, size in operations:
        wanted = set(range(start, start + size))
        if not wanted & oracle:
            ranges.add(start, start + size)
            oracle |= wanted
        elif wanted <= oracle:
            ranges.remove(start, start + size)
            oracle -= wanted
        elif oracle:
            assert ranges.pop_first() == min(oracle)
            oracle.remove(min(oracle))
        pieces = list(ranges)
        assert {block for low, high in pieces for block in range(low, high)} == oracle
        assert all(a[1] < b[0] for a, b in pairwise(pieces))
        assert bool(ranges) == bool(oracle)
        for block in range(50):
            assert (ranges.range_end(block) > block) == (block in oracle)
