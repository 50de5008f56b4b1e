import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.platform.machine import Topology
from dpamt.platform.size import looks_like_size, machine_from_size, parse_size

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64GiB", 64 * GIB),
        ("512G", 512 * GIB),
        ("1TiB", 1024 * GIB),
        ("1.5TiB", 1536 * GIB),
        ("16m", 16 * MIB),
        ("0.25 GiB", 256 * MIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert looks_like_size(text)
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "64GB",
        "GiB",
        "-1GiB",
        "1e3GiB",
        "1.0000001GiB",
        "15MiB",
        "16.5MiB",
        "33TiB",
        "64 GiBs",
    ],
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory size"):
        parse_size(text)


@given(mib=st.integers(16, 4 << 20), nodes=st.integers(1, 64))
def test_the_map_has_the_size_and_its_nodes(mib: int, nodes: int) -> None:
    if mib < 4 * nodes:
        with pytest.raises(InputError, match="nodes="):
            machine_from_size(f"{mib}MiB,nodes={nodes}")
        return
    machine = machine_from_size(f"{mib}MiB,nodes={nodes}")
    # What is missing: the first page, and 0x9f000 to 1 MiB.
    assert machine.total_pages == mib * 256 - 1 - (0x100 - 0x9F)
    assert machine.nodes == tuple(range(nodes))
    assert machine.notes == ()
    top = mib * MIB if mib <= 2048 else mib * MIB + 2 * GIB
    assert machine.max_pfn << 12 == top == machine.cmrs[-1].end
    assert sum(cmr.size for cmr in machine.cmrs) == (mib - 1) * MIB
    assert machine.topology == Topology(nodes, 4 * nodes)
    sizes = [sum(b.pages for b in machine.memory if b.nid == nid) for nid in machine.nodes]
    assert len(set(sizes[1:-1])) <= 1
    for block in machine.memory:
        assert not 2 * GIB <= block.start_pfn << 12 < 4 * GIB


def test_a_second_node_above_512_gib() -> None:
    assert machine_from_size("512GiB").nodes == (0,)
    assert machine_from_size("513GiB").nodes == (0, 1)
    assert machine_from_size("513GiB", nodes=1).nodes == (0,)


def test_options_and_parameters() -> None:
    machine = machine_from_size("64GiB,nodes=4,packages=2,cpus=96")
    assert machine.nodes == (0, 1, 2, 3)
    assert machine.topology == Topology(2, 96)
    assert machine_from_size("64GiB,nodes=4", nodes=2, packages=1, cpus=3).topology == Topology(
        1, 3
    )


@pytest.mark.parametrize(
    "argument",
    ["64GiB,", "64GiB,nodes", "64GiB,nodes=x", "64GiB,nodes=1,nodes=1", "64GiB,color=1",
     "64GiB,nodes=0", "64GiB,nodes=65", "64GiB,cpus=0", "64GiB,packages=0"],
)  # fmt: skip
def test_bad_options_are_refused(argument: str) -> None:
    with pytest.raises(InputError, match="expected"):
        machine_from_size(argument)
