"""How long things take: percentiles from buckets, and what is slower than its peers."""

from collections import Counter
from heapq import heappush, heapreplace
from typing import Final

from dpamt.trace.recording.model import Call, PamtOp, seconds, shown

_SUB_BITS: Final = 4
_SUBS: Final = 1 << _SUB_BITS
SLOW_FACTOR: Final = 8
"""Slower than this many medians of its leaf is slow."""
PEERS: Final = 100
"""Calls of a leaf before any of them can be called slow."""
_KEPT: Final = 10
_MEDIAN_AGAIN: Final = 256
_FRESH: Final = 4096
_NO_LIMIT: Final = 1 << 64


class Histogram:
    """Nanoseconds in buckets of 1/16 of a power of two: percentiles are right within 6.25 %.

    Durations are put into their buckets some thousand at a time.
    """

    __slots__ = ("_buckets", "_count", "_largest", "_sum", "fresh")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = self._sum = self._largest = 0
        self.fresh: list[int] = []
        """Those that are in no bucket yet."""

    def add(self, value: int) -> None:
        """One duration, 0 or more."""
        self.fresh.append(value)
        if len(self.fresh) >= _FRESH:
            self.settle()

    def settle(self) -> None:
        """Everything into its bucket."""
        fresh = self.fresh
        if not fresh:
            return
        self._count += len(fresh)
        self._sum += sum(fresh)
        self._largest = max(self._largest, *fresh)
        buckets = self._buckets
        for value, number in Counter(fresh).items():
            bits = value.bit_length() - 1 - _SUB_BITS
            key = value if bits <= 0 else (bits << _SUB_BITS) + (value >> bits)
            buckets[key] = buckets.get(key, 0) + number
        fresh.clear()

    @property
    def count(self) -> int:
        """How many."""
        return self._count + len(self.fresh)

    @property
    def sum(self) -> int:
        """All together."""
        self.settle()
        return self._sum

    @property
    def largest(self) -> int:
        """The longest."""
        self.settle()
        return self._largest

    def percentile(self, percent: float) -> int:
        """The upper end of the bucket that this share of the durations lies in or below."""
        self.settle()
        wanted = percent / 100 * self._count
        seen = 0
        for key in sorted(self._buckets):
            seen += self._buckets[key]
            if seen >= wanted:
                return min(_upper(key), self._largest)
        return self._largest

    def above(self, limit: int) -> int:
        """Durations whose whole bucket is above ``limit``."""
        self.settle()
        return sum(n for key, n in self._buckets.items() if _lower(key) > limit)

    def buckets(self) -> list[tuple[int, int, int]]:
        """(lowest, highest, count) of each bucket, ascending."""
        self.settle()
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


class _Peers:
    """The calls of one leaf: how long they took, and what is slow among them so far."""

    __slots__ = ("due", "histogram", "limit", "median")

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.median = 1
        self.limit = _NO_LIMIT
        self.due = PEERS
        """Calls in no bucket yet, at which the median is looked for again."""

    def look(self) -> None:
        """The median of all so far."""
        histogram = self.histogram
        self.median = max(histogram.percentile(50), 1)
        self.limit = SLOW_FACTOR * self.median
        self.due = min(max(histogram.count // 4, _MEDIAN_AGAIN), _FRESH)


class Slow:
    """The slowest calls in medians of their leaf, and gets and puts in medians of their kind, as
    they come."""

    def __init__(self) -> None:
        self._peers: dict[int, _Peers] = {}
        self._kinds: dict[str, _Peers] = {}
        self._worst: list[tuple[float, int, str]] = []
        self._order = 0

    @property
    def by_leaf(self) -> dict[int, Histogram]:
        """Durations by leaf; -1 - leaf has those of calls that did not succeed."""
        return {leaf: peers.histogram for leaf, peers in self._peers.items()}

    @property
    def by_kind(self) -> dict[str, Histogram]:
        """Durations of gets and puts by kind."""
        return {kind: peers.histogram for kind, peers in self._kinds.items()}

    def add(self, call: Call, number: int) -> None:
        """One call of this leaf; one that failed counts apart from those that did not."""
        start = call.start
        if start is None:
            return
        leaf = -1 - number if call.status else number
        peers = self._peers.get(leaf)
        if peers is None:
            peers = self._peers[leaf] = _Peers()
        fresh, spent = peers.histogram.fresh, call.end - start
        fresh.append(spent)
        if len(fresh) >= peers.due:
            peers.look()
        if spent > peers.limit:
            self._keep(call.name, call, spent, peers.median)

    def add_op(self, kind: str, op: PamtOp, spent: int) -> None:
        """One get or put of this kind."""
        peers = self._kinds.get(kind)
        if peers is None:
            peers = self._kinds[kind] = _Peers()
        peers.histogram.fresh.append(spent)
        if len(peers.histogram.fresh) >= peers.due:
            peers.look()
        if spent > peers.limit:
            self._keep(f"tdx_pamt_{kind}", op, spent, peers.median)

    def _keep(self, name: str, item: Call | PamtOp, spent: int, median: int) -> None:
        ratio = spent / median
        if len(self._worst) >= _KEPT and ratio <= self._worst[0][0]:
            return
        text = (
            f"{name} at {seconds(item.end)} on CPU {item.cpu} took {spent / 1000:.1f} us, "
            f"{ratio:.0f} times its median of {median / 1000:.1f} us"
            + (f" ({shown(item.comm)}-{item.pid})" if item.comm else "")
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
        """Calls, gets and puts slower than :data:`SLOW_FACTOR` medians of their peers."""
        return sum(
            histogram.above(SLOW_FACTOR * max(histogram.percentile(50), 1))
            for histogram in (*self.by_leaf.values(), *self.by_kind.values())
            if histogram.count >= PEERS
        )
