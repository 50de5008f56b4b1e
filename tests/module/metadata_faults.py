"""What can be wrong with MNG.RD, VP.RD and VP.WR, in the order of Intel's handlers.

Source: Intel TDX module source (open release), 2.0 line [tdh_mng_rd_wr.c, tdh_vp_rd_wr.c,
metadata_generic.c, metadata_vp.c].
"""

from collections.abc import Callable

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi import td_metadata as md
from dpamt.abi.metadata import NO_FIELD
from dpamt.abi.pages import PAGE_SHIFT
from tests.module.faults import (
    HKID_BIT,
    OTHER_FREE,
    Fault,
    hold_4k,
    implicit_tdr,
    private_page,
    state,
    tdr,
)
from tests.module.rig import Rig

UNINITIALIZED = 0
PAUSED = 4
"""An OP_STATE in which metadata may be read and not written."""
UNKNOWN = 0x1111_0000_0000_7000
DESCRIPTOR = 0x3_0040
"""A shared HPA."""

BAD_IDS = [
    Fault("reserved bits", s.TDX_METADATA_FIELD_ID_INCORRECT, {"rdx": md.TSC_OFFSET.id | bit})
    for bit in (1 << 24, 1 << 31, 1 << 34, 1 << 46, 1 << 47, 1 << 55, 1 << 62)
]


def vcpu(tdvpr: int, wrong: int) -> list[Fault]:
    """TDVPR, TDR, STATE, pages, VCPU state, association."""

    def change(name: str, value: int) -> Callable[[Rig], object]:
        def store(rig: Rig) -> None:
            getattr(rig.module.tds.vcpu(tdvpr >> PAGE_SHIFT), name).store(value)

        return store

    busy = s.TDX_OPERAND_BUSY | 1
    return [
        *private_page("rcx", OTHER_FREE, False, tdvpr),
        Fault("TDVPR busy", busy, {}, hold_4k(tdvpr), "tdvpr lock"),
        implicit_tdr(),
        *state(True, wrong),
        Fault("pages", s.TDX_TDCX_NUM_INCORRECT, {}, change("pages", 5), "vcpu pages"),
        Fault("VCPU state", s.TDX_VCPU_STATE_INCORRECT, {}, change("state", 0), "vcpu state"),
        Fault("on another LP", s.TDX_VCPU_ASSOCIATED, {}, change("lp", 2), "vcpu lp"),
    ]


def posted_interrupts(call: dict[str, int]) -> dict[str, int]:
    return {"rdx": md.PIN_BASED_CONTROLS.id, "r8": 0x80, "r9": 0x80}


METADATA_CASES: dict[tuple[int, int, str], Callable[[dict[str, int]], list[Fault]]] = {
    (leaf.TDH_MNG_RD, 0, ""): lambda call: [
        *tdr("rcx", False),
        *state(True, UNINITIALIZED),
        *BAD_IDS,
        Fault("unknown", s.TDX_METADATA_FIELD_ID_INCORRECT, {"rdx": UNKNOWN}),
        Fault(
            "reserved CPUID bit",
            s.TDX_METADATA_FIELD_ID_INCORRECT,
            {"rdx": md.CPUID_VALUES.id | 1 << 17},
        ),
        Fault(
            "a leaf that TDs have not",
            s.TDX_METADATA_FIELD_NOT_READABLE,
            {"rdx": md.CPUID_VALUES.id | 7 << 9 | 9 << 1},
        ),
    ],
    (leaf.TDH_VP_RD, 0, ""): lambda call: [
        *vcpu(call["rcx"], UNINITIALIZED),
        *BAD_IDS,
        Fault("unknown", s.TDX_METADATA_FIELD_ID_INCORRECT, {"rdx": UNKNOWN}),
        Fault("high half", s.TDX_METADATA_FIELD_ID_INCORRECT, {"rdx": 0x2017}),
    ],
    (leaf.TDH_VP_WR, 0, ""): lambda call: [
        *vcpu(call["rcx"], PAUSED),
        *BAD_IDS,
        Fault("unknown", s.TDX_METADATA_FIELD_ID_INCORRECT, {"rdx": UNKNOWN}),
        Fault("read-only", s.TDX_METADATA_FIELD_NOT_WRITABLE, {"rdx": md.VMCS_HKID.id}),
        Fault("no bit asked for", s.TDX_METADATA_FIELD_NOT_WRITABLE, {"r9": 0}),
        Fault(
            "a bit of the controls that is not the host's",
            s.TDX_METADATA_FIELD_VALUE_NOT_VALID,
            {"rdx": md.PIN_BASED_CONTROLS.id, "r8": 0x81, "r9": 0x81},
        ),
        Fault(
            "unaligned descriptor",
            s.TDX_METADATA_FIELD_VALUE_NOT_VALID,
            {
                "rdx": md.POSTED_INTERRUPT_DESCRIPTOR.id,
                "r8": DESCRIPTOR | 8,
                "r9": NO_FIELD,
            },
        ),
        Fault(
            "private descriptor",
            s.TDX_METADATA_FIELD_VALUE_NOT_VALID,
            {
                "rdx": md.POSTED_INTERRUPT_DESCRIPTOR.id,
                "r8": DESCRIPTOR | HKID_BIT,
                "r9": NO_FIELD,
            },
        ),
        Fault("no vector", s.TDX_METADATA_FIELD_VALUE_NOT_VALID, {"r8": 256}),
        Fault(
            "no vector yet",
            s.TDX_TD_VMCS_FIELD_NOT_INITIALIZED | 2,
            posted_interrupts(call),
        ),
    ],
}
