"""What KVM reads and writes of TDs and VCPUs, seen from the module."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import td_metadata as field
from dpamt.abi.exits import EXIT_REASON_HLT, EXIT_REASON_TDCALL
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.core.seamcall import tdh_vp_rd
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.platform.guest import TdCall
from tests.host.rig import Host, booted, make_td

CALLS = {leaf.TDH_MNG_RD, leaf.TDH_VP_RD, leaf.TDH_VP_WR}


class Halting:
    """A guest that halts by a TDVMCALL, with ``blocked`` in R12."""

    def __init__(self, blocked: int) -> None:
        self.blocked = blocked

    def run(self, tdcall: TdCall, access: object, exits: TdxModuleArgs) -> int:
        exits.r10, exits.r11, exits.r12 = 0, EXIT_REASON_HLT, self.blocked
        return EXIT_REASON_TDCALL


def halt(host: Host, vm: Vm, index: int = 0, blocked: int = 0) -> int:
    vcpu = vm.vcpus[index]
    host.module.attach_guest(vcpu.tdvpr << PAGE_SHIFT, Halting(blocked))
    return tdx_vcpu_run(vm, vcpu, host.cpu)


def value(host: Host, vcpu: Vcpu, item: field.ScopedField) -> int:
    status, found = tdh_vp_rd(host.cpu, vcpu.tdvpr, item.id)
    assert not status
    return found


def test_each_vcpu_has_a_descriptor_of_its_own_and_each_vm_a_root() -> None:
    host = booted("merged")
    vms = [make_td(host, vcpus=3) for _ in range(3)]
    descriptors, roots = [], []
    for vm in vms:
        assert (vm.tsc_offset, vm.tsc_multiplier) != (0, 0)
        for vcpu in vm.vcpus:
            assert halt(host, vm, vcpu.index) == EXIT_REASON_HLT
            assert value(host, vcpu, field.POSTED_INTERRUPT_VECTOR) == 0xF2
            assert value(host, vcpu, field.PIN_BASED_CONTROLS) & 0x80
            descriptors.append(value(host, vcpu, field.POSTED_INTERRUPT_DESCRIPTOR))
        (root,) = {value(host, vcpu, field.SHARED_EPT_POINTER) for vcpu in vm.vcpus}
        roots.append(root)
    first = min(block.start_pfn for block in host.kernel.machine.memory) << PAGE_SHIFT
    assert len(set(descriptors)) == 9
    assert len(set(roots)) == 3
    assert all(0 < place < min(roots) for place in descriptors)
    assert all(place % 64 == 0 for place in descriptors)
    assert all(place % PAGE_SIZE == 0 and place < first for place in roots)
    for vm in vms:
        kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@pytest.mark.parametrize(
    ("known", "blocked", "read"), [(True, 0, 1), (True, 1, 0), (False, 0, 0), (False, 1, 0)]
)
def test_a_halt_asks_for_interrupts_where_the_guest_takes_them(
    known: bool, blocked: int, read: int
) -> None:
    host = booted("merged", behaviour=KernelBehaviour(td_metadata=known))
    made: list[int] = []
    real = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        made.append(rax)
        return real(rax, args)

    host.cpu.seamcall = seamcall
    vm = make_td(host)
    assert (CALLS & set(made) == {leaf.TDH_MNG_RD, leaf.TDH_VP_WR}) is known
    made.clear()
    assert halt(host, vm, 0, blocked) == EXIT_REASON_HLT
    assert made.count(leaf.TDH_VP_RD) == read
    assert made.count(leaf.TDH_VP_WR) == known
    made.clear()
    assert halt(host, vm, 0, blocked) == EXIT_REASON_HLT
    assert leaf.TDH_VP_WR not in made  # the root stays
    kvm_destroy_vm(vm, host.cpu)
