"""Logs explained: the kernel's own lines, and what is left alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpamt.platform
from dpamt.abi.leaves import TDH_MEM_PAGE_AUG
from dpamt.abi.registers import U64_MASK
from dpamt.report.decode_text import log_lines
from dpamt.trace.decode_log import ExplainedLine, decode_log

DATA = Path(dpamt.platform.__file__).parent / "data"
AUG = "kvm_intel: SEAMCALL TDH_MEM_PAGE_AUG failed: "


def explained(*lines: str) -> list[ExplainedLine]:
    return list(decode_log(lines))


def texts(*lines: str) -> dict[str, str]:
    """Name to what is said of it."""
    return {
        item.name: "; or ".join(told.text for told in item.meanings)
        for line in decode_log(lines)
        for item in line.found
    }


def test_the_module_that_was_too_old() -> None:
    log = (DATA / "module-too-old.dmesg").read_text().splitlines()
    found = explained(*log)
    assert [line.number for line in found] == [6, 7, 8]
    told = texts(*log)
    assert told["SEAMCALL"] == "leaf 34, TDH.SYS.RD"
    assert told["RAX"].startswith("TDX_SYS_NOT_READY: class 0x05 system state")
    assert told["RDX"] == "metadata field MAX_TDMRS, 2 bytes"
    assert told["RCX"] == told["R11"] == "0"
    shown = list(log_lines(iter(found)))
    assert shown[0] == log[5]
    assert "    RCX, R8: 0" in shown


@pytest.mark.parametrize("name", ["host-1tib.dmesg", "reserved-areas.dmesg"])
def test_a_log_without_a_seamcall_is_left_alone(name: str) -> None:
    assert explained(*(DATA / name).read_text().splitlines()) == []


def test_kvm_lines_carry_their_registers() -> None:
    told = texts(AUG + "0xc0000b0000000001, rcx 0x8000000000000000, rdx 0x2")
    assert told["SEAMCALL"] == "leaf 6, TDH.MEM.PAGE.AUG"
    assert told["RAX"].startswith("TDX_EPT_WALK_FAILED, operand RCX")
    assert told["RCX"] == "S-EPT entry met: free"
    assert told["RDX"] == "S-EPT entry met: level 2 (1G), FREE"
    told = texts(AUG + "0x8000030800000008, rcx 0x0, rdx 0x0")
    assert told["RAX"].startswith("TDX_MISSING_PAMT_PAGE_PAIR, operand R8")
    assert told["RCX"] == "cleared; GPA and level went in"


def test_registers_are_read_by_the_leaf() -> None:
    told = texts(
        f"virt/tdx: SEAMCALL ({TDH_MEM_PAGE_AUG:#018x}) failed: 0x8000020000000092",
        "virt/tdx: RCX 0x0000000040200001 RDX 0x0000000100000000 R08 0x0000000101000000",
        "virt/tdx: R09 0x0000000000000005 R10 0x0000000000000000",
    )
    assert told["RAX"].startswith("TDX_OPERAND_BUSY, operand SEPT_TREE")
    assert told["RCX"] == "GPA 0x40200000, level 1 (2M)"
    assert told["RDX"] == "TDR 0x100000000"
    assert told["R8"] == "page 0x101000000"
    assert told["R9"] == "not an operand of TDH.MEM.PAGE.AUG"


def test_a_busy_entry_is_told_from_a_busy_operand() -> None:
    assert (
        "S-EPT entry" in texts(AUG + "0x8000020000000001, rcx 0x80000001010000f7, rdx 0x400")["RCX"]
    )
    assert "GPA" in texts(AUG + "0x8000020000000001, rcx 0x40200001, rdx 0x100000000")["RCX"]


@pytest.mark.parametrize(
    ("line", "name", "told"),
    [
        ("SEAMCALL TDH_SYS_CONFIG failed: 0xc000010000000001, r8 0x10020", "R8", "KeyID 32, Dyn"),
        ("SEAMCALL TDH_MEM_SEPT_ADD failed: 0x1, rdx 0x5001", "RDX", "TDR 0x5000, flag 1"),
        ("SEAMCALL TDH_MEM_SEPT_ADD failed: 0x1, r9 0xffffffffffffffff", "R9", "page: none"),
        ("SEAMCALL TDH_PHYMEM_PAMT_ADD failed: 0x1, rcx 0x40200001", "RCX", "HPA 0x40200000"),
        ("SEAMCALL TDH_MNG_CREATE failed: 0x1, rdx 0x21", "RDX", "KeyID 33"),
        ("SEAMCALL (0x777) failed: 0x1, rdx 0x21", "RDX", "operand not known"),
        ("SEAMCALL TDH_NO_SUCH failed: 0xc000010000000001", "RAX", "TDX_OPERAND_INVALID"),
        ("[1.0] tdx: module said 0xc000050600000000, sorry", "", "TDX_SYS_SHUTDOWN"),
        ("failed to read 0x9800000100000200", "", "metadata field TDVPS_BASE_SIZE"),
        ("0x22", "", "leaf 34, TDH.SYS.RD; or exit reason 34"),
        ("48, 300", "", ""),
        ("RDX 0x9100000100000008 alone", "RDX", "metadata field MAX_TDMRS"),
    ],
)
def test_what_is_read_from_a_line(line: str, name: str, told: str) -> None:
    assert texts(line)[name].startswith(told)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "BIOS-e820: [mem 0x0000000100000000-0x000000013fffffff] usable",
        "RAX: 0000000000000000 RBX: ffff888100000000 RCX: 0000000000000001",
        "all ones 0xffffffffffffffff",
        "1" * 50_000 + "x",
    ],
)
def test_what_is_left_alone(line: str) -> None:
    assert explained(line) == []


def test_the_context_ends_with_the_next_other_line() -> None:
    told = texts(AUG + "0xc000010000000001", "something else", "R12 0x0000000000000022")
    assert "R12" not in told


@given(st.text(), st.integers(0, U64_MASK), st.integers(0, U64_MASK), st.integers(0, 300))
def test_any_line_is_taken(junk: str, status: int, value: int, leaf: int) -> None:
    lines = [junk, f"SEAMCALL ({leaf:#x}) failed: {status:#x}", f"RCX {value:#x} RDX {status:#x}"]
    found = explained(*lines)
    assert [line.number for line in found][-2:] == [2, 3]
    for line in log_lines(iter(found)):
        assert isinstance(line, str)


def test_the_cpuid_leaf_that_is_not_as_it_has_to_be() -> None:
    told = texts(
        "tdx: SEAMCALL failed: CPU 0: leaf 33, error 0xc000090000000000.",
        "tdx: additional output: rcx 0xffffffff00000007, rdx 0x1, r8 0x0, r9 0x2, r10 0x0, r11 0x0",
    )
    assert told["RAX"].startswith("TDX_INCORRECT_CPUID_VALUE")
    assert told["RCX"] == "CPUID leaf 0x7"
    assert told["RDX"] == "mask of EAX, EBX in 63:32: 0x1"
    assert texts("tdx: SEAMCALL failed: leaf 35, error 0xc000090200000000 rcx 0x100000004")[
        "RCX"
    ] == ("CPUID leaf 0x4, subleaf 1")


def test_a_td_exit_whose_address_is_not_its_keyid() -> None:
    told = texts("kvm [1]: TD exit 0xe000060400000000, 2 hkid 0x41 hkid pa 0x123456789000")
    assert told["exit"] == "exit reason 2, TRIPLE_FAULT"
    assert told["hkid pa"] == "not the KeyID in address bits"
