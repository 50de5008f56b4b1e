"""A guest that means harm, in the real QEMU: dpamt neither crashes nor hangs nor grows."""

import shutil
from pathlib import Path
from random import Random

import pytest

from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import (
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_LP_INIT,
    TDH_SYS_TDMR_INIT,
)
from dpamt.abi.pages import PAGE_SIZE, SIZE_1G
from dpamt.abi.status import TDX_SUCCESS
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, TdmrInfo
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot
from dpamt.boot.stub import SLOT_BYTES
from tests.boot.hostile_guest import entry, hostile_kernel, raw_entry

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU on this machine"
)

MEMORY = 256 << 20
LOG = "".join(
    f"[    0.000000] BIOS-e820: [mem {first:#018x}-{last:#018x}] usable\n"
    for first, last in ((0, 0x9FBFF), (1 << 20, MEMORY - 1))
)
TDMRS_AT = 0x4000000
PAMT_AT = 0x8000000
KEYID = 32
TDMR = TdmrInfo(
    0,
    SIZE_1G,
    PAMT_AT,
    PAGE_SIZE,
    PAMT_AT + PAGE_SIZE,
    2 * PAGE_SIZE,
    PAMT_AT + 3 * PAGE_SIZE,
    8 * PAGE_SIZE,
    [(0, 1 << 20), (PAMT_AT, 1 << 20), (MEMORY, SIZE_1G - MEMORY)],
)
NOWHERE_AT = TDMRS_AT + PAGE_SIZE
CONFIGURATION = (
    (TDMRS_AT, (TDMRS_AT + 512).to_bytes(8, "little").ljust(512, b"\0") + TDMR.pack()),
    (NOWHERE_AT, (MEMORY + 512).to_bytes(8, "little") * 64),
)
INITIALISE = [
    entry(TDH_SYS_INIT, (0,)),
    entry(TDH_SYS_LP_INIT, ()),
    entry(TDH_SYS_CONFIG, (TDMRS_AT, 1, KEYID | SYS_CONFIG_DYNAMIC_PAMT)),
    entry(TDH_SYS_KEY_CONFIG, ()),
    entry(TDH_SYS_TDMR_INIT, (0,)),
]


def run(path: Path, entries: list[bytes], times: int = 1, seconds: float = 60.0) -> Booted:
    kernel = hostile_kernel(path / "vmlinux", LOG, entries, times, CONFIGURATION)
    return boot(BootOptions(kernel, cpus=1, memory=MEMORY, timeout=seconds))


def pointer(random: Random) -> int:
    """An operand: memory, no memory, no address at all."""
    page = random.randrange(MEMORY >> 12) << 12
    return random.choice(
        (
            page,
            page | random.randrange(4096),
            MEMORY + page,
            page | KEYID << 46,
            random.getrandbits(52),
            random.getrandbits(64),
            (1 << 64) - 1,
            random.randrange(8),
        )
    )


def calls(random: Random, count: int) -> list[bytes]:
    leaves = [*LEAF_OPERANDS, 0x3FF, 1 << 31, 33 | 1 << 16, 6 | 5 << 16]
    return [
        entry(random.choice(leaves), tuple(pointer(random) for _ in range(8))) for _ in range(count)
    ]


def test_it_initialises_the_module_by_hand(tmp_path: Path) -> None:
    """What the tests below begin with does work."""
    found = run(tmp_path, INITIALISE)
    assert [call.status for call in found.calls] == [TDX_SUCCESS] * len(INITIALISE)
    assert found.tdmr_infos == [TDMR.pack()]
    assert found.ended == "reset"


@pytest.mark.parametrize("initialise", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_garbage_operands_of_every_leaf(seed: int, initialise: bool, tmp_path: Path) -> None:
    garbage = calls(Random(seed), 1500)
    found = run(tmp_path, [*INITIALISE, *garbage] if initialise else garbage)
    assert found.ended == "reset", found.findings
    assert found.counts.total() == len(garbage) + len(INITIALISE) * initialise
    assert sum(count for (_, status), count in found.counts.items() if status) > 1000


@pytest.mark.parametrize("pointers", ["array", "entries"])
def test_a_configuration_that_points_nowhere(pointers: str, tmp_path: Path) -> None:
    """The array of pointers, or what it points to, is beyond memory."""
    array = MEMORY + TDMRS_AT if pointers == "array" else NOWHERE_AT
    bad = entry(TDH_SYS_CONFIG, (array, 64, KEYID))
    found = run(tmp_path, [*INITIALISE[:2], bad])
    assert found.ended == "reset", found.findings
    assert found.calls[-1].status != TDX_SUCCESS
    assert any("no memory" in finding for finding in found.findings)


def test_a_flood(tmp_path: Path) -> None:
    """No call is lost, and memory does not follow their number."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = run(tmp_path, calls(Random(7), 100), times=300, seconds=120.0)
    assert found.ended == "reset", found.findings
    assert found.counts.total() == 30_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_corrupted_mailbox(tmp_path: Path) -> None:
    """Random bytes over the slots, states and site numbers included."""
    random = Random(3)
    entries = [raw_entry(random.randbytes(SLOT_BYTES), random.randrange(4)) for _ in range(300)]
    entries += [raw_entry(b"\1\0\0\0" + random.randbytes(SLOT_BYTES - 4), 0) for _ in range(300)]
    found = run(tmp_path, [*INITIALISE, *entries])
    assert found.ended == "reset", found.findings
    assert found.counts.total() >= len(INITIALISE)


def test_a_guest_that_never_ends_is_stopped(tmp_path: Path) -> None:
    found = run(tmp_path, INITIALISE, times=0, seconds=3.0)  # 2^32 times
    assert found.ended == "timeout"
    assert any("not at its end" in finding for finding in found.findings)
    assert found.seconds < 30
    assert len(found.stacks) == 1
    assert found.stacks[0].startswith("CPU 0: ")
