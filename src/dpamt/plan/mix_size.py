"""What a mix of TDs takes on one host: pages, pairs, PAMT in both modes, and what is left."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dpamt.host.core.kernel import Kernel
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.plan.fresh import FreshHost
from dpamt.plan.host_size import PAIR_BYTES, HostSize
from dpamt.plan.mix import TdMix
from dpamt.plan.td_size import Pairs, TdPages, all_pages, pages_of, pairs_of


@dataclass(frozen=True, slots=True)
class MixPart:
    """The TDs of one ``--td``."""

    mix: TdMix
    pages: TdPages


@dataclass(frozen=True, slots=True)
class MixSize:
    """All TDs together, with all of their memory in use."""

    parts: tuple[MixPart, ...]
    pages: TdPages
    pairs: Pairs
    dynamic: Pairs
    """Bytes of Dynamic PAMT with each of these numbers of pairs; static PAMT does not change."""
    left_static: int
    """Bytes of the memory that TDs can get which nothing takes (TDs, KVM's mirror tables and pools,
    PAMT); below 0: they do not fit."""
    left_dynamic: int
    """The same under Dynamic PAMT, pairs as on a fresh host."""
    keyids: int
    """Guest KeyIDs of the host: the most TDs that can live at once."""
    whole_regions: int
    """2M regions that are memory from end to end: 2M pages and folios need such."""
    most_static: int
    """The most TDs that memory holds under static PAMT: as many of the smallest kind as go beside
    the others that were asked for; 0 where not even those others fit.  KeyIDs and 2M regions are
    not looked at."""
    most_dynamic: int
    """The same under Dynamic PAMT, pairs as on a fresh host."""

    @property
    def short_of(self) -> tuple[str, ...]:
        """What the host has too little of: ``KeyIDs``, ``memory`` (in both modes), ``memory under
        static PAMT``, ``memory under Dynamic PAMT``, ``whole 2M regions``.
        """
        short = ["KeyIDs"] if self.pages.tds > self.keyids else []
        static, dynamic = self.left_static < 0, self.left_dynamic < 0
        if static and dynamic:
            short.append("memory")
        elif static or dynamic:
            short.append(f"memory under {'static' if static else 'Dynamic'} PAMT")
        if self.pages.guest_2m + self.pages.folio_ranges > self.whole_regions:
            short.append("whole 2M regions")
        return tuple(short)

    @property
    def fits(self) -> bool:
        """Whether memory, KeyIDs and 2M regions are enough, in the better of the two modes."""
        return not {"KeyIDs", "memory", "whole 2M regions"} & set(self.short_of)

    @property
    def more_tds(self) -> int:
        """TDs of that kind that fit under Dynamic PAMT and not under static PAMT; below 0 where it
        is the other way round.  KeyIDs bound both.
        """
        return min(self.most_dynamic, self.keyids) - min(self.most_static, self.keyids)

    @property
    def limit(self) -> str:
        """What ends first as more TDs come: ``KeyIDs`` or ``memory``."""
        return "KeyIDs" if self.keyids <= self.most_dynamic else "memory"


def size_mix(host: HostSize, mixes: Sequence[TdMix], kernel: Kernel) -> MixSize:
    """The size of the mix on the host, whose kernel has just booted; its memory is used up."""
    sysinfo = kernel.sysinfo
    assert sysinfo is not None
    parts = tuple(MixPart(mix, pages_of(mix, sysinfo)) for mix in mixes)
    pages = all_pages(part.pages for part in parts)
    fresh = FreshHost(kernel.allocator)
    pairs = pairs_of(pages, host.capacities, fresh.pairs(pages))
    idle = host.dynamic.total
    dynamic = Pairs(
        idle + pairs.minimum * PAIR_BYTES,
        idle + pairs.fresh * PAIR_BYTES,
        idle + pairs.scattered * PAIR_BYTES,
        idle + pairs.worst * PAIR_BYTES,
    )

    def left_static(pages: TdPages) -> int:
        return host.tdx_bytes - host.static.total - pages.bytes - pages.kvm_bytes(False)

    def left_dynamic(pages: TdPages) -> int:
        taken = pairs_of(pages, host.capacities, fresh.pairs(pages)).fresh * PAIR_BYTES
        return host.tdx_bytes - idle - taken - pages.bytes - pages.kvm_bytes(True)

    return MixSize(
        parts=parts,
        pages=pages,
        pairs=pairs,
        dynamic=dynamic,
        left_static=left_static(pages),
        left_dynamic=left_dynamic(pages),
        keyids=host.guest_keyids,
        whole_regions=host.whole_regions,
        most_static=_most(mixes, sysinfo, left_static),
        most_dynamic=_most(mixes, sysinfo, left_dynamic),
    )


def _most(mixes: Sequence[TdMix], sysinfo: TdxSysInfo, left: Callable[[TdPages], int]) -> int:
    """TDs that fit: the number of the smallest kind is moved, up or down, the others stay."""
    ones = [pages_of(replace(mix, count=1), sysinfo) for mix in mixes]
    at = min(range(len(mixes)), key=lambda one: ones[one].bytes)
    others = sum(mix.count for mix in mixes) - mixes[at].count

    def fit(number: int) -> bool:
        kinds = (replace(m, count=number if i == at else m.count) for i, m in enumerate(mixes))
        return left(all_pages(pages_of(kind, sysinfo) for kind in kinds)) >= 0

    if not fit(0):
        return 0
    room = left(TdPages(0, 0, 0, 0, 0, 0, 0)) // ones[at].bytes + 1
    return others + bisect_left(range(room), True, key=lambda number: not fit(number)) - 1
