"""A guest of a few pages, with what a core of it needs: memory, page table, symbols."""

import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dpamt.boot.guest_memory import GuestMemory

BANNER = b"Linux version 7.3.4 (somebody@somewhere) #1 SMP"
INFO = b"OSRELEASE=7.3.4\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n"
_MIB = 1 << 20


class Symbols:
    """What of a kernel image is asked for; ``own``: with a VMCOREINFO of the kernel's."""

    path = Path("vmlinux")
    build_id = "3ab3"

    def __init__(self, own: bool, banner: bytes = BANNER, others: tuple[str, ...] = ()) -> None:
        names = ["linux_banner", "swapper_pg_dir", "phys_base"]
        names += ["vmcoreinfo_data", "vmcoreinfo_size"] if own else []
        names += others
        self._symbols = {name: 0x1000 * number for number, name in enumerate(names, 1)}
        self._banner = banner

    def symbol(self, name: str) -> Any:
        if name not in self._symbols:
            return None
        return SimpleNamespace(name=name, address=self._symbols[name], size=8)

    def read(self, _address: int, size: int) -> bytes:
        return self._banner.ljust(size, b"\0")


class Table:
    """Kernel addresses are guest-physical ones here."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def physical(self, address: int) -> int:
        return address

    def read64(self, address: int) -> int:
        return self._memory.read64(address)


def guest(own: bool = True, banner: bytes = BANNER) -> tuple[Any, Any, Any]:
    """Memory of 16 MiB with something at 0, 4 KiB on, at 3 MiB and at its end."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "memory"
        with file.open("wb") as made:
            made.truncate(16 * _MIB)
        memory = GuestMemory([(file, 16 * _MIB)])
    memory.write(0, b"first")
    memory.write(3 * _MIB, INFO)
    memory.write(16 * _MIB - 4, b"last")
    memory.write(0x3000, struct.pack("<Q", 0x200000))  # phys_base
    memory.write(0x4000, struct.pack("<QQ", 3 * _MIB, 0))
    memory.write(0x5000, struct.pack("<Q", len(INFO)))
    return memory, Table(memory), Symbols(own, banner)
