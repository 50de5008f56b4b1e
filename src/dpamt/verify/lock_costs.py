"""What a lock costs, held against what was measured: ``python -m dpamt.verify.lock_costs``.

Four measured figures give the four numbers of :class:`~dpamt.verify.costs.Costs` that have no
source of their own (:func:`fit`); all other figures are predicted from them.  The machine of the
fit is that of Y. Zhao's measurement (Sapphire Rapids, TDs of 8 VCPUs and 8 GB, boot and teardown,
huge pages off, 2026-06-08 and 2026-07-01, `[PATCH v6 00/11] Dynamic PAMT`, thread of patch 6); the
others were other machines.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from textwrap import wrap
from typing import Final

from dpamt.host.designs.load import load_design
from dpamt.verify.costs import Costs, Waiting, play, play_storm, play_zaps

FACTOR: Final = 3.0
"""Predictions are to be within this factor of what was measured."""
_PAGES: Final = 1536
_TD_VCPUS: Final = 8
_MANY_PAGES: Final = 24_576
"""So many that first gets, one in 512, are enough to count those that wait."""
_ALL_PAGES: Final = 16 << 30 >> 12
"""Pages of each of the 10 VMs of K. Shutsemau's measurement."""
_SECONDS_OF_ALL: Final = 60.0
_SHUTSEMAU: Final = "K. Shutsemau, v2 thread, 2025-08/09"
_ZHAO_2: Final = "Y. Zhao, v5 thread, 2026-02"
_ZHAO_6: Final = "Y. Zhao, v6 06/11 thread, 2026-06/07"
ASKED: Final = (64, 128, 256)
"""VCPUs of the question of the list."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure, and how it is simulated."""

    name: str
    measured: float
    unit: str
    source: str
    simulated: Callable[[Costs], float]
    fits: str = ""
    """The number of Costs that it gives; empty: it is predicted."""
    why: str = ""
    """Where the simulation cannot give it: why."""


def us_of_a_get(design: str, tds: int) -> Callable[[Costs], float]:
    """Microseconds of a get, mean over the boot of as many TDs at once."""

    def simulated(costs: Costs) -> float:
        played = _boot(design, tds, costs)
        return played.spent / (played.vcpus * played.pages)

    return simulated


def us_of_a_put(design: str, tds: int) -> Callable[[Costs], float]:
    """Microseconds of a put while as many TDs end at once, a thread each."""

    def simulated(costs: Costs) -> float:
        played = play_zaps(load_design(design), tds, 2 * _PAGES, costs)
        return played.spent / (played.vcpus * played.pages)

    return simulated


def _longest(design: str, tds: int) -> Callable[[Costs], float]:
    return lambda costs: _boot(design, tds, costs).longest


@cache
def _boot(design: str, tds: int, costs: Costs) -> Waiting:
    return play(load_design(design), tds * _TD_VCPUS, _PAGES, costs)


@cache
def _all_memory(costs: Costs) -> Waiting:
    """40 VCPUs fault 160 GiB in about 60 s: 57 us a page, on the machine of that measurement."""
    fault = _SECONDS_OF_ALL * 1e6 * 40 / (10 * _ALL_PAGES)
    return play(load_design("v2"), 40, _MANY_PAGES, replace(costs, fault=fault))


def _of_all_memory(value: Callable[[Waiting], float]) -> Callable[[Costs], float]:
    return lambda costs: value(_all_memory(costs)) * 10 * _ALL_PAGES / (40 * _MANY_PAGES)


@cache
def _slow(costs: Costs) -> Waiting:
    """4 TDs that boot; of 8 VCPUs each, as later (how many they had is not known)."""
    return play(load_design("v5"), 4 * _TD_VCPUS, 4096, costs)


@cache
def _slow_puts(costs: Costs) -> Waiting:
    return play_zaps(load_design("v5"), 4, 4096, costs)


_INTERRUPTS: Final = "interrupts and preemption are in the measurement, and not in the simulation"
_ONE_REGION: Final = "VCPUs that come to a fresh region together are not simulated"

FIGURES: Final = (
    Figure(
        "put, merged, 1 TD", 0.13e6 / 706e3, "us", _ZHAO_6, us_of_a_put("merged", 1), fits="step"
    ),
    Figure(
        "put, merged, 5 TDs",
        2.07e6 / 3.43e6,
        "us",
        _ZHAO_6,
        us_of_a_put("merged", 5),
        fits="handover",
    ),
    Figure(
        "get, merged, 1 TD", 2.03e6 / 706e3, "us", _ZHAO_6, us_of_a_get("merged", 1), fits="page"
    ),
    Figure(
        "get, merged, 5 TDs", 55.5e6 / 3.43e6, "us", _ZHAO_6, us_of_a_get("merged", 5), fits="fault"
    ),
    Figure("get, v6, 1 TD", 0.051e6 / 704e3, "us", _ZHAO_6, us_of_a_get("v6", 1)),
    Figure("get, v6, 5 TDs", 0.33e6 / 3.42e6, "us", _ZHAO_6, us_of_a_get("v6", 5)),
    Figure("put, v6, 1 TD", 0.034e6 / 704e3, "us", _ZHAO_6, us_of_a_put("v6", 1)),
    Figure("put, v6, 5 TDs", 0.14e6 / 3.42e6, "us", _ZHAO_6, us_of_a_put("v6", 5)),
    Figure(
        "contentions, v2, 160 GiB faulted",
        1136,
        "",
        _SHUTSEMAU,
        _of_all_memory(lambda played: played.contended),
    ),
    Figure(
        "waiting, v2, 160 GiB faulted",
        4.0,
        "ms",
        _SHUTSEMAU,
        _of_all_memory(lambda played: played.waited / 1e3),
        why=_ONE_REGION,
    ),
    Figure(
        "pages for a take of the lock, v2",
        512,
        "",
        _SHUTSEMAU,
        lambda costs: 40 * _MANY_PAGES / _all_memory(costs).taken,
    ),
    Figure(
        "first get, v5, 4 TDs: all of it",
        10,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).firsts_spent / _slow(costs).firsts,
    ),
    Figure(
        "first get, v5, 4 TDs: its wait",
        4,
        "us",
        _ZHAO_2,
        lambda costs: _slow(costs).firsts_waited / _slow(costs).firsts,
        why=_ONE_REGION,
    ),
    Figure(
        "last put, v5, 4 TDs: all of it",
        3,
        "us",
        _ZHAO_2,
        lambda costs: _slow_puts(costs).firsts_spent / _slow_puts(costs).firsts,
    ),
    Figure("longest get, merged, 1 TD", 578, "us", _ZHAO_6, _longest("merged", 1), why=_INTERRUPTS),
    Figure(
        "longest get, merged, 5 TDs", 1723, "us", _ZHAO_6, _longest("merged", 5), why=_INTERRUPTS
    ),
    Figure("longest get, v6, 1 TD", 505, "us", _ZHAO_6, _longest("v6", 1), why=_INTERRUPTS),
    Figure("longest get, v6, 5 TDs", 1386, "us", _ZHAO_6, _longest("v6", 5), why=_INTERRUPTS),
)
"""Figures of a lock's cost that were published with enough said to simulate them."""

NOT_SIMULATED: Final = (
    "701 contentions at start and 53 at shutdown, 2 ms of waiting (10 VMs of 16 GB): how many "
    f"pages they touched is not said ({_SHUTSEMAU})",
    f"least and most of lock wait, SEAMCALL and total ({_ZHAO_2}): {_INTERRUPTS}",
)
_LOWEST: Final = {"step": 0.001, "handover": 0.0, "page": 0.0, "fault": 0.5}
_HIGHEST: Final = {"step": 0.5, "handover": 5.0, "page": 5.0, "fault": 60.0}
_GROWS: Final = {"step": True, "handover": True, "page": True, "fault": False}


def fit(costs: Costs | None = None, rounds: int = 3, halvings: int = 12) -> Costs:
    """The numbers for which the figures with ``fits`` come out as measured.

    Each is found by halving an interval, with the others as they are, ``rounds`` times over.
    """
    found = costs if costs is not None else Costs()
    for _ in range(rounds):
        for figure in FIGURES:
            if figure.fits:
                found = _fitted(found, figure, halvings)
    return found


def _fitted(costs: Costs, figure: Figure, halvings: int) -> Costs:
    name = figure.fits
    low, high = _LOWEST[name], _HIGHEST[name]
    for _ in range(halvings):
        middle = (low + high) / 2
        above = figure.simulated(_with(costs, name, middle)) > figure.measured
        if above == _GROWS[name]:
            high = middle
        else:
            low = middle
    return _with(costs, name, (low + high) / 2)


def _with(costs: Costs, name: str, value: float) -> Costs:
    changed: dict[str, float] = {name: value}
    return replace(costs, **changed)


def ratio(figure: Figure, costs: Costs) -> float:
    """Simulated over measured."""
    return figure.simulated(costs) / figure.measured


def is_off(figure: Figure, costs: Costs) -> bool:
    """Whether it is outside the factor."""
    return not 1 / FACTOR <= ratio(figure, costs) <= FACTOR


def report(costs: Costs | None = None, vcpus: tuple[int, ...] = ASKED) -> Iterator[str]:
    """The lines of the report, at most 80 columns."""
    told = costs if costs is not None else Costs()
    predicted = [figure for figure in FIGURES if not figure.fits]
    good = [figure for figure in predicted if not is_off(figure, told)]
    worst = max(max(ratio(figure, told), 1 / ratio(figure, told)) for figure in good)
    off = [figure for figure in predicted if is_off(figure, told)]
    if off:
        yield f"NOT GOOD for {len(off)} of {len(predicted)} predictions, marked OFF below."
    yield f"Within a factor of {worst:.1f}: the other {len(good)}, all of means and counts."
    yield ""
    yield f"{'figure':36} {'measured':>10} {'simulated':>10} {'ratio':>6}"
    for figure in FIGURES:
        simulated = figure.simulated(told)
        unit = f" ({figure.unit})" if figure.unit else ""
        kind = f"fit: {figure.fits}" if figure.fits else ""
        mark = "  OFF" if not figure.fits and is_off(figure, told) else ""
        yield (
            f"{figure.name + unit:36} {figure.measured:10,.3g} {simulated:10,.3g} "
            f"{ratio(figure, told):6.2f} {kind}{mark}".rstrip()
        )
    yield ""
    for why in dict.fromkeys(figure.why for figure in off):
        yield from wrap(f"OFF: {why or 'not explained'}.", 80)
    for text in NOT_SIMULATED:
        yield from wrap(f"Not simulated: {text}.", 80)
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
    """Print the report; with ``--fit``, fit the numbers anew and print them first."""
    costs = Costs()
    if sys.argv[1:] == ["--fit"]:
        costs = fit()
        print(costs, end="\n\n")
    for line in report(costs):
        print(line)


if __name__ == "__main__":
    main()
