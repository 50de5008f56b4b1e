"""Splitting a 2M leaf into 4K leafs, with the pages that takes taken before mmu_lock.

One split needs one S-EPT page, the pair for that page's region, and the pair for the split region.
They are taken under the VM's mutex for splits; what the split did not need goes back after it.
A design may forget the first of the two pairs (reviews of v5, 2026-02).

Source: `[PATCH v3 00/24] KVM: TDX huge page support for private memory` (2026-01-06);
`[RFC PATCH v5 00/45] TDX: Dynamic PAMT + S-EPT Hugepage` (2026-01-28).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.page_cache import (
    PamtCache,
    alloc_pamt_pages,
    free_pamt_pages,
    tdx_free_pamt_cache,
    tdx_topup_pamt_cache,
)
from dpamt.host.core.tdx_errno import ENOMEM
from dpamt.host.kvm.mirror import LEAF, PFN_SHIFT, PRESENT, PRESENT_LEAF
from dpamt.host.kvm.mmu import free_sept_cache, topup_sept_cache
from dpamt.host.kvm.sept import tdx_sept_split_private_spte
from dpamt.host.kvm.vm import Vm

PAIRS_PER_SPLIT: Final = 2


def kvm_split_cross_boundary_leafs(vm: Vm, cpu: Cpu, first: int, end: int) -> int:
    """Split the large leafs that reach across either end of [first, end); 0 or an error."""
    if first % PAGES_PER_2M:
        error = kvm_split_huge_leaf(vm, cpu, first)
        if error:
            return error
    if end % PAGES_PER_2M:
        return kvm_split_huge_leaf(vm, cpu, end)
    return 0


def kvm_split_huge_leaf(vm: Vm, cpu: Cpu, gfn: int) -> int:
    """Split the 2M leaf over ``gfn`` if there is one; 0, -ENOMEM or -EIO."""
    entry = vm.mirror[LEVEL_2M].at(gfn // PAGES_PER_2M)
    spte = entry.load()
    if not spte & LEAF:
        return 0
    kernel = vm.kernel
    sept_cache: list[int] = []
    pamt_cache = PamtCache()
    vm.split_lock.lock()
    error = topup_sept_cache(kernel, cpu, sept_cache, 1, False)
    if not error and kernel.dynamic_pamt:
        error = tdx_topup_pamt_cache(kernel, pamt_cache, PAIRS_PER_SPLIT)
    if not error:
        vm.mmu_lock.write_lock()
        error = _split_leaf(vm, cpu, gfn // PAGES_PER_2M, sept_cache, pamt_cache)
        vm.mmu_lock.write_unlock()
    free_sept_cache(kernel, cpu, sept_cache, False)
    tdx_free_pamt_cache(kernel, pamt_cache)
    vm.split_lock.unlock()
    return error


def _split_leaf(vm: Vm, cpu: Cpu, index: int, sept_cache: list[int], pamt_cache: PamtCache) -> int:
    """Under mmu_lock for writing: the split itself; someone else may have done it."""
    kernel = vm.kernel
    entry = vm.mirror[LEVEL_2M].at(index)
    spte = entry.load()
    if not spte & LEAF:
        return 0
    pfn = spte >> PFN_SHIFT
    sept = sept_cache.pop()
    backed = kernel.design.split_backs_sept
    if backed:
        error = kernel.tdx_pamt_get(kernel, cpu, sept, pamt_cache)
        if error:
            sept_cache.append(sept)
            return error
    pages: tuple[int, int] | None = (0, 0)
    if kernel.dynamic_pamt:
        pages = alloc_pamt_pages(kernel, pamt_cache)
    if pages is None:
        error = -ENOMEM
    else:
        gpa = index * PAGES_PER_2M << PAGE_SHIFT
        error = tdx_sept_split_private_spte(vm, cpu, gpa, LEVEL_2M, pfn, sept, pages, pamt_cache)
        if error and kernel.dynamic_pamt:
            free_pamt_pages(kernel, pages[0], pages[1])
    if error:
        if backed:
            kernel.tdx_pamt_put(kernel, cpu, sept)
        sept_cache.append(sept)
        return error
    children = vm.mirror[LEVEL_4K]
    for slot in range(PAGES_PER_2M):
        child = children.at(index * PAGES_PER_2M + slot)
        child.store(pfn + slot << PFN_SHIFT | PRESENT_LEAF)
    entry.store(sept << PFN_SHIFT | PRESENT)
    return 0
