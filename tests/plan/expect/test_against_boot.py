"""The expectation of a TD is what a real kernel built: its calls, as `dpamt boot` recorded them."""

import gzip
from collections import Counter
from pathlib import Path

from dpamt.abi import leaves as leaf
from dpamt.plan.expect.cases import LAUNCHED, case_of_tds
from dpamt.plan.expect.expected import expect
from dpamt.plan.mix import parse_mix
from dpamt.trace.recording.model import Call
from dpamt.trace.recording.read import Recording

FILE = Path(__file__).parents[2] / "data" / "boot-false-add.jsonl.gz"


def test_control_and_sept_pages_of_each_td_of_a_real_kernel() -> None:
    control: Counter[int] = Counter()
    sept: Counter[int] = Counter()
    owner: dict[int, int] = {}
    with gzip.open(FILE) as file:
        for call in Recording(file, "boot"):
            if not isinstance(call, Call) or call.status:
                continue
            rcx, rdx = call.before[:2]
            if call.leaf == leaf.TDH_MNG_CREATE:
                control[rcx] = 1
            elif call.leaf in (leaf.TDH_MNG_ADDCX, leaf.TDH_VP_CREATE):
                control[rdx] += 1
                owner[rcx] = rdx
            elif call.leaf == leaf.TDH_VP_ADDCX:
                control[owner[rdx]] += 1
            elif call.leaf == leaf.TDH_MEM_SEPT_ADD:
                sept[rdx & ~1] += 1
    expectation = expect(case_of_tds([parse_mix("2MiB/1vcpu")]))
    (launched,) = (one for one in expectation.checkpoints if one.checkpoint.name == LAUNCHED)
    pages = launched.pages_most
    assert launched.pages_least.sept == pages.sept
    assert len(control) == 2
    assert set(control.values()) == {pages.control}
    assert set(sept.values()) == {pages.sept}
