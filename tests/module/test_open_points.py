"""What the reference leaves open or says in passing, and the module's source says outright.

Source: Intel TDX module source (open release), 1.5 and 2.0; each test names its file.
"""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.exits import TDG_MEM_PAGE_ACCEPT
from dpamt.abi.pages import NULL_PA, PAGE_SHIFT, PT_PAMT, PT_RSVD
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SEPT_BLOCKED, SEPT_MAPPED, SEPT_NL_BLOCKED, SEPT_PENDING
from dpamt.module.fatal import ModuleFatal
from dpamt.module.guest import Guest
from dpamt.module.td import Td
from tests.module.recipes import (
    GPA,
    LARGE,
    aug_2m,
    block_and_track,
    created,
    initialized,
    keyed,
    mng_init,
    mr_extend,
    near,
    page_add,
    page_promote,
    page_remove,
    sept_add,
)
from tests.module.rig import FIRST, SOURCE, Rig, params_of
from tests.module.test_l2_sept import WantedTree


def td_of(rig: Rig, tdr: int = FIRST) -> Td:
    return rig.module.tds.at(tdr >> PAGE_SHIFT)


# Keys: tdh_mng_vpflushdone.c, tdh_phymem_cache_wb.c.


def test_a_keyid_never_configured_is_written_back_too() -> None:
    """The packages to write back are those of the platform, not those that have the TD's key."""
    rig = Rig(packages=2)
    created(rig)
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=FIRST)
    for cpu in rig.one_cpu_of_each_package():
        assert rig.call(leaf.TDH_MNG_KEY_FREEID, rcx=FIRST)[0] == s.TDX_WBCACHE_NOT_COMPLETE
        rig.must(leaf.TDH_PHYMEM_CACHE_WB, cpu=cpu)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=FIRST)


def test_a_resumed_write_back_is_for_the_keyids_flushed_when_it_began() -> None:
    rig = Rig()
    keyed(rig)
    rig.must(leaf.TDH_MNG_CREATE, rcx=near(0), rdx=rig.hkid + 2)
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=FIRST)
    rig.module.interrupt_pending = True
    assert rig.call(leaf.TDH_PHYMEM_CACHE_WB)[0] == s.TDX_INTERRUPTED_RESUMABLE
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=near(0))
    rig.module.interrupt_pending = False
    rig.must(leaf.TDH_PHYMEM_CACHE_WB, rcx=1)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=FIRST)
    assert rig.call(leaf.TDH_MNG_KEY_FREEID, rcx=near(0))[0] == s.TDX_WBCACHE_NOT_COMPLETE
    rig.must(leaf.TDH_PHYMEM_CACHE_WB)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=near(0))


def test_a_start_that_finds_nothing_drops_an_interrupted_write_back() -> None:
    rig = Rig(packages=2)
    keyed(rig)
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=FIRST)
    first, second = rig.one_cpu_of_each_package()
    rig.must(leaf.TDH_PHYMEM_CACHE_WB, cpu=first)
    rig.module.interrupt_pending = True
    for cpu in (first, second):
        status, _ = rig.call(leaf.TDH_PHYMEM_CACHE_WB, cpu=cpu)
        assert status == s.TDX_INTERRUPTED_RESUMABLE
    rig.module.interrupt_pending = False
    rig.must(leaf.TDH_PHYMEM_CACHE_WB, cpu=second, rcx=1)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=FIRST)
    assert rig.call(leaf.TDH_PHYMEM_CACHE_WB, cpu=first)[0] == s.TDX_NO_HKID_READY_TO_WBCACHE
    status, _ = rig.call(leaf.TDH_PHYMEM_CACHE_WB, cpu=first, rcx=1)
    assert status == s.TDX_WBCACHE_RESUME_ERROR


# TDs and VCPUs: tdh_mng_init.c, tdh_vp_init.c.


def test_the_epoch_begins_before_td_params_are_looked_at() -> None:
    rig = Rig()
    registers = mng_init(rig)
    for rdx, epoch, status in (
        (params_of(1) | 8, 0, s.TDX_OPERAND_INVALID | op.OPERAND_RDX),
        (params_of(1), 1, s.TDX_TDCS_NOT_ALLOCATED),
    ):
        assert rig.call(leaf.TDH_MNG_INIT, rcx=registers["rcx"], rdx=rdx)[0] == status
        assert td_of(rig).epoch.load() == epoch
    rig.must(leaf.TDH_MNG_INIT, **registers)


def test_a_vcpu_without_an_x2apic_id_counts_as_0() -> None:
    rig = Rig()
    tdr = initialized(rig)
    rig.must(leaf.TDH_VP_CREATE, rcx=near(0), rdx=tdr)
    for number in range(1, 6):
        rig.must(leaf.TDH_VP_ADDCX, rcx=near(number), rdx=near(0))
    status, _ = rig.call(leaf.TDH_VP_INIT, 1, rcx=near(0), r8=0)
    assert status == s.TDX_X2APIC_ID_NOT_UNIQUE | 0
    rig.must(leaf.TDH_VP_INIT, 1, rcx=near(0), r8=1)


# Interrupts and host priority: helpers.c, check_host_interrupt_and_hp_bit.


@pytest.mark.parametrize(("version", "busy"), [(0, False), (1, True)])
def test_sept_add_gives_way_to_whoever_wants_the_tree(version: int, busy: bool) -> None:
    """Between two pages only, and it resumes as after an interrupt."""
    rig = Rig(release="1.5.25")
    registers = sept_add(rig)
    wanted = WantedTree()
    wanted.raise_host_priority()
    td_of(rig).tree = wanted
    status, args = rig.call(leaf.TDH_MEM_SEPT_ADD, version, **registers)
    assert (status == s.TDX_INTERRUPTED_BUSY) is busy
    if busy:
        assert (args.rcx, args.rdx, args.r8) == (registers["rcx"], registers["rdx"], NULL_PA)
        assert (args.r9, args.r10, args.r11) == tuple(registers[f"r{n}"] for n in (9, 10, 11))


def test_promote_looks_for_an_interrupt_before_it_locks_an_l2_page() -> None:
    rig = Rig()
    registers = page_promote(rig)
    rig.module.pamt.region(FIRST >> 21).entries.try_shared(near(1) - FIRST >> PAGE_SHIFT)
    assert (
        rig.call(leaf.TDH_MEM_PAGE_PROMOTE, **registers)[0] == s.TDX_OPERAND_BUSY | op.OPERAND_RCX
    )
    rig.module.interrupt_pending = True
    status, args = rig.call(leaf.TDH_MEM_PAGE_PROMOTE, **registers)
    assert status == s.TDX_INTERRUPTED_RESTARTABLE
    assert (args.rcx, args.rdx) == (registers["rcx"], registers["rdx"])


# S-EPT entry locks: tdx_locks.h, tdh_mem_page_promote.c, sept_manager.c.


@pytest.mark.parametrize("index", [0, 7, 511])
def test_promote_takes_a_locked_entry_for_one_that_differs(index: int) -> None:
    """Where the tree is exclusive, the entries are compared and not locked; HP is left out."""
    rig = Rig(release="1.5.25")
    registers = page_promote(rig)
    table = rig.module.tds.sept.find(near(0) >> PAGE_SHIFT)
    table.try_exclusive(index)
    status, args = rig.call(leaf.TDH_MEM_PAGE_PROMOTE, **registers)
    assert status == s.TDX_EPT_INVALID_PROMOTE_CONDITIONS | op.OPERAND_RCX
    assert (args.rcx, args.rdx) == (0, 1 | SEPT_NL_BLOCKED << 8)
    table.release_exclusive(index)
    table.raise_host_priority(index)
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, **registers)


def test_a_guest_is_told_of_host_priority_only_once_the_entry_is_free() -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=near(0))
    table = rig.module.tds.sept.find((FIRST >> PAGE_SHIFT) + 65)
    guest = Guest(rig.module.processor(0), td_of(rig))
    table.try_exclusive(0)
    status, _ = rig.call(leaf.TDH_MEM_RANGE_BLOCK, rcx=0, rdx=tdr)
    assert status == s.TDX_OPERAND_BUSY | op.OPERAND_RCX
    accept = TdxModuleArgs.of(rcx=0)
    assert guest.tdcall(TDG_MEM_PAGE_ACCEPT, accept) == s.TDX_OPERAND_BUSY | op.OPERAND_RCX
    table.release_exclusive(0)
    status = guest.tdcall(TDG_MEM_PAGE_ACCEPT, accept)
    assert status == s.TDX_OPERAND_BUSY_HOST_PRIORITY | op.OPERAND_RCX


def test_page_add_of_an_entry_that_someone_has_is_fatal() -> None:
    """It writes an entry that, with the TDR held exclusively, nobody can have locked."""
    rig = Rig()
    registers = page_add(rig)
    table = rig.module.tds.sept.find((FIRST >> PAGE_SHIFT) + 65)
    table.try_exclusive(0)
    with pytest.raises(ModuleFatal):
        rig.call(leaf.TDH_MEM_PAGE_ADD, **registers)


# Measurement: tdh_mr_extend.c.


def test_only_a_leaf_without_access_is_shown_by_mr_extend() -> None:
    """A page the guest cannot read is no present leaf: the walk ends there, and is shown."""
    rig = Rig()
    registers = mr_extend(rig)
    tdr = registers["rdx"]
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0x1000, rdx=tdr, r8=near(1))
    status, args = rig.call(leaf.TDH_MR_EXTEND, rcx=0x1000, rdx=tdr)
    assert status == s.TDX_EPT_ENTRY_NOT_PRESENT | op.OPERAND_RCX
    assert args.rdx == SEPT_PENDING << 8
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=0, rdx=tdr)
    status, args = rig.call(leaf.TDH_MR_EXTEND, **registers)
    assert status == s.TDX_EPT_ENTRY_NOT_PRESENT | op.OPERAND_RCX
    assert args.rdx == SEPT_BLOCKED << 8
    rig.must(leaf.TDH_MEM_RANGE_UNBLOCK, rcx=0, rdx=tdr)
    rig.must(leaf.TDH_MR_EXTEND, **registers)


# PAMT entries: pamt_manager.c.


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_large_page_keeps_its_bepoch_only_in_static_mode(dynamic: bool) -> None:
    """There, DEMOTE and PROMOTE write the type and owner of the large page's entry, no more."""
    rig = Rig(dynamic)
    registers = aug_2m(rig)
    tdr = registers["rdx"]
    rig.must(leaf.TDH_MEM_PAGE_AUG, **registers)
    large = block_and_track(rig, tdr, GPA | 1)
    pair = rig.take_pair()
    rig.must(
        leaf.TDH_MEM_PAGE_DEMOTE,
        r8=near(0),
        r9=NULL_PA,
        r10=NULL_PA,
        r11=NULL_PA,
        r12=pair[0],
        r13=pair[1],
        **large,
    )
    assert rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=LARGE).r9 == 0
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, **block_and_track(rig, tdr, GPA | 1))
    assert rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=LARGE).r9 == (0 if dynamic else 1)


def test_static_entries_below_a_large_page_keep_their_locks() -> None:
    rig = Rig(dynamic=False)
    registers = aug_2m(rig)
    rig.must(leaf.TDH_MEM_PAGE_AUG, **registers)
    entries = rig.module.pamt.region(LARGE >> 21).entries
    entries.try_shared(3)
    entries.raise_host_priority(4)
    large = block_and_track(rig, registers["rdx"], GPA | 1)
    rig.must(leaf.TDH_MEM_PAGE_DEMOTE, r8=near(0), r9=NULL_PA, r10=NULL_PA, r11=NULL_PA, **large)
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, **block_and_track(rig, registers["rdx"], GPA | 1))
    assert entries.locked() == {3: 4, 4: 2}
    entries.release_shared(3)


@pytest.mark.parametrize("kind", [PT_RSVD, PT_PAMT])
def test_a_page_in_use_that_is_none_is_fatal(kind: int) -> None:
    rig = Rig()
    registers = page_remove(rig)
    page = near(0) >> PAGE_SHIFT
    rig.module.pamt.region(page >> 9).entries.store(page & 511, kind)
    with pytest.raises(ModuleFatal):
        rig.call(leaf.TDH_MEM_PAGE_REMOVE, **registers)


def test_unblock_looks_into_pamt_only_where_tracking_is_needed() -> None:
    """Before MR.FINALIZE it does not, so that it cannot meet there what is impossible."""
    rig = Rig()
    tdr = initialized(rig)
    rig.must(leaf.TDH_MEM_PAGE_ADD, rcx=0, rdx=tdr, r8=near(0), r9=SOURCE)
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=0, rdx=tdr)
    page = near(0) >> PAGE_SHIFT
    rig.module.pamt.region(page >> 9).entries.store(page & 511, 0)
    rig.must(leaf.TDH_MEM_RANGE_UNBLOCK, rcx=0, rdx=tdr)
    args = rig.must(leaf.TDH_MEM_SEPT_RD, rcx=0, rdx=tdr)
    assert args.rdx == SEPT_MAPPED << 8
