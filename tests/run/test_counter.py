"""Counting at the wall, on the real module."""

from dpamt.abi.leaves import TDH_SYS_INIT, TDH_SYS_RD, TDH_SYS_TDMR_INIT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.module import TdxModule
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.platform.size import machine_from_size
from dpamt.run.counter import SeamcallCounter
from dpamt.run.facts import SeamcallCount


def test_leaves_and_statuses_are_counted_by_name() -> None:
    module = TdxModule(PhysicalMemory(), machine_from_size("1GiB"))
    counter = SeamcallCounter()
    call = counter.wrap(module.processor(0).seamcall)
    assert call(TDH_SYS_INIT, TdxModuleArgs()) == 0
    for _ in range(3):
        call(TDH_SYS_TDMR_INIT, TdxModuleArgs())
    call(TDH_SYS_RD, TdxModuleArgs.of(rdx=0x12345))
    assert counter.total == 5
    taken = counter.take()
    assert SeamcallCount("TDH.SYS.INIT", "TDX_SUCCESS", 1) in taken
    assert SeamcallCount("TDH.SYS.TDMR.INIT", "TDX_SYS_NOT_READY", 3) in taken
    assert {row.leaf for row in taken} == {"TDH.SYS.INIT", "TDH.SYS.RD", "TDH.SYS.TDMR.INIT"}
    assert sum(row.count for row in taken) == 5
    assert counter.take() == ()
