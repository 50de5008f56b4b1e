"""The real command: called in this process, or started in one of its own where that matters."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

from dpamt.cli.main import main

NOBODY: Final = 65534


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    ours = ("DPAMT_TRACEBACK", "COLUMNS", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONIOENCODING": "utf-8"}


def dpamt(*arguments: str, cwd: Path | None = None, encoding: str = "utf-8") -> Ended:
    """Everything but an interpreter of its own: arguments in, streams and exit code out."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")  # as Python
    with (
        mock.patch.dict(os.environ, environment(), clear=True),
        contextlib.chdir(cwd if cwd is not None else Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(list(arguments))
        except SystemExit as leaving:  # argparse, after its help
            code = int(leaving.code or 0)
    return Ended(code, written(out, encoding), written(err, encoding))


def written(stream: io.TextIOWrapper, encoding: str) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(encoding)


def dpamt_process(*arguments: str, cwd: Path | None = None) -> Ended:
    """`python -m dpamt` as a process."""
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


def dpamt_as_another(*arguments: str, cwd: Path) -> Ended:
    """The command as a user who is not root: nobody where the tests run as root.

    This process goes on as that user, for its interpreter may lie where only root can read; so the
    same command must have run here before, to have everything imported.
    """
    if os.geteuid():
        return dpamt_process(*arguments, cwd=cwd)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.chdir(cwd)
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                code = main(list(arguments))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), out.read(), err.read())


def refused(*arguments: str, cwd: Path | None = None, code: int = 2) -> str:
    """The one line that the command says when it refuses; nothing on standard output."""
    ended = dpamt(*arguments, cwd=cwd)
    assert ended.code == code, ended
    assert ended.out == "", ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended
    assert lines[0].startswith("dpamt: ")
    return lines[0].removeprefix("dpamt: ")
