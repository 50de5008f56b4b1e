"""MNG.ADDCX and MNG.INIT: each wrong field of TD_PARAMS is named; pages are counted."""

from dataclasses import replace

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi.cpuid import CPUID_CONFIG
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.status import (
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
    TDX_TDCS_NOT_ALLOCATED,
    TDX_TDCX_NUM_INCORRECT,
)
from dpamt.abi.td_params import EPTP_4_LEVELS, EPTP_5_LEVELS, MAX_VCPUS_PER_TD, TdParams
from dpamt.module.view import ModuleView
from tests.module.rig import FIRST, Rig

PARAMS = 0x40000
GOOD = TdParams(max_vcpus=4)
GPAW = 1


def td_with_pages(rig: Rig, pages: int) -> int:
    rig.add_pair(FIRST)
    rig.must(leaf.TDH_MNG_CREATE, rcx=FIRST, rdx=rig.hkid + 1)
    rig.must(leaf.TDH_MNG_KEY_CONFIG, rcx=FIRST)
    for n in range(1, pages + 1):
        rig.must(leaf.TDH_MNG_ADDCX, rcx=FIRST + n * PAGE_SIZE, rdx=FIRST)
    return FIRST


@pytest.mark.parametrize(
    ("wrong", "operand"),
    [
        (replace(GOOD, attributes=2), op.OPERAND_ATTRIBUTES),
        (replace(GOOD, xfam=1), op.OPERAND_XFAM),
        (replace(GOOD, xfam=1 << 20 | 3), op.OPERAND_XFAM),
        (replace(GOOD, max_vcpus=0), op.OPERAND_MAX_VCPUS),
        (replace(GOOD, max_vcpus=0xFFFF), op.OPERAND_MAX_VCPUS),
        (replace(GOOD, num_l2_vms=4), op.OPERAND_NUM_L2_VMS),
        (replace(GOOD, reserved0=b"\0\0\0\1"), op.OPERAND_RDX),
        (replace(GOOD, config_flags=1 << 40), op.OPERAND_EXEC_CONTROLS),
        (replace(GOOD, eptp_controls=0), op.OPERAND_EPTP_CONTROLS),
        (replace(GOOD, config_flags=GPAW), op.OPERAND_EPTP_CONTROLS),
        (replace(GOOD, eptp_controls=EPTP_4_LEVELS | 1 << 6), op.OPERAND_EPTP_CONTROLS),
        (replace(GOOD, tsc_frequency=3), op.OPERAND_TSC_FREQUENCY),
        (replace(GOOD, tsc_frequency=401), op.OPERAND_TSC_FREQUENCY),
        (replace(GOOD, reserved1=b"\1" + bytes(37)), op.OPERAND_RDX),
        (replace(GOOD, msr_config_ctls=2), op.OPERAND_RDX),
        (replace(GOOD, reserved2=bytes(23) + b"\1"), op.OPERAND_RDX),
        (replace(GOOD, cpuid=b"\1" + bytes(767)), op.OPERAND_CPUID_CONFIG),
        (replace(GOOD, arch_capabilities=1), op.OPERAND_IA32_ARCH_CAPABILITIES_CONFIG),
    ],
)
def test_each_wrong_field_is_named_and_changes_nothing(wrong: TdParams, operand: int) -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 9)
    rig.memory.write(PARAMS, wrong.pack())
    before = rig.module.shared.snapshot()
    status, args = rig.call(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    assert status == TDX_OPERAND_INVALID | operand
    at_fault = CPUID_CONFIG[0].id if operand == op.OPERAND_CPUID_CONFIG else 0
    assert args.rcx == at_fault
    # The first epoch begins before TD_PARAMS are looked at: tdh_mng_init.c.
    rig.module.tds.at(tdr >> PAGE_SHIFT).epoch.store(0)
    assert rig.module.shared.snapshot() == before
    rig.memory.write(PARAMS, GOOD.pack())
    rig.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)


def test_params_pointer_and_l2_pages() -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 9)
    status, _ = rig.call(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS + 512)
    assert status == TDX_OPERAND_INVALID | op.OPERAND_RDX
    rig.memory.write(PARAMS, replace(GOOD, num_l2_vms=1).pack())
    status, _ = rig.call(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    assert status == TDX_TDCS_NOT_ALLOCATED


@pytest.mark.parametrize("release", ["1.5.25", "2.0.18"])
def test_tdcs_pages_have_a_most_and_a_last_moment(release: str) -> None:
    rig = Rig(release=release)
    most = rig.module.release.max_tdcs_pages
    tdr = td_with_pages(rig, most - 1)
    rig.memory.write(PARAMS, GOOD.pack())
    extra = FIRST + 100 * PAGE_SIZE
    rig.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    status, _ = rig.call(leaf.TDH_MNG_ADDCX, rcx=extra, rdx=tdr)
    assert status == TDX_OP_STATE_INCORRECT | (1 if release == "1.5.25" else 0)
    base = Rig(release=release)  # the first page of an L2 VM comes too late, too
    tdr = td_with_pages(base, base.module.release.min_tdcs_pages)
    base.memory.write(PARAMS, GOOD.pack())
    base.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    assert base.call(leaf.TDH_MNG_ADDCX, rcx=extra, rdx=tdr)[0] == status
    full = Rig(release=release)
    tdr = td_with_pages(full, most)
    status, _ = full.call(leaf.TDH_MNG_ADDCX, rcx=extra, rdx=tdr)
    assert status == TDX_TDCX_NUM_INCORRECT
    assert ModuleView(full.module).check() == []


def test_bit_0_of_the_handle_names_event_filters_and_no_other_bit_does() -> None:
    for bit in range(12):
        rig = Rig()
        tdr = td_with_pages(rig, 9)
        rig.memory.write(PARAMS, GOOD.pack())
        status, _ = rig.call(leaf.TDH_MNG_INIT, rcx=tdr | 1 << bit, rdx=PARAMS)
        assert status == (TDX_OPERAND_INVALID | op.OPERAND_RCX if bit else TDX_SUCCESS)


def test_the_last_base_page_needs_entropy() -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 8)
    rig.module.entropy_available = False
    page = FIRST + 50 * PAGE_SIZE
    status, _ = rig.call(leaf.TDH_MNG_ADDCX, rcx=page, rdx=tdr)
    assert status == TDX_RND_NO_ENTROPY
    rig.module.entropy_available = True
    assert rig.call(leaf.TDH_MNG_ADDCX, rcx=page, rdx=tdr)[0] == TDX_SUCCESS


@pytest.mark.parametrize(("levels", "shared_bit"), [(4, 47), (5, 51)])
def test_guest_addresses_end_at_the_shared_bit(levels: int, shared_bit: int) -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 9)
    params = GOOD if levels == 4 else replace(GOOD, eptp_controls=EPTP_5_LEVELS, config_flags=GPAW)
    rig.memory.write(PARAMS, params.pack())
    rig.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    top = levels - 1
    page = FIRST + 60 * PAGE_SIZE
    status, _ = rig.call(leaf.TDH_MEM_SEPT_ADD, rcx=1 << shared_bit | top, rdx=tdr, r8=page)
    assert status == TDX_OPERAND_INVALID | op.OPERAND_RCX
    status, _ = rig.call(leaf.TDH_MEM_SEPT_ADD, rcx=levels, rdx=tdr, r8=page)
    assert status == TDX_OPERAND_INVALID | op.OPERAND_RCX
    highest = (1 << shared_bit) - (1 << 12 + 9 * top)
    rig.must(leaf.TDH_MEM_SEPT_ADD, rcx=highest | top, rdx=tdr, r8=page)


@pytest.mark.parametrize(
    "good",
    [
        replace(GOOD, max_vcpus=1),
        replace(GOOD, max_vcpus=MAX_VCPUS_PER_TD),
        replace(GOOD, tsc_frequency=4),  # 100 MHz, in units of 25 MHz
        replace(GOOD, tsc_frequency=400),  # 10 GHz
        replace(GOOD, eptp_controls=EPTP_5_LEVELS),
        replace(GOOD, eptp_controls=EPTP_5_LEVELS, config_flags=GPAW),
    ],
)
def test_the_bounds_of_a_field_are_taken(good: TdParams) -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 9)
    rig.memory.write(PARAMS, good.pack())
    rig.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    td = rig.module.tds.at(tdr >> PAGE_SHIFT)
    assert td.max_vcpus.load() == good.max_vcpus
    assert td.tsc_frequency.load() == good.tsc_frequency


def test_one_beyond_the_most_vcpus_is_refused() -> None:
    rig = Rig()
    tdr = td_with_pages(rig, 9)
    rig.memory.write(PARAMS, replace(GOOD, max_vcpus=MAX_VCPUS_PER_TD + 1).pack())
    status, _ = rig.call(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    assert status == TDX_OPERAND_INVALID | op.OPERAND_MAX_VCPUS


@pytest.mark.parametrize("l2_vms", [0, 1, 2, 3])
@pytest.mark.parametrize("release", ["1.5.25", "2.0.18"])
def test_each_l2_vm_needs_one_more_page(release: str, l2_vms: int) -> None:
    rig = Rig(release=release)
    least = rig.module.release.min_tdcs_pages
    tdr = td_with_pages(rig, least + l2_vms - 1)
    params = replace(GOOD, num_l2_vms=l2_vms)
    rig.memory.write(PARAMS, params.pack())
    status, _ = rig.call(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    # Without its base pages a TD is in no state to be initialised.
    assert status == (TDX_TDCS_NOT_ALLOCATED if l2_vms else status) != TDX_SUCCESS
    page = FIRST + 50 * PAGE_SIZE
    rig.must(leaf.TDH_MNG_ADDCX, rcx=page, rdx=tdr)
    rig.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=PARAMS)
    # From the first page on that is not needed it is too late for more.
    status, _ = rig.call(leaf.TDH_MNG_ADDCX, rcx=page + PAGE_SIZE, rdx=tdr)
    wanted = TDX_OP_STATE_INCORRECT | (1 if release == "1.5.25" else 0)
    full = least + l2_vms == rig.module.release.max_tdcs_pages
    assert status == (TDX_TDCX_NUM_INCORRECT if full else wanted)
    roots = rig.module.tds.at(tdr >> PAGE_SHIFT).l2_roots
    assert sum(root.load() != 0 for root in roots) == l2_vms
    if l2_vms:
        assert roots[l2_vms].load() == page >> PAGE_SHIFT
    assert ModuleView(rig.module).check() == []
