"""The expectation of a case is what the host's own code arrives at, page for page."""

import pytest

from dpamt.plan.expect.cases import CASE_NUMBERS, LAUNCHED, case_of, case_of_tds
from dpamt.plan.expect.expected import Expectation, expect
from dpamt.plan.expect.ran import RanPoint, run_case
from dpamt.plan.expect.td_range import InUse
from dpamt.plan.mix import parse_mix
from dpamt.platform.size import machine_from_size
from dpamt.report.expect_text import outside

UNIT = 2 << 20
ALL = InUse(1.0, 1.0)


def at(expectation: Expectation, point: RanPoint) -> tuple[int, int, int, int]:
    """Control, S-EPT and guest pages expected where the model is."""
    (bound,) = (one for one in expectation.checkpoints if one.checkpoint.name == point.checkpoint)
    assert bound.pages_least == bound.pages_most
    pages = bound.pages_most
    return pages.control, pages.sept, pages.guest_4k, pages.guest_2m


@pytest.mark.parametrize("number", CASE_NUMBERS)
def test_a_case_of_the_public_test_page_for_page(number: int) -> None:
    machine = machine_from_size("2GiB")
    case = case_of(number, UNIT)
    expectation = expect(case, host=machine, in_use=ALL)
    points = run_case(case, machine, repeat=2 if number == 10 else 1)
    for point in points:
        assert at(expectation, point) == (
            point.tds.control,
            point.tds.sept,
            point.tds.guest_4k,
            point.tds.guest_2m,
        )
    assert outside(expectation, points) == []
    assert points[-1].pairs == 0
    launched = [point for point in points if point.checkpoint == LAUNCHED]
    if launched:
        (bound,) = (one for one in expectation.checkpoints if one.checkpoint.name == LAUNCHED)
        assert bound.fresh is not None
        assert abs(bound.fresh - launched[0].pairs) <= 1


@pytest.mark.parametrize("design", ["v2", "v4", "v5", "v6", "lazy", "static"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_any_kernel_and_any_share_stays_inside_the_range(design: str, share: float) -> None:
    machine = machine_from_size("1GiB")
    case = case_of_tds([parse_mix("2x8MiB/3vcpu"), parse_mix("16MiB/2vcpu@2M=60%")])
    points = run_case(case, machine, design=design, share=share)
    for in_use in (InUse(share, share), InUse(0.0, 1.0)):
        expectation = expect(case, host=machine, design=design, in_use=in_use)
        assert outside(expectation, points) == []


def test_a_leak_is_outside_the_range() -> None:
    machine = machine_from_size("1GiB")
    case = case_of(5, UNIT)
    expectation = expect(case, host=machine)
    *_, last = run_case(case, machine)
    leaked = RanPoint(1, last.checkpoint, last.tds, 1, ())
    assert outside(expectation, [leaked]) == ["1: vm2-closed: 1 page pairs; expected 0 to 0"]
