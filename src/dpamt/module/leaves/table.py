"""The one table of the leaves that are answered: leaf number to function.

A leaf is absent where the model does not have it; it is then answered as an unknown one.
"""

from collections.abc import Callable
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.metadata import TDX_FEATURES0_SYS_DISABLE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.leaves.mem_page_add import tdh_mem_page_add
from dpamt.module.leaves.mem_page_aug import tdh_mem_page_aug
from dpamt.module.leaves.mem_page_demote import tdh_mem_page_demote
from dpamt.module.leaves.mem_page_promote import tdh_mem_page_promote
from dpamt.module.leaves.mem_page_relocate import tdh_mem_page_relocate
from dpamt.module.leaves.mem_page_remove import tdh_mem_page_remove
from dpamt.module.leaves.mem_range import tdh_mem_range_block, tdh_mem_range_unblock
from dpamt.module.leaves.mem_sept import (
    tdh_mem_sept_add,
    tdh_mem_sept_rd,
    tdh_mem_sept_remove,
)
from dpamt.module.leaves.mem_track import tdh_mem_track
from dpamt.module.leaves.metadata_rd import tdh_mng_rd, tdh_vp_rd
from dpamt.module.leaves.mng_create import tdh_mng_create, tdh_mng_key_config
from dpamt.module.leaves.mng_init import tdh_mng_addcx, tdh_mng_init
from dpamt.module.leaves.mng_teardown import (
    tdh_mng_key_freeid,
    tdh_mng_key_reclaimid,
    tdh_mng_vpflushdone,
)
from dpamt.module.leaves.mr import tdh_mr_extend, tdh_mr_finalize
from dpamt.module.leaves.phymem_cache import tdh_phymem_cache_wb
from dpamt.module.leaves.phymem_page import (
    tdh_phymem_page_rdmd,
    tdh_phymem_page_reclaim,
    tdh_phymem_page_wbinvd,
)
from dpamt.module.leaves.phymem_pamt import tdh_phymem_pamt_add, tdh_phymem_pamt_remove
from dpamt.module.leaves.sys_config import tdh_sys_config
from dpamt.module.leaves.sys_end import tdh_sys_disable, tdh_sys_shutdown, tdh_sys_update
from dpamt.module.leaves.sys_init import (
    tdh_sys_init,
    tdh_sys_key_config,
    tdh_sys_lp_init,
)
from dpamt.module.leaves.sys_rd import tdh_sys_rd
from dpamt.module.leaves.sys_tdmr_init import tdh_sys_tdmr_init
from dpamt.module.leaves.vp import tdh_vp_addcx, tdh_vp_create, tdh_vp_flush, tdh_vp_init
from dpamt.module.leaves.vp_enter import tdh_vp_enter
from dpamt.module.leaves.vp_wr import tdh_vp_wr
from dpamt.module.processor import LogicalProcessor

Handler = Callable[[LogicalProcessor, TdxModuleArgs], None]

HANDLERS: Final[dict[int, Handler]] = {
    leaf.TDH_VP_ENTER: tdh_vp_enter,
    leaf.TDH_MNG_ADDCX: tdh_mng_addcx,
    leaf.TDH_MEM_PAGE_ADD: tdh_mem_page_add,
    leaf.TDH_MEM_SEPT_ADD: tdh_mem_sept_add,
    leaf.TDH_VP_ADDCX: tdh_vp_addcx,
    leaf.TDH_MEM_PAGE_RELOCATE: tdh_mem_page_relocate,
    leaf.TDH_MEM_PAGE_AUG: tdh_mem_page_aug,
    leaf.TDH_MEM_RANGE_BLOCK: tdh_mem_range_block,
    leaf.TDH_MNG_KEY_CONFIG: tdh_mng_key_config,
    leaf.TDH_MNG_CREATE: tdh_mng_create,
    leaf.TDH_VP_CREATE: tdh_vp_create,
    leaf.TDH_MNG_RD: tdh_mng_rd,
    leaf.TDH_MEM_PAGE_DEMOTE: tdh_mem_page_demote,
    leaf.TDH_MR_EXTEND: tdh_mr_extend,
    leaf.TDH_MR_FINALIZE: tdh_mr_finalize,
    leaf.TDH_VP_FLUSH: tdh_vp_flush,
    leaf.TDH_MNG_VPFLUSHDONE: tdh_mng_vpflushdone,
    leaf.TDH_MNG_KEY_FREEID: tdh_mng_key_freeid,
    leaf.TDH_MNG_INIT: tdh_mng_init,
    leaf.TDH_VP_INIT: tdh_vp_init,
    leaf.TDH_MEM_PAGE_PROMOTE: tdh_mem_page_promote,
    leaf.TDH_PHYMEM_PAGE_RDMD: tdh_phymem_page_rdmd,
    leaf.TDH_MEM_SEPT_RD: tdh_mem_sept_rd,
    leaf.TDH_VP_RD: tdh_vp_rd,
    leaf.TDH_MNG_KEY_RECLAIMID: tdh_mng_key_reclaimid,
    leaf.TDH_PHYMEM_PAGE_RECLAIM: tdh_phymem_page_reclaim,
    leaf.TDH_MEM_PAGE_REMOVE: tdh_mem_page_remove,
    leaf.TDH_MEM_SEPT_REMOVE: tdh_mem_sept_remove,
    leaf.TDH_SYS_KEY_CONFIG: tdh_sys_key_config,
    leaf.TDH_SYS_INIT: tdh_sys_init,
    leaf.TDH_SYS_RD: tdh_sys_rd,
    leaf.TDH_SYS_LP_INIT: tdh_sys_lp_init,
    leaf.TDH_SYS_TDMR_INIT: tdh_sys_tdmr_init,
    leaf.TDH_MEM_TRACK: tdh_mem_track,
    leaf.TDH_MEM_RANGE_UNBLOCK: tdh_mem_range_unblock,
    leaf.TDH_PHYMEM_CACHE_WB: tdh_phymem_cache_wb,
    leaf.TDH_PHYMEM_PAGE_WBINVD: tdh_phymem_page_wbinvd,
    leaf.TDH_VP_WR: tdh_vp_wr,
    leaf.TDH_SYS_CONFIG: tdh_sys_config,
    leaf.TDH_SYS_SHUTDOWN: tdh_sys_shutdown,
    leaf.TDH_SYS_UPDATE: tdh_sys_update,
    leaf.TDH_PHYMEM_PAMT_ADD: tdh_phymem_pamt_add,
    leaf.TDH_PHYMEM_PAMT_REMOVE: tdh_phymem_pamt_remove,
    leaf.TDH_SYS_DISABLE: tdh_sys_disable,
}

ANNOUNCED: Final = {leaf.TDH_SYS_DISABLE: TDX_FEATURES0_SYS_DISABLE}
"""Leaves that a release has only with a bit of TDX_FEATURES0."""

BEFORE_READY: Final = frozenset(
    {
        leaf.TDH_SYS_INFO,
        leaf.TDH_SYS_RD,
        leaf.TDH_SYS_RDALL,
        leaf.TDH_SYS_INIT,
        leaf.TDH_SYS_LP_INIT,
        leaf.TDH_SYS_CONFIG,
        leaf.TDH_SYS_KEY_CONFIG,
        leaf.TDH_SYS_LP_SHUTDOWN,
        leaf.TDH_SYS_UPDATE,
    }
)
"""Leaves that the dispatcher lets through before the system state is READY.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_vmm_dispatcher.c].
"""
