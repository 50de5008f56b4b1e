"""Shards in this process, for tests: what they are given goes through pickle; they can be lost."""

import pickle
from collections.abc import Sequence
from typing import Any

from dpamt.verify.cluster.team import ShardLostError
from dpamt.verify.cluster.worker import Shard


class Here:
    """A team of shards in this process.

    ``lost_at``: calls of single shards, counted from 0, in which the shard is lost.
    """

    def __init__(self, count: int, lost_at: Sequence[int] = ()) -> None:
        self.count = count
        self.shards: list[Shard | None] = [Shard(index, count) for index in range(count)]
        self.calls = 0
        self._lost_at = set(lost_at)

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [self._one(n, method, each) for n, each in enumerate(arguments)]

    def relay(
        self, method: str, arguments: Sequence[tuple[Any, ...]], *then: str
    ) -> list[list[Any]]:
        reports = []
        given = list(arguments)
        for name in (method, *then)[:-1]:
            made = self.call(name, given)
            assert all(len(each) == 1 + self.count for each in made)
            reports.append([each[0] for each in made])
            given = [tuple(each[1 + n] for each in made) for n in range(self.count)]
        return [*reports, self.call((method, *then)[-1], given)]

    def lost(self) -> list[str]:
        return [f"shard {n + 1}" for n, shard in enumerate(self.shards) if shard is None]

    def replace(self) -> None:
        for n, shard in enumerate(self.shards):
            if shard is None:
                self.shards[n] = Shard(n, self.count)

    def close(self) -> None:
        for shard in self.shards:
            if shard is not None:
                shard.close()

    def _one(self, n: int, method: str, arguments: tuple[Any, ...]) -> Any:
        self.calls += 1
        shard = self.shards[n]
        if self.calls - 1 in self._lost_at and shard is not None:
            shard.close()
            self.shards[n] = shard = None
        if shard is None:
            raise ShardLostError
        said = getattr(shard, method)(*pickle.loads(pickle.dumps(arguments)))
        return pickle.loads(pickle.dumps(said))
