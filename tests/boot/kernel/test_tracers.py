"""The recorders of `dpamt trace --how` on a real kernel, inside the guest, beside the record from
outside: the same calls, the same judgement; and faults named from the tracer's text alone."""

import io
import json
from pathlib import Path

import pytest

from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.boot.answering import Answering
from dpamt.boot.forced import parse_forced
from dpamt.cli.main import main
from dpamt.trace.how import Wanted
from dpamt.trace.judge.judge import Judge
from dpamt.trace.judge.pages_of import REGISTER
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import Call, Item, PamtOp
from dpamt.trace.recording.read import Recording

from .inside import Recorded, record_inside
from .test_dynamic_kernel import dynamic  # noqa: F401  (a fixture)


def items_of(data: bytes, form: str | None = None) -> list[Item]:
    recording = Recording(io.BytesIO(data), "x", form)
    items = list(recording)
    health = recording.health
    assert (health.damaged.first, health.lost.first, health.jumps.first) == ([], [], [])
    return items


def asked(call: Call) -> tuple[object, ...]:
    """What was asked and answered.  A register that the leaf does not take is not compared: the
    kernel leaves in it what was there, and a tracer sees the structure in memory."""
    operands = LEAF_OPERANDS.get(call.leaf, {})
    values = tuple((name, call.before[REGISTER[name]]) for name in sorted(operands))
    return call.cpu, call.rax, values, call.status


def steps(items: list[Item]) -> list[tuple[object, ...]]:
    """After each call: pairs and pages in use, and every region's state, as the judge has them."""
    recording = Recording(io.BytesIO(b"# tracer: nop\n"), "x")
    judge = Judge(recording.health)
    found: list[tuple[object, ...]] = []
    for item in items:
        if isinstance(item, PamtOp):
            continue
        judge.take(item)
        regions = {
            index: (region.state, region.used.bit_count())
            for index, region in judge.state.regions.items()
            if region.used or region.state == 2
        }
        found.append((judge.state.pairs, judge.state.used, sorted(regions.items())))
    assert judge.judgement("ftrace", "x").clean
    return found


def judged(recorded: Recorded) -> Judgement:
    recording = Recording(io.BytesIO(recorded.trace), "x")
    judge = Judge(recording.health)
    for batch in recording.batches():
        judge.take_all(batch)
    return judge.judgement(recording.form, "x")


def same_as_outside(recorded: Recorded) -> list[Item]:
    """Holds the trace against the record; returns the trace's items."""
    inside = items_of(recorded.trace)
    calls = [item for item in inside if isinstance(item, Call)]
    outside = [one for one in items_of(recorded.outside.read_bytes()) if isinstance(one, Call)]
    first = next(place for place, one in enumerate(outside) if asked(one) == asked(calls[0]))
    there = outside[first : first + len(calls)]
    assert [asked(call) for call in calls] == [asked(call) for call in there]
    # Before is the module's initialisation, after it SYS.DISABLE: nothing of a TD's.
    assert not [one for one in outside[:first] if one.name.startswith(("TDH.MNG", "TDH.MEM"))]
    assert [one.name for one in outside[first + len(calls) :]] == ["TDH.SYS.DISABLE"]
    there_as_inside: list[Item] = [*there]
    assert steps([*calls]) == steps(there_as_inside)
    return inside


def test_ftrace_inside_sees_what_the_record_outside_has(
    dynamic: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    wanted = Wanted(stacks=True, locks=True)
    recorded = record_inside(dynamic, tmp_path, "ftrace", wanted=wanted)
    inside = same_as_outside(recorded)
    gets = [one for one in inside if isinstance(one, PamtOp) and not one.put]
    puts = [one for one in inside if isinstance(one, PamtOp) and one.put]
    assert len(gets) == len(puts) > 100
    added = [one for one in inside if isinstance(one, Call) and one.name == "TDH.PHYMEM.PAMT.ADD"]
    assert all(b"tdx_pamt_get <- tdx_alloc_control_page <- " in call.caller for call in added)
    assert judged(recorded).clean


@pytest.mark.parametrize("tool", ["trace-cmd", "perf", "bpftrace"])
def test_so_do_the_others(dynamic: Path, tmp_path: Path, tool: str) -> None:  # noqa: F811
    recorded = record_inside(dynamic, tmp_path, tool, wanted=Wanted(stacks=tool != "trace-cmd"))
    same_as_outside(recorded)
    assert judged(recorded).clean


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """dpamt boot would stop the guest at the first contradiction, and its trace with it."""
    monkeypatch.setattr(Answering, "_wrong_now", lambda *_call: [])


@pytest.mark.usefixtures("goes_on")
def test_an_add_that_was_none_is_named_from_the_trace_alone(
    dynamic: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    forced = (parse_forced("TDH.PHYMEM.PAMT.ADD:answer=TDX_SUCCESS:nth=1"),)
    found = judged(record_inside(dynamic, tmp_path, "ftrace", forced=forced)).findings
    (first, *_others) = [one for one in found.first if one.kind == "impossible-answer"]
    assert "has a page pair (TDH.PHYMEM.PAMT.ADD at" in first.because
    assert found.counts["missing-pair"] >= 1


@pytest.mark.usefixtures("goes_on")
def test_a_remove_that_was_lost_is_named_from_the_trace_alone(
    dynamic: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    forced = (parse_forced("TDH.PHYMEM.PAMT.REMOVE:answer=TDX_OPERAND_BUSY:nth=1"),)
    found = judged(record_inside(dynamic, tmp_path, "ftrace", forced=forced)).findings
    (leak,) = [one for one in found.first if one.kind == "leak"]
    assert (found.counts["leak"], leak.what) == (1, "1 page pair")
    assert leak.caller.startswith("tdx_alloc_control_page")


@pytest.mark.usefixtures("goes_on")
def test_a_put_too_many_is_named_from_the_trace_alone(
    dynamic: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    exercise = "hammer:bug=put-too-many:rounds=300:use-every=100:threads=1"
    recorded = record_inside(dynamic, tmp_path, "ftrace", exercise)
    found = judged(recorded).findings
    assert found.counts["put-too-many"] >= 1
    (first, *_others) = [one for one in found.first if one.kind == "put-too-many"]
    assert "has been put as often as it was got" in first.because


def test_drgn_reads_the_guests_counters_from_its_memory(
    dynamic: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the vmcore that `dpamt boot --core` writes, by the kernel's own table of symbols; as
    many as the judge says, of the calls before it."""
    drgn = pytest.importorskip("drgn")
    from dpamt.trace import drgn_counts

    record, core, counts = (tmp_path / name for name in ("record", "core", "counts"))
    at = 1225  # among the removes of the first TD
    words = f"boot --vmlinux {dynamic / 'vmlinux'} --build {dynamic} --exercise"
    words += f" life:threads=1:rounds=2 --record {record} --core {core} --core-at {at}"
    assert main(words.split()) == 0, capsys.readouterr().out
    assert f"MiB of the guest's memory, after {at - 1:,} SEAMCALLs" in capsys.readouterr().out
    prog = drgn.Program()
    prog.set_core_dump(core)
    assert drgn_counts.main(prog) == 0
    text, told = capsys.readouterr()
    document = json.loads(text)
    assert document["counters"] == "dpamt_refcounts"
    assert f"{document['pairs']} page pairs" in told
    counts.write_text(text)
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:at]))
    # A page that was removed is counted until its cache lines are written back.
    waits = json.loads(lines[at])["leaf"] == "TDH.PHYMEM.PAGE.WBINVD"
    assert main(["trace", str(record), "--counts", str(counts), "--json"]) == waits
    judgement = json.loads(capsys.readouterr().out)
    assert judgement["findings"]["counts"] == ({"count-differs": 1} if waits else {})
    assert judgement["pairs"]["at_end"] == document["pairs"] > 0
    assert judgement["series"][-1][2] + waits == document["pages"] > 0
    # One counter more, and it is named.
    document["regions"][0][1] += 2
    counts.write_text(json.dumps(document))
    assert main(["trace", str(record), "--counts", str(counts), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"]["counts"].keys() == {"count-differs"}
