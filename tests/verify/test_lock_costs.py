"""The costs of a lock beside what was measured: the fit, the predictions, what is said of them."""

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.costs import Costs, play, play_storm, play_zaps, put_paths
from dpamt.verify.lock_costs import FACTOR, FIGURES, Figure, fit, is_off, ratio, report

COSTS = Costs()
FITTED = [figure for figure in FIGURES if figure.fits]
PREDICTED = [figure for figure in FIGURES if not figure.fits]


def test_the_numbers_of_costs_are_those_of_the_fit() -> None:
    again = fit(COSTS, rounds=1, halvings=7)
    for figure in FITTED:
        assert getattr(again, figure.fits) == pytest.approx(
            getattr(COSTS, figure.fits), rel=0.25, abs=0.02
        )


@pytest.mark.parametrize("figure", FITTED, ids=lambda figure: figure.name)
def test_a_fitted_figure_is_met(figure: Figure) -> None:
    assert 0.9 < ratio(figure, COSTS) < 1.1


@pytest.mark.parametrize("figure", PREDICTED, ids=lambda figure: figure.name)
def test_a_prediction_is_within_the_factor_or_says_why(figure: Figure) -> None:
    assert is_off(figure, COSTS) == bool(figure.why)


def test_fewer_figures_are_fitted_than_predicted() -> None:
    assert {figure.fits for figure in FITTED} == {"step", "handover", "page", "fault"}
    assert len([figure for figure in PREDICTED if not figure.why]) >= 2 * len(FITTED)
    assert FACTOR == 3


def test_the_report_says_first_where_it_is_not_good() -> None:
    lines = list(report(COSTS, (16,)))
    assert lines[0].startswith("NOT GOOD for ")
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.endswith("OFF") for line in lines) == sum(is_off(one, COSTS) for one in FIGURES)
    for figure in FIGURES:
        assert any(line.startswith(figure.name) for line in lines)


def test_puts_have_paths_too() -> None:
    last, other = put_paths(load_design("merged"), Costs(remove=100.0))
    assert max(piece.microseconds for piece in last if piece.lock) > 100
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
