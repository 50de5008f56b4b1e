"""One thin function per SEAMCALL leaf that the host makes, named as in Linux.

Pages are given and returned as page frame numbers, guest addresses in bytes.  Each returns the
64-bit status, or (status, outputs...).  Only "no entropy" is retried.

Source: Linux arch/x86/virt/vmx/tdx/tdx.c.
"""

from typing import Final

from dpamt.abi.leaves import (
    RAX_VERSION_SHIFT,
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_MNG_INIT,
    TDH_MNG_KEY_CONFIG,
    TDH_MNG_KEY_FREEID,
    TDH_MNG_RD,
    TDH_MNG_VPFLUSHDONE,
    TDH_MR_EXTEND,
    TDH_MR_FINALIZE,
    TDH_PHYMEM_CACHE_WB,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_LP_INIT,
    TDH_SYS_RD,
    TDH_SYS_SHUTDOWN,
    TDH_SYS_TDMR_INIT,
    TDH_SYS_UPDATE,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
    TDH_VP_ENTER,
    TDH_VP_FLUSH,
    TDH_VP_INIT,
    TDH_VP_RD,
    TDH_VP_WR,
)
from dpamt.abi.pages import (
    LEVEL_2M,
    PAGE_SHIFT,
    PAGES_PER_2M,
    REMOVAL_HINT,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.tdx_errno import is_tdx_rnd_no_entropy

RDRAND_RETRY_LOOPS: Final = 10
"""Attempts of a SEAMCALL that reports no entropy (Linux arch/x86/include/asm/archrandom.h)."""

_REGION_MASK: Final = ~(PAGES_PER_2M - 1)
_VP_INIT_V1: Final = TDH_VP_INIT | 1 << RAX_VERSION_SHIFT


def seamcall(cpu: Cpu, rax: int, args: TdxModuleArgs) -> int:
    """A SEAMCALL on ``cpu``, again while the module has no entropy, at most ten times in all."""
    call = cpu.seamcall
    status = call(rax, args)
    if not status or not is_tdx_rnd_no_entropy(status):
        return status
    for _attempt in range(RDRAND_RETRY_LOOPS - 1):
        status = call(rax, args)
        if not is_tdx_rnd_no_entropy(status):
            return status
    return status


def _with_rcx(cpu: Cpu, leaf: int, pfn: int) -> int:
    args = TdxModuleArgs()
    args.rcx = pfn << PAGE_SHIFT
    return seamcall(cpu, leaf, args)


def _with_rcx_rdx(cpu: Cpu, leaf: int, rcx: int, tdr: int) -> int:
    args = TdxModuleArgs()
    args.rcx = rcx
    args.rdx = tdr << PAGE_SHIFT
    return seamcall(cpu, leaf, args)


def tdh_sys_init(cpu: Cpu) -> int:
    """SYS.INIT, once on any CPU."""
    return seamcall(cpu, TDH_SYS_INIT, TdxModuleArgs())


def tdh_sys_lp_init(cpu: Cpu) -> int:
    """SYS.LP.INIT, once on each CPU."""
    return seamcall(cpu, TDH_SYS_LP_INIT, TdxModuleArgs())


def tdh_sys_rd(cpu: Cpu, field_id: int) -> tuple[int, TdxModuleArgs]:
    """SYS.RD: (status, registers); the value is in R8."""
    args = TdxModuleArgs()
    args.rdx = field_id
    status = seamcall(cpu, TDH_SYS_RD, args)
    return status, args


def tdh_sys_config(cpu: Cpu, array: int, count: int, r8: int) -> int:
    """SYS.CONFIG: physical address of the pointer array, TDMRs, KeyID and mode."""
    args = TdxModuleArgs()
    args.rcx = array
    args.rdx = count
    args.r8 = r8
    return seamcall(cpu, TDH_SYS_CONFIG, args)


def tdh_sys_key_config(cpu: Cpu) -> int:
    """SYS.KEY.CONFIG, once on one CPU of each package."""
    return seamcall(cpu, TDH_SYS_KEY_CONFIG, TdxModuleArgs())


def tdh_sys_tdmr_init(cpu: Cpu, base: int) -> tuple[int, int]:
    """SYS.TDMR.INIT: (status, next address to initialise)."""
    args = TdxModuleArgs()
    args.rcx = base
    status = seamcall(cpu, TDH_SYS_TDMR_INIT, args)
    return status, args.rdx


def tdh_sys_shutdown(cpu: Cpu, handoff_version: int) -> int:
    """SYS.SHUTDOWN, before another module is loaded over this one."""
    args = TdxModuleArgs()
    args.rcx = handoff_version
    return seamcall(cpu, TDH_SYS_SHUTDOWN, args)


def tdh_sys_update(cpu: Cpu) -> int:
    """SYS.UPDATE: the new module goes on where the old one ended."""
    return seamcall(cpu, TDH_SYS_UPDATE, TdxModuleArgs())


def tdh_phymem_pamt_add(cpu: Cpu, pfn: int, page0: int, page1: int) -> int:
    """PHYMEM.PAMT.ADD: install the pair for the 2M region that holds ``pfn``."""
    args = TdxModuleArgs()
    args.rcx = (pfn & _REGION_MASK) << PAGE_SHIFT | LEVEL_2M
    args.rdx = page0 << PAGE_SHIFT
    args.r8 = page1 << PAGE_SHIFT
    return seamcall(cpu, TDH_PHYMEM_PAMT_ADD, args)


def tdh_phymem_pamt_remove(cpu: Cpu, pfn: int) -> tuple[int, int, int]:
    """PHYMEM.PAMT.REMOVE: (status, first page, second page) of the region that holds ``pfn``."""
    args = TdxModuleArgs()
    args.rcx = (pfn & _REGION_MASK) << PAGE_SHIFT | LEVEL_2M
    status = seamcall(cpu, TDH_PHYMEM_PAMT_REMOVE, args)
    return status, args.rdx >> PAGE_SHIFT, args.r8 >> PAGE_SHIFT


def tdh_mng_create(cpu: Cpu, tdr: int, hkid: int) -> int:
    """MNG.CREATE: a TD, from its first page."""
    args = TdxModuleArgs()
    args.rcx = tdr << PAGE_SHIFT
    args.rdx = hkid
    return seamcall(cpu, TDH_MNG_CREATE, args)


def tdh_mng_key_config(cpu: Cpu, tdr: int) -> int:
    """MNG.KEY.CONFIG, on one CPU of each package."""
    return _with_rcx(cpu, TDH_MNG_KEY_CONFIG, tdr)


def tdh_mng_addcx(cpu: Cpu, tdr: int, pfn: int) -> int:
    """MNG.ADDCX: one more TDCS page."""
    return _with_rcx_rdx(cpu, TDH_MNG_ADDCX, pfn << PAGE_SHIFT, tdr)


def tdh_mng_init(cpu: Cpu, tdr: int, td_params: int) -> tuple[int, int]:
    """MNG.INIT with TD_PARAMS at a physical address: (status, extended error)."""
    args = TdxModuleArgs()
    args.rcx = tdr << PAGE_SHIFT
    args.rdx = td_params
    status = seamcall(cpu, TDH_MNG_INIT, args)
    return status, args.rcx


def tdh_mng_rd(cpu: Cpu, tdr: int, field_id: int) -> tuple[int, int]:
    """MNG.RD: (status, value of a field of the TD)."""
    return _read_field(cpu, TDH_MNG_RD, tdr, field_id)


def tdh_vp_rd(cpu: Cpu, tdvpr: int, field_id: int) -> tuple[int, int]:
    """VP.RD: (status, value of a field of the VCPU)."""
    return _read_field(cpu, TDH_VP_RD, tdvpr, field_id)


def _read_field(cpu: Cpu, leaf: int, pfn: int, field_id: int) -> tuple[int, int]:
    args = TdxModuleArgs()
    args.rcx = pfn << PAGE_SHIFT
    args.rdx = field_id
    status = seamcall(cpu, leaf, args)
    return status, args.r8


def tdh_vp_wr(cpu: Cpu, tdvpr: int, field_id: int, value: int, mask: int) -> int:
    """VP.WR: the bits of ``mask`` of a field of the VCPU."""
    args = TdxModuleArgs()
    args.rcx = tdvpr << PAGE_SHIFT
    args.rdx = field_id
    args.r8 = value
    args.r9 = mask
    return seamcall(cpu, TDH_VP_WR, args)


def tdh_mng_vpflushdone(cpu: Cpu, tdr: int) -> int:
    """MNG.VPFLUSHDONE: no VCPU is on any CPU any more."""
    return _with_rcx(cpu, TDH_MNG_VPFLUSHDONE, tdr)


def tdh_mng_key_freeid(cpu: Cpu, tdr: int) -> int:
    """MNG.KEY.FREEID: the KeyID is free for another TD."""
    return _with_rcx(cpu, TDH_MNG_KEY_FREEID, tdr)


def tdh_vp_create(cpu: Cpu, tdr: int, tdvpr: int) -> int:
    """VP.CREATE: a VCPU, from its first page."""
    return _with_rcx_rdx(cpu, TDH_VP_CREATE, tdvpr << PAGE_SHIFT, tdr)


def tdh_vp_addcx(cpu: Cpu, tdvpr: int, pfn: int) -> int:
    """VP.ADDCX: one more page of the VCPU."""
    return _with_rcx_rdx(cpu, TDH_VP_ADDCX, pfn << PAGE_SHIFT, tdvpr)


def tdh_vp_init(cpu: Cpu, tdvpr: int, initial_rcx: int, x2apicid: int) -> int:
    """VP.INIT, version 1."""
    args = TdxModuleArgs()
    args.rcx = tdvpr << PAGE_SHIFT
    args.rdx = initial_rcx
    args.r8 = x2apicid
    return seamcall(cpu, _VP_INIT_V1, args)


def tdh_vp_flush(cpu: Cpu, tdvpr: int) -> int:
    """VP.FLUSH, on the CPU that the VCPU is associated with."""
    return _with_rcx(cpu, TDH_VP_FLUSH, tdvpr)


def tdh_vp_enter(cpu: Cpu, tdvpr: int, args: TdxModuleArgs) -> int:
    """VP.ENTER: run the VCPU; ``args`` carries its registers in and the exit's out.

    Not retried: "no entropy" is no answer of this leaf.
    """
    args.rcx = tdvpr << PAGE_SHIFT
    return cpu.seamcall(TDH_VP_ENTER, args)


def tdh_mem_sept_add(cpu: Cpu, tdr: int, gpa: int, level: int, pfn: int) -> int:
    """MEM.SEPT.ADD: the S-EPT page that the entry of ``level`` at ``gpa`` points to."""
    args = TdxModuleArgs()
    args.rcx = gpa | level
    args.rdx = tdr << PAGE_SHIFT
    args.r8 = pfn << PAGE_SHIFT
    return seamcall(cpu, TDH_MEM_SEPT_ADD, args)


def tdh_mem_page_add(cpu: Cpu, tdr: int, gpa: int, pfn: int, source: int) -> int:
    """MEM.PAGE.ADD: a 4K page with contents, before the TD is finalised."""
    args = TdxModuleArgs()
    args.rcx = gpa
    args.rdx = tdr << PAGE_SHIFT
    args.r8 = pfn << PAGE_SHIFT
    args.r9 = source << PAGE_SHIFT
    return seamcall(cpu, TDH_MEM_PAGE_ADD, args)


def tdh_mem_page_aug(cpu: Cpu, tdr: int, gpa: int, level: int, pfn: int) -> int:
    """MEM.PAGE.AUG: a pending page, 4K or 2M."""
    args = TdxModuleArgs()
    args.rcx = gpa | level
    args.rdx = tdr << PAGE_SHIFT
    args.r8 = pfn << PAGE_SHIFT
    return seamcall(cpu, TDH_MEM_PAGE_AUG, args)


def tdh_mem_page_remove(cpu: Cpu, tdr: int, gpa: int, level: int) -> tuple[int, bool]:
    """MEM.PAGE.REMOVE of a blocked and tracked page: (status, hint: the pair has no user now)."""
    args = TdxModuleArgs()
    args.rcx = gpa | level
    args.rdx = tdr << PAGE_SHIFT
    status = seamcall(cpu, TDH_MEM_PAGE_REMOVE, args)
    return status, not status and args.rcx & REMOVAL_HINT != 0


def tdh_mem_page_demote(
    cpu: Cpu, tdr: int, gpa: int, level: int, sept: int, page0: int, page1: int
) -> int:
    """MEM.PAGE.DEMOTE: split a leaf with a new S-EPT page and, for 2M, a page pair in R12, R13."""
    args = TdxModuleArgs()
    args.rcx = gpa | level
    args.rdx = tdr << PAGE_SHIFT
    args.r8 = sept << PAGE_SHIFT
    args.r12 = page0 << PAGE_SHIFT
    args.r13 = page1 << PAGE_SHIFT
    return seamcall(cpu, TDH_MEM_PAGE_DEMOTE, args)


def tdh_mem_range_block(cpu: Cpu, tdr: int, gpa: int, level: int) -> int:
    """MEM.RANGE.BLOCK: no new translations of the range."""
    return _with_rcx_rdx(cpu, TDH_MEM_RANGE_BLOCK, gpa | level, tdr)


def tdh_mem_track(cpu: Cpu, tdr: int) -> int:
    """MEM.TRACK: a new TLB epoch."""
    return _with_rcx(cpu, TDH_MEM_TRACK, tdr)


def tdh_mr_extend(cpu: Cpu, tdr: int, gpa: int) -> int:
    """MR.EXTEND: measure 256 bytes at ``gpa``."""
    return _with_rcx_rdx(cpu, TDH_MR_EXTEND, gpa, tdr)


def tdh_mr_finalize(cpu: Cpu, tdr: int) -> int:
    """MR.FINALIZE: the TD may run."""
    return _with_rcx(cpu, TDH_MR_FINALIZE, tdr)


def tdh_phymem_cache_wb(cpu: Cpu, resume: bool) -> int:
    """PHYMEM.CACHE.WB on one CPU of each package, resumed while interrupted."""
    args = TdxModuleArgs()
    args.rcx = 1 if resume else 0
    return seamcall(cpu, TDH_PHYMEM_CACHE_WB, args)


def tdh_phymem_page_wbinvd(cpu: Cpu, pfn: int, hkid: int) -> int:
    """PHYMEM.PAGE.WBINVD: write back and flush the page as cached under the KeyID."""
    args = TdxModuleArgs()
    args.rcx = pfn << PAGE_SHIFT | hkid << cpu.hkid_start_bit
    return seamcall(cpu, TDH_PHYMEM_PAGE_WBINVD, args)


def tdh_phymem_page_reclaim(cpu: Cpu, pfn: int) -> tuple[int, bool]:
    """PHYMEM.PAGE.RECLAIM, from a TD in teardown: (status, hint: the pair has no user now)."""
    args = TdxModuleArgs()
    args.rcx = pfn << PAGE_SHIFT
    status = seamcall(cpu, TDH_PHYMEM_PAGE_RECLAIM, args)
    return status, not status and args.r9 & REMOVAL_HINT != 0
