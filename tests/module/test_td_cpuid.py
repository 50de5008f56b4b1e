"""The CPUID part of TD_PARAMS: what MNG.INIT lets through, and what it makes of it."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi import metadata as field
from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.cpuid import CPUID_CONFIG, CPUID_ROWS, NO_SUBLEAF, CpuidRow, cpuid_of_code
from dpamt.abi.cpuid import code_of_cpuid as code
from dpamt.abi.td_metadata import CPUID_VALUES, VIRT_MAXPA
from dpamt.abi.td_params import (
    ATTRIBUTES_PERFMON,
    CONFIG_FLAGS_MAXGPA_VIRT,
    CONFIG_FLAGS_MAXPA_VIRT,
    EPTP_4_LEVELS,
    EPTP_5_LEVELS,
    TdParams,
)
from dpamt.module.td_cpuid import PROCESSOR_VERSION
from tests.module.recipes import mng_init
from tests.module.rig import FIRST, Rig

PARAMS = 0x40000
GOOD = TdParams(max_vcpus=4)
SPECIAL = {(1, NO_SUBLEAF), (7, 0), *((0x1F, level) for level in range(6))}
"""Rows with rules of their own, beside those of their bits."""
Registers = tuple[int, int, int, int]
NONE: Registers = (0, 0, 0, 0)
Config = dict[tuple[int, int], Registers]


def cpuid_bytes(config: Config, behind: bytes = b"") -> bytes:
    """As KVM fills it in: a value for each row that SYS.RD lists, in that order."""
    values = [config.get((row.leaf, row.subleaf), NONE) for row in CPUID_CONFIG]
    packed = b"".join(struct.pack("<4I", *value) for value in values)
    return (packed + behind).ljust(768, b"\0")


def init(config: Config, behind: bytes = b"", params: TdParams = GOOD) -> tuple[Rig, int, int]:
    """MNG.INIT: the module, status and RCX."""
    rig = Rig()
    call = mng_init(rig)
    cpuid = cpuid_bytes(config, behind)
    rig.memory.write(PARAMS, replace(params, cpuid=cpuid).pack())
    status, args = rig.call(leaf.TDH_MNG_INIT, rcx=call["rcx"], rdx=PARAMS)
    return rig, status, args.rcx


def value(rig: Rig, number: int, subleaf: int = NO_SUBLEAF) -> Registers:
    halves = []
    for element in range(2):
        rdx = CPUID_VALUES.id | code(number, subleaf, element)
        halves.append(rig.must(leaf.TDH_MNG_RD, rcx=FIRST, rdx=rdx).r8)
    low, high = halves
    return low & 0xFFFFFFFF, low >> 32, high & 0xFFFFFFFF, high >> 32


def advertised(rig: Rig) -> dict[tuple[int, int], Registers]:
    """What SYS.RD says may be configured."""
    found = {}
    for index in range(rig.must(leaf.TDH_SYS_RD, rdx=field.NUM_CPUID_CONFIG.id).r8):
        place = rig.must(leaf.TDH_SYS_RD, rdx=field.CPUID_CONFIG_LEAVES.id + index).r8
        low, high = (
            rig.must(leaf.TDH_SYS_RD, rdx=field.CPUID_CONFIG_VALUES.id + 2 * index + half).r8
            for half in range(2)
        )
        found[place & 0xFFFFFFFF, place >> 32] = (
            low & 0xFFFFFFFF,
            low >> 32,
            high & 0xFFFFFFFF,
            high >> 32,
        )
    return found


def test_leaf_80000008_is_configurable_as_kvm_needs_it() -> None:
    """setup_tdparams_eptp_controls: KVM finds GPAW in an entry that the module must list."""
    found = advertised(Rig())
    assert found[0x8000_0008, NO_SUBLEAF][0] == 0xFF
    assert len(found) == 28 <= 32
    behind = Rig().must(leaf.TDH_SYS_RD, rdx=field.CPUID_CONFIG_LEAVES.id + len(found)).r8
    assert behind == field.NO_FIELD


row_bits = st.sampled_from(
    [
        (row, register, bit)
        for row in CPUID_CONFIG
        if (row.leaf, row.subleaf) not in SPECIAL
        for register in range(4)
        for bit in range(32)
    ]
)


@given(bits=st.lists(row_bits, max_size=5))
@settings(max_examples=80, deadline=None)
def test_a_bit_may_be_set_if_sys_rd_says_so(bits: list[tuple[CpuidRow, int, int]]) -> None:
    config: dict[tuple[int, int], list[int]] = {}
    for row, register, bit in bits:
        config.setdefault((row.leaf, row.subleaf), [0, 0, 0, 0])[register] |= 1 << bit
    wanted: Config = {place: (v[0], v[1], v[2], v[3]) for place, v in config.items()}
    rig, status, rcx = init(wanted)
    may = advertised(rig)
    bad = [
        row.id
        for row in CPUID_ROWS
        if any(
            want & ~mask
            for want, mask in zip(
                wanted.get((row.leaf, row.subleaf), NONE),
                may.get((row.leaf, row.subleaf), NONE),
                strict=True,
            )
        )
    ]
    if bad:
        assert (status, rcx) == (s.TDX_OPERAND_INVALID | op.OPERAND_CPUID_CONFIG, bad[0])
        return
    assert (status, rcx) == (s.TDX_SUCCESS, 0)
    for row in CPUID_ROWS:
        if not row.configurable or row.leaf in (1, 0xA, 0x1C, 0x23, 0x8000_0008, 0x1F):
            continue
        got = value(rig, row.leaf, row.subleaf)
        for register in range(4):
            asked = wanted.get((row.leaf, row.subleaf), NONE)[register]
            config_mask = row.config[register]
            assert got[register] & config_mask == asked & config_mask
            assert got[register] & row.fixed1[register] == row.fixed1[register]
            assert not got[register] & row.fixed0[register]
            # What is allowed needs the processor and XFAM as well.
            assert not got[register] & row.allow[register] & ~asked


def test_family_model_and_stepping() -> None:
    for eax, fits in ((0, True), (PROCESSOR_VERSION, True), (PROCESSOR_VERSION + 1, False)):
        rig, status, rcx = init({(1, NO_SUBLEAF): (eax, 0, 0, 0)})
        assert (status == s.TDX_SUCCESS) is fits
        if fits:
            assert value(rig, 1)[0] == PROCESSOR_VERSION
        else:
            assert rcx == CPUID_ROWS[0].id


@pytest.mark.parametrize(("ebx", "fits"), [(0, True), (0x10, False), (0x800, False), (0x810, True)])
def test_tsx_is_had_whole_or_not_at_all(ebx: int, fits: bool) -> None:
    _, status, rcx = init({(7, 0): (0, ebx, 0, 0)})
    assert (status == s.TDX_SUCCESS) is fits
    assert rcx == (0 if fits else 7)


@pytest.mark.parametrize(("xfam", "has_avx"), [(3, False), (7, True)])
def test_xfam_decides_over_avx(xfam: int, has_avx: bool) -> None:
    rig, status, _ = init({(1, NO_SUBLEAF): (0, 0, 1 << 28, 0)}, params=replace(GOOD, xfam=xfam))
    assert status == s.TDX_SUCCESS
    assert (value(rig, 1)[2] >> 28 & 1 == 1) is has_avx
    assert value(rig, 0xD, 0)[0] & 3 == 3


def test_perfmon_is_an_attribute() -> None:
    for attributes in (0, ATTRIBUTES_PERFMON):
        rig, status, _ = init({}, params=replace(GOOD, attributes=attributes))
        assert status == s.TDX_SUCCESS
        assert any(value(rig, 0xA)) is (attributes != 0)


@pytest.mark.parametrize("extended", [False, True])
def test_leaf_23_needs_perfmon_and_its_feature(extended: bool) -> None:
    config: Config = {(7, 1): (extended << 8, 0, 0, 0), (0x23, 0): (0xF, 0, 0, 0)}
    for attributes in (0, ATTRIBUTES_PERFMON):
        rig, status, _ = init(config, params=replace(GOOD, attributes=attributes))
        assert status == s.TDX_SUCCESS
        assert value(rig, 0x23, 0)[0] == (0xF if extended and attributes else 0)


@pytest.mark.parametrize(
    ("xfam", "trace", "lbr", "xstate"),
    [(3, 0, 0, 3), (3 | 1 << 8, 1, 0, 3), (3 | 1 << 15, 0, 0xFF, 3), (0x60007, 0, 0, 0x60007)],
)
def test_leaves_that_a_td_has_by_xfam(xfam: int, trace: int, lbr: int, xstate: int) -> None:
    config: Config = {(0x1C, NO_SUBLEAF): (0xFF, 0, 0, 0)}
    rig, status, _ = init(config, params=replace(GOOD, xfam=xfam))
    assert status == s.TDX_SUCCESS
    assert value(rig, 0x14, 0)[0] == trace
    assert value(rig, 0x1C)[0] == lbr
    assert value(rig, 0xD, 0)[0] & xstate == xstate & 3


def test_the_clock_is_that_of_td_params() -> None:
    for frequency in (40, 100):
        rig, status, _ = init({}, params=replace(GOOD, tsc_frequency=frequency))
        assert status == s.TDX_SUCCESS
        assert value(rig, 0x15) == (1, frequency, 25_000_000, 0)


def level(subleaf: int, kind: int, shift: int = 1, count: int = 2) -> Registers:
    return shift, count, kind << 8 | subleaf, 0


TOPOLOGIES: list[tuple[list[Registers], bool]] = [
    ([level(0, 1, 0, 1), level(1, 2, 3, 8)], True),
    ([level(0, 2, 3, 8)], True),
    ([level(0, 1), level(1, 2), level(2, 5, 4, 16)], True),
    ([level(0, 1)], False),
    ([level(0, 1), level(1, 1), level(2, 2)], False),
    ([level(0, 2), level(1, 1)], False),
    ([level(1, 1), level(1, 2)], False),
    ([level(0, 1), level(1, 2), level(2, 6)], False),
    ([(0, 0, 0, 0), level(1, 2)], False),
    ([(1, 1, 0, 0), level(1, 2)], False),
]


@pytest.mark.parametrize(("levels", "fits"), TOPOLOGIES)
def test_topology(levels: list[Registers], fits: bool) -> None:
    config = {(0x1F, number): registers for number, registers in enumerate(levels)}
    rig, status, rcx = init(config)
    assert status == (s.TDX_SUCCESS if fits else s.TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED)
    assert rcx == 0
    if fits:
        assert [value(rig, 0x1F, number) for number in range(len(levels))] == levels
        smt = levels[0][2] >> 8 == 1
        widest = levels[-1]
        assert value(rig, 0xB, int(smt)) == (*widest[:2], 2 << 8 | smt, 0)
        assert value(rig, 0xB, int(smt) + 1) == (0, 0, 0, 0)


def test_a_td_without_levels_has_those_of_the_machine() -> None:
    rig, status, _ = init({})  # two CPUs in one package
    assert status == s.TDX_SUCCESS
    smt, cores = (0, 1, 1 << 8, 0), (1, 2, 2 << 8 | 1, 0)
    behind: list[Registers] = [(0, 0, number, 0) for number in range(2, 6)]
    assert [value(rig, 0x1F, number) for number in range(6)] == [smt, cores, *behind]
    assert [value(rig, 0xB, number) for number in range(3)] == [smt, cores, NONE]


def max_pa(rig: Rig) -> int:
    """What the guest takes for its MAXPA."""
    return rig.must(leaf.TDH_MNG_RD, rcx=FIRST, rdx=VIRT_MAXPA.id).r8


@pytest.mark.parametrize("la57", [False, True])
@pytest.mark.parametrize(
    ("gpaw", "flags", "guest", "physical"),
    [
        (0, 0, 0, 52),
        (1, 0, 0, 52),
        (0, CONFIG_FLAGS_MAXPA_VIRT, 0, 48),
        (1, CONFIG_FLAGS_MAXPA_VIRT, 0, 52),
        (0, CONFIG_FLAGS_MAXGPA_VIRT, 48, 52),
        (1, CONFIG_FLAGS_MAXGPA_VIRT, 52, 52),
        (0, CONFIG_FLAGS_MAXGPA_VIRT | CONFIG_FLAGS_MAXPA_VIRT, 48, 52),
    ],
)
def test_widths_by_the_flags(gpaw: int, flags: int, guest: int, physical: int, la57: bool) -> None:
    config: Config = {(7, 0): (0, 0, la57 << 16, 0)}
    eptp = EPTP_5_LEVELS if gpaw else EPTP_4_LEVELS
    params = replace(GOOD, config_flags=gpaw | flags, eptp_controls=eptp)
    rig, status, _ = init(config, params=params)
    assert status == s.TDX_SUCCESS
    linear = 57 if la57 else 48
    assert value(rig, 0x8000_0008)[0] == guest << 16 | linear << 8 | physical
    assert max_pa(rig) == (guest or physical)


def test_address_widths() -> None:
    for wanted, fits in ((0, True), (40, True), (48, True), (49, False)):
        place = {(0x8000_0008, NO_SUBLEAF): (wanted, 0, 0, 0)}
        rig, status, _ = init(place, params=replace(GOOD, config_flags=CONFIG_FLAGS_MAXPA_VIRT))
        assert (status == s.TDX_SUCCESS) is fits
        if fits:
            assert value(rig, 0x8000_0008)[0] == 48 << 8 | (wanted or 48)
        plain, status, _ = init(place)
        assert status == s.TDX_SUCCESS
        assert value(plain, 0x8000_0008)[0] == 48 << 8 | 52


def test_nothing_stands_behind_the_last_row() -> None:
    _, status, rcx = init({}, behind=b"\1")
    assert (status, rcx) == (s.TDX_OPERAND_INVALID | op.OPERAND_RDX, 0)


@given(st.sampled_from(CPUID_ROWS), st.integers(0, 1))
def test_codes_name_rows(row: CpuidRow, element: int) -> None:
    assert cpuid_of_code(code(row.leaf, row.subleaf, element)) == (row.leaf, row.subleaf, element)


def test_no_bit_has_two_owners() -> None:
    """The module's own remark on its table: the bits are mutually exclusive."""
    for row in CPUID_ROWS:
        for masks in zip(row.fixed0, row.fixed1, row.config, row.allow, strict=True):
            seen = 0
            for mask in masks:
                assert not seen & mask, row
                seen |= mask
