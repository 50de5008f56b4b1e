"""Files come whole or not at all, links and devices stay, and nothing but dpamt's is replaced."""

import ast
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dpamt
from dpamt.errors import InputError
from dpamt.files import Output, OutputFolder, check_outputs, replaced

from .cli.command import environment
from .test_own_files import OWN


def left(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def check(*outputs: Output | OutputFolder, inputs: tuple[str, ...] = ()) -> None:
    check_outputs(
        [(f"--out{n}", output) for n, output in enumerate(outputs)],
        [("--in", path) for path in inputs],
    )


@pytest.mark.parametrize("mode", ["w", "wb"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, ValueError])
def test_whoever_is_interrupted_leaves_the_old_file(
    mode: str, error: type[BaseException], tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"old")

    def write() -> None:
        with replaced(str(file), mode) as opened:
            opened.write("half" if mode == "w" else b"half")
            raise error

    with pytest.raises(error):
        write()
    assert left(tmp_path) == {"kept": b"old"}


@pytest.mark.parametrize("bytes_written", [100, 100_000, 10_000_000])
def test_a_full_disk_leaves_the_old_file(bytes_written: int, tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: the kernel ends a write half-way."""
    (tmp_path / "kept").write_bytes(b"old")
    code = (
        "import sys; from dpamt.files import replaced; from dpamt.errors import InputError\n"
        "try:\n"
        "    with replaced('kept') as file:\n"
        f"        file.write('x' * {bytes_written})\n"
        "except InputError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)),
        check=False,
    )
    assert done.stderr == "kept: File too large; expected a file to write to\n"
    assert left(tmp_path) == {"kept": b"old"}


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, target in (("link", "folder/file"), ("second", "link"), ("away", "folder/new")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder" / "file").write_bytes(b"old")
    for name in ("second", "away"):
        with replaced(str(tmp_path / name)) as file:
            file.write(name)
    assert left(tmp_path / "folder") == {"file": b"second", "new": b"away"}
    assert all((tmp_path / name).is_symlink() for name in ("link", "second", "away"))


def test_permissions_stay(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"old")
    file.chmod(0o600)
    with replaced(str(file)) as opened:
        opened.write("new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    output = Output(str(tmp_path / "pipe"), "page")
    check(output)
    with output.open() as file:
        file.write("through")
    reader.join(10)
    assert read == ["through"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_to_and_may_be_given_twice() -> None:
    null, again = Output(os.devnull, "page"), Output(os.devnull, "trace")
    check(null, again, inputs=(os.devnull,))
    for output in (null, again):
        with output.open() as file:
            file.write("nowhere")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("number", [(1, 1), (1, 4), (10, 130), (21, 0), (90, 0)])
@pytest.mark.parametrize("force", [False, True])
def test_a_device_that_writing_harms_is_not_written_to(
    number: tuple[int, int], force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, ports, a watchdog, a SCSI disk's raw device, flash: root could write to each."""
    device = os.stat_result((stat.S_IFCHR | 0o600, *(0,) * 9), {"st_rdev": os.makedev(*number)})
    monkeypatch.setattr(Output, "_stat", lambda self: device)
    with pytest.raises(InputError, match=rf"is a device \({number[0]}:{number[1]}\)"):
        check(Output(str(tmp_path / "device"), "page", force))


def test_standard_input_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``dpamt trace - --html FILE --force < FILE``: the recording has no name, and is read."""
    (tmp_path / "file").write_bytes(OWN["page"])
    kept = os.dup(0)
    try:
        with (tmp_path / "file").open() as opened:
            os.dup2(opened.fileno(), 0)
            with pytest.raises(InputError, match="is the same file as standard input"):
                check(Output(str(tmp_path / "file"), "page", force=True))
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no /sys here")
def test_a_folder_that_takes_no_file_is_refused_before_any_work() -> None:
    """Permissions let root write there; the file system does not."""
    with pytest.raises(InputError, match=r"no (file can be made|permission to write) in /sys"):
        check(Output("/sys/kernel/dpamt", "page"))


def test_a_terminal_that_is_not_there_is_refused_before_any_work() -> None:
    code = (
        "from dpamt.files import Output, check_outputs\n"
        "check_outputs([('--html', Output('/dev/tty', 'page'))], [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True
    )
    assert done.stderr.splitlines()[-1].endswith(
        "/dev/tty: No such device or address; expected a file to write to"
    )


def test_extended_attributes_stay(tmp_path: Path) -> None:
    """An access control list is one."""
    (tmp_path / "file").write_bytes(b"old")
    try:
        os.setxattr(tmp_path / "file", "user.dpamt", b"kept")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    with replaced(str(tmp_path / "file")) as file:
        file.write("new")
    assert os.getxattr(tmp_path / "file", "user.dpamt") == b"kept"


def test_a_link_to_no_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere/at/all")
    with pytest.raises(InputError, match="link: is not a folder"):
        check(OutputFolder(str(tmp_path / "link"), ["hosts.parquet"], "table"))


def test_a_full_device_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left"), replaced("/dev/full") as file:
        file.write("x")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_stream_of_the_process_is_written_to(through_a_link: bool, tmp_path: Path) -> None:
    """A rename would leave the file that the caller opened, and the caller, behind."""
    with (tmp_path / "opened").open("w+b") as opened:
        opened.write(b"before ")
        opened.flush()
        name = f"/dev/fd/{opened.fileno()}"
        if through_a_link:
            (tmp_path / "link").symlink_to(name)
            name = str(tmp_path / "link")
        output = Output(name, "page")
        check(output)
        with output.open() as file:
            file.write("after")
        opened.seek(0)
        assert opened.read() == b"before after"


def test_a_stream_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open() as opened:
        with pytest.raises(InputError, match="open for reading"):
            check(Output(f"/dev/fd/{opened.fileno()}"))
        name = f"/dev/fd/{opened.fileno()}"
    with pytest.raises(InputError, match="Bad file descriptor"):
        check(Output(name))


def spellings(folder: Path) -> list[str]:
    (folder / "sub").mkdir()
    (folder / "to_folder").symlink_to(".")
    (folder / "to_new").symlink_to("new")
    return [
        str(folder / "new"),
        f"{folder}/./new",
        f"{folder}//new",
        f"{folder}/sub/../new",
        f"{folder}/to_folder/new",
        f"{folder}/to_new",
        os.path.relpath(folder / "new"),
    ]


@pytest.mark.parametrize("exists", [False, True])
def test_two_names_of_one_file_are_one(exists: bool, tmp_path: Path) -> None:
    names = spellings(tmp_path)
    if exists:
        (tmp_path / "new").write_bytes(OWN["page"])
        (tmp_path / "hard").hardlink_to(tmp_path / "new")
        names.append(str(tmp_path / "hard"))
    for name in names[1:]:
        with pytest.raises(InputError, match="is the same file as --out0"):
            check(Output(names[0], "page"), Output(name, "page"))
        if exists:
            with pytest.raises(InputError, match="is the same file as --in"):
                check(Output(name, "page", force=True), inputs=(names[0],))
    check(Output(names[0], "page"), Output(str(tmp_path / "other"), "page"))


def test_files_of_a_folder_are_outputs_too(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    one = tmp_path / "results" / "a"
    one.write_bytes(OWN["table"])
    folder = OutputFolder(str(tmp_path / "results"), ("a", "b"), "table")
    check(folder)
    with pytest.raises(InputError, match="is the same file as --in"):
        check(folder, inputs=(str(one),))
    with pytest.raises(InputError, match="is the same file as --out0"):
        check(folder, Output(str(tmp_path / "results" / "b"), "page"))
    one.write_bytes(b"a table of the user's")
    with pytest.raises(InputError, match=r"a: exists, and dpamt did not write it.*--force"):
        check(OutputFolder(str(tmp_path / "results"), ("a", "b"), "table"))
    one.unlink()
    one.parent.rmdir()
    with pytest.raises(InputError, match="is the same file as --out0"):
        check(folder, Output(str(tmp_path / "results"), "page"))


def test_files_of_a_folder_come_together_or_not_at_all(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path / "new" / "results"), ("a", "b"))
    with folder.open() as opened:
        opened["a"].write(b"1")
        opened["b"].write(b"2")
    assert left(tmp_path / "new" / "results") == {"a": b"1", "b": b"2"}

    def write() -> None:
        with folder.open() as opened:
            opened["a"].write(b"3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert left(tmp_path / "new" / "results") == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("kind", OWN)
def test_only_its_own_kind_is_replaced(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for other, content in {**OWN, "half": OWN[kind][:-2], "text": b"dear diary"}.items():
        file.write_bytes(content)
        if other == kind and kind != "checkpoint":
            check(Output(str(file), kind))
            continue
        with pytest.raises(InputError, match="--force"):
            check(Output(str(file), kind))
        check(Output(str(file), kind, force=True))
        assert file.read_bytes() == content
    file.write_bytes(b"")  # what mktemp makes has nothing to lose
    check(Output(str(file), kind))


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    output = Output(str(file), "page")
    check(output)

    def write() -> None:
        with output.open() as opened:
            opened.write("page")
            file.write_bytes(b"the user's")

    with pytest.raises(InputError, match="dpamt did not write it"):
        write()
    assert left(tmp_path) == {"file": b"the user's"}


def test_force_has_its_bounds(tmp_path: Path) -> None:
    (tmp_path / "design.py").write_bytes(b"pass\n")
    own = Path(dpamt.__file__).parent / "run" / "scenarios" / "default.toml"
    for path, why in (
        (tmp_path / "design.py", "is a Python source"),
        (own, "is a file of dpamt itself"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(InputError, match=why):
            check(Output(str(path), "page", force=True))


def test_a_file_without_permission_to_write_is_kept(tmp_path: Path) -> None:
    """Root could: whoever took the permission away meant it."""
    file = tmp_path / "file"
    file.write_bytes(OWN["page"])
    file.chmod(0o444)
    with pytest.raises(InputError, match="no permission to write"):
        check(Output(str(file), "page"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_new_file_has_the_permissions_of_any_new_file(
    umask: int, mode: str, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        with replaced(str(tmp_path / "new"), mode) as file:
            file.write("x" if mode == "w" else b"x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(("kind", "why"), [(stat.S_IFBLK, "a disk"), (stat.S_IFSOCK, "a socket")])
def test_a_disk_and_a_socket_are_refused(
    kind: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = os.stat_result((kind | 0o600, *(0,) * 9), {"st_rdev": os.makedev(8, 0)})
    monkeypatch.setattr(Output, "_stat", lambda self: there)
    with pytest.raises(InputError, match=f"it: is {why}; expected a file"):
        check(Output(str(tmp_path / "it"), "page", force=True))


def test_an_empty_name_and_a_name_with_a_slash_are_folders(tmp_path: Path) -> None:
    for name, shown in (("", r"\(empty\)"), (f"{tmp_path}/new/", "new/")):
        with pytest.raises(InputError, match=f"{shown}: is a folder"):
            check(Output(name, "page"))


def test_each_output_is_held_against_all_that_came_before(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(OWN["page"])
    read, new, other = (str(tmp_path / name) for name in ("read", "new", "other"))
    with pytest.raises(InputError, match=r"--out1 .*read is the same file as --in"):
        check(Output(new), Output(read), inputs=(read,))
    with pytest.raises(InputError, match=r"--out2 .*new is the same file as --out0"):
        check(Output(new), Output(other), Output(new))


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    for path in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(InputError, match=r"cannot be made in|is not a folder"):
            check(OutputFolder(str(path), ["hosts.parquet"], "table"))
    check(OutputFolder(str(tmp_path / "new" / "below"), ["hosts.parquet"], "table"))
    assert left(tmp_path) == {"file": b"kept"}


def test_force_is_for_the_files_of_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "hosts.parquet").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"hosts\.parquet: exists, and dpamt did not write it"):
        check(OutputFolder(str(tmp_path), ["hosts.parquet"], "table"))
    check(OutputFolder(str(tmp_path), ["hosts.parquet"], "table", force=True))


def test_nobody_else_writes_files() -> None:
    """All that dpamt writes for its user goes through files.py: what would write otherwise stands
    here, with the reason."""
    writers = {"write_text", "write_bytes", "mkstemp", "rename", "touch", "truncate", "unlink"}
    allowed = {
        "files.py": "here it is done",
        "boot/session.py": "in a folder of its own that goes away",
        "boot/exerciser.py": "in a folder of its own that goes away",
        "boot/core_file.py": "the file that files.py opened is cut to its length",
        "report/leaf_pages.py": "`make docs`: checks that the folder is its own",
        "cli/plan_fleet.py": "standard input, in a folder of its own that goes away",
        "verify/evidence/checkpoint.py": "members of the archive that files.py opened",
        "verify/explore/compiled/library.py": "the compiled loop, in a folder of its own",
        "verify/explore/compiled/kept_library.py": "the compiled loop, in the user's cache folder",
        "verify/cluster/copies.py": "copies of lost shards, in a folder of its own that goes away",
        "boot/kvm/modules.py": "a lock beside the modules in the user's cache folder",
        "boot/kvm/vmm.py": "in a folder of its own that goes away",
        "cli/output.py": "defines write_text, to standard output",
    }
    found = {}
    package = Path(dpamt.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            mode = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
            opens = name == "open" or (isinstance(node.func, ast.Name) and node.func.id == "open")
            writes = opens and any(isinstance(one, str) and set(one) & set("wax+") for one in mode)
            of_os = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in (
                "os.replace",
                "os.remove",
                "os.rename",
            )
            if name in writers or of_os or writes:
                found[str(path.relative_to(package))] = ast.unparse(node)
    known = {
        # Devices and memory, no files of the user's.
        "cli/streams.py": "open(os.devnull",
        "boot/guest_memory.py": "r+b",
    }
    rest = {name: call for name, call in found.items() if name not in allowed}
    assert {name: known.get(name, "") in call for name, call in rest.items()} == dict.fromkeys(
        known, True
    )
