"""A vmlinux that is to be booted: what is none, what lies where, and the copy."""

from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import BASE, SmallKernel
from tests.kernel_image.compiled import design_object


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "an empty file"),
        (b"MZ" + bytes(100), "not an ELF file"),
        (SmallKernel(machine=183).build(), "for AArch64"),
        (SmallKernel(stripped=True).build(), "no symbols"),
        (SmallKernel().build()[:200], "expected a vmlinux"),
    ],
)
def test_files_that_are_no_vmlinux(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    with pytest.raises(InputError, match=told) as caught:
        KernelImage(path)
    assert "\n" not in str(caught.value)


def test_an_object_is_none() -> None:
    path = design_object("merged")
    assert ElfImage(path).symbols  # it is one for dpamt verify
    with pytest.raises(InputError, match="type ET_REL; expected a vmlinux for x86-64"):
        KernelImage(path)


def test_bytes_by_address_and_a_copy_with_others(tmp_path: Path) -> None:
    kernel = SmallKernel()
    image = KernelImage(kernel.write(tmp_path / "vmlinux"))
    places = {name: kernel.addresses()[name] for name in kernel.functions}
    for name, address in places.items():
        symbol = image.symbol(name)
        assert symbol is not None
        assert symbol.address == address
        assert image.file_bytes(address, 4) == kernel.functions[name][:4]
        assert image.is_text(address)
    first, *_ = places.values()
    copy = image.with_changes({first + 1: b"\xcc\xcc"})
    at = image.offset_of(first + 1)
    assert copy[at : at + 2] == b"\xcc\xcc"
    assert copy[:at] + image.data[at : at + 2] + copy[at + 2 :] == image.data[:]
    with pytest.raises(InputError, match="no byte for address 0x1000"):
        image.file_bytes(0x1000, 1)
    assert not image.is_text(BASE - 1)
