"""Every number of abi/ against the tables taken from the module's source (tests/data)."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpamt.abi import exits, leaves, metadata, operands, pages, sept, states, status, tdmr

TABLES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "tdx-module-tables.json").read_text()
)


def number(value: int | str) -> int:
    return int(value, 16) if isinstance(value, str) else value


def test_leaves() -> None:
    """TDH.SYS.DISABLE is of Linux 7.3.4; no open release has it."""
    found = {n: i for i, n in leaves.LEAF_NAMES.items()}
    assert found == TABLES["leaves"] | {"TDH.SYS.DISABLE": 69}


def test_the_name_of_what_is_asked() -> None:
    assert leaves.leaf_name(leaves.TDH_VP_INIT | 1 << leaves.RAX_VERSION_SHIFT) == "TDH.VP.INIT"
    assert leaves.leaf_name(250) == "leaf 250"
    assert leaves.leaf_name(leaves.P_SEAMLDR_INSTALL) == "SEAMLDR.INSTALL"
    assert leaves.leaf_name(leaves.P_SEAMLDR | 7) == "SEAMLDR leaf 0x7"
    assert leaves.asked_leaf(leaves.P_SEAMLDR_INSTALL) != leaves.TDH_MNG_ADDCX


def test_statuses() -> None:
    expected = {name: number(value) for name, value in TABLES["status"].items()}
    assert {name: value for value, name in status.STATUS_NAMES.items()} == expected


def test_status_details_do_not_change_the_name() -> None:
    assert status.status_name(0xC000030400000001) == "TDX_HPA_RANGE_NOT_FREE"
    assert status.status_name(0xC0FFEE0000000001) == "0xc0ffee0000000001"


def test_every_status_class_has_a_name() -> None:
    assert {value >> 40 & 0xFF for value in status.STATUS_NAMES} <= set(status.CLASS_NAMES)


def test_operands() -> None:
    assert {name: i for i, name in operands.OPERAND_NAMES.items()} == TABLES["operand_ids"]


def test_page_types() -> None:
    named = {f"PT_{name}": value for value, name in pages.PAGE_TYPE_NAMES.items()}
    assert named == TABLES["page_types"]


@pytest.mark.parametrize("table", ["lifecycle", "kot_states", "sys_states"])
def test_states(table: str) -> None:
    for name, value in TABLES[table].items():
        assert getattr(states, name) == value


def test_op_states_and_sept_states() -> None:
    assert {n: v for v, n in states.OP_STATE_NAMES.items()} == TABLES["op_states"]
    assert {n: v for v, n in states.SEPT_STATE_NAMES.items()} == TABLES["sept_states"]
    tracking = set(TABLES["op_state_tlb_tracking_required"])
    assert tracking == states.OP_STATE_TLB_TRACKING_REQUIRED


def test_which_leaf_is_allowed_where() -> None:
    by_leaf = {leaves.LEAF_NAMES[leaf]: v for leaf, v in states.OP_STATE_ALLOWED.items()}
    expected = {name: set(v) for name, v in TABLES["op_state_allowed"].items()}
    # Not in the table; op_state_lookup.c of the 2.0 line.
    expected |= {name: set(range(1, 11)) for name in ("TDH.MNG.RD", "TDH.VP.RD")}
    expected["TDH.VP.WR"] = {1, 2, 3, 6, 7, 8, 9, 10}
    assert by_leaf == expected
    by_leaf = {leaves.LEAF_NAMES[leaf]: v for leaf, v in states.SEPT_STATE_ALLOWED.items()}
    every_private_leaf = {
        state
        for name, state in TABLES["sept_states"].items()
        if name not in ("FREE", "REMOVED") and not name.startswith("NL_")
    }
    assert by_leaf.pop("TDH.MEM.PAGE.RELOCATE") == every_private_leaf
    expected = {
        name: {TABLES["sept_states"][state] for state in allowed}
        for name, allowed in TABLES["sept_state_allowed"].items()
    }
    assert by_leaf == expected


def test_metadata_fields() -> None:
    expected = {n: (number(f["id"]), f["bytes"]) for n, f in TABLES["metadata_fields"].items()}
    assert {name: tuple(field) for name, field in metadata.FIELDS.items()} == expected
    assert TABLES["features0_bits"] == metadata.TDX_FEATURES0_BITS


def test_a_field_is_found_by_class_and_code_only() -> None:
    linux, module = 0x9100000100000013, metadata.PAMT_PAGE_BITMAP_ENTRY_BITS.id
    assert linux != module
    assert metadata.lookup_key(linux) == metadata.lookup_key(module)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("MAX_TDMRS", tdmr.MAX_TDMRS),
        ("MAX_RESERVED_AREAS", tdmr.MAX_RESERVED_PER_TDMR),
        ("MAX_CMRS", tdmr.MAX_CMRS),
        ("TDMR_INFO_BYTES", tdmr.TDMR_INFO_BYTES),
        ("TDMR_INFO_ALIGN", tdmr.TDMR_INFO_ALIGN),
        ("TDMR_PTR_ARRAY_ALIGN", tdmr.TDMR_POINTER_ARRAY_ALIGN),
        ("MAX_DYNAMIC_PAMT_HKID_START_BIT", pages.MAX_DYNAMIC_PAMT_HKID_START_BIT),
        ("PAMT_ENTRY_BYTES", pages.PAMT_ENTRY_SIZE),
        ("PAMT_ENTRIES_PER_PAIR_PAGE", pages.PAMT_ENTRIES_PER_PAIR_PAGE),
        ("PAMT_PAIR_PAGES", pages.PAMT_PAIR_PAGES),
        ("PAMT_PAGE_COUNT_MAX", pages.PAMT_PAGE_COUNT_MAX),
        ("NULL_PA", pages.NULL_PA),
    ],
)
def test_limits(name: str, ours: int) -> None:
    assert ours == number(TABLES["limits"][name])


def test_limits_given_as_bits() -> None:
    limits = TABLES["limits"]
    assert pages.MAX_PA_LIMIT == 1 << limits["MAX_PA_CONSTANT_BITS"]
    assert pages.REMOVAL_HINT == 1 << limits["PAMT_REMOVAL_HINT_BIT"]
    assert pages.RDMD_NON_LEAF == 1 << limits["RDMD_NON_LEAF_BIT"]
    assert tdmr.SYS_CONFIG_DYNAMIC_PAMT == 1 << limits["SYS_CONFIG_DYNAMIC_PAMT_BIT"]


def test_tdmr_info_layout() -> None:
    info = tdmr.TdmrInfo(1, 2, 3, 4, 5, 6, 7, 8, [(100 + j, 200 + j) for j in range(16)])
    packed = info.pack()
    assert len(packed) == TABLES["limits"]["TDMR_INFO_BYTES"]
    found = {
        f["field"]: int.from_bytes(packed[f["offset"] :][:8], "little")
        for f in TABLES["tdmr_info_layout"]
    }
    assert (found["TDMR_BASE"], found["TDMR_SIZE"], found["PAMT_1G_BASE"]) == (1, 2, 3)
    assert found["PAMT_4K_SIZE"] == 8
    assert found["RSVD_OFFSET[15]"] == 115
    assert found["RSVD_SIZE[0]"] == 200
    assert tdmr.TdmrInfo.unpack(packed) == info


def test_more_reserved_areas_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="17 reserved areas, at most 16"):
        tdmr.TdmrInfo(0, 1 << 30, reserved=[(0, 1)] * 17).pack()


def test_shown_sept_entries_are_those_recorded_from_the_module() -> None:
    assert sept.ENTRY_SVE | 0x100010000 | sept.ENTRY_LEAF == 0x80000001000100F0
    assert sept.ENTRY_XU | sept.ENTRY_RWX == 0x407


def test_exit_reasons_are_those_of_the_kernels_header() -> None:
    """Where the C library's headers are: linux-libc-dev has Linux's uapi asm/vmx.h."""
    headers = [*Path("/usr/include").glob("*/asm/vmx.h"), *Path("/usr/include").glob("asm/vmx.h")]
    if not headers:
        pytest.skip("no asm/vmx.h here")
    lines = headers[0].read_text(encoding="utf-8").splitlines()
    pairs = [line.split()[1:3] for line in lines if line.startswith("#define EXIT_REASON_")]
    known = {name.removeprefix("EXIT_REASON_"): int(value, 0) for name, value in pairs}
    ours = {name: number for number, name in exits.EXIT_REASON_NAMES.items()}
    assert {name: number for name, number in ours.items() if name in known} == {
        name: number for name, number in known.items() if name in ours
    }
    assert len(set(ours) & set(known)) > 50
    assert all(type(number) is int for number in ours.values())
