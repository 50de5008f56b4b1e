"""The code of KVM's modules where the guest has loaded it: which function an address lies in.

The VMM prints where the kernel put their sections (/sys/module/*/sections): those of kvm-intel.ko
by their names, those of kvm.ko as ``kvm:NAME``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dpamt.boot.kvm.coverage import sections_said
from dpamt.kernel_image.elf import ElfImage

_MODULES: Final = (("kvm-intel.ko", "", "kvm_intel"), ("kvm.ko", "kvm:", "kvm"))
"""File, what the VMM puts before its sections, the module's name."""


class _Part(NamedTuple):
    start: int
    size: int
    move: int
    """From an address in the guest to that in the file's layout."""
    image: ElfImage
    module: str


class LoadedCode:
    """Functions of modules by address; none where the VMM has not said yet where they are.

    ``modules`` are the files by name.
    """

    def __init__(self, modules: Mapping[str, Path], console: Iterable[str]) -> None:
        loaded = sections_said(console)
        self._parts: list[_Part] = []
        for file, mark, name in _MODULES:
            if file not in modules or not loaded:
                continue
            image = ElfImage(modules[file])
            for section in image.sections:
                base = loaded.get(f"{mark}{section.name}")
                if base is not None and section.executable:
                    move = section.address - base
                    self._parts.append(_Part(base, section.size, move, image, name))

    def name_of(self, address: int) -> str:
        """``tdx_pamt_put+0x12 [kvm_intel]``; empty where no function of the modules is."""
        for part in self._parts:
            if part.start <= address < part.start + part.size:
                symbol, offset = part.image.symbol_at(address + part.move)
                if symbol is not None:
                    return f"{symbol.name}+{offset:#x} [{part.module}]"
        return ""
