"""Hosts of a fleet: a type is a machine; from its boot come the sizes that placing VMs needs."""

from dataclasses import dataclass

import numpy as np

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M, PAMT_PAIR_PAGES, SIZE_2M
from dpamt.errors import InputError
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.host.designs.base import SEPT_CACHE_PAGES
from dpamt.plan.ageing.boot import RELEASE, boot_ageing
from dpamt.plan.td_size import small_ranges
from dpamt.platform.machine import Machine
from dpamt.run.world import pamt_of_mode

HOSTS_PER_CLUSTER = 50
"""Hosts of a cluster: VMs are placed on its best host; clusters know nothing of each other."""

IMAGE_PAGES = 1024
"""Pages of each TD that are added at 4K when it is built: 4 MiB, as `dpamt run` does."""


@dataclass(frozen=True, slots=True)
class HostType:
    """``count`` hosts alike.  ``vcpus`` and ``max_tds`` limit each; None: no limit, the KeyIDs.

    ``static`` hosts stay on static PAMT, for their kernel or their TDX module has no other.
    """

    name: str
    machine: Machine
    count: int
    vcpus: int | None = None
    max_tds: int | None = None
    static: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"hosts of type {self.name}: {self.count}; expected at least 1")
        for value, what in ((self.vcpus, "VCPUs"), (self.max_tds, "TDs")):
            if value is not None and value < 1:
                raise InputError(f"hosts of type {self.name}: {value} {what}; expected at least 1")


@dataclass(frozen=True, slots=True)
class HostSizes:
    """What a host of a type has, in bytes and 4K pages."""

    name: str
    memory_bytes: int
    static_bytes: int
    """PAMT under static PAMT."""
    idle_bytes: int
    """PAMT under Dynamic PAMT without a TD, refcounts included."""
    td_pages: int
    """TDR and TDCS pages."""
    vcpu_pages: int
    """TDVPR and TDCX pages of a VCPU."""
    vcpus: int
    max_tds: int
    regions: int
    """2M regions with memory in them: more pairs there cannot be."""
    static: bool = False
    """Whether the host stays on static PAMT; ``idle_bytes`` is ``static_bytes`` then."""

    def room(self, dynamic: bool, reserve: float) -> int:
        """Bytes for TDs and what they take, a share ``reserve`` kept for the host."""
        pamt = self.idle_bytes if dynamic else self.static_bytes
        return int(self.memory_bytes * (1 - reserve)) - pamt

    def takes(self, ranges: int, vcpus: int, share_2m: float) -> "Takes":
        """What a TD with this number of 2M ranges takes, all of it in use."""
        small, sept = small_ranges(ranges, -(-IMAGE_PAGES // PAGES_PER_2M), share_2m)
        scattered = self.td_pages + vcpus * self.vcpu_pages + sept
        folios = small if share_2m else 0
        singles = 0 if share_2m else small * PAGES_PER_2M
        # A mirror table for each S-EPT page and the root; pools of S-EPT pages and of pairs.
        mirror = sept + 1 + vcpus * SEPT_CACHE_PAGES
        return Takes(ranges * SIZE_2M, folios, singles, scattered, mirror, vcpus)

    @staticmethod
    def takes_of_normal(ranges: int) -> "Takes":
        """What a VM takes that is no TD: its memory.  No page of it needs PAMT."""
        return Takes(ranges * SIZE_2M, 0, 0, 0, td=False)


@dataclass(frozen=True, slots=True)
class Takes:
    """Of one TD, or of all on a host: bytes of memory, and what needs pairs.

    ``folios``: 2M ranges at 4K, each backed by one folio, hence a pair each, exactly.  ``singles``:
    guest pages without folios.  ``scattered``: control and S-EPT pages.
    """

    memory: int
    folios: int
    singles: int
    scattered: int
    mirror: int = 0
    """Pages of KVM's mirror tables and S-EPT pools, which need no pair."""
    vcpus: int = 0
    td: bool = True

    @property
    def static_bytes(self) -> int:
        """Memory, control and S-EPT pages, and what KVM takes beside them."""
        return self.memory + (self.scattered + self.mirror << PAGE_SHIFT)

    @property
    def dynamic_bytes(self) -> int:
        """With the pairs, its single pages packed, and the VCPUs' pools of pairs."""
        packed = -(-(self.singles + self.scattered) // PAGES_PER_2M)
        pages = PAMT_PAIR_PAGES * (self.folios + packed + self.vcpus * PT64_ROOT_MAX_LEVEL)
        return self.static_bytes + (pages << PAGE_SHIFT)


def sizes_of(host_type: HostType, release: str = RELEASE) -> HostSizes:
    """The sizes of a type's hosts, by booting one under Dynamic PAMT and the merged design."""
    machine = host_type.machine
    kernel = boot_ageing(machine, release=release)
    sysinfo = kernel.sysinfo
    assert sysinfo is not None
    static = pamt_of_mode(kernel, False, 0).total
    return HostSizes(
        host_type.name,
        machine.total_pages << PAGE_SHIFT,
        static,
        static if host_type.static else pamt_of_mode(kernel, True, 0).total,
        1 + sysinfo.tdcs_pages,
        1 + sysinfo.tdcx_pages_per_vcpu,
        host_type.vcpus or np.iinfo(np.int32).max,
        host_type.max_tds or len(kernel.guest_keyids),
        sum(
            -(-block.end_pfn // PAGES_PER_2M) - block.start_pfn // PAGES_PER_2M
            for block in machine.memory
        ),
        host_type.static,
    )
