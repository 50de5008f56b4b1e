from hypothesis import given
from hypothesis import strategies as st

from dpamt.plan.expect.layout import LAYOUTS, ranges_2m, upper_sept_pages

MIB = 1 << 20


@given(st.integers(1, 300_000), st.sampled_from(sorted(LAYOUTS)))
def test_pages_are_those_of_a_walk_over_every_range(ranges: int, name: str) -> None:
    layout = LAYOUTS[name]
    memory = ranges * 2 * MIB
    extra = 2 if name == "q35" else 0
    assert ranges_2m(layout, memory) == ranges + extra
    tables: set[tuple[int, int]] = set()
    for start, size in layout.ranges_of(memory):
        for index in range(start >> 21, start + size >> 21):
            tables |= {(1, index >> 9), (2, index >> 18)}
    assert upper_sept_pages(layout, memory) == len(tables)


def test_q35_has_no_memory_where_its_devices_are() -> None:
    for memory in (1 << 30, 2 << 30, 0xB000_0000, 96 << 30):
        *_, last = LAYOUTS["q35"].ranges_of(memory)
        low = LAYOUTS["q35"].ranges_of(memory)[0]
        assert low[0] + low[1] <= 0xB000_0000
        assert sum(size for _start, size in LAYOUTS["q35"].ranges_of(memory)) == memory + 4 * MIB
        assert last[0] >= 4 * 1024 * MIB - 4 * MIB
