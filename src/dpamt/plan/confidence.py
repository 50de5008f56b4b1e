"""Means over seeds with their confidence intervals: Student's t, clipped to what can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Final

T_975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""

_Z_975: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % confidence interval, one value for each moment.

    Of one seed there is no interval: ``low`` and ``high`` are the value itself.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; from 31 degrees of freedom on by the expansion in 1 / n.

    Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z = _Z_975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def confidence(
    columns: Sequence[Sequence[float]], least: float = 0.0, most: float = float("inf")
) -> Interval:
    """Of each column, over seeds; ends below ``least`` or above ``most`` are moved there."""
    means = [mean(column) for column in columns]
    halves = [_half_width(column) for column in columns]
    both = list(zip(means, halves, strict=True))
    return Interval(
        tuple(means),
        tuple(min(max(middle - half, least), middle) for middle, half in both),
        tuple(max(min(middle + half, most), middle) for middle, half in both),
    )


def _half_width(values: Sequence[float]) -> float:
    count = len(values)
    return quantile(count - 1) * stdev(values) / sqrt(count) if count > 1 else 0.0
