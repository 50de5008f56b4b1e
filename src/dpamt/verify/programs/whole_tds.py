"""Threads that make TDs, end them and split their pages, beside threads that fault and zap.

Each thread is KVM's whole path: kvm_destroy_vm, tdx_td_init, tdx_vcpu_init, kvm_gmem_punch_hole
with its split, kvm_tdp_mmu_page_fault.
"""

from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.tdx_errno import EIO
from dpamt.host.designs.base import Design
from dpamt.host.kvm.mmu import RET_PF_SPURIOUS
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.verify.learn.automaton import Recorder
from dpamt.verify.programs.ground import APART, CROSSED, Choices, must
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.td_machine import TdMachine, fault, give_back, no_harm

_SMALL_TD: Final = 2 * PAGE_SIZE
"""Memory of a TD; each page of it is a word that its end looks at."""


def destroy(vm: Vm, cpu: Cpu) -> int:
    """The process that owns the TD is gone."""
    kvm_destroy_vm(vm, cpu)
    return 0


def fault_and_destroy(vm: Vm, cpu: Cpu) -> int:
    """A page is mapped, then the process goes."""
    result = fault(vm, vm.vcpus[0], cpu, PAGE_SIZE, LEVEL_4K)
    kvm_destroy_vm(vm, cpu)
    return no_harm(result)


def fault_and_zap(vm: Vm, cpu: Cpu) -> int:
    """A page is mapped, then punched out of guest_memfd; the pools go back."""
    result = fault(vm, vm.vcpus[0], cpu, PAGE_SIZE, LEVEL_4K)
    if result in (0, -EIO):
        zapped = kvm_gmem_punch_hole(vm, cpu, PAGE_SIZE, PAGE_SIZE)
        result = result or zapped
    give_back(vm, vm.vcpus[0], cpu)
    return no_harm(result)


def create_and_destroy(vm: Vm, cpu: Cpu) -> int:
    """A TD with a VCPU is made, and given up before it has run."""
    error = tdx_td_init(vm, cpu)
    if not error:
        vcpu = tdx_vcpu_create(vm)
        if isinstance(vcpu, Vcpu):
            error = tdx_vcpu_init(vm, vcpu, cpu)
        else:
            error = vcpu
    kvm_destroy_vm(vm, cpu)
    return no_harm(error)


def _pairs_in(region: int, placement: str) -> int:
    if placement == APART:
        return 100
    return 1 - region if placement == CROSSED else region


def teardown(design: Design, choices: Choices | None = None, placement: str = CROSSED) -> Problem:
    """One TD ends; another one, its control pages elsewhere, has a page mapped there, and ends."""
    machine = TdMachine(design, choices)
    ending = machine.pools(0, 0, _pairs_in(0, placement))
    elsewhere = machine.pools(1, 1, _pairs_in(1, placement))
    faulting = machine.pools(2, 0, _pairs_in(0, placement))
    first = machine.running_td(ending, _SMALL_TD)
    second = machine.running_td(elsewhere, _SMALL_TD)
    return machine.problem(
        "a TD ends; another one faults in the same region, and ends",
        (
            ThreadClass("destroy a TD", machine.start(0, ending, first, destroy)),
            ThreadClass(
                "fault, then destroy the TD", machine.start(1, faulting, second, fault_and_destroy)
            ),
        ),
        {"TDs": "2, of one VCPU", "pages of a pair": placement},
        gone=True,
    )


def create(
    design: Design,
    choices: Choices | None = None,
    placement: str = CROSSED,
    alone: bool = False,
) -> Problem:
    """A TD and its VCPU are made in a region where another TD has a page mapped and zapped.

    ``alone``: no other TD does anything meanwhile.
    """
    machine = TdMachine(design, choices)
    making = machine.pools(0, 0, _pairs_in(0, placement))
    elsewhere = machine.pools(1, 1, _pairs_in(1, placement))
    faulting = machine.pools(2, 0, _pairs_in(0, placement))
    blank = machine.blank_td(_SMALL_TD)
    second = machine.running_td(elsewhere, _SMALL_TD)
    classes = (
        ThreadClass(
            "make a TD and a VCPU, give them up",
            machine.start(0, making, blank, create_and_destroy),
        ),
        ThreadClass("fault, zap", machine.start(1, faulting, second, fault_and_zap)),
    )
    return machine.problem(
        "a TD is made, and given up"
        if alone
        else "a TD is made, and given up; another one faults and zaps in the same region",
        classes[:1] if alone else classes,
        {"TDs": "2, of one VCPU", "pages of a pair": placement},
        gone=False,
    )


def early_end(design: Design) -> Problem:
    """A TD ends on one CPU that has a VCPU which was never initialised."""
    machine = TdMachine(design)
    pools = machine.pools(0, 0, 0)
    vm = machine.blank_td(0)
    machine.allocator.use(pools.pages, pools.for_pairs)
    must(tdx_td_init(vm, machine.world.kernel.cpus[0]) == 0)
    vcpu = tdx_vcpu_create(vm)
    must(isinstance(vcpu, Vcpu))
    return machine.problem(
        "a TD ends before its VCPU was initialised",
        (ThreadClass("destroy the TD", machine.start(0, pools, vm, destroy)),),
        {
            "CPUs": "1",
            "TDs": "1, without memory, of one VCPU that was created and not initialised",
            "pages of a pair": "in the region that they describe",
        },
        gone=True,
    )


def split(
    design: Design,
    choices: Choices | None = None,
    behaviour: KernelBehaviour | None = None,
    sept_elsewhere: bool = False,
) -> Problem:
    """A 4K hole is punched into a 2M page; another TD faults and zaps where its new pages lie.

    The pages for the split, its S-EPT page (unless ``sept_elsewhere``) and both pairs, lie in the
    region where the other TD has a page mapped and zapped.  ``behaviour`` says whether DEMOTE takes
    ``pamt_lock``.
    """
    machine = TdMachine(design, choices, behaviour)
    large, elsewhere = machine.pools(0, 1, 100), machine.pools(1, 1, 100)
    splitting = machine.pools(2, 1 if sept_elsewhere else 0, 0)
    faulting = machine.pools(3, 0, 100)
    first = machine.running_td(large, 2 * SIZE_2M, page=SIZE_2M, folio=machine.world.free_region(2))
    second = machine.running_td(elsewhere, _SMALL_TD)
    return machine.problem(
        "a 2M page is split and a hole punched; another TD faults and zaps where its pages lie",
        (
            ThreadClass("split, zap 4K", machine.start(0, splitting, first, punch_hole)),
            ThreadClass("fault, zap", machine.start(1, faulting, second, fault_and_zap)),
        ),
        {"TDs": "2, of one VCPU", **_demote_told(behaviour)},
        gone=False,
    )


def split_and_fault(
    design: Design, choices: Choices | None = None, behaviour: KernelBehaviour | None = None
) -> Problem:
    """A 4K hole is punched into a 2M page that a VCPU of the TD faults on: which, and on what page.

    The thread that punches is none of the VCPUs.
    """
    machine = TdMachine(design, choices, behaviour)
    recorder = machine.world.recorder
    large = machine.pools(0, 1, 100)
    splitting, faulting = machine.pools(1, 0, 0), machine.pools(2, 0, 0)
    vm = machine.running_td(large, 2 * SIZE_2M, 2, page=SIZE_2M, folio=machine.world.free_region(2))
    return machine.problem(
        "a 2M page is split and a hole punched; a VCPU faults on it",
        (
            ThreadClass("split, zap 4K", machine.start(0, splitting, vm, punch_hole)),
            ThreadClass(
                "a VCPU faults on the hole or behind it",
                machine.start(
                    1, faulting, vm, lambda own, cpu: fault_near_the_hole(recorder, own, cpu)
                ),
            ),
        ),
        {
            "TDs": "1, of 2 VCPUs",
            "the fault": "of either, on the hole or the page behind it",
            **_demote_told(behaviour),
        },
        gone=False,
    )


def punch_hole(vm: Vm, cpu: Cpu) -> int:
    """The guest gives back one page of its 2M page."""
    error = kvm_gmem_punch_hole(vm, cpu, SIZE_2M, PAGE_SIZE)
    return no_harm(error)


def fault_near_the_hole(recorder: Recorder, vm: Vm, cpu: Cpu) -> int:
    """A VCPU wants that page or the one behind it, which may be mapped still: as 2M, or as 4K."""
    which = recorder.choose("the second VCPU faults", len(vm.vcpus))
    behind = recorder.choose("it faults on the page behind the hole", 2)
    vcpu = vm.vcpus[which]
    result = fault(vm, vcpu, cpu, SIZE_2M + behind * PAGE_SIZE, LEVEL_2M)
    give_back(vm, vcpu, cpu)
    return 0 if result == RET_PF_SPURIOUS else no_harm(result)


def _demote_told(behaviour: KernelBehaviour | None) -> dict[str, str]:
    unlocked = behaviour is not None and behaviour.demote_lock == "none"
    return {"DEMOTE and its count": "under no lock" if unlocked else "as the design does it"}
