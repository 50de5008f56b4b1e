"""One TD of a run: its VM and guests, and what can happen to it."""

from collections.abc import Sequence
from typing import Final

from dpamt.abi.exits import EXIT_UNDEFINED
from dpamt.abi.pages import PAGE_SHIFT, SIZE_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.tdx_errno import EIO
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.run.bulk import faults_ahead
from dpamt.run.guest_program import (
    Instruction,
    LazyGuest,
)
from dpamt.run.scenario import TdGroup
from dpamt.run.td_memory import SMALL, TdMemory, Tick
from dpamt.run.world import World

_BATCH: Final = 16


class StepFailed(Exception):  # noqa: N818  (carries an errno to the story)
    """A call to the kernel returned an errno; caught by the story, which knows where it was."""

    def __init__(self, what: str, error: int) -> None:
        super().__init__(what)
        self.what = what
        self.error = error


class Td(TdMemory):
    """A TD of a group, number ``number`` of all in its world; ``build`` brings it to life.

    Raises StepFailed where the kernel refuses something.
    """

    def __init__(self, world: World, group: TdGroup, number: int, seed: str) -> None:
        super().__init__(group, number, seed)
        self.world = world
        self._guests: list[LazyGuest] = []
        self.vm = Vm(world.kernel, group.memory, group.share_2m > 0)

    def _cpu(self, vcpu_index: int) -> Cpu:
        cpus = self.world.kernel.cpus
        return cpus[(self.number + vcpu_index) % len(cpus)]

    def build(self) -> None:
        """TD, VCPUs, image, measurement, ready to run."""
        vm, group, cpu = self.vm, self.group, self._cpu(0)
        self._check("creation", tdx_td_init(vm, cpu, group.vcpus))
        for index in range(group.vcpus):
            vcpu = tdx_vcpu_create(vm)
            if isinstance(vcpu, int):
                raise StepFailed("creation of a VCPU", vcpu)
            self._check("a VCPU's initialisation", tdx_vcpu_init(vm, vcpu, self._cpu(index)))
            guest = LazyGuest()
            vcpu.faults_ahead = faults_ahead(guest)
            self.world.module.attach_guest(vcpu.tdvpr << PAGE_SHIFT, guest)
            self._guests.append(guest)
        pages = group.image >> PAGE_SHIFT
        error = tdx_init_mem_region(vm, vm.vcpus[0], cpu, 0, pages, measure=True)
        self._check("adding the image", error)
        self._check("finalisation", tdx_td_finalize(vm, cpu))

    def _give_back(self, index: int) -> None:
        error = kvm_gmem_punch_hole(self.vm, self._cpu(0), index * SIZE_2M, SIZE_2M)
        self._check("giving memory back", error)

    def destroy(self) -> None:
        """The VM's last reference is gone."""
        kvm_destroy_vm(self.vm, self._cpu(0))
        self._guests.clear()

    def _execute(self, work: Sequence[list[Instruction]], tick: Tick) -> None:
        """Run work items on the VCPUs in turn, a batch at a time."""
        vcpus = self.vm.vcpus
        for turn, start in enumerate(range(0, len(work), _BATCH)):
            batch = work[start : start + _BATCH]
            index = turn % len(vcpus)
            self._run(vcpus[index], self._guests[index], batch)
            tick(len(batch))

    def _run(self, vcpu: Vcpu, guest: LazyGuest, batch: Sequence[list[Instruction]]) -> None:
        guest.load(instruction for item in batch for instruction in item)
        result = tdx_vcpu_run(self.vm, vcpu, self._cpu(vcpu.index))
        for gpa in guest.not_2m:
            self.ranges[gpa // SIZE_2M] = SMALL
        if result == EXIT_UNDEFINED:
            # KVM_RUN returns 0 here; it is the VMM that gives up.
            raise StepFailed("running a VCPU (KVM_EXIT_INTERNAL_ERROR)", -EIO)
        self._check("running a VCPU", min(result, 0))

    @staticmethod
    def _check(what: str, error: int) -> None:
        if error:
            raise StepFailed(what, error)
