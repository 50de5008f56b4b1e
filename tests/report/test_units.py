"""Numbers as text: what is read back is the number, to the figures shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.report.units import amount, bar, count, percent

UNITS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


@given(st.integers(0, 1 << 52))
def test_amounts_read_back(size: int) -> None:
    number, unit = amount(size).split()
    value = float(number) * (1 << UNITS[unit])
    assert len(amount(size)) <= 10 or size >= 1 << 50
    if "." in number:
        assert value == pytest.approx(size, rel=0.005)
    else:
        assert value == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (4202516 << 10, "4.01 GiB"),
        (40980 << 10, "40.0 MiB"),
        (4 << 30, "4 GiB"),
        ((4 << 30) - 1, "4.00 GiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (8192, "8 KiB"),
        (0x807C000000 - 0x4080000000, "255.9 GiB"),
        (1 << 38, "256 GiB"),
    ],
)
def test_amounts(size: int, text: str) -> None:
    assert amount(size) == text


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_percentages_have_three_figures(part: int, whole: int) -> None:
    text = percent(part, whole)
    assert text.endswith(" %")
    if part / whole > 1e-6:
        assert float(text.split()[0]) == pytest.approx(100 * part / whole, rel=0.0051)


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(1, 60))
def test_a_bar_is_as_long_as_its_share(part: int, whole: int, width: int) -> None:
    drawn = bar(part, whole, width)
    assert len(drawn) <= width
    assert bool(drawn) == bool(part)
    full = drawn.count("█")
    assert full == pytest.approx(width * min(part, whole) / whole, abs=1)


def test_counts() -> None:
    assert count(262144) == "262,144"
