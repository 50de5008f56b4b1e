"""Shards on the machines of a Ray cluster (extra ``ray``): the same shards, called as actors.

Every machine needs the same dpamt and Python, and a C compiler; a design's file is read here only.
What shards hand to each other goes from machine to machine through Ray, not through this process.
"""

import os
import socket
from collections.abc import Sequence
from importlib import import_module
from itertools import chain
from time import sleep
from types import TracebackType
from typing import Any, Final, Self

from dpamt.errors import InputError
from dpamt.verify.cluster.team import ShardLostError

_CONNECT_SECONDS: Final = 5.0
_TRIES: Final = 10
"""Seconds in which a shard turns out to be lost, after a call that failed."""
_QUIET: Final = {
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed",
}
"""Ray's environment.  The search says in one line that a shard is lost; Ray's own lines about it
would stand among the results.  Source: Ray's documentation, "Configuring logging"."""


def _answers(address: str) -> None:
    """Refuse HOST:PORT where nobody answers: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--ray {address}: {error}; expected a cluster") from None


class RayTeam:
    """``count`` shards on the cluster at ``address`` (``local``: one that is started here)."""

    def __init__(self, address: str, count: int) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise InputError("--ray: Ray is not installed; expected dpamt[ray]") from None
        from dpamt.verify.cluster.worker import Shard

        self._ray = ray
        _answers(address)
        try:
            ray.init(
                address=address,
                num_cpus=(count or None) if address == "local" else None,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"--ray {address}: {said}; expected a cluster") from None
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
