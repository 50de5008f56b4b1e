"""Sequences of integers that cost little where they are all alike or rise evenly.

A list is one object's own and may be written.  A tuple or a range may be shared, and stands for
what nobody has changed: whoever writes makes a list of it first.
"""

from collections.abc import Sequence
from functools import lru_cache
from operator import eq


@lru_cache(maxsize=4096)
def uniform(value: int, length: int) -> tuple[int, ...]:
    """``length`` times ``value``: the same object for all who ask."""
    return (value,) * length


def is_uniform(values: Sequence[int], value: int) -> bool:
    """Whether all of ``values`` are ``value``."""
    return values.count(value) == len(values)


def with_run(old: Sequence[int], start: int, run: Sequence[int]) -> Sequence[int]:
    """``old`` with ``run`` from ``start`` on; compact where the rest goes on as the run does.

    ``old`` is written where it is a list; ``run`` is kept where it is not.
    """
    length, end = len(old), start + len(run)
    if not run:
        return old
    whole: Sequence[int] = ()
    if isinstance(run, range):
        first = run.start - start * run.step
        whole = range(first, first + length * run.step, run.step)
    elif isinstance(run, tuple) and (run is uniform(run[0], len(run)) or is_uniform(run, run[0])):
        whole = uniform(run[0], length)
    if whole and all(map(eq, old[:start], whole[:start])) and all(map(eq, old[end:], whole[end:])):
        return whole
    own = old if isinstance(old, list) else list(old)
    own[start:end] = run
    return own
