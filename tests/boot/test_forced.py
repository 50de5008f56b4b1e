"""Answers dictated by rule: which lines are rules, which calls they hit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.leaves import LEAF_NAMES, TDH_SYS_INIT, TDH_SYS_RD
from dpamt.abi.status import STATUS_NAMES, TDX_OPERAND_BUSY, TDX_SYS_BUSY
from dpamt.boot.forced import Forced, ForcedRule, parse_forced, split_rules
from dpamt.errors import InputError


@given(st.sampled_from(sorted(LEAF_NAMES)), st.sampled_from(sorted(STATUS_NAMES)))
def test_every_leaf_and_status_by_name(leaf: int, status: int) -> None:
    rule = parse_forced(f"{LEAF_NAMES[leaf]}:answer={STATUS_NAMES[status]}")
    assert Forced((rule,)).status(leaf) == status


@given(
    st.integers(0, 3).map(lambda n: {"nth": n} if n else {}),
    st.integers(0, 3).map(lambda n: {"row": n} if n else {}),
    st.integers(0, 4).map(lambda n: {"every": n} if n else {}),
    st.integers(0, 3).map(lambda n: {"times": n} if n else {}),
)
def test_which_calls_are_hit(
    nth: dict[str, int], row: dict[str, int], every: dict[str, int], times: dict[str, int]
) -> None:
    options = nth | row | every | times
    rule = ForcedRule("", TDH_SYS_RD, TDX_SYS_BUSY, **options)
    forced = Forced((rule,))
    hit = [n for n in range(1, 21) if forced.status(TDH_SYS_RD) is not None]
    wanted = [n for n in range(1, 21) if not rule.nth or rule.nth <= n < rule.nth + rule.row]
    wanted = [n for n in wanted if not rule.every or n % rule.every == 0]
    assert hit == wanted[: rule.times or None]
    assert forced.seen == [20]
    assert forced.hits == [len(hit)]
    assert forced.status(TDH_SYS_INIT) is None


def test_the_first_rule_that_fits_answers() -> None:
    forced = Forced(
        (
            ForcedRule("", TDH_SYS_RD, TDX_SYS_BUSY, nth=2),
            ForcedRule("", TDH_SYS_RD, TDX_OPERAND_BUSY),
        )
    )
    assert [forced.status(TDH_SYS_RD) for _ in range(3)] == [
        TDX_OPERAND_BUSY,
        TDX_SYS_BUSY,
        TDX_OPERAND_BUSY,
    ]


def test_all_kinds_of_rule_on_one_command_line() -> None:
    rules, forced, delays = split_rules(
        [
            "TDH.SYS.INIT:busy=SYS",
            "TDH.SYS.RD:answer=0x8000020000000000:nth=3",
            "TDH.SYS.RD:delay=4",
        ]
    )
    assert [rule.milliseconds for rule in delays] == [4]
    assert [rule.condition for rule in rules] == ["busy"]
    assert [(rule.status, rule.nth) for rule in forced] == [(0x8000020000000000, 3)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("TDH.SYS.INT:answer=1", "did you mean TDH.SYS.INIT?"),
        ("NOTHING:answer=1", "expected a name such as TDH.SYS.INIT"),
        ("TDH.SYS.INIT:answer=TDX_SYS_BUZY", "did you mean TDX_SYS_BUSY?"),
        ("TDH.SYS.INIT:answer=-1", "expected a status"),
        ("TDH.SYS.INIT:answer=0x10000000000000000", "expected a status"),
        ("TDH.SYS.INIT:answer=1:answer=2", "one each"),
        ("TDH.SYS.INIT:answer=1:nth=0", "whole number from 1"),
        ("TDH.SYS.INIT:answer=1:nth=²", "whole number from 1"),
        ("TDH.SYS.INIT:answer=1:share=0.5", "one each"),
        ("TDH.SYS.INIT:nth=1", "no answer"),
        ("TDH.SYS.INIT:answer=1\n", "one line of plain text"),
    ],
)
def test_a_line_that_is_no_rule(line: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_forced(line)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
