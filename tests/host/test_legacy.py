"""VMs that are no TDs: only the June 2025 design makes them hold pages."""

import pytest

from dpamt.host.core.tdx_errno import ENOMEM
from dpamt.host.kvm.legacy import LegacyVm, legacy_vcpu_fault, legacy_vm_destroy
from tests.host.rig import ALL_DESIGNS, booted


@pytest.mark.parametrize("design", ALL_DESIGNS)
def test_pages_held_by_a_legacy_vm(design: str) -> None:
    host = booted(design)
    free = host.allocator.free_count
    vm = LegacyVm(host.kernel, 3)
    for vcpu in (0, 1, 1):
        assert legacy_vcpu_fault(vm, vcpu) == 0
    assert free - host.allocator.free_count == (20 if design == "v2" else 0)
    host.allocator.fail_when = lambda _site, _ordinal: True
    assert legacy_vcpu_fault(vm, 2) == (-ENOMEM if design == "v2" else 0)
    legacy_vm_destroy(vm)
    assert host.audit() == []
