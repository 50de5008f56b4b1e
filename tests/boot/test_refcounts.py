"""A kernel's own counts, read through page tables made here, against the pairs of a real module."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.image import KernelImage
from dpamt.boot.refcounts import count_of, kernel_counts_itself, wrong_counts
from dpamt.boot.stack import KernelMemory
from tests.boot.small_kernel import BASE, SmallKernel
from tests.module.rig import FIRST, Rig

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
ARRAY = 0xFFFF_C900_0000_0000
"""Where the kernel has mapped its array (vmalloc)."""
TABLES_AT = 0x200000
COUNTS_AT = 0x300000
PRESENT, LARGE = 1, 1 << 7
FIRST_REGION = FIRST >> 21
ARRAY_PAGES = range(FIRST_REGION * 4 >> 12, ((FIRST_REGION + 2048) * 4 >> 12) + 1)
"""Pages of the array that are there: the array is sparse, as that of v6 is."""


class Played:
    """A kernel's memory with the page tables, the pointer and the array."""

    def __init__(self, folder: Path) -> None:
        small = SmallKernel()
        small.functions |= {
            "init_top_pgt": bytes(4096),
            "pamt_refcounts": bytes(8),
        }
        self.image = KernelImage(small.write(folder / "vmlinux"))
        path, size = folder / "memory", 32 << 20
        with path.open("wb") as file:
            file.truncate(size)
        self.memory = GuestMemory([(path, size)])
        self._free = TABLES_AT
        self._map(BASE, BASE - KERNEL_MAP, large=True)
        for page in ARRAY_PAGES:
            self._map(ARRAY + page * 4096, COUNTS_AT + (page - ARRAY_PAGES[0]) * 4096)
        self.memory.write64(self._at("pamt_refcounts"), ARRAY)
        self.kernel = KernelMemory(self.memory, self.image)

    def _at(self, name: str) -> int:
        symbol = self.image.symbol(name)
        assert symbol is not None
        return symbol.address - KERNEL_MAP

    def _map(self, address: int, physical: int, large: bool = False) -> None:
        table = self._at("init_top_pgt")
        for shift in (39, 30) if large else (39, 30, 21):
            entry = table + (address >> shift & 511) * 8
            if not self.memory.read64(entry):
                self.memory.write64(entry, self._free | PRESENT)
                self._free += 4096
            table = self.memory.read64(entry) & -4096
        last = 21 if large else 12
        flags = PRESENT | LARGE if large else PRESENT
        self.memory.write64(table + (address >> last & 511) * 8, physical | flags)

    def count(self, region: int, count: int) -> None:
        place = COUNTS_AT + region * 4 - ARRAY_PAGES[0] * 4096
        self.memory.write32(place, count & 0xFFFF_FFFF)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    guest = Played(tmp_path)
    yield guest
    guest.memory.close()


def with_pairs(regions: set[int]) -> Rig:
    rig = Rig()
    for region in sorted(regions):
        rig.add_pair(region << 21)
    return rig


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.integers(FIRST_REGION, FIRST_REGION + 40), st.integers(-2, 3)),
    st.sets(st.integers(FIRST_REGION, FIRST_REGION + 40), max_size=5),
)
def test_every_region_that_disagrees_is_told(counts: dict[int, int], pairs: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        guest = Played(Path(folder))
        for region, count in counts.items():
            guest.count(region, count)
            assert count_of(guest.kernel, guest.image, region) == count
        told = wrong_counts(guest.kernel, guest.image, with_pairs(pairs).module)
        wrong = {
            region
            for region in counts.keys() | pairs
            if counts.get(region, 0) < 0 or (counts.get(region, 0) > 0) != (region in pairs)
        }
        if len(wrong) <= 8:
            named = [line.partition("region ")[2].split()[0].rstrip(",:") for line in told]
            assert [int(name, 16) for name in named] == sorted(wrong)
        else:
            assert len(told) == 9
            assert f"and {len(wrong) - 8} more" in told[-1]
        guest.memory.close()


def test_a_page_of_the_array_that_is_not_there(played: Played) -> None:
    assert kernel_counts_itself(played.image)
    outside = (ARRAY_PAGES[-1] + 1) * 1024
    assert count_of(played.kernel, played.image, outside) is None
    played.memory.write64(played._at("pamt_refcounts"), 0)
    assert count_of(played.kernel, played.image, FIRST_REGION) is None
    told = wrong_counts(played.kernel, played.image, with_pairs({FIRST_REGION}).module)
    assert told == [f"region {FIRST_REGION:#x} has a page pair, and the kernel no count for it"]


def test_a_kernel_without_it(tmp_path: Path) -> None:
    image = KernelImage(SmallKernel().write(tmp_path / "vmlinux"))
    assert not kernel_counts_itself(image)
