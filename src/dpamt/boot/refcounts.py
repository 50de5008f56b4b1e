"""The refcounts of a kernel that has Dynamic PAMT itself, held against the module's page pairs.

Source: `[PATCH v6 00/11] Dynamic PAMT` (2026-05-25) and what was merged of it (2026-09-04):
``pamt_refcounts`` points to an array of ints, one for each 2M region, by page frame number >> 9.
"""

from typing import Final

from dpamt.boot.image import KernelImage
from dpamt.boot.stack import KernelMemory
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView

COUNTS: Final = "pamt_refcounts"
_INT_BYTES: Final = 4
_MOST_TOLD: Final = 8


def kernel_counts_itself(image: KernelImage) -> bool:
    """Whether the kernel has Dynamic PAMT."""
    return image.symbol(COUNTS) is not None


def count_of(kernel: KernelMemory, image: KernelImage, region: int) -> int | None:
    """The kernel's count of a 2M region; None where its array has no page for it."""
    symbol = image.symbol(COUNTS)
    array = kernel.read64(symbol.address) if symbol is not None else None
    if not array:
        return None
    place = array + region * _INT_BYTES
    word = kernel.read64(place & -8)
    if word is None:
        return None
    count = word >> 8 * (place % 8) & 0xFFFF_FFFF
    return count - (1 << 32) if count >> 31 else count


def wrong_counts(kernel: KernelMemory, image: KernelImage, module: TdxModule) -> list[str]:
    """A sentence for each region whose count and pair do not agree, when the machine is quiet.

    A count above 0 goes with an installed pair, 0 with none; below 0 is a put too many.
    """
    pairs = ModuleView(module).pairs()
    found = []
    for region in range((module.machine.max_pfn >> 9) + 1):
        count = count_of(kernel, image, region)
        if count is None and region in pairs:
            found.append(f"region {region:#x} has a page pair, and the kernel no count for it")
        elif count is not None and (count > 0) != (region in pairs):
            pair = "a page pair" if region in pairs else "no page pair"
            found.append(f"the kernel counts {count} in region {region:#x}, which has {pair}")
        elif count is not None and count < 0:
            found.append(f"the kernel counts {count} in region {region:#x}: a put too many")
    more = len(found) - _MOST_TOLD
    if more > 0:
        found[_MOST_TOLD:] = [f"and {more:,} more regions whose count and pair do not agree"]
    return found
