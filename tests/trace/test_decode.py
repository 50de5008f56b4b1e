"""Numbers explained: held against the module's tables and the recorded answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi import leaf_table as formats
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.pages import PAGE_SIZE
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.abi.states import SEPT_STATE_ALLOWED, SEPT_STATE_NAMES
from dpamt.errors import InputError
from dpamt.module.leaves.table import HANDLERS
from dpamt.trace.decode import (
    DECODERS,
    decode_field,
    decode_leaf,
    decode_page_info,
    decode_status,
    meanings,
    named,
    page_info_faults,
)
from dpamt.trace.decode_details import details_of
from dpamt.trace.decode_input import read_value
from dpamt.trace.decode_registers import FailedCall, register_meaning

DATA = Path(__file__).parent.parent / "data"
TABLES: dict[str, Any] = json.loads((DATA / "tdx-module-tables.json").read_text())
CALLS: list[dict[str, Any]] = [
    call
    for line in (DATA / "module-vectors.jsonl").read_text().splitlines()
    for call in json.loads(line)["calls"]
    if call["leaf"].startswith("TDH")
]
GIVEN_OUTPUTS = ("TDH.PHYMEM.PAMT.REMOVE",)
"""Some recorded calls give their output registers values, to show what becomes of them."""
LEAVES = {name: number for number, name in LEAF_NAMES.items()}


def text_of(value: int, kind: str | None = None) -> str:
    return DECODERS[kind](value).text if kind else meanings(value)[0].text


@pytest.mark.parametrize("name", TABLES["status"])
def test_every_status_is_named_first(name: str) -> None:
    value = int(TABLES["status"][name], 16)
    told = meanings(value)[0]
    assert told.kind == "status"
    assert re.split("[,:]", told.text)[0] == name
    assert told.facts["error"] == bool(value >> 63)
    assert told.facts["class"] == value >> 40 & 0xFF
    assert named(name) == ("status", value)


@pytest.mark.parametrize("name", TABLES["metadata_fields"])
def test_every_field_is_named_first(name: str) -> None:
    field = TABLES["metadata_fields"][name]
    told = meanings(int(field["id"], 16))[0]
    assert told.kind == "field"
    assert told.text.partition("[")[0].startswith(f"metadata field {name}")
    assert told.facts["bytes"] == field["bytes"]


def test_every_leaf_and_operand_is_named() -> None:
    for name, number in TABLES["leaves"].items():
        assert f"leaf {number}, {name}" in [told.text for told in meanings(number)]
        assert named(name) == named(name.removeprefix("TDH.").lower()) == ("leaf", number)
    for name, number in TABLES["operand_ids"].items():
        assert f"operand id {number}, {name}" in [told.text for told in meanings(number)]


def test_details_are_those_recorded() -> None:
    """The record says of each answer whether its low half is an operand, and which."""
    seen = set()
    for call in CALLS:
        expect = call["expect"]
        status = int(expect.get("status", "0x0"), 16)
        details = details_of(status)
        seen.add(expect.get("status_name"))
        if "operand" in expect:
            assert details == f"operand {expect['operand']}", expect
        elif "detail" in expect:
            assert details.partition(" ")[0] != "operand", expect
            assert str(expect["detail"] & 0xFF) in details
        else:
            assert "operand" not in details, expect
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0xC000060800000002, "TDX_OP_STATE_INCORRECT, OP_STATE 2 RUNNABLE"),
        (0xC000030600000001, "TDX_PAMT_PAGE_NOT_EMPTY, page 1 of the pair"),
        (0xC0000A1000000102, "TDX_INVALID_PAMT, TDMR 2, PAMT level 1 (2M)"),
        (0xC0000A1200050001, "TDX_PAMT_OVERLAP, TDMR 1, PAMT level 0 (4K), with TDMR 5"),
        (0xC0000A2100000301, "TDX_NON_ORDERED_RESERVED_IN_TDMR, TDMR 1, reserved area 3"),
        (0xC0000B0F00020001, "TDX_L2_SEPT_WALK_FAILED, VM 2, level 1 (2M)"),
        (0xC0000920000000E7, "TDX_INCONSISTENT_MSR, MSR 0xe7"),
        (0x0000000000000030, "TDX_SUCCESS, exit reason 48 EPT_VIOLATION"),
        (0x6000000200000002, "TDX_NON_RECOVERABLE_TD, exit reason 2 TRIPLE_FAULT"),
        (0xC0000100000000FA, "TDX_OPERAND_INVALID, operand id 0xfa, not known"),
        (0xC000010000000000, "TDX_OPERAND_INVALID, operand RAX"),
        (0x8000030000000000, "status 0x80000300 that the module does not define"),
        (0x8000FF00FFFF0000, "no status of the module: the SEAMCALL failed, VMFAILINVALID"),
        (0x8000FF0000000001, "no status of the module: the SEAMCALL failed, bits 39:0 0x1"),
    ],
)
def test_statuses_with_details(value: int, told: str) -> None:
    assert decode_status(value).text.startswith(told)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0x0000000000000000, ""),
        (0x00000B0700000000, "not an error"),
        (0x8000020000000001, "error, the same call may succeed later"),
        (0xC000010000000001, "error, not recoverable"),
        (0xE000060400000000, "error, not recoverable, fatal"),
        (0x9000020500000000, "error, the same call may succeed later, the host can recover"),
    ],
)
def test_what_a_caller_can_do(value: int, words: str) -> None:
    assert decode_status(value).text.partition("; ")[2] == words


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (0, ["status", "leaf", "exit", "operand"]),
        (0x22, ["leaf", "exit"]),
        (172, ["operand"]),
        (0x1_0017, ["leaf"]),
        (0x9100000100000013, ["field"]),
        (0x1_0020_0001, ["page-info"]),
        (0x2_0000_0000, ["field", "page-info"]),
        (U64_MASK, ["page-info", "field"]),
        (0x8000123400000000, ["status"]),
        (300, []),
    ],
)
def test_what_a_bare_number_may_be(value: int, kinds: list[str]) -> None:
    assert [told.kind for told in meanings(value)] == kinds


@given(st.integers(0, U64_MASK))
def test_any_number_can_be_anything_asked_for(value: int) -> None:
    for kind, decode in DECODERS.items():
        told = decode(value)
        assert told.kind == kind
        assert told.text
        assert "\n" not in told.text
        json.dumps(told.facts)
    for told in meanings(value):
        assert told == DECODERS[told.kind](value)


def test_page_infos() -> None:
    assert text_of(0x40200001, "page-info") == "page info: address 0x40200000, level 1 (2M)"
    assert "not aligned to 2M" in decode_page_info(0x40201001).text
    assert "reserved bits 0x8 set" in decode_page_info(0x40000008).text
    assert "no such level" in decode_page_info(0x40000007).text


def test_leaves_with_versions_and_reserved_bits() -> None:
    assert text_of(0x10017) == "leaf 23, TDH.MEM.PAGE.PROMOTE, version 1"
    assert "refused" in decode_leaf(1 << 40 | 6).text
    assert decode_leaf(777).text == "leaf 777, not known"


def test_fields_of_a_run_have_an_index() -> None:
    assert decode_field(0x9000000300000085).text == "metadata field CMR_BASE[5], 8 bytes"
    assert "not known" in decode_field(0x90000003000000A0).text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0x22", (None, 0x22)),
        ("34", (None, 34)),
        ("0xc0000505_00000000", (None, 0xC000050500000000)),
        ("c000050500000000", (None, 0xC000050500000000)),
        ("tdx_operand_busy", ("status", 0x8000020000000000)),
        ("operand_busy", ("status", 0x8000020000000000)),
        ("TDH_MEM_PAGE_AUG", ("leaf", 6)),
        ("mem.page.aug", ("leaf", 6)),
        ("SEPT_TREE", ("operand", 146)),
        ("max_tdmrs", ("field", 0x9100000100000008)),
        ("EPT_VIOLATION", ("exit", 48)),
    ],
)
def test_numbers_and_names_as_people_write_them(text: str, read: tuple[str | None, int]) -> None:
    assert read_value(text) == read


@pytest.mark.parametrize("text", ["", "0x", "zz", "-1", "1" * 21, "0x1ffffffffffffffff", "٣", "_"])
def test_what_is_neither_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        read_value(text)
    assert "\n" not in str(caught.value)


def test_operand_formats_are_those_of_the_recorded_calls() -> None:
    """Of calls that succeeded: every operand given is listed, and has the form that is said."""
    assert set(LEAF_OPERANDS) == set(HANDLERS)
    pages = (formats.PAGE, formats.TDR, formats.TDVPR, formats.HOST_PAGE)
    seen = set()
    for call in CALLS:
        if call["expect"].get("status") != "0x0":
            continue
        operands = LEAF_OPERANDS[LEAVES[call["leaf"]]]
        given_registers = {name for name in REGISTER_NAMES if int(call.get(name, "0x0"), 16)}
        if call["leaf"] not in GIVEN_OUTPUTS:
            assert given_registers <= set(operands), call
        for name in given_registers & set(operands):
            value = int(call[name], 16)
            seen.add(operands[name])
            if operands[name] in (formats.GPA_LEVEL, formats.HPA_LEVEL):
                assert not page_info_faults(value), call
            elif operands[name] in pages and value >> 63 == 0 and call["leaf"][-6:] != "WBINVD":
                assert value % PAGE_SIZE == 0, call
    assert {formats.GPA_LEVEL, formats.HPA_LEVEL, formats.TDR_FLAG, formats.FIELD} < seen


def test_entries_shown_are_those_that_stopped_the_call() -> None:
    """A walk is stopped by what is no mapped S-EPT page; a state is one the leaf refuses."""
    walks = states = 0
    for call in CALLS:
        name = call["expect"].get("status_name")
        if name not in ("TDX_EPT_WALK_FAILED", "TDX_EPT_ENTRY_STATE_INCORRECT"):
            continue
        leaf = LEAVES[call["leaf"]]
        failed = FailedCall(leaf, int(call["expect"]["status"], 16))
        after = {r: int(call["expect"][r], 16) for r in ("rcx", "rdx")}
        entry = register_meaning(failed, "rcx", after["rcx"], after)
        details = register_meaning(failed, "rdx", after["rdx"], after)
        state = details.facts["state"]
        assert f", {SEPT_STATE_NAMES[state]}" in details.text
        assert ("free" in entry.text) == (SEPT_STATE_NAMES[state] in ("FREE", "REMOVED"))
        if name == "TDX_EPT_WALK_FAILED":
            walks += 1
            assert details.facts["level"] > int(call["rcx"], 16) & 7
            assert SEPT_STATE_NAMES[state] != "NL_MAPPED"
        elif call["leaf"] != "TDH.MEM.SEPT.ADD":  # which minds the flag in RDX, not the state only
            states += 1
            assert state not in SEPT_STATE_ALLOWED[leaf]
    assert walks > 20
    assert states > 20
