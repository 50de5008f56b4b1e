"""Copies of all shards' states at the end of a depth, on the coordinator's disk.

States are appended, and where they lead is written once, so a copy is what came since the last one.
It is read back in full when a shard is lost: the search then continues from that depth.
"""

import os
import pickle
from dataclasses import fields, replace
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, Self

from dpamt.verify.cluster.learned import Learned
from dpamt.verify.cluster.team import Team
from dpamt.verify.cluster.worker import Piece, Rest
from dpamt.verify.explore.judging import Found

_PIECE: Final = 1 << 18
"""States that travel at once."""


class Copies:
    """The copies of one search, in files of a temporary folder, which goes at the end."""

    def __init__(self, team: Team, found: Found) -> None:
        self._team = team
        self._folder = TemporaryDirectory(prefix="dpamt-shards-")
        self._files: list[BinaryIO] = []
        self._ends = [0] * team.count
        """By shard: bytes of its file that belong to whole copies."""
        self._rests: list[list[Rest]] = [[] for _ in range(team.count)]
        self._found = replace(found, faults=dict(found.faults))
        self.made = 0
        """How many copies were made."""
        self.begins: list[list[int]] = []
        """By depth and shard: the first state, when the last copy was made."""

    def __enter__(self) -> Self:
        for n in range(self._team.count):
            path = os.path.join(self._folder.name, f"shard-{n}")
            self._files.append(open(path, "w+b"))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
        self._folder.cleanup()

    def make(self, found: Found, begins: list[list[int]]) -> None:
        """Add what came since the last copy.  Raises OSError where it does not fit on the disk."""
        nothing: list[tuple[int]] = [(_PIECE,)] * self._team.count
        for n, file in enumerate(self._files):
            file.seek(self._ends[n])
            file.truncate()
        while any(pieces := self._team.call("copy", nothing)):
            for file, piece in zip(self._files, pieces, strict=True):
                if piece is not None:
                    pickle.dump(tuple(piece), file, pickle.HIGHEST_PROTOCOL)
        rests: list[Rest] = self._team.call("rest", [()] * self._team.count)
        for n, file in enumerate(self._files):
            file.flush()
            self._ends[n] = file.tell()
            self._rests[n].append(rests[n])
        self._found = replace(found, faults=dict(found.faults))
        self.begins = [list(begin) for begin in begins]
        self.made += 1

    def load(self, learned: Learned, watched: bool) -> int:
        """Give all shards their states of the last copy: how many wait; 0: there is no copy."""
        team = self._team
        if not self.made:
            return 0
        team.call("begin", [(learned, b"", watched)] * team.count)
        for file in self._files:
            file.seek(0)
        while True:
            pieces = [self._read(n) for n in range(team.count)]
            if not any(pieces):
                break
            team.call("load", [(piece,) for piece in pieces])
        team.call("go_on", [(learned.bits, rests) for rests in self._rests])
        return sum(rests[-1].states - rests[-1].expanded for rests in self._rests)

    def _read(self, shard: int) -> Piece | None:
        file = self._files[shard]
        if file.tell() >= self._ends[shard]:
            return None
        return Piece(*pickle.load(file))  # of a file that this process wrote

    def put_back(self, found: Found) -> None:
        """Forget what was found after the last copy."""
        for each in fields(Found):
            setattr(found, each.name, getattr(self._found, each.name))
        found.faults = dict(self._found.faults)
