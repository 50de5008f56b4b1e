"""A whole machine for tests: allocator, module, kernel; TDs on it, and its audit."""

from dpamt.abi.pages import LEVEL_4K
from dpamt.host.core.audit import audit
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Cpu, Kernel, KernelBehaviour
from dpamt.host.designs.load import load_design
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.module.module import TdxModule
from dpamt.module.releases import Release
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.page_allocator import PageAllocator, Snapshot
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync import Shared

DYNAMIC_DESIGNS = ("v2", "merged")
ALL_DESIGNS = ("static", *DYNAMIC_DESIGNS)

MIB = 1 << 20


def small_machine(mib: int = 1024, packages: int = 1, cpus: int = 2) -> Machine:
    """One node, one block from 1 MiB to ``mib``; 1 GiB leaves no hole in the only TDMR."""
    return Machine(
        f"{mib} MiB",
        (Cmr(MIB, (mib - 1) * MIB),),
        (MemoryBlock(256, mib * 256),),
        mib * 256,
        Topology(packages, cpus),
    )


class Host:
    """A machine with its module and kernel, not yet initialised."""

    def __init__(
        self,
        machine: Machine,
        design: str = "merged",
        behaviour: KernelBehaviour | None = None,
        release: str | Release = "2.0.18",
        seed: int = 0,
        fragmentation: float = 0.0,
    ) -> None:
        self.shared = Shared()
        self.memory = PhysicalMemory()
        self.allocator = PageAllocator(machine, seed, fragmentation)
        self.module = TdxModule(self.memory, machine, release, self.shared)
        self.kernel = Kernel(
            machine,
            self.allocator,
            self.memory,
            self.shared,
            [self.module.processor(index).seamcall for index in range(machine.topology.cpus)],
            load_design(design),
            behaviour,
        )
        self.at_power_on = self.allocator.snapshot()
        self.after_boot: Snapshot = ()

    @property
    def cpu(self) -> Cpu:
        """The first CPU."""
        return self.kernel.cpus[0]

    @property
    def log(self) -> list[str]:
        """dmesg."""
        return self.kernel.log.lines

    def boot(self) -> int:
        """Initialise the module; what tdx_enable returns."""
        error = tdx_enable(self.kernel)
        self.after_boot = self.allocator.snapshot()
        return error

    def audit(self, idle: bool = True) -> list[str]:
        """The module's contradictions and the host's findings.

        ``idle``: no memory is held beside that of TDs.
        """
        view = ModuleView(self.module)
        return view.check() + audit(self.kernel, view, self.after_boot if idle else None)


def booted(design: str = "merged", mib: int = 1024, **options: object) -> Host:
    """A small machine with its module ready."""
    host = Host(small_machine(mib), design, **options)  # type: ignore[arg-type]
    assert host.boot() == 0, host.log
    return host


def make_td(
    host: Host, mib: int = 16, vcpus: int = 1, huge: bool = False, build_pages: int = 0
) -> Vm:
    """A TD that may run: created, its VCPUs initialised, some memory added, finalised."""
    vm = Vm(host.kernel, mib * MIB, huge)
    assert tdx_td_init(vm, host.cpu, max(vcpus, 1)) == 0, host.log
    for _ in range(vcpus):
        vcpu = tdx_vcpu_create(vm)
        assert isinstance(vcpu, Vcpu)
        assert tdx_vcpu_init(vm, vcpu, host.cpu) == 0, host.log
    if build_pages:
        assert tdx_init_mem_region(vm, vm.vcpus[0], host.cpu, 0, build_pages, True) == 0, host.log
    assert tdx_td_finalize(vm, host.cpu) == 0, host.log
    return vm


def fault(host: Host, vm: Vm, gpa: int, level: int = LEVEL_4K) -> int:
    """A private fault of the first VCPU, as from inside KVM_RUN."""
    host.cpu.running_vcpu = vm.vcpus[0]
    try:
        return tdx_handle_ept_violation(vm, vm.vcpus[0], host.cpu, gpa, level)
    finally:
        host.cpu.running_vcpu = None
