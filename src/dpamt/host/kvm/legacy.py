"""VMs that are no TDs, as far as Dynamic PAMT touches them: the page pool that v2 gave them too.

Source: `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09), patch 7, and the remark on it by
R. Edgecombe.
"""

from dpamt.host.core.kernel import Kernel
from dpamt.host.core.page_cache import (
    PT64_ROOT_MAX_LEVEL,
    PamtCache,
    tdx_free_pamt_cache,
    tdx_topup_pamt_cache,
)


class LegacyVm:
    """A VM with ``vcpus`` VCPUs, each with a pool of its own."""

    def __init__(self, kernel: Kernel, vcpus: int) -> None:
        self.kernel = kernel
        self.vcpu_caches = [PamtCache() for _ in range(vcpus)]


def legacy_vcpu_fault(vm: LegacyVm, vcpu: int) -> int:
    """The part of a page fault that concerns PAMT: the pool's top-up; 0 or -ENOMEM."""
    kernel = vm.kernel
    if not kernel.design.pool_for_every_vm or kernel.sysinfo is None:
        return 0
    return tdx_topup_pamt_cache(kernel, vm.vcpu_caches[vcpu], PT64_ROOT_MAX_LEVEL)


def legacy_vm_destroy(vm: LegacyVm) -> None:
    """Every pool goes back."""
    for index in range(len(vm.vcpu_caches)):
        tdx_free_pamt_cache(vm.kernel, vm.vcpu_caches[index])
