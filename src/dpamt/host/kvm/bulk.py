"""Runs of 4K pages through the fault path and the zap: as many faults, or zaps, one after another.

Each function does what the path page by page would have done without a retry, and says for how
many pages.  None is a good answer: the caller then continues page by page (the pools of a fault are
filled already, which is its first step).
"""

from collections.abc import Sequence
from typing import Final

from dpamt.abi.bulk import BulkSeamCalls
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SHIFT,
    PAGES_PER_1G,
    PAGES_PER_2M,
    PAMT_PAIR_PAGES,
)
from dpamt.host.core.bulk import get_run, is_counted, may_get_run, may_put_run, put_run
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.host.core.tdx_errno import EBUSY, ENOMEM
from dpamt.host.kvm.gmem import BASE_SHIFT, COUNT_MASK, SITE_PAGE
from dpamt.host.kvm.mirror import LEAF, PFN_SHIFT, PRESENT, PRESENT_LEAF
from dpamt.host.kvm.mmu import RET_PF_RETRY, link_table, mmu_topup_memory_caches
from dpamt.host.kvm.sept import tdx_sept_set_backed_spte
from dpamt.host.kvm.vm import (
    INVALIDATE_IN_PROGRESS_MASK,
    OUTSIDE_GUEST_MODE,
    Vcpu,
    Vm,
)
from dpamt.sync.runs import uniform

WORTH_IT: Final = 8
"""Fewer pages that follow one another cost less page by page."""
_SLOT_MASK: Final = PAGES_PER_2M - 1
_ONE_LEAF: Final = 1 << PFN_SHIFT


def fault_in_run(
    vm: Vm, vcpu: Vcpu, cpu: Cpu, bulk: BulkSeamCalls, gfn: int, pages: int, source: int = 0
) -> int:
    """As that number of faults at 4K from ``gfn`` on, PAGE.ADD from ``source`` or AUG: how many.

    A region without its pair gets it only for the first page of the call, so that a fault that
    fails there, with its negative errno returned, is the only one.
    """
    end = min(gfn + pages, vm.memory_pages)
    done = gfn
    while done < end:
        most = min(end - done, PAGES_PER_2M - (done & _SLOT_MASK))
        mapped = _map_stretch(vm, vcpu, cpu, bulk, done, most, source, done == gfn)
        if mapped <= 0:
            return done - gfn or mapped
        done += mapped
    return max(done - gfn, 0)


def _map_stretch(
    vm: Vm,
    vcpu: Vcpu,
    cpu: Cpu,
    bulk: BulkSeamCalls,
    gfn: int,
    most: int,
    source: int,
    may_begin: bool,
) -> int:
    """The first pages of [gfn, gfn + most), which is in one 2M range: those backed by one run.

    ``may_begin``: the range's S-EPT page and the region's pair may be missing, and come first.
    """
    kernel = vm.kernel
    table = vm.mirror[LEVEL_2M].at(gfn // PAGES_PER_2M).load()
    links = not table and may_begin and _has_table(vm, gfn)
    if (not links and table & (PRESENT | LEAF) != PRESENT) or not _is_quiet(vm, vcpu, cpu, gfn):
        return 0
    pages, fresh = _run_of_pages(vm, vcpu, cpu, gfn, most)
    if not pages:
        return -ENOMEM if fresh else 0
    pages = pages[: _zeros(vm.mirror[LEVEL_4K].load_run(gfn, gfn + len(pages)))]
    if not pages or not may_get_run(kernel):
        return 0
    first = pages[0]
    begins = links or not is_counted(kernel, first)
    if begins:
        if fresh or not may_begin or not _second_fault_has_all(vm, vcpu, links):
            return 0
        error = _begin(vm, vcpu, cpu, gfn, first, links)
        if error:
            return 0 if error in (RET_PF_RETRY, -EBUSY) else error
    if source:
        done = bulk.page_add(vm.tdr, gfn, pages, source)
    else:
        done = bulk.page_aug(vm.tdr, gfn, pages)
    if not done:
        return _map_backed(vm, vcpu, cpu, gfn, first, source) if begins else 0
    if fresh:
        kernel.allocator.take_next(done, SITE_PAGE)
        vm.gmem.pages.store_run(gfn, range(first, first + done))
        vm.gmem.ranges.at(gfn // PAGES_PER_2M).add(done)
    if begins and done > 1:
        mmu_topup_memory_caches(kernel, cpu, vcpu)
    if not begins or done > 1:
        get_run(kernel, cpu, first, done - begins, vcpu.pamt_cache)
    leaf = first << PFN_SHIFT | PRESENT_LEAF
    vm.mirror[LEVEL_4K].store_run(gfn, range(leaf, leaf + done * _ONE_LEAF, _ONE_LEAF))
    return done


def _has_table(vm: Vm, gfn: int) -> bool:
    """Whether an S-EPT page for its 1G range is there."""
    above = vm.mirror[LEVEL_1G].at(gfn // PAGES_PER_1G).load()
    return above & (PRESENT | LEAF) == PRESENT


def _is_quiet(vm: Vm, vcpu: Vcpu, cpu: Cpu, gfn: int) -> bool:
    """Whether nothing goes on that a fault could meet, and none of its range's pages is shared."""
    shared = vm.shared_counts.at(gfn // PAGES_PER_2M).load()
    invalidate = vm.invalidate.load()
    return not (
        shared
        or invalidate & INVALIDATE_IN_PROGRESS_MASK
        or vm.mmu_lock.is_locked()
        or vm.kernel.pamt_lock.is_locked()
        or cpu.running_vcpu is not vcpu
    )


def _run_of_pages(vm: Vm, vcpu: Vcpu, cpu: Cpu, gfn: int, most: int) -> tuple[Sequence[int], bool]:
    """Pages for ``gfn`` on, one after the other in one region, once the first fault's pools are
    full; and whether the allocator still has them.  No pages: none (True), or no run of them."""
    allocator, gmem = vm.kernel.allocator, vm.gmem
    in_range = gmem.ranges.at(gfn // PAGES_PER_2M)
    few = min(most, WORTH_IT)
    state = in_range.load()
    wants_folio = gmem.huge and not state
    if not wants_folio:
        backing = _backing(vm, gfn, few, state)
        if backing is not None and _in_one_region(backing) < few:
            return (), False
    error = mmu_topup_memory_caches(vm.kernel, cpu, vcpu)
    if error:
        return (), False
    if wants_folio:
        pfn, level = gmem.get_pfn(gfn)
        if not level:
            return (), pfn < 0
        state = in_range.load()
    elif backing is None and _in_one_region(allocator.next_pages(few)) < few:
        return (), False
    backing = _backing(vm, gfn, most, state)
    fresh = backing is None
    pages = allocator.next_pages(most) if backing is None else backing
    count = _in_one_region(pages)
    return (pages[:count], fresh) if count >= few else ((), False)


def _second_fault_has_all(vm: Vm, vcpu: Vcpu, links: bool) -> bool:
    """Whether the pools will be filled for the fault after this one from pages that are at hand:
    this one takes a pair for its page, and an S-EPT page with one more if it ``links``."""
    kernel = vm.kernel
    pages = (1 + links) * PAMT_PAIR_PAGES if kernel.dynamic_pamt else 0
    if links:
        left = len(vcpu.sept_cache) - 1
        if left < PT64_ROOT_MAX_LEVEL:
            if kernel.design.sept_backing == "top-up":
                return False
            pages += kernel.design.sept_cache_pages - left
    return kernel.allocator.has_waiting(pages)


def _begin(vm: Vm, vcpu: Vcpu, cpu: Cpu, gfn: int, pfn: int, links: bool) -> int:
    """What a range's first fault does before it maps ``pfn``: 0, RET_PF_RETRY or an error."""
    if links:
        entry = vm.mirror[LEVEL_2M].at(gfn // PAGES_PER_2M)
        error = link_table(vm, vcpu, cpu, entry, gfn << PAGE_SHIFT, LEVEL_2M)
        if error:
            return error
    return vm.kernel.tdx_pamt_get(vm.kernel, cpu, pfn, vcpu.pamt_cache)


def _map_backed(vm: Vm, vcpu: Vcpu, cpu: Cpu, gfn: int, pfn: int, source: int) -> int:
    """The rest of one page's fault, after its get: 1, 0 to try again, or an error."""
    gpa, cache = gfn << PAGE_SHIFT, vcpu.pamt_cache
    error = tdx_sept_set_backed_spte(vm, cpu, gpa, LEVEL_4K, pfn, source, cache)
    if error:
        return 0 if error == -EBUSY else error
    vm.mirror[LEVEL_4K].at(gfn).store(pfn << PFN_SHIFT | PRESENT_LEAF)
    return 1


def _backing(vm: Vm, gfn: int, most: int, state: int) -> Sequence[int] | None:
    """What guest_memfd has for these pages; None: nothing, each comes from the allocator.

    Empty where a page has another story: a folio with holes.  ``state`` is the word of the range.
    """
    gmem = vm.gmem
    if state > COUNT_MASK:
        first = (state >> BASE_SHIFT) + (gfn & _SLOT_MASK)
        return range(first, first + most) if state & COUNT_MASK == PAGES_PER_2M else ()
    have = gmem.pages.load_run(gfn, gfn + most)
    if have.count(0) == len(have):
        return None
    return have if have[0] else ()


def zap_run(vm: Vm, cpu: Cpu, bulk: BulkSeamCalls, gfn: int, end: int) -> int:
    """As removing the 4K leafs from ``gfn`` on, under mmu_lock for writing: how many.

    [gfn, end) lies in one 2M range.
    """
    kernel = vm.kernel
    if vm.hkid < 0 or not vm.mmu_lock.is_write_locked():
        return 0
    entries = vm.mirror[LEVEL_4K].load_run(gfn, min(end, gfn + WORTH_IT))
    if _leafs(entries) < len(entries):
        return 0
    entries = vm.mirror[LEVEL_4K].load_run(gfn, end)
    count = _leafs(entries)
    pfn = entries[0] >> PFN_SHIFT
    count = min(count, PAGES_PER_2M - (pfn & _SLOT_MASK))
    for index in range(len(vm.vcpus)):
        mode = vm.vcpus[index].mode.load()
        if mode != OUTSIDE_GUEST_MODE:
            return 0
    if not count or not may_put_run(kernel, pfn, count):
        return 0
    runnable = vm.runnable.load()
    done = bulk.page_zap(vm.tdr, gfn, count, runnable != 0)
    if not done:
        return 0
    vm.mirror[LEVEL_4K].store_run(gfn, uniform(0, done))
    if kernel.behaviour.partial_write_erratum:
        kernel.memory.clear_pages(pfn, done)
    put_run(kernel, cpu, pfn, done)
    return done


def _zeros(words: Sequence[int]) -> int:
    """How many of the first words are 0."""
    if words.count(0) == len(words):
        return len(words)
    return next(index for index, word in enumerate(words) if word)


def _in_one_region(pages: Sequence[int]) -> int:
    """How many pages from the first on follow one another inside one 2M region."""
    if not pages or not pages[0]:
        return 0
    most = min(len(pages), PAGES_PER_2M - (pages[0] & _SLOT_MASK))
    if isinstance(pages, range):
        return most
    count = 1
    while count < most and pages[count] == pages[0] + count:
        count += 1
    return count


def _leafs(entries: Sequence[int]) -> int:
    """How many mirror entries from the first on map one page after another."""
    if entries[0] & (_ONE_LEAF - 1) != PRESENT_LEAF:
        return 0
    if isinstance(entries, range) and (entries.step == _ONE_LEAF or len(entries) == 1):
        return len(entries)
    count = 1
    while count < len(entries) and entries[count] == entries[0] + count * _ONE_LEAF:
        count += 1
    return count
