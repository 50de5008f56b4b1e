"""Lines that ran: QEMU's log against the line table of a compiled object."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dpamt.boot.kvm.coverage import SOURCE, coverage_of, instructions_in, sections_said
from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage

C = """\
int used(int x)
{
	if (x)
		return x * 3;
	return 7;
}

int never(int x)
{
	return x + 1;
}
"""
LOG = b"""----------------
IN:
0xffffffffa0000010:  55                       pushq    %rbp
0xffffffffa0000011:  48 89 e5                 movq     %rsp, %rbp

----------------
IN:
0xffffffffa0000014:  c3                       retq
"""


def compiled(folder: Path, *flags: str) -> Path:
    source = folder / SOURCE
    source.parent.mkdir(parents=True)
    source.write_text(C)
    target = folder / "kvm-intel.ko"
    words = ["gcc", "-O1", "-fno-inline", *flags, "-c", "-o", str(target), SOURCE]
    subprocess.run(words, cwd=folder, check=True)
    return target


def test_the_log_is_read_by_its_addresses() -> None:
    assert instructions_in(LOG) == {0xFFFF_FFFF_A000_0010 + at for at in (0, 1, 4)}


def test_sections_are_where_the_vmm_says() -> None:
    said = ["dpamt: section .text 0xffffffffa0000000", "dpamt: section other", "x"]
    assert sections_said(said) == {".text": 0xFFFF_FFFF_A000_0000}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_lines_of_what_ran_and_of_what_did_not(tmp_path: Path) -> None:
    module = compiled(tmp_path, "-g1")
    image = ElfImage(module)
    used, never = image.address_of("used"), image.address_of("never")
    text = next(part for part in image.sections if part.name == ".text")
    assert used is not None
    assert never is not None
    loaded = 0xFFFF_FFFF_C000_0000
    whole = {loaded + at - text.address for at in range(used, never)}
    all_of_one = coverage_of(module, {".text": loaded}, whole)
    by_name = {one.name: one for one in all_of_one.functions}
    assert by_name["used"].ran == by_name["used"].lines
    assert not by_name["never"].ran
    assert {9, 10} & by_name["never"].lines
    assert all_of_one.ran == len(by_name["used"].lines)
    first = coverage_of(module, {".text": loaded}, {loaded + used - text.address})
    assert 0 < first.ran < all_of_one.ran
    assert coverage_of(module, {}, whole).ran == 0


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_a_module_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no debug information"):
        coverage_of(compiled(tmp_path), {}, set())
