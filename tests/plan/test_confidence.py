"""Intervals over seeds: Student's t, and never beyond what can be."""

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.plan.confidence import confidence, quantile


@pytest.mark.parametrize(
    ("degrees", "value"),
    [(1, 12.706), (4, 2.776), (30, 2.042), (31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, value: float) -> None:
    assert quantile(degrees) == pytest.approx(value, abs=1e-3)


def test_they_fall_towards_the_normal_one() -> None:
    values = [quantile(degrees) for degrees in range(1, 400)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 1.96


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_the_mean_is_inside_and_the_ends_are_possible(values: list[float]) -> None:
    interval = confidence([values], 0.0, 100.0)
    assert interval.mean[0] == pytest.approx(mean(values))
    assert 0.0 <= interval.low[0] <= interval.mean[0] <= interval.high[0]
    assert interval.high[0] <= max(100.0, interval.mean[0])
    if len(values) == 1:
        assert interval.low == interval.high == interval.mean
