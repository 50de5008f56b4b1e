"""What a mix of TDs takes on one host: pages, pairs, PAMT in both modes, and what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.kernel import Kernel
from dpamt.plan.fresh import fresh_pairs
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

    def most_tds(self, dynamic: bool) -> int:
        """TDs of the smallest kind that could live, these included; KeyIDs are not looked at."""
        left = self.left_dynamic if dynamic else self.left_static
        return self.pages.tds + left // min(_need(part.pages, dynamic) for part in self.parts)

    @property
    def more_tds(self) -> int:
        """TDs of that kind that fit under Dynamic PAMT and not under static PAMT; below 0 where it
        is the other way round.  KeyIDs bound both.
        """
        static, dynamic = (min(self.most_tds(mode), self.keyids) for mode in (False, True))
        return dynamic - static

    @property
    def limit(self) -> str:
        """What ends first as more TDs come: ``KeyIDs`` or ``memory``."""
        return "KeyIDs" if self.keyids <= self.most_tds(True) else "memory"


def _need(pages: TdPages, dynamic: bool) -> int:
    """Bytes that one of these TDs takes, its 4K pages packed."""
    all_of_them = pages.bytes + pages.kvm_bytes(dynamic)
    if dynamic:
        packed = pages.folio_ranges + -(-pages.single // PAGES_PER_2M)
        all_of_them += packed * PAIR_BYTES
    return all_of_them // pages.tds


def size_mix(host: HostSize, mixes: Sequence[TdMix], kernel: Kernel) -> MixSize:
    """The size of the mix on the host, whose kernel has just booted; its memory is used up."""
    sysinfo = kernel.sysinfo
    assert sysinfo is not None
    parts = tuple(MixPart(mix, pages_of(mix, sysinfo)) for mix in mixes)
    pages = all_pages(part.pages for part in parts)
    pairs = pairs_of(pages, host.capacities, fresh_pairs(kernel.allocator, pages))
    idle = host.dynamic.total
    dynamic = Pairs(
        idle + pairs.minimum * PAIR_BYTES,
        idle + pairs.fresh * PAIR_BYTES,
        idle + pairs.scattered * PAIR_BYTES,
        idle + pairs.worst * PAIR_BYTES,
    )
    return MixSize(
        parts=parts,
        pages=pages,
        pairs=pairs,
        dynamic=dynamic,
        left_static=host.tdx_bytes - host.static.total - pages.bytes - pages.kvm_bytes(False),
        left_dynamic=host.tdx_bytes - dynamic.fresh - pages.bytes - pages.kvm_bytes(True),
        keyids=host.guest_keyids,
        whole_regions=host.whole_regions,
    )
