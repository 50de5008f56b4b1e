"""Read a host from a kernel log: what Linux printed of its memory and its nodes.

What stands before a message (timestamps, ``kernel:``, levels, quotes) is skipped; lines of no
interest too.  Of several boots the last is read.  What the log says of TDX is read beside it
(tdx_log.py).  Sources of the lines: Linux arch/x86/kernel/e820.c, mm/mm_init.c (early memory node
ranges), the SRAT and NUMA set-up of arch/x86, and arch/x86/virt/vmx/tdx/tdx.c.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.errors import InputError
from dpamt.platform import e820
from dpamt.platform.lines import Line, address, refuse
from dpamt.platform.log_lines import boots_of, is_command, log_lines
from dpamt.platform.machine import (
    DEFAULT_CPUS_PER_PACKAGE,
    DEFAULT_KEYID_BITS,
    DEFAULT_PRIVATE_KEYIDS,
    Cmr,
    Machine,
    MemoryBlock,
    Topology,
)
from dpamt.platform.memory_map import (
    DERIVED_CMRS_NOTE,
    MapEntry,
    NodeRange,
    assign_nodes,
    check_order,
    cmr_pages,
    derive_cmrs,
    not_convertible,
    usable_pages,
    without,
)
from dpamt.platform.tdx_log import TDX, HostLog, TdxLines

_MEM: Final = r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]"
_CMR_MARK: Final = re.compile(TDX + r"CMR(?:\[\d{1,2}\])?:?(?= *\[| *$)")
_CMR: Final = re.compile(r"\[0x([0-9a-f]+), ?0x([0-9a-f]+)\)")
_E820_CHANGE: Final = re.compile(rf"{_MEM}\s*(.*)")
_EARLY_NODE: Final = re.compile(rf"node\s+(\d{{1,5}}): {_MEM}")
_SRAT: Final = re.compile(rf"(\d{{1,5}}) PXM \d+ {_MEM}((?: hotplug| non-volatile)*)")
_NUMA: Final = re.compile(rf"(\d{{1,5}}) (?:\[mem .*-> )?{_MEM}")
_LAST_PFN: Final = re.compile(r"last_pfn = 0x([0-9a-f]{1,13}) max_arch_pfn")
_CPUS: Final = re.compile(r"Brought up \d+ nodes?, (\d{1,6}) CPUs")
_PACKAGES: Final = re.compile(r"[Mm]ax\.? logical packages:\s+(\d{1,6})")


@dataclass
class _Log:
    """What the lines of one log say, before it is put together."""

    source: str
    tdx: TdxLines
    cmrs: list[Cmr] = field(default_factory=list)
    cmr_line: int = 0
    entries: list[MapEntry] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    early: list[NodeRange] = field(default_factory=list)
    srat: list[NodeRange] = field(default_factory=list)
    numa: list[NodeRange] = field(default_factory=list)
    soft_reserved: list[MapEntry] = field(default_factory=list)
    last_pfn: int = 0
    cpus: int | None = None
    packages: int | None = None

    @property
    def has_memory(self) -> bool:
        """Whether any line so far described memory."""
        return bool(self.cmrs or self.entries or self.early)

    def range_of(self, first: str, last: str, line: Line) -> tuple[int, int]:
        """The bytes of an inclusive range as (start, end exclusive)."""
        start, end = address(first, self.source, line), address(last, self.source, line) + 1
        if end <= start:
            raise self.refuse(line, "a range whose last byte is not below its first")
        return start, end

    def refuse(self, line: Line, expected: str) -> InputError:
        """The error for a line whose kind is known but whose form is not."""
        return refuse(self.source, line.number, line.text.strip(), expected)


class NoMemoryInLog(InputError):  # noqa: N818 - says what it is
    """A log without memory; ``log`` is what it says of TDX all the same."""

    def __init__(self, source: str, log: HostLog) -> None:
        super().__init__(
            f"{source}: no memory; expected the lines with 'tdx: CMR:' and 'BIOS-e820:' of the "
            "whole dmesg, or its 'Early memory node ranges'"
        )
        self.source = source
        self.log = log


def machine_from_dmesg(text: str, source: str) -> Machine:
    """The machine that a kernel log describes.

    Memory comes from the "Early memory node ranges" (memblock itself) where the log has them, else
    from the e820 lines and, above the last of these, from the CMRs, else from the CMRs alone.
    CMRs that the log does not have are derived from the map.  Notes say so.  Of several boots the
    last one that says anything is read.

    Raises InputError, naming the line, for a line of a known kind that cannot be read, ranges that
    overlap or descend, a log that ends in the middle of a line, and the log of a TD's own kernel;
    NoMemoryInLog for one without memory.
    """
    boots = boots_of(log_lines(text, source))
    tdx: HostLog | None = None
    for number in range(len(boots) - 1, -1, -1):
        log = _read_boot(boots[number], source)
        said = log.tdx.log(len(boots))
        if tdx is None and not said.says_nothing:
            tdx = said
            if said.guest is not None:
                raise InputError(
                    f"{source}:{said.guest.line}: found {said.guest.text!r}: this is the log of a "
                    "TD (a guest); expected the log of the host that runs it"
                )
        if log.has_memory:
            return _assemble(log, tdx or said, _boot_notes(boots, number))
    raise NoMemoryInLog(source, tdx or HostLog(boots=len(boots)))


def _boot_notes(boots: list[list[Line]], number: int) -> list[str]:
    if len(boots) == 1:
        return []
    which = "the last" if number == len(boots) - 1 else f"number {number + 1}, the last with memory"
    lines = boots[number]
    return [
        f"the log holds {len(boots)} boots: read is {which}, lines {lines[0].number} to "
        f"{lines[-1].number}"
    ]


def _read_boot(lines: list[Line], source: str) -> _Log:
    log = _Log(source, TdxLines(source))
    for line in lines:
        if is_command(line.text):
            continue
        known = _read_line(log, line)
        if not line.ended and not known and log.has_memory:
            raise log.refuse(
                line,
                "a newline at the end: the log is cut in the middle of a line, or its last line "
                "lacks one",
            )
    return log


def _read_line(log: _Log, line: Line) -> bool:
    """Take in one line; whether its form shows that it is complete."""
    text = line.text
    if any(mark in text for mark in ("tdx", "TDX", "PAMT", "KeyID", "tme:", "CPU0:")):
        mark = _CMR_MARK.search(text)
        if mark:
            return _read_cmr(log, line, text[mark.end() :].strip())
        if log.tdx.take(line):
            return True
    for marker, reader in _READERS:
        _, found, rest = text.partition(marker)
        if found:
            return reader(log, line, rest.strip())
    match = _EARLY_NODE.search(text)
    if match is not None:
        return _read_early_node(log, line, match)
    _read_sizes(log, line)
    return False


def _read_cmr(log: _Log, line: Line, rest: str) -> bool:
    match = _CMR.fullmatch(rest)
    if match is None:
        raise log.refuse(line, "CMR: [0x<start>, 0x<end>), the end exclusive")
    start, end = address(match[1], log.source, line), address(match[2], log.source, line)
    if end <= start:
        raise log.refuse(line, "a CMR whose end is above its start")
    if (start | end) % PAGE_SIZE:
        raise log.refuse(line, "a CMR of whole 4 KiB pages")
    if log.cmrs and start < log.cmrs[-1].end:
        raise log.refuse(
            line,
            f"a CMR at or above {log.cmrs[-1].end:#x}, where the one of line {log.cmr_line} ends "
            "(CMRs ascend and do not overlap)",
        )
    log.cmrs.append(Cmr(start, end - start))
    log.cmr_line = line.number
    return True


def _read_e820(log: _Log, line: Line, rest: str) -> bool:
    entry = e820.parse_entry(rest, log.source, line)
    if entry is not None:
        log.entries.append(entry)
        if e820.is_soft_reserved(rest):
            log.soft_reserved.append(entry)
    return True


def _read_e820_change(log: _Log, line: Line, rest: str) -> bool:
    """``e820: update [mem A-B] usable ==> reserved`` and ``e820: remove [mem A-B] usable``."""
    match = _E820_CHANGE.fullmatch(rest)
    if match is None:
        raise log.refuse(line, "e820: update [mem 0x..-0x..] <type> ==> <type>, or remove")
    start, end = log.range_of(match[1], match[2], line)
    before, _, after = (part.strip().lower() for part in match[3].partition("==>"))
    if before in e820.USABLE_TYPES and after not in e820.USABLE_TYPES:
        log.taken.append((start, end))
    return False


def _read_early_node(log: _Log, line: Line, match: re.Match[str]) -> bool:
    start, end = log.range_of(match[2], match[3], line)
    if (start | end) % PAGE_SIZE:
        raise log.refuse(line, "a memory range of whole 4 KiB pages")
    log.early.append(NodeRange(start, end, int(match[1]), line.number))
    return match.end() == len(line.text.rstrip())


def _read_srat(log: _Log, line: Line, rest: str) -> bool:
    match = _SRAT.fullmatch(rest)
    if match is None:
        raise log.refuse(line, "SRAT: Node <n> PXM <m> [mem 0x<start>-0x<last byte>]")
    start, end = log.range_of(match[2], match[3], line)
    if not match[4]:
        log.srat.append(NodeRange(start, end, int(match[1]), line.number))
    return False


def _read_numa(log: _Log, line: Line, rest: str) -> bool:
    match = _NUMA.fullmatch(rest)
    if match is None:
        if "[mem" in rest:
            raise log.refuse(line, "NUMA: Node <n> [mem 0x<start>-0x<last byte>]")
        return False
    start, end = log.range_of(match[2], match[3], line)
    log.numa.append(NodeRange(start, end, int(match[1]), line.number))
    return False


_READERS: Final[tuple[tuple[str, Callable[[_Log, Line, str], bool]], ...]] = (
    (e820.MARKER, _read_e820),
    ("e820: update ", _read_e820_change),
    ("e820: remove ", _read_e820_change),
    ("SRAT: Node ", _read_srat),
    ("NUMA: Node ", _read_numa),
)
"""What a line must contain, and who reads the rest of it.  The first that fits counts."""


def _read_sizes(log: _Log, line: Line) -> None:
    """Numbers that are good to have: the highest page frame, CPUs and packages."""
    if match := _LAST_PFN.search(line.text):
        log.last_pfn = max(log.last_pfn, int(match[1], 16))
    elif match := _CPUS.search(line.text):
        log.cpus = int(match[1])
    elif match := _PACKAGES.search(line.text):
        log.packages = int(match[1])


def _assemble(log: _Log, tdx: HostLog, notes: list[str]) -> Machine:
    """Put the lines together, with a note for each thing that was not printed."""
    check_order(log.entries, log.source)
    check_order([MapEntry(r.start, r.end, True, r.line) for r in log.early], log.source)
    memory = _memory(log, notes)
    if not memory:
        raise NoMemoryInLog(log.source, tdx)
    cmrs = tuple(log.cmrs)
    if cmrs and not log.tdx.outcome_line > log.cmr_line:
        notes.append("no line after the CMRs tells whether the module was initialized: log cut?")
    if not cmrs:
        source = log.entries or [MapEntry(r.start, r.end, True, r.line) for r in log.early]
        cmrs = derive_cmrs(source)
        notes.append(DERIVED_CMRS_NOTE)
    if not cmrs:
        raise InputError(f"{log.source}: no memory at or above 1 MiB; expected some")
    notes += not_convertible(log.soft_reserved, [])
    keyids = tdx.private_keyids or DEFAULT_PRIVATE_KEYIDS
    nodes = len({block.nid for block in memory})
    packages = log.packages or nodes
    cpus = max(packages, log.cpus or packages * DEFAULT_CPUS_PER_PACKAGE)
    return Machine(
        log.source,
        cmrs,
        memory,
        max(memory[-1].end_pfn, log.last_pfn),
        Topology(packages, cpus),
        keyid_bits=max((keyids[1] - 1).bit_length(), DEFAULT_KEYID_BITS),
        private_keyids=keyids,
        recorded_pamt_kib=tdx.pamt_kib,
        recorded_module_version=tdx.module_version,
        notes=tuple(notes),
        log=tdx,
    )


def _memory(log: _Log, notes: list[str]) -> tuple[MemoryBlock, ...]:
    """Memory blocks from the best witness in the log."""
    if log.early:
        return tuple(
            MemoryBlock(r.start >> PAGE_SHIFT, r.end >> PAGE_SHIFT, r.nid) for r in log.early
        )
    if log.entries:
        entries = log.entries
        for start, end in log.taken:
            entries = without(entries, start, end)
        pages = usable_pages(entries)
        above = cmr_pages(log.cmrs, log.entries[-1].end)
        if above:
            pages += above
            notes.append(
                f"the e820 lines stop at {log.entries[-1].end:#x}: memory above is taken from the "
                "CMRs"
            )
    else:
        pages = cmr_pages(log.cmrs)
        if pages:
            notes.append("no e820 lines: the memory blocks are the CMRs")
    blocks, homeless = assign_nodes(pages, _nodes(log, notes))
    if homeless:
        notes.append("some memory is on no NUMA node: put on node 0")
    return blocks


def _nodes(log: _Log, notes: list[str]) -> list[NodeRange]:
    """Node ranges, joined per node; none, as Linux does it, when those of two nodes overlap."""
    joined: list[NodeRange] = []
    for entry in sorted(log.srat or log.numa):
        if joined and entry.start < joined[-1].end:
            last = joined.pop()
            if last.nid != entry.nid:
                notes.append(f"NUMA nodes {last.nid} and {entry.nid} overlap: node ranges ignored")
                return []
            entry = NodeRange(last.start, max(last.end, entry.end), last.nid, last.line)
        joined.append(entry)
    return joined
