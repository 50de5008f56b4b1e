"""From a firmware's memory map to memory blocks and CMRs, the same for every kind of input.

Firmware reports CMRs to the TDX module only; a map of RAM does not hold them.  Where a map is all
there is, they are derived as firmware is seen to build them (host logs with both, such as
``reserved-areas.dmesg``): from 1 MiB up, all RAM, including what firmware keeps for itself between
the parts it gives away.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.errors import InputError
from dpamt.platform.lines import refuse
from dpamt.platform.machine import (
    DERIVED_CMRS,
    LOW_MEMORY_BYTES,
    Cmr,
    Machine,
    MemoryBlock,
)

FIRMWARE_GAP_BYTES: Final = 64 << 20
"""Longest stretch between usable parts that counts as RAM kept by firmware (bytes).  The longest
one seen inside a CMR is 40 MiB (``reserved-areas.dmesg``)."""

_BIOS_START: Final = 0xA0000

DERIVED_CMRS_NOTE: Final = (
    f"{DERIVED_CMRS} from the memory map (usable memory from 1 MiB up, with the "
    f"firmware's reserved areas of up to {FIRMWARE_GAP_BYTES >> 20} MiB between)"
)


class MapEntry(NamedTuple):
    """A range of the map: bytes, end exclusive; whether Linux may use it; the line it stood on."""

    start: int
    end: int
    usable: bool
    line: int


class NodeRange(NamedTuple):
    """Addresses that belong to a NUMA node: bytes, end exclusive; the line they stood on."""

    start: int
    end: int
    nid: int
    line: int


def check_order(entries: Sequence[MapEntry], source: str) -> None:
    """Raise InputError, naming the line, unless the entries ascend and do not overlap."""
    previous_end = 0
    for entry in entries:
        if entry.start < previous_end:
            raise refuse(
                source,
                entry.line,
                f"[{entry.start:#x}, {entry.end:#x})",
                f"a range at or above {previous_end:#x}, where the one before ends (ascending, not "
                "overlapping; one boot only)",
            )
        previous_end = entry.end


def without(entries: Sequence[MapEntry], start: int, end: int) -> list[MapEntry]:
    """The entries with what is usable in [start, end) made unusable."""
    result: list[MapEntry] = []
    for entry in entries:
        low, high = max(entry.start, start), min(entry.end, end)
        if not entry.usable or low >= high:
            result.append(entry)
            continue
        pieces = ((entry.start, low, True), (low, high, False), (high, entry.end, True))
        result += [MapEntry(a, b, usable, entry.line) for a, b, usable in pieces if a < b]
    return result


def usable_pages(entries: Sequence[MapEntry]) -> list[tuple[int, int]]:
    """Usable memory in whole 4 KiB pages (frames, end exclusive), touching ranges joined.

    Linux takes page 0 and 640 KiB to 1 MiB away from what the map calls usable
    (arch/x86/kernel/setup.c), adds the rest to memblock, which joins neighbours, and trims to whole
    pages afterwards (arch/x86/kernel/e820.c).
    """
    joined: list[tuple[int, int]] = []
    for entry in without(without(entries, 0, PAGE_SIZE), _BIOS_START, LOW_MEMORY_BYTES):
        if not entry.usable:
            continue
        if joined and joined[-1][1] == entry.start:
            joined[-1] = (joined[-1][0], entry.end)
        else:
            joined.append((entry.start, entry.end))
    frames = ((-(-start // PAGE_SIZE), end // PAGE_SIZE) for start, end in joined)
    return [(start, end) for start, end in frames if start < end]


def assign_nodes(
    pages: Iterable[tuple[int, int]], nodes: Sequence[NodeRange]
) -> tuple[tuple[MemoryBlock, ...], bool]:
    """Cut page ranges at node borders; the flag tells whether some memory was on no node.

    Memory that no node claims goes to node 0.  Node ranges must not overlap.
    """
    borders = sorted(nodes)
    blocks: list[MemoryBlock] = []
    homeless = False
    for start, end in pages:
        position = start
        for node in borders:
            low = max(position, -(-node.start // PAGE_SIZE))
            high = min(end, -(-node.end // PAGE_SIZE))
            if low >= high:
                continue
            if position < low:
                homeless = True
                _append(blocks, position, low, 0)
            _append(blocks, low, high, node.nid)
            position = high
        if position < end:
            homeless = homeless or bool(borders)
            _append(blocks, position, end, 0)
    return tuple(blocks), homeless


def derive_cmrs(entries: Sequence[MapEntry]) -> tuple[Cmr, ...]:
    """CMRs for a map without them: see the head of this file."""
    runs: list[tuple[int, int]] = []
    described_to = 0
    described = True  # since the end of the last run, the map names every byte
    for entry in entries:
        described = described and entry.start == described_to
        described_to = entry.end
        start = max(entry.start, LOW_MEMORY_BYTES)
        if not entry.usable or start >= entry.end:
            continue
        if runs and described and start - runs[-1][1] <= FIRMWARE_GAP_BYTES:
            runs[-1] = (runs[-1][0], entry.end)
        else:
            runs.append((start, entry.end))
        described = True
    return tuple(
        Cmr(start, end - start)
        for start, end in (
            (-(-start // PAGE_SIZE) * PAGE_SIZE, end // PAGE_SIZE * PAGE_SIZE)
            for start, end in runs
        )
        if start < end
    )


def cmr_pages(cmrs: Iterable[Cmr], above: int = 0) -> list[tuple[int, int]]:
    """The CMRs as page ranges, touching ones joined; only what lies at or above ``above`` bytes."""
    joined: list[tuple[int, int]] = []
    for cmr in cmrs:
        start, end = max(cmr.base, above) + PAGE_SIZE - 1 >> PAGE_SHIFT, cmr.end >> PAGE_SHIFT
        if start >= end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _append(blocks: list[MemoryBlock], start: int, end: int, nid: int) -> None:
    """Append a block, joined with the last one when it continues it on the same node."""
    if blocks and blocks[-1].end_pfn == start and blocks[-1].nid == nid:
        start = blocks.pop().start_pfn
    blocks.append(MemoryBlock(start, end, nid))


def not_convertible(reserved: Sequence[MapEntry], online: Sequence[MapEntry]) -> list[str]:
    """Notes on memory that TDX cannot use: ``reserved`` is left to a driver (soft reserved,
    persistent, CXL), ``online`` a driver has given to Linux as "System RAM (kmem)".

    Sources: Linux drivers/dax/kmem.c (add_memory_driver_managed), mm/memory_hotplug.c, which adds
    such memory to memblock on kernels that keep it, and arch/x86/virt/vmx/tdx/tdx.c: the TDX memory
    list is memblock's, and going online is refused for what is not in it.
    """
    notes = []
    if online:
        size = sum(entry.end - entry.start for entry in online)
        notes.append(
            f"{_gib(size)} of System RAM (kmem) up to {online[-1].end:#x} (CXL or persistent "
            "memory): not convertible on machines of today, so no CMR has it.  If kmem puts it "
            "online before TDX is initialised, TDX does not come up; once TDX is up, Linux refuses "
            "to put it online.  While it is online it raises max_pfn, and with it the reference "
            "counters of Dynamic PAMT.  It is not counted as memory here"
        )
    elif reserved:
        size = sum(entry.end - entry.start for entry in reserved)
        notes.append(
            f"{_gib(size)} is soft reserved, persistent or CXL memory: not convertible on machines "
            "of today.  If a driver (kmem) puts it online as RAM before TDX is initialised, TDX "
            "does not come up; once TDX is up, Linux refuses to put it online"
        )
    return notes


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.4g} GiB"


def machine_from_map(
    source: str,
    entries: Sequence[MapEntry],
    usable_name: str,
    notes: Sequence[str] = (),
    max_pfn: int = 0,
) -> Machine:
    """The machine that a bare map describes: one node, derived CMRs; ``notes`` come first.

    ``max_pfn`` is one past the highest page frame that Linux counts, where that is above the
    memory.  Raises InputError for entries out of order and for a map without usable memory.
    """
    check_order(entries, source)
    memory, _ = assign_nodes(usable_pages(entries), ())
    cmrs = derive_cmrs(entries)
    if not memory or not cmrs:
        raise InputError(
            f"{source}: no usable memory at or above 1 MiB; expected at least one "
            f"{usable_name!r} line there"
        )
    return Machine(
        source,
        cmrs,
        memory,
        max(memory[-1].end_pfn, max_pfn),
        notes=(*notes, DERIVED_CMRS_NOTE),
    )
