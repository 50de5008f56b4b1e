"""Items in the order of time, and a watch on the clocks.

Tracers write the events of each CPU in order, and most merge the CPUs.  bpftrace empties one CPU's
buffer after the other, so its lines go back and forth by as much as a buffer holds.  A window of
items is kept and the earliest go out first; what comes later than that is counted as late.
"""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from dpamt.trace.recording.model import Health, Item, Lost, seconds

WINDOW: Final = 1 << 16
"""Items kept."""
GAP: Final = 3_600_000_000_000
"""Nanoseconds without an event on any CPU that a report names."""
_END: Final = attrgetter("end")


def watched(batches: Iterable[list[Item]], health: Health) -> Iterator[list[Item]]:
    """Items in their order; long gaps, the first and the last time are noted."""
    latest = 0
    for batch in batches:
        for item in batch:
            time = item.end
            if time > latest:
                if latest and time - latest > GAP:
                    health.gaps.add(f"from {seconds(latest)} to {seconds(time)}")
                latest = time
        if batch:
            first = min(map(_END, batch))
            health.first = first if health.first is None else min(first, health.first)
            health.last = latest
        yield batch


def ordered(
    batches: Iterable[list[Item]], health: Health, window: int = WINDOW
) -> Iterator[list[Item]]:
    """The same with the earliest of a window first; what is late is counted and goes out at once.

    Sorted is when a window and a quarter are full, however the stream came in pieces.
    """
    held: list[Item] = []
    full = window + window // 4 + 1
    out = 0
    for batch in batches:
        at = 0
        while at < len(batch):
            more = batch[at : at + full - len(held)]
            at += len(more)
            if min(map(_END, more)) < out:
                health.late += sum(item.end < out and not isinstance(item, Lost) for item in more)
            held += more
            if len(held) < full:
                continue
            held.sort(key=_END)
            ready, held = held[:-window], held[-window:]
            out = ready[-1].end
            yield ready
    held.sort(key=_END)
    yield held
