"""What the real recorders wrote inside a guest (tests/data/recorders)."""

import gzip
import io
from pathlib import Path

import pytest

from dpamt.trace.judge.judge import Judge
from dpamt.trace.recording.model import Call, PamtOp
from dpamt.trace.recording.read import Recording

DATA = Path(__file__).parents[2] / "data" / "recorders"
TDS = 2


def text_of(tool: str) -> bytes:
    return gzip.decompress((DATA / f"{tool}.txt.gz").read_bytes())


@pytest.mark.parametrize("tool", ["ftrace", "trace-cmd", "perf", "bpftrace"])
def test_it_is_read_whole_and_judged_clean(tool: str) -> None:
    recording = Recording(io.BytesIO(text_of(tool)), tool)
    judge = Judge(recording.health)
    items = list(recording)
    judge.take_all(items)
    judged = judge.judgement(recording.form, tool)
    health = recording.health
    # trace_pipe has no mark of its own: the text alone says no more than this.
    assert recording.form == ("trace-cmd" if tool == "ftrace" else tool)
    assert (health.damaged.count, health.lost.count, health.jumps.count) == (0, 0, 0)
    assert (health.unanswered, health.orphans, health.other_events) == (0, 0, 0)
    assert judged.clean, judged.findings
    assert (judged.pairs_now, judged.pages_now, judged.tds_now) == (0, 0, 0)
    reclaimed = [one for one in items if isinstance(one, Call) and one.name == "TDH.VP.FLUSH"]
    assert len(reclaimed) == TDS
    gets = [one for one in items if isinstance(one, PamtOp) and not one.put]
    puts = [one for one in items if isinstance(one, PamtOp) and one.put]
    assert len(puts) == 166
    assert len(gets) == len(puts)


@pytest.mark.parametrize("tool", ["ftrace", "perf", "bpftrace"])
def test_its_stacks_say_who_called(tool: str) -> None:
    items = list(Recording(io.BytesIO(text_of(tool)), tool))
    callers = [one.caller for one in items if isinstance(one, Call | PamtOp)]
    assert all(callers)
    augs = [one.caller for one in items if isinstance(one, Call) and one.name == "TDH.MEM.PAGE.AUG"]
    for caller in augs:
        frames = caller.split(b" <- ")
        assert frames[0].startswith(b"tdh_mem_page_aug")
        assert frames[-1].startswith(b"ret_from_fork_asm")


def test_trace_cmd_says_addresses() -> None:
    items = list(Recording(io.BytesIO(text_of("trace-cmd")), "trace-cmd"))
    callers = {one.caller for one in items if isinstance(one, Call)}
    assert callers
    assert all(len(caller) == 16 and int(caller, 16) >> 63 for caller in callers)
