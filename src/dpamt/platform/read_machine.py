"""Take what a user has, a file or a size, and hand back a Machine."""

from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, Final

from dpamt.errors import InputError
from dpamt.inputs import STDIN_NAME, read_bytes, standard_input
from dpamt.platform import e820, iomem
from dpamt.platform.dmesg import machine_from_dmesg
from dpamt.platform.lines import decode
from dpamt.platform.log_bytes import MAX_TEXT_BYTES, text_of
from dpamt.platform.log_lines import is_command, log_lines, plain
from dpamt.platform.machine import Machine
from dpamt.platform.size import looks_like_size, machine_from_size

PACKAGED_HOSTS: Final = ("host-1tib", "module-too-old", "reserved-areas")
"""Names for :func:`packaged_host`."""

STDIN: Final = "-"


def read_machine(argument: str) -> Machine:
    """The machine that a path (dmesg, /proc/iomem, e820 text) or a size (``64GiB``) describes.

    A path that exists is read, whatever its name; its content decides its kind.  ``-`` is
    standard input.  Raises InputError for anything that cannot be used.
    """
    if argument == STDIN:
        return machine_from_text(text_of(read_stdin(), STDIN_NAME), STDIN_NAME)
    path = Path(argument)
    if _is_there(path):
        return machine_from_text(text_of(read_file(path), argument), argument)
    if looks_like_size(argument):
        return machine_from_size(argument)
    raise InputError(
        f"{argument}: no such file; expected a dmesg (sudo dmesg > FILE), /proc/iomem or e820 "
        "file, or a size such as 64GiB"
    )


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:  # no permission to look, a name that is too long, links in a circle
        raise InputError(
            f"{path}: {error.strerror}; expected a file that can be read, or a size such as 64GiB"
        ) from None
    return True


def packaged_host(name: str) -> Machine:
    """A real host that comes with dpamt, by one of :data:`PACKAGED_HOSTS`.

    Raises InputError for another name.
    """
    if name not in PACKAGED_HOSTS:
        raise InputError(f"host {name!r}: expected one of {', '.join(PACKAGED_HOSTS)}")
    resource = files("dpamt.platform") / "data" / f"{name}.dmesg"
    return machine_from_dmesg(decode(resource.read_bytes(), name), name)


def machine_from_text(text: str, source: str) -> Machine:
    """The machine that a text of any known kind describes; InputError when it is of none."""
    if text.lstrip("\x1e \t\r\n").startswith(("{", "data:")):
        lines = [line.text for line in log_lines(text, source)]
    else:
        lines = [plain(line) for line in text.split("\n")]
    lines = [line for line in lines if line.strip() and not is_command(line)]
    if any(iomem.LINE.fullmatch(line.rstrip()) for line in lines):
        return iomem.machine_from_iomem(text, source)
    if all(
        e820.MARKER in line or line.lstrip().startswith(("[mem ", "[gap ", "#")) for line in lines
    ):
        return e820.machine_from_e820(text, source)
    return machine_from_dmesg(text, source)


def read_stdin(stream: BinaryIO | None = None) -> bytes:
    """All of standard input, or of this stream of it.

    Raises InputError where there is none, or it is too long.
    """
    stream = stream or standard_input("expected a log there (dmesg | dpamt plan -)")
    return _bounded(stream.read(MAX_TEXT_BYTES + 1), STDIN_NAME)


def read_file(path: Path) -> bytes:
    """The bytes of a file; a failure is reported in one line."""
    data = read_bytes(str(path), "expected a file that can be read", MAX_TEXT_BYTES + 1)
    return _bounded(data, str(path))


def _bounded(data: bytes, source: str) -> bytes:
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(f"{source}: larger than {MAX_TEXT_BYTES >> 20} MiB; expected a log")
    return data
