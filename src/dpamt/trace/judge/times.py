"""How long things take: percentiles from buckets, and what is slower than its peers."""

from heapq import heappush, heapreplace
from typing import Final

from dpamt.trace.recording.model import Call, seconds, shown

_SUB_BITS: Final = 4
_SUBS: Final = 1 << _SUB_BITS
SLOW_FACTOR: Final = 8
"""Slower than this many medians of its leaf is slow."""
PEERS: Final = 100
"""Calls of a leaf before any of them can be called slow."""
_KEPT: Final = 10
_MEDIAN_AGAIN: Final = 256


class Histogram:
    """Nanoseconds in buckets of 1/16 of a power of two: percentiles are right within 6.25 %."""

    __slots__ = ("_buckets", "count", "largest", "sum")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.sum = 0
        self.largest = 0

    def add(self, value: int) -> None:
        """One duration, 0 or more."""
        bits = value.bit_length() - 1 - _SUB_BITS
        key = value if bits <= 0 else (bits << _SUB_BITS) + (value >> bits)
        buckets = self._buckets
        buckets[key] = buckets.get(key, 0) + 1
        self.count += 1
        self.sum += value
        if value > self.largest:
            self.largest = value

    def percentile(self, percent: float) -> int:
        """The upper end of the bucket that this share of the durations lies in or below."""
        wanted = percent / 100 * self.count
        seen = 0
        for key in sorted(self._buckets):
            seen += self._buckets[key]
            if seen >= wanted:
                return min(_upper(key), self.largest)
        return self.largest

    def above(self, limit: int) -> int:
        """Durations whose whole bucket is above ``limit``."""
        return sum(n for key, n in self._buckets.items() if _lower(key) > limit)

    def buckets(self) -> list[tuple[int, int, int]]:
        """(lowest, highest, count) of each bucket, ascending."""
        return [(_lower(key), _upper(key), self._buckets[key]) for key in sorted(self._buckets)]


def _lower(key: int) -> int:
    if key < 2 * _SUBS:
        return key
    bits = (key >> _SUB_BITS) - 1
    return ((key & _SUBS - 1) | _SUBS) << bits


def _upper(key: int) -> int:
    if key < 2 * _SUBS:
        return key
    bits = (key >> _SUB_BITS) - 1
    return (((key & _SUBS - 1) | _SUBS) + 1 << bits) - 1


class Slow:
    """The slowest calls in medians of their leaf, as they come."""

    def __init__(self) -> None:
        self.by_leaf: dict[int, Histogram] = {}
        self._median: dict[int, int] = {}
        self._worst: list[tuple[float, int, str]] = []
        self._order = 0

    def add(self, call: Call) -> None:
        """One call with a duration; one that failed counts apart from those that did not."""
        if call.start is None:
            return
        spent = call.end - call.start
        leaf = call.leaf if not call.status else -1 - call.leaf
        histogram = self.by_leaf.get(leaf)
        if histogram is None:
            histogram = self.by_leaf[leaf] = Histogram()
        histogram.add(spent)
        if histogram.count < PEERS:
            return
        if not histogram.count % _MEDIAN_AGAIN or leaf not in self._median:
            self._median[leaf] = max(histogram.percentile(50), 1)
        median = self._median[leaf]
        if spent > SLOW_FACTOR * median:
            self._keep(spent / median, call, spent, median)

    def _keep(self, ratio: float, call: Call, spent: int, median: int) -> None:
        if len(self._worst) >= _KEPT and ratio <= self._worst[0][0]:
            return
        text = (
            f"{call.name} at {seconds(call.end)} on CPU {call.cpu} took {spent / 1000:.1f} us, "
            f"{ratio:.0f} times its median of {median / 1000:.1f} us"
            + (f" ({shown(call.comm)}-{call.pid})" if call.comm else "")
        )
        self._order += 1
        row = (ratio, self._order, text)
        if len(self._worst) < _KEPT:
            heappush(self._worst, row)
        else:
            heapreplace(self._worst, row)

    def worst(self) -> list[str]:
        """Sentences, the slowest first."""
        return [text for _ratio, _order, text in sorted(self._worst, reverse=True)]

    def slow_calls(self) -> int:
        """Calls slower than :data:`SLOW_FACTOR` medians of all calls of their leaf."""
        return sum(
            histogram.above(SLOW_FACTOR * max(histogram.percentile(50), 1))
            for histogram in self.by_leaf.values()
            if histogram.count >= PEERS
        )
