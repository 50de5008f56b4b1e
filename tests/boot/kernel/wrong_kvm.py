"""KVM's modules with a mistake: patched in a copy of the source, built once, chosen by four bytes.

The build tree is not touched: the modules are built from a folder of links to it, whose ``source``
is a copy of KVM's part with ``patches/wrong-kvm`` on it.  It is what a user does who changes KVM in
their own tree and says ``--build``.
"""

import shutil
import subprocess
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from dpamt.boot.kvm.modules import build_modules

PATCHES = Path(__file__).parent / "patches" / "wrong-kvm"
PARTS = ("arch/x86/kvm", "virt/kvm", "virt/lib")


class Wrong(IntEnum):
    """The mistakes, as the patch numbers them."""

    RIGHT = 0
    NO_PUT_AFTER_ZAP = auto()
    NO_PUT_OF_CONTROL_PAGE = auto()
    NO_TOPUP = auto()
    NO_PUT_AFTER_BUSY_AUG = auto()
    FREED_BEFORE_RECLAIM = auto()
    PUT_TWICE = auto()
    ONE_CACHE_FOR_ALL = auto()
    STATUS_SWALLOWED = auto()
    GET_MAY_SLEEP = auto()
    PUT_BEFORE_REMOVE = auto()
    NO_GET = auto()
    ZAP_DOES_NOTHING = auto()
    NO_TRACK = auto()
    NO_WRITE_BACK = auto()
    SEPT_PAGE_LOST = auto()
    CACHE_LOST = auto()
    PUT_OF_GFN = auto()
    FREED_WITHOUT_RECLAIM = auto()
    PUT_TWICE_AFTER_BUSY_SEPT = auto()
    NO_PUT_WITHOUT_MEMORY = auto()


def build_wrong_modules(build: Path, folder: Path) -> dict[str, Path]:
    """The three modules of a kernel with Dynamic PAMT, with every mistake in them and none made.

    Objects go into the cache of the environment (XDG_CACHE_HOME).
    """
    source, tree = folder / "source", folder / "tree"
    for part in PARTS:
        shutil.copytree((build / "source").resolve() / part, source / part, symlinks=True)
    for patch in sorted(PATCHES.glob("*.patch")):
        subprocess.run(["patch", "-p1", "-s", "-d", source, "-i", patch], check=True)
    tree.mkdir()
    for name in build.iterdir():
        if name.name != "source":
            (tree / name.name).symlink_to(name)
    (tree / "source").symlink_to(source)
    return build_modules(tree)


def with_mistake(modules: dict[str, Path], wrong: Wrong, folder: Path) -> Path:
    """A folder with copies of the modules, in which this mistake is made."""
    folder.mkdir()
    for name, path in modules.items():
        shutil.copy(path, folder / name)
    intel = folder / "kvm-intel.ko"
    data = bytearray(intel.read_bytes())
    with intel.open("rb") as file:
        elf = ELFFile(file)
        table: Any = elf.get_section_by_name(".symtab")
        (symbol,) = table.get_symbol_by_name("dpamt_wrong")
        at = elf.get_section(symbol["st_shndx"])["sh_offset"] + symbol["st_value"]
    assert data[at : at + 4] == bytes(4)
    data[at : at + 4] = wrong.to_bytes(4, "little")
    intel.write_bytes(data)
    return folder
