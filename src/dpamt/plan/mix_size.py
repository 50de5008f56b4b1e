"""What a mix of TDs takes on one host: pages, pairs, PAMT in both modes, and what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Bytes of the memory that TDs can get which nothing takes; below 0: they do not fit."""
    left_dynamic: int
    """The same under Dynamic PAMT, pairs as on a fresh host."""
    keyids: int
    """Guest KeyIDs of the host: so many TDs can live at once."""

    @property
    def fits(self) -> bool:
        """Whether memory and KeyIDs are enough, in the better of the two modes."""
        return max(self.left_static, self.left_dynamic) >= 0 and self.pages.tds <= self.keyids


def size_mix(host: HostSize, mixes: Sequence[TdMix], kernel: Kernel) -> MixSize:
    """The size of the mix on the host, whose kernel has just booted; its memory is used up."""
    sysinfo = kernel.sysinfo
    assert sysinfo is not None
    parts = tuple(MixPart(mix, pages_of(mix, sysinfo)) for mix in mixes)
    pages = all_pages(part.pages for part in parts)
    pairs = pairs_of(pages, host.regions, fresh_pairs(kernel.allocator, pages))
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
        left_static=host.tdx_bytes - host.static.total - pages.bytes,
        left_dynamic=host.tdx_bytes - dynamic.fresh - pages.bytes,
        keyids=host.guest_keyids,
    )
