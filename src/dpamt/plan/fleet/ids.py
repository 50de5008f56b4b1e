"""Identifiers of VMs that come twice in a file of lives: counted, and the first one found."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_COMPARED: Final = 20_000_000
"""Identifiers held: 8 bytes each."""


class Identifiers:
    """Hashes of the identifiers seen so far.

    Two rows of one identifier are two VMs: a file of lives may list one that was stopped and
    started again.  It may as well be a file that was joined from two exports, hence it is told.
    """

    def __init__(self) -> None:
        self._hashes: list[NDArray[Any]] = []
        self._rows: list[NDArray[Any]] = []
        self._held = 0
        self._left_out = 0

    def add(self, vmids: pa.Array, first_row: int) -> None:
        """The identifiers of a batch, whose first row has this number in the file; empty ones say
        nothing.
        """
        said = [(hash(one), row) for row, one in enumerate(vmids.to_pylist(), first_row) if one]
        room = MOST_COMPARED - self._held
        self._left_out += max(0, len(said) - room)
        said = said[:room]
        self._held += len(said)
        self._hashes.append(np.array([one for one, _ in said], np.int64))
        self._rows.append(np.array([row for _, row in said], np.int64))

    def notes(self, what: str) -> list[str]:
        """What to tell; ``what`` is how rows are counted, "line" or "row"."""
        if not self._held:
            return []
        hashes, rows = np.concatenate(self._hashes), np.concatenate(self._rows)
        order = np.lexsort((rows, hashes))
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        told = []
        if len(again):
            first = again[np.argmin(rows[order][again + 1])]
            earlier, later = rows[order][first], rows[order][first + 1]
            told.append(
                f"rows that repeat the identifier of an earlier row: {len(again):,} (first: {what} "
                f"{later}, as {what} {earlier}); each is counted as a VM of its own"
            )
        if self._left_out:
            told.append(
                f"identifiers were compared in the first {MOST_COMPARED:,} rows only, of "
                f"{MOST_COMPARED + self._left_out:,}"
            )
        return told
