"""The answer to a host that ages: from what it saves on average, whatever it saves when fresh."""

from dataclasses import replace
from functools import cache

import pytest

from dpamt.plan.ageing.answer import aged_answer
from dpamt.plan.ageing.both import BothAges, age_both
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.answer import Answer, Kind
from dpamt.plan.confidence import Interval
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import HostPlan, machine_named, plan_host
from dpamt.report.plan_ageing import aged_exit_code, aged_headline, aged_lines

GIB = 1 << 30


@cache
def small() -> tuple[HostPlan, BothAges]:
    mix = parse_mix("4x1GiB")
    both = age_both(machine_named("8GiB"), [mix], 0.9, {}, 2 / 168, (0,), 1)
    return plan_host("8GiB", [mix]), both


def flat(value: float, ageing: Ageing) -> Interval:
    every = (value,) * len(ageing.times_hours)
    return Interval(every, every, every)


def saving(both: BothAges, saved: float, worst: float) -> BothAges:
    """The same weeks with other bytes: one hour of the worst, two that make up for it."""
    now = both.today
    bad, good = now.static_bytes - worst, now.static_bytes - (3 * saved - worst) / 2
    bytes_ = Interval((bad, good, good), (bad, good, good), (bad, good, good))
    return replace(both, today=replace(now, dynamic_bytes=bytes_))


@pytest.mark.parametrize(
    ("saved_of_ram", "worst_of_ram", "kind", "code", "said"),
    [
        (0.003, 0.002, "saves", 0, "saves"),
        (0.001, -0.001, "saves", 0, "in its worst hour it costs"),
        (0.0002, 0.0001, "marginal", 0, "next to nothing"),
        (-0.0002, -0.0004, "marginal", 0, "costs next to nothing"),
        (-0.002, -0.003, "costs", 1, "Stay on a kernel or a TDX module without Dynamic PAMT"),
    ],
)
def test_kinds(saved_of_ram: float, worst_of_ram: float, kind: Kind, code: int, said: str) -> None:
    plan, both = small()
    ram = plan.host.memory_bytes
    changed = saving(both, saved_of_ram * ram, worst_of_ram * ram)
    told = aged_answer(plan.answer, changed, ram)
    assert (told.kind, told.exit_code) == (kind, code)
    assert told.today.saved == pytest.approx(saved_of_ram * ram, abs=2)
    assert told.today.saved_worst == pytest.approx(worst_of_ram * ram, abs=2)
    lines = " ".join(" ".join(aged_lines(plan, changed).first).split())
    assert said in lines
    assert aged_exit_code(plan, changed) == code


def test_a_host_on_which_tdx_is_not_up_keeps_its_answer() -> None:
    _plan, both = small()
    failed = plan_host("reserved-areas", [parse_mix("1GiB")])
    told = aged_answer(failed.answer, both, failed.host.memory_bytes)
    assert (told.kind, told.exit_code) == ("failed-in-its-log", 1)
    lines = " ".join(aged_lines(failed, both).first)
    assert "line 42" in lines
    assert "Sizes for when it comes up:" in lines


def test_tds_that_find_no_room() -> None:
    plan, both = small()
    empty = replace(both, today=replace(both.today, tds=flat(0.0, both.today)))
    told = aged_answer(plan.answer, empty, plan.host.memory_bytes)
    assert (told.kind, told.exit_code) == ("does-not-fit", 1)
    assert "hardly one finds room" in aged_headline(plan, empty).sentence


@pytest.mark.parametrize(("without", "limit"), [(9.0, "KeyIDs"), (2.0, "memory")])
def test_what_limits(without: float, limit: str) -> None:
    plan, both = small()
    one = (10.0,), (10.0,), (10.0,)
    now = replace(
        both.today,
        refused=Interval(*one),
        without_keyid=Interval((without,), (without,), (without,)),
    )
    told: Answer = plan.answer
    assert aged_answer(told, replace(both, today=now), 8 * GIB).limit == limit
