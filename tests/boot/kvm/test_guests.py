"""Guests come with their vCPUs, and posted interrupts are taken at entry."""

from dpamt.abi.exits import EXIT_REASON_EPT_VIOLATION, EXIT_REASON_TDCALL
from dpamt.abi.leaves import TDH_VP_ENTER, TDH_VP_INIT, TDH_VP_WR
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.boot.kvm.guest import WordGuest
from dpamt.boot.kvm.guests import MOST_FAULTS, Guests
from dpamt.module.module import TdxModule
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.platform.size import machine_from_size

TDVPR = 0x5000
DESCRIPTOR = 0x8000
FIELD = 0x0024000200002016
"""POSTED_INTR_DESC_ADDR as Linux writes it: class VMCS, and the field's encoding."""


def made() -> tuple[Guests, TdxModule]:
    module = TdxModule(PhysicalMemory(), machine_from_size("4GiB"))
    return Guests(), module


def test_a_vcpu_has_its_guest_when_it_is_initialised() -> None:
    guests, module = made()
    assert guests.answered(module, TDH_VP_INIT, (TDVPR, 0, 0), TDX_OPERAND_BUSY) == {}
    assert not module.guests
    guests.answered(module, TDH_VP_INIT, (TDVPR, 0, 0), TDX_SUCCESS)
    first = module.guests[TDVPR >> 12]
    assert isinstance(first, WordGuest)
    first.more = {"r14": 7, "r15": 8}
    assert guests.answered(module, TDH_VP_ENTER, (TDVPR, 0, 0), 77) == {"r14": 7, "r15": 8}
    assert guests.answered(module, TDH_VP_ENTER, (TDVPR, 0, 0), 1 << 63) == {}
    guests.answered(module, TDH_VP_INIT, (TDVPR, 0, 0), TDX_SUCCESS)
    assert module.guests[TDVPR >> 12] is not first


def test_posted_interrupts_are_taken_once() -> None:
    guests, module = made()
    guests.answered(module, TDH_VP_INIT, (TDVPR, 0, 0), TDX_SUCCESS)
    guests.answered(module, TDH_VP_WR, (TDVPR, FIELD, DESCRIPTOR), TDX_SUCCESS)
    memory = module.memory
    memory.write64(DESCRIPTOR + 8, 0b101)
    guests.about_to_enter(module, TDVPR)
    assert guests.interrupts() == 0  # not announced yet
    memory.write64(DESCRIPTOR + 32, 0x00F2_0001)
    guests.about_to_enter(module, TDVPR)
    assert guests.interrupts() == 2
    assert memory.read64(DESCRIPTOR + 8) == 0
    assert memory.read64(DESCRIPTOR + 32) == 0x00F2_0000
    guests.about_to_enter(module, TDVPR)
    assert guests.interrupts() == 2


def test_the_same_fault_over_and_over_is_told_once() -> None:
    guests, _ = made()

    def leave(reason: int, gpa: int, leaf: int = TDH_VP_ENTER) -> list[str]:
        return guests.fault_again(leaf, (TDVPR, 0, 0), reason, (0, 0, gpa))

    for _ in range(MOST_FAULTS - 1):
        assert leave(EXIT_REASON_EPT_VIOLATION, 0x9000) == []
    assert leave(0, 0, TDH_VP_WR) == []  # another leaf is no exit
    (said,) = leave(EXIT_REASON_EPT_VIOLATION, 0x9000)
    assert said.startswith("stuck: the vCPU of TDVPR 0x5000 left 10,000 times in a row")
    assert "EPT violation at 0x9000" in said
    assert leave(EXIT_REASON_EPT_VIOLATION, 0x9000) == []


def test_faults_elsewhere_or_another_exit_between_are_progress() -> None:
    guests, _ = made()
    exits = [(EXIT_REASON_EPT_VIOLATION, 0x9000), (EXIT_REASON_EPT_VIOLATION, 0xA000)]
    exits += [(EXIT_REASON_TDCALL, 0), (1 << 63 | EXIT_REASON_EPT_VIOLATION, 0x9000)]
    for reason, gpa in exits * (MOST_FAULTS // 2):
        assert guests.fault_again(TDH_VP_ENTER, (TDVPR, 0, 0), reason, (0, 0, gpa)) == []
