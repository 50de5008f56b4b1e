"""What a host is: its convertible memory, its memory blocks, its topology and its KeyIDs.

Nothing here reads a file; the readers beside this one build a :class:`Machine` from text.
"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.tdmr import MAX_CMRS
from dpamt.errors import InputError
from dpamt.platform.tdx_log import HostLog

LOW_MEMORY_BYTES: Final = 1 << 20
"""Memory below 1 MiB is never TDX memory: Linux core (arch/x86/virt/vmx/tdx/tdx.c) leaves it out
of the TDX memory list."""
LOW_MEMORY_PFN: Final = LOW_MEMORY_BYTES >> PAGE_SHIFT

DERIVED_CMRS: Final = "no CMRs in the input: derived"
"""How the note begins that CMRs are a guess."""

DEFAULT_KEYID_BITS: Final = 6
DEFAULT_PRIVATE_KEYIDS: Final = (32, 64)
"""First private KeyID and the one after the last: what a 1 TiB two-socket host printed."""
DEFAULT_CPUS_PER_PACKAGE: Final = 4
"""Logical processors per package where the input does not tell."""


@dataclass(frozen=True, slots=True)
class Cmr:
    """A convertible memory region: memory that the firmware vouches for; bytes."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """First byte after the region."""
        return self.base + self.size

    def __str__(self) -> str:
        return f"[{self.base:#x}, {self.end:#x})"


@dataclass(frozen=True, slots=True)
class MemoryBlock:
    """A range of RAM on one NUMA node, as Linux's memblock lists it; page frames, end exclusive."""

    start_pfn: int
    end_pfn: int
    nid: int = 0

    @property
    def pages(self) -> int:
        """4 KiB pages in the block."""
        return self.end_pfn - self.start_pfn

    def __str__(self) -> str:
        return f"[{self.start_pfn << PAGE_SHIFT:#x}, {self.end_pfn << PAGE_SHIFT:#x})"


@dataclass(frozen=True, slots=True)
class Topology:
    """Packages (sockets) and logical processors of the whole machine."""

    packages: int = 1
    cpus: int = DEFAULT_CPUS_PER_PACKAGE


@dataclass(frozen=True, slots=True)
class Machine:
    """A host, checked on creation.

    ``source`` is what messages call it (a file or a size).  ``max_pfn`` is one past the highest
    page frame Linux counts.  ``private_keyids`` is (first, one past the last).
    ``recorded_pamt_kib`` and ``recorded_module_version`` are what the host's own log said, to hold
    the model against, ``log`` all that it says of TDX (None without a log); ``notes`` are remarks
    on what was derived or looks odd.

    Raises InputError for what no host can be: no CMR or more than 32, no memory, ranges that are
    unaligned, unsorted or overlapping, memory above the KeyID bits, an impossible KeyID range.
    A memory block outside the CMRs is only noted: the module refuses it at SYS.CONFIG with
    TDX_TDMR_OUTSIDE_CMRS.

    Source of the CMR rules: Intel TDX module source (open release), 2.0.08 to 2.0.18; of the memory
    blocks: Linux arch/x86/virt/vmx/tdx/tdx.c.
    """

    source: str
    cmrs: tuple[Cmr, ...]
    memory: tuple[MemoryBlock, ...]
    max_pfn: int
    topology: Topology = Topology()
    max_pa_bits: int = 52
    keyid_bits: int = DEFAULT_KEYID_BITS
    private_keyids: tuple[int, int] = DEFAULT_PRIVATE_KEYIDS
    recorded_pamt_kib: int | None = None
    recorded_module_version: str | None = None
    notes: tuple[str, ...] = ()
    log: HostLog | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_cmrs()
        self._check_memory()
        outside = tuple(
            f"memory block {block} is not in the CMRs: the module will refuse its TDMR "
            "(TDX_TDMR_OUTSIDE_CMRS)"
            for block in self.memory
            if not self._in_cmrs(block)
        )
        fresh = tuple(note for note in outside if note not in self.notes)
        object.__setattr__(self, "notes", self.notes + fresh)

    @property
    def hkid_start_bit(self) -> int:
        """Lowest physical-address bit that holds a KeyID: max_pa - keyid_bits."""
        return self.max_pa_bits - self.keyid_bits

    @property
    def total_pages(self) -> int:
        """4 KiB pages in all memory blocks, those below 1 MiB included."""
        return sum(block.pages for block in self.memory)

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that have memory, ascending."""
        return tuple(sorted({block.nid for block in self.memory}))

    def _refuse(self, what: str, expected: str) -> InputError:
        return InputError(f"{self.source}: {what}; expected {expected}")

    def _check_numbers(self) -> None:
        topology, (first, end) = self.topology, self.private_keyids
        if topology.packages < 1 or topology.cpus < topology.packages:
            raise self._refuse(
                f"{topology.packages} packages and {topology.cpus} CPUs",
                "at least one package and one CPU in each",
            )
        if not 32 <= self.max_pa_bits <= MAX_PA_LIMIT.bit_length() - 1:
            raise self._refuse(
                f"{self.max_pa_bits} physical address bits (max_pa_bits, --pa-bits)", "32 to 52"
            )
        if not 1 <= self.keyid_bits <= 15:
            raise self._refuse(
                f"{self.keyid_bits} KeyID bits (keyid_bits, --keyid-bits)", "1 to 15"
            )
        if not 1 <= first < end <= 1 << self.keyid_bits:
            raise self._refuse(
                f"private KeyID range [{first}, {end})",
                f"a non-empty range inside [1, {1 << self.keyid_bits}) "
                f"({self.keyid_bits} KeyID bits)",
            )

    def _check_cmrs(self) -> None:
        if not 1 <= len(self.cmrs) <= MAX_CMRS:
            if any(note.startswith(DERIVED_CMRS) for note in self.notes):
                raise self._refuse(
                    f"{len(self.cmrs)} CMRs, which dpamt derived from the memory map and the "
                    "firmware may have otherwise",
                    f"1 to {MAX_CMRS}; give a dmesg with the host's own 'tdx: CMR:' lines",
                )
            raise self._refuse(f"{len(self.cmrs)} CMRs", f"1 to {MAX_CMRS}")
        previous_end = 0
        for index, cmr in enumerate(self.cmrs):
            if (cmr.base | cmr.size) % PAGE_SIZE or cmr.base < 0 or cmr.size <= 0:
                raise self._refuse(f"CMR {index} {cmr}", "whole 4 KiB pages, at least one")
            if cmr.base < previous_end:
                raise self._refuse(
                    f"CMR {index} {cmr} begins below {previous_end:#x}, where the one before ends",
                    "CMRs that ascend and do not overlap",
                )
            previous_end = cmr.end
        if previous_end > 1 << self.hkid_start_bit:
            raise self._refuse(
                f"CMR {self.cmrs[-1]} reaches the KeyID bits",
                f"addresses below 2^{self.hkid_start_bit} ({self.max_pa_bits} address bits less "
                f"{self.keyid_bits} KeyID bits; --pa-bits and --keyid-bits say otherwise, and a "
                "log has the KeyIDs)",
            )

    def _check_memory(self) -> None:
        if not self.memory:
            raise self._refuse("no memory", "at least one memory block")
        previous_end = 0
        for block in self.memory:
            if block.start_pfn < 0 or block.end_pfn <= block.start_pfn or block.nid < 0:
                raise self._refuse(
                    f"memory block {block} on node {block.nid}", "a non-empty range and a node >= 0"
                )
            if block.start_pfn < previous_end:
                raise self._refuse(
                    f"memory block {block} begins below {previous_end << PAGE_SHIFT:#x}, where the "
                    "one before ends",
                    "memory blocks that ascend and do not overlap",
                )
            previous_end = block.end_pfn
        limit = 1 << self.hkid_start_bit - PAGE_SHIFT
        if not previous_end <= self.max_pfn <= limit:
            raise self._refuse(
                f"max_pfn {self.max_pfn:#x}",
                f"{previous_end:#x} (the end of memory) to {limit:#x} (the KeyID bits)",
            )

    def _in_cmrs(self, block: MemoryBlock) -> bool:
        """Whether the part from 1 MiB up lies in CMRs; touching CMRs count as one."""
        position = max(block.start_pfn << PAGE_SHIFT, LOW_MEMORY_BYTES)
        end = block.end_pfn << PAGE_SHIFT
        for cmr in self.cmrs:
            if cmr.base <= position < cmr.end:
                position = cmr.end
        return position >= end
