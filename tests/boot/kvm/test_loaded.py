"""Functions of KVM's modules by the addresses at which a guest has loaded them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dpamt.boot.kvm.loaded import LoadedCode
from dpamt.kernel_image.elf import ElfImage

C = "int first(int x) { return x * 3; }\nint second(int x) { return first(x) + first(x + 1); }\n"
CONSOLE = [
    "dpamt: section kvm:.text 0xffffffffc0100000",
    "dpamt: section .text 0xffffffffc0200000",
]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_addresses_have_names(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(C)
    module = tmp_path / "kvm.ko"
    words = ["gcc", "-O1", "-fno-inline", "-c", "-o", str(module), str(tmp_path / "x.c")]
    subprocess.run(words, check=True)
    intel = tmp_path / "kvm-intel.ko"
    shutil.copy(module, intel)
    image = ElfImage(module)
    text = next(section for section in image.sections if section.name == ".text")
    second = image.symbols["second"].address - text.address
    code = LoadedCode({"kvm.ko": module, "kvm-intel.ko": intel}, CONSOLE)
    assert code.name_of(0xFFFF_FFFF_C010_0000 + second + 2) == "second+0x2 [kvm]"
    assert code.name_of(0xFFFF_FFFF_C020_0000) == "first+0x0 [kvm_intel]"
    assert code.name_of(0xFFFF_FFFF_C020_0000 + text.size) == ""
    assert code.name_of(0xFFFF_FFFF_C00F_FFFF) == ""
    assert LoadedCode({"kvm.ko": module}, []).name_of(0xFFFF_FFFF_C010_0000) == ""
