"""Boot: what real hosts printed, every way to fail, and giving everything back."""

from dataclasses import replace

import pytest

from dpamt.abi.cpuid import CPUID_CONFIG
from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, TDH_SYS_CONFIG, TDH_SYS_INIT, TDH_SYS_RD
from dpamt.abi.metadata import (
    MODULE_HV,
    PAMT_PAGE_BITMAP_ENTRY_BITS,
    TDX_FEATURES0_DYNAMIC_PAMT,
    TDX_FEATURES0_NO_RBP_MOD,
    TDX_FEATURES0_TD_PRESERVING,
)
from dpamt.abi.pages import PAGES_PER_1G, SIZE_1G
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_RND_NO_ENTROPY
from dpamt.host.core.kernel import KernelBehaviour, KernelOops
from dpamt.host.core.meminfo import pamt_account
from dpamt.host.core.refcounts import SITE_REFCOUNTS
from dpamt.module.releases import RELEASES
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.read_machine import packaged_host
from tests.host.rig import ALL_DESIGNS, Host, booted, small_machine

NEWEST = RELEASES["2.0.18"]
OLDER = replace(NEWEST, features0=NEWEST.features0 & ~TDX_FEATURES0_DYNAMIC_PAMT)


def machine_of_gib(*sizes: int) -> Machine:
    """One node; blocks of whole GiB with a hole of 1 GiB between them, the first from 1 GiB on."""
    blocks, position = [], PAGES_PER_1G
    for size in sizes:
        blocks.append(MemoryBlock(position, position + size * PAGES_PER_1G))
        position += (size + 1) * PAGES_PER_1G
    cmrs = tuple(Cmr(block.start_pfn << 12, block.pages << 12) for block in blocks)
    return Machine("blocks", cmrs, tuple(blocks), blocks[-1].end_pfn)


@pytest.mark.parametrize(("design", "kib"), [("static", 4202516), ("merged", 40980)])
def test_the_one_tib_host_allocates_what_it_printed(design: str, kib: int) -> None:
    machine = packaged_host("host-1tib")
    host = Host(machine, design)
    steps: list[tuple[str, int, int]] = []
    host.kernel.progress = lambda *step: steps.append(step)
    assert host.boot() == 0
    assert [tdmr.size // SIZE_1G for tdmr in host.kernel.tdmrs] == [2, 254, 256, 256, 256]
    assert f"virt/tdx: {kib} KB allocated for PAMT" in host.log
    assert host.log[-1] == "virt/tdx: TDX-Module initialized"
    assert steps == [("TDMR.INIT", done, 1024) for done in range(1, 1025)]
    if design == "static":
        assert machine.recorded_pamt_kib == kib


@pytest.mark.parametrize(
    ("design", "sizes", "kib"),
    [("static", (20, 40, 4), 262668), ("merged", (100, 2, 150), 10092)],
)
def test_figures_in_the_kernels_documentation(
    design: str, sizes: tuple[int, ...], kib: int
) -> None:
    host = Host(machine_of_gib(*sizes), design)
    assert host.boot() == 0
    assert f"virt/tdx: {kib} KB allocated for PAMT" in host.log


def test_reserved_areas_run_out_between_memory_blocks_but_not_between_cmrs() -> None:
    machine = packaged_host("reserved-areas")
    host = Host(machine, "static")
    assert host.boot() == -28
    exhausted = "initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted."
    assert host.log[-2:] == [
        f"virt/tdx: {exhausted}",
        "virt/tdx: TDX-Module initialization failed (-28)",
    ]
    assert host.after_boot == host.at_power_on
    assert Host(machine, "static", KernelBehaviour(tdmr_holes="cmrs")).boot() == 0


def test_the_log_of_a_boot_with_dynamic_pamt() -> None:
    host = booted("merged")
    assert host.log == [
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "virt/tdx: Module version: 2.0.18",
        "virt/tdx: Enable Dynamic PAMT",
        "virt/tdx: 44 KB allocated for PAMT",  # 32 + 8 + 4 of its only TDMR
        "virt/tdx: TDX-Module initialized",
    ]


@pytest.mark.parametrize("design", ["static", "merged"])
def test_an_older_module_gets_static_pamt(design: str) -> None:
    host = booted(design, release=OLDER)
    assert not host.kernel.dynamic_pamt
    assert not any("Dynamic" in line for line in host.log)
    assert pamt_account(host.kernel).refcounts == 0
    assert f"virt/tdx: {4096 + 8 + 4} KB allocated for PAMT" in host.log


def test_v2_crashes_on_an_older_module() -> None:
    with pytest.raises(KernelOops, match="NULL pointer"):
        booted("v2", release=OLDER)


def test_a_module_that_clobbers_rbp_is_refused() -> None:
    release = replace(NEWEST, features0=NEWEST.features0 & ~TDX_FEATURES0_NO_RBP_MOD)
    host = Host(small_machine(), release=release)
    assert host.boot() == -22
    assert "frame pointer (RBP) clobber bug present, upgrade TDX module" in host.log[-2]


def test_fields_that_only_some_modules_have_are_read_only_there() -> None:
    updatable = replace(NEWEST, features0=NEWEST.features0 | TDX_FEATURES0_TD_PRESERVING)
    for design, release, fields in (
        ("static", NEWEST, []),
        ("merged", NEWEST, [PAMT_PAGE_BITMAP_ENTRY_BITS.id]),
        ("merged", OLDER, []),
        ("static", updatable, []),
    ):
        host = Host(small_machine(), design, release=release)
        call: SeamCall = host.cpu.seamcall
        read: list[int] = []

        def seamcall(
            rax: int, args: TdxModuleArgs, call: SeamCall = call, read: list[int] = read
        ) -> int:
            if rax == TDH_SYS_RD:
                read.append(args.rdx)
            return call(rax, args)

        host.cpu.seamcall = seamcall
        assert host.boot() == 0
        assert len(read) == len(set(read)) == 18 + 3 * len(CPUID_CONFIG) + len(fields)
        assert set(read) & {MODULE_HV.id, PAMT_PAGE_BITMAP_ENTRY_BITS.id} == set(fields)


def test_wide_physical_addresses() -> None:
    machine = replace(small_machine(), keyid_bits=3, private_keyids=(4, 8))
    assert machine.hkid_start_bit == 49
    host = Host(machine)
    assert host.boot() == -5
    assert host.after_boot == host.at_power_on
    careful = Host(
        machine, behaviour=KernelBehaviour(dynamic_pamt_check="feature-bit-and-pa-width")
    )
    assert careful.boot() == 0
    assert not careful.kernel.dynamic_pamt


def test_memory_outside_the_cmrs_is_refused_by_the_module() -> None:
    whole = small_machine()
    host = Host(replace(whole, cmrs=(Cmr(1 << 20, 1022 << 20),)))
    assert host.boot() == -5
    assert "SEAMCALL (0x000000000000002d) failed: 0xc0000a02" in host.log[-2]
    assert host.after_boot == host.at_power_on


def test_too_many_tdmrs_and_too_few_left() -> None:
    # A node for each block keeps each PAMT in its own TDMR, so that reserved areas do not run out.
    blocks = tuple(
        MemoryBlock(gib * 2 * PAGES_PER_1G, gib * 2 * PAGES_PER_1G + 1024, gib)
        for gib in range(1, 66)
    )
    cmrs = (Cmr(SIZE_1G, 199 * SIZE_1G),)
    many = Machine("many", cmrs, blocks, blocks[-1].end_pfn)
    full = Host(many, "merged")
    assert full.boot() == -28
    assert full.log[-2] == "virt/tdx: initialization failed: TDMRs exhausted."
    assert full.after_boot == full.at_power_on
    tight = Host(replace(many, memory=blocks[:62], max_pfn=blocks[61].end_pfn), "merged")
    assert tight.boot() == 0
    assert "virt/tdx: consumed TDMRs reaching limit: 62 used out of 64" in tight.log


def allocations_of_a_boot(design: str) -> int:
    host = Host(small_machine(), design)
    assert host.boot() == 0
    return host.allocator.allocations


@pytest.mark.parametrize("design", ALL_DESIGNS)
def test_every_allocation_of_a_boot_may_fail(design: str) -> None:
    count = allocations_of_a_boot(design)
    assert count >= 3
    for failing in range(count):
        host = Host(small_machine(), design)
        host.allocator.fail_when = lambda _site, ordinal, failing=failing: ordinal == failing
        assert host.boot() == -12
        assert host.log[-1] == "virt/tdx: TDX-Module initialization failed (-12)"
        assert host.after_boot == host.at_power_on
        assert host.memory.resident_pages == 0


@pytest.mark.parametrize("design", ["static", "merged"])
def test_every_seamcall_of_a_boot_may_fail(design: str) -> None:
    """All but the tail of the TDMR.INIT loop, whose calls are alike."""
    machine = small_machine(packages=2, cpus=4)
    for failing in range(10_000):
        host = Host(machine, design)
        made: list[int] = []
        for cpu in host.kernel.cpus:
            cpu.seamcall = failing_at(cpu.seamcall, failing, made)
        error = host.boot()
        if len(made) > failing:
            leaf = made[failing] & RAX_LEAF_MASK
            assert error == -5, LEAF_NAMES[leaf]
            assert any(f"({leaf:#018x}) failed: {TDX_OPERAND_BUSY:#018x}" in x for x in host.log)
        assert host.after_boot == host.at_power_on or error == 0
        if error == 0 or made.count(36) > 3:
            break
    assert {TDH_SYS_INIT, TDH_SYS_RD, TDH_SYS_CONFIG, 31, 36} <= set(made)


def failing_at(call, failing: int, made: list[int]):  # type: ignore[no-untyped-def]
    """The real wall, except that one call meets a lock held by nobody we know."""

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        made.append(rax)
        if len(made) == failing + 1:
            return TDX_OPERAND_BUSY
        status: int = call(rax, args)
        return status

    return seamcall


@pytest.mark.parametrize(("dry", "error"), [(9, 0), (10, -5)])
def test_no_entropy_is_retried_nine_times(dry: int, error: int) -> None:
    host = Host(small_machine())
    call = host.cpu.seamcall
    made: list[int] = []

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax == TDH_SYS_CONFIG:
            made.append(rax)
            if len(made) <= dry:
                return TDX_RND_NO_ENTROPY
        return call(rax, args)

    host.cpu.seamcall = seamcall
    assert host.boot() == error
    assert len(made) == 10


def test_every_package_is_given_the_key() -> None:
    host = Host(small_machine(packages=4, cpus=8))
    assert host.boot() == 0
    assert [cpu.index for cpu in host.kernel.package_cpus()] == [0, 2, 4, 6]


def test_refcounts_cover_the_last_partial_region() -> None:
    blocks = (MemoryBlock(256, 1024 * 512 + 100),)
    machine = Machine("2 GiB and a bit", (Cmr(1 << 20, 3 << 30),), blocks, blocks[0].end_pfn)
    host = Host(machine)
    assert host.boot() == 0
    assert len(host.kernel.refcount_pages) == 2
    last = blocks[0].end_pfn - 1
    assert host.kernel.tdx_pamt_get(host.kernel, host.cpu, last, None) == 0
    # The June 2025 posting truncates, and has no memory behind that counter.
    truncating = Host(machine, "v2")
    assert truncating.boot() == 0
    with pytest.raises(KernelOops, match="counter 1024"):
        truncating.kernel.tdx_pamt_get(truncating.kernel, truncating.cpu, last, None)


def test_v2_has_no_counter_for_a_page_alone_at_the_start_of_a_counter_page() -> None:
    blocks = (MemoryBlock(256, 0x10000), MemoryBlock(0x80000, 0x80001))
    machine = Machine("lone page", (Cmr(1 << 20, 3 << 30),), blocks, 0x80001)
    host = Host(machine, "v2")
    assert host.boot() == 0
    with pytest.raises(KernelOops):
        host.kernel.tdx_pamt_get(host.kernel, host.cpu, 0x80000, None)


def test_v2_loses_the_counters_it_populated_beyond_its_area() -> None:
    blocks = (MemoryBlock(256, 1024 * 512 + 511),)
    machine = Machine("one too far", (Cmr(1 << 20, 3 << 30),), blocks, blocks[0].end_pfn)
    host = Host(machine, "v2")
    host.allocator.fail_when = lambda site, _ordinal: site not in (SITE_REFCOUNTS,)
    assert host.boot() == -12
    assert sum(end - start for _, ranges in host.at_power_on for start, end in ranges) == (
        host.allocator.free_count + 1
    )


def test_topology_does_not_change_pamt() -> None:
    machine = replace(small_machine(), topology=Topology(2, 8))
    one, two = booted(), Host(machine)
    assert two.boot() == 0
    assert pamt_account(one.kernel) == pamt_account(two.kernel)
