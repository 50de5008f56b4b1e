import pytest

from dpamt.errors import InputError
from dpamt.platform.e820 import machine_from_e820
from dpamt.platform.machine import Cmr, MemoryBlock

OLD_PRINT = """\
# a PC with 8 GiB
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved

[    0.000000] BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved
[mem 0x0000000000100000-0x000000007ffdbfff] usable
[mem 0x000000007ffdc000-0x000000007fffffff] ACPI NVS
[mem 0x00000000b0000000-0x00000000bfffffff] persistent (type 12)
[mem 0x00000000fffc0000-0x00000000ffffffff] type 20
[mem 0x0000000100000000-0x000000027fffffff] usable
"""

NEW_PRINT = """\
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] System RAM
BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] device reserved
BIOS-e820: [gap 0x00000000000a0000-0x00000000000effff]
BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] device reserved
BIOS-e820: [mem 0x0000000000100000-0x000000007ffdbfff] System RAM
BIOS-e820: [mem 0x000000007ffdc000-0x000000007fffffff]  ACPI NVS
BIOS-e820: [gap 0x0000000080000000-0x00000000fffbffff]
BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] persistent RAM (type 12)
BIOS-e820: [mem 0x0000000100000000-0x000000027fffffff] System RAM\
"""


@pytest.mark.parametrize("text", [OLD_PRINT, NEW_PRINT, OLD_PRINT.replace("\n", "\r\n")])
def test_both_print_forms_of_linux_describe_the_same_machine(text: str) -> None:
    machine = machine_from_e820(text, "map")
    assert machine.memory == (
        MemoryBlock(1, 0x9F),
        MemoryBlock(0x100, 0x7FFDC),
        MemoryBlock(0x100000, 0x280000),
    )
    assert machine.cmrs == (Cmr(0x100000, 0x7FFDC000 - 0x100000), Cmr(1 << 32, 6 << 30))
    assert machine.max_pfn == 0x280000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "usable"),
        ("BIOS-e820:", "usable"),
        ("[mem 0x100000-0x1fffff]", "usable"),
        ("[mem 0x100000-0x1fffff] usabl", "usable"),
        ("[mem 0x100000-0x1ffff", "usable"),
        ("[mem 100000-1fffff] usable", "usable"),
        ("[mem 0x1fffff-0x100000] usable", "not below its first"),
        ("[mem 0x10000000000000-0x1fffffffffffff] usable", r"below 2\^52"),
        ("[mem 0x0000000000050000-0x000000000009ffff] reserved", "at or above 0x9fc00"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    text = f"[mem 0x0-0x9fbff] usable\n{line}\n[mem 0x1000000-0x1ffffff] usable\n"
    if line == "BIOS-e820:":
        machine_from_e820(text, "map")  # nothing after the marker is an empty line
        return
    with pytest.raises(InputError, match=f"^map:2: found .*expected.*{message}"):
        machine_from_e820(text, "map")


@pytest.mark.parametrize(
    "text", ["", "\n", "[mem 0x0-0x9fbff] usable\n", "[mem 0x100000-0x1fffff] reserved\n"]
)
def test_a_map_without_memory_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^map: no usable memory"):
        machine_from_e820(text, "map")
