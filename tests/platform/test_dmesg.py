"""Kernel logs: real ones, put-together ones, and damaged ones."""

from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.platform.dmesg import machine_from_dmesg
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.read_machine import packaged_host

GIB = 1 << 30


def real_log(name: str) -> str:
    return (files("dpamt.platform") / "data" / f"{name}.dmesg").read_text()


def attempt(text: str) -> Machine | InputError:
    try:
        return machine_from_dmesg(text, "log")
    except InputError as error:
        return error


NUMA_LOG = """\
[    0.000000] Linux version 6.16.0 (x@y) #1 SMP
[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x00000000bfffffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x000000013fffffff] usable
[    0.000000] e820: update [mem 0x00000000-0x00000fff] usable ==> reserved
[    0.000000] e820: remove [mem 0x000a0000-0x000fffff] usable
[    0.000000] last_pfn = 0x140000 max_arch_pfn = 0x10000000000
[    0.003959] ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x0009ffff]
[    0.003960] ACPI: SRAT: Node 0 PXM 0 [mem 0x00100000-0x7fffffff]
[    0.003961] ACPI: SRAT: Node 1 PXM 1 [mem 0x80000000-0xbfffffff]
[    0.003961] ACPI: SRAT: Node 1 PXM 1 [mem 0x100000000-0x13fffffff]
[    0.003961] ACPI: SRAT: Node 0 PXM 0 [mem 0x100000000-0x27fffffff] hotplug
[    0.003962] NUMA: Node 0 [mem 0x00000000-0x0009ffff] + [mem 0x00100000-0x7fffffff] -> \
[mem 0x00000000-0x7fffffff]
[    0.003963] NUMA: Node 1 [mem 0x80000000-0xbfffffff] + [mem 0x100000000-0x13fffffff] -> \
[mem 0x80000000-0x13fffffff]
[    0.003965] NODE_DATA(0) allocated [mem 0x7fffc000-0x7fffffff]
[    0.004003] Early memory node ranges
[    0.004003]   node   0: [mem 0x0000000000001000-0x000000000009ffff]
[    0.004003]   node   0: [mem 0x0000000000100000-0x000000007fffffff]
[    0.004003]   node   1: [mem 0x0000000080000000-0x00000000bfffffff]
[    0.004003]   node   1: [mem 0x0000000100000000-0x000000013fffffff]
[    0.004003] Initmem setup node 0 [mem 0x0000000000001000-0x000000007fffffff]
[    0.100000] CPU topo: Max. logical packages:   2
[    0.500000] smp: Brought up 2 nodes, 96 CPUs
[    1.000000] virt/tdx: BIOS enabled: private KeyID range [64, 128)
[    1.000000] virt/tdx: Module version: 1.5.06
[    1.000000] virt/tdx: 20500 KB allocated for PAMT
[    1.000000] virt/tdx: TDX-Module initialized
"""

NUMA_MEMORY = (
    MemoryBlock(1, 0xA0, 0),
    MemoryBlock(0x100, 0x80000, 0),
    MemoryBlock(0x80000, 0xC0000, 1),
    MemoryBlock(0x100000, 0x140000, 1),
)


def without_lines(text: str, *words: str) -> str:
    return "".join(
        line for line in text.splitlines(keepends=True) if not any(word in line for word in words)
    )


def test_the_one_tib_host() -> None:
    machine = packaged_host("host-1tib")
    assert [cmr.size / GIB for cmr in machine.cmrs] == [1.8662109375, 253.90625] + [255.9375] * 3
    assert machine.cmrs[0] == Cmr(0x100000, 0x77700000)
    assert machine.cmrs[-1].end == 0x1007C000000 == machine.max_pfn << 12
    assert [(b.start_pfn << 12, b.end_pfn << 12) for b in machine.memory] == [
        (cmr.base, cmr.end) for cmr in machine.cmrs
    ]
    assert machine.private_keyids == (32, 64)
    assert machine.hkid_start_bit == 46
    assert machine.recorded_pamt_kib == 4202516
    assert machine.recorded_module_version == "1.5"
    assert machine.notes == ("no e820 lines: the memory blocks are the CMRs",)


def test_the_recorded_pamt_size_follows_from_the_one_tib_host() -> None:
    """16 bytes an entry at each level, TDMRs of whole GiB, each level rounded up to 4 KiB."""
    machine = packaged_host("host-1tib")
    total, top = 0, 0
    for block in machine.memory:
        start = max(block.start_pfn * 4096 // GIB, top)
        top = -(-block.end_pfn * 4096 // GIB)
        for level in (12, 21, 30):
            entries = (top - start) * GIB >> level
            total += -(-entries * 16 // 4096) * 4
    assert total == machine.recorded_pamt_kib


def test_the_host_whose_reserved_areas_ran_out() -> None:
    machine = packaged_host("reserved-areas")
    assert [cmr.end for cmr in machine.cmrs] == [
        0x6F800000, 0x107A000000, 0x207C000000, 0x307C000000, 0x407C000000
    ]  # fmt: skip
    low = [b for b in machine.memory if b.start_pfn < 0x80000]
    assert len(low) == 17
    assert len(machine.memory) == 17 + 4
    holes = sum(second.start_pfn > first.end_pfn for first, second in pairwise(low))
    assert holes == 16
    assert [b.end_pfn << 12 for b in machine.memory[17:]] == [cmr.end for cmr in machine.cmrs[1:]]
    assert len(machine.notes) == 1
    assert "0x90000000" in machine.notes[0]


def test_the_host_with_the_old_module() -> None:
    machine = packaged_host("module-too-old")
    assert machine.recorded_module_version == "1.0"
    assert machine.recorded_pamt_kib is None
    assert len(machine.cmrs) == 4


@pytest.mark.parametrize("prefix", ["", "<6>[    1.5] ", "Nov 22 13:31:00 box kernel: ", "[T1] "])
@pytest.mark.parametrize("name", ["host-1tib", "reserved-areas"])
def test_prefixes_do_not_matter(name: str, prefix: str) -> None:
    bare = (line.partition("] ")[2] if line.startswith("[ ") else line
            for line in real_log(name).splitlines())  # fmt: skip
    text = "".join(f"{prefix}{line}\r\n" for line in bare)
    assert machine_from_dmesg(text, name) == packaged_host(name)


def test_a_whole_boot_log() -> None:
    machine = machine_from_dmesg(NUMA_LOG, "log")
    assert machine.memory == NUMA_MEMORY
    assert machine.nodes == (0, 1)
    assert machine.topology == Topology(2, 96)
    assert machine.private_keyids == (64, 128)
    assert machine.keyid_bits == 7
    assert machine.recorded_module_version == "1.5.06"
    assert machine.recorded_pamt_kib == 20500
    assert machine.cmrs == (Cmr(0x100000, 0xBFF00000), Cmr(1 << 32, GIB))
    assert machine.max_pfn == 0x140000
    assert len(machine.notes) == 1


@pytest.mark.parametrize("words", [("  node ",), ("  node ", "SRAT"), ("e820", "last_pfn")])
def test_poorer_logs_give_the_same_memory(words: tuple[str, ...]) -> None:
    machine = machine_from_dmesg(without_lines(NUMA_LOG, *words), "log")
    assert machine.memory == NUMA_MEMORY
    assert machine.cmrs == (Cmr(0x100000, 0xBFF00000), Cmr(1 << 32, GIB))


def test_cmrs_take_their_nodes_from_the_srat() -> None:
    cmrs = "virt/tdx: CMR: [0x100000, 0xc0000000)\nvirt/tdx: CMR: [0x100000000, 0x140000000)\n"
    log = without_lines(NUMA_LOG, "e820", "  node ") + cmrs
    machine = machine_from_dmesg(log, "log")
    assert machine.memory == NUMA_MEMORY[1:]
    assert any("log cut" in note for note in machine.notes)


def test_max_pfn_is_the_highest_that_linux_printed() -> None:
    log = NUMA_LOG.replace("last_pfn = 0x140000", "last_pfn = 0x150000")
    log += "last_pfn = 0xc0000 max_arch_pfn = 0x10000000000\n"
    assert machine_from_dmesg(log, "log").max_pfn == 0x150000


def test_what_linux_takes_from_the_map_is_not_memory() -> None:
    log = without_lines(NUMA_LOG, "  node ").replace(
        "e820: remove", "e820: update [mem 0xb0000000-0xffffffff] usable ==> reserved\ne820: remove"
    )
    machine = machine_from_dmesg(log, "log")
    assert machine.memory[2] == MemoryBlock(0x80000, 0xB0000, 1)
    assert machine.cmrs[0].end == 0xC0000000


def test_overlapping_nodes_are_ignored_as_linux_does() -> None:
    log = without_lines(NUMA_LOG, "  node ", "NUMA")
    log += "ACPI: SRAT: Node 1 PXM 1 [mem 0x70000000-0x8fffffff]\n"
    machine = machine_from_dmesg(log, "log")
    assert machine.nodes == (0,)
    assert any("overlap" in note for note in machine.notes)


def test_memory_without_a_node_goes_to_node_zero() -> None:
    log = without_lines(NUMA_LOG, "  node ", "NUMA", "[mem 0x80000000-0xbfffffff]")
    machine = machine_from_dmesg(log, "log")
    assert machine.memory[1] == MemoryBlock(0x100, 0xC0000, 0)
    split = machine_from_dmesg(
        log + "SRAT: Node 1 PXM 1 [mem 0x120000000-0x12fffffff]\n"
        "BIOS-e820: [gap 0x0000000140000000-0x000000ffffffffff]\n",
        "log",
    )
    assert split == machine
    assert any("no NUMA node" in note for note in machine.notes)


def test_memory_outside_the_cmrs_is_noted() -> None:
    log = NUMA_LOG + "virt/tdx: CMR: [0x100000, 0x80000000)\n"
    notes = machine_from_dmesg(log, "log").notes
    assert sum("TDX_TDMR_OUTSIDE_CMRS" in note for note in notes) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("virt/tdx: CMR: [0x77700000, 0x90000000)", "line 4 ends"),
        ("virt/tdx: CMR: [0x100000, 0x77800000)", "0x77800000"),
        ("virt/tdx: CMR: [0x0, 0x1000)", "ascend and do not overlap"),
        ("virt/tdx: CMR: [0x90000000, 0x90000000)", "end is above its start"),
        ("virt/tdx: CMR: [0x90000000, 0x80000000)", "end is above its start"),
        ("virt/tdx: CMR: [0x90000000, 0x90000800)", "whole 4 KiB pages"),
        ("virt/tdx: CMR: [0x90000000, 0xa0000000]", "end exclusive"),
        ("virt/tdx: CMR: [0x90000000, 0xa00", "end exclusive"),
        ("virt/tdx: CMR: [0x90000000-0xa0000000)", "end exclusive"),
        ("virt/tdx: CMR: [0x90000000, 0x10000000000000)", r"below 2\^52"),
        ("virt/tdx: CMR:", "end exclusive"),
        ("BIOS-e820: [mem 0x0-0x9ffff] usabel", "usable"),
        ("BIOS-e820: [mem 0x0-0x9ff", "usable"),
        ("e820: update [mem 0x0-", "e820: update"),
        ("virt/tdx: BIOS enabled: private KeyID range [64, 32)", "first < end"),
        ("virt/tdx: BIOS enabled: private KeyID range [x, 32)", "first < end"),
        ("virt/tdx: many KB allocated for PAMT", "<n> KB"),
        ("virt/tdx: Module version: x", "<major>"),
        ("virt/tdx: TDX module: attributes 0x0, major_version x", "minor_version"),
        ("ACPI: SRAT: Node 0 PXM 0 [mem 0x0-0x9ff", "SRAT: Node"),
        ("NUMA: Node 0 [mem 0x0-", "NUMA: Node"),
        ("  node   0: [mem 0x9000-0x8fff]", "not below its first"),
        ("  node   0: [mem 0x9000-0x90ff]", "whole 4 KiB"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    lines = real_log("host-1tib").splitlines()
    lines.insert(4, "[  245.0] " + line)
    with pytest.raises(InputError, match=f"^log:5: found .*expected .*{message}") as caught:
        machine_from_dmesg("\n".join(lines) + "\n", "log")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_of_two_boots_the_last_is_read() -> None:
    second = NUMA_LOG.replace("20500 KB", "20504 KB")
    machine = machine_from_dmesg(NUMA_LOG + second, "log")
    assert machine.memory == NUMA_MEMORY
    assert machine.recorded_pamt_kib == 20504
    count = len(NUMA_LOG.splitlines())
    assert f"read is the last, lines {count + 1} to {2 * count}" in machine.notes[0]


def test_a_boot_without_a_mark_is_told_by_what_is_printed_once() -> None:
    log = real_log("host-1tib")
    machine = machine_from_dmesg(log + log, "log")
    assert machine.cmrs == packaged_host("host-1tib").cmrs
    assert "holds 2 boots" in machine.notes[0]


def test_a_last_boot_without_memory_keeps_its_own_failure() -> None:
    failed = "virt/tdx: module not loaded\nvirt/tdx: module initialization failed (-19)\n"
    machine = machine_from_dmesg(f"{real_log('host-1tib')}-- Reboot --\n{failed}", "log")
    assert machine.log is not None
    assert machine.log.came_up is False
    assert machine.log.why is not None
    assert machine.log.why.cause.key == "no-module"
    assert "number 1, the last with memory" in machine.notes[0]


@pytest.mark.parametrize("text", ["", "hello", "hello\nworld\n", "virt/tdx: module initialized\n"])
def test_a_log_without_memory_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^log: no memory; expected"):
        machine_from_dmesg(text, "log")


@pytest.mark.parametrize("log", [real_log("host-1tib"), real_log("reserved-areas"), NUMA_LOG])
def test_a_log_cut_in_the_middle_of_a_line_is_refused(log: str) -> None:
    """At every length: either the last line is whole, or the cut is reported with its line."""
    start = log.index("virt/tdx: CMR" if "CMR" in log else "BIOS-e820")
    accepted = 0
    for length in range(start, len(log)):
        cut = log[:length]
        last = cut.rpartition("\n")[2]
        machine = attempt(cut)
        if isinstance(machine, InputError):
            number = cut.count("\n") + 1
            assert last or "no memory" in str(machine)
            assert str(machine).startswith((f"log:{number}: ", "log: no memory"))
            continue
        whole = log[length - len(last) :].partition("\n")[0]
        assert not last or last == whole
        assert machine.memory
        accepted += 1
    assert accepted < len(log.splitlines()) * 2 + 2


rests = st.text("0123456789abcdefx[]-(),. mM") | st.text()
marked = st.sampled_from(
    ["virt/tdx: CMR:", "BIOS-e820:", "e820: update ", "SRAT: Node ", "NUMA: Node ",
     "node   0: [mem ",
     "private KeyID range ", "KB allocated for PAMT", "virt/tdx: Module version: ",
     "virt/tdx: TDX module: attributes ", "last_pfn = 0x", "Brought up 2 nodes, ", "[mem 0x"]
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.just("") | marked, rests),
        max_size=8,
    ),
    st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_garbage_never_raises_anything_but_input_error(
    garbage: list[tuple[str, str, str]], position: int
) -> None:
    lines = real_log("host-1tib").splitlines(keepends=True)
    lines.insert(position, "".join("".join(parts) + "\n" for parts in garbage))
    machine = attempt("".join(lines))
    if isinstance(machine, InputError):
        assert str(machine).startswith("log")
        assert "\n" not in str(machine)
    else:
        assert machine.cmrs


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 1 << 20)), min_size=1, max_size=32),
    st.integers(1, 31),
    st.integers(1, 1 << 30),
)
def test_printed_machines_read_back(
    layout: list[tuple[int, int]], first_keyid: int, pamt: int
) -> None:
    cmrs, position = [], 0x100
    for gap, pages in layout:
        cmrs.append(Cmr((position + gap) << 12, pages << 12))
        position += gap + pages
    log = f"virt/tdx: BIOS enabled: private KeyID range [{first_keyid}, 64)\n"
    log += "".join(f"virt/tdx: CMR: [{cmr.base:#x}, {cmr.end:#x})\n" for cmr in cmrs)
    log += f"virt/tdx: {pamt} KB allocated for PAMT\n"
    machine = machine_from_dmesg(log, "log")
    assert list(machine.cmrs) == cmrs
    assert machine.total_pages == sum(pages for _, pages in layout)
    assert machine.private_keyids == (first_keyid, 64)
    assert machine.recorded_pamt_kib == pamt
