"""Shards on the machines of a Ray cluster (extra ``ray``): the same shards, called as actors.

Every machine needs the same dpamt and Python, and a C compiler; a design's file is read here only.
What shards hand to each other goes from machine to machine through Ray, not through this process.
"""

from collections.abc import Sequence
from itertools import chain
from time import sleep
from types import TracebackType
from typing import Any, Final, Self

from dpamt.ray_cluster import connect
from dpamt.verify.cluster.team import ShardLostError

_TRIES: Final = 10
"""Seconds in which a shard turns out to be lost, after a call that failed."""


class RayTeam:
    """``count`` shards on the cluster at ``address`` (``local``: one that is started here)."""

    def __init__(self, address: str, count: int) -> None:
        ray = connect(address, count or None)
        from dpamt.verify.cluster.worker import Shard

        self._ray = ray
        self.count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actor: Any = ray.remote(Shard).options(scheduling_strategy="SPREAD")
        self._shards = [self._actor.remote(index, self.count) for index in range(self.count)]
        self._lost: list[int] = []
        self.places: list[tuple[str, int]] = self.call("where", [()] * self.count)
        """Host and process of each shard."""

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard; raises what a shard raises."""
        return self._got(
            [
                getattr(shard, method).remote(*each)
                for shard, each in zip(self._shards, arguments, strict=True)
            ]
        )

    def relay(
        self, method: str, arguments: Sequence[tuple[Any, ...]], *then: str
    ) -> list[list[Any]]:
        """Call that method of every shard, then the others with what the shards hand on."""
        pending = []
        given = list(arguments)
        for name in (method, *then)[:-1]:
            made = [
                getattr(shard, name).options(num_returns=self.count + 1).remote(*each)
                for shard, each in zip(self._shards, given, strict=True)
            ]
            pending.append([each[0] for each in made])
            given = [tuple(each[1 + n] for each in made) for n in range(self.count)]
        last = (method, *then)[-1]
        pending.append(
            [
                getattr(shard, last).remote(*each)
                for shard, each in zip(self._shards, given, strict=True)
            ]
        )
        reports = self._got(list(chain.from_iterable(pending)))
        return [reports[n : n + self.count] for n in range(0, len(reports), self.count)]

    def lost(self) -> list[str]:
        """Where the shards that do not answer any more were."""
        for _ in range(_TRIES):  # what a machine had may be gone before its shards are
            self._lost = [n for n, shard in enumerate(self._shards) if not self._is_there(shard)]
            if self._lost:
                break
            sleep(1)
        return [
            f"shard {index + 1} of {self.count} ({host}, process {process})"
            for index, (host, process) in enumerate(self.places)
            if index in self._lost
        ]

    def replace(self) -> None:
        """Make a new shard for each of them, on any machine of the cluster."""
        for index in self._lost:
            self._shards[index] = self._actor.remote(index, self.count)
        self.places = self.call("where", [()] * self.count)

    def _is_there(self, shard: Any) -> bool:
        try:
            self._ray.get(shard.where.remote())
        except self._ray.exceptions.RayError:
            return False
        return True

    def _got(self, pending: list[Any]) -> list[Any]:
        """The results.  Raises what a shard raised, or ShardLostError."""
        errors = self._ray.exceptions
        try:
            found: list[Any] = self._ray.get(pending)
        except errors.RayTaskError as error:
            if isinstance(error.cause, errors.RayError):
                raise ShardLostError from None
            raise error.cause from None
        except errors.RayError:
            raise ShardLostError from None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ray.shutdown()
