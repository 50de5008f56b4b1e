"""Maps against real firmware and against plain sets of pages."""

from importlib.resources import files
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dpamt.platform.dmesg import machine_from_dmesg
from dpamt.platform.machine import Cmr
from dpamt.platform.memory_map import (
    FIRMWARE_GAP_BYTES,
    MapEntry,
    NodeRange,
    assign_nodes,
    check_order,
    cmr_pages,
    derive_cmrs,
    usable_pages,
    without,
)
from dpamt.platform.read_machine import packaged_host

MIB = 1 << 20


def real_log(name: str) -> str:
    return (files("dpamt.platform") / "data" / f"{name}.dmesg").read_text()


@st.composite
def maps(draw: st.DrawFn) -> list[MapEntry]:
    entries = []
    position = draw(st.integers(0, 3)) * 0x800
    for number in range(draw(st.integers(1, 12))):
        size = draw(st.integers(1, 9)) * draw(st.sampled_from([0x400, 0x1000, 0x40000, 20 * MIB]))
        entries.append(MapEntry(position, position + size, draw(st.booleans()), number + 1))
        position += size + draw(st.sampled_from([0, 0, 0, 0x800, 0x1000]))
    return entries


def test_cmrs_derived_from_a_real_map_are_the_real_ones() -> None:
    """The host printed both its e820 lines (below 2 GiB) and its CMRs."""
    text = "\n".join(line for line in real_log("reserved-areas").split("\n") if "e820" in line)
    derived = machine_from_dmesg(text + "\n", "e820 part")
    real = packaged_host("reserved-areas")
    assert derived.cmrs == real.cmrs[:1]
    assert derived.memory == tuple(b for b in real.memory if b.end_pfn << 12 <= 2 << 30)
    assert any("derived" in note for note in derived.notes)


@given(maps())
def test_derived_cmrs_hold_all_usable_memory_and_nothing_undescribed(
    entries: list[MapEntry],
) -> None:
    check_order(entries, "map")
    cmrs = derive_cmrs(entries)
    for first, second in pairwise(cmrs):
        assert first.end <= second.base
    covered = cmr_pages(cmrs)
    for start, end in usable_pages(entries):
        low = max(start, 0x100)
        assert low >= end or any(a <= low and end <= b for a, b in covered)
    for cmr in cmrs:
        assert cmr.base >= MIB
        assert not (cmr.base | cmr.size) % 4096
        position = cmr.base
        unusable = 0
        for entry in entries:
            if entry.start <= position < min(entry.end, cmr.end):
                unusable = 0 if entry.usable else unusable + entry.end - position
                assert unusable <= FIRMWARE_GAP_BYTES
                position = entry.end
        assert position >= cmr.end


@given(maps(), st.integers(0, 40), st.integers(0, 40))
def test_taking_a_range_away_takes_exactly_it(
    entries: list[MapEntry], start: int, size: int
) -> None:
    low, high = start * 0x400, (start + size) * 0x400
    result = without(entries, low, high)
    check_order(result, "map")
    for byte in range(0, 0x18000, 0x400):
        before = any(e.usable and e.start <= byte < e.end for e in entries)
        after = any(e.usable and e.start <= byte < e.end for e in result)
        assert after == (before and not low <= byte < high)
    assert sum(e.end - e.start for e in result) == sum(e.end - e.start for e in entries)


def test_usable_memory_is_trimmed_to_whole_pages_and_joined() -> None:
    entries = [
        MapEntry(0, 0x9FC00, True, 1),
        MapEntry(0x9FC00, 0x100000, False, 2),
        MapEntry(0x100000, 0x180800, True, 3),
        MapEntry(0x180800, 0x200400, True, 4),
        MapEntry(0x200400, 0x200C00, False, 5),
        MapEntry(0x200C00, 0x201000, True, 6),
        MapEntry(0x201400, 0x202000, True, 7),
    ]
    assert usable_pages(entries) == [(1, 0x9F), (0x100, 0x200)]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 3)), max_size=6),
)
def test_nodes_cut_memory_page_by_page(
    gaps_and_sizes: list[tuple[int, int]], layout: list[tuple[int, int, int]]
) -> None:
    pages, position = [], 0
    for gap, size in gaps_and_sizes:
        pages.append((position + gap, position + gap + size))
        position += gap + size
    nodes, position = [], 0
    for gap, size, nid in layout:
        nodes.append(NodeRange((position + gap) << 12, (position + gap + size) << 12, nid, 1))
        position += gap + size
    blocks, homeless = assign_nodes(pages, nodes)
    owner = {page: node.nid for node in nodes for page in range(node.start >> 12, node.end >> 12)}
    expected = {page: owner.get(page, 0) for start, end in pages for page in range(start, end)}
    assert {
        page: block.nid for block in blocks for page in range(block.start_pfn, block.end_pfn)
    } == expected
    assert homeless == (bool(nodes) and any(page not in owner for page in expected))
    for first, second in pairwise(blocks):
        assert first.end_pfn <= second.start_pfn
        assert first.end_pfn < second.start_pfn or first.nid != second.nid


def test_touching_cmrs_become_one_block() -> None:
    cmrs = [Cmr(0x100000, 0x1000), Cmr(0x101000, 0x1000), Cmr(0x200000, 0x2000)]
    assert cmr_pages(cmrs) == [(0x100, 0x102), (0x200, 0x202)]
    assert cmr_pages(cmrs, above=0x101800) == [(0x200, 0x202)]
