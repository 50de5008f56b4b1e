"""Free max-order blocks as sorted, disjoint, merged ranges: an idle terabyte is one entry."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class BlockRanges:
    """A set of block numbers kept as ranges (start, end exclusive)."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def range_end(self, block: int) -> int:
        """One past the last block of the range that holds ``block``; 0 when none does."""
        index = bisect_right(self._starts, block) - 1
        if index < 0 or self._ends[index] <= block:
            return 0
        return self._ends[index]

    def add(self, start: int, end: int) -> None:
        """Add [start, end), of which no block may be present; neighbours merge."""
        starts, ends = self._starts, self._ends
        index = bisect_left(starts, start)
        joins_left = index > 0 and ends[index - 1] == start
        joins_right = index < len(starts) and starts[index] == end
        if joins_left and joins_right:
            ends[index - 1] = ends[index]
            del starts[index], ends[index]
        elif joins_left:
            ends[index - 1] = end
        elif joins_right:
            starts[index] = start
        else:
            starts.insert(index, start)
            ends.insert(index, end)

    def remove(self, start: int, end: int) -> None:
        """Remove [start, end), which must lie inside one range."""
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, start) - 1
        low, high = starts[index], ends[index]
        if low == start and high == end:
            del starts[index], ends[index]
        elif low == start:
            starts[index] = end
        elif high == end:
            ends[index] = start
        else:
            ends[index] = start
            starts.insert(index + 1, end)
            ends.insert(index + 1, high)

    def pop_first(self) -> int:
        """Remove and return the lowest block; there must be one."""
        block = self._starts[0]
        self.remove(block, block + 1)
        return block
