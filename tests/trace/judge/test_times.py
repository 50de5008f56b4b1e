from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from dpamt.trace.judge.series import MOST, Series
from dpamt.trace.judge.times import Histogram, Slow
from dpamt.trace.recording.model import Call

durations = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=300)


@given(durations, st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_percentiles_are_right_within_a_sixteenth(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(ceil(percent / 100 * len(values)) - 1, 0)]
    told = histogram.percentile(percent)
    assert exact <= told <= exact + exact // 16
    assert histogram.largest == max(values)
    assert sum(number for _low, _high, number in histogram.buckets()) == len(values)


@given(durations, st.integers(0, 1 << 40))
def test_what_is_above_is_above(values: list[int], limit: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    above = sum(value > limit for value in values)
    assert sum(value > limit + limit // 16 + 1 for value in values) <= histogram.above(limit)
    assert histogram.above(limit) <= above


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20_000))
def test_a_series_is_bounded_and_keeps_its_ends(steps: list[int]) -> None:
    series = Series(("value",))
    time = 0
    given_points = []
    for index, step in enumerate(steps):
        time += step
        series.add(time, index)
        given_points.append((time, index))
    points = series.finish()
    assert len(points) <= MOST + 1
    assert (points[0], points[-1]) == (given_points[0], given_points[-1])
    assert set(points) <= set(given_points)
    assert [point[0] for point in points] == sorted(point[0] for point in points)


def test_a_call_slower_than_its_peers_is_told_and_its_peers_are_not() -> None:
    slow = Slow()
    for index in range(500):
        spent = 90_000 if index == 400 else 1000 + index
        slow.add(Call(0, spent, 3, 7, b"qemu", 6, (0,) * 8, 0, None, b""), 6)
    (worst,) = slow.worst()
    assert worst.startswith("TDH.MEM.PAGE.AUG at 0.000090 on CPU 3 took 90.0 us, 7")
    assert slow.slow_calls() == 1
