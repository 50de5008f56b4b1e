"""What each leaf expects in its registers: formats only, enough to read the numbers of a call.

A register that is not listed is not looked at.  Registers of other versions than 0 are listed too.
Source: Intel TDX module source (open release), 2.0.08 to 2.0.18.
"""

from typing import Final

from dpamt.abi import leaves as leaf

GPA_LEVEL: Final = "GPA and level"
"""Page info: 2:0 level, 51:12 GPA."""
HPA_LEVEL: Final = "HPA and level"
"""Page size info: 2:0 level, 51:12 HPA."""
GPA: Final = "GPA"
TDR: Final = "TDR"
TDR_FLAG: Final = "TDR, flag in bit 0"
TDVPR: Final = "TDVPR"
PAGE: Final = "page"
"""HPA of a page that the module takes, or works on."""
HOST_PAGE: Final = "host memory"
"""HPA of memory that the host shares with the module."""
FIELD: Final = "metadata field"
KEYID: Final = "KeyID"
NUMBER: Final = "number"
KEYID_MODE: Final = "KeyID, Dynamic PAMT in bit 16"

_IN_TD: Final = {"rcx": GPA_LEVEL, "rdx": TDR}

LEAF_OPERANDS: Final[dict[int, dict[str, str]]] = {
    leaf.TDH_VP_ENTER: {"rcx": TDVPR},
    leaf.TDH_MNG_ADDCX: {"rcx": PAGE, "rdx": TDR},
    leaf.TDH_MEM_PAGE_ADD: {**_IN_TD, "r8": PAGE, "r9": HOST_PAGE},
    leaf.TDH_MEM_SEPT_ADD: {
        "rcx": GPA_LEVEL,
        "rdx": TDR_FLAG,
        "r8": PAGE,
        "r9": PAGE,
        "r10": PAGE,
        "r11": PAGE,
    },
    leaf.TDH_VP_ADDCX: {"rcx": PAGE, "rdx": TDVPR},
    leaf.TDH_MEM_PAGE_RELOCATE: {**_IN_TD, "r8": PAGE},
    leaf.TDH_MEM_PAGE_AUG: {**_IN_TD, "r8": PAGE},
    leaf.TDH_MEM_RANGE_BLOCK: _IN_TD,
    leaf.TDH_MNG_KEY_CONFIG: {"rcx": TDR},
    leaf.TDH_MNG_CREATE: {"rcx": PAGE, "rdx": KEYID},
    leaf.TDH_VP_CREATE: {"rcx": PAGE, "rdx": TDR},
    leaf.TDH_MEM_PAGE_DEMOTE: {
        "rcx": GPA_LEVEL,
        "rdx": TDR_FLAG,
        "r8": PAGE,
        "r9": PAGE,
        "r10": PAGE,
        "r11": PAGE,
        "r12": PAGE,
        "r13": PAGE,
    },
    leaf.TDH_MR_EXTEND: {"rcx": GPA, "rdx": TDR},
    leaf.TDH_MR_FINALIZE: {"rcx": TDR},
    leaf.TDH_VP_FLUSH: {"rcx": TDVPR},
    leaf.TDH_MNG_VPFLUSHDONE: {"rcx": TDR},
    leaf.TDH_MNG_KEY_FREEID: {"rcx": TDR},
    leaf.TDH_MNG_INIT: {"rcx": TDR_FLAG, "rdx": HOST_PAGE, "r8": HOST_PAGE},
    leaf.TDH_VP_INIT: {"rcx": TDVPR, "rdx": NUMBER, "r8": NUMBER},
    leaf.TDH_MEM_PAGE_PROMOTE: _IN_TD,
    leaf.TDH_PHYMEM_PAGE_RDMD: {"rcx": HPA_LEVEL},
    leaf.TDH_MEM_SEPT_RD: {"rcx": GPA_LEVEL, "rdx": TDR_FLAG},
    leaf.TDH_MNG_KEY_RECLAIMID: {"rcx": TDR},
    leaf.TDH_PHYMEM_PAGE_RECLAIM: {"rcx": PAGE},
    leaf.TDH_MEM_PAGE_REMOVE: _IN_TD,
    leaf.TDH_MEM_SEPT_REMOVE: _IN_TD,
    leaf.TDH_SYS_KEY_CONFIG: {},
    leaf.TDH_SYS_INIT: {"rcx": NUMBER},
    leaf.TDH_SYS_RD: {"rdx": FIELD},
    leaf.TDH_SYS_LP_INIT: {},
    leaf.TDH_SYS_TDMR_INIT: {"rcx": PAGE},
    leaf.TDH_MEM_TRACK: {"rcx": TDR},
    leaf.TDH_MEM_RANGE_UNBLOCK: _IN_TD,
    leaf.TDH_PHYMEM_CACHE_WB: {"rcx": NUMBER},
    leaf.TDH_PHYMEM_PAGE_WBINVD: {"rcx": PAGE},
    leaf.TDH_SYS_CONFIG: {
        "rcx": HOST_PAGE,
        "rdx": NUMBER,
        "r8": KEYID_MODE,
        "r9": NUMBER,
        "r10": NUMBER,
    },
    leaf.TDH_SYS_SHUTDOWN: {"rcx": NUMBER},
    leaf.TDH_SYS_UPDATE: {},
    leaf.TDH_SYS_DISABLE: {},
    leaf.TDH_PHYMEM_PAMT_ADD: {"rcx": HPA_LEVEL, "rdx": PAGE, "r8": PAGE},
    leaf.TDH_PHYMEM_PAMT_REMOVE: {"rcx": HPA_LEVEL},
}
"""Leaf to register to format, in the order of the registers."""

PAGE_TYPE: Final = "page type"
OWNER: Final = "owner's TDR"
LEVEL: Final = "level"
NEXT_ADDRESS: Final = "next address to initialise"
CPUID_LEAF: Final = "CPUID leaf, subleaf in 63:32"
CPUID_MASK_AB: Final = "mask of EAX, EBX in 63:32"
CPUID_MASK_CD: Final = "mask of ECX, EDX in 63:32"
CPUID_VALUE_AB: Final = "expected EAX, EBX in 63:32"
CPUID_VALUE_CD: Final = "expected ECX, EDX in 63:32"

_PAGE_METADATA: Final = {"rcx": PAGE_TYPE, "rdx": OWNER, "r8": LEVEL}

LEAF_OUTPUTS: Final[dict[int, dict[str, str]]] = {
    leaf.TDH_PHYMEM_PAGE_RECLAIM: _PAGE_METADATA,
    leaf.TDH_PHYMEM_PAGE_RDMD: _PAGE_METADATA,
    leaf.TDH_SYS_TDMR_INIT: {"rdx": NEXT_ADDRESS},
}
"""Leaf to the registers that it writes once its own checks begin, whatever becomes of the call.

They are cleared on entry, so that the operands that went in are not to be seen any more.
Source: Intel TDX module source (open release), tdh_phymem_page_reclaim.c, tdh_phymem_page_rdmd.c,
tdh_sys_tdmr_init.c.
"""

CPUID_OUTPUTS: Final[dict[str, str]] = {
    "rcx": CPUID_LEAF,
    "rdx": CPUID_MASK_AB,
    "r8": CPUID_MASK_CD,
    "r9": CPUID_VALUE_AB,
    "r10": CPUID_VALUE_CD,
}
"""What TDH.SYS.INIT and TDH.SYS.LP.INIT leave with a status that speaks of CPUID.

Source: Intel TDX Module ABI specification, TDH.SYS.INIT, output operands.
"""
