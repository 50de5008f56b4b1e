"""Which ``ud2`` is a WARN and which a BUG: the kernel's ``__bug_table``.

An entry is: where the instruction lies (signed, relative to the entry itself), perhaps the format
of a message, perhaps file and line (CONFIG_DEBUG_BUGVERBOSE), at its end 16 bits of flags.  Which
of these a kernel has, its entries say themselves: only with the right size do all of them point
into code (at an undefined instruction, or at the call of a WARN with a message).

Source: Linux include/asm-generic/bug.h (struct bug_entry, BUGFLAG_*), arch/x86/include/asm/bug.h.
"""

import struct
from typing import Final, NamedTuple

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage, Section

_FLAGS_AT: Final = {16: 14, 12: 10, 8: 4, 6: 4}
"""By the size of an entry in bytes: where its flags lie."""
_WARNING: Final = 1
_ONCE: Final = 2
_LOOKED_AT: Final = 64


class Bug(NamedTuple):
    """What an undefined instruction stands for."""

    is_warning: bool
    is_once: bool


def bugs_of(image: ElfImage) -> dict[int, Bug]:
    """By the address of the instruction.  Raises InputError for a table of no known form."""
    found: dict[int, Bug] = {}
    for section in image.sections:  # of a kernel and of each module
        if section.name == "__bug_table":
            found |= _bugs_in(image, section)
    return found


def _bugs_in(image: ElfImage, section: Section) -> dict[int, Bug]:
    data = image.read(section.address, section.size)
    for size, flags_at in _FLAGS_AT.items():
        if len(data) % size:
            continue
        some = range(0, min(len(data), _LOOKED_AT * size), size)
        targets = [_target(section.address, data, at) for at in some]
        if all(_is_code(image, target) for target in targets):
            found = {}
            for at in range(0, len(data), size):
                (flags,) = struct.unpack_from("<H", data, at + flags_at)
                found[_target(section.address, data, at)] = Bug(
                    bool(flags & _WARNING), bool(flags & _ONCE)
                )
            return found
    raise InputError(
        f"{image.path_at(section.address)}: __bug_table has entries of no known form; expected "
        "those of Linux 5.14 to 7.3 (struct bug_entry)"
    )


def _is_code(image: ElfImage, address: int) -> bool:
    section = image.section_at(address)
    return section is not None and section.executable


def _target(base: int, data: bytes, at: int) -> int:
    displacement: int = struct.unpack_from("<i", data, at)[0]
    return (base + at + displacement) & (1 << 64) - 1
