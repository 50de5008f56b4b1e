"""A real kernel with Dynamic PAMT, one of its PAMT.ADDs falsely answered with success."""

import gzip
import io
from functools import cache
from pathlib import Path

import pytest

from dpamt.trace.judge.judge import Judge
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import Call
from dpamt.trace.recording.read import Recording
from tests.trace.recorded import WRITERS, as_bytes

FILE = Path(__file__).parents[2] / "data" / "boot-false-add.jsonl.gz"


@cache
def calls() -> list[Call]:
    """A record from outside knows CPUs; tracers have a task as well, here one a CPU."""
    with gzip.open(FILE) as file:
        found = [item for item in Recording(file, "boot") if isinstance(item, Call)]
    for call in found:
        call.comm, call.pid = b"swapper", 100 + call.cpu
    return found


def judged(form: str) -> Judgement:
    recording = Recording(io.BytesIO(as_bytes(WRITERS[form](calls()))), form)
    judge = Judge(recording.health)
    for item in recording:
        judge.take(item)
    return judge.judgement(form, form)


@pytest.mark.parametrize("form", ["boot", "ftrace", "trace-cmd", "perf", "bpftrace"])
def test_the_false_answer_is_named_from_any_text_alone(form: str) -> None:
    judgement = judged(form)
    assert judgement.findings.counts == {
        "bad-remove": 1,
        "impossible-answer": 1,
        "missing-pair": 35,
    }
    (wrong,) = [one for one in judgement.findings.first if one.kind == "impossible-answer"]
    assert wrong.what == "TDH.MEM.PAGE.AUG answered TDX_MISSING_PAMT_PAGE_PAIR"
    assert "region 0x101800000 has a page pair (TDH.PHYMEM.PAMT.ADD at 7.478755" in wrong.because
    assert judgement.from_boot
    assert judgement.pairs_now == 0
