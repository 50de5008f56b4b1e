"""A guest's memory as the module sees it: files of nodes on both sides of the PCI hole."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.boot import guest_memory
from dpamt.boot.guest_memory import FOUR_GIB, GuestMemory, NoSuchMemory, low_memory

GIB = 1 << 30


def test_where_q35_puts_its_memory() -> None:
    """QEMU's own e820 for 1, 2.75, 3 and 4 GiB."""
    assert low_memory(GIB) == GIB
    assert low_memory(0xB000_0000 - 1) == 0xB000_0000 - 1
    assert low_memory(0xB000_0000) == 2 * GIB
    assert low_memory(4 * GIB) == 2 * GIB


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 40 * 4096), st.binary(min_size=1, max_size=5000)), max_size=8
    ),
)
def test_it_is_one_memory_with_a_hole(pages: list[int], writes: list[tuple[int, bytes]]) -> None:
    """Against a plain array of bytes, the hole after the tenth page."""
    low = min(10 * 4096, sum(pages) * 4096)
    total = sum(pages) * 4096
    plain = bytearray(total)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest_memory, "low_memory", lambda size: min(size, 10 * 4096))
        files = []
        for node, count in enumerate(pages):
            path = Path(name) / str(node)
            path.write_bytes(bytes(count * 4096))
            files.append((path, count * 4096))
        memory = GuestMemory(files)
        starts = [0]
        for count in pages:
            starts.append(starts[-1] + count * 4096)
        for offset, data in writes:
            address = offset if offset < low else FOUR_GIB + offset - low
            end = offset + len(data)
            # One access lies on one node and one side of the hole.
            borders = [*starts[1:], low]
            inside = end <= total and not any(offset < border < end for border in borders)
            assert memory.has(address, len(data)) is inside
            if not inside:
                with pytest.raises(NoSuchMemory):
                    memory.write(address, data)
                continue
            memory.write(address, data)
            plain[offset:end] = data
            assert memory.read(address, len(data)) == data
        whole = b"".join(path.read_bytes() for path, _ in files)
        assert whole == bytes(plain)
        memory.write64(0, 0x0102030405060708)
        assert memory.read64(0) == 0x0102030405060708
        assert memory.read32(4) == 0x01020304
        memory.clear_pages(0, 1)
        assert memory.read(0, 4096) == bytes(4096)
        memory.close()


@pytest.mark.parametrize("address", [-8, 1 << 40, 1 << 63, 0xFFFF_FFFF_FFFF_FFF8, 4096 - 4])
def test_addresses_without_memory(address: int, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    memory = GuestMemory([(path, 4096)])
    with pytest.raises(NoSuchMemory, match="no memory at"):
        memory.read64(address)
    memory.close()
