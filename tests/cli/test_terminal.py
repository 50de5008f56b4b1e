"""What a terminal sees: its width, colours there alone, a pipe that closes, Ctrl-C."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from dpamt.report.colours import coloured
from dpamt.report.width import fitted

from .command import environment

ROOT = Path(__file__).parents[2]
VECTORS = str(ROOT / "tests" / "data" / "module-vectors.jsonl")
SCENARIO = """
[host]
machine = "1GiB"
[[td]]
name = "web"
memory = "4MiB"
image = "4KiB"
[[phase]]
name = "up"
steps = [{ do = "build" }]
"""
REPORTS = [
    ("run", "small.toml"),
    ("verify", "v2", "--cpus", "2"),
    ("plan", "1GiB", "--td", "1x64MiB"),
    ("conform", VECTORS),
    ("list", "trials"),
    ("list", "designs"),
]


def on_a_terminal(columns: int, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str]:
    """Exit code and what the terminal got, without what a progress bar drew (standard error)."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # Raw: what is written is what comes.
    attributes = termios.tcgetattr(follower)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(follower, termios.TCSANOW, attributes)
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *arguments],
        stdout=follower,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**environment(), "TERM": "xterm", **variables},
    )
    os.close(follower)
    got = b""
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # Linux's way to say that nobody is there any more
            break
        if not part:
            break
        got += part
    os.close(leader)
    return started.wait(60), got.decode()


@pytest.mark.parametrize("columns", [40, 80, 132, 200])
@pytest.mark.parametrize("arguments", REPORTS, ids=lambda arguments: " ".join(arguments[:2])[:20])
def test_a_report_is_as_wide_as_its_terminal(
    arguments: tuple[str, ...], columns: int, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SCENARIO)
    code, out = on_a_terminal(columns, *arguments, cwd=tmp_path, NO_COLOR="1")
    assert code in (0, 1), out
    lines = out.splitlines()
    long_words = {line for line in lines if max(map(len, line.split()), default=0) > columns - 16}
    assert [line for line in lines if len(line) > columns and line not in long_words] == []
    if columns > 100 and arguments[0] in ("run", "plan"):
        assert max(map(len, lines)) > 90
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("variables", "colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_verdicts_are_in_colour_on_a_terminal(
    variables: dict[str, str], colours: bool, tmp_path: Path
) -> None:
    code, out = on_a_terminal(80, "verify", "v2", "--cpus", "2", cwd=tmp_path, **variables)
    assert code == 1
    assert ("\x1b[1;31mFAILS\x1b[0m: " in out) is colours
    assert ("\x1b" in out) is colours


def test_the_same_text_with_and_without_colours() -> None:
    for line, painted in (
        ("FAILS: leak.", "\x1b[1;31mFAILS\x1b[0m: leak."),
        ("HOLDS: leak.", "\x1b[1;32mHOLDS\x1b[0m: leak."),
        ("Audit: clean on every side", "\x1b[1;32mAudit: clean\x1b[0m on every side"),
        ("words  words  not finished  4", None),
        ("a design that holds what it fails", "a design that holds what it fails"),
    ):
        assert coloured(line) == (painted or coloured(line))
    assert "\x1b[1;33mnot finished\x1b[0m" in coloured("words  words  not finished  4")


def test_lines_that_are_too_wide_go_on_below() -> None:
    assert fitted("a\n  one two three\n", 11) == "a\n  one two\n      three\n"
    assert fitted("-" * 90 + "\n", 40) == "-" * 40 + "\n"
    assert fitted("word " * 30, 40).replace("\n", " ").split() == ["word"] * 30


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("verify", "merged", "--cpus", "8", "--granularity", "words"),
        ("plan", "64GiB", "--td", "8x2GiB@2M=0%", "--run"),
        ("plan", "256GiB", "--td", "4x4GiB/4vcpu@2M=90%", "--age", "400"),
        ("plan", "--fleet", "generated", "2000*2TiB", "--jobs", "2"),
        ("conform", VECTORS, VECTORS, VECTORS),
    ],
    ids=lambda arguments: " ".join(arguments)[:24],
)
def test_control_c_is_one_line_and_130_in_every_command(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """As a shell sends it: to the whole group, so that helpers get it too.

    A shell calls the end by SIGINT 130 too: CPython ends so where the interrupt met an ``exec`` of
    text, as of a dataclass that was just being imported.
    """
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
    )
    time.sleep(1.2)
    if started.poll() is not None:
        pytest.skip("it had ended before it could be interrupted")
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    if (started.returncode, err) == (-signal.SIGINT, "") and out:
        pytest.skip("its answer was out before it could be interrupted")
    assert started.returncode in (130, -signal.SIGINT)
    assert (out, err) == ("", "dpamt: interrupted\n")


def test_decode_reading_a_terminal_is_interrupted_too(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    time.sleep(0.8)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out, err) == (130, "", "dpamt: interrupted\n")


def test_who_reads_the_first_line_ends_the_work(tmp_path: Path) -> None:
    """`dpamt decode < log | head -1` ends while the log goes on."""
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert started.stdin is not None
    assert started.stdout is not None
    assert started.stderr is not None
    line = b"virt/tdx: SEAMCALL (0x0000000000000008) failed: 0xc000050500000000\n"
    started.stdin.write(line)
    started.stdin.flush()
    first = started.stdout.readline()  # it comes before the log has ended
    assert first == line
    started.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(100_000):
            started.stdin.write(line)
            started.stdin.flush()
    assert started.wait(30) == 141
    assert started.stderr.read() == b""
