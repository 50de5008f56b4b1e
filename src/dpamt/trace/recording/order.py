"""Items in the order of time, and a watch on the clocks.

Tracers write the events of each CPU in order, and most merge the CPUs.  bpftrace empties one CPU's
buffer after the other, so its lines go back and forth by as much as a buffer holds.  A window of
items is kept and the earliest goes out first; what comes later than that is counted as late.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

from dpamt.trace.recording.model import Health, Item, Lost, seconds

WINDOW: Final = 1 << 16
"""Items kept."""
GAP: Final = 3_600_000_000_000
"""Nanoseconds without an event on any CPU that a report names."""


def watched(items: Iterator[tuple[int, int, Item]], health: Health) -> Iterator[Item]:
    """Items in their order; long gaps, the first and the last time are noted."""
    latest = 0
    for time, _cpu, item in items:
        if latest and time - latest > GAP:
            health.gaps.add(f"from {seconds(latest)} to {seconds(time)}")
        if time > latest:
            latest = time
        if health.first is None or time < health.first:
            health.first = time
        health.last = latest
        yield item


def ordered(
    items: Iterator[tuple[int, int, Item]], health: Health, window: int = WINDOW
) -> Iterator[tuple[int, int, Item]]:
    """The same with the earliest of a window first; what is late is counted and goes out at its
    own time."""
    heap: list[tuple[int, int, int, Item]] = []
    out = 0
    for sequence, (time, cpu, item) in enumerate(items):
        if time < out and not isinstance(item, Lost):
            health.late += 1
        heappush(heap, (time, sequence, cpu, item))
        if len(heap) > window:
            out, _sequence, cpu, item = heappop(heap)
            yield out, cpu, item
    while heap:
        time, _sequence, cpu, item = heappop(heap)
        yield time, cpu, item
