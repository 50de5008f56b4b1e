"""Numbers over time in bounded memory: when there are too many points, every other one goes."""

from typing import Final

MOST: Final = 2048


class Series:
    """Points (time, values) at least ``step`` nanoseconds apart."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.points: list[tuple[int, ...]] = []
        self._step = 0
        self._next = 0
        self._last: tuple[int, ...] | None = None

    def add(self, time: int, *values: int) -> None:
        """The numbers from this time on."""
        self._last = (time, *values)
        if time < self._next:
            return
        self.points.append(self._last)
        self._next = time + self._step
        if len(self.points) >= MOST:
            self.points = self.points[::2]
            span = self.points[-1][0] - self.points[0][0]
            self._step = max(2 * self._step, span * 2 // MOST, 1)
            self._next = time + self._step

    def finish(self) -> list[tuple[int, ...]]:
        """All points, the very last one with them."""
        if self._last is not None and (not self.points or self.points[-1] != self._last):
            return [*self.points, self._last]
        return list(self.points)
