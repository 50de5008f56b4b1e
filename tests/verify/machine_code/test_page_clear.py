"""tdx_quirk_reset_paddr() inlined: its own MOVDIR64Bs clear a page, or do not."""

from typing import Final

import pytest

pytest.importorskip("elftools")
pytest.importorskip("unicorn")

from dpamt.errors import InputError
from dpamt.host.core.kernel import KernelOops
from dpamt.host.designs.base import Design
from dpamt.verify.machine_code.code import MachineCode
from dpamt.verify.machine_code.design import machine_design
from tests.kernel_image.compiled import C, built

from .trials import ONE_REGION, PAGES, broken

DECLARED: Final = "extern void tdx_quirk_reset_paddr(u64 base, u64 size);\n"
CALL: Final = "tdx_quirk_reset_paddr("
WORD: Final = 20
BEFORE: Final = 34
"""Words of 32 bits before x86_capability here."""
RESET: Final = """
extern u64 page_offset_base;
struct page *__zero_page __attribute__((section(".data..ro_after_init")));
struct cpu { u32 before[34]; u32 x86_capability[30]; } boot_cpu_data = { { 0 }, { 0 } };

static inline __attribute__((always_inline)) void clear_lines(u64 base, u64 size)
{
	u64 zero = ((u64)__zero_page - vmemmap_base) / 64 * 4096 + page_offset_base;
	u64 at;

	if (!(((volatile u32 *)boot_cpu_data.x86_capability)[WORD] >> BIT & 1))
		return;
	for (at = base; at < base + size; at += 64)
		asm volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x02"
			: : "a"(at + page_offset_base), "d"(zero) : "memory");
	asm volatile("mfence" : : : "memory");
}

void tdx_quirk_reset_paddr(u64 base, u64 size)
{
	clear_lines(base, size);
}
"""


def design(
    bit: int = 31,
    edits: tuple[tuple[str, str], ...] = (),
    cc: str = "gcc",
    level: str = "-O2",
) -> Design:
    """Merged, with a reset of its own in place of the call; ``edits`` are of this reset's users."""
    header, body = (C / "kernel.h").read_text(), (C / "merged.c").read_text()
    text = header + body.replace('#include "kernel.h"', "")
    before, declared, after = text.partition(DECLARED)
    assert declared
    assert CALL in after
    after = after.replace(CALL, "clear_lines(")
    for old, new in edits:
        assert old in after, old
        after = after.replace(old, new)
    reset = f"#define WORD {WORD}\n#define BIT {bit}\n{RESET}"
    return machine_design(built(before + reset + after, (level, "-g"), cc))


def set_before(one: Design) -> dict[str, int]:
    """Variables that are set before the first step, with their values."""
    assert isinstance(one.code, MachineCode)
    return {f"{p.symbol}+{p.offset}": p.value for p in one.code.places.memory.presets}


@pytest.mark.parametrize(
    ("cc", "level", "bit"),
    [
        ("gcc", "-O1", 12),
        ("gcc", "-O2", 31),
        ("gcc", "-Os", 0),
        ("clang", "-O1", 0),
        ("clang", "-O2", 31),
        ("clang", "-Os", 12),
    ],
)
def test_the_images_own_clear_clears(cc: str, level: str, bit: int) -> None:
    """The erratum's bit is found in the function, wherever it lies, and the pages are cleared."""
    one = design(bit, (), cc, level)
    begin, odd = divmod(4 * (BEFORE + WORD), 8)
    assert set_before(one)[f"boot_cpu_data+{8 * begin}"] == 1 << bit + 8 * odd
    assert broken(one, ONE_REGION) == ()
    assert broken(one, PAGES) == ()
    assert one.code is not None
    said = one.code.assumptions()
    assert "a fence stands behind the MOVDIR64Bs that clear a page" in said
    (answered,) = [line for line in said if line.startswith("answered, not executed")]
    assert "quirk" not in answered


WRONG: Final = {
    "the last line is left out": ("PAGE_SIZE)", "PAGE_SIZE - 64)"),
    "half a page": ("PAGE_SIZE)", "PAGE_SIZE / 2)"),
    "one page of two": ("clear_lines(", "if (i) clear_lines("),
    "the bit of another erratum": (
        "clear_lines(",
        "if (((volatile u32 *)boot_cpu_data.x86_capability)[WORD] & 1) clear_lines(",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_page_that_is_not_cleared_is_found(name: str) -> None:
    assert "page" in broken(design(edits=(WRONG[name],)), PAGES)


REFUSED: Final = {
    "not the zero page": (
        ("clear_lines(", "__zero_page = (struct page *)vmemmap_base, clear_lines("),
        "writes .*__zero_page",
    ),
    "not aligned": (("clear_lines(", "clear_lines(8 + "), "expected 64 aligned bytes of a page"),
    "not in the direct map": (
        ("clear_lines(", "clear_lines(vmemmap_base - page_offset_base + "),
        "expected 64 aligned bytes of a page",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_clears_no_page_is_refused(name: str) -> None:
    edit, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as refusal:
        broken(design(edits=(edit,)), ONE_REGION)
    assert "\n" not in str(refusal.value)


def test_a_page_that_no_memory_has_is_a_fault() -> None:
    edit = ("clear_lines(", "clear_lines((1ul << 40) + ")
    with pytest.raises(KernelOops, match=r"page fault at 0xffff89.* in .*clear_lines"):
        broken(design(edits=(edit,)), ONE_REGION)


def test_another_source_is_refused() -> None:
    edit = ("clear_lines(", "copy_lines(")
    other = RESET.replace("clear_lines", "copy_lines").split("void tdx_quirk_reset_paddr")[0]
    other = "static" + other.split("static", 1)[1].replace("* 4096 +", "* 4096 + 8192 +")
    with pytest.raises(InputError, match="expected the zero page"):
        broken(
            design(edits=((edit), ("#define GFP_KERNEL", other + "#define GFP_KERNEL"))), ONE_REGION
        )


def test_a_call_is_answered_as_before() -> None:
    """Where the compiler leaves a call, nobody runs a MOVDIR64B."""
    one = machine_design(built((C / "merged.c").read_text(), ("-O2", "-g")))
    assert broken(one, ONE_REGION) == ()
    assert one.code is not None
    assert not any("MOVDIR64B" in line for line in one.code.assumptions())
