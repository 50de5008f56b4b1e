"""How much memory PAMT takes: the line in /proc/meminfo, and the same by kind.

Source: `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09), patch 10 (not for upstream).
"""

from dataclasses import dataclass

from dpamt.abi.pages import PAGE_SIZE, PAMT_PAIR_PAGES
from dpamt.host.core.kernel import Kernel


@dataclass(frozen=True, slots=True)
class PamtAccount:
    """Bytes of PAMT, by kind."""

    level_1g: int
    level_2m: int
    level_4k: int
    """The static 4K level; with Dynamic PAMT the page bitmap in its place."""
    pairs: int
    refcounts: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.level_1g + self.level_2m + self.level_4k + self.pairs + self.refcounts


def pamt_account(kernel: Kernel) -> PamtAccount:
    """What PAMT takes now."""
    areas = kernel.pamt_areas
    pairs = kernel.pamt_pairs.load()
    return PamtAccount(
        sum(area.bytes_1g for area in areas),
        sum(area.bytes_2m for area in areas),
        sum(area.bytes_4k for area in areas),
        pairs * PAMT_PAIR_PAGES * PAGE_SIZE,
        len(kernel.refcount_pages) * PAGE_SIZE,
    )


def meminfo_line(kernel: Kernel) -> str | None:
    """The ``TDX:`` line of /proc/meminfo, in KiB; None for a design that does not have it."""
    if not kernel.design.meminfo:
        return None
    pairs = kernel.pamt_pairs.load()
    return f"TDX:\t\t{pairs * PAMT_PAIR_PAGES * (PAGE_SIZE >> 10):8d} kB"
