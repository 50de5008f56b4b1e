"""Shards on the machines of a Ray cluster (extra ``ray``): the same shards, called as actors.

Every machine needs the same dpamt and Python, and the design's file under the same path.
"""

import socket
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Self

from dpamt.errors import InputError, ModelError

_CONNECT_SECONDS: Final = 5.0


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

    def __init__(self, address: str, count: int, asked: dict[str, Any]) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise InputError("--ray: Ray is not installed; expected dpamt[ray]") from None
        from dpamt.verify.cluster.worker import Shard

        self._ray = ray
        _answers(address)
        try:
            ray.init(
                address=None if address == "local" else address,
                num_cpus=(count or None) if address == "local" else None,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            told = str(error).splitlines()[0]
            raise InputError(f"--ray {address}: {told}; expected a cluster") from None
        self.count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        actor: Any = ray.remote(Shard)
        self._shards = [actor.remote(index, self.count, asked) for index in range(self.count)]

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard; raises what a shard raises."""
        pending = [
            getattr(shard, method).remote(*each)
            for shard, each in zip(self._shards, arguments, strict=True)
        ]
        try:
            found: list[Any] = self._ray.get(pending)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise ModelError(f"a shard: {str(error).splitlines()[0]}") from None
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
