"""What has to be true when nothing runs, seen from the host, against what the module reports.

A finding is one sentence.  None means: for each 2M region the count is the 4K pages in TDX use
there (or what else the design says of it) and the pair is there exactly while it is not 0;
allocator, bitmap and counters name the same pages; no page is two things at once; and without a TD
all is as it was after boot.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from dpamt.abi.pages import LEVEL_2M, PAGES_PER_2M
from dpamt.host.core.kernel import Kernel
from dpamt.host.core.leftovers import kept_count, stays
from dpamt.host.designs.base import Design
from dpamt.platform.page_allocator import Snapshot


class PageUse(Protocol):
    """What the module uses a page for."""

    @property
    def owner(self) -> int:
        """Frame of the owning TD's TDR; 0 for a TDR."""


class ModuleReport(Protocol):
    """What the module's side says of itself; pages are frame numbers, regions frame number >> 9.

    The module's own read-only view is one.
    """

    def pairs(self) -> Mapping[int, tuple[int, int, int]]:
        """Both pages of the pair, and its page count, of each 2M region that has one."""

    def used_pages(self) -> Mapping[int, PageUse]:
        """Each 4K page in TDX use."""

    def large_pages(self, level: int) -> Mapping[int, PageUse]:
        """The first 4K page of each guest page of that level."""

    def pamt_pages(self) -> list[int]:
        """Pages marked in the page bitmap, reserved pages left out; none without Dynamic PAMT."""


def audit(
    kernel: Kernel,
    module: ModuleReport,
    after_boot: Snapshot | None = None,
    stuck: Collection[int] = (),
) -> list[str]:
    """All findings, regions ascending; empty when host and module agree.

    ``stuck`` are regions whose pair the module would not give back: the pair may stay there, with a
    count that is one higher than its users (a worker that removes pairs later leaves it at them).

    ``after_boot`` is the allocator's snapshot after initialisation: when no page is in TDX use any
    more, the free pages must be those again.  Leave it out where memory is held for other reasons.
    """
    used, large = module.used_pages(), module.large_pages(LEVEL_2M)
    findings = [*_check_page_owners(kernel, module, used, large)]
    if kernel.dynamic_pamt:
        counted = kernel.pamt_pairs.load()
        findings.extend(_check_counts(kernel, module, used, counted, stuck))
    if used or large:
        return findings
    counts = dict(kernel.pamt_refcounts.non_zero())
    for region, count in sorted(counts.items()):
        if region not in stuck:
            findings.append(f"no TD exists, but region {region:#x} has refcount {count}")
    for region, pair in sorted(module.pairs().items()):
        if region not in stuck and not stays(kernel.design, counts.get(region, 0)):
            findings.append(
                f"no TD exists, but region {region:#x} has the pair {pair[0]:#x}, {pair[1]:#x}"
            )
    if after_boot is not None and not _is_as_after_boot(kernel, module, after_boot):
        findings.append(
            "no TD exists, but the free pages are not those after boot: "
            f"{kernel.allocator.free_count} free now, {_pages(after_boot)} then"
        )
    return findings


def _is_as_after_boot(kernel: Kernel, module: ModuleReport, after_boot: Snapshot) -> bool:
    """Whether the free pages are those of then, less what the design declares to keep."""
    design = kernel.design
    if not design.pairs_may_stay and not design.spare_pages:
        return kernel.allocator.snapshot() == after_boot
    taken = _pages(after_boot) - kernel.allocator.free_count
    return not kept_count(design, taken, len(module.pairs()))


def _may_stay(design: Design, count: int, pages: int) -> bool:
    """Whether the count is right beside a pair that the module would not give back."""
    return count == pages + 1 or (count == pages and design.removal != "at-once")


def _check_counts(
    kernel: Kernel,
    module: ModuleReport,
    used: Mapping[int, PageUse],
    counted: int,
    stuck: Collection[int],
) -> Iterator[str]:
    """Counters, pairs and bitmap against the pages in use."""
    in_use: dict[int, int] = {}
    for pfn in used:
        in_use[pfn // PAGES_PER_2M] = in_use.get(pfn // PAGES_PER_2M, 0) + 1
    counts_are = kernel.design.counts
    counts, pairs = dict(kernel.pamt_refcounts.non_zero()), module.pairs()
    for region in sorted(in_use.keys() | counts.keys() | pairs.keys()):
        count, pages = counts.get(region, 0), in_use.get(region, 0)
        if region in stuck and region in pairs and _may_stay(kernel.design, count, pages):
            continue
        if counts_are == "none":
            if pages and region not in pairs:
                yield f"region {region:#x}: {pages} 4K pages in TDX use, but no pair"
            if not pages and region in pairs and region not in stuck:
                yield f"region {region:#x}: no page in TDX use, but its pair is installed"
            count = pages
        if count < pages or (count > pages and counts_are == "pages"):
            yield f"region {region:#x}: refcount {count}, but {pages} 4K pages in TDX use"
        if counts_are == "none":
            continue
        if count and region not in pairs:
            yield f"region {region:#x}: refcount {count}, but no pair"
        if not count and region in pairs and not stays(kernel.design, count):
            yield f"region {region:#x}: refcount 0, but its pair is installed"
    if counted != len(pairs) and kernel.design.code is None:  # an image has no such count
        yield f"the host counts {counted} pairs, the module has {len(pairs)}"
    marked, held = set(module.pamt_pages()), {page for pair in pairs.values() for page in pair[:2]}
    for pfn in sorted(marked - held):
        yield f"page {pfn:#x} is marked in the bitmap, but in no pair"
    for pfn in sorted(held - marked):
        yield f"page {pfn:#x} is in a pair, but not marked in the bitmap"


def _check_page_owners(
    kernel: Kernel, module: ModuleReport, used: Mapping[int, PageUse], large: Mapping[int, PageUse]
) -> Iterator[str]:
    """No page is free, a TD's, a pair's or boot-time PAMT, two of them at once."""
    roles: dict[int, str] = {}
    for role, pfn in _roles(kernel, module, used):
        if pfn in roles:
            yield f"page {pfn:#x} is {role} and {roles[pfn]}"
        roles[pfn] = role
        start = pfn // PAGES_PER_2M * PAGES_PER_2M
        if start in large:
            yield f"page {pfn:#x} is {role} and part of a 2M page of TD {large[start].owner:#x}"
    for pfn in kernel.allocator.free_among(roles):
        yield f"page {pfn:#x} is {roles[pfn]} and free in the page allocator"
    for start, use in sorted(large.items()):
        free = kernel.allocator.free_among(range(start, start + PAGES_PER_2M))
        if free:
            yield f"page {free[0]:#x} is of a 2M page of TD {use.owner:#x} and free"
    taken = [(area.pfn, area.pfn + area.pages) for area in kernel.pamt_areas]
    for pfn, role in sorted(roles.items()):
        if any(first <= pfn < end for first, end in taken):
            yield f"page {pfn:#x} is {role} and boot-time PAMT"


def _roles(
    kernel: Kernel, module: ModuleReport, used: Mapping[int, PageUse]
) -> Iterator[tuple[str, int]]:
    for pfn, use in sorted(used.items()):
        yield f"of TD {use.owner or pfn:#x}", pfn
    for region, pair in sorted(module.pairs().items()):
        for page in pair[:2]:
            yield f"of the pair of region {region:#x}", page
    for page in sorted(kernel.refcount_pages.values()):
        yield "of the refcounts", page


def _pages(snapshot: Snapshot) -> int:
    """Free pages in a snapshot."""
    return sum(end - start for _nid, ranges in snapshot for start, end in ranges)
