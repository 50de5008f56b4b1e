"""The kernel's counters, read through its own page table and held against the module's pairs."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.refcounts import NAMES, KernelCounts, names_of, not_found
from dpamt.boot.stack import KernelMemory
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import BASE, SmallKernel

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
ARRAY = 0xFFFF_C900_0000_0000
REGIONS = 3000
MEMORY = 32 << 20
PRESENT = 1


class Guest:
    """A guest's memory with a kernel's counters, whose pages lie apart and in no order."""

    def __init__(self, folder: Path, names: tuple[str, str] = NAMES[0]) -> None:
        kernel = SmallKernel()
        self.array_at, self.lock_at = names
        kernel.functions = {
            "init_top_pgt": bytes(4096),
            names[0]: bytes(16),
            names[1]: bytes(16),
            "max_pfn": bytes(16),
            **kernel.functions,
        }
        self.image = KernelImage(kernel.write(folder / "vmlinux"))
        self.at = {name: address - KERNEL_MAP for name, address in kernel.addresses().items()}
        path = folder / "memory"
        path.touch()
        with path.open("r+b") as file:
            file.truncate(MEMORY)
        self.memory = GuestMemory([(path, MEMORY)])
        self.top = BASE - KERNEL_MAP
        self.free = 24 << 20
        for page in range(0, 8192, 4096):
            self.map(BASE + page, BASE - KERNEL_MAP + page)
        self.array = [5 << 20, 3 << 20, 9 << 20]
        for index, place in enumerate(self.array):
            self.map(ARRAY + index * 4096, place)
        self.memory.write64(self.at[self.array_at], ARRAY)
        self.memory.write64(self.at["max_pfn"], REGIONS * 512)
        self.counts = KernelCounts(self.memory, KernelMemory(self.memory, self.image), self.image)

    def map(self, address: int, place: int) -> None:
        table = self.top
        for shift in (39, 30, 21):
            slot = table + (address >> shift & 511) * 8
            if not self.memory.read64(slot):
                self.memory.write64(slot, self.free | PRESENT)
                self.free += 4096
            table = self.memory.read64(slot) & ~0xFFF
        self.memory.write64(table + (address >> 12 & 511) * 8, place | PRESENT)

    def count(self, region: int, value: int) -> None:
        place = self.array[region >> 10] + (region & 1023) * 4
        self.memory.write(place, struct.pack("<i", value))

    def lock(self, word: int) -> None:
        self.memory.write64(self.at[self.lock_at], word)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    guest = Guest(tmp_path_factory.mktemp("guest"))
    yield guest
    guest.memory.close()


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, REGIONS - 1), st.integers(-3, 600), max_size=20),
    st.sets(st.integers(0, REGIONS - 1), max_size=20),
    st.booleans(),
)
def test_counters_and_pairs(
    guest: Guest, values: dict[int, int], others: set[int], locked: bool
) -> None:
    for region, value in values.items():
        guest.count(region, value)
    guest.lock(0x1_0000_0001 if locked else 0x1_0000_0000)  # what follows is not the lock's
    counted = {region: value for region, value in sorted(values.items()) if value}
    assert guest.counts.counted() == counted
    assert guest.counts.is_locked() is locked
    used = {region for region, value in values.items() if value > 0}
    negative = {region for region, value in values.items() if value < 0}
    assert guest.counts.wrong_now(used | others) == []
    exact = {region: values[region] for region in used}
    assert (guest.counts.wrong_at_rest(exact) == []) is (not negative)
    assert len(guest.counts.wrong_now(others)) == (0 if locked else min(9, len(used - others)))
    wrong = len(used ^ others) + len(negative)
    most = {region: max(values.get(region, 0), 1) for region in others}
    assert len(guest.counts.wrong_at_rest(most)) == min(9, wrong)
    for region in values:
        guest.count(region, 0)


def test_it_names_the_region(guest: Guest) -> None:
    guest.lock(0)
    guest.count(2047, 7)
    assert guest.counts.wrong_now([]) == [
        "region 0xffe00000: its refcount is 7, and it has no pair"
    ]
    guest.count(2047, 0)
    assert guest.counts.wrong_at_rest({3: 0}) == [
        "region 0x600000 has a pair, and its refcount is 0"
    ]


def test_a_count_without_a_user_is_a_leak(guest: Guest) -> None:
    """After a REMOVE that was refused: count 1, the pair is there, and nobody uses the region."""
    guest.count(5, 1)
    assert guest.counts.wrong_now({5}) == []
    assert guest.counts.wrong_at_rest({5: 0}) == [
        "leak: region 0xa00000: its refcount is 1, and TDX uses 0 of its pages"
    ]
    assert guest.counts.wrong_at_rest({5: 1}) == []
    guest.count(5, 0)


def test_quiet_points_are_counted(guest: Guest) -> None:
    before = guest.counts.audits
    guest.lock(1)
    guest.counts.wrong_now(())
    guest.lock(0)
    assert guest.counts.audits == before
    guest.counts.wrong_now(())
    guest.counts.wrong_at_rest({})
    assert guest.counts.audits == before + 2


@pytest.mark.parametrize("names", NAMES)
def test_names_as_merged_and_as_posted(tmp_path: Path, names: tuple[str, str]) -> None:
    guest = Guest(tmp_path, names)
    assert guest.counts.name == names[0]
    assert names_of(guest.image) == names
    guest.count(1, 3)
    assert guest.counts.counted() == {1: 3}
    guest.memory.close()


def test_a_kernel_with_get_whose_counters_have_another_name(tmp_path: Path) -> None:
    kernel = SmallKernel()
    assert not_found(KernelImage(kernel.write(tmp_path / "static"))) == ""
    kernel.functions = {"tdx_pamt_get": bytes(16), "max_pfn": bytes(16), **kernel.functions}
    why = not_found(KernelImage(kernel.write(tmp_path / "renamed")))
    assert why.startswith("the kernel has tdx_pamt_get, but its counters are not found: no dpamt_")


def test_before_there_are_counters(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.memory.write64(guest.at[guest.array_at], 0)
    assert guest.counts.is_known
    assert guest.counts.counted() == {}
    guest.memory.write64(guest.at[guest.array_at], 0xFFFF_D000_0000_0000)  # mapped nowhere
    assert guest.counts.counted() == {}
    guest.memory.close()


def test_a_kernel_that_has_none(tmp_path: Path) -> None:
    image = KernelImage(SmallKernel().write(tmp_path / "vmlinux"))
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    memory = GuestMemory([(path, 4096)])
    assert not KernelCounts(memory, KernelMemory(memory, image), image).is_known
    memory.close()
