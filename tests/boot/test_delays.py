"""Delays: which lines are rules, which calls they hit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_AUG,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_SYS_RD,
)
from dpamt.boot.delays import DelayRule, Delays, parse_delay
from dpamt.errors import InputError


def test_a_rule() -> None:
    rule = parse_delay("TDH.PHYMEM.PAMT.*:delay=20:every=3:share=0.5:seed=7")
    assert rule.leaves == {TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE}
    assert (rule.milliseconds, rule.every, rule.share, rule.seed) == (20, 3, 0.5, 7)


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3))
def test_which_calls_are_late(nth: int, every: int, times: int) -> None:
    rule = DelayRule("", frozenset({TDH_SYS_RD}), 250, nth, every, times)
    delays = Delays((rule,))
    hit = [n for n in range(1, 21) if delays.seconds(TDH_SYS_RD) == 0.25]
    wanted = [n for n in range(1, 21) if (not nth or n == nth) and (not every or n % every == 0)]
    assert hit == wanted[: times or None]
    assert (delays.seen, delays.hits) == ([20], [len(hit)])
    assert delays.seconds(TDH_MEM_PAGE_AUG) == 0


def test_a_share_is_drawn_from_its_seed() -> None:
    def hits(seed: int) -> list[bool]:
        rule = DelayRule("", frozenset({TDH_SYS_RD}), 5, share=0.25, seed=seed)
        delays = Delays((rule,))
        return [bool(delays.seconds(TDH_SYS_RD)) for _ in range(2000)]

    assert hits(1) == hits(1) != hits(2)
    assert 400 < sum(hits(1)) < 600


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TDH.NO:delay=1", "leaf 'TDH.NO'; expected a name"),
        ("TDH.SYS.RD:delay=0", "delay=0; expected a whole number from 1 to 60000"),
        ("TDH.SYS.RD:delay=60001", "from 1 to 60000"),
        ("TDH.SYS.RD:delay=\u0662", "from 1 to 60000"),
        ("TDH.SYS.RD:delay=1:delay=2", "expected one each of delay"),
        ("TDH.SYS.RD:delay=1:share=0", "share=0; expected a share above 0, up to 1"),
        ("TDH.SYS.RD:delay=1:share=nan", "expected a share"),
        ("TDH.SYS.RD:delay=1:share=half", "expected a share"),
        ("TDH.SYS.RD:nth=1", "no delay; expected delay="),
        ("TDH.SYS.RD:delay=1\n", "expected a rule on one line"),
    ],
)
def test_what_is_no_rule(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_delay(text)
    assert told in str(caught.value)
