"""Pages that the module has and the kernel has freed."""

from dataclasses import dataclass, field
from typing import cast

from dpamt.abi.pages import PT_EPT, PT_PAMT, PT_TDR
from dpamt.boot.kvm.freed import FreedPages
from dpamt.boot.page_state import is_free
from dpamt.boot.stack import KernelMemory
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.module.module import TdxModule

BASE = 0xFF00_0000
"""Where the kernel's struct pages begin, by its variable at this address minus 8."""


@dataclass
class Symbol:
    address: int


class Image:
    def symbol(self, name: str) -> Symbol | None:
        return Symbol(BASE - 8) if name == "vmemmap_base" else None


@dataclass
class Kernel:
    """Struct pages: reference counts, and which pages are tails."""

    counts: dict[int, int]
    tails: set[int] = field(default_factory=set)

    def read64(self, address: int) -> int | None:
        if address == BASE - 8:
            return BASE
        page, at = divmod(address - BASE, 64)
        if at == 8:
            return 0xFFFF_8001 if page in self.tails else 0xFFFF_8000
        assert at == 48  # _mapcount and _refcount
        return self.counts.get(page, 0) << 32 | 0xFFFF_FFFF


class Region:
    def __init__(self, kinds: dict[int, int]) -> None:
        self.entries = self
        self.kinds = kinds

    def payloads(self) -> list[int]:
        return [0x77 << 8 | self.kinds[n] if n in self.kinds else 0 for n in range(512)]


class Module:
    """What FreedPages asks of a module, for one region."""

    def __init__(self, kinds: dict[int, int]) -> None:
        self.pamt = self
        self._region = Region(kinds)

    def find_region(self, index: int) -> Region | None:
        return self._region if index == 0 else None


def freed(counts: dict[int, int], tails: set[int] | None = None) -> FreedPages:
    kernel = Kernel(counts, tails or set())
    return FreedPages(cast(KernelMemory, kernel), cast(KernelImage, Image()))


def test_pages_that_a_call_names_are_looked_up() -> None:
    module = cast(TdxModule, Module({3: PT_TDR, 4: PT_EPT, 5: 1}))
    named = freed({}).named
    assert named(module, (0x3000, 0x4000, 0, 0x3000)) == {3: PT_TDR, 4: PT_EPT}
    assert named(module, (16 << 46 | 0x3000, 0x5000, 0x7000)) == {3: PT_TDR}  # a KeyID above
    assert named(module, (0xFFFF_FFFF_0000, 0, 0)) == {}


def test_a_free_page_of_the_module_is_wrong_once() -> None:
    pages = {3: PT_TDR, 4: PT_EPT, 6: PT_EPT}
    found = freed({3: 1, 4: 0, 6: 0})
    assert found.free_among(pages) == [4, 6]
    (said,) = found.wrong(pages)
    assert said == (
        "freed: the kernel has freed the pages 0x4000, 0x6000, and the module still has them (EPT)"
    )
    assert found.wrong(pages) == []
    assert found.wrong({7: PT_PAMT}) == [
        "freed: the kernel has freed the page 0x7000, and the module still has it (PAMT)"
    ]


def test_the_tail_of_a_compound_page_is_not_judged() -> None:
    assert freed({4: 0}, tails={4}).free_among({4: PT_EPT}) == []


def test_without_the_kernels_account_no_page_is_free() -> None:
    class Without:
        def symbol(self, _name: str) -> None:
            return None

    assert not is_free(cast(KernelMemory, Kernel({})), cast(KernelImage, Without()), 4)


def test_many_are_counted() -> None:
    pages = dict.fromkeys(range(30), PT_EPT)
    (said,) = freed({}).wrong(pages)
    assert " and 22 more, and the module still has them (EPT)" in said
