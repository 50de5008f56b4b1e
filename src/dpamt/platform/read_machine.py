"""Take what a user has, a file or a size, and hand back a Machine."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from dpamt.errors import InputError
from dpamt.platform import e820, iomem
from dpamt.platform.dmesg import machine_from_dmesg
from dpamt.platform.lines import decode
from dpamt.platform.machine import Machine
from dpamt.platform.size import looks_like_size, machine_from_size

PACKAGED_HOSTS: Final = ("host-1tib", "module-too-old", "reserved-areas")
"""Names for :func:`packaged_host`."""

MAX_FILE_BYTES: Final = 64 << 20


def read_machine(argument: str) -> Machine:
    """The machine that a path (dmesg, /proc/iomem, e820 text) or a size (``64GiB``) describes.

    A path that exists is read, whatever its name; its kind is told by its content.
    Raises InputError for anything that cannot be used.
    """
    path = Path(argument)
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        return machine_from_text(_read(path), argument)
    if looks_like_size(argument):
        return machine_from_size(argument)
    raise InputError(
        f"{argument}: no such file; expected a dmesg, /proc/iomem or e820 file, or a size such as "
        "64GiB"
    )


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
    lines = [line for line in text.split("\n") if line.strip()]
    if any(iomem.LINE.fullmatch(line.rstrip()) for line in lines):
        return iomem.machine_from_iomem(text, source)
    if all(
        e820.MARKER in line or line.lstrip().startswith(("[mem ", "[gap ", "#")) for line in lines
    ):
        return e820.machine_from_e820(text, source)
    return machine_from_dmesg(text, source)


def _read(path: Path) -> str:
    """The text of a file, its failures told in one line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected a file that can be read"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; expected a memory map")
    return decode(data, str(path))
