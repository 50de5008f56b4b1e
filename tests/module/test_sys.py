"""The module's own life: the dispatcher, SYS leaves and the metadata, against the tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi import metadata as md
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_R8, OPERAND_R9, OPERAND_R10, OPERAND_RAX, OPERAND_RCX
from dpamt.abi.pages import PAGE_SIZE, SIZE_1G
from dpamt.abi.registers import REGISTER_NAMES, TdxModuleArgs
from dpamt.abi.states import SYS_READY, SYSINIT_DONE, SYSINIT_PENDING
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, TdmrInfo
from dpamt.errors import InputError
from dpamt.module.leaves.table import BEFORE_READY
from dpamt.module.module import TdxModule
from dpamt.module.releases import RELEASES
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.physical_memory import PhysicalMemory
from tests.module.rig import FIRST, RESERVED, Rig

TABLES = json.loads(
    (Path(__file__).parent.parent / "data" / "tdx-module-tables.json").read_text(encoding="utf-8")
)
KEYID = 32
POINTERS = 0x10000
INFO = 0x11000


def bare(
    release: str = "2.0.18",
    packages: int = 1,
    cpus: int = 1,
    keyid_bits: int = 6,
    private_keyids: tuple[int, int] = (KEYID, 64),
) -> TdxModule:
    """A module that nobody has called yet, with a valid TDMR_INFO in memory."""
    memory = PhysicalMemory()
    info = TdmrInfo(
        base=FIRST,
        size=SIZE_1G,
        pamt_1g_base=SIZE_1G,
        pamt_1g_size=PAGE_SIZE,
        pamt_2m_base=SIZE_1G + PAGE_SIZE,
        pamt_2m_size=2 * PAGE_SIZE,
        pamt_4k_base=SIZE_1G + 4 * PAGE_SIZE,
        pamt_4k_size=8 * PAGE_SIZE,
    )
    memory.write64(POINTERS, INFO)
    memory.write(INFO, info.pack())
    host = Machine(
        source="bare",
        cmrs=(Cmr(0, 8 * SIZE_1G),),
        memory=(MemoryBlock(0, 8 * SIZE_1G >> 12),),
        max_pfn=8 * SIZE_1G >> 12,
        topology=Topology(packages, cpus),
        keyid_bits=keyid_bits,
        private_keyids=private_keyids,
    )
    return TdxModule(memory, host, release)


def call(module: TdxModule, rax: int, cpu: int = 0, **registers: int) -> tuple[int, TdxModuleArgs]:
    args = TdxModuleArgs.of(**registers)
    return module.processor(cpu).seamcall(rax, args), args


CONFIG = {"rcx": POINTERS, "rdx": 1, "r8": KEYID | SYS_CONFIG_DYNAMIC_PAMT}


def boot(module: TdxModule, **config: int) -> int:
    """SYS.INIT and LP.INIT everywhere, then SYS.CONFIG: its status."""
    assert call(module, leaf.TDH_SYS_INIT)[0] == 0
    for cpu in range(len(module.processors)):
        assert call(module, leaf.TDH_SYS_LP_INIT, cpu)[0] == 0
    return call(module, leaf.TDH_SYS_CONFIG, **(CONFIG | config))[0]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    leaf.TDH_SYS_INIT,
                    leaf.TDH_SYS_LP_INIT,
                    leaf.TDH_SYS_CONFIG,
                    leaf.TDH_SYS_KEY_CONFIG,
                    leaf.TDH_SYS_TDMR_INIT,
                ]
            ),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_boot_in_any_order(steps: list[tuple[int, int]]) -> None:
    """Two packages of two CPUs; the order is init, every CPU, config, every package, TDMRs."""
    module = bare(packages=2, cpus=4)
    initialized: set[int] = set()
    packages: set[int] = set()
    stage = "pending"
    calls = 0
    for number, cpu in steps:
        registers = CONFIG if number == leaf.TDH_SYS_CONFIG else {}
        if number == leaf.TDH_SYS_TDMR_INIT:
            registers = {"rcx": FIRST}
        status, _ = call(module, number, cpu, **registers)
        if number == leaf.TDH_SYS_INIT:
            expected = s.TDX_SUCCESS if stage == "pending" else s.TDX_SYS_INIT_NOT_PENDING
            stage = "init" if stage == "pending" else stage
        elif number == leaf.TDH_SYS_LP_INIT:
            if stage != "init":
                expected = s.TDX_SYS_LP_INIT_NOT_PENDING
            else:
                expected = s.TDX_SYS_LP_INIT_DONE if cpu in initialized else s.TDX_SUCCESS
                initialized.add(cpu)
        elif number == leaf.TDH_SYS_CONFIG:
            good = stage == "init" and len(initialized) == 4
            expected = s.TDX_SUCCESS if good else s.TDX_SYS_CONFIG_NOT_PENDING
            stage = "config" if good else stage
        elif number == leaf.TDH_SYS_KEY_CONFIG:
            if stage != "config":
                expected = s.TDX_SYS_KEY_CONFIG_NOT_PENDING
            else:
                expected = s.TDX_KEY_CONFIGURED if cpu // 2 in packages else s.TDX_SUCCESS
                packages.add(cpu // 2)
                stage = "ready" if len(packages) == 2 else stage
        elif stage != "ready":
            expected = s.TDX_SYS_NOT_READY
        else:
            calls += 1
            expected = s.TDX_SUCCESS if calls <= 256 else s.TDX_TDMR_ALREADY_INITIALIZED
        assert status == expected


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_tdmr_init_opens_blocks_one_by_one(release: str, dynamic: bool) -> None:
    rig = Rig(dynamic=dynamic, release=release)
    module = rig.module
    tdmr = module.tdmrs.all[0]
    assert all(module.pamt.in_range(page) for page in (tdmr.first, tdmr.first + tdmr.pages - 1))
    assert not module.pamt.in_range(tdmr.first - 1)
    assert not module.pamt.in_range(tdmr.first + tdmr.pages)
    status, args = rig.call(leaf.TDH_SYS_TDMR_INIT, rcx=FIRST, rdx=1)
    assert (status, args.rdx) == (s.TDX_TDMR_ALREADY_INITIALIZED, 0)
    step = 4096 if dynamic and release != "2.0.18" else 1024
    module = bare(release)
    mode = SYS_CONFIG_DYNAMIC_PAMT if dynamic else 0
    if not dynamic:
        module.memory.write64(INFO + 56, SIZE_1G // 256)
    assert boot(module, r8=KEYID | mode) == 0
    assert call(module, leaf.TDH_SYS_KEY_CONFIG)[0] == 0
    answers = [
        call(module, leaf.TDH_SYS_TDMR_INIT, rcx=FIRST)[1].rdx for _ in range(262144 // step)
    ]
    assert answers == [FIRST] * (262144 // step - 1) + [FIRST + SIZE_1G]
    assert call(module, leaf.TDH_SYS_TDMR_INIT, rcx=FIRST)[0] == s.TDX_TDMR_ALREADY_INITIALIZED


def test_reserved_pages_are_never_free() -> None:
    for dynamic in (False, True):
        rig = Rig(dynamic=dynamic)
        if dynamic:
            rig.add_pair(RESERVED)
        for index in range(6):
            status, _ = rig.call(
                leaf.TDH_MNG_CREATE, rcx=RESERVED + index * PAGE_SIZE, rdx=40 + index
            )
            reserved = s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
            assert status == (reserved if index < 4 else s.TDX_SUCCESS)


@given(rax=st.integers(0, 2**64 - 1) | st.integers(0, 0x2FF) | st.integers(0, 2**25))
@settings(max_examples=300, deadline=None)
def test_dispatcher_follows_its_order(rax: int) -> None:
    """With operands that every leaf refuses, so that nothing changes in between."""
    number, version = rax & 0xFFFF, rax >> 16 & 0xFF
    for module in (NOT_READY, READY.module):
        unknown = s.TDX_OPERAND_INVALID | OPERAND_RAX
        garbage = dict.fromkeys(REGISTER_NAMES, 0x7777)
        status, _ = call(module, rax, **garbage)
        ready = module is not NOT_READY
        if rax >> 24 or 128 <= number <= 166 or (version and number not in VERSIONED):
            assert status == unknown
        elif not ready and number not in BEFORE_READY:
            assert status == s.TDX_SYS_NOT_READY
        elif number not in module.ready_handlers:
            assert status == unknown
        elif version == 0:
            assert status != unknown
        assert module.processor(0).version == 0


VERSIONED = RELEASES["2.0.18"].versioned_leaves
NOT_READY = bare()
READY = Rig()


def test_shutdown_answers_nothing_any_more() -> None:
    rig = Rig()
    status, _ = rig.call(leaf.TDH_SYS_SHUTDOWN, rcx=2)
    assert status == s.TDX_OPERAND_INVALID | OPERAND_RCX
    rig.must(leaf.TDH_SYS_SHUTDOWN, rcx=1)
    for number in READY.module.ready_handlers:
        assert rig.call(number)[0] == s.TDX_SYS_SHUTDOWN


def test_fields_form_one_chain() -> None:
    """From the first field each answer names the next, every field once, until there is none."""
    status, args = call(READY.module, leaf.TDH_SYS_RD, rdx=md.NO_FIELD)
    assert status == s.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    seen = []
    while args.rdx != md.NO_FIELD:
        seen.append(args.rdx)
        args = READY.must(leaf.TDH_SYS_RD, rdx=args.rdx)
    assert len(seen) == len(set(seen)) == len(READY.module.metadata)
    for name in TABLES["linux_reads"]:
        assert md.FIELDS[name].id in seen


@given(
    field_id=st.integers(0, md.NO_FIELD - 1), known=st.sampled_from(sorted(READY.module.metadata))
)
@settings(max_examples=200, deadline=None)
def test_look_up_uses_class_and_code_only(field_id: int, known: tuple[int, int]) -> None:
    ignored = 1 << 63 | 1 << 51 | 1 << 50 | 7 << 52 | 3 << 32
    same = known[0] << 56 | known[1]
    expected = READY.must(leaf.TDH_SYS_RD, rdx=same)
    found = READY.must(leaf.TDH_SYS_RD, rdx=same | field_id & ignored)
    assert found == expected
    if field_id & ~(ignored | 0x3F00_0000_00FF_FFFF):
        status, args = READY.call(leaf.TDH_SYS_RD, rdx=field_id)
        assert status == s.TDX_METADATA_FIELD_ID_INCORRECT
        assert (args.rdx, args.r8) == (md.NO_FIELD, 0)


def test_values_are_those_of_the_table() -> None:
    """2.0.18 is the release whose typical values the table lists."""
    arrays = {"PKG_FMS", "CMR_BASE", "CMR_SIZE", "CPUID_CONFIG_LEAVES", "CPUID_CONFIG_VALUES"}
    compared = 0
    for name, entry in TABLES["metadata_fields"].items():
        field_id = int(entry["id"], 16)
        if name in arrays or md.lookup_key(field_id) not in READY.module.metadata:
            continue
        value = READY.must(leaf.TDH_SYS_RD, rdx=field_id).r8
        typical = entry["typical"]
        if typical is not None and name != "CONFIG_FLAGS_FIXED0":
            assert value == (int(typical, 16) if isinstance(typical, str) else typical), name
            compared += 1
        assert value < 1 << 8 * entry["bytes"]
    assert compared > 25


def test_sys_rd_before_the_processor_is_initialized() -> None:
    status, args = call(bare(), leaf.TDH_SYS_RD, rdx=md.MAX_TDMRS.id)
    assert (status, args.rdx) == (s.TDX_SYS_LP_INIT_NOT_DONE, md.NO_FIELD)


def test_sys_config_versions_differ_by_release() -> None:
    versioned = leaf.TDH_SYS_CONFIG | 1 << leaf.RAX_VERSION_SHIFT
    for release in RELEASES:
        module = bare(release)
        call(module, leaf.TDH_SYS_INIT)
        call(module, leaf.TDH_SYS_LP_INIT)
        if release != "2.0.18":
            assert call(module, versioned, **CONFIG)[0] == s.TDX_OPERAND_INVALID | OPERAND_RAX
            continue
        twice = versioned + (1 << leaf.RAX_VERSION_SHIFT)
        assert call(module, twice, **CONFIG)[0] == s.TDX_OPERAND_INVALID | OPERAND_RAX
        foreign = CONFIG | {"r9": 1 << 63}
        assert call(module, versioned, **foreign)[0] == s.TDX_OPERAND_INVALID | OPERAND_R9
        assert call(module, versioned, **CONFIG, r10=1)[0] == s.TDX_OPERAND_INVALID | OPERAND_R10
        features = CONFIG | {"r9": module.release.features0}
        assert call(module, versioned, **features)[0] == s.TDX_SUCCESS


def test_failed_sys_config_keeps_the_keyid_before_2_0_18() -> None:
    for release, kept in (("1.5.25", True), ("2.0.08", True), ("2.0.18", False)):
        module = bare(release)
        module.memory.write64(INFO, 1)
        assert boot(module) == s.TDX_INVALID_TDMR
        assert (module.kot.at(KEYID).load() != 0) is kept
        assert module.sys_state.load() == SYSINIT_DONE


def test_dynamic_pamt_needs_keyid_bits() -> None:
    module = bare(keyid_bits=3, private_keyids=(2, 8))
    assert boot(module, r8=3 | SYS_CONFIG_DYNAMIC_PAMT) == s.TDX_OPERAND_INVALID | OPERAND_R8


def test_a_release_without_the_feature_is_static_only() -> None:
    old = replace(RELEASES["1.5.25"], name="static", features0=md.TDX_FEATURES0_NO_RBP_MOD)
    module = TdxModule(PhysicalMemory(), bare().machine, old)
    assert boot(module) == s.TDX_OPERAND_INVALID | OPERAND_R8
    status, _ = call(module, leaf.TDH_SYS_RD, rdx=md.PAMT_PAGE_BITMAP_ENTRY_BITS.id)
    assert status == s.TDX_METADATA_FIELD_ID_INCORRECT


def test_too_many_keyids() -> None:
    module = bare(keyid_bits=12, private_keyids=(32, 2049))
    assert call(module, leaf.TDH_SYS_INIT)[0] == s.TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED
    assert module.sys_state.load() == SYSINIT_PENDING


def test_key_engine_that_fails() -> None:
    module = bare()
    assert boot(module) == 0
    module.key_engine_works = False
    assert call(module, leaf.TDH_SYS_KEY_CONFIG)[0] == s.TDX_KEY_GENERATION_FAILED
    module.key_engine_works = True
    assert call(module, leaf.TDH_SYS_KEY_CONFIG)[0] == 0
    assert module.sys_state.load() == SYS_READY


def test_unknown_release() -> None:
    with pytest.raises(InputError, match=r"9\.9.*expected one of 1\.5\.25"):
        bare("9.9")


def test_operand_in_seamrr_is_not_shared_memory() -> None:
    module = bare()
    module.seamrr = range(POINTERS - PAGE_SIZE, POINTERS + 8)
    assert boot(module) == s.TDX_OPERAND_INVALID | OPERAND_RCX
    module = bare()
    module.seamrr = range(POINTERS)
    assert boot(module) == s.TDX_SUCCESS
