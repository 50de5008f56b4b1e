import pytest

from dpamt.errors import InputError
from dpamt.platform.iomem import machine_from_iomem
from dpamt.platform.machine import Cmr, MemoryBlock

IOMEM = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
  000a0000-000bffff : PCI Bus 0000:00
  000f0000-000fffff : System ROM
00100000-7ffdbfff : System RAM
  01000000-01ffffff : Kernel code
  02000000-027fffff : Kernel rodata
7ffdc000-7fffffff : ACPI Non-volatile Storage
80000000-fedfffff : PCI Bus 0000:00
  b0000000-bfffffff : PCI MMCONFIG 0000 [bus 00-ff]
fee00000-fee00fff : Local APIC
100000000-27fffffff : System RAM
  270000000-27fffffff : System RAM (kmem)
280000000-2ffffffff : Persistent Memory
"""


def test_only_top_level_ram_is_memory() -> None:
    machine = machine_from_iomem(IOMEM, "/proc/iomem")
    assert machine.memory == (
        MemoryBlock(1, 0x9F),
        MemoryBlock(0x100, 0x7FFDC),
        MemoryBlock(0x100000, 0x280000),
    )
    assert machine.cmrs == (Cmr(0x100000, 0x7FFDC000 - 0x100000), Cmr(1 << 32, 6 << 30))


def test_a_file_read_without_root_says_so() -> None:
    hidden = "".join(
        " " * (len(line) - len(line.lstrip())) + "00000000-00000000 :" + line.split(" :")[1] + "\n"
        for line in IOMEM.splitlines()
    )
    with pytest.raises(InputError, match=r"^/proc/iomem:2: .*without root.*sudo"):
        machine_from_iomem(hidden, "/proc/iomem")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "<first>-<last> : <name>"),
        ("0x100000-0x1fffff : System RAM", "<first>-<last> : <name>"),
        ("1fffff-100000 : System RAM", "not below its first"),
        ("00050000-0005ffff : System RAM", "at or above 0x9fc00"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    text = f"00001000-0009fbff : System RAM\n{line}\n100000000-27fffffff : System RAM\n"
    with pytest.raises(InputError, match=f"^map:2: found .*expected.*{message}"):
        machine_from_iomem(text, "map")


def test_a_file_cut_in_a_line_is_refused() -> None:
    lengths = range(IOMEM.index("100000000-"), len(IOMEM))
    refused = 0
    for length in lengths:
        cut = IOMEM[:length]
        if cut.rstrip(" ").endswith(("\n", ": System RAM")):
            machine_from_iomem(cut, "map")
            continue
        with pytest.raises(InputError):
            machine_from_iomem(cut, "map")
        refused += 1
    assert refused > 100
