"""Whether the TDMRs handed to SYS.CONFIG are valid, check by check in the module's order.

Statuses carry info bytes: byte 0 the TDMR's index, byte 1 a PAMT level or a reserved area's
index, byte 2 the other TDMR's index.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_sys_config.c]; reference
(k.1).  Where a status names two TDMRs, byte 0 is the one whose PAMT area it is.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_SHIFTS,
    PAGE_SIZE,
    PAMT_BITMAP_ENTRY_BITS,
    PAMT_ENTRY_SIZE,
    SIZE_1G,
)
from dpamt.abi.registers import U64_MASK
from dpamt.abi.status import (
    TDX_INVALID_PAMT,
    TDX_INVALID_RESERVED_IN_TDMR,
    TDX_INVALID_TDMR,
    TDX_NON_ORDERED_RESERVED_IN_TDMR,
    TDX_NON_ORDERED_TDMR,
    TDX_PAMT_OUTSIDE_CMRS,
    TDX_PAMT_OVERLAP,
    TDX_TDMR_OUTSIDE_CMRS,
)
from dpamt.abi.tdmr import TdmrInfo
from dpamt.module.refused import Refused
from dpamt.platform.machine import Cmr

Range = tuple[int, int]
"""First byte, and the one after the last."""

_LEVELS_DOWN: Final = (LEVEL_1G, LEVEL_2M, LEVEL_4K)
_LEVELS_UP: Final = (LEVEL_4K, LEVEL_2M, LEVEL_1G)
_BYTE_1: Final = 8
_BYTE_2: Final = 16


class TdmrChecker:
    """Checks TDMRs one after another, each against the machine and those before it.

    ``not_private`` are the address bits that no private HPA has; ``dynamic`` is the PAMT mode
    asked for.
    """

    def __init__(self, cmrs: Sequence[Cmr], not_private: int, dynamic: bool) -> None:
        self._cmrs = merged_cmrs(cmrs)
        self._not_private = not_private
        self._dynamic = dynamic
        self._accepted: list[TdmrInfo] = []

    def check(self, tdmr: TdmrInfo) -> None:
        """Accept the next TDMR, or raise Refused with the status of its first fault."""
        index = len(self._accepted)
        self._check_range(index, tdmr)
        _check_reserved(index, tdmr)
        for level in _LEVELS_DOWN:
            self._check_pamt(index, tdmr, level)
        self._check_pamt_overlap(index, tdmr)
        self._check_pamt_in_available(index, tdmr)
        self._check_cmrs(index, tdmr)
        self._accepted.append(tdmr)

    def accepted(self) -> list[TdmrInfo]:
        """The TDMRs accepted so far, in order."""
        return list(self._accepted)

    def _check_range(self, index: int, tdmr: TdmrInfo) -> None:
        if tdmr.end > U64_MASK:
            raise Refused(TDX_INVALID_TDMR | index)
        if self._accepted and tdmr.base < self._accepted[-1].end:
            raise Refused(TDX_NON_ORDERED_TDMR | index)
        if (tdmr.base | tdmr.size) % SIZE_1G or not tdmr.size:
            raise Refused(TDX_INVALID_TDMR | index)
        if self._not_memory(tdmr.base, tdmr.end):
            raise Refused(TDX_INVALID_TDMR | index)

    def _not_memory(self, base: int, end: int) -> bool:
        """Whether the first or the last byte cannot be private memory."""
        return bool((base | end - 1) & self._not_private)

    def _check_pamt(self, index: int, tdmr: TdmrInfo, level: int) -> None:
        base, end = pamt_area(tdmr, level)
        if (
            end > U64_MASK
            or (base | end) % PAGE_SIZE
            or end - base < pamt_bytes(tdmr.size, level, self._dynamic)
            or self._not_memory(base, end)
        ):
            raise Refused(TDX_INVALID_PAMT | index | level << _BYTE_1)

    def _check_pamt_overlap(self, index: int, tdmr: TdmrInfo) -> None:
        for other, accepted in enumerate(self._accepted):
            for level in _LEVELS_UP:
                for other_level in _LEVELS_UP:
                    if overlap(pamt_area(tdmr, level), pamt_area(accepted, other_level)):
                        raise _overlapping(index, level, other)
        for level, other_level in (
            (LEVEL_4K, LEVEL_2M),
            (LEVEL_4K, LEVEL_1G),
            (LEVEL_2M, LEVEL_1G),
        ):
            if overlap(pamt_area(tdmr, level), pamt_area(tdmr, other_level)):
                raise _overlapping(index, level, index)

    def _check_pamt_in_available(self, index: int, tdmr: TdmrInfo) -> None:
        """PAMT areas of any TDMR against the available areas of any, as far as they are known."""
        for other, accepted in enumerate([*self._accepted, tdmr]):
            for level in _LEVELS_UP:
                if _any_overlap(pamt_area(tdmr, level), available_areas(accepted)):
                    raise _overlapping(index, level, other)
            for level in _LEVELS_UP:
                if _any_overlap(pamt_area(accepted, level), available_areas(tdmr)):
                    raise _overlapping(other, level, index)

    def _check_cmrs(self, index: int, tdmr: TdmrInfo) -> None:
        for level in _LEVELS_DOWN:
            if not contained(pamt_area(tdmr, level), self._cmrs):
                raise Refused(TDX_PAMT_OUTSIDE_CMRS | index | level << _BYTE_1)
        for area in available_areas(tdmr):
            if not contained(area, self._cmrs):
                raise Refused(TDX_TDMR_OUTSIDE_CMRS | index)


def _overlapping(index: int, level: int, other: int) -> Refused:
    return Refused(TDX_PAMT_OVERLAP | index | level << _BYTE_1 | other << _BYTE_2)


def _check_reserved(index: int, tdmr: TdmrInfo) -> None:
    previous_end = 0
    for area, (offset, size) in enumerate(tdmr.reserved):
        info = index | area << _BYTE_1
        if not size:
            following = tdmr.reserved[area + 1 : area + 2]
            if following and following[0][1]:
                raise Refused(TDX_NON_ORDERED_RESERVED_IN_TDMR | info)
            continue
        if offset + size > U64_MASK:
            raise Refused(TDX_INVALID_RESERVED_IN_TDMR | info)
        if offset < previous_end:
            raise Refused(TDX_NON_ORDERED_RESERVED_IN_TDMR | info)
        if (offset | size) % PAGE_SIZE or offset + size > tdmr.size:
            raise Refused(TDX_INVALID_RESERVED_IN_TDMR | info)
        previous_end = offset + size


def pamt_area(tdmr: TdmrInfo, level: int) -> Range:
    """The TDMR's PAMT area of a level; at 4K in dynamic mode the page bitmap."""
    base, size = (
        (tdmr.pamt_4k_base, tdmr.pamt_4k_size),
        (tdmr.pamt_2m_base, tdmr.pamt_2m_size),
        (tdmr.pamt_1g_base, tdmr.pamt_1g_size),
    )[level]
    return base, base + size


def pamt_bytes(tdmr_size: int, level: int, dynamic: bool) -> int:
    """Least size in bytes of a PAMT area of a TDMR of ``tdmr_size`` bytes; not rounded up."""
    entries = tdmr_size >> LEVEL_SHIFTS[level]
    if level == LEVEL_4K and dynamic:
        return entries * PAMT_BITMAP_ENTRY_BITS // 8
    return entries * PAMT_ENTRY_SIZE


def available_areas(tdmr: TdmrInfo) -> Iterator[Range]:
    """What of a TDMR with valid reserved areas is not reserved."""
    position = tdmr.base
    for offset, size in tdmr.reserved:
        if size:
            if tdmr.base + offset > position:
                yield position, tdmr.base + offset
            position = tdmr.base + offset + size
    if position < tdmr.end:
        yield position, tdmr.end


def merged_cmrs(cmrs: Sequence[Cmr]) -> list[Range]:
    """The CMRs as ranges; CMRs that touch each other are one."""
    merged: list[Range] = []
    for cmr in cmrs:
        if merged and merged[-1][1] == cmr.base:
            merged[-1] = (merged[-1][0], cmr.end)
        else:
            merged.append((cmr.base, cmr.end))
    return merged


def overlap(one: Range, other: Range) -> bool:
    """Whether two ranges share a byte."""
    return one[0] < other[1] and other[0] < one[1]


def _any_overlap(one: Range, others: Iterator[Range]) -> bool:
    return any(overlap(one, other) for other in others)


def contained(one: Range, ranges: Sequence[Range]) -> bool:
    """Whether a range lies in one of ``ranges``."""
    return any(low <= one[0] and one[1] <= high for low, high in ranges)
