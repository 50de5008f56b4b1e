"""Injection in scenarios: each of the host's retry rules bites, as often as Linux's does."""

from dataclasses import replace

import pytest

from dpamt.errors import DpamtError, InputError
from dpamt.run.api import run_scenario
from dpamt.run.facts import InjectionFacts, RunFacts, SideFacts
from dpamt.run.failures import KernelFailed
from dpamt.run.scenario import scenario_from_text
from dpamt.run.world import World

LIFE = """
[host]
machine = "2GiB"
cpus = 2

[[side]]
name = "d"
design = "merged"

[[td]]
name = "a"
memory = "8MiB"
share_2m = 0.7
vcpus = 2
image = "40KiB"

[[phase]]
name = "up"
steps = [
    { do = "build" },
    { do = "fault" },
    { do = "split", share = 0.5 },
    { do = "convert", share = 0.1, chunk = "64KiB" },
]
"""
FAULTS = LIFE[: LIFE.index('    { do = "split"')] + "]\n"
"""As far as that the VM only comes and goes."""
IN_TD = ("RDX", "OP_STATE", "SEPT_TREE", "RCX")


def run(*rules: str, text: str = LIFE) -> RunFacts:
    return run_scenario(text, inject=rules)


def side_of(facts: RunFacts) -> SideFacts:
    (side,) = facts.sides
    return side


def sequels(told: InjectionFacts) -> tuple[int, int, int, int, int]:
    return told.through, told.again, told.bugged, told.warned, told.silent


def lost(side: SideFacts) -> int:
    return side.free_pages_at_boot - side.snapshots[-1].free_pages


# What is tried again.


@pytest.mark.parametrize(
    "rule",
    [
        *(f"TDH.MEM.PAGE.AUG:busy={name}:every=2" for name in (*IN_TD, "R8")),
        *(f"TDH.MEM.SEPT.ADD:busy={name}:every=2" for name in (*IN_TD, "R8")),
        *(f"TDH.MEM.RANGE.BLOCK:busy={name}:every=2" for name in IN_TD),
        *(f"TDH.MEM.PAGE.REMOVE:busy={name}:every=2" for name in IN_TD),
        *(f"TDH.MEM.PAGE.DEMOTE:busy={name}:every=2" for name in (*IN_TD, "R8", "R12", "R13")),
        *(f"TDH.MEM.TRACK:busy={name}:every=2" for name in ("RCX", "OP_STATE", "TD_EPOCH")),
        *(f"TDH.VP.ENTER:busy={name}:every=2" for name in ("RCX", "TDR", "OP_STATE", "TD_EPOCH")),
        "TDH.MEM.PAGE.ADD:busy=RDX:share=0.3:seed=5",
        "TDH.MEM.PAGE.ADD:busy=R8:every=2",
        "TDH.MNG.CREATE:no-entropy:times=9",
        "TDH.MNG.ADDCX:no-entropy:times=17",
        "TDH.PHYMEM.CACHE.WB:interrupt:times=10000",
        "TDH.VP.ENTER:interrupt:every=2",
    ],
)
def test_what_linux_tries_again_is_not_noticed(rule: str) -> None:
    facts = run(rule)
    side = side_of(facts)
    (told,) = side.injected
    through, again, *given_up = sequels(told)
    assert again > 0
    assert again + through == told.hits == sum(row.count for row in told.answers)
    assert not through or "MNG.ADDCX" in rule  # only its last page draws
    assert given_up == [0, 0, 0]
    assert facts.clean
    assert lost(side) == 0


@pytest.mark.parametrize(
    ("condition", "resumed"),
    [("TDH.PHYMEM.CACHE.WB:interrupt", 10_000), ("TDH.MEM.RANGE.BLOCK:busy=RCX", 1)],
)
def test_one_time_too_many(condition: str, resumed: int) -> None:
    assert run(f"{condition}:times={resumed}", text=FAULTS).clean
    side = side_of(run(f"{condition}:times={resumed + 1}", text=FAULTS))
    (told,) = side.injected
    assert told.again == resumed
    assert told.bugged + told.warned == 1
    assert lost(side) > 0


@pytest.mark.parametrize("leaf", ["RANGE.BLOCK:busy=RCX", "TRACK:busy=RCX", "PAGE.REMOVE:busy=RCX"])
def test_a_second_busy_bugs_the_vm_and_the_page_is_lost(leaf: str) -> None:
    side = side_of(run(f"TDH.MEM.{leaf}:times=2", text=FAULTS))
    (told,) = side.injected
    assert sequels(told) == (0, 1, 1, 0, 0)
    findings = [text for snapshot in side.snapshots for text in snapshot.findings]
    assert sum("KVM_BUG_ON" in text for text in findings) == 1
    # The page, the TD's pages that hang on it (its TDR), and the pairs that back both.
    last = side.snapshots[-1]
    assert last.tds.guest_4k + last.tds.guest_2m == 1
    assert 0 < lost(side) < 2 * 512


def test_reclaim_is_not_tried_again() -> None:
    side = side_of(run("TDH.PHYMEM.PAGE.RECLAIM:busy=RCX:nth=2", text=FAULTS))
    (told,) = side.injected
    assert sequels(told) == (0, 0, 0, 1, 0)
    last = side.snapshots[-1]
    assert last.tds.sept == 1  # the page itself
    assert last.tds.control == 1  # the TDR, which the module keeps while a page is in the TD
    assert lost(side) == 2 + 2 * last.pairs


@pytest.mark.parametrize(
    "rule", ["TDH.MNG.VPFLUSHDONE:busy=KOT", "TDH.MNG.KEY.FREEID:busy=KOT", "TDH.VP.FLUSH:busy=TDR"]
)
def test_a_td_that_keeps_its_keyid_keeps_its_pages(rule: str) -> None:
    side = side_of(run(rule, text=FAULTS))
    (told,) = side.injected
    assert told.bugged == 1  # Linux warns of a VM once
    assert told.silent == told.hits - 1
    last = side.snapshots[-1]
    assert lost(side) == last.tds.sept + last.tds.control + 2 * last.pairs


def test_a_pair_that_is_not_taken_out_stays_for_ever() -> None:
    side = side_of(run("TDH.PHYMEM.PAMT.REMOVE:busy=RCX", text=FAULTS))
    (told,) = side.injected
    assert told.warned == 1  # WARN_ONCE
    assert told.silent == told.hits - 1
    assert lost(side) == 2 * side.snapshots[-1].pairs > 0


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("TDH.MNG.CREATE:no-entropy", r"EAGAIN.*; injected by TDH.*: 10 of 10 calls"),
        ("TDH.MNG.CREATE:busy=KOT", r"EIO.*; injected by TDH.*: 1 of 1 calls"),
        ("TDH.PHYMEM.PAMT.ADD:busy=RCX:nth=1", r"ENOMEM.*got no PAMT for a page.*injected by"),
        ("TDH.MR.FINALIZE:busy=RCX", r"finalisation failed: -EBUSY.*1 of 1 calls"),
        ("TDH.MEM.PAGE.DEMOTE:busy=R12:times=2", r"split of a .*EIO.*2 of 2 calls"),
        ("TDH.SYS.KEY.CONFIG:no-key", r"initialization failed.*1 of 1 calls"),
        ("TDH.SYS.CONFIG:busy=SYS", r"initialization failed.*1 of 1 calls"),
        ("TDH.MEM.PAGE.AUG:busy=R8", r"livelock: TDH.MEM.PAGE.AUG failed 20001 times in a row"),
        ("TDH.VP.ENTER:busy=RCX", r"livelock: TDH.VP.ENTER failed .*injected by TDH.VP.ENTER:"),
        ("TDH.VP.ENTER:interrupt", r"livelock: TDH.VP.ENTER failed .*injected by TDH.VP.ENTER:"),
    ],
)
def test_what_ends_the_run_is_told_with_its_rule(rule: str, what: str) -> None:
    with pytest.raises(DpamtError, match=what) as caught:
        run(rule)
    assert caught.value.exit_code == 1


# What rules do not change.


def test_a_rule_that_never_hits_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run()
    assert side_of(plain).injected == ()
    watched = run("*:busy=OP_STATE:nth=999999999", "TDH.MEM.PAGE.AUG:busy=R8:share=0")
    assert replace(watched, sides=(replace(side_of(watched), injected=()),)) == plain
    assert all(told.hits == 0 < told.seen for told in side_of(watched).injected)
    monkeypatch.setattr(World, "in_bulk", False)
    assert run() == plain


def test_the_same_rules_give_the_same_run() -> None:
    rules = "TDH.MEM.PAGE.AUG:busy=RCX:share=0.2:seed=9", "TDH.VP.*:busy=TDR:share=0.05"
    assert run(*rules, text=FAULTS) == run(*rules, text=FAULTS)
    other = run(rules[0].replace("9", "10"), rules[1], text=FAULTS)
    assert other.sides[0].injected != run(*rules, text=FAULTS).sides[0].injected


def test_each_side_meets_its_own_rules() -> None:
    text = LIFE.replace('[[side]]\nname = "d"\ndesign = "merged"\n', "")
    facts = run("TDH.MEM.PAGE.AUG:busy=R8:every=3", text=text)
    static, dynamic = facts.sides
    assert static.injected == dynamic.injected
    (told,) = static.injected
    assert told.again == told.hits > 100
    assert facts.clean


def test_the_first_hits_are_told_one_by_one() -> None:
    (told,) = side_of(run("TDH.MEM.PAGE.AUG:busy=R8:every=7")).injected
    assert [hit.call for hit in told.first_hits] == [7 * n for n in range(1, 17)]
    assert {(hit.leaf, hit.status) for hit in told.first_hits} == {
        ("TDH.MEM.PAGE.AUG", "TDX_OPERAND_BUSY R8")
    }


def test_only_as_many_surprises_as_injected_are_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BUSY that comes from elsewhere is told, beside one of the same leaf that does not."""
    boot = World.boot

    def with_one_more(self: World) -> None:
        boot(self)
        self.seamcalls.add(6, 0x80000200_00000008, 1)  # AUG busy, of whatever cause

    monkeypatch.setattr(World, "boot", with_one_more)
    text = FAULTS + '[[phase]]\nname = "more"\nsteps = []\n'
    facts = run("TDH.MEM.PAGE.AUG:busy=R8:nth=5", text=text)
    findings = [text for snapshot in side_of(facts).snapshots for text in snapshot.findings]
    assert findings == [
        "TDH.MEM.PAGE.AUG returned TDX_OPERAND_BUSY, 1 times: a host with a sound design never "
        "sees it here"
    ]


def test_a_rule_that_cannot_be_names_its_place() -> None:
    text = LIFE.replace("cpus = 2", 'cpus = 2\ninject = [\n  "TDH.MEM.PAGE.AUG:no-entropy",\n]')
    with pytest.raises(InputError, match=r"test.toml:\d+: host.inject\[0\].*can meet busy=RDX"):
        scenario_from_text(text, "test.toml")
    for wrong in ('"TDH.MEM.PAGE.AUG:busy=R8"', "[7]", '[["a"]]', "true"):
        with pytest.raises(InputError, match=r"t.toml:2: host.inject: expected an array of texts"):
            scenario_from_text(f"[host]\ninject = {wrong}", "t.toml")


@pytest.mark.parametrize(
    ("leaf", "place"),
    [("TDH.PHYMEM.PAMT.ADD", "tdx_pamt_get"), ("TDH.PHYMEM.PAMT.REMOVE", "tdx_pamt_put")],
)
def test_a_warn_under_the_spinlock_is_told(leaf: str, place: str) -> None:
    """Whether the run goes on after it or not."""
    try:
        snapshots = side_of(run(f"{leaf}:busy=RCX:nth=2", text=FAULTS)).snapshots
        told = [finding for one in snapshots for finding in one.findings]
    except KernelFailed as failed:
        told = [str(failed)]
    expected = f"WARN_ON_ONCE in {place}, printed while dpamt_lock is held"
    assert any(expected in text for text in told)
