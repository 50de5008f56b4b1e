"""`dpamt verify` in several sittings: --checkpoint, --resume, Ctrl-C, --max-memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpamt.host.designs import v6
from tests.cli.command import dpamt, dpamt_process, environment, refused

LONG = (
    *["verify", "merged", "--cpus", "12", "--granularity", "words", "--max-states", "4000000000"],
)
ONE = ("verify", "v6", "--cpus", "3", "--granularity", "seamcall")


def test_two_sittings_come_to_what_one_does(tmp_path: Path) -> None:
    first = dpamt(*ONE, "--max-states", "40", "--checkpoint", "kept", cwd=tmp_path)
    assert first.code == 1
    assert "NOT FINISHED, 3 CPUs: more than 40 states (--max-states): 4" in first.out
    assert first.err.endswith("dpamt verify --resume kept goes on from there\n")
    again = dpamt("verify", "--resume", "kept", "--json", cwd=tmp_path)
    whole = dpamt(*ONE, "--json", cwd=tmp_path)
    assert (again.code, whole.code) == (0, 0)
    assert (again.err, whole.err) == ("dpamt: Executes no Python file but dpamt's own.\n", "")
    trials = [json.loads(ended.out)["designs"][0]["trials"] for ended in (again, whole)]
    assert [trial[0].pop("taken_up") for trial in trials] == ["kept", ""]
    for trial in trials:
        del trial[0]["seconds"]
    assert trials[0] == trials[1]


def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *LONG, "--checkpoint", "kept"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "interrupted:" in out
    assert err == "dpamt: interrupted; dpamt verify --resume kept goes on from there\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    more = dpamt("verify", "--resume", "kept", "--max-states", "1", "--json", cwd=tmp_path)
    assert more.code == 1, more.err
    states = json.loads(more.out)["designs"][0]["trials"][0]["states"]
    assert states > 10  # as many as a busy machine comes to


def test_a_design_that_has_changed_is_refused(tmp_path: Path) -> None:
    text = Path(v6.__file__).read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    asked = ("verify", "./mine.py", "--cpus", "3", "--granularity", "seamcall")
    dpamt(*asked, "--max-states", "40", "--checkpoint", "kept", cwd=tmp_path)
    changed = text.replace("raised = refcount.inc_not_zero()", "raised = refcount.load()")
    assert changed != text
    (tmp_path / "mine.py").write_text(changed, encoding="utf-8")
    told = refused("verify", "--resume", "kept", cwd=tmp_path)
    assert "./mine.py, which is not executed because a document names it" in told
    ended = dpamt("verify", "--resume", "kept", "mine.py", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    executes, told = ended.err.splitlines()
    assert executes == "dpamt: Executes mine.py as the design ./mine.py; all else is dpamt's own."
    assert "the code that is verified has changed" in ended.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--checkpoint", "kept"), "expected with one search"),
        (("v2", "v6", "--trial", "words", "--checkpoint", "kept"), "expected with one search"),
        (("merged", "--resume", "kept"), "merged: expected with --resume only Python files"),
        (("--resume", "nosuch"), "nosuch: No such file or directory; expected a file"),
        (("--max-memory", "lots"), "expected size (such as 512MiB or 4GiB)"),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    assert told in refused("verify", *arguments, cwd=tmp_path)


PRINTS = (
    Path(v6.__file__)
    .read_text(encoding="utf-8")
    .replace(
        "raised = refcount.inc_not_zero()",
        'print("in get")\n    raised = refcount.inc_not_zero()',
    )
)


@pytest.mark.parametrize("more", [(), ("--jobs", "2")])
def test_what_a_design_prints_is_apart_from_the_answer(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PRINTS + '\n\nprint("loaded")\n', encoding="utf-8")
    asked = ("verify", "mine.py", "--cpus", "2", "--granularity", "seamcall", "--json")
    ended = dpamt_process(*asked, *more, cwd=tmp_path)
    assert ended.code == 0
    assert json.loads(ended.out)["clean"] is True
    assert set(ended.err.splitlines()) == {"loaded", "in get"}
    assert ended.err.count("loaded") == 1


@pytest.mark.parametrize("after", [0.3, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_interrupted_it_says_one_line(after: float, jobs: str, tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *LONG, "--jobs", jobs],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(after)
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "", "dpamt: interrupted\n")


def test_what_compiled_code_kept_goes_on_to_the_same_end(tmp_path: Path) -> None:
    asked = ("verify", "v6", "--cpus", "2+2", "--granularity", "locks", "--engine", "compiled")
    whole = dpamt(*asked, "--json", cwd=tmp_path)
    first = dpamt(*asked, "--max-states", "2500", "--checkpoint", "kept", cwd=tmp_path)
    assert first.code == 1
    again = dpamt("verify", "--resume", "kept", "--json", "--jobs", "2", cwd=tmp_path)
    trials = [json.loads(ended.out)["designs"][0]["trials"][0] for ended in (again, whole)]
    for trial in trials:
        del trial["seconds"], trial["taken_up"]
    assert trials[0] == trials[1]


def test_above_the_memory_it_goes_on_in_files(tmp_path: Path) -> None:
    """The same answer, with most states in files that are gone when it ends.

    It holds 92 MiB at its end, and 56 without its states; it is looked at five times a second.
    """
    asked = ("verify", "v6", "--cpus", "16", "--granularity", "seamcall", "--json")
    whole = dpamt_process(*asked, cwd=tmp_path)
    stopped = dpamt_process(*asked, "--max-memory", "66MiB", cwd=tmp_path)
    spilled = dpamt_process(*asked, "--max-memory", "66MiB", "--spill", ".", cwd=tmp_path)
    trials = [json.loads(ended.out)["designs"][0]["trials"][0] for ended in (whole, spilled)]
    assert (
        "more than 66 MiB of memory"
        in json.loads(stopped.out)["designs"][0]["trials"][0]["stopped"]
    )
    for trial in trials:
        del trial["seconds"]
    assert trials[0] == trials[1]
    assert list(tmp_path.iterdir()) == []
