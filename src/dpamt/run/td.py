"""One TD of a run: its VM and guests, which of its memory is in use, and what can happen to it.

Memory is followed in 2M ranges: not in use, in use as a 2M page, or in use as 4K pages.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from dpamt.abi.exits import EXIT_UNDEFINED
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M, SIZE_2M
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
    ACCEPT_2M,
    ACCEPT_4K,
    MAP_PRIVATE,
    MAP_SHARED,
    Instruction,
    LazyGuest,
)
from dpamt.run.scenario import TdGroup
from dpamt.run.world import World

UNUSED: Final = 0
SMALL: Final = 1
HUGE: Final = 2

Tick = Callable[[int], None]
"""Called with the number of 2M ranges that were done since."""

_BATCH: Final = 16


class StepFailed(Exception):  # noqa: N818  (carries an errno to the story)
    """A call to the kernel returned an errno; caught by the story, which knows where it was."""

    def __init__(self, what: str, error: int) -> None:
        super().__init__(what)
        self.what = what
        self.error = error


class Td:
    """A TD of a group, number ``number`` of all in its world; ``build`` brings it to life.

    Raises StepFailed where the kernel refuses something.
    """

    def __init__(self, world: World, group: TdGroup, number: int, seed: str) -> None:
        self.world = world
        self.group = group
        self.number = number
        self.name = f"{group.name} (TD {number})"
        self.ranges = bytearray(group.memory // SIZE_2M)
        """What each 2M range is."""
        self.image_ranges = -(-group.image // SIZE_2M)
        self._wants_2m = self._choose_2m(Random(seed))
        self._guests: list[LazyGuest] = []
        self.vm = Vm(world.kernel, group.memory, group.share_2m > 0)

    def _choose_2m(self, random: Random) -> set[int]:
        beyond = range(self.image_ranges, len(self.ranges))
        return set(random.sample(beyond, round(self.group.share_2m * len(beyond))))

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

    def in_use(self) -> list[int]:
        """Ranges in use beyond the image."""
        return [index for index in range(self.image_ranges, len(self.ranges)) if self.ranges[index]]

    def fault(self, share: float, tick: Tick) -> None:
        """Accept memory from low addresses up, until ``share`` of it is in use."""
        if not self.ranges[0]:
            self._finish_image()
        wanted = round(share * len(self.ranges)) - sum(1 for state in self.ranges if state)
        unused = (index for index, state in enumerate(self.ranges) if not state)
        chosen = [index for index, _ in zip(unused, range(max(wanted, 0)), strict=False)]
        self._accept(chosen, [index in self._wants_2m for index in chosen], tick)

    def _finish_image(self) -> None:
        """The image's ranges are in use at 4K; accept what the image leaves of the last one."""
        for index in range(self.image_ranges):
            self.ranges[index] = SMALL
        rest = self.image_ranges * SIZE_2M - self.group.image >> PAGE_SHIFT
        if rest:
            self._execute([[Instruction(ACCEPT_4K, self.group.image, rest)]], _no_tick)

    def _accept(self, indices: Sequence[int], as_2m: Sequence[bool], tick: Tick) -> None:
        work = []
        for index, wants_2m in zip(indices, as_2m, strict=True):
            self.ranges[index] = HUGE if wants_2m else SMALL
            work.append([_accept_range(index, wants_2m)])
        self._execute(work, tick)

    def convert(self, share: float, chunk: int, random: Random, tick: Tick) -> None:
        """Turn ``share`` of the memory in use to shared and back, ``chunk`` bytes at once."""
        ranges = self.in_use()
        per_range = -(-SIZE_2M // chunk)
        total = len(ranges) * per_range
        work = []
        for choice in sorted(random.sample(range(total), round(share * total))):
            index, part = ranges[choice // per_range], choice % per_range
            work.append(self._conversion(index, part * chunk, min(chunk, SIZE_2M - part * chunk)))
        self._execute(work, tick)

    def split(self, share: float, random: Random, tick: Tick) -> None:
        """Convert one page of ``share`` of the 2M pages to shared and back."""
        huge = [index for index, state in enumerate(self.ranges) if state == HUGE]
        work = [
            self._conversion(index, random.randrange(PAGES_PER_2M) * PAGE_SIZE, PAGE_SIZE)
            for index in sorted(random.sample(huge, round(share * len(huge))))
        ]
        self._execute(work, tick)

    def _conversion(self, index: int, offset: int, size: int) -> list[Instruction]:
        gpa, pages = index * SIZE_2M + offset, size >> PAGE_SHIFT
        there_and_back = [
            Instruction(MAP_SHARED, gpa, pages),
            Instruction(MAP_PRIVATE, gpa, pages),
        ]
        if size == SIZE_2M:
            return [*there_and_back, _accept_range(index, self.ranges[index] == HUGE)]
        self.ranges[index] = SMALL
        return [*there_and_back, Instruction(ACCEPT_4K, gpa, pages)]

    def balloon(self, share: float, random: Random, tick: Tick) -> None:
        """Give ``share`` of the memory in use back to the host, then take it again."""
        ranges = self.in_use()
        chosen = sorted(random.sample(ranges, round(share * len(ranges))))
        was_2m = [self.ranges[index] == HUGE for index in chosen]
        for index in chosen:
            error = kvm_gmem_punch_hole(self.vm, self._cpu(0), index * SIZE_2M, SIZE_2M)
            self._check("giving memory back", error)
            self.ranges[index] = UNUSED
        self._accept(chosen, was_2m, tick)

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


def _accept_range(index: int, wants_2m: bool) -> Instruction:
    kind = ACCEPT_2M if wants_2m else ACCEPT_4K
    return Instruction(kind, index * SIZE_2M, PAGES_PER_2M)


def _no_tick(_ranges: int) -> None:
    """For work too small to tell of."""
