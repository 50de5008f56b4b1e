import gzip
import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from dpamt.cli.trace import _parser
from dpamt.trace.recording.read import FORMATS
from dpamt.verify.costs import Costs
from tests.trace.recorded import WRITERS, Recorder, as_bytes, td_of, world_of

from .command import dpamt, environment, refused

FALSE_ADD = Path(__file__).parents[1] / "data" / "boot-false-add.jsonl.gz"


@cache
def recorded(put_too_many: bool = False) -> Recorder:
    recorder = Recorder()
    world = world_of(recorder, memory="256MiB")
    td = td_of(world, 2, 1)
    if put_too_many:
        used, kernel = next(iter(world.view.used_pages())), world.kernel
        for _ in range(kernel.pamt_refcounts.at(used >> 9).load() + 1):
            kernel.tdx_pamt_put(kernel, kernel.cpus[0], used)
    td.destroy()
    return recorder


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.txt"
    path.write_bytes(as_bytes(WRITERS["ftrace"](recorded().items)))
    return path


def test_a_good_recording(good: Path) -> None:
    ended = dpamt("trace", good.name, cwd=good.parent)
    assert ended.code == 0
    assert "Clean: every answer is possible and nothing leaks." in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())


def test_a_bad_one_is_told_in_the_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(as_bytes(WRITERS["trace-cmd"](recorded(True).items)))
    ended = dpamt("trace", path.name, cwd=tmp_path)
    assert ended.code == 1
    assert ended.out.splitlines()[3].startswith("FINDINGS: bad-remove")
    document = json.loads(dpamt("trace", str(path), "--json").out)
    assert document["clean"] is False
    assert document["findings"]["counts"]["put-too-many"] > 0
    assert document["recording"] == "trace-cmd"


def test_findings_that_are_alike_are_one_sentence(tmp_path: Path) -> None:
    """With all of their times, and how many more there are."""
    (tmp_path / "recording").write_bytes(gzip.decompress(FALSE_ADD.read_bytes()))
    judged = json.loads(dpamt("trace", "recording", "--json", cwd=tmp_path).out)["findings"]
    alike = [one for one in judged["first"] if one["kind"] == "missing-pair"][:5]
    assert len({(one["what"], one["because"], one["caller"]) for one in alike}) == 1
    report = " ".join(dpamt("trace", "recording", cwd=tmp_path).out.split())
    times = ", ".join(f"{one['at'] / 1e9:.6f}" for one in alike)
    assert f"at {times} on CPU {alike[0]['cpu']}: {alike[0]['what']}, from" in report
    assert report.count(alike[0]["because"]) == judged["counts"]["bad-remove"] + 1
    assert f"and {judged['counts']['missing-pair'] - 5} more (--json has the first 20)" in report


def test_the_document_has_the_calls_of_the_recording(good: Path) -> None:
    document = json.loads(dpamt("trace", str(good), "--json").out)
    calls = recorded().calls
    assert document["health"]["seamcalls"] == len(calls)
    assert sum(row["count"] for row in document["seamcalls"]) == len(calls)
    adds = sum(call.name == "TDH.PHYMEM.PAMT.ADD" for call in calls)
    assert document["pairs"]["added"] == adds == document["pairs"]["removed"]
    assert document["verify_costs_us"] == {"add": 5.0, "remove": 5.0, "zap": 20.0}
    assert Costs(**document["verify_costs_us"]).remove == 5.0
    assert document["series"][-1][1:] == [0, 0]


def test_standard_input_and_parquet(good: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "rows.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "dpamt", "trace", "-", "--parquet", str(out)],
        input=good.read_bytes(),
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done
    assert pq.read_table(out).num_rows == len(recorded().items)


def test_refusals_are_one_line(tmp_path: Path) -> None:
    assert "no RECORDING" in refused("trace")
    assert "expected a recording" in refused("trace", str(tmp_path / "none"))
    (tmp_path / "empty").write_bytes(b"")
    assert "empty" in refused("trace", str(tmp_path / "empty"))
    (tmp_path / "dmesg").write_text("[    0.0] Linux version 7.3\nhello\n")
    out = tmp_path / "rows.parquet"
    told = refused("trace", str(tmp_path / "dmesg"), "--parquet", str(out))
    assert "none of dpamt's events" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dmesg", "empty"]


def test_how_to_record_is_printed_and_nothing_else_with_it() -> None:
    assert dpamt("trace", "--how", "bpftrace").out.startswith("#!/usr/bin/env bpftrace\n")
    assert "$arg2" in dpamt("trace", "--how", "perf", "--kernel", "6.9.1-x").out
    assert "pamt_get" not in dpamt("trace", "--how", "ftrace", "--no-counts").out
    assert "expected one of them" in refused("trace", "x", "--how", "perf")
    assert "only with --how" in refused("trace", "x", "--kernel", "7.4")
    assert "uname -r" in refused("trace", "--how", "perf", "--kernel", "new")


def test_the_trace_for_perfetto_nests_and_counts(tmp_path: Path) -> None:
    path, out = tmp_path / "bad.txt", tmp_path / "calls.json"
    path.write_bytes(as_bytes(WRITERS["ftrace"](recorded(True).items)))
    assert dpamt("trace", str(path), "--perfetto", str(out)).code == 1
    document = json.loads(out.read_text())
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(recorded(True).items)
    pairs = [
        event["args"]["now"]
        for event in document["traceEvents"]
        if event["ph"] == "C" and event["name"] == "page pairs"
    ]
    assert pairs[0] == 0
    assert max(pairs) > 0
    assert all(abs(one - other) == 1 for one, other in pairwise(pairs))
    instants = {event["name"] for event in document["traceEvents"] if event["ph"] == "i"}
    assert instants == {"bad-remove", "put-too-many"}
    # On each track a slice is inside another one or beside it.
    for track in {event["tid"] for event in slices}:
        open_until: list[float] = []
        events = [event for event in slices if event["tid"] == track]
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            end = event["ts"] + event["dur"]
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
    assert dpamt("trace", str(path), "--perfetto", str(out)).code == 1  # its own, replaced


def test_the_page_says_what_the_report_says(good: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "page.html"
    assert dpamt("trace", str(good), "--html", str(out)).code == 0
    page = out.read_text()
    assert "Clean: every answer is possible and nothing leaks." in page
    assert page.count('class="plot"') == 2
    assert "TDH.PHYMEM.PAMT.REMOVE" in page
    assert "http://" not in page.split("<main>")[1]


def test_option_and_page_name_every_form() -> None:
    """Whoever adds a form to ``FORMATS`` and to nothing else fails here."""
    (option,) = (action for action in _parser()._actions if action.dest == "format")
    assert tuple(option.choices or ()) == tuple(FORMATS)
    page = (Path(__file__).parents[2] / "docs" / "trace.md").read_text(encoding="utf-8")
    table = page.partition("| form | recognised by |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(FORMATS)
    assert set(WRITERS) == set(FORMATS)
