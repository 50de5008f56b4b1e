"""Another module at run time, over one that has TDs; and the module's end."""

from dataclasses import replace

import pytest

from dpamt.abi.leaves import (
    RAX_VERSION_SHIFT,
    TDH_MEM_TRACK,
    TDH_SYS_DISABLE,
    TDH_SYS_INIT,
    TDH_SYS_LP_INIT,
    TDH_SYS_SHUTDOWN,
    TDH_SYS_UPDATE,
)
from dpamt.abi.metadata import TDX_FEATURES0_TD_PRESERVING
from dpamt.abi.operands import OPERAND_RAX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_OPERAND_INVALID,
    TDX_SYS_BUSY,
    TDX_SYS_INVALID_HANDOFF,
    TDX_SYS_LP_INIT_NOT_DONE,
    TDX_SYS_NOT_READY,
    TDX_SYS_SHUTDOWN,
    TDX_SYS_STATE_INCORRECT,
)
from dpamt.errors import InputError
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.update import seamldr_install_module
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.module.releases import RELEASES, release_named
from dpamt.module.view import ModuleView
from tests.host.rig import Host, booted, fault, make_td
from tests.host.test_refusals import refuse

OLD = replace(
    RELEASES["2.0.18"], features0=RELEASES["2.0.18"].features0 | TDX_FEATURES0_TD_PRESERVING
)
NEW = replace(OLD, name="2.0.19", update=19)


class Loader:
    """The P-SEAMLDR: the call of the last CPU replaces the module."""

    def __init__(self, host: Host) -> None:
        self.host, self.asked = host, 0

    def __call__(self, cpu: Cpu) -> None:
        self.asked += 1
        if self.asked == len(self.host.kernel.cpus):
            self.host.module.install(NEW)


def call(host: Host, rax: int, **registers: int) -> int:
    return host.cpu.seamcall(rax, TdxModuleArgs.of(**registers))


def test_tds_pairs_and_counts_survive_an_update() -> None:
    host = booted(release=OLD)
    vm = make_td(host)
    assert fault(host, vm, 0x5000) == 0
    pairs = dict(ModuleView(host.module).pairs())
    counts = dict(host.kernel.dpamt_refcounts.non_zero())
    assert seamldr_install_module(host.kernel, Loader(host)) == 0
    assert host.kernel.sysinfo is not None
    assert host.kernel.sysinfo.update == 19
    assert host.kernel.dynamic_pamt
    assert dict(ModuleView(host.module).pairs()) == pairs
    assert dict(host.kernel.dpamt_refcounts.non_zero()) == counts
    assert host.audit(idle=False) == []
    assert fault(host, vm, 0x6000) == 0
    other = make_td(host)
    kvm_destroy_vm(other, host.cpu)
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@pytest.mark.parametrize("leaf", [TDH_SYS_SHUTDOWN, TDH_SYS_INIT, TDH_SYS_LP_INIT, TDH_SYS_UPDATE])
def test_an_update_that_fails(leaf: int) -> None:
    host = booted(release=OLD)
    refuse(host, leaf, status=TDX_SYS_BUSY)
    assert seamldr_install_module(host.kernel, Loader(host)) == -5
    assert host.log[-1] == f"virt/tdx: SEAMCALL ({leaf:#018x}) failed: {TDX_SYS_BUSY:#018x}"


def test_sys_update_comes_after_all_the_others() -> None:
    host = booted(release=OLD)
    assert call(host, TDH_SYS_UPDATE) == TDX_SYS_STATE_INCORRECT
    with pytest.raises(InputError, match=r"expected TDH\.SYS\.SHUTDOWN"):
        host.module.install(NEW)
    assert call(host, TDH_SYS_SHUTDOWN, rcx=1) == 0
    with pytest.raises(InputError, match="min_tdcs_pages is not that of"):
        host.module.install(RELEASES["1.5.25"])
    host.module.install(NEW)
    assert call(host, TDH_SYS_UPDATE) == TDX_SYS_STATE_INCORRECT
    assert call(host, TDH_SYS_INIT) == 0
    assert call(host, TDH_SYS_UPDATE) == TDX_SYS_LP_INIT_NOT_DONE
    for lp in host.module.processors:
        assert lp.seamcall(TDH_SYS_LP_INIT, TdxModuleArgs()) == 0
    assert call(host, TDH_MEM_TRACK) == TDX_SYS_NOT_READY
    invalid = TDX_OPERAND_INVALID | OPERAND_RAX
    assert call(host, TDH_SYS_UPDATE | 2 << RAX_VERSION_SHIFT) == invalid
    assert call(host, TDH_SYS_UPDATE | 1 << RAX_VERSION_SHIFT) == 0
    assert call(host, TDH_SYS_UPDATE) == TDX_SYS_STATE_INCORRECT


def test_a_handoff_that_the_new_module_does_not_read() -> None:
    host = booted(release=OLD)
    assert call(host, TDH_SYS_SHUTDOWN, rcx=0) == 0
    host.module.install(replace(NEW, min_update_hv=1))
    assert call(host, TDH_SYS_INIT) == 0
    for lp in host.module.processors:
        assert lp.seamcall(TDH_SYS_LP_INIT, TdxModuleArgs()) == 0
    assert call(host, TDH_SYS_UPDATE) == TDX_SYS_INVALID_HANDOFF


def test_sys_disable_is_there_where_it_is_announced() -> None:
    assert call(booted(), TDH_SYS_DISABLE) == TDX_OPERAND_INVALID | OPERAND_RAX
    host = booted(release=release_named("2.0.18+sys-disable"))
    assert call(host, TDH_SYS_DISABLE | 1 << RAX_VERSION_SHIFT) == TDX_OPERAND_INVALID
    assert call(host, TDH_SYS_DISABLE) == 0
    assert call(host, TDH_MEM_TRACK) == TDX_SYS_SHUTDOWN
