"""How many TDs fit: a plan of that number fits, and one of one more does not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.plan.mix import TdMix, parse_mix
from dpamt.plan.mix_size import MixSize
from dpamt.plan.plan import plan_host
from dpamt.platform.machine import Machine
from dpamt.report.plan_answer import headline, limit_line

from .hosts import hosts

MIB = 1 << 20


def today(host: str | Machine, kinds: list[TdMix]) -> MixSize:
    made = plan_host(host, kinds).today
    assert made is not None
    return made


def left(mix: MixSize, dynamic: bool) -> int:
    return mix.left_dynamic if dynamic else mix.left_static


@settings(max_examples=40, deadline=None)
@given(hosts(), st.integers(1, 40), st.integers(1, 3), st.integers(1, 60), st.booleans())
def test_as_many_as_it_says_fit(
    host: Machine, ranges: int, vcpus: int, asked: int, dynamic: bool
) -> None:
    """Whether the TDs that were asked for fit or not."""
    kind = TdMix(1, min(ranges * 2 * MIB, 32 * MIB), vcpus, 0.0)
    found = today(host, [replace(kind, count=asked)])
    most = found.most_dynamic if dynamic else found.most_static
    assert left(today(host, [replace(kind, count=most + 1)]), dynamic) < 0
    if most:
        assert left(today(host, [replace(kind, count=most)]), dynamic) >= 0


@settings(max_examples=20, deadline=None)
@given(hosts(), st.integers(1, 3), st.integers(1, 20))
def test_of_two_kinds_the_smaller_is_counted(host: Machine, large: int, small: int) -> None:
    kinds = [TdMix(large, 16 * MIB, 2, 0.0), TdMix(small, 4 * MIB, 1, 0.0)]
    most = today(host, kinds).most_dynamic
    if most > large:
        assert today(host, [kinds[0], replace(kinds[1], count=most - large)]).left_dynamic >= 0
    if most:
        assert today(host, [kinds[0], replace(kinds[1], count=most - large + 1)]).left_dynamic < 0
    else:
        assert today(host, [kinds[0], replace(kinds[1], count=1)]).left_dynamic < 0


@pytest.mark.parametrize(
    ("tds", "todo", "limit"),
    [
        (["40x16GiB/4vcpu"], "Run at most 3 of these TDs", "memory, 3 TDs today"),
        (["4x16GiB/4vcpu"], "Run at most 3 of these TDs", "memory, 3 TDs today"),
        (["1x65200MiB"], "Take smaller TDs", "memory, too little for these TDs today"),
        (["40x16GiB", "1x1GiB"], "Run fewer or smaller TDs", "memory, too little for these"),
        (["3x16GiB", "40x1GiB"], "Run fewer or smaller TDs", "memory, 18 TDs today"),
        (["1x50GiB"], "", "memory, 1 TD today"),
        (["40x1GiB"], "Run at most 31 TDs at once, or raise", "KeyIDs, 31 TDs at once"),
    ],
)
def test_advice_that_can_be_followed(tds: list[str], todo: str, limit: str) -> None:
    plan = plan_host("64GiB", [parse_mix(one) for one in tds])
    assert headline(plan).todo.startswith(todo)
    assert limit_line(plan).startswith(f"What limits first: {limit}")
    keys = "for more than 31 TDs at once also raise the TME-MT/TDX key split in the BIOS"
    mix = plan.today
    assert mix is not None
    assert (keys in headline(plan).todo) == (mix.short_of[:2] == ("KeyIDs", "memory"))
