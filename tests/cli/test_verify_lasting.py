"""`dpamt verify` in several sittings: --checkpoint, --resume, Ctrl-C, --max-memory."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpamt.host.designs import v6
from tests.cli.command import dpamt, environment, refused

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
    states = json.loads(more.out)["designs"][0]["trials"][0]["states"]
    assert states > 1000


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
