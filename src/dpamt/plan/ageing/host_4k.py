"""A host that ages where no TD has 2M pages: :class:`AgeingHost` on arrays, in compiled code."""

import mmap
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.host.core.kernel import Kernel
from dpamt.plan.ageing.allocator import AgeingAllocator
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.ageing.pages import (
    PAMT_CACHE_PAGES,
    ControlPlacement,
    OutOfMemory,
    PairPlacement,
)
from dpamt.plan.ageing.tds import RANGES_PER_1G
from dpamt.platform.buddy import MAX_PAGE_ORDER, REGION_ORDER, merged
from dpamt.platform.page_allocator import Snapshot

if TYPE_CHECKING:
    from dpamt.plan.ageing.layout_4k import TdPages

LEAST_PAGES: Final = 1 << 20
"""4 GiB: smaller hosts age faster than the compiled code is loaded."""
MOST_PAGES: Final = 1 << 32
"""Page frames are held in 32 bits."""
MOST_ZONES: Final = 255


class AnyHost(Protocol):
    """What both hosts can do; see :class:`AgeingHost`."""

    kernel: Kernel
    counts: Any
    large: Any
    allocator: Any

    @property
    def pairs(self) -> int:
        """Pairs installed."""

    def create(self, memory: int, vcpus: int, huge: bool, image: int = 0) -> Any:
        """A TD."""

    def fault(self, td: Any, vcpu: int, first: int, count: int, at_2m: bool = False) -> None:
        """The guest accepts pages."""

    def punch(self, td: Any, first: int, count: int) -> None:
        """Pages go out of it."""

    def destroy(self, td: Any) -> None:
        """The TD goes."""


def ageing_host(
    kernel: Kernel,
    huge: bool,
    pairs: PairPlacement = "single",
    control: ControlPlacement = "single",
) -> AnyHost:
    """The host for TDs with 2M pages, or, unless ``huge``, for those without.

    The compiled one is taken where that is of use.  Both do the same, page for page.
    """
    fits = LEAST_PAGES <= kernel.machine.max_pfn < MOST_PAGES
    if huge or not fits or not pairs == control == "single":
        return AgeingHost(kernel, pairs, control)
    try:
        return Host4k(kernel)
    except (ImportError, MemoryError):
        return AgeingHost(kernel, pairs, control)


def prepare(pages: int, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Load the compiled code before processes are started that need it, for a host with
    ``pages`` pages.  The first time on a machine it is compiled, which takes some seconds.
    """
    if pages < LEAST_PAGES:
        return
    if progress is not None:
        progress("making machine code (once)", 0, 1)
    with suppress(ImportError):
        warm_up()


class Td4k:
    """A TD without folios."""

    __slots__ = ("data", "ranges", "vcpus")

    def __init__(self, data: "TdPages") -> None:
        self.data = data
        self.ranges = len(data.table)
        self.vcpus = range(len(data.held))


class Host4k:
    """A booted host without TDs, and then with them; see :class:`AgeingHost`."""

    def __init__(self, kernel: Kernel) -> None:
        from dpamt.plan.ageing import layout_4k, pages_4k

        if not isinstance(kernel.allocator, AgeingAllocator) or kernel.sysinfo is None:
            raise TypeError("expected the kernel of dpamt.plan.ageing.boot")
        self._code, self._layout = pages_4k, layout_4k
        self.kernel = kernel
        self.sysinfo = kernel.sysinfo
        self.allocator = Allocator4k(kernel.allocator, kernel.machine.max_pfn)
        self.memory = self.allocator.memory
        self.counts = self.memory.counts
        self.large = bytearray(len(self.counts))
        self._spare: dict[int, list[NDArray[np.uint32]]] = {}
        """Guest pages of TDs that are gone, all 0, by their number: for the next TD."""

    @property
    def pairs(self) -> int:
        """Pairs installed."""
        return int(self.memory.numbers[self._layout.PAIRS])

    def create(self, memory: int, vcpus: int, huge: bool, image: int = 0) -> Td4k:
        """As :meth:`AgeingHost.create`; ``huge`` has to be False."""
        if huge:
            raise TypeError("expected a TD without 2M pages")
        code, m = self._code, self.memory
        td = Td4k(self._no_pages(memory, vcpus))
        good = code.take_control(m, td.data.control)
        params = code.take_page(m) if good else 0
        if params:
            code.free_page(m, params)
        good = params != 0
        for vcpu in range(vcpus):
            good = good and code.take_control(m, td.data.vcpu_control[vcpu])
        if good and image:
            source = code.take_page(m)
            good = source != 0 and code.fault(m, td.data, 0, 0, image)
            if source:
                code.free_page(m, source)
        if not good:
            self.destroy(td)
            raise OutOfMemory("no page for a TD")
        return td

    def _no_pages(self, memory: int, vcpus: int) -> "TdPages":
        ranges = memory // SIZE_2M
        spare = self._spare.get(ranges * PAGES_PER_2M)
        gigabytes = -(-ranges // RANGES_PER_1G)
        return self._layout.TdPages(
            spare.pop() if spare else np.zeros(ranges * PAGES_PER_2M, np.uint32),
            np.zeros(ranges, np.uint32),
            np.zeros(gigabytes, np.uint32),
            np.zeros(-(-gigabytes // RANGES_PER_1G), np.uint32),
            np.zeros((vcpus, 2, PAMT_CACHE_PAGES), np.int64),
            np.zeros((vcpus, 2), np.int64),
            np.zeros(1 + self.sysinfo.tdcs_pages, np.int64),
            np.zeros((vcpus, 1 + self.sysinfo.tdcx_pages_per_vcpu), np.int64),
        )

    def fault(self, td: Td4k, vcpu: int, first: int, count: int, at_2m: bool = False) -> None:
        """As :meth:`AgeingHost.fault`; a TD without folios gets no 2M page.  Raises OutOfMemory."""
        if not self._code.fault(self.memory, td.data, vcpu, first, first + count):
            raise OutOfMemory("no page for a TD's memory")

    def punch(self, td: Td4k, first: int, count: int) -> None:
        """Pages go out of the TD and back to the allocator."""
        self._code.remove(self.memory, td.data, first, first + count)

    def destroy(self, td: Td4k) -> None:
        """The last reference is gone."""
        self._code.destroy(self.memory, td.data)
        self._spare.setdefault(len(td.data.pages), []).append(td.data.pages)


class Allocator4k:
    """The page allocator of such a host: what :class:`AgeingAllocator` held when it was made."""

    def __init__(self, allocator: AgeingAllocator, max_pfn: int) -> None:
        from dpamt.plan.ageing import layout_4k, pages_4k

        self._code, self._layout = pages_4k, layout_4k
        zones = allocator.zones
        if len(zones) > MOST_ZONES:
            raise MemoryError(f"{len(zones)} zones")
        self._nids = [zone.nid for zone in zones]
        self.free_count = allocator.free_count
        """Free pages when it was made."""
        regions = -(-max_pfn // PAGES_PER_2M)
        blocks = (max_pfn >> MAX_PAGE_ORDER) + 2
        kernel: list[int] = []
        ends, cursors = [], []
        for zone in zones:
            spoilers, reached = zone.spoiled()
            cursors.append([len(kernel) + one for one in reached])
            kernel += spoilers
            ends.append(len(kernel))
        front = np.zeros(layout_4k.FRONT_ROOM, np.uint32)
        waiting = allocator.front
        front[: len(waiting)] = waiting
        number = {id(zone): at for at, zone in enumerate(zones)}
        extents = [(start, end, number[id(zone)]) for start, end, zone in allocator.extents()]
        pages = blocks << MAX_PAGE_ORDER
        begins, limits = _stacks(extents, len(zones))
        self.memory = layout_4k.Memory(
            stacks=_untouched(int(limits[-1, -1]), np.uint32),
            stack_begin=begins,
            stack_end=begins.copy(),
            stack_limit=limits,
            tags=_untouched(2 * pages, np.uint8),
            blocks=np.zeros(blocks, np.uint8),
            first_block=np.full(len(zones), blocks, np.int64),
            whole=np.zeros(len(zones), np.int64),
            kernel=np.array(kernel, np.int64),
            kernel_end=np.array(ends, np.int64),
            cursors=np.array(cursors, np.int64).reshape(len(zones), REGION_ORDER),
            extents=np.array(extents, np.int64).reshape(len(extents), 3),
            front=front,
            counts=np.zeros(regions, np.uint16),
            pair_pages=np.zeros((regions, 2), np.uint32),
            numbers=np.array(
                [len(waiting), 0, sum(nid == self._nids[0] for nid in self._nids)], np.int64
            ),
            starts=np.zeros(layout_4k.FRONT_ROOM, np.int64),
            ends=np.zeros(layout_4k.FRONT_ROOM, np.int64),
        )
        for at, zone in enumerate(zones):
            for order, chunks in enumerate(zone.chunks()):
                pages_4k.push_all(self.memory, at, np.array(chunks, np.int64), order)
            for first, last in zone.whole_blocks():
                self.memory.blocks[first:last] = at + 1
                self.memory.whole[at] += last - first
                self.memory.first_block[at] = min(self.memory.first_block[at], first)

    def folios(self, count: int) -> list[tuple[int, int]]:
        """Runs (first region, regions) of 2M folios, perhaps fewer than ``count`` in all."""
        found = np.zeros(count, np.int64)
        taken = found[: self._code.take_folios(self.memory, found)]
        edges = [0, *(np.flatnonzero(np.diff(taken) != 1) + 1).tolist(), len(taken)]
        return [
            (int(taken[start]), stop - start) for start, stop in pairwise(edges) if stop > start
        ]

    def free_folios(self, region: int, count: int = 1) -> None:
        """Give back folios that follow one another."""
        for at in range(region, region + count):
            self._code.release(self.memory, at * PAGES_PER_2M, (at + 1) * PAGES_PER_2M)

    def snapshot(self) -> Snapshot:
        """Exactly the free pages, per node."""
        m = self.memory
        by_node: dict[int, list[tuple[int, int]]] = {nid: [] for nid in self._nids}
        for zone, nid in enumerate(self._nids):
            for order in range(MAX_PAGE_ORDER):
                self._code.tidy(m, zone, order)
                chunks = m.stacks[m.stack_begin[zone, order] : m.stack_end[zone, order]]
                by_node[nid] += [(pfn, pfn + (1 << order)) for pfn in chunks.tolist()]
        for block in np.flatnonzero(m.blocks).tolist():
            nid = self._nids[int(m.blocks[block]) - 1]
            by_node[nid].append((block << MAX_PAGE_ORDER, (block + 1) << MAX_PAGE_ORDER))
        for zone, nid in enumerate(self._nids):
            for order in range(REGION_ORDER):
                left = m.kernel[m.cursors[zone, order] : m.kernel_end[zone]]
                for start in (((left >> order) ^ 1) << order).tolist():
                    by_node[nid].append((start, start + (1 << order)))
        for pfn in m.front[: m.numbers[self._layout.FRONT]].tolist():
            by_node[self._nid_at(pfn)].append((pfn, pfn + 1))
        return tuple((nid, tuple(merged(ranges))) for nid, ranges in by_node.items())

    def _nid_at(self, pfn: int) -> int:
        extents = self.memory.extents
        at = int(np.argmax((extents[:, 0] <= pfn) & (pfn < extents[:, 1])))
        return self._nids[int(extents[at, 2])]


def _stacks(
    extents: list[tuple[int, int, int]], zones: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the stack of each zone and order begins and has to end: room for twice the chunks that
    can be free.
    """
    sizes = np.zeros((zones, MAX_PAGE_ORDER), np.int64)
    for start, end, zone in extents:
        for order in range(MAX_PAGE_ORDER):
            sizes[zone, order] += 2 * (((end - start) >> order) + 2)
    limits = np.cumsum(sizes.ravel()).reshape(sizes.shape)
    return limits - sizes, limits


def _untouched(length: int, kind: type[np.generic]) -> NDArray[Any]:
    """Zeros of which only what is written to takes memory, 4 KiB by 4 KiB."""
    size = length * np.dtype(kind).itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        return np.frombuffer(mmap.mmap(-1, size, flags=flags), kind)
    except OSError as error:
        raise MemoryError(f"{size} bytes") from error


def warm_up() -> None:
    """Run everything once on a machine of a few pages."""
    from dpamt.plan.ageing.boot import boot_ageing
    from dpamt.platform.size import machine_from_size

    host = Host4k(boot_ageing(machine_from_size("64MiB")))
    td = host.create(SIZE_2M, 1, False, 1)
    host.fault(td, 0, 0, PAGES_PER_2M)
    host.punch(td, 0, 16)
    host.destroy(td)
    for run in host.allocator.folios(2):
        host.allocator.free_folios(*run)
    host.allocator.snapshot()
