"""Streams that do not wait or are closed, a folder that is gone, limits of the system."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.cli.system_errors import system_error

from .command import environment

COMMAND = (sys.executable, "-m", "dpamt")
LONG = ("plan", *(f"{size}TiB" for size in range(1, 9)), "--json")
MAP = "BIOS-e820: [mem 0x0000000000100000-0x000000103fffffff] usable\n"


def hasty_pipe() -> tuple[int, int]:
    """A pipe without waiting at either end."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def read_late(end: int) -> bytes:
    """All of it, once nothing more goes in."""
    time.sleep(1)
    os.set_blocking(end, True)
    with open(end, "rb") as file:
        return file.read()


def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_all() -> None:
    """Python would drop what is more than the pipe holds, and end well."""
    whole = subprocess.run([*COMMAND, *LONG], capture_output=True, check=True, env=environment())
    assert len(whole.stdout) > 1 << 17
    out, end = hasty_pipe()
    with subprocess.Popen([*COMMAND, *LONG], stdout=end, env=environment()) as process:
        kept = os.dup(end)
        os.close(end)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(read_late(out)))
        reader.start()
        assert process.wait() == 0
        assert not os.get_blocking(kept), "put back as it was"
        os.close(kept)
        reader.join()
    assert found == [whole.stdout]


def test_a_file_for_a_pipe_that_does_not_wait_is_whole(tmp_path: Path) -> None:
    out, end = hasty_pipe()
    words = ("verify", "v2", "--cpus", "2", "--save", f"/dev/fd/{end}")
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.DEVNULL, pass_fds=(end,), env=environment()
    ) as process:
        os.close(end)
        assert json.loads(read_late(out))["designs"]
        assert process.wait() == 1


def test_input_that_is_not_there_yet_is_waited_for() -> None:
    end, give = hasty_pipe()
    with subprocess.Popen(
        [*COMMAND, "plan", "-", "--json"], stdin=end, stdout=subprocess.PIPE, env=environment()
    ) as process:
        os.close(end)
        for piece in (MAP[:30], MAP[30:], "virt/tdx: Module version: 2.0.18\n"):
            time.sleep(0.4)
            os.write(give, piece.encode())
        os.close(give)
        document = json.load(process.stdout)  # type: ignore[arg-type]
        assert process.wait() == 0
    assert document["hosts"][0]["host"]["log"]["module_version"] == "2.0.18"
    assert document["hosts"][0]["host"]["memory_bytes"] == 0x1040000000 - 0x100000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    """A file that is opened next would, and what is printed would stand in it."""
    words = ("verify", "v2", "--cpus", "2", "--save", "x.json")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {closed}', "sh", *COMMAND, *words],
        cwd=tmp_path, env=environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads((tmp_path / "x.json").read_text())["designs"]


def run_limited(limit: Callable[[], None], *words: str, cwd: Path | None = None) -> str:
    """The one line of a command that a limit stops."""
    done = subprocess.run(
        [*COMMAND, *words], preexec_fn=limit, cwd=cwd, env=environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    return line


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    design = tmp_path / "mine.py"
    listed = subprocess.run(
        [*COMMAND, "list", "designs", "--source", "merged"], capture_output=True, check=True
    )
    design.write_bytes(listed.stdout)
    (tmp_path / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *COMMAND, "verify", str(design), "--cpus", "2"],
        cwd=tmp_path, env=environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 2)
    if done.returncode:
        assert done.stderr.startswith("dpamt: the folder where dpamt was started is gone; expected")
        assert len(done.stderr.splitlines()) == 1


def test_too_little_memory() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (30 << 20, 30 << 20))

    line = run_limited(limit, "run")
    assert line.startswith("dpamt: out of memory; expected more of it")


def test_too_few_files() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))

    line = run_limited(limit, "verify", "merged", "--jobs", "2")
    assert line == "dpamt: too many open files; expected a larger limit (ulimit -n)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (OSError(errno.EMFILE, "Too many open files", "/a/file"), "too many open files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many open files"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes"),
        (RuntimeError("can't start new thread"), "no more processes"),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "name"), None),
        (RuntimeError("a fault of dpamt"), None),
        (ImportError("a fault of dpamt"), None),
        (SystemError("a fault of Python"), None),
        (OSError("a library's"), None),
    ],
)
def test_what_the_system_refused(error: BaseException, said: str | None) -> None:
    found = system_error(error)
    assert (found is None) if said is None else (found or "").startswith(f"{said}")


@pytest.fixture
def a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 28, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("a_limit")
def test_under_a_limit_of_memory_libraries_fail_in_many_ways() -> None:
    for error in (ImportError("failed to map segment"), SystemError("no exception"), OSError("")):
        assert (system_error(error) or "").startswith("out of memory")
    assert system_error(RuntimeError("a fault of dpamt")) is None


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "-", "-"),
        ("plan", "-", "/dev/stdin"),
        ("plan", "/dev/fd/0", "64GiB", "/proc/self/fd/0"),
        ("plan", "-", "--fleet", "-"),
        ("plan", "64GiB", "--fleet", "-", "--counts", "/dev/stdin"),
    ],
)
def test_standard_input_is_read_once(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*COMMAND, *words], input=MAP, capture_output=True, text=True, env=environment(),
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "are both standard input; expected it once" in line or "has no effect" in line


def test_a_file_on_standard_input_may_be_named_too(tmp_path: Path) -> None:
    """Each of its names is opened anew."""
    (tmp_path / "map").write_text(MAP)
    with (tmp_path / "map").open() as file:
        done = subprocess.run(
            [*COMMAND, "plan", "-", "/dev/stdin", "map", "--json"], stdin=file, cwd=tmp_path,
            capture_output=True, env=environment(), check=True,
        )  # fmt: skip
    assert len(json.loads(done.stdout)["hosts"]) == 3
