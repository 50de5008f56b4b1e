"""Hosts and TDs of any shape that are small enough to be run."""

from hypothesis import strategies as st

from dpamt.plan.mix import TdMix
from dpamt.platform.machine import Machine
from dpamt.platform.read_machine import machine_from_text

MIB = 1 << 20


@st.composite
def hosts(draw: st.DrawFn) -> Machine:
    """A PC's memory with up to six pieces above 16 MiB: apart, side by side, off 2M borders."""
    lines = ["BIOS-e820: [mem 0x0000000000000000-0x000000000009efff] usable"]
    position = 1 * MIB
    size = draw(st.integers(48, 160)) * MIB
    for _ in range(draw(st.integers(1, 6))):
        lines.append(f"BIOS-e820: [mem {position:#018x}-{position + size - 1:#018x}] usable")
        position += size
        gap = draw(st.sampled_from([0x1000, 0x7000, 2 * MIB, 33 * MIB, 3 << 30, 200 << 30]))
        position += gap
        size = draw(st.integers(1, 30_000)) * 4096
    return machine_from_text("\n".join(lines) + "\n", "drawn")


@st.composite
def mixes(draw: st.DrawFn) -> list[TdMix]:
    """One or two kinds of TDs, 16 MiB of memory at most in all."""
    kinds = []
    for _ in range(draw(st.integers(1, 2))):
        memory = 2 * MIB * draw(st.integers(1, 4))
        count = draw(st.integers(1, 8 * MIB // memory))
        share = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.75, 1.0]))
        kinds.append(TdMix(count, memory, draw(st.integers(1, 3)), share))
    return kinds
