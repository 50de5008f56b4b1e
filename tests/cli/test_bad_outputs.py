"""Each option that names a file to write, with each place where it cannot be: one line and 2.

Nothing is half-written.

The options are those of the parsers.  What no command destroys is in ``test_outputs.py``.
"""

import contextlib
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpamt.cli.main import VERBS, main
from dpamt.cli.parsers import parsers
from dpamt.host.designs import v2
from tests.boot.small_kernel import SmallKernel
from tests.trace.recorded import WRITERS, as_bytes

from .command import Ended, dpamt, dpamt_as_another, refused
from .test_outputs import elsewhere as elsewhere
from .test_outputs import left
from .test_trace import recorded

EXAMPLES = Path(__file__).parents[2] / "examples"
ASK = {
    "verify": "verify ./mine.py --cpus 2",
    "plan": "plan 1GiB",
    "trace": "trace record",
    "boot": "boot --vmlinux given.elf",
}
SPECIAL = {
    "verify --checkpoint": "verify v6 --cpus 2 --granularity seamcall",
    "plan --out": "plan 2*64GiB --fleet vms.csv --jobs 1",
}
WRITING = [
    (verb, max(action.option_strings, key=len))
    for verb, parser in parsers().items()
    for action, _, _ in parser._outputs
]
NOT_AT_ONCE = {"boot"}
"""Verbs that a quick test cannot bring to the point where they write: they need a machine."""


def asked(verb: str, option: str) -> list[str]:
    return SPECIAL.get(f"{verb} {option}", ASK[verb]).split(" ")


def fill(folder: Path) -> Path:
    (folder / "mine.py").write_bytes(Path(v2.__file__).read_bytes())
    (folder / "vms.csv").write_bytes((EXAMPLES / "vms.csv").read_bytes())
    (folder / "record").write_bytes(as_bytes(WRITERS["ftrace"](recorded().items)))
    SmallKernel().write(folder / "given.elf")
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def test_these_are_all() -> None:
    assert len(WRITING) >= 14
    assert {verb for verb, _ in WRITING} == set(ASK)


@pytest.mark.parametrize(("verb", "option"), WRITING, ids=map(" ".join, WRITING))
@pytest.mark.parametrize(
    "name",
    ["no/such/folder/out", "mine.py", "record/below", "", "x" * 300, "circle", "/sys/kernel/out"],
)
def test_a_place_where_no_file_can_be(verb: str, option: str, name: str, folder: Path) -> None:
    if option == "--out" and name == "no/such/folder/out":
        pytest.skip("a folder is made, with those above it")
    (folder / "circle").symlink_to("circle")
    before = left(folder)
    line = refused(*asked(verb, option), option, name, cwd=folder)
    assert (name[:100] or option) in line
    assert "expected" in line
    assert "internal error" not in line
    assert left(folder) == before


@pytest.mark.parametrize(("verb", "option"), WRITING, ids=map(" ".join, WRITING))
def test_another_user_may_not_write_there(verb: str, option: str, elsewhere: Path) -> None:
    """Or a user without the permission, where the tests are not run by root."""
    fill(elsewhere)
    (elsewhere / "shut").mkdir()
    (elsewhere / "shut").chmod(0o555 if os.geteuid() == 0 else 0o500)
    before = left(elsewhere)
    dpamt(*asked(verb, option), option, "mine.py", cwd=elsewhere)  # so that all is imported
    ended = dpamt_as_another(*asked(verb, option), option, "shut/out", cwd=elsewhere)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
    assert "shut/out" in ended.err
    assert "expected" in ended.err
    assert left(elsewhere) == before


FILES = [(verb, option) for verb, option in WRITING if verb not in NOT_AT_ONCE]


@pytest.mark.parametrize(("verb", "option"), FILES, ids=map(" ".join, FILES))
def test_a_device_that_is_full(verb: str, option: str, folder: Path) -> None:
    if option == "--out":
        pytest.skip("a folder is no device")
    if option == "--checkpoint":
        pytest.skip("written when a search is stopped")
    before = left(folder)
    ended = dpamt(*asked(verb, option), option, "/dev/full", cwd=folder)
    assert ended.code == 2, ended
    assert ended.err.splitlines()[-1] == (
        "dpamt: /dev/full: No space left on device; expected a file to write to"
    )
    assert left(folder) == before


def limited(arguments: list[str], folder: Path) -> Ended:
    """With a limit on the size of a file, as ``ulimit -f`` sets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        return dpamt(*arguments, cwd=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("verb", "option"), FILES, ids=map(" ".join, FILES))
def test_a_file_that_may_not_grow(verb: str, option: str, folder: Path) -> None:
    if option == "--checkpoint":
        pytest.skip("written when a search is stopped: see the next test")
    before = left(folder)
    ended = limited([*asked(verb, option), option, "out"], folder)
    assert ended.code == 2, ended
    assert "File too large" in ended.err.splitlines()[-1], ended
    assert left(folder) == before


def test_a_checkpoint_that_may_not_grow(folder: Path) -> None:
    search = "verify v6 --cpus 3 --granularity words --max-states 40"
    stopped = f"{search} --checkpoint out".split(" ")
    before = left(folder)
    ended = limited(stopped, folder)
    assert ended.code == 2, ended
    assert "File too large" in ended.err.splitlines()[-1], ended
    assert left(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, which only root can have."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if not made or made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr if made else 'no mount'}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(("verb", "option"), FILES, ids=map(" ".join, FILES))
def test_a_disk_that_is_full(verb: str, option: str, folder: Path, small_disk: Path) -> None:
    if option == "--checkpoint":
        pytest.skip("written when a search is stopped")
    (small_disk / "ballast").write_bytes(bytes(60 << 10))
    ended = dpamt(*asked(verb, option), option, f"{small_disk}/out", cwd=folder)
    assert ended.code == 2, ended
    assert "No space left on device" in ended.err.splitlines()[-1]
    assert "expected" in ended.err.splitlines()[-1]
    assert [file.name for file in small_disk.rglob("*") if file.is_file()] == ["ballast"]


REPORTS = {
    "run": "run small.toml",
    "verify": "verify v2 --cpus 2",
    "plan": "plan 1GiB",
    "trace": "trace record",
    "expect": "expect --case 1",
    "conform": "conform vectors.jsonl",
    "decode": "decode 0x22",
    "list": "list designs",
}


@pytest.mark.parametrize("more", ["", " --json", " --help"])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb in REPORTS])
def test_a_report_that_does_not_fit(verb: str, more: str, folder: Path) -> None:
    (folder / "small.toml").write_text('[host]\nmachine = "64MiB"\n')
    (folder / "vectors.jsonl").write_bytes((EXAMPLES / "vectors.jsonl").read_bytes())
    err = io.StringIO()
    with (
        Path("/dev/full").open("w") as full,
        contextlib.redirect_stdout(full),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
    ):
        code = main(f"{REPORTS[verb]}{more}".split(" "))
    assert (code, err.getvalue()) == (
        2,
        "dpamt: output: No space left on device; expected somewhere to write to\n",
    )
