"""The machine that a scenario of a vector file describes, and its module brought to its state.

The module is brought there by real SEAMCALLs: SYS.INIT, LP.INIT, CONFIG, KEY.CONFIG, TDMR.INIT.
"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import (
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_LP_INIT,
    TDH_SYS_TDMR_INIT,
)
from dpamt.abi.pages import PAGE_SHIFT, SIZE_1G
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_SUCCESS, status_name
from dpamt.abi.td_params import TdParams
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, TdmrInfo
from dpamt.errors import Finding, InputError
from dpamt.module.module import TdxModule
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync import Shared
from dpamt.trace.vector_file import Json, Scenario, number

_POINTERS: Final = 0x11000
_TDMR_INFOS: Final = 0x12000
_TDMR_INFO_STRIDE: Final = 0x200
_TD_PARAMS: Final = 0x20000
_TD_PARAMS_L2: Final = 0x21000
_SEAMRR: Final = range(62 * SIZE_1G, 62 * SIZE_1G + (64 << 20))
_VCPUS: Final = 4
"""What is the same in every scenario: where the host's structures lie, and what they hold."""


@dataclass(frozen=True, slots=True)
class RecordedMachine(Machine):
    """A machine whose KeyID bits and KeyIDs need not go together, as a test bench can have it."""

    recorded_hkid_start_bit: int = 0

    @property
    def hkid_start_bit(self) -> int:
        """Lowest physical-address bit that holds a KeyID."""
        return self.recorded_hkid_start_bit


def build_module(
    scenario: Scenario, release: str, shared: Shared | None = None, cpus: int = 1
) -> TdxModule:
    """A module of ``release`` on the scenario's machine, in the scenario's first state.

    The machine has ``cpus`` logical processors; ``shared`` makes the module's words.

    Raises InputError for a set-up that cannot be understood, Finding when the module does not
    accept it.
    """
    place = f"{scenario.place}: setup"
    setup = scenario.setup
    module = TdxModule(PhysicalMemory(), _machine(setup, place, cpus), release, shared)
    module.seamrr = _SEAMRR
    module.memory.write(_TD_PARAMS, TdParams(max_vcpus=_VCPUS).pack())
    module.memory.write(_TD_PARAMS_L2, TdParams(max_vcpus=_VCPUS, num_l2_vms=1).pack())
    for address, value in setup.get("memory", []):
        module.memory.write64(number(address, place), number(value, place))
    _call(module, TDH_SYS_INIT)
    for lp in range(cpus):
        _call(module, TDH_SYS_LP_INIT, lp)
    if setup["sys_state"] == "READY":
        _make_ready(module, setup, place)
    elif setup["sys_state"] != "SYSINIT_DONE":
        raise InputError(
            f"{place}: sys_state {setup['sys_state']!r}; expected READY or SYSINIT_DONE"
        )
    return module


def _machine(setup: Json, place: str, cpus: int) -> RecordedMachine:
    cmrs = tuple(Cmr(number(base, place), number(size, place)) for base, size in setup["cmrs"])
    first, last = setup["private_hkids"]
    start_bit = number(setup["hkid_start_bit"], place)
    return RecordedMachine(
        source=place,
        cmrs=cmrs,
        memory=tuple(MemoryBlock(cmr.base >> PAGE_SHIFT, cmr.end >> PAGE_SHIFT) for cmr in cmrs),
        max_pfn=cmrs[-1].end >> PAGE_SHIFT,
        topology=Topology(packages=1, cpus=cpus),
        max_pa_bits=number(setup["max_pa_bits"], place),
        keyid_bits=number(last, place).bit_length(),
        private_keyids=(number(first, place), number(last, place) + 1),
        recorded_hkid_start_bit=start_bit,
    )


def _make_ready(module: TdxModule, setup: Json, place: str) -> None:
    tdmrs = setup["tdmrs"]
    for index, tdmr in enumerate(tdmrs):
        address = _TDMR_INFOS + index * _TDMR_INFO_STRIDE
        module.memory.write64(_POINTERS + 8 * index, address)
        module.memory.write(address, _tdmr_info(tdmr, place).pack())
    mode = SYS_CONFIG_DYNAMIC_PAMT if setup["dynamic_pamt"] else 0
    keyid = number(setup["global_hkid"], place)
    _call(module, TDH_SYS_CONFIG, rcx=_POINTERS, rdx=len(tdmrs), r8=keyid | mode)
    _call(module, TDH_SYS_KEY_CONFIG)
    for tdmr in tdmrs:
        base = number(tdmr["base"], place)
        reached = base
        while reached < number(tdmr["initialized_to"], place):
            reached = _call(module, TDH_SYS_TDMR_INIT, rcx=base).rdx


def _tdmr_info(tdmr: Json, place: str) -> TdmrInfo:
    fields = {
        name: number(value, place)
        for name, value in tdmr.items()
        if name not in ("reserved", "initialized_to")
    }
    reserved = [(number(offset, place), number(size, place)) for offset, size in tdmr["reserved"]]
    return TdmrInfo(**fields, reserved=reserved)


def _call(module: TdxModule, leaf: int, lp: int = 0, **registers: int) -> TdxModuleArgs:
    args = TdxModuleArgs.of(**registers)
    status = module.processor(lp).seamcall(leaf, args)
    if status != TDX_SUCCESS:
        raise Finding(f"set-up of the scenario: leaf {leaf} gave {status_name(status)}")
    return args
