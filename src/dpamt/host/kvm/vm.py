"""What KVM keeps of a VM and of a VCPU: fields and locks, no behaviour but marking it dead.

Source: Linux arch/x86/kvm/vmx/tdx.h (struct kvm_tdx, struct vcpu_tdx).
"""

from collections.abc import Callable
from typing import Final

from dpamt.abi.metadata import TDX_FEATURES0_ENHANCED_DEMOTE_INTERRUPTIBILITY
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.kvm.gmem import GuestMemfd
from dpamt.host.kvm.mirror import forget_mirror, make_mirror

_BUGGED: Final = 0
_WAIT_FOR_SEPT_ZAP: Final = 1
_INVALIDATE: Final = 2
_RUNNABLE: Final = 3

INVALIDATE_IN_PROGRESS_MASK: Final = 0x3FF
INVALIDATE_BEGIN: Final = 1
INVALIDATE_END: Final = INVALIDATE_IN_PROGRESS_MASK
"""Added at the end: one range fewer in progress, sequence number one up."""

OUTSIDE_GUEST_MODE: Final = 0
IN_GUEST_MODE: Final = 1

_DEFAULT_MEMORY_BYTES: Final = 1 << 30


class Vcpu:
    """A VCPU, created; initialised later."""

    __slots__ = (
        "cache_ready",
        "cpu",
        "faults_ahead",
        "index",
        "mode",
        "pamt_cache",
        "registers",
        "root_loaded",
        "sept_cache",
        "signal_pending",
        "tdcx",
        "tdvpr",
    )

    def __init__(self, vm: "Vm", index: int) -> None:
        self.index = index
        self.tdvpr = 0
        """0 until VP.CREATE has succeeded."""
        self.tdcx: list[int] = []
        self.cpu: Cpu | None = None
        """The CPU that the module associates it with."""
        self.pamt_cache = PamtCache()
        self.cache_ready = vm.kernel.design.cache_from_create
        """Whether its pool's list head is initialised."""
        self.sept_cache: list[int] = []
        self.registers = TdxModuleArgs()
        self.root_loaded = False
        """Whether the module knows the root of the shared EPT."""
        self.mode = vm.vcpu_words.at(2 * index)
        self.signal_pending = vm.vcpu_words.at(2 * index + 1)
        """Not 0: KVM_RUN goes back to user space."""
        self.faults_ahead: Callable[[Vm, Vcpu, Cpu, int], int] | None = None
        """Before a page that the guest wants to accept is mapped, takes as many such turns at once
        as it can: how many, or the negative errno of the first.  Given by whoever knows what the
        guest does next."""


class Vm:
    """A TD as KVM sees it; one memory slot from GPA 0 on, all of it private at first.

    ``huge_pages`` lets guest_memfd and the memory slot use 2M pages; not with a module whose DEMOTE
    may be interrupted, for a split must not be.
    """

    def __init__(
        self, kernel: Kernel, memory_bytes: int = _DEFAULT_MEMORY_BYTES, huge_pages: bool = False
    ) -> None:
        self.kernel = kernel
        self.vm_id = kernel.vm_ids.add(1)
        self.memory_pages = memory_bytes >> PAGE_SHIFT
        sysinfo = kernel.sysinfo
        self.huge_pages = (
            huge_pages
            and sysinfo is not None
            and sysinfo.supports(TDX_FEATURES0_ENHANCED_DEMOTE_INTERRUPTIBILITY)
        )
        shared, name = kernel.shared, f"kvm.{self.vm_id}."
        state = shared.words(name + "state")
        self.bugged = state.at(_BUGGED)
        self.wait_for_sept_zap = state.at(_WAIT_FOR_SEPT_ZAP)
        self.invalidate = state.at(_INVALIDATE)
        """Sequence number above, ranges in progress in the low ten bits."""
        self.runnable = state.at(_RUNNABLE)
        self.vcpu_words = shared.words(name + "vcpus")
        self.shared_pages = shared.words(name + "shared")
        """1 at the GFN of a page that is shared."""
        self.shared_counts = shared.words(name + "shared_counts")
        """Shared pages in each 2M range."""
        self.lock = shared.mutex(name + "lock")
        self.mmu_lock = shared.rwlock(name + "mmu_lock")
        self.split_lock = shared.mutex(name + "split_lock")
        self.mirror = make_mirror(shared, self.vm_id)
        self.gmem = GuestMemfd(kernel, self.vm_id, self.huge_pages)
        self.vcpus: list[Vcpu] = []
        self.max_vcpus = 0
        """VCPUs that the TD may have; set when it is created."""
        self.hkid = -1
        """-1 while no KeyID is assigned."""
        self.tdr = 0
        """0 while there is no TD."""
        self.tdcs: list[int] = []
        self.tsc_offset = 0
        self.tsc_multiplier = 0
        """How the module runs the TD's clock, as MNG.RD answered."""

    def forget(self) -> None:
        """struct kvm is freed: drop its shared words."""
        shared, name = self.kernel.shared, f"kvm.{self.vm_id}."
        for array in (
            "state",
            "vcpus",
            "shared",
            "shared_counts",
            "lock",
            "mmu_lock",
            "split_lock",
        ):
            shared.forget(name + array)
        forget_mirror(shared, self.vm_id)
        self.gmem.forget()


def kvm_vm_dead(vm: Vm) -> None:
    """The VM is dead for every later ioctl (-EIO); its resources wait for its end."""
    vm.bugged.store(1)


def kvm_vm_bugged(vm: Vm, what: str) -> None:
    """KVM_BUG_ON(): a WARN, and the VM is dead."""
    vm.kernel.log.warn(f"KVM_BUG_ON, VM {vm.vm_id} bugged: {what}")
    kvm_vm_dead(vm)


def tdx_bug(vm: Vm, leaf: str, status: int) -> None:
    """TDX_BUG_ON(): as above, after a SEAMCALL that had no right to fail; once for each VM."""
    bugged = vm.bugged.load()
    if bugged:
        return
    kvm_vm_bugged(vm, leaf)
    pr_tdx_error(vm.kernel, leaf, status)


def pr_tdx_error(kernel: Kernel, leaf: str, status: int) -> None:
    """The line about a SEAMCALL that failed; ``leaf`` as Intel writes it (TDH.MNG.CREATE)."""
    kernel.log.kvm(f"SEAMCALL {leaf.replace('.', '_')} failed: {status:#x}")
