"""The SEAMCALL leaf numbers: RAX bits 15:0 on input.  Nothing but the numbers lives here.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18, as of 2.0.18; for TDH.SYS.DISABLE,
which that has not, and for the P-SEAMLDR's, Linux 7.3.4 arch/x86/virt/vmx/tdx (tdx.h, seamldr.c).
"""

from typing import Final

TDH_VP_ENTER: Final = 0
TDH_MNG_ADDCX: Final = 1
TDH_MEM_PAGE_ADD: Final = 2
TDH_MEM_SEPT_ADD: Final = 3
TDH_VP_ADDCX: Final = 4
TDH_MEM_PAGE_RELOCATE: Final = 5
TDH_MEM_PAGE_AUG: Final = 6
TDH_MEM_RANGE_BLOCK: Final = 7
TDH_MNG_KEY_CONFIG: Final = 8
TDH_MNG_CREATE: Final = 9
TDH_VP_CREATE: Final = 10
TDH_MNG_RD: Final = 11
TDH_MEM_RD: Final = 12
TDH_MNG_WR: Final = 13
TDH_MEM_WR: Final = 14
TDH_MEM_PAGE_DEMOTE: Final = 15
TDH_MR_EXTEND: Final = 16
TDH_MR_FINALIZE: Final = 17
TDH_VP_FLUSH: Final = 18
TDH_MNG_VPFLUSHDONE: Final = 19
TDH_MNG_KEY_FREEID: Final = 20
TDH_MNG_INIT: Final = 21
TDH_VP_INIT: Final = 22
TDH_MEM_PAGE_PROMOTE: Final = 23
TDH_PHYMEM_PAGE_RDMD: Final = 24
TDH_MEM_SEPT_RD: Final = 25
TDH_VP_RD: Final = 26
TDH_MNG_KEY_RECLAIMID: Final = 27
TDH_PHYMEM_PAGE_RECLAIM: Final = 28
TDH_MEM_PAGE_REMOVE: Final = 29
TDH_MEM_SEPT_REMOVE: Final = 30
TDH_SYS_KEY_CONFIG: Final = 31
TDH_SYS_INFO: Final = 32
TDH_SYS_INIT: Final = 33
TDH_SYS_RD: Final = 34
TDH_SYS_LP_INIT: Final = 35
TDH_SYS_TDMR_INIT: Final = 36
TDH_SYS_RDALL: Final = 37
TDH_MEM_TRACK: Final = 38
TDH_MEM_RANGE_UNBLOCK: Final = 39
TDH_PHYMEM_CACHE_WB: Final = 40
TDH_PHYMEM_PAGE_WBINVD: Final = 41
TDH_MEM_SEPT_WR: Final = 42
TDH_VP_WR: Final = 43
TDH_SYS_LP_SHUTDOWN: Final = 44
TDH_SYS_CONFIG: Final = 45
TDH_SERVTD_BIND: Final = 48
TDH_SERVTD_PREBIND: Final = 49
TDH_SYS_SHUTDOWN: Final = 52
TDH_SYS_UPDATE: Final = 53
TDH_PHYMEM_PAMT_ADD: Final = 58
TDH_PHYMEM_PAMT_REMOVE: Final = 59
TDH_EXPORT_ABORT: Final = 64
TDH_EXPORT_BLOCKW: Final = 65
TDH_EXPORT_RESTORE: Final = 66
TDH_EXPORT_MEM: Final = 68
TDH_SYS_DISABLE: Final = 69
TDH_EXPORT_PAUSE: Final = 70
TDH_EXPORT_TRACK: Final = 71
TDH_EXPORT_STATE_IMMUTABLE: Final = 72
TDH_EXPORT_STATE_TD: Final = 73
TDH_EXPORT_STATE_VP: Final = 74
TDH_EXPORT_UNBLOCKW: Final = 75
TDH_IMPORT_ABORT: Final = 80
TDH_IMPORT_END: Final = 81
TDH_IMPORT_COMMIT: Final = 82
TDH_IMPORT_MEM: Final = 83
TDH_IMPORT_TRACK: Final = 84
TDH_IMPORT_STATE_IMMUTABLE: Final = 85
TDH_IMPORT_STATE_TD: Final = 86
TDH_IMPORT_STATE_VP: Final = 87
TDH_MEM_SCAN_RANGE: Final = 92
TDH_MEM_SCAN_COMP: Final = 93
TDH_MEM_SCAN_CONFIG: Final = 94
TDH_MEM_SCAN_RESET: Final = 95
TDH_MIG_STREAM_CREATE: Final = 96
TDH_SERVTD_REBIND: Final = 97
TDH_IOMMU_SETREG: Final = 128
TDH_IOMMU_GETREG: Final = 129
TDH_SPDM_CREATE: Final = 130
TDH_SPDM_DELETE: Final = 131
TDH_IDE_STREAM_CREATE: Final = 132
TDH_IDE_STREAM_BLOCK: Final = 133
TDH_IDE_STREAM_DELETE: Final = 134
TDH_IDE_STREAM_IDEKMREQ: Final = 135
TDH_IDE_STREAM_IDEKMRSP: Final = 136
TDH_DEVIF_CREATE: Final = 137
TDH_DEVIF_REMOVE: Final = 138
TDH_DEVIF_REQUEST: Final = 139
TDH_DEVIF_RESPONSE: Final = 140
TDH_DMAR_ADD: Final = 150
TDH_DMAR_BLOCK: Final = 151
TDH_DMAR_READ: Final = 152
TDH_DMAR_REMOVE: Final = 153
TDH_MMIO_MT_ADD: Final = 154
TDH_MMIO_MT_SET: Final = 155
TDH_MMIO_MT_RD: Final = 156
TDH_MMIO_MT_REMOVE: Final = 157
TDH_MMIO_MAP: Final = 158
TDH_MMIO_BLOCK: Final = 159
TDH_MMIO_UNMAP: Final = 160
TDH_IQ_INV_REQUEST: Final = 161
TDH_IQ_INV_PROCESS: Final = 162
TDH_MEM_SHARED_SEPT_WR: Final = 163
TDH_DEVIF_MT_ADD: Final = 164
TDH_DEVIF_MT_REMOVE: Final = 165
TDH_DEVIF_MT_RD: Final = 166

LEAF_NAMES: Final[dict[int, str]] = {
    number: name.replace("_", ".") for name, number in globals().items() if name.startswith("TDH_")
}
"""Leaf number to its dotted name, for example 6 to ``TDH.MEM.PAGE.AUG``."""

P_SEAMLDR_INFO: Final = 0x8000000000000000
P_SEAMLDR_INSTALL: Final = 0x8000000000000001
P_SEAMLDR: Final = 1 << 63
"""RAX bit 63: the call is for the P-SEAMLDR, which loads modules, and not for the module."""
_P_SEAMLDR_NAMES: Final = {P_SEAMLDR_INFO: "SEAMLDR.INFO", P_SEAMLDR_INSTALL: "SEAMLDR.INSTALL"}


def asked_leaf(rax: int) -> int:
    """Of RAX at a SEAMCALL: the leaf without its version; all of it for the P-SEAMLDR."""
    return rax if rax & P_SEAMLDR else rax & RAX_LEAF_MASK


def leaf_name(rax: int) -> str:
    """What a SEAMCALL with this RAX asks for; a number where no leaf is known.  The version is not
    part of it."""
    if rax & P_SEAMLDR:
        return _P_SEAMLDR_NAMES.get(rax, f"SEAMLDR leaf {rax & ~P_SEAMLDR:#x}")
    leaf = rax & RAX_LEAF_MASK
    return LEAF_NAMES.get(leaf, f"leaf {leaf}")


TDX_CONNECT_LEAVES: Final = range(128, 167)
"""Leaves refused without TDX Connect, and always in Dynamic PAMT mode [tdx_vmm_dispatcher.c]."""

RAX_LEAF_MASK: Final = 0xFFFF
RAX_VERSION_SHIFT: Final = 16
RAX_VERSION_MASK: Final = 0xFF
RAX_RESERVED_MASK: Final = 0xFFFFFFFF_FF000000
"""RAX on input: leaf 15:0, version 23:16, the rest must be zero."""
