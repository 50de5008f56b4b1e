"""Ageing where all guest memory is at 4K, page by page, in compiled code (Numba).

What merged kernels do is the slow case: without folios a TD of 16 GiB is four million faults, and
when it goes, as many pages to free.  Nothing of that can be added up as 2M pages can.  So the same
steps are done one by one, on arrays, and Numba makes machine code of them.

The rules are those of :mod:`dpamt.plan.ageing.faults`, ``pages`` and ``host``, and of the page
allocator of `dpamt run`; tests/plan/ageing/test_host_4k.py plays random events on both and compares
counts, pairs and free pages.  One shortcut is taken.  A fault fills both pools of the VCPU, takes a
page, takes a pair out of the pool, and frees the pair where the region of the page has one.  The
next fault takes just these two pages back into the pool, in the same order.  So in a run of faults
in regions that have their pair, the pool and the two pages need not be touched before its end.

All compiled functions stand in this file: when it changes, Numba makes them again, and it looks at
no other file.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.plan.ageing.allocator import FRONT_DRAIN, FRONT_HIGH, REFILL_ORDER
from dpamt.plan.ageing.layout_4k import (
    FRONT,
    FRONT_ROOM,
    OWN,
    PAIRS,
    PAMT,
    SEPT,
    Memory,
    TdPages,
    compiled,
)
from dpamt.plan.ageing.pages import PAMT_CACHE_PAGES
from dpamt.platform.buddy import MAX_PAGE_ORDER, REGION_ORDER
from dpamt.platform.page_allocator import REFILL_PAGES

_SHIFT: Final = REGION_ORDER
_MASK: Final = PAGES_PER_2M - 1


@compiled
def _slot(m: Memory, pfn: int, order: int) -> int:
    """The place of a chunk: those of order 0 first, then half as many of order 1, and so on."""
    both = len(m.tags)
    return both - (both >> order) + (pfn >> order)


@compiled
def _push(m: Memory, zone: int, pfn: int, order: int) -> None:
    end = m.stack_end[zone, order]
    if end == m.stack_limit[zone, order]:
        tidy(m, zone, order)
        end = m.stack_end[zone, order]
    m.stacks[end] = pfn
    m.stack_end[zone, order] = end + 1
    m.tags[_slot(m, pfn, order)] = zone + 1


@compiled
def tidy(m: Memory, zone: int, order: int) -> None:
    """Leave in a stack what is free, each chunk where it was freed last."""
    begin, end = m.stack_begin[zone, order], m.stack_end[zone, order]
    for at in range(end - 1, begin - 1, -1):
        slot = _slot(m, m.stacks[at], order)
        if m.tags[slot] == zone + 1:
            m.tags[slot] = 0
        else:
            m.stacks[at] = 0
    left = begin
    for at in range(begin, end):
        if m.stacks[at]:
            m.tags[_slot(m, m.stacks[at], order)] = zone + 1
            m.stacks[left] = m.stacks[at]
            left += 1
    m.stack_end[zone, order] = left


@compiled
def push_all(m: Memory, zone: int, chunks: NDArray[np.int64], order: int) -> None:
    """Enter free chunks, the one that was freed last at the end."""
    for pfn in chunks:
        _push(m, zone, pfn, order)


@compiled
def take(m: Memory, zone: int, order: int, limit: int) -> tuple[int, int]:
    """BuddyZone.take(): (first page, order), or (0, 0) where nothing fits."""
    pfn = 0
    have = order
    while have < MAX_PAGE_ORDER:
        begin, at = m.stack_begin[zone, have], m.stack_end[zone, have]
        while at > begin and not pfn:
            at -= 1
            slot = _slot(m, m.stacks[at], have)
            if m.tags[slot] == zone + 1:
                m.tags[slot] = 0
                pfn = int(m.stacks[at])
        m.stack_end[zone, have] = at
        if pfn:
            break
        if have < REGION_ORDER and m.cursors[zone, have] < m.kernel_end[zone]:
            spoiler = m.kernel[m.cursors[zone, have]]
            pfn = ((spoiler >> have) ^ 1) << have
            m.cursors[zone, have] += 1
            break
        have += 1
    if not pfn:
        if not m.whole[zone]:
            return 0, 0
        block = m.first_block[zone]
        while m.blocks[block] != zone + 1:
            block += 1
        m.blocks[block] = 0
        m.first_block[zone] = block + 1
        m.whole[zone] -= 1
        pfn, have = block << MAX_PAGE_ORDER, MAX_PAGE_ORDER
    want = max(order, min(have, limit))
    while have > want:
        have -= 1
        _push(m, zone, pfn + (1 << have), have)
    return pfn, want


@compiled
def _merge(m: Memory, zone: int, start: int, end: int) -> None:
    while start < end:
        order = 0
        while (
            order < MAX_PAGE_ORDER
            and not start & ((2 << order) - 1)
            and start + (2 << order) <= end
        ):
            order += 1
        pfn = start
        start += 1 << order
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            slot = _slot(m, buddy, order)
            if m.tags[slot] != zone + 1:
                break
            m.tags[slot] = 0
            pfn &= ~(1 << order)
            order += 1
        if order == MAX_PAGE_ORDER:
            _add_block(m, zone, pfn >> MAX_PAGE_ORDER)
        else:
            _push(m, zone, pfn, order)


@compiled
def _add_block(m: Memory, zone: int, block: int) -> None:
    m.blocks[block] = zone + 1
    m.whole[zone] += 1
    m.first_block[zone] = min(m.first_block[zone], block)


@compiled
def release(m: Memory, start: int, end: int) -> None:
    """Pages of one zone go back to it."""
    zone = -1
    for at in range(len(m.extents)):
        if m.extents[at, 0] <= start < m.extents[at, 1]:
            zone = m.extents[at, 2]
            break
    first, last = -(-start >> MAX_PAGE_ORDER), end >> MAX_PAGE_ORDER
    if first < last:
        for block in range(first, last):
            _add_block(m, zone, block)
        _merge(m, zone, start, first << MAX_PAGE_ORDER)
        _merge(m, zone, last << MAX_PAGE_ORDER, end)
    else:
        _merge(m, zone, start, end)


@compiled
def _sort(starts: NDArray[np.int64], ends: NDArray[np.int64], count: int) -> None:
    """Runs by their start, which mostly rise or fall: Shell's sort, gaps of M. Ciura (FCT 2001)."""
    for gap in (301, 132, 57, 23, 10, 4, 1):
        for at in range(gap, count):
            start, end = starts[at], ends[at]
            place = at
            while place >= gap and starts[place - gap] > start:
                starts[place], ends[place] = starts[place - gap], ends[place - gap]
                place -= gap
            starts[place], ends[place] = start, end


@compiled
def drain(m: Memory, count: int) -> None:
    """The pages that have waited longest in front go to their zones, in rising order."""
    _drain_at(m, 0, count)
    _close_gap(m, count)


@compiled
def _close_gap(m: Memory, count: int) -> None:
    """``count`` pages have left the begin of the front."""
    left = m.numbers[FRONT] - count
    for at in range(left):
        m.front[at] = m.front[at + count]
    m.numbers[FRONT] = left


@compiled
def _drain_at(m: Memory, first: int, count: int) -> None:
    """``count`` pages in front, from the one in this place on, go to their zones."""
    front = m.front
    starts, ends = m.starts, m.ends
    runs, at, last = 0, first, first + count
    while at < last:  # pages mostly rise one by one: such runs are sorted, not pages
        start = front[at]
        end = start + 1
        at += 1
        while at < last and front[at] == end:
            end += 1
            at += 1
        starts[runs], ends[runs] = start, end
        runs += 1
    _sort(starts, ends, runs)
    run = 0
    while run < runs:
        start, end = starts[run], ends[run]
        run += 1
        while run < runs and starts[run] == end:
            end = ends[run]
            run += 1
        while start < end:
            stop = min(end, ((start >> MAX_PAGE_ORDER) + 1) << MAX_PAGE_ORDER)
            release(m, start, stop)
            start = stop


@compiled
def _refill(m: Memory) -> None:
    front = m.front
    for zone in range(len(m.whole)):
        filled = 0
        pfn, order = take(m, zone, 0, REFILL_ORDER)
        if pfn and order == REFILL_ORDER:
            for at in range(REFILL_PAGES):
                front[REFILL_PAGES - 1 - at] = pfn + at
            m.numbers[FRONT] = REFILL_PAGES
            return
        while pfn:
            for page in range(pfn, pfn + (1 << order)):
                front[filled] = page
                filled += 1
            if filled >= REFILL_PAGES:
                break
            pfn, order = take(m, zone, 0, REFILL_ORDER)
        if filled:
            for at in range(filled // 2):
                front[at], front[filled - 1 - at] = front[filled - 1 - at], front[at]
            m.numbers[FRONT] = filled
            return


@compiled
def take_page(m: Memory) -> int:
    """One page; 0 when memory has run out."""
    if not m.numbers[FRONT]:
        _refill(m)
        if not m.numbers[FRONT]:
            return 0
    m.numbers[FRONT] -= 1
    return int(m.front[m.numbers[FRONT]])


@compiled
def free_page(m: Memory, pfn: int) -> None:
    """Give one page back."""
    at = m.numbers[FRONT]
    m.front[at] = pfn
    m.numbers[FRONT] = at + 1
    if at >= FRONT_HIGH:
        drain(m, FRONT_DRAIN)


@compiled
def take_folios(m: Memory, found: NDArray[np.int64]) -> int:
    """Regions of 2M for each place in ``found``: how many there were."""
    count = 0
    for zones in (m.numbers[OWN], len(m.whole)):
        for zone in range(zones):
            while count < len(found):
                pfn, _order = take(m, zone, REGION_ORDER, REGION_ORDER)
                if not pfn:
                    break
                found[count] = pfn >> _SHIFT
                count += 1
        if count == len(found):
            break
        drain(m, m.numbers[FRONT])
    return count


@compiled
def _get(m: Memory, region: int, first: int, second: int) -> None:
    """tdx_pamt_get(): the pair goes in, or back where the region has one."""
    count = m.counts[region]
    m.counts[region] = count + 1
    if count:
        free_page(m, first)
        free_page(m, second)
    else:
        m.numbers[PAIRS] += 1
        m.pair_pages[region, 0] = first
        m.pair_pages[region, 1] = second


@compiled
def _free_pair(m: Memory, region: int) -> None:
    """PAMT.REMOVE."""
    m.numbers[PAIRS] -= 1
    free_page(m, m.pair_pages[region, 0])
    free_page(m, m.pair_pages[region, 1])


@compiled
def take_control(m: Memory, found: NDArray[np.int64]) -> bool:
    """Control pages for each place in ``found``, 0 for those that memory did not suffice for."""
    for at in range(len(found)):
        pfn, first, second = take_page(m), take_page(m), take_page(m)
        if not second:
            for page in (first, pfn):
                if page:
                    free_page(m, page)
            return False
        _get(m, pfn >> _SHIFT, first, second)
        found[at] = pfn
    return True


@compiled
def _top_up(m: Memory, t: TdPages, vcpu: int) -> bool:
    for kind in range(2):
        while t.held[vcpu, kind] < (PT64_ROOT_MAX_LEVEL if kind == SEPT else PAMT_CACHE_PAGES):
            pfn = take_page(m)
            if not pfn:
                return False
            t.pools[vcpu, kind, t.held[vcpu, kind]] = pfn
            t.held[vcpu, kind] += 1
    return True


@compiled
def _pop(t: TdPages, vcpu: int, kind: int) -> int:
    t.held[vcpu, kind] -= 1
    return int(t.pools[vcpu, kind, t.held[vcpu, kind]])


@compiled
def _get_from_pool(m: Memory, t: TdPages, vcpu: int, region: int) -> None:
    first = _pop(t, vcpu, PAMT)
    _get(m, region, first, _pop(t, vcpu, PAMT))


@compiled
def _link(m: Memory, t: TdPages, vcpu: int) -> int:
    """SEPT.ADD of a page of the pool."""
    pfn = _pop(t, vcpu, SEPT)
    _get_from_pool(m, t, vcpu, pfn >> _SHIFT)
    return pfn


@compiled
def fault(m: Memory, t: TdPages, vcpu: int, first: int, end: int) -> bool:
    """The guest accepts [first, end): False where memory runs out, with the pages before mapped."""
    page = first
    while page < end:
        if t.pages[page]:
            page += 1
            continue
        if not _top_up(m, t, vcpu):
            return False
        if page & _MASK and t.table[page >> _SHIFT]:
            mapped = _run(m, t, page, min(end, (page | _MASK) + 1))
            if mapped:
                page += mapped
                free_page(m, _pop(t, vcpu, PAMT))
                free_page(m, _pop(t, vcpu, PAMT))
                continue
        pfn = take_page(m)
        if not pfn:
            return False
        index = page >> _SHIFT
        gigabyte = index >> _SHIFT
        if not t.upper_1g[gigabyte]:
            if not t.upper_512g[gigabyte >> _SHIFT]:
                t.upper_512g[gigabyte >> _SHIFT] = _link(m, t, vcpu)
            t.upper_1g[gigabyte] = _link(m, t, vcpu)
        if not t.table[index]:
            t.table[index] = _link(m, t, vcpu)
        _get_from_pool(m, t, vcpu, pfn >> _SHIFT)
        t.pages[page] = pfn
        page += 1
    return True


@compiled
def _run(m: Memory, t: TdPages, page: int, end: int) -> int:
    """Faults from ``page`` on in regions that have their pair, the pools being full: how many."""
    pages, front, counts = t.pages, m.front, m.counts
    left = m.numbers[FRONT]
    at = page
    while at < end and not pages[at]:
        if not left:
            m.numbers[FRONT] = 0
            _refill(m)
            left = m.numbers[FRONT]
            if not left:
                break
        region = front[left - 1] >> _SHIFT
        if not counts[region]:
            break
        # As far as pages of this region follow.
        stop = min(end, at + left)
        begin = at
        while at < stop and not pages[at]:
            pfn = front[left - 1]
            if pfn >> _SHIFT != region:
                break
            left -= 1
            pages[at] = pfn
            at += 1
        counts[region] += at - begin
    m.numbers[FRONT] = left
    return at - page


@compiled
def remove(m: Memory, t: TdPages, first: int, end: int) -> None:
    """Pages [first, end) are unmapped, all of them, and then given back."""
    pages, counts, front = t.pages, m.counts, m.front
    at = first
    while at < end:
        if not pages[at]:
            at += 1
            continue
        region = pages[at] >> _SHIFT
        begin = at
        at += 1
        while at < end and pages[at] >> _SHIFT == region and pages[at]:
            at += 1
        count = counts[region] - (at - begin)
        counts[region] = count
        if not count:
            _free_pair(m, region)
    waiting, gone = m.numbers[FRONT], 0
    for at in range(first, end):
        pfn = pages[at]
        if pfn:
            pages[at] = 0
            front[waiting] = pfn
            waiting += 1
            if waiting - gone > FRONT_HIGH:
                _drain_at(m, gone, FRONT_DRAIN)
                gone += FRONT_DRAIN
                if waiting == FRONT_ROOM:
                    m.numbers[FRONT] = waiting
                    _close_gap(m, gone)
                    waiting, gone = m.numbers[FRONT], 0
    m.numbers[FRONT] = waiting
    _close_gap(m, gone)


@compiled
def _free_control(m: Memory, pfn: int) -> None:
    """tdx_pamt_put(), the last one of a region takes the pair out; and the page goes."""
    if pfn:
        region = pfn >> _SHIFT
        count = m.counts[region] - 1
        m.counts[region] = count
        if not count:
            _free_pair(m, region)
        free_page(m, pfn)


@compiled
def destroy(m: Memory, t: TdPages) -> None:
    """Guest pages, S-EPT pages, VCPUs, control pages."""
    remove(m, t, 0, len(t.pages))
    for table in (t.table, t.upper_1g, t.upper_512g):
        for pfn in table:
            _free_control(m, pfn)
    for vcpu in range(len(t.held)):
        for kind in range(2):
            while t.held[vcpu, kind]:
                free_page(m, _pop(t, vcpu, kind))
        for at in range(1, t.vcpu_control.shape[1]):
            _free_control(m, t.vcpu_control[vcpu, at])
        _free_control(m, t.vcpu_control[vcpu, 0])
    for at in range(1, len(t.control)):
        _free_control(m, t.control[at])
    _free_control(m, t.control[0])
