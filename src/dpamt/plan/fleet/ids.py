"""Identifiers of VMs that come twice in a file of lives: counted, and the first one found."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_COMPARED: Final = 1 << 24
"""Identifiers held, 8 bytes each."""


class Identifiers:
    """Hashes of the identifiers seen so far.

    Two rows of one identifier are two VMs: a file of lives may list one that was stopped and
    started again.  It may as well be a file that was joined from two exports, so it is reported.
    """

    def __init__(self) -> None:
        self._hashes: list[NDArray[Any]] = []
        self._first_rows: list[int] = []
        self._held = 0
        self._left_out = 0

    def add(self, vmids: pa.Array, first_row: int) -> None:
        """The identifiers of a batch, whose first row has this number in the file; empty ones say
        nothing.
        """
        room = MOST_COMPARED - self._held
        self._left_out += max(0, len(vmids) - room)
        said = vmids.slice(0, room).to_pylist()
        hashes = [
            hash(one) if one else hash(("empty", row)) for row, one in enumerate(said, first_row)
        ]
        self._held += len(hashes)
        self._hashes.append(np.array(hashes, np.int64))
        self._first_rows.append(first_row)

    def notes(self, what: str) -> list[str]:
        """What to tell; ``what`` is how rows are counted, "line" or "row"."""
        told = []
        if self._held:
            hashes = np.concatenate(self._hashes)
            ordered = np.sort(hashes)
            again = ordered[1:][ordered[1:] == ordered[:-1]]
            if len(again):
                places = np.flatnonzero(np.isin(hashes, again))
                seen: dict[int, int] = {}
                for place in places.tolist():
                    one = int(hashes[place])
                    if one in seen:
                        break
                    seen[one] = place
                later, earlier = self._row(place), self._row(seen[one])
                told.append(
                    f"rows that repeat the identifier of an earlier row: {len(again):,} (first: "
                    f"{what} {later}, as {what} {earlier}); each is counted as a VM of its own"
                )
        if self._left_out:
            told.append(
                f"identifiers were compared in the first {MOST_COMPARED:,} rows only, of "
                f"{MOST_COMPARED + self._left_out:,}"
            )
        return told

    def _row(self, place: int) -> int:
        for first, hashes in zip(self._first_rows, self._hashes, strict=True):
            if place < len(hashes):
                return first + place
            place -= len(hashes)
        raise IndexError(place)
