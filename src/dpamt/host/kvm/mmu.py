"""Page faults on private memory: page pools, the walk, freezing an entry, the two hooks.

Source: Linux arch/x86/kvm/mmu/mmu.c (mmu_topup_memory_caches, kvm_tdp_mmu_page_fault),
mmu/tdp_mmu.c (kvm_tdp_mmu_map).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, LEVEL_SHIFTS, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL, tdx_topup_pamt_cache
from dpamt.host.core.tdx_errno import EBUSY, EFAULT, EINTR, ENOMEM
from dpamt.host.kvm.mirror import FROZEN, LEAF, PFN_SHIFT, PRESENT, PRESENT_LEAF, TOP_LEVEL
from dpamt.host.kvm.sept import tdx_sept_link_private_spt, tdx_sept_set_private_spte
from dpamt.host.kvm.vm import INVALIDATE_IN_PROGRESS_MASK, Vcpu, Vm
from dpamt.sync import Word

RET_PF_FIXED: Final = 0
RET_PF_RETRY: Final = 1
RET_PF_SPURIOUS: Final = 2
"""The page is mapped already, perhaps at a larger level than the guest wants."""

SITE_SEPT: Final = "S-EPT page cache top-up"

_PAMT_CACHE_PAGES: Final = 2 * PT64_ROOT_MAX_LEVEL
_REGION_MASK: Final = ~(PAGES_PER_2M - 1)


def mmu_topup_memory_caches(kernel: Kernel, cpu: Cpu, vcpu: Vcpu) -> int:
    """Fill the VCPU's pools, before mmu_lock; 0 or -ENOMEM."""
    if len(vcpu.sept_cache) < PT64_ROOT_MAX_LEVEL:
        backed = kernel.design.sept_backing == "top-up"
        wanted = kernel.design.sept_cache_pages
        error = topup_sept_cache(kernel, cpu, vcpu.sept_cache, wanted, backed)
        if error:
            return error
    if kernel.dynamic_pamt and len(vcpu.pamt_cache.pages) < _PAMT_CACHE_PAGES:
        return tdx_topup_pamt_cache(kernel, vcpu.pamt_cache, PT64_ROOT_MAX_LEVEL)
    return 0


def topup_sept_cache(kernel: Kernel, cpu: Cpu, cache: list[int], pages: int, backed: bool) -> int:
    """Fill a pool of S-EPT pages, with PAMT if ``backed``; 0, or an error with what it has kept."""
    while len(cache) < pages:
        pfn = kernel.allocator.alloc_page(SITE_SEPT)
        if pfn is None:
            return -ENOMEM
        if backed:
            error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
            if error:
                kernel.allocator.free_page(pfn)
                return error
        cache.append(pfn)
    return 0


def free_sept_cache(kernel: Kernel, cpu: Cpu, cache: list[int], backed: bool) -> None:
    """Give every page back to the allocator."""
    while cache:
        pfn = cache.pop()
        if backed:
            kernel.tdx_pamt_put(kernel, cpu, pfn)
        kernel.allocator.free_page(pfn)


def tdx_handle_ept_violation(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, max_level: int) -> int:
    """A private fault, again for as long as the MMU asks for it: 0, RET_PF_SPURIOUS or an error.

    Trying again here, not by entering the guest, keeps zero-step mitigation quiet.
    """
    while True:
        result = kvm_tdp_mmu_page_fault(vm, vcpu, cpu, gpa, max_level, 0)
        if result != RET_PF_RETRY:
            return result
        signal = vcpu.signal_pending.load()
        if signal:
            return -EINTR


def kvm_tdp_mmu_page_fault(
    vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, max_level: int, source: int
) -> int:
    """One try at mapping the private page at ``gpa``: RET_PF_*, or a negative errno."""
    gfn = gpa >> PAGE_SHIFT
    if gfn >= vm.memory_pages:
        return -EFAULT
    error = mmu_topup_memory_caches(vm.kernel, cpu, vcpu)
    if error:
        return error
    invalidate = vm.invalidate.load()
    if invalidate & INVALIDATE_IN_PROGRESS_MASK:
        return RET_PF_RETRY
    shared_count = vm.shared_counts.at(gfn // PAGES_PER_2M).load()
    if shared_count:
        shared = vm.shared_pages.at(gfn).load()
        if shared:
            return -EFAULT
    pfn, level = vm.gmem.get_pfn(gfn)
    if pfn < 0:
        return -ENOMEM
    if level and (
        max_level < LEVEL_2M or shared_count or (gfn | PAGES_PER_2M - 1) >= vm.memory_pages
    ):
        level = LEVEL_4K
    mmu_lock = vm.mmu_lock
    mmu_lock.read_lock()
    now = vm.invalidate.load()
    if now != invalidate:
        mmu_lock.read_unlock()
        return RET_PF_RETRY
    result = kvm_tdp_mmu_map(vm, vcpu, cpu, gpa, level, pfn, source)
    mmu_lock.read_unlock()
    return RET_PF_RETRY if result == -EBUSY else result


def kvm_tdp_mmu_map(
    vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, goal: int, pfn: int, source: int
) -> int:
    """Walk, link what is missing, set the leaf.  Under mmu_lock for reading.

    Tables go only when the VM does, so a table that is there shows that those above it are: the
    walk begins at the lowest, and from the root where that is missing.
    """
    mirror = vm.mirror
    level = LEVEL_2M
    entry = mirror[LEVEL_2M].at(gpa >> LEVEL_SHIFTS[LEVEL_2M])
    spte = entry.load()
    if spte & (PRESENT | LEAF) == PRESENT:
        level = goal = LEVEL_4K
    else:
        level = TOP_LEVEL
    while True:
        entry = mirror[level].at(gpa >> LEVEL_SHIFTS[level])
        spte = entry.load()
        if spte & PRESENT:
            if spte & LEAF:
                return RET_PF_SPURIOUS
            if level == goal:
                goal -= 1  # a table stands where a large page would go
        elif spte:
            return RET_PF_RETRY
        elif level == goal:
            return _set_leaf(vm, cpu, entry, gpa, level, pfn, source)
        else:
            result = link_table(vm, vcpu, cpu, entry, gpa, level)
            if result:
                return result
        level -= 1


def _set_leaf(vm: Vm, cpu: Cpu, entry: Word, gpa: int, level: int, pfn: int, source: int) -> int:
    won = entry.compare_and_swap(0, FROZEN)
    if not won:
        return RET_PF_RETRY
    if level:
        pfn &= _REGION_MASK
    shift = LEVEL_SHIFTS[level]
    error = tdx_sept_set_private_spte(vm, cpu, gpa >> shift << shift, level, pfn, source)
    if error:
        entry.store(0)
        return error
    entry.store(pfn << PFN_SHIFT | PRESENT_LEAF)
    return RET_PF_FIXED


def link_table(vm: Vm, vcpu: Vcpu, cpu: Cpu, entry: Word, gpa: int, level: int) -> int:
    """SEPT.ADD of a page from the VCPU's pool below ``entry``; 0, RET_PF_RETRY or an error."""
    won = entry.compare_and_swap(0, FROZEN)
    if not won:
        return RET_PF_RETRY
    sept = vcpu.sept_cache.pop()
    shift = LEVEL_SHIFTS[level]
    error = tdx_sept_link_private_spt(vm, cpu, gpa >> shift << shift, level, sept)
    if error:
        entry.store(0)
        vcpu.sept_cache.append(sept)
        return error
    entry.store(sept << PFN_SHIFT | PRESENT)
    return 0
