"""Exact sizes of searches: an engine that loses or invents states fails here at once.

Those of 2 CPUs stand for searches that the plain one agrees with: ``python -m
tests.verify.test_brute`` holds every design against it at every granularity.  A change of the
module's or the host's steps changes them too: run that, then write down the new ones.
"""

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.programs import regions
from dpamt.verify.properties import properties
from dpamt.verify.setting import LOCKS, SEAMCALL, WORDS
from dpamt.verify.verdict import verify

COUNTS = [
    # design, CPUs by region, granularity, states, transitions, ends, depth
    ("lazy", (2,), SEAMCALL, 24, 33, 1, 7),
    ("lazy", (2,), LOCKS, 186, 300, 4, 23),
    ("lazy", (2,), WORDS, 413, 708, 5, 47),
    ("v1", (2,), SEAMCALL, 51, 73, 1, 16),
    ("v1", (2,), LOCKS, 122, 190, 1, 30),
    ("v1", (2,), WORDS, 270, 438, 1, 53),
    ("v2", (2,), SEAMCALL, 75, 111, 2, 20),
    ("v2", (2,), LOCKS, 179, 284, 2, 34),
    ("v2", (2,), WORDS, 381, 622, 2, 57),
    ("v3-simple", (2,), SEAMCALL, 26, 37, 1, 8),
    ("v3-simple", (2,), LOCKS, 131, 207, 2, 22),
    ("v3-simple", (2,), WORDS, 358, 592, 4, 45),
    ("v3", (2,), SEAMCALL, 53, 74, 2, 18),
    ("v3", (2,), LOCKS, 124, 191, 2, 32),
    ("v3", (2,), WORDS, 272, 439, 2, 55),
    ("v4", (2,), SEAMCALL, 53, 74, 2, 18),
    ("v4", (2,), LOCKS, 124, 191, 2, 32),
    ("v4", (2,), WORDS, 272, 439, 2, 55),
    ("v5", (2,), SEAMCALL, 53, 74, 2, 18),
    ("v5", (2,), LOCKS, 124, 191, 2, 32),
    ("v5", (2,), WORDS, 272, 439, 2, 55),
    ("v6", (2,), SEAMCALL, 45, 67, 1, 13),
    ("v6", (2,), LOCKS, 110, 178, 1, 25),
    ("v6", (2,), WORDS, 251, 419, 1, 48),
    ("merged", (2,), SEAMCALL, 23, 34, 1, 9),
    ("merged", (2,), LOCKS, 80, 129, 1, 21),
    ("merged", (2,), WORDS, 209, 346, 1, 44),
    ("per-2m-lock", (2,), SEAMCALL, 23, 34, 1, 9),
    ("per-2m-lock", (2,), LOCKS, 80, 129, 1, 21),
    ("per-2m-lock", (2,), WORDS, 209, 346, 1, 44),
    ("per-2m-rwlock", (2,), SEAMCALL, 23, 34, 1, 9),
    ("per-2m-rwlock", (2,), LOCKS, 80, 129, 1, 21),
    ("per-2m-rwlock", (2,), WORDS, 209, 346, 1, 44),
    ("global-rwlock", (2,), SEAMCALL, 48, 73, 1, 13),
    ("global-rwlock", (2,), LOCKS, 260, 428, 1, 31),
    ("global-rwlock", (2,), WORDS, 547, 900, 1, 54),
    ("merged", (3,), SEAMCALL, 84, 176, 1, 13),
    ("merged", (4,), SEAMCALL, 238, 618, 1, 17),
    ("merged", (1, 1), SEAMCALL, 51, 87, 1, 10),
    ("merged", (2, 1), SEAMCALL, 241, 585, 1, 14),
    ("v6", (3,), SEAMCALL, 203, 413, 1, 17),
    ("v6", (4,), SEAMCALL, 732, 1846, 1, 21),
    ("v6", (1, 1), SEAMCALL, 51, 87, 1, 10),
    ("v6", (2, 1), SEAMCALL, 484, 1094, 1, 18),
    ("v2", (3,), SEAMCALL, 404, 807, 2, 27),
    ("v2", (4,), SEAMCALL, 1704, 4234, 2, 34),
    ("v2", (1, 1), SEAMCALL, 51, 87, 1, 10),
    ("v2", (2, 1), SEAMCALL, 804, 1806, 2, 25),
    ("global-rwlock", (3,), SEAMCALL, 249, 537, 1, 18),
    ("global-rwlock", (4,), SEAMCALL, 924, 2486, 1, 23),
    ("global-rwlock", (1, 1), SEAMCALL, 29, 47, 1, 8),
    ("global-rwlock", (2, 1), SEAMCALL, 433, 1059, 1, 18),
]


@pytest.mark.parametrize(
    ("name", "cpus", "granularity", "states", "transitions", "ends", "depth"), COUNTS
)
def test_the_size_of_a_search(
    name: str,
    cpus: tuple[int, ...],
    granularity: str,
    states: int,
    transitions: int,
    ends: int,
    depth: int,
) -> None:
    design = load_design(name)
    said = verify(regions(design, cpus), properties(design.tolerated), granularity)
    assert (said.states, said.transitions, said.ends, said.depth) == (
        states,
        transitions,
        ends,
        depth,
    )
