"""The public reports of tests/data/reports answer as their table says."""

import gzip
import json
import lzma
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .command import dpamt

REPORTS = Path(__file__).parents[1] / "data" / "reports"


def report(name: str) -> str:
    (found,) = REPORTS.glob(f"{name}-*")
    return str(found)


def told(*arguments: str) -> tuple[int, str]:
    ended = dpamt(*arguments)
    return ended.code, " ".join((ended.out + ended.err).split())


def test_08_reserved_areas_of_a_log_without_memory() -> None:
    code, text = told("plan", report("08"))
    assert code == 1
    assert "more reserved areas than the TDX module takes" in text
    assert "looks for holes between CMRs" in text
    assert "Give the whole dmesg" in text


def test_10_a_module_without_dynamic_pamt() -> None:
    code, text = told("plan", report("10"))
    assert code == 0
    assert "its TDX module 1.5.24 has no Dynamic PAMT" in text
    assert "Use Dynamic PAMT" not in text
    assert "8396820 KB allocated for PAMT: the same as static PAMT here, to the KB" in text


def test_12_a_downstream_prefix() -> None:
    code, text = told("plan", report("12"))
    assert code == 0
    assert "4202516 KB allocated for PAMT: the same as static PAMT" in text
    assert '2.0.08 or later; "1.5" in the log does not say which it has' in text
    assert "sizes as of TDX module 2.0.18" in text


def test_the_columns_of_the_answer_stand_apart() -> None:
    text = dpamt("plan", report("12"), "--td", "31x16GiB@2M=0%").out
    assert "  -32.3 MiB (-0.788 %)  -32.3 MiB (-0.788 %)\n" in text


def test_14_memory_of_kmem() -> None:
    code, text = told("plan", report("14"))
    assert code == 0
    for words in ("242.2 GiB of System RAM (kmem)", "TDX does not come up", "raises max_pfn",
                  "refuses to put it online"):  # fmt: skip
        assert words in text
    host = json.loads(dpamt("plan", report("14"), "--json").out)["hosts"][0]["host"]
    assert host["max_pfn"] == 0xFD00000000 >> 12
    assert host["memory_bytes"] < 0xC070000000


def test_17_quoted_iomem() -> None:
    code, text = told("plan", report("17"))
    assert code == 0
    assert "31.1 GiB of RAM" in text
    assert "128 GiB is soft reserved, persistent or CXL memory" in text


def test_28_dynamic_pamt_in_use() -> None:
    code, text = told("plan", report("28"))
    assert code == 0
    assert "10252 KB allocated for PAMT: the same as Dynamic PAMT here, to the KB" in text
    assert "TDX_FEATURES0" not in text
    assert "a TDX module that offers it" not in text


def test_31_the_log_of_a_guest() -> None:
    code, text = told("plan", report("31"))
    assert code == 2
    assert "the log of a TD (a guest)" in text


def test_32_tdx_off_in_the_bios() -> None:
    code, text = told("plan", report("32"))
    assert code == 1
    assert "has not turned TDX (SEAM) on" in text
    assert "Use Dynamic PAMT" not in text


def test_33_a_failure_in_its_own_log() -> None:
    code, text = told("plan", report("33"))
    assert code == 1
    assert "line 9: virt/tdx: initialization failed: TDMR [0x40000000, 0x80000000)" in text
    assert "TDX comes up" not in text


def test_34_two_boots() -> None:
    code, text = told("plan", report("34"))
    assert code == 0
    assert "the log holds 2 boots: read is the last, lines 9 to 16" in text


@cache
def fleet(name: str) -> dict[str, Any]:
    document = json.loads(dpamt("plan", "--fleet", report(name), "1TiB", "--json").out)
    found: dict[str, Any] = document["fleet"]["today"]
    return found


def test_22_a_row_of_the_azure_trace_lives_from_its_arrival_to_its_departure() -> None:
    today = fleet("22")
    moments = today["moments"]
    assert (moments[-1]["hours"] - moments[0]["hours"]) / 24 == pytest.approx(12.9, abs=0.05)
    pairs = today["static_bytes"] - today["hosts"][0]["idle_bytes"] - moments[5]["saved"]
    assert pairs / 8192 == pytest.approx(65536, rel=0.01)
    assert moments[5]["tds"] == 1
    assert 65536 <= round(pairs / 8192) <= 66200


def test_26_thirty_days_are_looked_at_to_their_end() -> None:
    today = fleet("26")
    moments = today["moments"]
    assert moments[-1]["hours"] == pytest.approx(721, abs=1)
    full = [one for one in moments if one["tds"] == 7]
    assert len(full) / len(moments) > 0.99
    assert full[0]["saved"] / today["static_bytes"] == pytest.approx(0.11, abs=0.005)


def test_35_a_spreadsheet_s_byte_order_mark() -> None:
    assert fleet("35")["vms"] == 2


def test_a_trace_in_any_container_is_the_same_fleet(tmp_path: Path) -> None:
    data = Path(report("35")).read_bytes()
    for name, packed in (("a.csv", gzip.compress(data)), ("b.csv.xz", lzma.compress(data))):
        (tmp_path / name).write_bytes(packed)
        ended = dpamt("plan", "--fleet", name, "1TiB", "--json", cwd=tmp_path)
        assert json.loads(ended.out)["fleet"]["today"] == fleet("35")


def test_03_an_old_wording() -> None:
    text = told("decode", report("03"))[1]
    assert "leaf 33, TDH.SYS.INIT" in text
    assert "TDX_INCORRECT_MSR_VALUE, MSR 0x122 IA32_TSX_CTRL" in text
    assert "RDX, R8, R9, R10, R11: 0" in text


def test_05_registers_that_are_outputs() -> None:
    text = told("decode", report("05"))[1]
    assert "TDX_PAGE_METADATA_INCORRECT, operand RCX" in text
    assert "page type 3 REG" in text
    assert "owner: TDR 0x12345000" in text
    assert "level 1 (2M)" in text
    assert "not an operand" not in text


def test_27_td_exits() -> None:
    text = told("decode", report("27"))[1]
    assert "TDX_TD_FATAL" in text
    assert "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE" in text
    assert text.count("KeyID 65 of the TD") == 2
    assert "KeyIDs begin at bit 45" in text


@pytest.mark.parametrize("name", ["08", "32", "33"])
def test_both_commands_say_the_same_cause(name: str) -> None:
    plan = json.loads(dpamt("plan", report(name), "--json").out)["hosts"][0]["answer"]
    why = json.loads(dpamt("decode", report(name), "--json").out)["why"]
    assert why["cause"] in plan["sentence"]
    assert why["next_step"].lower() == plan["todo"].lower()
    assert "arch/x86/virt/vmx/tdx/tdx.c" in why["source"]


def test_a_guest_is_told_by_decode_too() -> None:
    assert "This is the log of a TD (a guest), by line 1" in told("decode", report("31"))[1]


@pytest.mark.parametrize("way", ["gz", "xz", "stdin", "gz on stdin"])
def test_a_log_in_any_container(tmp_path: Path, way: str) -> None:
    data = Path(report("12")).read_bytes()
    if "gz" in way:
        data = gzip.compress(data)
    elif way == "xz":
        data = lzma.compress(data)
    if "stdin" not in way:
        (tmp_path / "log").write_bytes(data)
        assert told("plan", str(tmp_path / "log"))[0] == 0
        return
    command = (sys.executable, "-m", "dpamt", "plan", "-", "--json")
    ended = subprocess.run(
        command, input=data, capture_output=True, check=True, cwd=tmp_path, env=os.environ
    )
    host = json.loads(ended.stdout)["hosts"][0]["host"]
    assert host["source"] == "standard input"
    assert host["recorded_is"] == "static"


def test_keyids_and_nothing_after_them(tmp_path: Path) -> None:
    """canonical/tdx issues 260 and 382: BIOS and kernel agree on KeyIDs, and nothing follows."""
    (tmp_path / "log").write_text(
        "[   13.100393] virt/tdx: BIOS enabled: private KeyID range [64, 128)\n"
        "[   13.101389] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.\n"
    )
    code, text = told("plan", str(tmp_path / "log"))
    assert code == 1
    assert "The log does not show that TDX came up on this host" in text
    assert "load kvm_intel with tdx=1" in text
    assert "load kvm_intel with tdx=1" in told("decode", str(tmp_path / "log"))[1]
    (tmp_path / "more").write_text(
        (tmp_path / "log").read_text()
        + "BIOS-e820: [mem 0x0000000000100000-0x000000107fffffff] usable\n"
    )
    code, text = told("plan", str(tmp_path / "more"))
    assert code == 0
    assert "TDX should come up here, though the log does not show that it did" in text
