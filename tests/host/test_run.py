"""KVM_RUN with a guest inside: faults, acceptance at either size, conversions, exits."""

from collections.abc import Callable, Iterator

import pytest

from dpamt.abi.exits import (
    EXIT_REASON_HLT,
    EXIT_REASON_TDCALL,
    TDG_MEM_PAGE_ACCEPT,
    TDVMCALL_MAP_GPA,
)
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, TDX_PAGE_SIZE_MISMATCH
from dpamt.host.core.tdx_errno import EFAULT, EINTR, EINVAL, EIO
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.tdvmcall import GPA_SHARED
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vm
from dpamt.platform.guest import TdCall
from tests.host.rig import ALL_DESIGNS, Host, booted, make_td

Access = Callable[[int], None]


class Script:
    """A guest that does one thing after another, each again until it does not leave the guest."""

    def __init__(self, *steps: tuple[str, int, int]) -> None:
        self.steps = list(steps)
        self.at = 0
        self.statuses: list[int] = []

    def run(self, tdcall: TdCall, access: Access, exits: TdxModuleArgs) -> int:
        while self.at < len(self.steps):
            what, gpa, argument = self.steps[self.at]
            if what == "touch":
                access(gpa)
            elif what == "accept":
                args = TdxModuleArgs()
                args.rcx = gpa | argument
                self.statuses.append(tdcall(TDG_MEM_PAGE_ACCEPT, args))
            elif what == "map":
                self.at += 1
                exits.r10, exits.r11 = 0, TDVMCALL_MAP_GPA
                exits.r12, exits.r13 = gpa, argument
                return EXIT_REASON_TDCALL
            self.at += 1
        return EXIT_REASON_HLT


def run(host: Host, vm: Vm, *steps: tuple[str, int, int], vcpu: int = 0) -> tuple[int, list[int]]:
    script = Script(*steps)
    host.module.attach_guest(vm.vcpus[vcpu].tdvpr << PAGE_SHIFT, script)
    result = tdx_vcpu_run(vm, vm.vcpus[vcpu], host.cpu)
    assert host.cpu.running_vcpu is None
    if result == EXIT_REASON_HLT:
        assert script.at == len(script.steps)
    return result, script.statuses


@pytest.fixture(params=ALL_DESIGNS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    host = booted(request.param)
    yield host
    assert host.audit() == []


@pytest.mark.parametrize("huge", [False, True])
def test_accept_and_touch(host: Host, huge: bool) -> None:
    vm = make_td(host, huge=huge, build_pages=2)
    steps = [("touch", 0x1000, 0)]
    for page in range(3, 30):
        steps += [("accept", page << 12, LEVEL_4K), ("touch", page << 12, 0)]
    assert run(host, vm, *steps) == (EXIT_REASON_HLT, [0] * 27)
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)


def test_accept_at_2m(host: Host) -> None:
    vm = make_td(host, huge=True)
    result = run(host, vm, ("accept", SIZE_2M, LEVEL_2M), ("touch", SIZE_2M + 0x5000, 0))
    assert result == (EXIT_REASON_HLT, [0])
    assert vm.mirror[LEVEL_2M].at(1).load() & 3 == 3
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)


def test_accept_at_2m_of_what_is_mapped_at_4k(host: Host) -> None:
    vm = make_td(host)
    steps = [("accept", SIZE_2M + 0x1000, LEVEL_4K), ("accept", SIZE_2M, LEVEL_2M)]
    result, statuses = run(host, vm, *steps)
    assert result == EXIT_REASON_HLT
    assert statuses[1] & STATUS_MASK == TDX_PAGE_SIZE_MISMATCH
    kvm_destroy_vm(vm, host.cpu)


def test_accept_at_4k_splits_a_pending_2m_page(host: Host) -> None:
    vm = make_td(host, huge=True)
    # Touching what nobody mapped brings a 2M page, pending; touching it again is the guest's fault.
    assert run(host, vm, ("touch", SIZE_2M, 0))[0] == -EIO
    kvm_destroy_vm(vm, host.cpu)
    vm = make_td(host, huge=True)
    host.cpu.running_vcpu = vm.vcpus[0]
    assert tdx_handle_ept_violation(vm, vm.vcpus[0], host.cpu, SIZE_2M, LEVEL_2M) == 0
    host.cpu.running_vcpu = None
    assert vm.mirror[LEVEL_2M].at(1).load() & 3 == 3
    assert run(host, vm, ("accept", SIZE_2M + 0x8000, LEVEL_4K)) == (EXIT_REASON_HLT, [0])
    assert vm.mirror[LEVEL_2M].at(1).load() & 3 == 1
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)


@pytest.mark.parametrize("huge", [False, True])
def test_conversions_by_the_guest(host: Host, huge: bool) -> None:
    vm = make_td(host, huge=huge)
    level = LEVEL_2M if huge else LEVEL_4K
    steps: list[tuple[str, int, int]] = [("accept", SIZE_2M, level)]
    for _ in range(3):
        steps.append(("map", SIZE_2M + 0x2000 | GPA_SHARED, 0x3000))
        steps.append(("map", SIZE_2M + 0x2000, 0x3000))
        steps += [("accept", SIZE_2M + 0x2000 + page * 0x1000, LEVEL_4K) for page in range(3)]
    result, statuses = run(host, vm, *steps)
    assert (result, set(statuses)) == (EXIT_REASON_HLT, {0})
    assert host.audit(idle=False) == []
    assert run(host, vm, ("map", SIZE_2M | GPA_SHARED, SIZE_2M))[0] == EXIT_REASON_HLT
    assert run(host, vm, ("accept", SIZE_2M, LEVEL_4K))[0] == -EFAULT
    assert run(host, vm, ("map", vm.memory_pages << PAGE_SHIFT, 0x1000))[0] == -EINVAL
    kvm_destroy_vm(vm, host.cpu)


def test_a_vcpu_moves_between_cpus(host: Host) -> None:
    vm = make_td(host, vcpus=2)
    for cpu in (*host.kernel.cpus, *reversed(host.kernel.cpus)):
        for vcpu in vm.vcpus:
            assert tdx_vcpu_run(vm, vcpu, cpu) == EXIT_REASON_HLT
    kvm_destroy_vm(vm, host.cpu)


def test_reasons_not_to_run(host: Host) -> None:
    vm = Vm(host.kernel)
    kvm_destroy_vm(vm, host.cpu)
    vm = make_td(host)
    vm.vcpus[0].signal_pending.store(1)
    assert tdx_vcpu_run(vm, vm.vcpus[0], host.cpu) == -EINTR
    vm.vcpus[0].signal_pending.store(0)
    vm.runnable.store(0)
    assert tdx_vcpu_run(vm, vm.vcpus[0], host.cpu) == -EINVAL
    vm.runnable.store(1)
    kvm_destroy_vm(vm, host.cpu)
