import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import ModelError
from dpamt.platform.physical_memory import Memory, PhysicalMemory

BASE = (1 << 45) - 8192

writes = st.lists(
    st.tuples(st.integers(0, 16384), st.binary(max_size=9000) | st.integers(0, (1 << 64) - 1))
)


@given(writes, st.integers(0, 7))
def test_memory_is_a_flat_array_of_bytes(
    operations: list[tuple[int, bytes | int]], page: int
) -> None:
    memory: Memory = PhysicalMemory()
    flat = bytearray(32768)
    for offset, data in operations:
        if isinstance(data, int):
            memory.write64(BASE + offset, data)
            data = data.to_bytes(8, "little")
        else:
            memory.write(BASE + offset, data)
        flat[offset : offset + len(data)] = data
    assert memory.read(BASE, 32768) == flat
    for offset, data in operations:
        assert memory.read64(BASE + offset) == int.from_bytes(flat[offset : offset + 8], "little")
        size = len(data) if isinstance(data, bytes) else 8
        assert memory.read(BASE + offset, size) == flat[offset : offset + size]
    memory.clear_page((BASE >> 12) + page)
    flat[page * 4096 : page * 4096 + 4096] = bytes(4096)
    assert memory.read(BASE, 32768) == flat


def test_reading_costs_no_memory_and_clearing_gives_it_back() -> None:
    memory = PhysicalMemory()
    assert memory.read(12345, 100000) == bytes(100000)
    assert memory.read64(4090) == 0
    assert memory.resident_pages == 0
    memory.write64(4092, 1 << 40)
    assert memory.resident_pages == 2
    memory.clear_page(1)
    assert memory.resident_pages == 1


@pytest.mark.parametrize("address", [-1, (1 << 52) - 4, 1 << 60])
def test_addresses_outside_52_bits_are_a_model_error(address: int) -> None:
    memory = PhysicalMemory()
    with pytest.raises(ModelError):
        memory.read(address, 8)
    with pytest.raises(ModelError):
        memory.read64(address)
    with pytest.raises(ModelError):
        memory.write(address, bytes(8))
    with pytest.raises(ModelError):
        memory.write64(address, 1)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_quadwords_have_64_bits(value: int) -> None:
    with pytest.raises(ModelError, match="64-bit"):
        PhysicalMemory().write64(0, value)
