"""How the shards of a search are called, wherever they run, and what it means to lose one."""

from collections.abc import Sequence
from typing import Any, Protocol


class ShardLostError(Exception):
    """A shard does not answer any more, and its states are gone."""


class Team(Protocol):
    """The shards; any call raises ShardLostError where one of them is lost."""

    count: int

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard, each with its own arguments; their results."""

    def relay(
        self, method: str, arguments: Sequence[tuple[Any, ...]], *then: str
    ) -> list[list[Any]]:
        """Call that method of every shard, then the others, and hand things on between shards.

        Each method but the last returns a report and, for each shard, what the next method of that
        shard is given; the last returns a report.  The reports, by method and shard.
        """

    def lost(self) -> list[str]:
        """Where the shards that do not answer any more were."""

    def replace(self) -> None:
        """Make a new shard for each of them."""
