"""From pages to regions, against NumPy's own counting."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from dpamt.plan.ageing.zap import region_runs, runs_of


@given(st.lists(st.integers(1, 1 << 14)))
def test_region_runs_count_what_bincount_counts(pages: list[int]) -> None:
    frames = np.array(pages, np.uint32)
    regions, counts = region_runs(frames)
    assert np.repeat(regions, counts).tolist() == (frames // 512).tolist()
    assert (regions[1:] != regions[:-1]).all()
    expected = np.bincount(frames // 512, minlength=40)
    assert (np.bincount(regions, counts, minlength=40) == expected).all()


@given(st.lists(st.integers(0, 20)))
def test_runs_of_regions(regions: list[int]) -> None:
    runs = list(runs_of(np.array(regions, np.uint32)))
    flat = [first + at for first, count in runs for at in range(count)]
    assert flat == [region for region in regions if region]
    for (first, count), (then, _) in pairwise(runs):
        assert then != first + count
