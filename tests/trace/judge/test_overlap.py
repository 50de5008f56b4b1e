"""Calls of two CPUs: what can be in either order is undecided, and a busy lock has a holder."""

from dpamt.abi import leaves as leaf
from dpamt.abi.status import (
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_RND_NO_ENTROPY,
)
from dpamt.trace.judge.contention import GUEST, NOBODY
from dpamt.trace.judge.judge import Judge
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import Call, Health, Lost, PamtOp

MS = 1_000_000
REGION = 0x4000_0000
TDR = 0x5000_0000
PAIR = (0x6000_0000, 0x6000_1000)


def call(number: int, cpu: int, start: int, end: int, *registers: int, status: int = 0) -> Call:
    before = (*registers, *[0] * (8 - len(registers)))
    return Call(start, end, cpu, 10 + cpu, b"t", number, before, status, before, b"f+0x1")


def add(cpu: int, start: int, end: int, status: int = 0, region: int = REGION) -> Call:
    pair = (PAIR[0] + 8 * region, PAIR[1] + 8 * region) if region != REGION else PAIR
    return call(leaf.TDH_PHYMEM_PAMT_ADD, cpu, start, end, region | 1, *pair, status=status)


def remove(cpu: int, start: int, end: int, status: int = 0) -> Call:
    found = call(leaf.TDH_PHYMEM_PAMT_REMOVE, cpu, start, end, REGION | 1, status=status)
    if not status:
        found.answer(end, status, (REGION | 1, *PAIR, *[0] * 5))
    return found


def aug(cpu: int, start: int, end: int, status: int = 0, page: int = REGION) -> Call:
    return call(leaf.TDH_MEM_PAGE_AUG, cpu, start, end, 0x1000, TDR, page, status=status)


def judge(*items: Call | PamtOp | Lost, fresh: bool = True) -> Judgement:
    found = Judge(Health())
    if fresh:
        found.state.begin(True)
    for item in sorted(items, key=lambda one: one.at if isinstance(one, Lost) else one.end):
        found.take(item)
    return found.judgement("boot", "x")


def test_one_after_the_other_is_judged() -> None:
    assert judge(add(0, 0, 10), aug(1, 20, 30)).clean
    wrong = judge(aug(1, 20, 30), add(0, 40, 50))
    assert wrong.findings.counts == {"impossible-answer": 2}
    assert "expected TDX_MISSING_PAMT_PAGE_PAIR" in wrong.findings.first[0].because


def test_either_order_is_undecided() -> None:
    """AUG ended before ADD did, and can have come after it nevertheless."""
    found = judge(add(0, 0, 10), aug(1, 2, 6))
    assert found.findings.counts == {}
    assert found.undecided == 2
    missing = TDX_MISSING_PAMT_PAGE_PAIR | 8
    found = judge(add(0, 0, 10), aug(1, 2, 16, status=missing))
    assert "impossible-answer" not in found.findings.counts
    assert found.findings.counts == {"missing-pair": 1}
    assert found.undecided == 1


def test_calls_of_one_cpu_cannot_overlap() -> None:
    """Whatever a coarse clock says."""
    found = judge(aug(1, 20, 20), add(1, 20, 20))
    assert found.findings.counts["impossible-answer"] == 2


def test_what_waited_is_told_when_nobody_comes() -> None:
    far = add(0, 5_000 * MS, 5_000 * MS + 10, region=2 * REGION)
    assert judge(aug(1, 20, 30), far).findings.counts == {"impossible-answer": 1}


def test_unknown_is_not_wrong() -> None:
    for items in (
        [aug(1, 20, 30)],
        [add(0, 0, 10)],
        [remove(0, 0, 10)],
        [remove(0, 0, 10, status=TDX_NO_PAMT_PAGE_PAIR | 1)],
    ):
        found = judge(*items, fresh=False)
        assert "impossible-answer" not in found.findings.counts
    lost = judge(add(0, 0, 10), Lost(3, 0, 15), add(0, 20, 30))
    assert lost.findings.counts == {}
    assert lost.forgotten == 1


def test_the_holder_of_a_busy_entry_is_named() -> None:
    busy = TDX_OPERAND_BUSY | 8
    for others in ([add(0, 0, 100)], [add(0, 18, 22)], [add(0, 25, 400)]):
        found = judge(*others, aug(1, 20, 30, status=busy))
        assert found.contention == {("TDH.MEM.PAGE.AUG", "R8", "TDH.PHYMEM.PAMT.ADD"): 1}
        assert found.findings.counts == {}
    for others in ([], [add(0, 0, 10)], [add(0, 0, 100, region=2 * REGION)]):
        found = judge(*others, aug(1, 20, 30, status=busy))
        assert found.contention == {("TDH.MEM.PAGE.AUG", "R8", NOBODY): 1}
        assert found.findings.counts == {"busy-alone": 1}


def test_two_pages_of_a_region_with_a_pair_do_not_meet_and_a_tds_locks_are_the_guests_too() -> None:
    busy = TDX_OPERAND_BUSY | 8
    found = judge(add(0, 0, 1), aug(0, 10, 50, page=REGION + 4096), aug(1, 20, 30, status=busy))
    assert found.contention == {("TDH.MEM.PAGE.AUG", "R8", NOBODY): 1}
    found = judge(aug(1, 20, 30, status=TDX_OPERAND_BUSY | 146))
    assert found.contention == {("TDH.MEM.PAGE.AUG", "SEPT_TREE", GUEST): 1}
    assert found.findings.counts == {}


def test_a_busy_remove_is_a_finding_with_its_holder() -> None:
    busy = TDX_OPERAND_BUSY | 1
    found = judge(add(0, 0, 1), aug(0, 10, 50), remove(1, 20, 30, status=busy))
    assert found.findings.counts == {"pair-busy": 1}
    assert "held by TDH.MEM.PAGE.AUG" in found.findings.first[0].because


def test_answers_that_a_leaf_does_not_have() -> None:
    found = judge(
        add(0, 0, 1, status=TDX_RND_NO_ENTROPY),
        add(0, 2, 3, status=TDX_OPERAND_BUSY | 10),
        add(0, 4, 5, status=0xC0000777_00000000),
    )
    assert found.findings.counts == {"impossible-answer": 3}


def op(put: bool, cpu: int, start: int, end: int) -> PamtOp:
    return PamtOp(put, start, end, cpu, 10 + cpu, b"t", REGION >> 12, None if put else 0, b"g+0x2")


def test_a_put_beside_a_get_is_undecided() -> None:
    found = judge(op(True, 1, 5, 8), op(False, 0, 0, 10))
    assert (found.findings.counts, found.undecided) == ({}, 1)
    found = judge(op(True, 1, 5, 8), op(False, 0, 9, 10))
    assert found.findings.counts["put-too-many"] == 1


def test_the_get_that_added_a_pair_is_asked_for_its_leak() -> None:
    found = judge(add(0, 2, 6), op(False, 0, 0, 10), add(1, 50 * MS, 60 * MS, region=2 * REGION))
    (leak,) = [one for one in found.findings.first if one.kind == "leak"]
    assert leak.caller == "g+0x2 (t)"
    assert found.findings.counts == {"leak": 1}
