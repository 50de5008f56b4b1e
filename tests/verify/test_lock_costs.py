"""The costs of a lock beside what was measured: the fit, the predictions, what is said of them."""

from dataclasses import replace
from math import log

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.costs import Costs, longest_stall, play, play_storm, play_zaps, put_paths
from dpamt.verify.lock_costs import FACTOR, FIGURES, Figure, fit, is_off, ratio, report

COSTS = Costs()
FITTED = FIGURES[::2]
PREDICTED = FIGURES[1::2]
NUMBERS = sorted({figure.fits for figure in FITTED})


def wrong(name: str, costs: Costs) -> float:
    return sum(log(ratio(figure, costs)) ** 2 for figure in FITTED if figure.fits == name)


def times(name: str, factor: float) -> Costs:
    changed: dict[str, float] = {name: factor * getattr(COSTS, name)}
    return replace(COSTS, **changed)


def test_every_other_figure_is_fitted() -> None:
    assert all(figure.fits for figure in FITTED)
    assert not any(figure.fits for figure in PREDICTED)
    assert 2 * len(NUMBERS) < len(PREDICTED) + 2
    assert FACTOR == 3


@pytest.mark.parametrize("name", NUMBERS)
def test_no_other_number_fits_better(name: str) -> None:
    best = wrong(name, COSTS)
    assert best <= wrong(name, times(name, 1.25))
    assert best <= wrong(name, times(name, 0.8))


def test_the_fit_finds_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two that are quick to fit, from elsewhere."""
    monkeypatch.setattr("dpamt.verify.lock_costs._ORDER", ("stall", "growth"))
    again = fit(replace(COSTS, stall=5.0, growth=1.0), rounds=8, cuts=20)
    assert again.stall == pytest.approx(COSTS.stall, rel=0.1)
    assert again.growth == pytest.approx(COSTS.growth, rel=0.1)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure_is_within_the_factor_or_says_why(figure: Figure) -> None:
    assert is_off(figure, COSTS) == bool(figure.why)


def test_the_report_says_first_what_it_is_good_for() -> None:
    lines = list(report(COSTS, (16,)))
    assert lines[0] == "15 of 15 predictions within a factor of 2.2."
    assert all(len(line) <= 80 for line in lines)
    for figure in FIGURES:
        assert any(line.startswith(figure.name) for line in lines)


def test_the_report_says_first_what_it_is_not_good_for() -> None:
    """With an ADD of half a millisecond."""
    costs = replace(COSTS, add=500.0)
    lines = list(report(costs, (16,)))
    assert lines[0].startswith("NOT GOOD for: ")
    assert sum(line.endswith("OFF") for line in lines) == sum(is_off(one, costs) for one in FIGURES)
    assert "OFF: not explained." in lines


def test_a_stall_of_more_calls_is_longer() -> None:
    assert longest_stall(COSTS, 1e6) == COSTS.stall
    assert longest_stall(COSTS, 4e6) / longest_stall(COSTS, 1e6) == pytest.approx(4**COSTS.growth)


def test_pages_that_meet_nobody_are_played_as_one_stretch() -> None:
    """The time of v6's gets: as many thinks and later gets as pages, and the first gets."""
    played = play(load_design("v6"), 1, 512 * 40, replace(COSTS, jitter=0.0))
    assert played.firsts == 40
    later = (played.spent - played.firsts_spent) / (512 * 40 - 40)
    assert 0 < later < COSTS.page
    worked = played.seconds * 1e6 - played.spent
    assert worked == pytest.approx(512 * 40 * COSTS.fault, rel=1e-3)


def test_puts_have_paths_too() -> None:
    last, other = put_paths(load_design("merged"), Costs(remove=100.0))
    assert max(piece.microseconds + piece.varies for piece in last if piece.lock) > 100
    assert max(piece.microseconds for piece in other if piece.lock) < 1
    assert put_paths(load_design("v6"), COSTS)[1][0].lock == ""


def test_a_lock_from_another_cpu_costs_its_line() -> None:
    design = load_design("merged")
    alone, two = (play_zaps(design, threads, 1024) for threads in (1, 2))
    extra = two.spent / 2048 - alone.spent / 1024
    assert COSTS.handover / 3 < extra < COSTS.handover
    free = Costs(handover=0.0)
    assert play_zaps(design, 2, 1024, free).spent == pytest.approx(
        2 * play_zaps(design, 1, 1024, free).spent, rel=0.1
    )


def test_without_a_fast_path_a_boot_of_many_cpus_waits() -> None:
    merged, v6 = (play(load_design(name), 64, 640) for name in ("merged", "v6"))
    assert merged.spent > 100 * v6.spent


def test_a_lone_page_pays_with_and_without_the_fast_path() -> None:
    for name in ("merged", "v6"):
        design = load_design(name)
        lone, busy = (play_storm(design, 16, 64, lone=lone) for lone in (True, False))
        assert lone.spent > 10 * busy.spent
