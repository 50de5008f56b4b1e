"""PAMT in use on a host now, by the kernel's own counters, beside what its plan says.

The counters come from the running kernel or from a dump of one (`dpamt trace --how drgn`).
"""

from dataclasses import dataclass

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.plan.host_size import PAIR_BYTES, HostSize
from dpamt.trace.judge.counts import Counters


@dataclass(frozen=True, slots=True)
class InUseNow:
    """Bytes by kind; ``pages``: 4K pages in TDX use in regions with a pair."""

    level_1g: int
    level_2m: int
    level_4k_or_bitmap: int
    pairs: int
    pages: int
    differences: tuple[str, ...]
    """From the plan of this host, and what no counter can be: a sentence each."""

    @property
    def pair_bytes(self) -> int:
        """Of all pairs."""
        return self.pairs * PAIR_BYTES

    @property
    def all(self) -> int:
        """Everything but the counters themselves."""
        return self.level_1g + self.level_2m + self.level_4k_or_bitmap + self.pair_bytes

    @property
    def packed(self) -> int:
        """Pairs that would do if the same pages lay in as few regions as can be."""
        return -(-self.pages // PAGES_PER_2M)


def in_use_now(counters: Counters, host: HostSize) -> InUseNow:
    """What the counters say, and where that is not what ``host`` says."""
    sizes = [sum(column) for column in zip(*counters.tdmrs, strict=True)] or [0, 0, 0, 0]
    memory, level_1g, level_2m, level_4k = sizes
    differences = []
    planned = sum(tdmr.end - tdmr.base for tdmr in host.tdmrs)
    dynamic = sum(tdmr.dynamic for tdmr in host.tdmrs)
    static = sum(tdmr.static for tdmr in host.tdmrs)
    pamt = level_1g + level_2m + level_4k
    if not counters.tdmrs:
        differences.append("the counters have no TDMRs (no symbol tdx_tdmr_list)")
    elif memory != planned:
        differences.append(
            f"the kernel's TDMRs have {memory >> 20:,} MiB, those of the plan {planned >> 20:,}: "
            "another host, or other memory"
        )
    elif pamt not in (dynamic, static):
        differences.append(
            f"the kernel's TDMRs have {pamt >> 10:,} KiB of PAMT, those of the plan "
            f"{dynamic >> 10:,} (static: {static >> 10:,})"
        )
    counts = counters.regions.values()
    beyond = sum(not 0 <= count <= PAGES_PER_2M for count in counts)
    if beyond:
        differences.append(
            f"{beyond:,} counters are below 0 or above {PAGES_PER_2M}: puts or gets too many"
        )
    used = [count for count in counts if count > 0]
    return InUseNow(level_1g, level_2m, level_4k, len(used), sum(used), tuple(differences))
