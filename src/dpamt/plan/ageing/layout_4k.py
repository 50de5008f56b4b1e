"""What the compiled host without 2M pages keeps, as arrays; and how its functions are compiled.

The buddy lists of a zone are last in, first out, and a buddy is taken out of the middle when it
merges.  So each list is a stack of first pages, and beside it stands a tag for each place where a
chunk of that order may begin, which says whether that chunk is free.  A chunk that merges loses its
tag and stays in the stack, where it is passed over.  If it is freed again, it comes to the stack a
second time, above; it is taken from there, and loses its tag, before the first one is met.  A stack
that is full, with room for twice what can be free, is rid of what is passed over.  Tags lie one
order after another, so that buddies are neighbours.  What is not written to takes no memory.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from dpamt.plan.ageing.allocator import FRONT_DRAIN, FRONT_HIGH

F = TypeVar("F", bound=Callable[..., Any])

FRONT, PAIRS, OWN = 0, 1, 2
"""Places in :attr:`Memory.numbers`."""
SEPT, PAMT = 0, 1
"""Pools of a VCPU."""
FRONT_ROOM: Final = FRONT_HIGH + 1 + 16 * FRONT_DRAIN
"""One more than waits there, and as many as leave it before those behind move up."""


class Memory(NamedTuple):
    """The page allocator, and the counts and pairs of 2M regions.  Zones are in the order in which
    they are asked; page 0 stands for none."""

    stacks: NDArray[np.uint32]
    """First pages of chunks, one stack after another."""
    stack_begin: NDArray[np.int64]
    stack_end: NDArray[np.int64]
    stack_limit: NDArray[np.int64]
    """By zone and order: where its stack begins, ends now, and has to end."""
    tags: NDArray[np.uint8]
    """By slot: the zone plus 1 where that chunk is free."""
    blocks: NDArray[np.uint8]
    """By block of the maximal order: its zone plus 1 where it is free as a whole."""
    first_block: NDArray[np.int64]
    """By zone: no free block is below it."""
    whole: NDArray[np.int64]
    """By zone: free blocks."""
    kernel: NDArray[np.int64]
    kernel_end: NDArray[np.int64]
    cursors: NDArray[np.int64]
    """Pages that spoil a region, one zone after another; where each zone's end; by zone and order
    the next one whose chunk was not taken yet (dpamt.platform.buddy)."""
    extents: NDArray[np.int64]
    """Rows of start, end, zone."""
    front: NDArray[np.uint32]
    counts: NDArray[np.uint16]
    pair_pages: NDArray[np.uint32]
    numbers: NDArray[np.int64]
    """Pages in front, pairs installed, zones of the first node."""
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Room for the runs of pages that leave the front."""


class TdPages(NamedTuple):
    """A TD: guest pages by number (0: not there), S-EPT pages, and the pools of its VCPUs."""

    pages: NDArray[np.uint32]
    table: NDArray[np.uint32]
    upper_1g: NDArray[np.uint32]
    upper_512g: NDArray[np.uint32]
    pools: NDArray[np.int64]
    """By VCPU and kind: free pages for the S-EPT, and for pairs."""
    held: NDArray[np.int64]
    """By VCPU and kind: how many."""
    control: NDArray[np.int64]
    vcpu_control: NDArray[np.int64]


def compiled(function: F) -> F:
    """Machine code, kept on disk from one run to the next where there is a place for it.

    Without reference counts of arrays, which would cost more than the work: nothing here makes one.
    """
    njit: Any = numba.njit
    options = {"boundscheck": False, "_nrt": False}
    try:
        made = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that may be written to
        made = njit(**options)(function)
    return cast(F, made)
