"""`dpamt verify` in several sittings: --checkpoint, --resume, Ctrl-C, --max-memory."""

import contextlib
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

LONG = ("verify", "merged", "--cpus", "12", "--granularity", "words")
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
        (("--max-memory", "lots"), "invalid size (such as 512MiB or 4GiB)"),
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


@pytest.mark.parametrize("after", [0.3, 1.0, 2.5])
def test_interrupted_with_jobs_it_says_one_line(after: float, tmp_path: Path) -> None:
    """As at a terminal: every process of the group is interrupted.  No shard is left over."""
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *LONG, "--jobs", "2"],
        cwd=tmp_path,
        env=environment() | {"A_MARK": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stderr is not None
    while not shards_of(tmp_path) and started.poll() is None:
        time.sleep(0.05)
    time.sleep(after)
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "", "dpamt: interrupted\n")
    assert shards_of(tmp_path) == []


def test_shards_end_with_the_one_who_asks(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *LONG, "--jobs", "2"],
        env=environment() | {"A_MARK": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(shards_of(tmp_path)) < 2 and started.poll() is None:
        time.sleep(0.05)
    started.kill()
    started.wait()
    until = time.monotonic() + 60
    while shards_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert shards_of(tmp_path) == []


def shards_of(mark: Path) -> list[str]:
    """Processes of shards that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if b"dpamt.verify.cluster" in command:
                environ = (process / "environ").read_bytes()
                if f"A_MARK={mark}".encode() in environ:
                    found.append(process.name)
    return found


PLAIN = Path(v6.__file__).read_text(encoding="utf-8")
MARKS = (
    PLAIN
    + """

from pathlib import Path
Path("executed").touch()
"""
)


@pytest.mark.parametrize("how", ["--check", "--replay", "--resume"])
def test_no_file_that_a_document_names_is_executed(how: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLAIN, encoding="utf-8")
    asked = ("verify", "mine.py", "--cpus", "2", "--granularity", "seamcall")
    if how == "--resume":
        dpamt(*asked, "--max-states", "9", "--checkpoint", "kept", cwd=tmp_path)
    else:
        dpamt(*asked, "--property", "no.py", "--save", "kept", cwd=tmp_path)
        (tmp_path / "no.py").write_text("def no(view):\n    return False\n", encoding="utf-8")
        dpamt(*asked, "--property", "no.py", "--save", "kept", cwd=tmp_path)
    (tmp_path / "mine.py").write_text(MARKS, encoding="utf-8")
    told = refused("verify", how, "kept", cwd=tmp_path)
    assert "is about the design mine.py, which is not executed" in told
    assert not (tmp_path / "executed").exists()
    (tmp_path / "mine.py").write_text(PLAIN, encoding="utf-8")
    given = ("mine.py",) if how == "--resume" else ("mine.py", "--property", "no.py")
    ended = dpamt("verify", how, "kept", *given, cwd=tmp_path)
    assert ended.err.startswith("dpamt: Executes mine.py as the design mine.py")
    assert ended.code == (1 if how == "--replay" else 0)
