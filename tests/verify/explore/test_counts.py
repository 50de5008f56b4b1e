"""Exact sizes of searches: an engine that loses or invents states fails here at once.

Those of 2 CPUs stand for searches that the judge agrees with: ``python -m
tests.verify.judge.test_every_answer`` holds every design against it at every granularity.  A
change of the module's or the host's steps changes them too: run that, then write down the new
ones.
"""

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify

COUNTS = [
    # design, CPUs by region, granularity, states, transitions, ends, depth
    ("lazy", (2,), SEAMCALL, 19, 25, 1, 7),
    ("lazy", (2,), LOCKS, 169, 269, 4, 23),
    ("lazy", (2,), WORDS, 378, 642, 5, 47),
    ("v1", (2,), SEAMCALL, 51, 73, 1, 16),
    ("v1", (2,), LOCKS, 122, 190, 1, 30),
    ("v1", (2,), WORDS, 270, 438, 1, 53),
    ("v2", (2,), SEAMCALL, 64, 94, 2, 20),
    ("v2", (2,), LOCKS, 143, 227, 2, 34),
    ("v2", (2,), WORDS, 308, 509, 2, 57),
    ("v3-simple", (2,), SEAMCALL, 27, 38, 1, 9),
    ("v3-simple", (2,), LOCKS, 132, 208, 2, 23),
    ("v3-simple", (2,), WORDS, 359, 593, 4, 46),
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
    ("merged", (2,), SEAMCALL, 24, 35, 1, 10),
    ("merged", (2,), LOCKS, 81, 130, 1, 22),
    ("merged", (2,), WORDS, 210, 347, 1, 45),
    ("per-2m-lock", (2,), SEAMCALL, 24, 35, 1, 10),
    ("per-2m-lock", (2,), LOCKS, 81, 130, 1, 22),
    ("per-2m-lock", (2,), WORDS, 210, 347, 1, 45),
    ("per-2m-rwlock", (2,), SEAMCALL, 24, 35, 1, 10),
    ("per-2m-rwlock", (2,), LOCKS, 81, 130, 1, 22),
    ("per-2m-rwlock", (2,), WORDS, 210, 347, 1, 45),
    ("global-rwlock", (2,), SEAMCALL, 48, 73, 1, 13),
    ("global-rwlock", (2,), LOCKS, 245, 398, 1, 31),
    ("global-rwlock", (2,), WORDS, 515, 836, 1, 54),
    ("merged", (3,), SEAMCALL, 74, 146, 1, 15),
    ("merged", (4,), SEAMCALL, 190, 454, 1, 20),
    ("merged", (1, 1), SEAMCALL, 36, 60, 1, 10),
    ("merged", (2, 1), SEAMCALL, 144, 330, 1, 15),
    ("v6", (3,), SEAMCALL, 167, 339, 1, 17),
    ("v6", (4,), SEAMCALL, 545, 1364, 1, 21),
    ("v6", (1, 1), SEAMCALL, 36, 60, 1, 10),
    ("v6", (2, 1), SEAMCALL, 270, 599, 1, 18),
    ("v2", (3,), SEAMCALL, 277, 541, 2, 27),
    ("v2", (4,), SEAMCALL, 982, 2358, 2, 34),
    ("v2", (1, 1), SEAMCALL, 36, 60, 1, 10),
    ("v2", (2, 1), SEAMCALL, 384, 840, 2, 25),
    ("global-rwlock", (3,), SEAMCALL, 177, 361, 1, 18),
    ("global-rwlock", (4,), SEAMCALL, 524, 1298, 1, 23),
    ("global-rwlock", (1, 1), SEAMCALL, 25, 40, 1, 8),
    ("global-rwlock", (2, 1), SEAMCALL, 288, 674, 1, 18),
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
