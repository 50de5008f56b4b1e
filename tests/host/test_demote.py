"""The counter of a split region, and the lock around DEMOTE."""

from typing import Literal

import pytest

from dpamt.abi.leaves import TDH_MEM_PAGE_DEMOTE
from dpamt.abi.pages import LEVEL_2M, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.teardown import kvm_destroy_vm
from tests.host.rig import booted, fault, make_td


@pytest.mark.parametrize("lock", ["pamt-lock", "none"])
@pytest.mark.parametrize("design", ["v2", "merged"])
def test_a_split_counts_512_pages_and_their_zaps_take_them_back(
    design: str, lock: Literal["pamt-lock", "none"]
) -> None:
    host = booted(design, behaviour=KernelBehaviour(demote_lock=lock))
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    held: list[bool] = []
    call = host.cpu.seamcall

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        if rax == TDH_MEM_PAGE_DEMOTE:
            held.append(host.kernel.pamt_lock.is_locked())
        return call(rax, args)

    host.cpu.seamcall = seamcall
    region = vm.mirror[LEVEL_2M].at(1).load() >> 4 >> 9
    assert kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M + 5) == 0
    assert held == [lock == "pamt-lock"]
    assert host.kernel.pamt_refcounts.at(region).load() == PAGES_PER_2M
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.kernel.pamt_refcounts.at(region).load() == 0
    assert host.audit() == []


def test_a_region_that_was_counted_before_its_split_is_warned_about() -> None:
    host = booted("merged")
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    region = vm.mirror[LEVEL_2M].at(1).load() >> 4 >> 9
    host.kernel.pamt_refcounts.at(region).store(1)
    assert kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M) == 0
    assert "was not 0 before its DEMOTE" in host.kernel.log.warnings[0]
