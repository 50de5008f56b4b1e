"""MNG.RD, VP.RD, VP.WR: the fields that KVM asks for, and what is written is what is read."""

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi import td_metadata as md
from dpamt.abi.metadata import NO_FIELD
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.status import STATUS_MASK
from dpamt.module.td_cpuid import PROCESSOR_VERSION
from dpamt.module.view import ModuleView
from dpamt.platform.guest import TdCall
from tests.module.recipes import mng_init
from tests.module.rig import FIRST, Rig

# As KVM puts them together: BUILD_TDX_FIELD(class, field) of arch/x86/kvm/vmx/tdx_arch.h, with VMCS
# encodings of arch/x86/include/asm/vmx.h.
TSC_OFFSET, TSC_MULTIPLIER = 17 << 56 | 10, 17 << 56 | 11
POSTED_INTR_NV, POSTED_INTR_DESC_ADDR, PIN_BASED = 0x0002, 0x2016, 0x4000
SHARED_EPT_POINTER, SECONDARY, NOTIFY_WINDOW = 0x203C, 0x401E, 0x4024
PEND_NMI, VCPU_STATE_DETAILS = 32 << 56 | 11, 1 << 63 | 17 << 56 | 0x100
CPUID_VALUES = 0x9410_0003_0000_0000
KVM_MAX_CPUID_ENTRIES = 256
POSTED_INTR_VECTOR = 0xF2
PI_DESC, EPT_ROOT = 0x1_2340, 0x7_7000


def td(rig: Rig, vcpus: int = 1) -> tuple[int, int]:
    tdr = rig.make_td(FIRST, rig.hkid + 1, vcpus=vcpus)
    return tdr, rig.tdvpr(tdr)


def write(rig: Rig, tdvpr: int, field_id: int, value: int, mask: int) -> tuple[int, int]:
    status, args = rig.call(leaf.TDH_VP_WR, rcx=tdvpr, rdx=field_id, r8=value, r9=mask)
    return status, args.r8


def read(rig: Rig, tdvpr: int, field_id: int) -> int:
    return rig.must(leaf.TDH_VP_RD, rcx=tdvpr, rdx=field_id).r8


def test_what_kvm_reads_when_a_td_is_made() -> None:
    """tdx_td_init: td_tdcs_exec_read64() of the offset and the multiplier."""
    rig = Rig()
    tdr, _ = td(rig)
    assert rig.must(leaf.TDH_MNG_RD, rcx=tdr, rdx=TSC_OFFSET).r8 == 0
    # The rig's TDs ask for 1 GHz; the processor's clock runs at 2 GHz.
    assert rig.must(leaf.TDH_MNG_RD, rcx=tdr, rdx=TSC_MULTIPLIER).r8 == 1 << 47


def test_what_kvm_writes_when_a_vcpu_is_made() -> None:
    """tdx_vcpu_init and tdx_load_mmu_pgd, with the optional exits turned on as well."""
    rig = Rig()
    _, tdvpr = td(rig)
    assert read(rig, tdvpr, POSTED_INTR_NV) == 0xFFFF
    assert write(rig, tdvpr, POSTED_INTR_NV, POSTED_INTR_VECTOR, 0xFFFF) == (0, 0xFFFF)
    assert write(rig, tdvpr, PIN_BASED, 0x80, 0x80) == (
        s.TDX_TD_VMCS_FIELD_NOT_INITIALIZED | POSTED_INTR_DESC_ADDR,
        0,
    )
    assert write(rig, tdvpr, POSTED_INTR_DESC_ADDR, PI_DESC, NO_FIELD) == (0, NO_FIELD)
    assert write(rig, tdvpr, PIN_BASED, 0x80, 0x80) == (0, 0)
    assert write(rig, tdvpr, SECONDARY, 1 << 31, 1 << 31) == (0, 0)
    assert write(rig, tdvpr, SECONDARY, 1 << 30, 1 << 30) == (0, 1 << 31)
    assert write(rig, tdvpr, NOTIFY_WINDOW, 128_000, 0xFFFF_FFFF) == (0, 0)
    first, _ = write(rig, tdvpr, SHARED_EPT_POINTER, EPT_ROOT, NO_FIELD)
    assert first == s.TDX_SUCCESS
    assert write(rig, tdvpr, SHARED_EPT_POINTER, EPT_ROOT + PAGE_SIZE, NO_FIELD) == (0, EPT_ROOT)
    assert write(rig, tdvpr, PEND_NMI, 1, 0xFF) == (0, 0)
    values = [
        read(rig, tdvpr, field_id)
        for field_id in (POSTED_INTR_NV, POSTED_INTR_DESC_ADDR, PIN_BASED, SECONDARY, PEND_NMI)
    ]
    assert values == [POSTED_INTR_VECTOR, PI_DESC, 0x80, 3 << 30, 1]
    assert ModuleView(rig.module).check() == []


def test_a_new_vcpu_on_an_old_page_has_the_first_values() -> None:
    rig = Rig(dynamic=False)
    tdr, tdvpr = td(rig)
    write(rig, tdvpr, POSTED_INTR_NV, POSTED_INTR_VECTOR, 0xFFFF)
    rig.must(leaf.TDH_VP_FLUSH, rcx=tdvpr)
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)
    rig.must(leaf.TDH_PHYMEM_CACHE_WB)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=tdr)
    for page in reversed(ModuleView(rig.module).used_pages()):
        rig.must(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=page << PAGE_SHIFT)
    _, again = td(rig)
    assert again == tdvpr
    assert read(rig, tdvpr, POSTED_INTR_NV) == 0xFFFF


def test_an_access_binds_the_vcpu_to_its_processor() -> None:
    rig = Rig(cpus=2)
    tdr, tdvpr = td(rig)
    associated = rig.module.tds.at(tdr >> PAGE_SHIFT).associated
    for number in (leaf.TDH_VP_RD, leaf.TDH_VP_WR):
        call = {"rcx": tdvpr, "rdx": POSTED_INTR_NV, "r8": 0xF2, "r9": 0xFFFF}
        assert rig.call(number, cpu=1, **call)[0] == s.TDX_VCPU_ASSOCIATED
        rig.must(leaf.TDH_VP_FLUSH, rcx=tdvpr)
        assert associated.load() == 0
        rig.must(number, cpu=1, **call)
        assert associated.load() == 1
        assert rig.must(leaf.TDH_VP_RD, cpu=1, rcx=tdvpr, rdx=md.ASSOC_LPID.id).r8 == 1
        rig.must(leaf.TDH_VP_FLUSH, cpu=1, rcx=tdvpr)
        read(rig, tdvpr, POSTED_INTR_NV)


WRITABLE = [field for field in md.VCPU_FIELDS if field.write and field.id & 0xFFFF != 0x4000]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(WRITABLE),
            st.integers(0, NO_FIELD),
            st.integers(0, NO_FIELD),
            st.booleans(),
        ),
        max_size=12,
    )
)
@settings(max_examples=120, deadline=None)
def test_what_is_written_is_read(
    writes: list[tuple[md.ScopedField, int, int, bool]],
) -> None:
    """Against a dictionary: bits of the mask change, all other bits and fields stay."""
    rig = Rig()
    _, tdvpr = td(rig)
    known = {field: field.initial for field in WRITABLE}
    for field, value, mask, wild in writes:
        if not wild:
            mask &= field.write
        status, before = write(rig, tdvpr, field.id, value, mask)
        if status == s.TDX_SUCCESS:
            assert before == known[field] & field.read & field.mask
            kept = known[field] & field.write if field.initial == known[field] else known[field]
            written = mask & field.write
            known[field] = kept & ~written | value & written
            assert written
        for other in WRITABLE:
            assert read(rig, tdvpr, other.id) == known[other] & other.read & other.mask, other


@pytest.mark.parametrize("number", [leaf.TDH_MNG_RD, leaf.TDH_VP_RD])
def test_version_1_walks_every_field_once(number: int) -> None:
    rig = Rig()
    tdr, tdvpr = td(rig)
    rcx = tdr if number == leaf.TDH_MNG_RD else tdvpr
    status, args = rig.call(number, 1, rcx=rcx, rdx=NO_FIELD & ~md.CONTEXT_MASK)
    assert status == s.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    seen = []
    while args.rdx != NO_FIELD:
        seen.append(args.rdx)
        rdx = args.rdx
        plain = rig.must(number, rcx=rcx, rdx=rdx)
        args = rig.must(number, 1, rcx=rcx, rdx=rdx)
        assert (plain.r8, plain.rdx) == (args.r8, rdx)
    fields = md.TD_FIELDS if number == leaf.TDH_MNG_RD else md.VCPU_FIELDS
    plain_elements = sum(field.elements for field in fields if field is not md.CPUID_VALUES)
    cpuid = 2 * 79 if number == leaf.TDH_MNG_RD else 0
    assert len(seen) == len(set(seen)) == plain_elements + cpuid
    assert rig.call(number, 2, rcx=rcx, rdx=seen[0])[0] == s.TDX_OPERAND_INVALID


def test_a_td_in_numbers() -> None:
    rig = Rig()
    tdr, tdvpr = td(rig, vcpus=2)
    values = {
        field.name: rig.must(leaf.TDH_MNG_RD, rcx=tdr, rdx=field.id).r8
        for field in md.TD_FIELDS
        if field is not md.CPUID_VALUES
    }
    assert values["FATAL"] == 0
    assert values["NUM_TDCX"] == 9
    # 9 of TDCS, 2 VCPUs of 6 pages, and 3 S-EPT pages.
    assert values["CHLDCNT"] == 9 + 12 + 3
    assert values["LIFECYCLE_STATE"] == 1
    assert values["HKID"] == rig.hkid + 1
    assert values["PKG_CONFIG_BITMAP"] == 1
    assert (values["NUM_VCPUS"], values["NUM_ASSOC_VCPUS"]) == (2, 2)
    assert (values["OP_STATE"], values["XFAM"], values["MAX_VCPUS"]) == (2, 3, 4)
    assert (values["TSC_FREQUENCY"], values["TD_EPOCH"], values["GPAW"]) == (40, 1, 0)
    assert read(rig, tdvpr, md.VMCS_HKID.id) == rig.hkid + 1
    assert read(rig, tdvpr, md.NUM_TDVPS_PAGES.id) == 6


class Waiting:
    """A guest for which an interrupt waits, or does not."""

    def __init__(self) -> None:
        self.interrupt_waits = False

    def run(self, tdcall: TdCall, access: object, exits: object) -> int:
        raise AssertionError("it is never entered")


def test_the_state_details_tell_of_a_virtual_interrupt() -> None:
    rig = Rig()
    _, tdvpr = td(rig)
    assert read(rig, tdvpr, VCPU_STATE_DETAILS) == 0
    guest = Waiting()
    rig.module.attach_guest(tdvpr, guest)
    assert read(rig, tdvpr, VCPU_STATE_DETAILS) == 0
    guest.interrupt_waits = True
    assert read(rig, tdvpr, VCPU_STATE_DETAILS) == 1


def cpuid_as_kvm_reads_it(rig: Rig, tdr: int) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """KVM_TDX_GET_CPUID: each leaf without a subleaf, or else its subleaves from 0 on."""
    found: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    def element(code: int) -> int | None:
        status, args = rig.call(leaf.TDH_MNG_RD, rcx=tdr, rdx=CPUID_VALUES | code)
        return args.r8 if status == s.TDX_SUCCESS else None

    def one(number: int, subleaf: int | None) -> bool:
        code = (number >> 31) << 16 | (number & 0x7F) << 9
        code |= 0x1FE if subleaf is None else (subleaf & 0x7F) << 1
        low = element(code)
        if low is None:
            return False
        high = cast(int, element(code + 1))
        assert high is not None
        key = number, 0 if subleaf is None else subleaf
        found[key] = low & 0xFFFFFFFF, low >> 32, high & 0xFFFFFFFF, high >> 32
        return True

    def whole(number: int) -> None:
        if not one(number, None):
            subleaf = 0
            while subleaf < 128 and one(number, subleaf):
                subleaf += 1

    for base in (0, 0x8000_0000):
        whole(base)
        for number in range(base + 1, found[base, 0][0] + 1):
            whole(number)
    return found


def test_cpuid_as_kvm_reads_it() -> None:
    rig = Rig(cpus=4)
    tdr, _ = td(rig)
    found = cpuid_as_kvm_reads_it(rig, tdr)
    assert len(found) < KVM_MAX_CPUID_ENTRIES
    vendor = b"".join(value.to_bytes(4, "little") for value in (found[0, 0][n] for n in (1, 3, 2)))
    assert (found[0, 0][0], vendor) == (0x23, b"GenuineIntel")
    assert found[1, 0][0] == PROCESSOR_VERSION
    # A hypervisor is present, and x2APIC; VMX is not.
    assert found[1, 0][2] & (1 << 31 | 1 << 21 | 1 << 5) == 1 << 31 | 1 << 21
    assert found[0x21, 0][1:] == (0x65746E49, 0x20202020, 0x5844546C)
    assert found[0x15, 0][:3] == (1, 40, 25_000_000)
    assert found[0x8000_0000, 0][0] == 0x8000_0008
    assert found[0x8000_0008, 0][0] == 48 << 8 | rig.module.machine.max_pa_bits
    levels = [found[0x1F, level][2] >> 8 & 0xFF for level in range(6)]
    assert levels == [1, 2, 0, 0, 0, 0]
    assert found[0x1F, 1][:2] == (2, 4)
    assert found[0xB, 0] == found[0x1F, 0]
    assert found[0xB, 1] == (2, 4, 2 << 8 | 1, 0)


@pytest.mark.parametrize("number", [leaf.TDH_MNG_RD, leaf.TDH_VP_RD, leaf.TDH_VP_WR])
def test_the_id_of_one_element_has_only_the_bits_of_its_class_and_code(number: int) -> None:
    """Each other bit: refused when reserved or a sequence's, not looked at when of the context."""
    rig = Rig()
    tdr, tdvpr = td(rig)
    field_id = TSC_OFFSET if number == leaf.TDH_MNG_RD else POSTED_INTR_NV
    call = {"rcx": tdr if number == leaf.TDH_MNG_RD else tdvpr, "r8": 0xF2, "r9": 0xFFFF}
    refused = set()
    for bit in (*range(24, 56), 62):  # the code is below, the class between
        status, args = rig.call(number, rdx=field_id | 1 << bit, **call)
        if status:
            refused.add(bit)
            assert (status, args.r8) == (s.TDX_METADATA_FIELD_ID_INCORRECT, 0)
    reserved = {*range(24, 32), *range(47, 50), 55, 62}
    sequence = set(range(34, 47))  # 37:34 last element, 46:38 last field
    assert refused == reserved | sequence


def test_a_td_that_is_not_initialised_is_not_read() -> None:
    rig = Rig()
    call = mng_init(rig)
    status, args = rig.call(leaf.TDH_MNG_RD, rcx=call["rcx"], rdx=TSC_OFFSET)
    assert (status & STATUS_MASK, args.r8) == (s.TDX_OP_STATE_INCORRECT, 0)
    rig.must(leaf.TDH_MNG_INIT, **call)
    rig.must(leaf.TDH_MNG_RD, rcx=call["rcx"], rdx=TSC_OFFSET)


def test_posted_interrupts_may_be_turned_off_before_they_are_set_up() -> None:
    rig = Rig()
    _, tdvpr = td(rig)
    assert write(rig, tdvpr, PIN_BASED, 0, 0x80) == (0, 0)


@pytest.mark.parametrize("number", [leaf.TDH_VP_RD, leaf.TDH_VP_WR])
def test_a_vcpu_that_is_not_whole_has_no_fields(number: int) -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1, finalize=False)
    tdvpr = FIRST + 100 * PAGE_SIZE
    call = {"rcx": tdvpr, "rdx": POSTED_INTR_NV, "r8": 0xF2, "r9": 0xFFFF}
    rig.must(leaf.TDH_VP_CREATE, rcx=tdvpr, rdx=tdr)
    for page in range(1, 6):
        assert rig.call(number, **call)[0] == s.TDX_TDCX_NUM_INCORRECT
        rig.must(leaf.TDH_VP_ADDCX, rcx=tdvpr + page * PAGE_SIZE, rdx=tdvpr)
    assert rig.call(number, **call)[0] & STATUS_MASK == s.TDX_VCPU_STATE_INCORRECT
    rig.must(leaf.TDH_VP_INIT, rcx=tdvpr)
    rig.must(number, **call)
