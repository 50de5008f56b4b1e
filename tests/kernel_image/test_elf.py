"""Files that are no image, or damaged: one line each."""

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.kernel_image.bug_table import bugs_of
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.lines import Lines
from tests.kernel_image.compiled import built, design_object


def changed(path: Path, folder: Path, at: int, new: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    (folder / "changed.o").write_bytes(data)
    return folder / "changed.o"


@pytest.mark.parametrize("size", [0, 3, 40, 63, 64, 500, 2000])
def test_a_file_that_is_cut_off(size: int, tmp_path: Path) -> None:
    short = tmp_path / "short.o"
    short.write_bytes(design_object("merged").read_bytes()[:size])
    with pytest.raises(InputError, match=r"short\.o: (an empty|not an ELF|cut off|a damaged)"):
        ElfImage(short)


def test_another_architecture(tmp_path: Path) -> None:
    path = changed(design_object("merged"), tmp_path, 18, struct.pack("<H", 183))
    with pytest.raises(InputError, match="an ELF file for AArch64; expected a vmlinux"):
        ElfImage(path)


def test_a_stripped_file(tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("no strip on this machine")
    path = tmp_path / "stripped.o"
    subprocess.run(["strip", "-o", path, design_object("merged")], check=True)
    with pytest.raises(InputError, match="no symbols; expected a file that is not stripped"):
        ElfImage(path)


def test_random_damage_ends_in_one_line(tmp_path: Path) -> None:
    """Whatever is wrong in a file: it is read, or refused."""
    draw = random.Random(5)
    whole = design_object("merged").read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / "damaged.o"
        path.write_bytes(data)
        said = ""
        try:
            image = ElfImage(path)
            bugs_of(image)
        except InputError as error:
            said = str(error)
        assert "\n" not in said


def test_lines_of_c_with_what_is_inlined() -> None:
    image = ElfImage(design_object("v6"))
    symbol = image.symbols["tdx_pamt_get"]
    lines = Lines(image)
    found = {lines.at(symbol.address + n) for n in range(symbol.size)}
    chains = {tuple(line.function for line in chain) for chain in found}
    assert ("tdx_pamt_get", "atomic_add_unless", "atomic_cmpxchg") in chains
    files = {line.file for chain in found for line in chain}
    assert files == {"v6.c", "kernel.h"} or files == {Path(image.path).stem + ".c", "kernel.h"}


def test_no_lines_without_dwarf() -> None:
    image = ElfImage(design_object("v6", "-O2"))
    assert not Lines(image).there_are
    assert Lines(image).at(image.symbols["tdx_pamt_get"].address) == ()


def test_bugs_and_warnings() -> None:
    """A WARN_ON_ONCE has its entry; ud2 without one is a BUG."""
    image = ElfImage(design_object("merged"))
    bugs = bugs_of(image)
    assert [bug.is_warning and bug.is_once for bug in bugs.values()] == [True, True]
    assert all(image.read(address, 2) == b"\x0f\x0b" for address in bugs)


def test_a_table_of_bugs_of_no_known_form() -> None:
    text = 'asm(".pushsection __bug_table, \\"aw\\"; .long 1, 2, 3; .popsection"); int x;'
    with pytest.raises(InputError, match="__bug_table has entries of no known form"):
        bugs_of(ElfImage(built(text)))
