"""The command without a verb: help, version, what is imported, interruption, a closed pipe."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dpamt as package
from dpamt.cli.main import VERBS, main
from dpamt.errors import Finding, InputError, ModelError

from .command import dpamt, dpamt_process, environment, refused


def test_help_names_every_verb_on_standard_output() -> None:
    ended = dpamt("--help")
    assert ended.code == 0
    assert ended.err == ""
    for verb, about in VERBS.items():
        assert f"  {verb}" in ended.out
        assert about in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    assert dpamt("-h") == ended


def test_help_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys; from dpamt.cli.main import main; main(['--help']);"
        "heavy = {'argparse', 'typing', 're', 'rich', 'json', 'dpamt.host', 'dpamt.module',"
        " 'dpamt.platform', 'dpamt.run', 'dpamt.report'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        # -S: what site and a test environment import is not the command's doing.
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_from_a_process_of_its_own() -> None:
    assert dpamt_process("--version").out == f"dpamt {package.__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("fly",), ("--fly",)])
def test_no_such_verb(arguments: tuple[str, ...]) -> None:
    line = refused(*arguments)
    assert "expected one of run" in line


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    ended = dpamt(verb, "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"usage: dpamt {verb}")


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("a\n b"), 2), (Finding("a b"), 1), (ModelError("a b"), 3)]
)
def test_an_error_is_one_line_and_its_own_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("dpamt.cli.main._dispatch", fail)
    assert main([]) == code
    captured = capsys.readouterr()
    assert captured.err == "dpamt: a b\n"
    assert captured.out == ""


def test_what_nobody_foresaw_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: list[str]) -> int:
        raise KeyError(5)

    monkeypatch.delenv("DPAMT_TRACEBACK", raising=False)
    monkeypatch.setattr("dpamt.cli.main._dispatch", fail)
    assert main([]) == 3
    assert capsys.readouterr().err.startswith("dpamt: internal error: KeyError: 5")
    monkeypatch.setenv("DPAMT_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main([])


def test_control_c_is_one_line_and_130() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    time.sleep(0.8)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, "", "dpamt: interrupted\n")


def test_a_closed_pipe_is_quiet() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    err = running.stderr.read()
    running.wait(timeout=30)
    assert err == b""
    assert running.returncode in (0, 141)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "boot.toml"]])
def test_a_full_disk_is_one_line_and_2(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "boot.toml").write_text('[host]\nmachine = "64MiB"\n')
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dpamt", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "dpamt: output: No space left on device; expected somewhere to write to\n"
    )


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    codes = main(["--help"]), main(["fly"])
    sys.stdout.close()
    sys.stderr.close()
    assert codes == (0, 2)
