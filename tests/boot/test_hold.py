"""Hold rules: read, refused, counted."""

import pytest

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.boot.hold import Holds, held_calls, parse_hold
from dpamt.errors import InputError


def test_rules() -> None:
    rule = parse_hold("0@TDH.PHYMEM.PAMT.ADD:until=1:3:nth=2", 2)
    assert (rule.cpu, rule.leaf, rule.call, rule.other, rule.calls, rule.nth) == (
        *(0, TDH_PHYMEM_PAMT_ADD, (), 1, 3, 2),
    )
    rule = parse_hold("1@tdx_pamt_put/_raw_spin_lock:until=0:1", 2)
    assert (rule.leaf, rule.call, rule.nth) == (-1, ("tdx_pamt_put", "_raw_spin_lock"), 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected CPU@LEAF:until=CPU:CALLS"),
        ("0@TDH.X:until=1:1", "leaf 'TDH.X'"),
        ("0@TDH.SYS.RD", "expected CPU@LEAF"),
        ("0@TDH.SYS.RD:until=0:1", "would wait for itself"),
        ("4@TDH.SYS.RD:until=0:1", "CPU 4; expected 0 to 1"),
        ("0@TDH.SYS.RD:until=7:1", "CPU 7; expected 0 to 1"),
        ("0@TDH.SYS.RD:until=1:0", "expected counts from 1"),
        ("0@TDH.SYS.RD:until=1:1:nth=0", "expected counts from 1"),
    ],
)
def test_what_is_no_rule(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        parse_hold(text, 2)


def test_the_nth_time_is_held() -> None:
    holds = Holds((parse_hold("0@TDH.SYS.RD:until=1:1:nth=2", 2),))
    leaf = holds.rules[0].leaf
    assert [holds.picked(0, leaf, ()) for _ in range(4)] == [-1, 0, -1, -1]
    assert holds.picked(1, leaf, ()) == -1
    assert holds.times == [1]


def test_two_rules_at_one_call_make_it_one_rendezvous() -> None:
    texts = (
        "0@a/b:until=1:1",
        "1@a/b:until=0:1:nth=2",
        "0@a/c:until=1:1",
        "0@TDH.SYS.RD:until=1:1",
    )
    rules = tuple(parse_hold(text, 2) for text in texts)
    assert held_calls(rules) == [("a", "b"), ("a", "c")]
