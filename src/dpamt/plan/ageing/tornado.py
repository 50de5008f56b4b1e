"""What drives the outcome of ageing: each driver alone set low and high, the others left as given.

The outcome is what Dynamic PAMT saves today against static PAMT, on average over the time and the
seeds.  The bars are sorted by their length, the longest first, which gives the plot its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dpamt.plan.ageing.boot import RELEASE
from dpamt.plan.ageing.simulate import Ageing, Progress, simulate
from dpamt.plan.ageing.workload import Workload
from dpamt.plan.mix import TdMix, at_2m, at_4k
from dpamt.platform.machine import Machine

DRIVERS: Final[tuple[tuple[str, str, Any, Any], ...]] = (
    ("--occupancy", "occupancy", 0.5, 0.95),
    ("--life", "mean_life_hours", 12.0, 168.0),
    ("--fragmentation", "fragmentation", 0.0, 0.3),
    ("--grouping", "grouping", "page-block", "scattered"),
    ("--conversions", "converted_per_hour", 0.0, 0.01),
    ("--pair-pages", "pairs", "single", "pool"),
    ("--control-pages", "control", "single", "pool"),
)
"""Option, field of :class:`Workload`, and the two ends; the share at 2M is the last bar."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A driver: its two settings in words, and the bytes saved on average with each."""

    driver: str
    low: str
    high: str
    saved_low: float
    saved_high: float

    @property
    def width(self) -> float:
        """How far the outcome moves."""
        return abs(self.saved_high - self.saved_low)


@dataclass(frozen=True, slots=True)
class Tornado:
    """``saved`` is the outcome with everything as given; bytes."""

    saved: float
    static_bytes: int
    bars: tuple[Bar, ...]


def tornado(
    machine: Machine,
    mixes: Sequence[TdMix],
    share_2m: float,
    drivers: Mapping[str, Any],
    weeks: float,
    seeds: Sequence[int],
    processes: int | None = None,
    progress: Progress | None = None,
    release: str = RELEASE,
) -> Tornado:
    """The bars for a host; ``drivers`` are those that were given.  Raises what :func:`simulate`
    raises.  Every run that two bars share is made once.
    """
    base = Workload(at_4k(mixes), **drivers)
    known: dict[str, float] = {}
    static = 0

    def outcome(workload: Workload) -> float:
        nonlocal static
        key = repr(workload)
        if key not in known:
            if progress is not None:
                progress(f"tornado, run {len(known) + 1}", len(known), 2 * len(DRIVERS) + 2)
            aged = simulate(machine, workload, weeks, seeds, processes, None, release)
            known[key] = saved_by(aged)
            static = aged.static_bytes
        return known[key]

    saved = outcome(base)
    bars = [
        Bar(option, _shown(low), _shown(high), *(
            outcome(replace(base, **{name: end})) for end in (low, high)
        ))
        for option, name, low, high in DRIVERS
    ]  # fmt: skip
    large = replace(base, tds=at_2m(mixes, share_2m))
    share = sum(td.share_2m * td.count * td.memory for td in large.tds) / sum(
        td.count * td.memory for td in large.tds
    )
    bars.append(Bar("2M pages (not merged)", "0 %", f"{100 * share:.3g} %", saved, outcome(large)))
    bars.sort(key=lambda bar: -bar.width)
    return Tornado(saved, static, tuple(bars))


def saved_by(ageing: Ageing) -> float:
    """Bytes saved on average over the time."""
    return ageing.static_bytes - sum(ageing.dynamic_bytes.mean) / len(ageing.dynamic_bytes.mean)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g} h" if value > 1 else f"{100 * value:g} %"
