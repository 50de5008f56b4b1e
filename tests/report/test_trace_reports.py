"""A judged recording as text, JSON, page and Perfetto's events: the same numbers in each.

The judgement is made up, each number another one.
"""

import io
import json
import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import (
    LEAF_NAMES,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_TRACK,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
)
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.report.trace_html import _series_figure, _times_figure
from dpamt.report.trace_json import trace_json
from dpamt.report.trace_perfetto import PerfettoOut
from dpamt.report.trace_text import notes, trace_text
from dpamt.trace.judge.findings import LEAK, MISSING_PAIR, Findings, TraceFinding
from dpamt.trace.judge.result import Judgement
from dpamt.trace.judge.times import Histogram
from dpamt.trace.recording.model import Call, Examples, Health, Lost, PamtOp

from .read_back import cells, number, section, shows

OF_HEALTH = ("unanswered", "orphans", "late", "damaged")
UNKNOWN = 400
"""A leaf that has no name."""


def histogram(*values: int) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def examples(count: int) -> Examples:
    made = Examples()
    for at in range(count):
        made.add(f"example {at}")
    return made


def judged(**changed: Any) -> Judgement:
    health = Health(12_345, 3 << 20, 111, 222, 333, 444)
    facts: dict[str, Any] = {
        "name": "mine.txt",
        "form": "ftrace",
        "health": health,
        "from_boot": True,
        "dynamic": True,
        "blind": False,
        "forgotten": 0,
        "statuses": Counter({
            (TDH_MEM_PAGE_AUG, TDX_SUCCESS): 5_555, (TDH_MEM_PAGE_AUG, TDX_OPERAND_BUSY): 66,
            (TDH_MEM_PAGE_AUG, -1): 7, (UNKNOWN, 0xC0FFEE00000000): 8,
        }),
        "findings": Findings(),
        "undecided": 0,
        "contention": Counter(),
        "adds": 1_001, "removes": 902, "pairs_now": 99, "pairs_most": 1_503,
        "pages_now": 2_504, "tds_now": 5,
        "series": [(10**9, 1, 20), (3 * 10**9, 4, 30)],
        "by_leaf": {}, "ops": {"tdx_pamt_get": histogram(5_000, 7_000)},
        "slow": [], "slow_calls": 0,
        "seconds": 12.3456,
    }  # fmt: skip
    return Judgement(**{**facts, **changed})


def flat(text: str) -> str:
    return " ".join(text.split())


def document(one: Judgement) -> Any:
    return json.loads(json.dumps(trace_json(one)))


def test_what_was_read() -> None:
    one = judged()
    text, said = trace_text(one), document(one)
    assert text.startswith(
        "mine.txt: ftrace's trace file\n=============================\n\nClean: "
    )
    assert (
        "12,345 lines, 3 MiB, 12.346 seconds of recording: 333 SEAMCALLs, 444 gets and puts; 222 "
        "other events."
    ) in flat(text)
    health = said["health"]
    keys = ("lines", "bytes", "events", "other_events", "seamcalls", "gets_and_puts")
    assert [health[key] for key in keys] == [12_345, 3 << 20, 111, 222, 333, 444]
    assert (said["name"], said["recording"], said["seconds"]) == ("mine.txt", "ftrace", 12.3456)
    assert (said["clean"], said["from_boot"], said["dynamic_pamt"]) == (True, True, True)
    assert said["pages_followed"] is True
    assert said["headline"] == "Clean: every answer is possible and nothing leaks."
    assert notes(one) == said["notes"] == []
    joined = document(judged(from_boot=False))["headline"]
    assert joined.endswith(
        "nothing leaks, as far as a recording that joins a running host can tell."
    )


def test_pairs_and_pages() -> None:
    one = judged()
    lines = section(trace_text(one), "Page pairs and pages")
    wanted = [
        ("PAMT.ADD that succeeded", 1_001, False),
        ("PAMT.REMOVE that succeeded", 902, False),
        ("page pairs at the end", 99, True),
        ("page pairs at most", 1_503, True),
        ("4K pages in use at the end", 2_504, False),
        ("TDs at the end", 5, False),
    ]
    for line, (label, count, is_pairs) in zip(lines, wanted, strict=True):
        kb = f" ({8 * count:,} KB)" if is_pairs else ""
        assert cells(line) == [label, f"{count:,}{kb}"]
    assert len({len(line.partition(" (")[0]) for line in lines}) == 1
    said = document(one)
    assert said["pairs"] == {"added": 1_001, "removed": 902, "at_end": 99, "most": 1_503}
    assert (said["pages_in_use_at_end"], said["tds_at_end"]) == (2_504, 5)
    assert said["series"] == [[10**9, 1, 20], [3 * 10**9, 4, 30]]
    blind = judged(blind=True, from_boot=False)
    lines = section(trace_text(blind), "Page pairs and pages")
    assert not any("4K pages" in line for line in lines)
    assert lines[-1].startswith("  Counted is what the recording shows")
    assert document(blind)["pages_in_use_at_end"] is None


def test_statuses() -> None:
    one = judged()
    rows = [cells(line) for line in section(trace_text(one), "SEAMCALLs")]
    name = LEAF_NAMES[TDH_MEM_PAGE_AUG]
    assert rows == [
        [name, "no answer", "7"],
        [name, "5,555"],
        [name, "TDX_OPERAND_BUSY", "66"],
        ["leaf 400", "0x00c0ffee00000000", "8"],
    ]
    assert [(row["leaf"], row["status"], row["count"]) for row in document(one)["seamcalls"]] == [
        (name, None, 7),
        (name, "TDX_SUCCESS", 5_555),
        (name, "TDX_OPERAND_BUSY", 66),
        ("leaf 400", "0x00c0ffee00000000", 8),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"forgotten": 3}, "events were lost 3 times; after each nothing is known"),
        ({"from_boot": False}, "does not begin with TDH.SYS.CONFIG"),
        ({"dynamic": None}, "nothing shows whether the module runs Dynamic PAMT."),
        ({"dynamic": False}, "the module runs static PAMT: there are no page pairs."),
        ({"blind": True}, "no registers after calls that take pages back"),
        ({"ops": {}}, "no gets and puts in the recording"),
        ({"undecided": 4_321}, "4,321 answers depend on the order of calls that overlapped"),
        ({"unanswered": 4_322}, "4,322 calls have no answer in the recording."),
        ({"orphans": 4_323}, "4,323 answers have no call in the recording."),
        ({"late": 4_324}, "4,324 events came too late to be put in order."),
        ({"damaged": examples(3)}, "3 lines are damaged; they were left out."),
    ],
)
def test_what_limits_the_verdict(changed: dict[str, Any], said: str) -> None:
    health = {key: value for key, value in changed.items() if key in OF_HEALTH}
    one = judged(**{key: value for key, value in changed.items() if key not in health})
    for key, value in health.items():
        setattr(one.health, key, value)
    (note,) = notes(one)
    assert said in note
    assert f"Note: {note}" in flat(trace_text(one))
    if health and "damaged" not in health:
        ((key, value),) = health.items()
        assert document(one)["health"][key] == value


@pytest.mark.parametrize(
    ("field", "title"),
    [
        ("damaged", "damaged lines"),
        ("jumps", "clocks that stepped back"),
        ("gaps", "gaps of more than an hour"),
        ("lost", "events that the tracer lost"),
    ],
)
@pytest.mark.parametrize("many", [1, 5, 6, 1_234])
def test_what_is_wrong_with_the_recording(field: str, title: str, many: int) -> None:
    one = judged()
    setattr(one.health, field, examples(many))
    lines = section(trace_text(one), "What is wrong with the recording")
    assert lines[0] == f"  {title}: {many:,}"
    shown = min(many, 5)
    assert lines[1 : 1 + shown] == [f"    example {at}" for at in range(shown)]
    assert lines[1 + shown :] == ([f"    and {many - 5:,} more"] if many > 5 else [])
    key = {"jumps": "clock_jumps"}.get(field, field)
    assert document(one)["health"][key]["count"] == many
    assert document(one)["health"][key]["first"] == [f"example {at}" for at in range(shown)]


def test_events_that_were_lost_are_counted_by_the_tracer() -> None:
    one = judged()
    one.health.lost, one.health.lost_events = examples(2), 9_876
    lines = section(trace_text(one), "What is wrong with the recording")
    assert lines[0] == "  events that the tracer lost: 9,876"
    assert document(one)["health"]["lost"]["events"] == 9_876
    assert "What is wrong" not in trace_text(judged())


def test_findings() -> None:
    findings = Findings()
    for at in range(30):
        findings.add(TraceFinding(MISSING_PAIR, at * 10**9, at, f"AUG {at}", "no pair", "caller"))
    findings.add(TraceFinding(LEAK, 5 * 10**8, -1, "a region", ""), 1_234)
    one = judged(findings=findings)
    text, said = trace_text(one), document(one)
    assert f"FINDINGS: leak 1,234, {MISSING_PAIR} 30." in text
    assert said["clean"] is False
    lines = section(text, "Findings")
    assert lines[0] == "  leak (1,234): page pairs that no page uses"
    assert lines[1] == "    at 0.500000: a region." or lines[1].startswith("    at 0.5")
    assert "CPU" not in lines[1]
    about = [line for line in lines if "AUG" in line]
    assert len(about) == 5
    for at, line in enumerate(about):
        assert f" on CPU {at}: AUG {at}, from caller: no pair." in line
        assert shows(line.split()[1], at)
    assert re.search("^    and .*more \\(--json has the first 20\\)$", "\n".join(lines), re.M)
    assert said["findings"]["counts"] == {MISSING_PAIR: 30, LEAK: 1_234}
    assert len(said["findings"]["first"]) == 21
    assert said["findings"]["first"][3] == {
        "kind": MISSING_PAIR, "at": 3 * 10**9, "cpu": 3, "what": "AUG 3", "because": "no pair",
        "caller": "caller",
    }  # fmt: skip
    few = Findings()
    for at in range(5):
        few.add(TraceFinding(MISSING_PAIR, at, 0, f"AUG {at}", ""))
    assert "--json" not in trace_text(judged(findings=few))
    few.add(TraceFinding(MISSING_PAIR, 9, 0, "AUG 5", ""))
    assert "(--json has the first 20)" in trace_text(judged(findings=few))


def test_busy_locks() -> None:
    contention = Counter(
        {("TDH.MEM.PAGE.AUG", f"operand {n}", "somebody"): 10_000 - n for n in range(15)}
    )
    one = judged(contention=contention)
    lines = section(trace_text(one), "Locks that were busy")
    assert lines == [
        *(f"  TDH.MEM.PAGE.AUG operand {n}: {10_000 - n:,} times, somebody" for n in range(12)),
        "  and 3 more kinds",
    ]
    assert document(one)["contention"] == [
        {"leaf": "TDH.MEM.PAGE.AUG", "operand": f"operand {n}", "holder": "somebody",
         "count": 10_000 - n}
        for n in range(15)
    ]  # fmt: skip
    twelve = Counter(dict(contention.most_common(12)))
    assert "more kinds" not in trace_text(judged(contention=twelve))
    assert "Locks that" not in trace_text(judged())


def test_times() -> None:
    """Percentiles of a histogram are right within 6.25 %, here held against sorted lists."""
    chance = random.Random(5)
    values = {
        leaf: [chance.randrange(500, 3_000_000) for _ in range(400)]
        for leaf in (TDH_MEM_PAGE_AUG, -1 - TDH_MEM_PAGE_AUG, -1 - UNKNOWN)
    }
    names = ("TDH.MEM.PAGE.AUG", "TDH.MEM.PAGE.AUG, failed", "leaf 400, failed", "tdx_pamt_get")
    every = dict(zip(names, [*values.values(), [5_000, 7_000]], strict=True))
    one = judged(
        by_leaf={leaf: histogram(*some) for leaf, some in values.items()},
        slow=["the slow one"],
        slow_calls=1_234,
    )
    lines = section(trace_text(one), "^How long they took")
    assert cells(lines[0]) == ["count", "p50", "p99", "p99.9", "most"]
    said = document(one)["durations_ns"]
    assert set(said) == set(every)
    for line in lines[1:5]:
        name, count, *shown = cells(line)
        some = sorted(every[name])
        assert count == str(len(some))
        assert len(line) == len(lines[0])
        for cell, percent in zip(shown, (50, 99, 99.9, 100), strict=True):
            wanted = some[max(0, -(-len(some) * percent // 100).__int__() - 1)] / 1000
            assert number(cell).value == pytest.approx(wanted, rel=0.0625, abs=0.1)
        assert said[name]["count"] == len(some)
        assert said[name]["mean"] == pytest.approx(sum(some) / len(some))
        assert said[name]["most"] == some[-1]
        for percent, key in ((50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9")):
            wanted = some[max(0, int(-(-len(some) * percent // 100)) - 1)]
            assert said[name][key] == pytest.approx(wanted, rel=0.0625)
    text = flat("\n".join(lines))
    assert "1,234 calls, gets and puts took more than 8 times the median of their leaf" in text
    assert lines[-1] == "    the slow one"
    assert document(one)["slow"] == {"count": 1_234, "worst": ["the slow one"]}
    assert "the median" not in trace_text(judged())
    assert "How long they took" in trace_text(judged())
    assert "How long they took" not in trace_text(judged(ops={}))


def test_costs_for_the_lock_cost_model() -> None:
    """Means in microseconds; a zap is its four SEAMCALLs, where all four were seen."""
    leaves = (TDH_MEM_RANGE_BLOCK, TDH_MEM_TRACK, TDH_MEM_PAGE_REMOVE, TDH_PHYMEM_PAGE_WBINVD)
    by_leaf = {leaf: histogram(1_000 * n, 3_000 * n) for n, leaf in enumerate(leaves, 1)}
    by_leaf[TDH_PHYMEM_PAMT_ADD] = histogram(7_000, 8_000)
    one = judged(by_leaf=by_leaf)
    assert document(one)["verify_costs_us"] == {"add": 7.5, "zap": 2.0 + 4.0 + 6.0 + 8.0}
    by_leaf[TDH_PHYMEM_PAMT_REMOVE] = by_leaf.pop(TDH_MEM_TRACK)
    assert document(one)["verify_costs_us"] == {"add": 7.5, "remove": 4.0}


def test_pairs_over_time() -> None:
    findings = Findings()
    findings.add(TraceFinding(LEAK, 2 * 10**9, 0, "x", ""))
    figure = _series_figure(judged(findings=findings))
    pairs, pages = figure.data
    assert (pairs.name, list(pairs.y)) == ("page pairs", [1, 4])
    assert (pages.name, list(pages.y)) == ("4K pages in use", [20, 30])
    assert list(pairs.x) == list(pages.x) == [0, 2]  # seconds since the first
    assert pairs.line.shape == pages.line.shape == "hv"  # a number holds until the next one
    assert pairs.line.color != pages.line.color
    assert (pairs.yaxis, pages.yaxis) == ("y", "y2")
    assert (figure.layout.yaxis2.side, figure.layout.yaxis2.overlaying) == ("right", "y")
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1) == (1, 1)
    titles = [figure.layout[axis].title.text for axis in ("xaxis", "yaxis", "yaxis2")]
    assert titles == ["seconds", "page pairs", "4K pages in use"]
    assert len(_series_figure(judged(series=[])).data[0].x) == 0


def test_shares_of_calls_over_their_times() -> None:
    values = [1_000, 2_000, 4_000, 64_000]
    by_leaf = {-1 - UNKNOWN: histogram(*values)}
    by_leaf |= {leaf: histogram(*[5] * leaf) for leaf in range(1, 16)}
    figure = _times_figure(judged(by_leaf=by_leaf))
    assert len(figure.data) == 12 + 1  # the leaves with most calls, and the gets
    (get,) = [trace for trace in figure.data if trace.name == "tdx_pamt_get"]
    assert list(get.y) == [50, 100]
    assert list(get.x) == pytest.approx([5, 7], rel=0.0625)
    assert get.x[-1] == 7  # not beyond the longest
    alone = judged(by_leaf={-1 - UNKNOWN: by_leaf[-1 - UNKNOWN]}, ops={})
    (only,) = _times_figure(alone).data
    assert only.name == "leaf 400, failed"
    assert list(only.y) == [25, 50, 75, 100]
    assert list(only.x) == pytest.approx([1, 2, 4, 64], rel=0.0625)
    assert only.line.shape == "hv"
    assert (figure.layout.xaxis.type, figure.layout.xaxis.title.text) == ("log", "microseconds")
    assert figure.layout.yaxis.range[0] == 0
    assert figure.layout.yaxis.range[1] >= 100


def call(start: int | None, end: int, cpu: int, status: int | None) -> Call:
    before = (7, 0, 5, *[0] * (len(REGISTER_NAMES) - 3))
    after = (7, 0, 6, *before[3:]) if status is not None else None
    return Call(start, end, cpu, 42, b"qemu", TDH_MEM_PAGE_AUG, before, status, after, b"f+0x1")


def events(*items: Any, pairs: tuple[int, ...] = (), most: int | None = None) -> list[Any]:
    file = io.StringIO()
    judge: Any = SimpleNamespace(state=SimpleNamespace(pairs=0))
    out = PerfettoOut(file, judge)
    for at, item in enumerate(items):
        if pairs:
            judge.state.pairs = pairs[at]
        out.add(item)
    findings = Findings()
    findings.add(TraceFinding(LEAK, 10**9 + 7_000, 3, "a region", "so", "who"))
    out.finish(judged(findings=findings))
    whole = json.loads(file.getvalue())
    assert whole["displayTimeUnit"] == "ms"
    assert out.slices == sum(event["ph"] == "X" for event in whole["traceEvents"])
    assert out.left_out == 0
    made: list[Any] = whole["traceEvents"]
    assert {event["pid"] for event in made} == {1}
    assert {event["ph"] for event in made} <= {"M", "X", "C", "i"}
    return made


def test_perfetto_has_a_slice_for_each_call() -> None:
    """Microseconds from the first event; a call without a beginning has no length."""
    first = 10**9
    made = events(
        call(first, first + 2_500, 0, TDX_SUCCESS),
        call(None, first + 9_000, 5, TDX_OPERAND_BUSY),
        call(first + 9_500, first + 9_900, 5, None),
    )
    tracks = {e["tid"]: e["args"]["name"] for e in made if e["name"] == "thread_name"}
    assert tracks == {1: "CPU0", 6: "CPU5"}
    assert made[0]["args"] == {"name": "SEAMCALLs"}
    assert (made[0]["ph"], made[0]["name"]) == ("M", "process_name")
    slices = [event for event in made if event["ph"] == "X"]
    assert [(e["tid"], e["ts"], e["dur"]) for e in slices] == [
        (1, 0, 2.5),
        (6, 9.0, 0),
        (6, 9.5, pytest.approx(0.4)),
    ]
    assert {event["name"] for event in slices} == {"TDH.MEM.PAGE.AUG"}
    statuses = ["TDX_SUCCESS", "TDX_OPERAND_BUSY", "no answer"]
    for one, status in zip(slices, statuses, strict=True):
        args = dict(one["args"])
        assert args.pop("status") == status
        assert (args.pop("caller"), args.pop("task")) == ("f+0x1", "qemu-42")
        changed = "0x5 -> 0x6" if status != "no answer" else "0x5"
        assert sorted(args.values()) == sorted(["0x7", changed])


def test_perfetto_has_gets_and_puts_losses_and_findings() -> None:
    first = 10**9
    made = events(
        PamtOp(False, first, first + 3_000, 1, 9, b"", 0x1234, 0, b"", 1_500),
        PamtOp(True, first + 4_000, first + 5_000, 1, 9, b"", None, None, b""),
        Lost(77, 2, first + 6_000),
    )
    get, put = [event for event in made if event["ph"] == "X"]
    assert (get["name"], put["name"]) == ("tdx_pamt_get", "tdx_pamt_put")
    assert get["args"] == {"page": "0x1234000", "result": "0", "waited for locks (us)": 1.5}
    assert put["args"] == {"page": None}
    lost, found = [event for event in made if event["ph"] == "i"]
    assert (lost["name"], lost["ts"], lost["args"]) == ("events lost", 6.0, {"count": 77, "cpu": 2})
    assert (found["name"], found["ts"]) == ("leak", 7.0)
    assert found["args"] == {"what": "a region", "because": "so", "caller": "who"}
    assert lost["s"] == found["s"] == "g"  # on all tracks


def test_perfetto_counts_pairs_when_they_change() -> None:
    first = 10**9
    made = events(
        *(call(first + n * 1_000, first + n * 1_000 + 500, 0, 0) for n in range(4)),
        pairs=(0, 3, 3, 2),
    )
    counted = [event for event in made if event["ph"] == "C"]
    named = [(event["name"], event["ts"], event["args"]["now"]) for event in counted]
    assert named == [
        ("page pairs", 0.5, 0),
        ("bytes in pairs", 0.5, 0),
        ("page pairs", 1.5, 3),
        ("bytes in pairs", 1.5, 3 * 8192),
        ("page pairs", 3.5, 2),
        ("bytes in pairs", 3.5, 2 * 8192),
    ]


def test_perfetto_leaves_out_what_no_viewer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpamt.report.trace_perfetto.MOST", 2)
    judge: Any = SimpleNamespace(state=SimpleNamespace(pairs=0))
    out = PerfettoOut(io.StringIO(), judge)
    for at in range(5):
        out.add(call(at, at + 1, 0, 0))
    assert (out.slices, out.left_out) == (2, 3)


def test_a_judgement_of_another_form() -> None:
    assert trace_text(replace(judged(), form="boot")).startswith("mine.txt: dpamt boot --record\n")
