from dataclasses import replace

import pytest

from dpamt.errors import InputError
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology

GIB = 1 << 30
PAGES = GIB >> 12


def host() -> Machine:
    return Machine(
        "box",
        (Cmr(1 << 20, GIB - (1 << 20)), Cmr(4 * GIB, 2 * GIB)),
        (
            MemoryBlock(1, 0x9F),
            MemoryBlock(0x100, PAGES),
            MemoryBlock(4 * PAGES, 5 * PAGES, 0),
            MemoryBlock(5 * PAGES, 6 * PAGES, 3),
        ),
        6 * PAGES,
    )


def test_derived_numbers() -> None:
    machine = host()
    assert machine.hkid_start_bit == 46
    assert machine.total_pages == 3 * PAGES - 0x100 + 0x9E
    assert machine.nodes == (0, 3)
    assert machine.notes == ()
    assert str(machine.cmrs[0]) == "[0x100000, 0x40000000)"


def test_memory_outside_the_cmrs_is_noted_once() -> None:
    machine = replace(host(), cmrs=(Cmr(4 * GIB, 2 * GIB),))
    assert len(machine.notes) == 1
    assert "[0x100000, 0x40000000)" in machine.notes[0]
    assert "TDX_TDMR_OUTSIDE_CMRS" in machine.notes[0]
    assert replace(machine, notes=machine.notes).notes == machine.notes


def test_touching_cmrs_count_as_one() -> None:
    cmrs = (Cmr(1 << 20, GIB - (1 << 20)), Cmr(4 * GIB, 4096 * 7), Cmr(4 * GIB + 4096 * 7, 2 * GIB))
    assert replace(host(), cmrs=cmrs).notes == ()
    gap = (*cmrs[:2], Cmr(4 * GIB + 4096 * 8, 2 * GIB))
    assert len(replace(host(), cmrs=gap).notes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cmrs": ()}, "0 CMRs; expected 1 to 32"),
        ({"cmrs": tuple(Cmr(i * GIB, 4096) for i in range(33))}, "33 CMRs; expected 1 to 32"),
        ({"cmrs": (Cmr(4096, 8192), Cmr(8192, 4096))}, "CMR 1 .*begins below 0x3000"),
        ({"cmrs": (Cmr(8192, 4096), Cmr(0, 4096))}, "CMR 1"),
        ({"cmrs": (Cmr(100, 4096),)}, "whole 4 KiB pages"),
        ({"cmrs": (Cmr(4096, 0),)}, "at least one"),
        ({"cmrs": (Cmr(0, 1 << 47),)}, "KeyID bits.*2\\^46"),
        ({"memory": ()}, "no memory"),
        ({"memory": (MemoryBlock(5, 5),)}, "non-empty range"),
        ({"memory": (MemoryBlock(5, 6, -1),)}, "node >= 0"),
        ({"memory": (MemoryBlock(5, 9), MemoryBlock(8, 10))}, "begins below 0x9000"),
        ({"max_pfn": 6 * PAGES - 1}, "max_pfn"),
        ({"max_pfn": 1 << 40}, "max_pfn"),
        ({"max_pa_bits": 53}, "32 to 52"),
        ({"keyid_bits": 0}, "1 to 15"),
        ({"private_keyids": (32, 65)}, r"private KeyID range \[32, 65\)"),
        ({"private_keyids": (32, 32)}, "private KeyID range"),
        ({"private_keyids": (0, 32)}, "private KeyID range"),
        ({"topology": Topology(0, 1)}, "at least one package"),
        ({"topology": Topology(4, 3)}, "one CPU in each"),
    ],
)
def test_impossible_machines_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^box: .*{message}"):
        replace(host(), **changes)  # type: ignore[arg-type]
