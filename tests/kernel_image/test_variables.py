"""Parts of variables by their names in C, held against what the compiler says of their offsets."""

import pytest

from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.lines import Lines
from dpamt.kernel_image.variables import Variables
from tests.kernel_image.compiled import COMPILERS, built

TEXT = r"""
#include "kernel.h"
enum phase { IDLE, ADDING = 3, REMOVING = -1 };
typedef const volatile enum phase phase_t;
struct inner { u16 few[3]; struct { u32 low; union { u32 high; float other; }; }; };
struct region {
	spinlock_t lock;
	atomic_t count;
	phase_t phase;
	u32 bits : 3, more : 5;
	struct inner grid[2][3];
	struct region *next;
};
struct region regions[4];
static u64 plain;
extern struct region elsewhere;
#define AT(name, part) \
	asm(".pushsection .rodata\n.globl " #name "\n" #name ": .quad %c0\n.popsection" \
		: : "i"(__builtin_offsetof(struct { struct region all[4]; }, part)));
u64 touch(void)
{
	AT(at_lock, all[1].lock) AT(at_count, all[2].count) AT(at_phase, all[3].phase)
	AT(at_few, all[1].grid[1][2].few[1]) AT(at_high, all[0].grid[0][1].high)
	AT(at_next, all[3].next)
	return plain++ + regions[1].count.counter + elsewhere.count.counter;
}
"""
PARTS = [
    ("at_lock", 4, "regions[1].lock"),
    ("at_lock", 0, "regions[1].lock"),
    ("at_count", 4, "regions[2].count"),
    ("at_phase", 4, "regions[3].phase"),
    ("at_few", 2, "regions[1].grid[1][2].few[1]"),
    ("at_high", 4, "regions[0].grid[0][1].high"),
    ("at_next", 8, "regions[3].next"),
]


def image(cc: str, *flags: str) -> ElfImage:
    return ElfImage(built(TEXT, flags or ("-O2", "-g"), cc))


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("flags", [("-O2", "-g"), ("-O0", "-gdwarf-4")])
@pytest.mark.parametrize(("where", "size", "name"), PARTS)
def test_a_part_by_its_offset(
    cc: str, flags: tuple[str, ...], where: str, size: int, name: str
) -> None:
    found = image(cc, *flags)
    variables = Variables(Lines(found))
    offset = int.from_bytes(found.read(found.symbols[where].address, 8), "little")
    site = found.symbols["touch"].address
    part = variables.part(found.symbols["regions"], offset, size, site)
    assert part is not None
    assert part.name == name
    named = dict(part.values)
    assert named == ({0: "IDLE", 3: "ADDING", -1: "REMOVING"} if where == "at_phase" else {})


@pytest.mark.parametrize("cc", COMPILERS)
def test_what_dwarf_does_not_say(cc: str) -> None:
    found = image(cc)
    variables = Variables(Lines(found))
    site, regions = found.symbols["touch"].address, found.symbols["regions"]
    plain = variables.part(found.symbols["plain"], 0, 8, site)
    assert plain is not None
    assert plain.name == "plain"
    assert variables.part(regions, 2, 4, site) is None  # half of one word and half of the next
    assert variables.part(regions, 12, 1, site) is None  # bit fields
    assert variables.part(regions, 1 << 20, 4, site) is None  # behind its end
    assert variables.part(regions, 0, 4, 0) is None  # code of no unit
    bare = image(cc, "-O2")
    assert Variables(Lines(bare)).part(bare.symbols["regions"], 0, 4, site) is None
