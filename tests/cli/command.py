"""The real command in a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DPAMT_TRACEBACK"}
    return {**kept, "PYTHONIOENCODING": "utf-8"}


def dpamt(*arguments: str, cwd: Path | None = None) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "dpamt", *arguments],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment(),
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def refused(*arguments: str, cwd: Path | None = None, code: int = 2) -> str:
    """The one line that the command says when it refuses; nothing on standard output."""
    ended = dpamt(*arguments, cwd=cwd)
    assert ended.code == code, ended
    assert ended.out == "", ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended
    assert lines[0].startswith("dpamt: ")
    return lines[0].removeprefix("dpamt: ")
