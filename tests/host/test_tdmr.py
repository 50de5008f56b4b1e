"""TDMR ranges against a naive oracle and against what real hosts have."""

from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.pages import PAGES_PER_1G, SIZE_1G
from dpamt.host.core.tdmr import fill_out_tdmrs, tdmr_size
from dpamt.platform.machine import MemoryBlock
from dpamt.platform.read_machine import packaged_host

GIB = SIZE_1G


@st.composite
def memory_lists(draw: st.DrawFn) -> tuple[MemoryBlock, ...]:
    """Ascending blocks, with and without gaps, from pages to many GiB."""
    blocks, position = [], 256
    for _ in range(draw(st.integers(0, 12))):
        position += draw(st.sampled_from([0, 1, 300, PAGES_PER_1G, 3 * PAGES_PER_1G]))
        size = draw(st.sampled_from([1, 77, 65536, PAGES_PER_1G - 1, PAGES_PER_1G, 600_000]))
        blocks.append(MemoryBlock(position, position + size))
        position += size
    return tuple(blocks)


@given(memory_lists())
def test_tdmrs_cover_exactly_the_gib_that_memory_touches(memory: tuple[MemoryBlock, ...]) -> None:
    touched = {
        gib
        for block in memory
        for gib in range(block.start_pfn // PAGES_PER_1G, (block.end_pfn - 1) // PAGES_PER_1G + 1)
    }
    tdmrs = fill_out_tdmrs(memory, 64)
    assert tdmrs is not None
    covered = [gib for tdmr in tdmrs for gib in range(tdmr.base // GIB, tdmr.end // GIB)]
    assert covered == sorted(touched)
    assert all(tdmr.base % GIB == 0 and tdmr.size % GIB == 0 and tdmr.size for tdmr in tdmrs)


@given(memory_lists())
def test_running_out_of_tdmrs_is_noticed(memory: tuple[MemoryBlock, ...]) -> None:
    needed = fill_out_tdmrs(memory, 64)
    assert needed is not None
    if len(needed) > 1:
        assert fill_out_tdmrs(memory, len(needed) - 1) is None
        assert fill_out_tdmrs(memory, len(needed)) == needed


def test_entries_side_by_side_are_not_joined() -> None:
    halves = (MemoryBlock(0, PAGES_PER_1G, 0), MemoryBlock(PAGES_PER_1G, 2 * PAGES_PER_1G, 1))
    assert len(fill_out_tdmrs(halves, 64) or []) == 2


def test_the_one_tib_host() -> None:
    tdmrs = fill_out_tdmrs(packaged_host("host-1tib").memory, 64)
    assert tdmrs is not None
    assert [tdmr.size // GIB for tdmr in tdmrs] == [2, 254, 256, 256, 256]


def test_size_of_a_tdmr_info() -> None:
    assert [tdmr_size(areas) for areas in (16, 28, 29)] == [512, 512, 1024]
