"""The bulk wall: many SEAMCALLs in a row, as the arrays that a host hands over and gets back.

A bulk call stands for the SEAMCALLs that it names, page by page in order, each of which succeeds.
It does as many of them as are known to succeed, from the first one on, and returns for how many
pages; the caller makes the next one by itself and meets its status.  A bulk call may do nothing.

Frames and guest frames are page frame numbers; the TD is named by its TDR's.
"""

from collections.abc import Sequence
from typing import Protocol


class BulkSeamCalls(Protocol):
    """What one logical processor offers beside its ``seamcall``."""

    def page_add(self, tdr: int, gfn: int, pages: Sequence[int], source: int) -> int:
        """MEM.PAGE.ADD of each page, all with the contents of ``source``."""

    def page_aug(self, tdr: int, gfn: int, pages: Sequence[int]) -> int:
        """MEM.PAGE.AUG of each 4K page."""

    def page_block(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.RANGE.BLOCK of each 4K page."""

    def page_remove(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.PAGE.REMOVE of each 4K page."""

    def page_zap(self, tdr: int, gfn: int, count: int, track: bool) -> int:
        """For each 4K page RANGE.BLOCK, MEM.TRACK if ``track``, PAGE.REMOVE and PAGE.WBINVD."""
