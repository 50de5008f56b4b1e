"""No command destroys a file: not its inputs, not its other outputs, not what the user wrote."""

import argparse
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpamt.cli.main import VERBS
from dpamt.cli.parser import Parser
from dpamt.cli.parsers import parsers
from dpamt.host.designs import v2

from .command import NOBODY, dpamt, dpamt_as_another, dpamt_process, environment, refused

QUICK = ("verify", "./mine.py", "--cpus", "2")


def parser_of(verb: str) -> Parser:
    return parsers()[verb]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("made")
    (tmp_path / "mine.py").write_text(Path(v2.__file__).read_text(encoding="utf-8"))
    (tmp_path / "own.py").write_text('def fine(view):\n    return ""\n')
    (tmp_path / "host.e820").write_text("BIOS-e820: [mem 0x0-0x3fffffff] usable\n")
    (tmp_path / "vms.csv").write_text("vm,start,end\n")
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF, of a kernel")
    (tmp_path / "diary").write_text("dear diary\n")
    dpamt(*QUICK, "--save", "found.json", cwd=tmp_path)
    stopped = ("--granularity", "words", "--max-states", "40", "--checkpoint", "kept")
    dpamt("verify", "v6", "--cpus", "3", *stopped, cwd=tmp_path)
    return tmp_path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """With a design, its counterexample, a property, a search that was stopped, a host, VMs."""
    return Path(shutil.copytree(made, tmp_path / "folder"))


def left(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_that_names_a_file_is_declared(verb: str) -> None:
    """Whoever adds one without :meth:`Parser.add_input` or ``add_output`` fails here."""
    parser = parser_of(verb)
    words = ("FILE", "FOLDER", "HOST", "DESIGN", "SCENARIO", "COUNTEREXAMPLE", "BZIMAGE")
    for action in parser._actions:
        if any(word in str(action.metavar) for word in words):
            assert action.dest in parser.file_options, action
        elif action.metavar is None and not action.choices:
            assert isinstance(action, argparse._StoreTrueAction | argparse._HelpAction), action


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*QUICK, "--save", "mine.py"), "--save mine.py is the same file as DESIGN ./mine.py"),
        ((*QUICK, "--html", "sub/../mine.py"), "is the same file as DESIGN"),
        ((*QUICK, "--property", "own.py", "--save", "own.py"), "same file as --property own.py"),
        (("verify", "--replay", "found.json", "--html", "found.json"), "same file as --replay"),
        (("verify", "--replay", "found.json", "--perfetto", "hard"), "same file as --replay"),
        (("verify", "--replay", "found.json", "--html", "link"), "same file as --replay"),
        (("verify", "--resume", "kept", "--save", "kept"), "same file as --resume"),
        ((*QUICK, "--save", "a", "--html", "a"), "--html a is the same file as --save a"),
        ((*QUICK, "--save", "a", "--perfetto", "./a"), "the same file as --save a"),
        ((*QUICK, "--html", "a", "--perfetto", "sub/../a"), "the same file as --html a"),
        ((*QUICK, "--save", "-", "--html", "/dev/stdout"), "the same file as --save -"),
        ((*QUICK, "--save", "-", "--json"), "--json and a file on standard output"),
        (("plan", "host.e820", "--html", "host.e820"), "same file as HOST host.e820"),
        (("plan", "2*host.e820", "--html", "host.e820"), "same file as HOST host.e820"),
        (("plan", "--fleet", "vms.csv", "1GiB", "--html", "vms.csv"), "same file as --fleet"),
        (("plan", "--fleet", "vms.csv", "1GiB", "--out", "vms.csv"), "same file as --fleet"),
        (("plan", "1GiB", "--html", "mine.py"), "is a Python source"),
        (("boot", "--vmlinux", "vmlinux", "--record", "vmlinux"), "same file as --vmlinux"),
        (("boot", "--vmlinux", "vmlinux", "--perfetto", "./vmlinux"), "same file as --vmlinux"),
        (
            ("boot", "--vmlinux", "vmlinux", "--record", "a", "--perfetto", "a"),
            "same file as --record",
        ),
        (
            ("boot", "--vmlinux", "x", "--replay", "found.json", "--record", "found.json"),
            "same file as --replay",
        ),
        (
            ("boot", "--vmlinux", "x", "--initrd", "diary", "--record", "diary"),
            "same file as --initrd",
        ),
    ],
)
def test_what_is_read_is_not_written(
    arguments: tuple[str, ...], told: str, force: tuple[str, ...], folder: Path
) -> None:
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("found.json")
    (folder / "hard").hardlink_to(folder / "found.json")
    before = left(folder)
    assert told in refused(*arguments, *force, cwd=folder)
    assert left(folder) == before


WRITES = [
    (*QUICK, "--save"),
    (*QUICK, "--html"),
    (*QUICK, "--perfetto"),
    ("verify", "v6", "--cpus", "2", "--granularity", "seamcall", "--checkpoint"),
    ("verify", "--replay", "found.json", "--html"),
    ("plan", "1GiB", "--html"),
    ("boot", "--vmlinux", "vmlinux", "--record"),
    ("boot", "--vmlinux", "vmlinux", "--perfetto"),
]


@pytest.mark.parametrize("arguments", WRITES, ids=" ".join)
def test_what_dpamt_did_not_write_stays(arguments: tuple[str, ...], folder: Path) -> None:
    (folder / "half.json").write_bytes((folder / "found.json").read_bytes()[:-5])
    (folder / "results").mkdir()
    before = left(folder)
    for name in ("diary", "half.json"):
        assert "dpamt did not write it" in refused(*arguments, name, cwd=folder)
    assert "is a folder" in refused(*arguments, "results", cwd=folder)
    assert "is a folder" in refused(*arguments, "new/", cwd=folder)
    assert "No such file or directory" in refused(*arguments, "no/such", cwd=folder)
    assert left(folder) == before


def test_a_fleet_does_not_write_over_a_table_of_the_users(folder: Path) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "hosts.parquet").write_bytes(b"PAR1, of somebody's own")
    (folder / "results" / "hosts.unfinished").write_bytes(b"the user's too")
    fleet = ("plan", "--fleet", "generated", "2*4GiB", "--jobs", "1", "--out", "results")
    before = left(folder)
    assert "results/hosts.parquet: exists" in refused(*fleet, cwd=folder)
    assert "is not a folder" in refused(*fleet[:-1], "diary", cwd=folder)
    assert left(folder) == before
    assert dpamt(*fleet, "--force", cwd=folder).code in (0, 1)
    assert dpamt(*fleet, cwd=folder).code in (0, 1)  # its own it knows
    assert (folder / "results" / "hosts.unfinished").read_bytes() == b"the user's too"


def test_what_was_written_is_said_once_beside_the_result(folder: Path) -> None:
    """On standard error, so that a pipe and --json have the result alone."""
    bare = dpamt(*QUICK, "--json", cwd=folder)
    both = dpamt(*QUICK, "--json", "--html", "m.html", "--save", "m.json", cwd=folder)
    assert (bare.err, both.err) == ("", "dpamt: wrote m.json, m.html\n")
    assert json.loads(both.out).keys() == json.loads(bare.out).keys()
    fleet = ("plan", "--fleet", "generated", "2*4GiB", "--jobs", "1", "--out", "tables")
    assert dpamt(*fleet, cwd=folder).err == "dpamt: wrote tables\n"
    held = dpamt("verify", "v6", "--cpus", "1", "--html", "no.html", cwd=folder)
    assert held.err == "dpamt: no.html: not written, nothing failed\n"
    assert dpamt(*QUICK, "--html", "/dev/null", cwd=folder).err == ""
    assert "wrote" not in dpamt(*QUICK, "--html", "-", cwd=folder).err
    refused(*QUICK, "--html", "m.html", "--save", "diary", cwd=folder)  # in its one line
    assert dpamt("list", "designs", cwd=folder).err == ""
    odd = dpamt(*QUICK, "--html", "a\x1b[31m\nb.html", cwd=folder).err
    assert (odd, (folder / "a\x1b[31m\nb.html").exists()) == (
        "dpamt: wrote a\\x1b[31m b.html\n",
        True,
    )


@pytest.mark.parametrize("option", ["--save", "--html", "--perfetto"])
def test_what_dpamt_wrote_is_written_again(option: str, folder: Path) -> None:
    """The kinds as the command writes them, not as a test makes them."""
    (folder / "diary.link").symlink_to("diary")
    for more in ((), (), ("--force",)):
        name = "diary.link" if more else "out"
        assert dpamt(*QUICK, option, name, *more, cwd=folder).code == 1
    assert (folder / "diary.link").is_symlink()
    assert len((folder / "diary").read_bytes()) > 1000
    assert len((folder / "out").read_bytes()) > 1000


def test_a_page_of_a_plan_is_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert dpamt("plan", "1GiB", "--html", "plan.html", cwd=tmp_path).code == 0


def test_a_kept_search_is_only_gone_on_with(folder: Path) -> None:
    other = ("verify", "v6", "--cpus", "2", "--granularity", "seamcall", "--checkpoint", "kept")
    line = refused(*other, cwd=folder)
    assert line == "kept: keeps a search; expected a new file, or --resume kept, or --force"
    before = (folder / "kept").read_bytes()
    again = ("verify", "--resume", "kept", "--checkpoint", "./kept", "--max-states", "80")
    ended = dpamt(*again, cwd=folder)
    assert (ended.code, "--resume kept goes on" in ended.err) == (1, True)
    assert (folder / "kept").read_bytes() != before


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_an_output_on_standard_output_is_alone_there(name: str, folder: Path) -> None:
    """As root, too, the device stays what it is; the report goes to standard error."""
    (folder / "link").symlink_to("/dev/stdout")
    ended = dpamt_process(*QUICK, "--save", name, cwd=folder)
    assert ended.code == 1
    trials = [json.loads(text)["designs"][0]["trials"][0] for text in (ended.out, stored(folder))]
    for trial in trials:
        del trial["seconds"]
    assert trials[0] == trials[1]
    assert "bad-remove" in ended.err
    assert Path("/dev/stdout").is_symlink()


def stored(folder: Path) -> str:
    return (folder / "found.json").read_text(encoding="utf-8")


def test_the_file_behind_standard_output_is_no_output(folder: Path) -> None:
    with (folder / "both").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "dpamt", *QUICK, "--save", "both"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(),
            check=False,
        )
    assert done.returncode == 2
    assert "--save both is the same file as standard output" in done.stderr
    assert (folder / "both").read_bytes() == b""


def test_a_report_is_not_added_to_what_was_read(folder: Path) -> None:
    """``dpamt plan host.e820 >> host.e820``, which no shell prevents."""
    before = left(folder)
    for arguments in (("plan", "host.e820"), ("verify", "./mine.py", "--cpus", "2")):
        with (folder / arguments[1]).open("ab") as added:
            done = subprocess.run(
                [sys.executable, "-m", "dpamt", *arguments],
                cwd=folder,
                stdout=added,
                stderr=subprocess.PIPE,
                env=environment(),
                text=True,
            )
        assert done.returncode == 2
        assert "is standard output too; expected another file there" in done.stderr
    assert left(folder) == before


def test_force_needs_a_file(tmp_path: Path) -> None:
    assert "--force without a file to write" in refused("verify", "--force", cwd=tmp_path)


def test_control_c_in_the_middle_leaves_the_old_file(folder: Path) -> None:
    """While the search goes on nothing has been written, and nothing is left beside the file."""
    before = left(folder)
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "verify", "--all", "--save", "found.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    )
    time.sleep(1.5)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "dpamt: interrupted\n")
    assert left(folder) == before


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that everybody can reach: those of pytest are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_another_user_gets_one_line_and_loses_nothing(elsewhere: Path) -> None:
    """What root may, and the user who runs the command may not."""
    (elsewhere / "found.json").write_text('{"format": 1, "dpamt": "0.1.0", "designs": []}\n')
    (elsewhere / "shut").mkdir(mode=0o700)
    (elsewhere / "all").mkdir()
    (elsewhere / "all").chmod(0o1777)
    (elsewhere / "all" / "roots").write_text('{"format": 1, "dpamt": "0.1.0", "designs": []}\n')
    (elsewhere / "all" / "roots").chmod(0o666)
    (elsewhere / "locked").mkdir()
    (elsewhere / "locked").chmod(0o555)
    as_root = os.geteuid() == 0
    ask = ("verify", "v2", "--cpus", "2", "--save")
    dpamt(*ask, "all/first", cwd=elsewhere)
    (elsewhere / "all" / "first").unlink()
    names = ["locked/new"]
    if as_root:
        names += ["found.json", "new", "shut/new", "all/roots"]
    for name in names:
        ended = dpamt_as_another(*ask, name, cwd=elsewhere)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert f"{name}: " in ended.err
        assert "ermission" in ended.err
    ended = dpamt_as_another(*ask, "all/mine", cwd=elsewhere)
    assert ended.code == 1, ended
    if as_root:
        assert (elsewhere / "all" / "mine").stat().st_uid == NOBODY
    ended = dpamt_as_another(*ask, "/dev/stdout", cwd=elsewhere)
    assert json.loads(ended.out)["clean"] is False
    assert sorted(file.name for file in (elsewhere / "all").iterdir()) == ["mine", "roots"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_a_file_to_its_owner(folder: Path) -> None:
    os.chown(folder / "found.json", NOBODY, NOBODY)
    (folder / "found.json").chmod(0o640)
    assert dpamt(*QUICK, "--save", "found.json", cwd=folder).code == 1
    now = (folder / "found.json").stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (NOBODY, NOBODY, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write to a disk")
def test_root_does_not_write_to_a_disk(folder: Path) -> None:
    try:
        os.mknod(folder / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    assert "disk: is a disk" in refused(*QUICK, "--save", "disk", "--force", cwd=folder)
