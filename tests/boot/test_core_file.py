"""A guest's memory as a core file, read back by another reader of ELF."""

import io
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from dpamt.boot.core_file import write_core
from dpamt.errors import InputError

from .core_guest import INFO, Symbols, guest

MIB = 1 << 20


def written(own: bool = True) -> tuple[ELFFile, bytes]:
    file = io.BytesIO()
    memory, kernel, image = guest(own)
    size = write_core(file, memory, kernel, image)
    whole = bytes(memory.read(0, 16 * MIB))
    elf = ELFFile(io.BytesIO(file.getvalue()))
    assert size == sum(part["p_filesz"] for part in elf.iter_segments("PT_LOAD"))
    return elf, whole


def test_what_was_touched_is_in_it_and_the_rest_is_zero() -> None:
    elf, whole = written()
    assert (elf["e_type"], elf["e_machine"]) == ("ET_CORE", "EM_X86_64")
    found = bytearray(16 * MIB)
    stored = 0
    for part in elf.iter_segments("PT_LOAD"):
        start, size = part["p_paddr"], part["p_memsz"]
        assert part["p_filesz"] == size
        found[start : start + size] = part.data()
        stored += size
    assert bytes(found) == whole
    assert stored < MIB


def test_the_kernels_own_vmcoreinfo_or_one_made_of_its_symbols() -> None:
    for own in (True, False):
        elf, _whole = written(own)
        (part,) = elf.iter_segments("PT_NOTE")
        notes = {note["n_name"]: note["n_desc"] for note in part.iter_notes()}  # type: ignore[attr-defined]
        assert list(notes) == ["VMCOREINFO", "dpamt"]
        info = notes["VMCOREINFO"]
        text = info if isinstance(info, str) else bytes(info).decode()
        if own:
            assert text.encode() == INFO
        else:
            lines = text.split("\n")
            assert lines[:3] == ["OSRELEASE=7.3.4", "PAGESIZE=4096", "KERNELOFFSET=0"]
            assert "BUILD-ID=3ab3" in lines
            assert "SYMBOL(swapper_pg_dir)=2000" in lines
            assert f"NUMBER(phys_base)={0x200000}" in lines


KALLSYMS = ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")
"""What Linux's vmcoreinfo_init() exports of kallsyms, for readers that know no symbol."""


def test_every_symbol_that_a_reader_asks_for_is_in_it() -> None:
    names = ("init_uts_ns", "_stext", *(f"kallsyms_{name}" for name in KALLSYMS))
    memory, kernel, _ = guest(own=False)
    image: Any = Symbols(own=False, others=names)
    file = io.BytesIO()
    write_core(file, memory, kernel, image)
    for name in names:
        assert f"SYMBOL({name})={image.symbol(name).address:x}\n".encode() in file.getvalue()


def test_the_page_table_has_its_newer_name_too() -> None:
    memory, kernel, _ = guest(own=False)
    image: Any = Symbols(own=False, others=("init_top_pgt",))
    del image._symbols["swapper_pg_dir"]
    file = io.BytesIO()
    write_core(file, memory, kernel, image)
    assert b"SYMBOL(swapper_pg_dir)=%x\n" % image.symbol("init_top_pgt").address in file.getvalue()


def test_a_pipe_gets_the_same_bytes() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_where: int) -> int:
            raise OSError("a pipe")

    pipe, file = Pipe(), io.BytesIO()
    for one in (pipe, file):
        write_core(one, *guest())
    assert pipe.getvalue() == file.getvalue()


def test_a_kernel_without_a_version_is_refused() -> None:
    memory, kernel, image = guest(own=False, banner=b"something else")
    with pytest.raises(InputError, match="no version in linux_banner"):
        write_core(io.BytesIO(), memory, kernel, image)
