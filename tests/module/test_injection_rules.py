"""Rules of injection as text: what they mean, and that a broken one is refused in one line."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpamt.abi.contention import BUSY_OPERANDS, DRAWS_ENTROPY
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import LEAF_NAMES, TDH_MNG_CREATE
from dpamt.errors import InputError
from dpamt.module.injection_rules import parse_rule


def test_what_a_rule_says() -> None:
    rule = parse_rule("TDH.MEM.PAGE.AUG:busy=R8:share=.25:seed=7:times=3:hpa=4096-0x3000:gpa=0-0x9")
    assert {LEAF_NAMES[leaf] for leaf in rule.leaves} == {"TDH.MEM.PAGE.AUG"}
    assert (rule.condition, rule.operand) == ("busy", "R8")
    assert (rule.share, rule.seed, rule.times, rule.nth, rule.every) == (0.25, 7, 3, 0, 0)
    assert (rule.memory, rule.guest) == (range(0x1000, 0x3000), range(9))


def test_a_region_is_the_2m_around_the_address() -> None:
    rule = parse_rule("TDH.PHYMEM.PAMT.ADD:busy=RCX:region=0x40212345")
    assert rule.memory == range(0x40200000, 0x40400000)


def test_a_pattern_means_the_leaves_that_can_meet_the_condition() -> None:
    assert parse_rule("*:no-entropy").leaves == DRAWS_ENTROPY
    tree = parse_rule("TDH.MEM.*:busy=SEPT_TREE").leaves
    assert tree == {leaf for leaf, operands in BUSY_OPERANDS.items() if "SEPT_TREE" in operands}
    assert parse_rule("*CREATE:busy=KOT").leaves == {TDH_MNG_CREATE}
    memory = parse_rule("*:busy=KOT:region=0x40000000").leaves
    assert {LEAF_NAMES[leaf] for leaf in parse_rule("*:busy=KOT").leaves - memory} == {
        "TDH.PHYMEM.CACHE.WB"
    }


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_rule(text)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TDH.MEM.PAGE.AUK:busy=RCX", "did you mean TDH.MEM.PAGE.AUG?"),
        ("tdh_mem_page_aug:busy=RCX", "expected a name such as"),
        ("", "expected a name such as"),
        (":", "expected a name such as"),
        ("TDX.*:busy=RCX", "expected a name such as"),
        ("TDH.MNG.WR:busy=RCX", "is not modelled"),
        ("TDH.MEM.PAGE.AUG", "no condition; expected busy=RDX"),
        ("TDH.MEM.PAGE.AUG:", "can meet busy=RDX"),
        ("TDH.MEM.PAGE.AUG:busy", "can meet busy=RDX"),
        ("TDH.MEM.PAGE.AUG:busy=", "can meet busy=RDX"),
        ("TDH.MEM.PAGE.AUG:busy=r8", "can meet busy=RDX"),
        ("TDH.MEM.PAGE.AUG:busy=R8=R8", "can meet busy=RDX"),
        ("TDH.MEM.PAGE.AUG:no-entropy", "can meet busy=RDX"),
        ("TDH.MNG.CREATE:no-entropy=", "can meet busy=RCX, busy=KOT, no-entropy"),
        ("TDH.MNG.KEY.FREEID:busy=R8", "can meet busy=RCX, busy=KOT"),
        ("TDH.PHYMEM.PAMT.ADD:interrupt", "can meet busy=RCX"),
        ("TDH.PHYMEM.CACHE.WB:busy=RCX", "can meet busy=WBCACHE, busy=KOT, interrupt"),
        ("TDH.MNG.KEY.RECLAIMID:busy=RCX", "can meet nothing"),
        ("TDH.SYS.RD:busy=SYS", "can meet nothing"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=0", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=-1", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1_0", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth= 1", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:every=\u0663", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:every=1.5", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:times=", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:times=" + "9" * 5000, "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=2", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=-0.1", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=nan", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=inf", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=5%", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=.5:seed=-1", "expected a whole number from 0"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1:every=2", "expected one of nth, every, share"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1:nth=2", "nth is said twice"),
        ("TDH.MEM.PAGE.AUG:busy=R8:seed=2", "seed without share"),
        ("TDH.MEM.PAGE.AUG:busy=R8:row=2", "row without nth"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1:row=0", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:when=2", "expected one of nth, every"),
        ("TDH.MEM.PAGE.AUG:busy=R8:", "expected one of nth, every"),
        ("TDH.MEM.PAGE.AUG:busy=R8:region=here", "expected an address"),
        ("TDH.MEM.PAGE.AUG:busy=R8:region=0x10000000000000", "below 2^52"),
        ("TDH.MEM.PAGE.AUG:busy=R8:hpa=0x1000", "expected a range of addresses"),
        ("TDH.MEM.PAGE.AUG:busy=R8:hpa=5-5", "expected a range of addresses"),
        ("TDH.MEM.PAGE.AUG:busy=R8:gpa=9-5", "expected a range of guest addresses"),
        ("TDH.MEM.PAGE.AUG:busy=R8:region=0:hpa=0-9", "expected region or hpa"),
        ("TDH.MNG.CREATE:no-entropy:gpa=0-9", "is given no guest address"),
        ("TDH.PHYMEM.CACHE.WB:interrupt:region=0", "is given no address of memory"),
        ("TDH.MEM.PAGE.AUG:busy=R8\nTDH.SYS.RD", "on one line"),
        ("TDH.MEM.PAGE.AUG:busy=R8\x1b[31m", "on one line"),
    ],
)
def test_a_line_that_is_no_rule(text: str, told: str) -> None:
    assert told in refusal(text)


PARTS = st.sampled_from(
    [
        *("busy=RCX", "busy=R8", "busy=SYS", "no-entropy", "interrupt", "no-key", "busy"),
        *("nth=2", "every=0", "share=0.5", "seed=3", "times=1"),
        *("region=0x200000", "hpa=0-1", "gpa=1-0", "x", "="),
    ]
)
NAMES = st.sampled_from([*LEAF_NAMES.values(), "*", "TDH.*", "", "**"])


@given(st.builds(lambda name, parts: ":".join([name, *parts]), NAMES, st.lists(PARTS, max_size=5)))
@example("*:" * 40)
def test_any_line_is_a_rule_or_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InputError:
        refusal(text)
        return
    assert rule.leaves
    assert rule.leaves <= set(LEAF_OPERANDS)
    assert rule.text == text
    if rule.condition == "busy":
        assert all(rule.operand in BUSY_OPERANDS[leaf] for leaf in rule.leaves)


@given(st.text(max_size=60))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    refusal(text)
