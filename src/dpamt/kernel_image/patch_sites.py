"""Where a booting kernel writes into its own code: ALTERNATIVEs and static keys.

The image holds each as it was linked.  What a boot makes of it depends on the CPU and on what is
switched on; so the verdict names a place that runs.

Source: Linux 7.3.4 arch/x86/include/asm/alternative.h (struct alt_instr: two 32-bit offsets, the
feature with its flags, two lengths), include/linux/jump_label.h (struct jump_entry: two 32-bit
offsets, one of 64 bits for the key).
"""

import struct
from typing import Final

from dpamt.kernel_image.elf import ElfImage

_ALTERNATIVE: Final = struct.Struct("<iiIBB")
_JUMP: Final = struct.Struct("<iiq")


def patch_sites_of(image: ElfImage) -> dict[int, str]:
    """By the address of the first instruction: what stands there."""
    found: dict[int, str] = {}
    for section in image.sections:
        data = image.read(section.address, section.size) if section.name in _TABLES else b""
        if section.name == ".altinstructions" and len(data) % _ALTERNATIVE.size == 0:
            for n, (offset, _, feature, _, _) in enumerate(_ALTERNATIVE.iter_unpack(data)):
                address = section.address + n * _ALTERNATIVE.size + offset
                word, bit = divmod(feature & 0xFFFF, 32)
                found[address] = f"ALTERNATIVE (CPU feature {word}*32+{bit})"
        elif section.name == "__jump_table" and len(data) % _JUMP.size == 0:
            for n, (offset, _, key) in enumerate(_JUMP.iter_unpack(data)):
                entry = section.address + n * _JUMP.size
                name = image.name_of((entry + 8 + (key & ~3)) & (1 << 64) - 1)
                found[entry + offset] = f"static key {name}"
    return found


_TABLES: Final = (".altinstructions", "__jump_table")
