"""TDVMCALLs: what KVM answers by itself, what it leaves to user space, and MapGPA's checks."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpamt.abi.exits import EXIT_REASON_HLT, EXIT_REASON_TDCALL
from dpamt.abi.leaves import TDH_MEM_PAGE_DEMOTE
from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.tdx_errno import EINVAL
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vm
from dpamt.platform.guest import TdCall
from tests.host.rig import Host, booted, make_td

# Linux arch/x86/include/asm/shared/tdx.h.
INFO, MAP_GPA, QUOTE, FATAL, NOTIFY = range(0x10000, 0x10005)
INVALID_OPERAND, ALIGN_ERROR, UNSUPPORTED = 1 << 63, 1 << 63 | 2, 1 << 63 | 3
GPA_SHARED, LEGAL = 1 << 47, 1 << 52


class Asking:
    """A guest that makes one TDVMCALL, keeps the answer, and halts."""

    def __init__(self, *registers: int) -> None:
        self.registers = registers
        self.asked = False
        self.answer: tuple[int, ...] = ()

    def run(self, tdcall: TdCall, access: object, exits: TdxModuleArgs) -> int:
        if self.asked:
            self.answer = exits.r10, exits.r11, exits.r12, exits.r13
            return EXIT_REASON_HLT
        self.asked = True
        exits.r10 = 0
        exits.r11, exits.r12, exits.r13 = self.registers
        return EXIT_REASON_TDCALL


def ask(host: Host, vm: Vm, number: int, r12: int = 0, r13: int = 0) -> tuple[int, tuple[int, ...]]:
    guest = Asking(number, r12, r13)
    vcpu = vm.vcpus[0]
    vcpu.registers = TdxModuleArgs()
    host.module.attach_guest(vcpu.tdvpr << PAGE_SHIFT, guest)
    return tdx_vcpu_run(vm, vcpu, host.cpu), guest.answer


@pytest.fixture(scope="module")
def host() -> Host:
    return booted("merged")


@pytest.fixture(scope="module")
def vm(host: Host) -> Vm:
    return make_td(host)


@pytest.mark.parametrize(
    ("number", "r12", "answer"),
    [
        (INFO, 0, (0, 0, 0, 0)),
        (INFO, 2, (INVALID_OPERAND, INFO, 2, 7)),
        (QUOTE, 0x1000, (INVALID_OPERAND, QUOTE, 0x1000, 7)),
        (NOTIFY, 31, (INVALID_OPERAND, NOTIFY, 31, 7)),
        (NOTIFY, 256, (INVALID_OPERAND, NOTIFY, 256, 7)),
        (NOTIFY + 1, 0, (UNSUPPORTED, NOTIFY + 1, 0, 7)),
        (0x20000, GPA_SHARED, (UNSUPPORTED, 0x20000, GPA_SHARED, 7)),
    ],
)
def test_what_kvm_answers(
    host: Host, vm: Vm, number: int, r12: int, answer: tuple[int, ...]
) -> None:
    assert ask(host, vm, number, r12, 7) == (EXIT_REASON_HLT, answer)


@pytest.mark.parametrize(
    ("number", "r12"),
    [(FATAL, 5), (INFO, 1), (QUOTE, 0x1000 | GPA_SHARED), (NOTIFY, 32), (NOTIFY, 255)],
)
def test_what_user_space_answers(host: Host, vm: Vm, number: int, r12: int) -> None:
    assert ask(host, vm, number, r12, 7) == (EXIT_REASON_TDCALL, ())
    registers = vm.vcpus[0].registers
    assert (registers.r11, registers.r12, registers.r13) == (number, r12, 7)


numbers = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, 0xFFF, GPA_SHARED, GPA_SHARED - PAGE_SIZE, LEGAL, LEGAL - PAGE_SIZE]),
    st.integers(0, 64).map(lambda page: page * PAGE_SIZE),
    st.integers(0, 64).map(lambda page: page * PAGE_SIZE | GPA_SHARED),
)


@given(gpa=numbers, size=numbers)
@example(gpa=GPA_SHARED, size=1)
@example(gpa=GPA_SHARED - PAGE_SIZE, size=PAGE_SIZE)
@example(gpa=LEGAL - PAGE_SIZE, size=PAGE_SIZE)
@settings(max_examples=200, deadline=None)
def test_mapgpa_names_whole_pages_of_one_kind(host: Host, vm: Vm, gpa: int, size: int) -> None:
    last = (gpa + size - 1) % (1 << 64)
    wraps = (gpa + size) % (1 << 64) <= gpa
    before = [vm.shared_pages.at(gfn).load() for gfn in range(vm.memory_pages)]
    result, answer = ask(host, vm, MAP_GPA, gpa, size)
    if wraps or gpa >= LEGAL or last >= LEGAL or gpa & GPA_SHARED != last & GPA_SHARED:
        assert (result, answer[:2]) == (EXIT_REASON_HLT, (INVALID_OPERAND, gpa))
    elif gpa % PAGE_SIZE or size % PAGE_SIZE:
        assert (result, answer[:2]) == (EXIT_REASON_HLT, (ALIGN_ERROR, gpa))
    elif (gpa & ~GPA_SHARED) + size <= vm.memory_pages << PAGE_SHIFT:
        assert (result, answer) == (EXIT_REASON_HLT, (0, 0, 0, 0))
        first, pages = (gpa & ~GPA_SHARED) // PAGE_SIZE, size // PAGE_SIZE
        before[first : first + pages] = [gpa // GPA_SHARED] * pages
        assert [vm.shared_pages.at(gfn).load() for gfn in range(vm.memory_pages)] == before
    else:
        assert result == -EINVAL  # user space knows no such memory
    assert not vm.bugged.load()


def test_a_long_conversion_is_made_2m_at_a_time_from_where_it_begins() -> None:
    """A 2M page that lies across two of the parts is split, though all of it becomes shared."""
    host = booted("merged")
    vm = make_td(host, huge=True)
    host.cpu.running_vcpu = vm.vcpus[0]
    for index in range(1, 4):
        gpa = index * SIZE_2M
        assert tdx_handle_ept_violation(vm, vm.vcpus[0], host.cpu, gpa, LEVEL_2M) == 0
    host.cpu.running_vcpu = None
    splits = 0
    real = host.cpu.seamcall

    def counting(rax: int, args: TdxModuleArgs) -> int:
        nonlocal splits
        splits += rax == TDH_MEM_PAGE_DEMOTE
        return real(rax, args)

    host.cpu.seamcall = counting
    half = SIZE_2M // 2
    asked = ask(host, vm, MAP_GPA, SIZE_2M + half | GPA_SHARED, 2 * SIZE_2M)
    assert (asked[0], splits) == (EXIT_REASON_HLT, 3)
    shared = [vm.shared_pages.at(gfn).load() for gfn in range(512, 2048)]
    assert shared == [0] * 256 + [1] * 1024 + [0] * 256
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []
