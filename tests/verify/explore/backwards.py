"""From where an end can be reached, asked the slow way, for tests of searches."""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

State = TypeVar("State", bound=Hashable)


def lead_to(ends: Iterable[State], before: Mapping[State, Iterable[State]]) -> set[State]:
    """The ends and all states from which a way leads to one; ``before`` has what comes before."""
    pending = list(ends)
    found = set(pending)
    while pending:
        for earlier in before[pending.pop()]:
            if earlier not in found:
                found.add(earlier)
                pending.append(earlier)
    return found
