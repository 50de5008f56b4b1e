"""What KVM has lost, taken back from the module by SEAMCALLs that the guest's kernel does not see.

For a sweep alone, between two lives: no TD is meant to be there.  Page pairs stay, for the kernel's
own counts say that they do.
"""

from dpamt.abi.leaves import (
    TDH_MNG_KEY_FREEID,
    TDH_MNG_VPFLUSHDONE,
    TDH_PHYMEM_CACHE_WB,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_VP_FLUSH,
)
from dpamt.abi.pages import PAGE_SHIFT, PT_TDR, PT_TDVPR
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView


def take_back(module: TdxModule) -> None:
    """End every TD that is left, and reclaim its pages as far as the module lets them go."""
    used = ModuleView(module).used_pages()
    if not used:
        return
    pages = {page: use.type for page, use in used.items()}
    for tdvpr in (page for page, kind in pages.items() if kind == PT_TDVPR):
        for cpu in range(len(module.processors)):
            _call(module, cpu, TDH_VP_FLUSH, tdvpr << PAGE_SHIFT)
    roots = [page for page, kind in pages.items() if kind == PT_TDR]
    for tdr in roots:
        _call(module, 0, TDH_MNG_VPFLUSHDONE, tdr << PAGE_SHIFT)
    _call(module, 0, TDH_PHYMEM_CACHE_WB, 0)
    for tdr in roots:
        _call(module, 0, TDH_MNG_KEY_FREEID, tdr << PAGE_SHIFT)
    for page in [*(page for page in pages if page not in roots), *roots]:
        _call(module, 0, TDH_PHYMEM_PAGE_RECLAIM, page << PAGE_SHIFT)


def _call(module: TdxModule, cpu: int, leaf: int, rcx: int) -> None:
    args = TdxModuleArgs()
    args.rcx = rcx
    module.processors[cpu].seamcall(leaf, args)
