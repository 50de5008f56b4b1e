"""The VMM's C: it builds without a warning, and its numbers are those of the Python beside it."""

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from dpamt.boot.exerciser import INIT_FLAGS
from dpamt.boot.kvm import guest, selftests, tour, translate
from dpamt.boot.kvm.told import EXIT_NAMES
from dpamt.boot.kvm.vmm import build_vmm

SOURCES = Path(str(files("dpamt.boot") / "guest" / "vmm"))
HEADER = (SOURCES / "vmm.h").read_text()


def enumerated(text: str, first: str) -> dict[str, int]:
    """Names and values of the C enum that begins with this name."""
    body = re.search(rf"enum[^{{]*{{\s*({first}\b[^}}]*)}}", text)
    assert body is not None
    found, value = {}, 0
    for item in re.sub(r"/\*.*?\*/", "", body[1]).split(","):
        name, _, given = (part.strip() for part in item.partition("="))
        if name:
            value = eval(given) if given else value
            found[name] = value
            value += 1
    return found


def test_numbers_agree() -> None:
    most = enumerated(HEADER, "MAX_TDS")
    assert most["MAX_TDS"] == translate.MAX_TDS
    assert most["MAX_VCPUS"] == translate.MAX_VCPUS
    assert most["MAX_WORDS"] == translate.MAX_WORDS
    assert re.search(r"NEXT_WORD_GPA \(1UL << (\d+)\)", HEADER)[1] == "40"  # type: ignore[index]
    assert guest.NEXT_WORD == 1 << 40
    orders = enumerated(HEADER, "ORDER_NONE")
    for name in ("PREFAULT", "PUNCH", "ATTRIBUTES", "SLOT_DELETE", "SLOT_MAKE", "FORGET"):
        assert getattr(tour, f"_{name}") == orders[f"ORDER_{name}"]
    assert tour._INTERRUPT == orders["ORDER_INTERRUPT"]
    assert tour._NMI == orders["ORDER_NMI"]
    assert translate._PUNCH == orders["ORDER_PUNCH"]
    told = {"private": "attributes", "shared": "attributes"}
    for name, number in selftests._ORDERS.items():
        key = told.get(name, name).upper().replace("-", "_")
        assert number == orders[f"ORDER_{key}"], name


def test_exits_have_the_names_of_the_kernel() -> None:
    exits = enumerated((SOURCES / "kvm_abi.h").read_text(), "EXIT_IO")
    del exits["EXIT_KINDS"]
    assert {value: name.removeprefix("EXIT_") for name, value in exits.items()} == EXIT_NAMES


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_it_builds_and_needs_no_library(tmp_path: Path) -> None:
    program = build_vmm(tmp_path)
    assert program[:4] == b"\x7fELF"
    words = ["gcc", *INIT_FLAGS, "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([*words, *map(str, SOURCES.glob("*.c"))], check=True)


KVM_REQUESTS = {
    "KVM_CREATE_VM": 0xAE01,
    "KVM_RUN": 0xAE80,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_ENABLE_CAP": 0x4068AEA3,
    "KVM_SET_REGION2": 0x40A0AE49,
    "KVM_SIGNAL_MSI": 0x4020AEA5,
    "KVM_ENCRYPT_OP": 0xC008AEBA,
    "KVM_SET_ATTRIBUTES": 0x4020AED2,
    "KVM_CREATE_FILE": 0xC040AED4,
    "KVM_PREFAULT": 0xC040AED5,
}
"""As strace prints them for QEMU: direction, size, 0xae, number."""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_request_numbers_are_those_of_the_abi(tmp_path: Path) -> None:
    checks = "\n".join(
        f'_Static_assert({name} == {value:#x}UL, "{name}");' for name, value in KVM_REQUESTS.items()
    )
    source = tmp_path / "check.c"
    layout = (
        "_Static_assert(__builtin_offsetof(struct kvm_run_page, exit_reason) == 8, "
        '"exit_reason");\n'
        '_Static_assert(__builtin_offsetof(struct kvm_run_page, mmio) == 32, "union");\n'
        '_Static_assert(__builtin_offsetof(struct kvm_tdx_vm, cpuid) == 256, "cpuid");\n'
    )
    source.write_text(
        f'#include "{SOURCES}/sys.h"\n#include "{SOURCES}/kvm_abi.h"\n{checks}\n{layout}'
    )
    subprocess.run(["gcc", "-fsyntax-only", str(source)], check=True)
