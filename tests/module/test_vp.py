"""VCPUs: how many, on which processor, with which x2APIC ID; what VP.ENTER keeps while inside."""

from collections.abc import Callable

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi.exits import (
    EPT_VIOLATION_WRITE,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXTENDED_LEVEL_MASK,
    EXTENDED_MET_LEAF_SHIFT,
    EXTENDED_MET_LEVEL_SHIFT,
    EXTENDED_MET_STATE_SHIFT,
    EXTENDED_REQUESTED_LEVEL_SHIFT,
    EXTENDED_TYPE_ACCEPT,
    EXTENDED_TYPE_MASK,
    EXTENDED_TYPE_NONE,
    INTERRUPTION_VALID,
    TDG_MEM_PAGE_ACCEPT,
)
from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SEPT_PENDING
from dpamt.abi.status import (
    TDX_FLUSHVP_NOT_DONE,
    TDX_MAX_VCPUS_EXCEEDED,
    TDX_NO_VCPUS,
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_BUSY_HOST_PRIORITY,
    TDX_OPERAND_INVALID,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_SUCCESS,
    TDX_TDCX_NUM_INCORRECT,
    TDX_TLB_TRACKING_NOT_DONE,
    TDX_VCPU_ASSOCIATED,
    TDX_VCPU_NOT_ASSOCIATED,
    TDX_X2APIC_ID_NOT_UNIQUE,
)
from dpamt.module.view import ModuleView
from dpamt.platform.guest import TdCall
from tests.module.rig import FIRST, Rig

Access = Callable[[int], None]


class Guest:
    """A guest whose program is a function of its calls; it halts when the function is done."""

    def __init__(self, program: Callable[[TdCall, Access], object]) -> None:
        self.program = program

    def run(self, tdcall: TdCall, access: Access, exits: TdxModuleArgs) -> int:
        self.program(tdcall, access)
        exits.r11 = 7
        return EXIT_REASON_HLT


def rig_and_td(finalize: bool = True, vcpus: int = 1) -> tuple[Rig, int]:
    rig = Rig()
    return rig, rig.make_td(FIRST, rig.hkid + 1, finalize=finalize, vcpus=vcpus)


def enter(
    rig: Rig, tdr: int, program: Callable[[TdCall, Access], object]
) -> tuple[int, TdxModuleArgs]:
    rig.module.attach_guest(rig.tdvpr(tdr), Guest(program))
    return rig.call(leaf.TDH_VP_ENTER, rcx=rig.tdvpr(tdr))


def new_vcpu(rig: Rig, tdr: int, first: int, pages: int = 6) -> int:
    tdvpr = FIRST + first * PAGE_SIZE
    rig.must(leaf.TDH_VP_CREATE, rcx=tdvpr, rdx=tdr)
    for n in range(1, pages):
        rig.must(leaf.TDH_VP_ADDCX, rcx=tdvpr + n * PAGE_SIZE, rdx=tdvpr)
    return tdvpr


def test_a_vcpu_stays_on_its_processor_until_flushed() -> None:
    rig, tdr = rig_and_td()
    tdvpr = rig.tdvpr(tdr)
    assert rig.call(leaf.TDH_VP_ENTER, rcx=tdvpr)[0] == EXIT_REASON_HLT
    assert rig.call(leaf.TDH_VP_ENTER, cpu=1, rcx=tdvpr)[0] == TDX_VCPU_ASSOCIATED
    assert rig.call(leaf.TDH_VP_FLUSH, cpu=1, rcx=tdvpr)[0] == TDX_VCPU_NOT_ASSOCIATED
    assert rig.call(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)[0] == TDX_FLUSHVP_NOT_DONE
    rig.must(leaf.TDH_VP_FLUSH, rcx=tdvpr)
    assert rig.call(leaf.TDH_VP_ENTER, cpu=1, rcx=tdvpr)[0] == EXIT_REASON_HLT
    rig.must(leaf.TDH_VP_FLUSH, cpu=1, rcx=tdvpr)
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)


def test_x2apic_ids_are_unique_and_vcpus_limited() -> None:
    rig, tdr = rig_and_td(finalize=False)
    first = new_vcpu(rig, tdr, 100)
    rig.must(leaf.TDH_VP_INIT, 1, rcx=first, r8=9)
    second = new_vcpu(rig, tdr, 110)
    status, _ = rig.call(leaf.TDH_VP_INIT, 1, rcx=second, r8=9)
    assert status == TDX_X2APIC_ID_NOT_UNIQUE | 9
    status, _ = rig.call(leaf.TDH_VP_INIT, 1, rcx=second, r8=1 << 32)
    assert status == TDX_OPERAND_INVALID | op.OPERAND_R8
    assert rig.call(leaf.TDH_VP_INIT, 2, rcx=second)[0] == TDX_OPERAND_INVALID
    rig.must(leaf.TDH_VP_INIT, 1, rcx=second, r8=10)
    rig.must(leaf.TDH_VP_INIT, rcx=new_vcpu(rig, tdr, 120))
    status, _ = rig.call(leaf.TDH_VP_INIT, rcx=new_vcpu(rig, tdr, 130))
    assert status == TDX_MAX_VCPUS_EXCEEDED
    assert ModuleView(rig.module).check() == []


def test_a_vcpu_needs_its_pages_and_a_td_a_vcpu() -> None:
    rig, tdr = rig_and_td(finalize=False, vcpus=0)
    assert rig.call(leaf.TDH_MR_FINALIZE, rcx=tdr)[0] == TDX_NO_VCPUS
    tdvpr = new_vcpu(rig, tdr, 100, pages=5)
    assert rig.call(leaf.TDH_VP_INIT, rcx=tdvpr)[0] == TDX_TDCX_NUM_INCORRECT
    for n in range(10):
        rig.must(leaf.TDH_VP_ADDCX, rcx=FIRST + (200 + n) * PAGE_SIZE, rdx=tdvpr)
    status, _ = rig.call(leaf.TDH_VP_ADDCX, rcx=FIRST + 300 * PAGE_SIZE, rdx=tdvpr)
    assert status == TDX_TDCX_NUM_INCORRECT
    rig.must(leaf.TDH_VP_INIT, rcx=tdvpr)
    status, _ = rig.call(leaf.TDH_VP_ENTER, rcx=tdvpr)
    assert status == TDX_OP_STATE_INCORRECT | 1


def test_a_guest_inside_holds_back_track_and_remove() -> None:
    rig, tdr = rig_and_td()
    page = FIRST + 100 * PAGE_SIZE
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=page)
    seen: list[int] = []

    def program(tdcall: TdCall, access: Access) -> None:
        rig.must(leaf.TDH_MEM_RANGE_BLOCK, cpu=1, rcx=0, rdx=tdr)
        rig.must(leaf.TDH_MEM_TRACK, cpu=1, rcx=tdr)
        seen.append(rig.call(leaf.TDH_MEM_PAGE_REMOVE, cpu=1, rcx=0, rdx=tdr)[0])
        seen.append(rig.call(leaf.TDH_MEM_TRACK, cpu=1, rcx=tdr)[0])
        seen.append(rig.call(leaf.TDH_MNG_VPFLUSHDONE, cpu=1, rcx=tdr)[0])

    assert enter(rig, tdr, program)[0] == EXIT_REASON_HLT
    assert seen == [
        TDX_TLB_TRACKING_NOT_DONE | op.OPERAND_RCX,
        TDX_PREVIOUS_TLB_EPOCH_BUSY,
        TDX_OPERAND_BUSY | op.OPERAND_RCX,
    ]
    assert rig.must(leaf.TDH_MEM_PAGE_REMOVE, rcx=0, rdx=tdr).rcx == page
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)


def test_a_track_in_progress_keeps_vcpus_out() -> None:
    rig, tdr = rig_and_td()
    td = rig.module.tds.at(tdr >> 12)
    td.epoch_lock.try_exclusive()
    status, _ = rig.call(leaf.TDH_VP_ENTER, rcx=rig.tdvpr(tdr))
    assert status == TDX_OPERAND_BUSY | op.OPERAND_TD_EPOCH
    td.epoch_lock.release_exclusive()
    assert rig.call(leaf.TDH_VP_ENTER, rcx=rig.tdvpr(tdr))[0] == EXIT_REASON_HLT


def test_registers_of_a_tdvmcall_cross_and_the_hosts_do_not_leak() -> None:
    rig, tdr = rig_and_td()
    status, args = enter(rig, tdr, lambda tdcall, access: None)
    assert status == EXIT_REASON_HLT
    assert args == TdxModuleArgs.of(r11=7)


def test_access_faults_until_the_page_is_there_and_accepted() -> None:
    rig, tdr = rig_and_td()
    reached: list[str] = []

    def program(tdcall: TdCall, access: Access) -> None:
        access(0x1234)
        reached.append("in")

    status, args = enter(rig, tdr, program)
    assert status == EXIT_REASON_EPT_VIOLATION
    assert (args.rcx, args.rdx, args.r8) == (EPT_VIOLATION_WRITE, EXTENDED_TYPE_NONE, 0x1234)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0x1000, rdx=tdr, r8=FIRST + 100 * PAGE_SIZE)
    assert enter(rig, tdr, program)[0] == EXIT_REASON_EPT_VIOLATION
    accept = TdxModuleArgs.of(rcx=0x1000)
    status, _ = enter(
        rig, tdr, lambda tdcall, access: reached.append(str(tdcall(TDG_MEM_PAGE_ACCEPT, accept)))
    )
    assert status == EXIT_REASON_HLT
    assert enter(rig, tdr, program)[0] == EXIT_REASON_HLT
    assert reached == [str(TDX_SUCCESS), "in"]


def test_an_interrupt_comes_before_the_next_instruction() -> None:
    rig, tdr = rig_and_td()
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=FIRST + 100 * PAGE_SIZE)
    done: list[int] = []

    def interrupted(tdcall: TdCall, access: Access) -> None:
        done.append(tdcall(TDG_MEM_PAGE_ACCEPT, TdxModuleArgs()))
        rig.module.interrupt_pending = True
        rig.module.interrupt_vector = 0xEC
        access(0)
        done.append(-1)

    status, args = enter(rig, tdr, interrupted)
    assert (status, done) == (EXIT_REASON_EXTERNAL_INTERRUPT, [TDX_SUCCESS])
    assert args == TdxModuleArgs.of(r9=INTERRUPTION_VALID | 0xEC)
    # It stays pending until the host takes it: nothing runs, and no call of the guest's.
    again = TdxModuleArgs()
    for program in (lambda tdcall, access: access(0), lambda tdcall, access: tdcall(0, again)):
        assert enter(rig, tdr, program)[0] == EXIT_REASON_EXTERNAL_INTERRUPT
    rig.module.interrupt_pending = False
    assert enter(rig, tdr, lambda tdcall, access: access(0))[0] == EXIT_REASON_HLT


def test_an_accept_of_a_part_of_a_pending_2m_page_asks_for_a_split() -> None:
    rig, tdr = rig_and_td()
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=SIZE_2M | 1, rdx=tdr, r8=FIRST + 16 * SIZE_2M)
    wanted = TdxModuleArgs.of(rcx=SIZE_2M + 5 * PAGE_SIZE)
    status, args = enter(rig, tdr, lambda tdcall, access: tdcall(TDG_MEM_PAGE_ACCEPT, wanted))
    assert status == EXIT_REASON_EPT_VIOLATION
    assert args.r8 == SIZE_2M + 5 * PAGE_SIZE
    assert args.rdx & EXTENDED_TYPE_MASK == EXTENDED_TYPE_ACCEPT
    assert args.rdx >> EXTENDED_REQUESTED_LEVEL_SHIFT & EXTENDED_LEVEL_MASK == 0
    assert args.rdx >> EXTENDED_MET_LEVEL_SHIFT & EXTENDED_LEVEL_MASK == 1
    assert args.rdx >> EXTENDED_MET_STATE_SHIFT & 0xFF == SEPT_PENDING
    assert args.rdx >> EXTENDED_MET_LEAF_SHIFT == 1


def test_a_guest_gives_way_to_a_host_that_failed() -> None:
    rig, tdr = rig_and_td()
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=FIRST + 100 * PAGE_SIZE)
    sept = rig.module.tds.sept.at((FIRST >> 12) + 65)
    sept.raise_host_priority(0)
    answers: list[int] = []
    args = TdxModuleArgs.of(rcx=0)
    enter(rig, tdr, lambda tdcall, access: answers.append(tdcall(TDG_MEM_PAGE_ACCEPT, args)))
    assert answers == [TDX_OPERAND_BUSY_HOST_PRIORITY | op.OPERAND_RCX]
    rig.must(leaf.TDH_MEM_SEPT_RD, rcx=0, rdx=tdr)
    enter(rig, tdr, lambda tdcall, access: answers.append(tdcall(TDG_MEM_PAGE_ACCEPT, args)))
    assert answers[1] == TDX_SUCCESS
