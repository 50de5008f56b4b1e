"""An initial RAM disk made without a compiler: an archive, and an init that reboots at once.

With it a boot ends by itself, and shows what the kernel does with TDX on the way down.
"""

import struct
from pathlib import PurePosixPath
from typing import Final

_ELF_BASE: Final = 0x400000
_REBOOT: Final = bytes.fromhex(
    "bfaddee1fe"  # mov $0xfee1dead, %edi   LINUX_REBOOT_MAGIC1
    "be69191228"  # mov $672274793, %esi    LINUX_REBOOT_MAGIC2
    "ba67452301"  # mov $0x01234567, %edx   LINUX_REBOOT_CMD_RESTART
    "b8a9000000"  # mov $169, %eax          reboot
    "0f05"  # syscall
    "ebfe"  # jmp .
)
"""Linux include/uapi/linux/reboot.h."""


def reboot_init() -> bytes:
    """A static ELF program for x86-64 that reboots."""
    header = 64 + 56
    size = header + len(_REBOOT)
    entry = _ELF_BASE + header
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1),
        *(entry, 64, 0),
        *(0, 64, 56, 1, 0, 0, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ELF_BASE, _ELF_BASE, size, size, 0x1000)
    return elf + load + _REBOOT


def archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive (newc) of programs by name, in their folders, with a /dev and its console."""
    out = bytearray()
    number = 0

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        nonlocal number
        number += 1
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields))
        out.extend(encoded)
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for folder in ("dev", "proc", "sys"):
        add(folder, 0o040755)
    add("dev/console", 0o020600, device=(5, 1))
    made = {"dev", "proc", "sys", "."}
    for name, data in files.items():
        for parent in reversed(PurePosixPath(name).parents):
            if str(parent) not in made:
                made.add(str(parent))
                add(str(parent), 0o040755)
        add(name, 0o100755, data)
    add("TRAILER!!!", 0)
    return bytes(out)


def quick_initrd() -> bytes:
    """The archive with nothing but the init that reboots."""
    return archive({"init": reboot_init()})
