"""The map of a host's memory, against a dictionary of regions filled one after another."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from dpamt.host.core.kernel import Kernel, PamtArea
from dpamt.plan import address_map as maps
from dpamt.plan.address_map import BOTH, CELL_KINDS, FREE, HUGE, KINDS, PAIR, Cell, aged_map
from dpamt.plan.td_size import TdPages
from dpamt.platform.machine import Machine, MemoryBlock
from tests.host.rig import small_machine

from .hand_out import HandOut

REGION = 2 << 20
LAST = 30


@st.composite
def memories(draw: st.DrawFn) -> tuple[MemoryBlock, ...]:
    """Blocks ascending; some share a region, some leave regions out."""
    blocks, at = [], draw(st.integers(0, 1500))
    for _ in range(draw(st.integers(1, 5))):
        at += draw(st.sampled_from([0, 1, 100, 512, 700, 2048]))
        end = at + draw(st.sampled_from([1, 200, 512, 1024, 1300, 3000]))
        blocks.append(MemoryBlock(at, end))
        at = end
    return tuple(blocks)


def regions_of(memory: tuple[MemoryBlock, ...]) -> list[int]:
    return sorted({pfn // 512 for block in memory for pfn in range(block.start_pfn, block.end_pfn)})


def cells_by_hand(regions: list[int], kinds: dict[int, int], most: int) -> list[Cell]:
    each = 1
    while each * most < len(regions):
        each += 1
    cells = []
    for start in range(0, len(regions), each):
        part = regions[start : start + each]
        counts = tuple(sum(kinds.get(r, 0) == kind for r in part) for kind in range(5))
        cells.append(Cell(part[0] * REGION, (part[-1] + 1) * REGION, counts))
    return cells


SPREAD = st.lists(st.integers(0, LAST), max_size=20, unique=True)
AREAS = st.lists(st.tuples(st.integers(0, LAST * 512), st.integers(1, 1500)), max_size=3)


@given(memories(), AREAS, SPREAD, SPREAD, st.integers(0, 9), st.integers(0, 9), st.integers(1, 40))
def test_a_fresh_host(
    memory: tuple[MemoryBlock, ...],
    areas: list[tuple[int, int]],
    folios: list[int],
    singles: list[int],
    at_4k: int,
    at_2m: int,
    most: int,
) -> None:
    kernel = SimpleNamespace(
        memory_list=memory,
        pamt_areas=[PamtArea(pfn, pages, 0, 0, 0) for pfn, pages in areas],
        allocator=HandOut([r * 512 + 7 for r in singles], [r * 512 for r in folios]),
    )
    kinds: dict[int, int] = {}
    for pfn, count in areas:
        kinds.update(dict.fromkeys({page // 512 for page in range(pfn, pfn + count)}, 1))
    # A 4K range comes each time their even share of the folios so far is a whole one.
    total, placed, told = at_4k + at_2m, 0, []
    for number, region in enumerate(folios[:total], 1):
        small = number * at_4k // total > placed
        placed += small
        kinds[region] = PAIR if small else HUGE
        if number % 3 == 0:
            told.append(("placing TDs", number, total))
    single = len(singles) + 1
    kinds.update(dict.fromkeys(singles, PAIR))
    pages = TdPages(1, single, 0, at_4k * 512, at_2m, at_4k, 0)
    said: list[tuple[str, int, int]] = []
    with mock.patch.object(maps, "MAX_CELLS", most), mock.patch.object(maps, "_TELL_EVERY", 3):
        made = maps.address_map(cast(Kernel, kernel), pages, lambda *what: said.append(what))
        assert list(made) == cells_by_hand(regions_of(memory), kinds, most)
        assert len(made) <= most
        quiet = SimpleNamespace(**vars(kernel) | {"allocator": HandOut([], [])})
        only_pamt = maps.address_map(cast(Kernel, quiet), None)
    assert said == told
    boot = dict.fromkeys(
        {page // 512 for pfn, count in areas for page in range(pfn, pfn + count)}, 1
    )
    assert list(only_pamt) == cells_by_hand(regions_of(memory), boot, most)


@given(memories(), st.lists(st.sampled_from([0, 1, 2, 3]), max_size=LAST), st.integers(1, 40))
def test_an_aged_host(memory: tuple[MemoryBlock, ...], regions: list[int], most: int) -> None:
    """Kinds of an Ageing: free, pair, 2M, other; what it does not speak of is the kernel's."""
    ours = {0: 0, 1: 2, 2: 3, 3: 4}
    kinds = {r: ours[regions[r]] if r < len(regions) else 4 for r in regions_of(memory)}
    machine: Machine = replace(small_machine(), memory=memory)
    with mock.patch.object(maps, "MAX_CELLS", most):
        assert list(aged_map(machine, bytes(regions))) == cells_by_hand(
            regions_of(memory), kinds, most
        )


@given(st.tuples(*[st.integers(0, 3)] * 5))
def test_what_a_cell_is(counts: tuple[int, ...]) -> None:
    kind = Cell(0, REGION, counts).kind
    names = [name for name, number in zip(KINDS, counts, strict=True) for _ in range(number)]
    if counts[2] and counts[3]:
        assert kind == BOTH
        assert CELL_KINDS[kind] == "page pairs among 2M pages"
    elif not any(counts[1:]):
        assert kind == FREE
    else:
        assert names.count(KINDS[kind]) == max(counts[1:])
        assert kind == 1 + counts[1:].index(max(counts[1:]))


def test_a_large_host_fits_a_picture_and_its_progress_is_told() -> None:
    """10,000 regions in at most 4,096 cells; a word for each 4,096 folios."""
    memory = (MemoryBlock(0, 10_000 * 512),)
    kernel = SimpleNamespace(
        memory_list=memory, pamt_areas=[], allocator=HandOut([], [r * 512 for r in range(9000)])
    )
    said: list[int] = []
    pages = TdPages(1, 0, 0, 0, 9000, 0, 0)
    made = maps.address_map(cast(Kernel, kernel), pages, lambda _what, at, _of: said.append(at))
    assert said == [4096, 8192]
    assert len(made) == -(-10_000 // 3)
    assert sum(cell.counts[HUGE] for cell in made) == 9000
