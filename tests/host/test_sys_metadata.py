"""The global metadata that the kernel reads, of a module that answers each id with a number."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.core.metadata import TdxSysInfo, get_tdx_sys_info, read_module_hv, read_version
from dpamt.platform.machine import Cmr
from tests.host.rig import Host, small_machine

DATA = Path(__file__).parent.parent / "data"
TABLES: dict[str, Any] = json.loads((DATA / "tdx-module-tables.json").read_text())
IDS = {name: int(known["id"], 16) for name, known in TABLES["metadata_fields"].items()}
DYNAMIC = 1 << TABLES["features0_bits"]["DYNAMIC_PAMT"]
SYS_RD = TABLES["leaves"]["TDH.SYS.RD"]
CPUIDS = 5
FAILED = 0xC0000C0000000000


class Answers:
    """SYS.RD of a module whose fields all hold another number."""

    def __init__(self, features0: int, cmrs: int = 0, fail_at: int = -1) -> None:
        self.read: list[int] = []
        self.fail_at = fail_at
        self.values = {
            IDS["TDX_FEATURES0"]: features0,
            IDS["NUM_CPUID_CONFIG"]: CPUIDS,
            IDS["NUM_CMRS"]: cmrs,
        }

    def value(self, field_id: int) -> int:
        return self.values.get(field_id, field_id % 9973 * 4096 + field_id % 97)

    def seamcall(self, rax: int, args: TdxModuleArgs) -> int:
        assert rax == SYS_RD
        self.read.append(args.rdx)
        if len(self.read) - 1 == self.fail_at:
            args.rcx, args.r9, args.r10, args.r11 = 3, 9, 10, 11
            args.r8 = 8
            return FAILED
        args.r8 = self.value(args.rdx)
        return 0


def expected_ids(dynamic: bool, cmrs: int) -> list[int]:
    """Linux's order: the recorded list, each CPUID leaf and then each pair of values."""
    single = [name for name in TABLES["linux_reads"] if not name.startswith("CPUID_CONFIG")]
    if not dynamic:
        single.remove("PAMT_PAGE_BITMAP_ENTRY_BITS")
    leaves = [IDS["CPUID_CONFIG_LEAVES"] + at for at in range(CPUIDS)]
    values = [IDS["CPUID_CONFIG_VALUES"] + at for at in range(2 * CPUIDS)]
    ids = [*(IDS[name] for name in single), *leaves, *values]
    if cmrs:
        ids.append(IDS["NUM_CMRS"])
        for at in range(cmrs):
            ids += [IDS["CMR_BASE"] + at, IDS["CMR_SIZE"] + at]
    return ids


def host_of(answers: Answers, design: str = "merged", holes: str = "blocks") -> Host:
    behaviour = replace(KernelBehaviour(), tdmr_holes=holes)  # type: ignore[arg-type]
    host = Host(small_machine(48), design, behaviour)
    host.cpu.seamcall = answers.seamcall
    return host


@pytest.mark.parametrize(
    ("design", "features0", "dynamic"),
    [
        ("merged", DYNAMIC, True),
        ("merged", ~DYNAMIC & (1 << 64) - 1, False),
        ("static", DYNAMIC, False),
    ],
)
def test_each_field_is_read_where_linux_reads_it(
    design: str, features0: int, dynamic: bool
) -> None:
    answers = Answers(features0)
    host = host_of(answers, design)
    assert get_tdx_sys_info(host.kernel, host.cpu) == 0
    assert answers.read == expected_ids(dynamic, 0)
    info = host.kernel.sysinfo
    assert info is not None
    of = {name: answers.value(number) for name, number in IDS.items()}
    bits = of["PAMT_PAGE_BITMAP_ENTRY_BITS"] if dynamic else 0
    first, values = IDS["CPUID_CONFIG_LEAVES"], IDS["CPUID_CONFIG_VALUES"]
    entries = tuple(
        (
            answers.value(first + at),
            answers.value(values + 2 * at),
            answers.value(values + 2 * at + 1),
        )
        for at in range(CPUIDS)
    )
    assert info == TdxSysInfo(
        minor=of["MINOR_VERSION"],
        major=of["MAJOR_VERSION"],
        update=of["UPDATE_VERSION"],
        features0=features0,
        max_tdmrs=of["MAX_TDMRS"],
        max_reserved_per_tdmr=of["MAX_RESERVED_PER_TDMR"],
        pamt_4k_entry_size=of["PAMT_4K_ENTRY_SIZE"],
        pamt_2m_entry_size=of["PAMT_2M_ENTRY_SIZE"],
        pamt_1g_entry_size=of["PAMT_1G_ENTRY_SIZE"],
        tdr_base_size=of["TDR_BASE_SIZE"],
        tdcs_base_size=of["TDCS_BASE_SIZE"],
        tdvps_base_size=of["TDVPS_BASE_SIZE"],
        attributes_fixed0=of["ATTRIBUTES_FIXED0"],
        attributes_fixed1=of["ATTRIBUTES_FIXED1"],
        xfam_fixed0=of["XFAM_FIXED0"],
        xfam_fixed1=of["XFAM_FIXED1"],
        max_vcpus_per_td=of["MAX_VCPUS_PER_TD"],
        num_cpuid_config=CPUIDS,
        pamt_page_bitmap_entry_bits=bits,
        cpuid_config=entries,
        cmrs=(),
    )
    assert info.tdcs_pages == of["TDCS_BASE_SIZE"] // 4096
    assert info.tdcx_pages_per_vcpu == of["TDVPS_BASE_SIZE"] // 4096 - 1
    assert info.supports(features0)
    assert not info.supports(~features0)
    assert info.supports(3) == (features0 & 3 != 0)
    version = f"{of['MAJOR_VERSION']}.{of['MINOR_VERSION']}.{of['UPDATE_VERSION']:02}"
    assert [line.rpartition("virt/tdx: ")[2] for line in host.log] == [f"Module version: {version}"]


def test_cmrs_are_those_that_are_not_null() -> None:
    answers = Answers(DYNAMIC, cmrs=3)
    answers.values[IDS["CMR_SIZE"] + 1] = 0
    host = host_of(answers, "static", "cmrs")
    assert get_tdx_sys_info(host.kernel, host.cpu) == 0
    assert answers.read == expected_ids(False, 3)
    info = host.kernel.sysinfo
    assert info is not None
    base, size = IDS["CMR_BASE"], IDS["CMR_SIZE"]
    assert info.cmrs == tuple(
        Cmr(answers.value(base + at), answers.value(size + at)) for at in (0, 2)
    )


def test_each_read_may_fail() -> None:
    """-EIO, the registers in three lines, nothing read after it; the version is printed."""
    ids = expected_ids(True, 0)
    for at, field_id in enumerate(ids):
        answers = Answers(DYNAMIC, fail_at=at)
        host = host_of(answers)
        assert get_tdx_sys_info(host.kernel, host.cpu) == -5
        assert answers.read == ids[: at + 1]
        assert host.kernel.sysinfo is None
        lines = [line.rpartition("virt/tdx: ")[2] for line in host.log]
        seen = [answers.value(one) if number < at else 0 for number, one in enumerate(ids[:3])]
        version = f"Module version: {seen[1]}.{seen[0]}.{seen[2]:02}"
        failed = [
            f"SEAMCALL (0x{SYS_RD:016x}) failed: 0x{FAILED:016x}",
            f"RCX 0x{3:016x} RDX 0x{field_id:016x} R08 0x{8:016x}",
            f"R09 0x{9:016x} R10 0x{10:016x} R11 0x{11:016x}",
        ]
        assert lines == ([*failed, version] if at < 3 else [version, *failed])


def test_the_version_is_read_again_in_silence() -> None:
    answers = Answers(DYNAMIC)
    host = host_of(answers)
    assert get_tdx_sys_info(host.kernel, host.cpu) == 0
    before, lines = host.kernel.sysinfo, len(host.log)
    assert before is not None
    for at, name in enumerate(("MINOR_VERSION", "MAJOR_VERSION", "UPDATE_VERSION")):
        answers.values[IDS[name]] = 70 + at
    assert read_version(host.kernel, host.cpu) == 0
    assert host.kernel.sysinfo == replace(before, minor=70, major=71, update=72)
    assert len(host.log) == lines
    answers.fail_at = len(answers.read) + 1
    answers.values[IDS["MINOR_VERSION"]] = 1
    assert read_version(host.kernel, host.cpu) == -5
    assert host.kernel.sysinfo == replace(before, minor=70, major=71, update=72)
    assert read_module_hv(host.kernel, host.cpu) == answers.value(IDS["MODULE_HV"])
    answers.fail_at = len(answers.read)
    assert read_module_hv(host.kernel, host.cpu) == -5
    assert answers.read[-1] == IDS["MODULE_HV"]
