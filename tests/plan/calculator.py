"""PAMT on a host by hand: sums over the memory map, importing nothing of dpamt.

Written from the reference of Linux and of the module: TDMRs of whole GiB (A.5), 16 bytes an entry
at each level, each level of each TDMR rounded up to 4 KiB, a bit for each 4K page in the bitmap
(A.6), one 4-byte counter for each 2M up to max_pfn (E.1), TD pages and S-EPT pages (F.1, F.2),
10 pages of pairs for each VCPU (E.6), mirror page tables (F.5).
"""

from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE, REGION = 4 * KIB, 2 * MIB

TDCS_PAGES = 9
TDCX_PAGES = 5
"""Of a VCPU, beside its TDVPR: what TDX module 2.0.18 reports."""


@dataclass(frozen=True)
class Td:
    count: int
    memory: int
    vcpus: int
    share_2m: float


def up(value: int, step: int) -> int:
    return -(-value // step) * step


def tdmrs(memory: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """[start, end) in bytes of each, from ranges of memory above 1 MiB."""
    made: list[tuple[int, int]] = []
    for start, end in memory:
        start, end = start // GIB * GIB, up(end, GIB)
        if made:
            if end <= made[-1][1]:
                continue
            start = max(start, made[-1][1])
        made.append((start, end))
    return made


def static_bytes(memory: list[tuple[int, int]]) -> int:
    return sum(
        sum(up((end - start) // step * 16, PAGE) for step in (PAGE, REGION, GIB))
        for start, end in tdmrs(memory)
    )


def dynamic_idle_bytes(memory: list[tuple[int, int]], top: int) -> int:
    """``top`` is the highest byte of memory, exclusive."""
    levels = sum(
        up((end - start) // PAGE // 8, PAGE)
        + sum(up((end - start) // step * 16, PAGE) for step in (REGION, GIB))
        for start, end in tdmrs(memory)
    )
    return levels + up(-(-top // REGION) * 4, PAGE)


def capacities(memory: list[tuple[int, int]]) -> list[int]:
    """Usable pages of each 2M region with memory in it, the fullest first."""
    pages: dict[int, int] = {}
    for start, end in memory:
        for region in range(start // REGION, -(-end // REGION)):
            low, high = max(start, region * REGION), min(end, (region + 1) * REGION)
            pages[region] = pages.get(region, 0) + (high - low) // PAGE
    return sorted(pages.values(), reverse=True)


@dataclass(frozen=True)
class Counted:
    """Of all TDs: pages of each kind."""

    control: int
    sept: int
    guest_4k: int
    guest_2m: int
    folios: int
    kvm_static: int
    kvm_dynamic: int


def count_tds(tds: list[Td]) -> Counted:
    control = sept = small_pages = large = folios = mirror = vcpus = number = 0
    for td in tds:
        ranges = td.memory // REGION
        at_2m = round(td.share_2m * (ranges - 1))  # the first range holds the image
        at_4k = ranges - at_2m
        gigabytes = -(-ranges // 512)
        tables = at_4k + gigabytes + -(-gigabytes // 512)
        control += td.count * (1 + TDCS_PAGES + td.vcpus * (1 + TDCX_PAGES))
        sept += td.count * tables
        mirror += td.count * (tables + 1)
        small_pages += td.count * at_4k * 512
        large += td.count * at_2m
        folios += td.count * at_4k if td.share_2m else 0
        vcpus += td.count * td.vcpus
        number += td.count
    return Counted(
        control, sept, small_pages, large, folios,
        (mirror + 5 * vcpus) * PAGE, (mirror + 15 * vcpus) * PAGE,
    )  # fmt: skip


def fewest_and_most_pairs(counted: Counted, regions: list[int]) -> tuple[int, int]:
    """Regions that need a pair: with all single pages packed, and each in one of its own."""
    whole = sum(pages == 512 for pages in regions)
    folios = min(counted.folios, whole)
    taken = min(folios + counted.guest_2m, whole)
    left = regions[taken:]
    single = counted.control + counted.sept + counted.guest_4k - 512 * counted.folios
    packed, rest = 0, single
    for pages in left:
        if rest <= 0:
            break
        packed += 1
        rest -= pages
    return folios + packed, folios + min(single, len(left))
