"""Injection in scenarios: the host's retry rules bite, and what is not given back is told."""

import pytest

from dpamt.errors import DpamtError, InputError
from dpamt.run.facts import RunFacts
from dpamt.run.scenario import scenario_from_text
from dpamt.run.story import run

SCENARIO = """
[host]
machine = "2GiB"
inject = [{rules}]

[[side]]
name = "d"
design = "merged"

[[td]]
name = "a"
memory = "8MiB"
share_2m = 0.0

[[phase]]
name = "up"
steps = [{{ do = "build", td = "a" }}, {{ do = "fault", td = "a" }}]
"""


def facts(*rules: str) -> RunFacts:
    text = SCENARIO.format(rules=", ".join(f'"{rule}"' for rule in rules))
    return run(scenario_from_text(text, "test.toml"))


@pytest.mark.parametrize(
    "rule",
    [
        "TDH.MEM.PAGE.AUG:busy=SEPT_TREE:every=7",
        "TDH.MEM.PAGE.AUG:busy=R8:every=2",
        "TDH.MEM.PAGE.ADD:busy=RDX:share=0.3:seed=5",
        "TDH.MEM.SEPT.ADD:busy=OP_STATE:every=2",
        "TDH.MEM.RANGE.BLOCK:busy=RCX:every=2",
        "TDH.MEM.TRACK:busy=TD_EPOCH:every=2",
        "TDH.MEM.PAGE.REMOVE:busy=RCX:every=2",
        "TDH.MNG.CREATE:no-entropy:times=9",
        "TDH.PHYMEM.CACHE.WB:interrupt:times=500",
    ],
)
def test_what_linux_tries_again_is_not_noticed(rule: str) -> None:
    told = facts(rule)
    (side,) = told.sides
    (injected,) = side.injected
    assert injected.hits > 0
    assert sum(row.count for row in injected.answers) == injected.hits
    assert not any(row.status == "TDX_SUCCESS" for row in injected.answers)
    assert told.clean
    assert side.snapshots[-1].free_pages == side.free_pages_at_boot


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("TDH.MEM.PAGE.REMOVE:busy=RCX:times=2", "KVM_BUG_ON"),
        ("TDH.PHYMEM.PAGE.RECLAIM:busy=RCX:nth=2", "is lost"),
        ("TDH.PHYMEM.PAGE.WBINVD:busy=RCX:nth=5", "KVM_BUG_ON"),
        ("TDH.PHYMEM.PAMT.REMOVE:busy=RCX:nth=2", "PAMT.REMOVE of page"),
    ],
)
def test_what_linux_does_not_try_again_is_a_finding(rule: str, what: str) -> None:
    told = facts(rule)
    (side,) = told.sides
    found = [text for snapshot in side.snapshots for text in snapshot.findings]
    assert any(what in text for text in found)
    assert side.snapshots[-1].free_pages < side.free_pages_at_boot
    assert not any("a host with a sound design never sees it" in text for text in found)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("TDH.MNG.CREATE:no-entropy", "EAGAIN"),
        ("TDH.PHYMEM.PAMT.ADD:busy=RCX:nth=3", "EIO|PAMT"),
        ("TDH.SYS.KEY.CONFIG:no-key", "initialization failed"),
    ],
)
def test_what_ends_the_run_is_told(rule: str, what: str) -> None:
    with pytest.raises(DpamtError, match=what):
        facts(rule)


def test_the_same_rules_give_the_same_run() -> None:
    rule = "TDH.MEM.PAGE.AUG:busy=RCX:share=0.2:seed=9"
    assert facts(rule) == facts(rule)
    other = facts("TDH.MEM.PAGE.AUG:busy=RCX:share=0.2:seed=10")
    assert facts(rule).sides[0].injected != other.sides[0].injected


def test_no_rules_change_nothing() -> None:
    assert facts().sides[0].injected == ()


def test_a_rule_that_cannot_be_names_its_place() -> None:
    with pytest.raises(InputError, match=r"test.toml:4: host.inject\[0\].*can meet busy=RDX"):
        facts("TDH.MEM.PAGE.AUG:no-entropy")
    with pytest.raises(InputError, match="an array of texts"):
        scenario_from_text('[host]\ninject = "TDH.MEM.PAGE.AUG:busy=R8"', "t.toml")
