"""The refcounts of a kernel with Dynamic PAMT, read from its memory and held against the module.

Source: a complete arch/x86/virt/vmx/tdx/tdx.c with what was merged, read on 2026-11-29:
``dpamt_refcounts`` points to one 4-byte counter for each 2 MiB of memory up to ``max_pfn``;
``dpamt_lock`` is held from the ADD of a pair to the first count, and from the REMOVE to the last.
Until `[PATCH v6 00/11] Dynamic PAMT` (2026-05-25) they were ``pamt_refcounts`` and ``pamt_lock``.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from dpamt.abi.pages import PAGE_SIZE
from dpamt.boot.guest_memory import GuestMemory, NoSuchMemory
from dpamt.boot.stack import KernelMemory
from dpamt.kernel_image.vmlinux import KernelImage

_COUNTER_BYTES: Final = 4
_PAGE_COUNTERS: Final = PAGE_SIZE // _COUNTER_BYTES
_REGION_PAGES: Final = 512
_MOST_REGIONS: Final = 1 << 23
"""16 TiB: a guest may say anything."""
LEFT_COUNT: Final = "leak: region "
MORE_COUNTS: Final = "refcounts: "
_MOST_TOLD: Final = 8

NAMES: Final = (("dpamt_refcounts", "dpamt_lock"), ("pamt_refcounts", "pamt_lock"))
"""Counters and lock: as merged, and as posted."""
_MAX_PFN: Final = "max_pfn"
GET: Final = "tdx_pamt_get"
"""The function of every kernel that has Dynamic PAMT."""


def names_of(image: KernelImage) -> tuple[str, str] | None:
    """The names of the counters and their lock in this kernel; None where they are not found."""
    if image.symbol(_MAX_PFN) is None:
        return None
    found = (names for names in NAMES if all(map(image.symbol, names)))
    return next(found, None)


def not_found(image: KernelImage) -> str:
    """Why the counters of a kernel with Dynamic PAMT cannot be read; empty where they can, or where
    it has none."""
    if image.symbol(GET) is None or names_of(image) is not None:
        return ""
    expected = " or ".join(" and ".join(names) for names in NAMES)
    return (
        f"the kernel has {GET}, but its counters are not found: no {expected} with {_MAX_PFN} "
        "among its symbols"
    )


class KernelCounts:
    """The counters and their lock; nothing is counted while the kernel has no counters yet."""

    def __init__(self, memory: GuestMemory, kernel: KernelMemory, image: KernelImage) -> None:
        self._memory = memory
        self._kernel = kernel
        names = names_of(image)
        self.is_known = names is not None
        """Whether the kernel has them, by its symbols."""
        self.name = names[0] if names is not None else ""
        symbols = [image.symbol(name) for name in (*(names or ()), _MAX_PFN)]
        addresses = [0 if symbol is None else symbol.address for symbol in symbols]
        self._pointer, self._lock, self._last = addresses if self.is_known else (0, 0, 0)
        self.audits = 0
        """How often they were held against the pairs with the lock free."""

    def is_locked(self) -> bool:
        """Whether some CPU is at a pair or its counter (the queued spinlock's word is not 0)."""
        word = self._kernel.read64(self._lock)
        return word is None or word & 0xFFFF_FFFF != 0

    def counted(self) -> dict[int, int]:
        """Region (address >> 21) to its counter, of those that are not 0; ascending."""
        array = self._kernel.read64(self._pointer) or 0
        regions = -(-(self._kernel.read64(self._last) or 0) // _REGION_PAGES)
        found: dict[int, int] = {}
        if not array:
            return found
        for first in range(0, min(regions, _MOST_REGIONS), _PAGE_COUNTERS):
            page = self._read(array + first * _COUNTER_BYTES)
            if not any(page):
                continue
            for index in range(min(_PAGE_COUNTERS, regions - first)):
                at = index * _COUNTER_BYTES
                count = int.from_bytes(page[at : at + _COUNTER_BYTES], "little", signed=True)
                if count:
                    found[first + index] = count
        return found

    def _read(self, address: int) -> bytes:
        """A page of counters, which begin at a page; zeros where nothing is mapped."""
        place = self._kernel.physical(address)
        try:
            return b"" if place is None else self._memory.read(place, PAGE_SIZE)
        except NoSuchMemory:
            return b""

    def wrong_now(self, paired: Collection[int]) -> list[str]:
        """What is wrong while the guest runs: regions in use, by their counter, without a pair.

        A CPU that is between the pair and its counter holds the lock, and no pair comes or goes
        while nobody answers; so with the lock free a counter above 0 has its pair, whatever other
        CPUs do meanwhile.  A pair whose counter is 0 is no contradiction yet: the designs before v6
        count down before they lock.
        """
        if self.is_locked():
            return []
        self.audits += 1
        return _most(_no_pair(self.counted(), paired))

    def wrong_at_rest(self, paired: Mapping[int, int]) -> list[str]:
        """What is wrong when nothing runs; ``paired``: the pages in use of each region with a pair.

        A counter is above 0 exactly where there is a pair, and is the pages that TDX uses there:
        more of it, and the pair stays for good.
        """
        self.audits += 1
        counted = self.counted()
        idle = [region for region in sorted(paired) if counted.get(region, 0) <= 0]
        found = _no_pair(counted, paired)
        found += [f"{_name(region)} has a pair, and its refcount is 0" for region in idle]
        found += [
            f"{LEFT_COUNT}{region << 21:#x}: its refcount is {counted[region]}, and TDX "
            f"uses {pages} of its pages"
            for region, pages in sorted(paired.items())
            if counted.get(region, 0) > pages
        ]
        negative = [(region, count) for region, count in counted.items() if count < 0]
        found += [f"{_name(region)}: its refcount is {count}" for region, count in negative]
        return _most(found)


def surplus(counts: KernelCounts, paired: Mapping[int, int]) -> dict[int, int]:
    """By region, how many pages more than TDX uses the counter has; when nothing runs."""
    return {
        region: count - paired.get(region, 0)
        for region, count in counts.counted().items()
        if count > paired.get(region, 0)
    }


def _no_pair(counted: dict[int, int], paired: Collection[int]) -> list[str]:
    wrong: Iterable[tuple[int, int]] = (
        (region, count) for region, count in counted.items() if count > 0 and region not in paired
    )
    return [
        f"{_name(region)}: its refcount is {count}, and it has no pair" for region, count in wrong
    ]


def _most(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_TOLD
    if more <= 0:
        return lines
    return [*lines[:_MOST_TOLD], f"{MORE_COUNTS}{more:,} more regions whose counts are wrong"]


def _name(region: int) -> str:
    return f"region {region << 21:#x}"
