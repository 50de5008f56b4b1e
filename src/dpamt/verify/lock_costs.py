"""What a lock costs, held against what was measured: ``python -m dpamt.verify.lock_costs``.

The figures are all that were published of gets and puts, in the order of their dates.
Rule of the fit: every other one, from the first on, gives the numbers of
:class:`~dpamt.verify.costs.Costs` that have no source of their own (:func:`fit`); the others are
predicted and have no say in it.  Which causes there are to be numbers was decided with all figures
known: the predictions test the numbers, not the choice of causes.

The machines are not the same: K. Shutsemau's is of 2025 (v2), Y. Zhao's of 2026-02 (v5) and of
2026-06/07 (Sapphire Rapids, TDs of 8 VCPUs and 8 GB, boot and teardown, huge pages off; `[PATCH v6
00/11] Dynamic PAMT`, thread of patch 6).  The numbers come from the last; each of the other two has
one number of its own.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import log, sqrt
from textwrap import wrap
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.designs.load import load_design
from dpamt.verify.costs import LEAST, Costs, Waiting, longest_stall, play, play_storm, play_zaps

FACTOR: Final = 3.0
"""Predictions are to be within this factor of what was measured."""
_PAGES: Final = 1536
_TD_VCPUS: Final = 8
_FIRSTS: Final = 160
"""First gets of each VCPU, last puts of each thread, where nothing else is looked at."""
_BOOT_PAGES: Final = 706_000
"""Gets of the boot of one TD (Y. Zhao, 2026-06); K. Shutsemau's are taken to be as many."""
_ALL_PAGES: Final = 16 << 30 >> 12
"""Pages of each of the 10 VMs of K. Shutsemau's measurement."""
_VMS, _VM_VCPUS = 10, 4
_SECONDS_OF_ALL: Final = 60.0
_SHUTSEMAU: Final = "K. Shutsemau, v2 thread, 2025-08/09"
_ZHAO_2: Final = "Y. Zhao, v5 thread, 2026-02"
_ZHAO_6: Final = "Y. Zhao, v6 06/11 thread, 2026-06/07"
_HALF: Final = 0.5
"""What a figure of whole microseconds that says 0 stays below."""
_EULER: Final = 0.5772
ASKED: Final = (64, 128, 256)
"""VCPUs of the question of the list."""

Simulated = Callable[[Costs], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure, and how it is simulated."""

    name: str
    measured: float
    unit: str
    source: str
    simulated: Simulated
    fits: str = ""
    """The number of Costs that it helps to give; empty: it is predicted."""
    why: str = ""
    """Where the simulation cannot give it: why."""


def us_of_a_get(design: str, tds: int) -> Simulated:
    """Microseconds of a get, mean over the boot of as many TDs at once."""

    def simulated(costs: Costs) -> float:
        played = _boot(design, tds, costs)
        return played.spent / (played.vcpus * played.pages)

    return simulated


def us_of_a_put(design: str, tds: int) -> Simulated:
    """Microseconds of a put while as many TDs end at once, a thread each."""

    def simulated(costs: Costs) -> float:
        played = play_zaps(load_design(design), tds, 2 * _PAGES, costs)
        return played.spent / (played.vcpus * played.pages)

    return simulated


def _longest(design: str, tds: int) -> Simulated:
    """The longest get: of the queue, or of what holds up any call."""

    def simulated(costs: Costs) -> float:
        return max(_boot(design, tds, costs).longest, longest_stall(costs, tds * _BOOT_PAGES))

    return simulated


@cache
def _boot(design: str, tds: int, costs: Costs) -> Waiting:
    return play(load_design(design), tds * _TD_VCPUS, _PAGES, costs)


def _of_2025(costs: Costs) -> Costs:
    """As on the machine of K. Shutsemau's measurement."""
    return replace(costs, add=costs.add_2025, remove=costs.remove * costs.add_2025 / costs.add)


@cache
def _v2_boots(costs: Costs) -> Waiting:
    pages = _BOOT_PAGES // _VM_VCPUS
    return play(load_design("v2"), _VMS * _VM_VCPUS, pages, _of_2025(costs))


@cache
def _v2_ends(costs: Costs) -> Waiting:
    return play_zaps(load_design("v2"), _VMS, _BOOT_PAGES, _of_2025(costs))


@cache
def _all_memory(costs: Costs) -> Waiting:
    """40 VCPUs fault 160 GiB in about 60 s: 57 us a page."""
    fault = _SECONDS_OF_ALL * 1e6 * _VM_VCPUS / _ALL_PAGES
    told = replace(_of_2025(costs), fault=fault)
    return play(load_design("v2"), _VMS * _VM_VCPUS, _ALL_PAGES // _VM_VCPUS, told)


@cache
def _slow(costs: Costs) -> Waiting:
    """4 TDs that boot; of 8 VCPUs each, as later (how many they had is not known)."""
    region = max(2, round(costs.region_v5))
    return play(load_design("v5"), 4 * _TD_VCPUS, _FIRSTS * region, costs, region=region)


@cache
def _slow_puts(costs: Costs) -> Waiting:
    region = max(2, round(costs.region_v5))
    return play_zaps(load_design("v5"), 4, 8 * _FIRSTS * region, costs, region=region)


def _longest_call(played: Waiting, mean: float) -> float:
    """The longest of as many SEAMCALLs, on average (of exponential variables)."""
    return mean * (LEAST + (1 - LEAST) * (log(played.firsts) + _EULER))


_V5: Final = "v5, 4 TDs"
FIGURES: Final = (
    Figure(
        "contentions, v2, 10 VMs start",
        701,
        "",
        _SHUTSEMAU,
        lambda costs: _v2_boots(costs).contended,
        fits="add_2025",
    ),
    Figure(
        "contentions, v2, 10 VMs end",
        53,
        "",
        _SHUTSEMAU,
        lambda costs: _v2_ends(costs).contended,
    ),
    Figure(
        "waiting, v2, start and end",
        2,
        "ms",
        _SHUTSEMAU,
        lambda costs: (_v2_boots(costs).waited + _v2_ends(costs).waited) / 1e3,
        fits="add_2025",
    ),
    Figure(
        "contentions, v2, 160 GiB faulted",
        1136,
        "",
        _SHUTSEMAU,
        lambda costs: _all_memory(costs).contended,
    ),
    Figure(
        "waiting, v2, 160 GiB faulted",
        4,
        "ms",
        _SHUTSEMAU,
        lambda costs: _all_memory(costs).waited / 1e3,
        fits="add_2025",
    ),
    Figure(
        "pages for a take of the lock, v2",
        512,
        "",
        _SHUTSEMAU,
        lambda costs: _VMS * _ALL_PAGES / _all_memory(costs).taken,
    ),
    Figure(
        f"first get, {_V5}: wait, mean",
        4,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).firsts_waited / _slow(costs).firsts,
        fits="region_v5",
    ),
    Figure(
        f"first get, {_V5}: wait, most",
        69,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).longest_wait,
    ),
    Figure(
        f"first get, {_V5}: ADD, most",
        18,
        "us",
        _ZHAO_2,
        lambda costs: _longest_call(_slow(costs), costs.add),
        fits="region_v5",
    ),
    Figure(
        f"first get, {_V5}: mean",
        10,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).firsts_spent / _slow(costs).firsts,
    ),
    Figure(
        f"first get, {_V5}: least",
        3,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).shortest_first,
        fits="region_v5",
    ),
    Figure(f"first get, {_V5}: most", 83, "us", _ZHAO_2, lambda costs: _slow(costs).longest),
    Figure(
        f"last put, {_V5}: wait, mean",
        0,
        "us",
        _ZHAO_2,
        lambda costs: _slow_puts(costs).firsts_waited / _slow_puts(costs).firsts,
        fits="region_v5",
    ),
    Figure(
        f"last put, {_V5}: wait, most",
        5,
        "us",
        _ZHAO_2,
        lambda costs: _slow_puts(costs).longest_wait,
    ),
    Figure(
        f"last put, {_V5}: REMOVE, most",
        11,
        "us",
        _ZHAO_2,
        lambda costs: _longest_call(_slow_puts(costs), costs.remove),
        fits="region_v5",
    ),
    Figure(
        f"last put, {_V5}: mean",
        3,
        "us",
        _ZHAO_2,
        lambda costs: _slow_puts(costs).firsts_spent / _slow_puts(costs).firsts,
    ),
    Figure(
        f"last put, {_V5}: least",
        2,
        "us",
        _ZHAO_2,
        lambda costs: _slow_puts(costs).shortest_first,
        fits="region_v5",
    ),
    Figure(f"last put, {_V5}: most", 15, "us", _ZHAO_2, lambda costs: _slow_puts(costs).longest),
    Figure(
        "get, merged, 1 TD", 2.03e6 / 706e3, "us", _ZHAO_6, us_of_a_get("merged", 1), fits="page"
    ),
    Figure("longest get, merged, 1 TD", 578, "us", _ZHAO_6, _longest("merged", 1)),
    Figure(
        "put, merged, 1 TD", 0.13e6 / 706e3, "us", _ZHAO_6, us_of_a_put("merged", 1), fits="step"
    ),
    Figure("get, v6, 1 TD", 0.051e6 / 704e3, "us", _ZHAO_6, us_of_a_get("v6", 1)),
    Figure("longest get, v6, 1 TD", 505, "us", _ZHAO_6, _longest("v6", 1), fits="stall"),
    Figure("put, v6, 1 TD", 0.034e6 / 704e3, "us", _ZHAO_6, us_of_a_put("v6", 1)),
    Figure(
        "get, merged, 5 TDs", 55.5e6 / 3.43e6, "us", _ZHAO_6, us_of_a_get("merged", 5), fits="fault"
    ),
    Figure("longest get, merged, 5 TDs", 1723, "us", _ZHAO_6, _longest("merged", 5)),
    Figure(
        "put, merged, 5 TDs",
        2.07e6 / 3.43e6,
        "us",
        _ZHAO_6,
        us_of_a_put("merged", 5),
        fits="handover",
    ),
    Figure("get, v6, 5 TDs", 0.33e6 / 3.42e6, "us", _ZHAO_6, us_of_a_get("v6", 5)),
    Figure("longest get, v6, 5 TDs", 1386, "us", _ZHAO_6, _longest("v6", 5), fits="growth"),
    Figure("put, v6, 5 TDs", 0.14e6 / 3.42e6, "us", _ZHAO_6, us_of_a_put("v6", 5)),
)
"""Figures of a lock's cost that were published, in the order of publication."""

GIVEN: Final = (
    f"PAMT.ADD 4 us on average and 2 at least, PAMT.REMOVE 2 and 1 ({_ZHAO_2})",
    "VCPUs in regions of their own: two came to a fresh one together once in a couple of runs "
    f"({_SHUTSEMAU})",
    "706,000 gets in the boot of a VM of K. Shutsemau's, as in one of Y. Zhao's of 2026-06; 8 us "
    "for a zap without its put (assumed)",
)
"""What the simulation takes as it is, and so cannot be held against."""
_ORDER: Final = ("step", "handover", "page", "fault", "stall", "growth", "add_2025", "region_v5")
"""Numbers that others depend on come first."""
_RANGE: Final = {
    "step": (0.001, 0.5),
    "handover": (0.01, 5.0),
    "page": (0.01, 5.0),
    "fault": (0.5, 60.0),
    "stall": (1.0, 1e5),
    "growth": (0.05, 2.0),
    "add_2025": (0.5, 50.0),
    "region_v5": (2.0, float(PAGES_PER_2M)),
}
_GOLDEN: Final = (sqrt(5) - 1) / 2


def fit(costs: Costs | None = None, rounds: int = 3, cuts: int = 16) -> Costs:
    """The numbers for which the figures of the fitted half come out best.

    One after another, each where the squares of its figures' log ratios are least, with the others
    as they are; ``rounds`` times over.
    """
    found = costs if costs is not None else Costs()
    for _ in range(rounds):
        for name in _ORDER:
            found = _fitted(found, name, cuts)
    return found


def _fitted(costs: Costs, name: str, cuts: int) -> Costs:
    """Golden section on a logarithmic scale."""
    figures = [figure for figure in FIGURES if figure.fits == name]

    def wrong(exponent: float) -> float:
        tried = _with(costs, name, exponent)
        return sum(log(ratio(figure, tried)) ** 2 for figure in figures)

    low, high = map(log, _RANGE[name])
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = wrong(left), wrong(right)
    for _ in range(cuts):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = wrong(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = wrong(right)
    return _with(costs, name, (low + high) / 2)


def _with(costs: Costs, name: str, exponent: float) -> Costs:
    changed: dict[str, float] = {name: float(2.718281828459045**exponent)}
    return replace(costs, **changed)


def ratio(figure: Figure, costs: Costs) -> float:
    """Simulated over measured; of a measured 0, how far it is above what rounds to it."""
    simulated = figure.simulated(costs)
    return simulated / figure.measured if figure.measured else max(1.0, simulated / _HALF)


def is_off(figure: Figure, costs: Costs) -> bool:
    """Whether it is outside the factor."""
    return not 1 / FACTOR <= ratio(figure, costs) <= FACTOR


def report(costs: Costs | None = None, vcpus: tuple[int, ...] = ASKED) -> Iterator[str]:
    """The lines of the report, at most 80 columns."""
    told = costs if costs is not None else Costs()
    predicted = [figure for figure in FIGURES if not figure.fits]
    good = [figure for figure in predicted if not is_off(figure, told)]
    worst = max(max(ratio(figure, told), 1 / ratio(figure, told)) for figure in good)
    off = [figure for figure in FIGURES if is_off(figure, told)]
    if off:
        yield from wrap(f"NOT GOOD for: {'; '.join(figure.name for figure in off)}.", 80)
    yield f"{len(good)} of {len(predicted)} predictions within a factor of {worst:.1f}."
    yield "The other half is fitted; the causes were chosen knowing all the figures."
    yield ""
    yield f"{'figure':39} {'measured':>8} {'simulated':>9} {'ratio':>6}"
    for figure in FIGURES:
        simulated = figure.simulated(told)
        unit = f" ({figure.unit})" if figure.unit else ""
        kind = f"fit: {figure.fits}" if figure.fits else ""
        mark = " OFF" if is_off(figure, told) else ""
        yield (
            f"{figure.name + unit:39} {figure.measured:8,.3g} {simulated:9,.3g} "
            f"{ratio(figure, told):6.2f} {kind}{mark}".rstrip()
        )
    yield ""
    for why in dict.fromkeys(figure.why for figure in off):
        yield from wrap(f"OFF: {why or 'not explained'}.", 80)
    for text in GIVEN:
        yield from wrap(f"Given: {text}.", 80)
    yield ""
    yield from _answer(told, vcpus)


def _answer(costs: Costs, vcpus: tuple[int, ...]) -> Iterator[str]:
    """What more VCPUs pay, at boot and in conversion storms; nobody has measured that."""
    yield "Extrapolated: us of a get at boot, of a put and a get in a storm; share of time"
    yield f"{'design':8} {'VCPUs':>5} {'boot':>14} {'storm':>14} {'storm, lone page':>18}"
    for name in ("merged", "v6"):
        design = load_design(name)
        for count in vcpus:
            boot = play(design, count, 640, costs)
            storm = play_storm(design, count, 320, costs=costs)
            lone = play_storm(design, count, 320, lone=True, costs=costs)
            cells = [_cell(played) for played in (boot, storm, lone)]
            yield f"{name:8} {count:5} {cells[0]:>14} {cells[1]:>14} {cells[2]:>18}"


def _cell(played: Waiting) -> str:
    mean = played.spent / (played.vcpus * played.pages)
    share = played.spent / (played.vcpus * played.seconds * 1e6)
    return f"{mean:,.2f} ({share:.0%})"


def main() -> None:
    """Print the report; with ``--fit``, fit the numbers again and print them first."""
    costs = Costs()
    if sys.argv[1:] == ["--fit"]:
        costs = fit()
        print(costs, end="\n\n")
    for line in report(costs):
        print(line)


if __name__ == "__main__":
    main()
