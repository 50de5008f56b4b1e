"""x86-TSO: what waits in a CPU's store buffer, and what waits until it is empty.

Source: Intel SDM volume 3, 9.2.3 "Memory Ordering in P6 and More Recent Processor Families", 9.3
"Serializing Instructions"; S. Owens, S. Sarkar, P. Sewell, "A better x86 memory model: x86-TSO"
(TPHOLs 2009).
"""

from typing import Final

from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.memory import is_nowhere
from dpamt.verify.machine_code.operations import ATOMIC_STEP, CALL, FENCE, RETURN, Operation
from dpamt.verify.machine_code.places import Places

SC: Final = "sc"
TSO: Final = "tso"
MODELS: Final = {
    SC: "sequentially consistent",
    TSO: "x86-TSO: each CPU's plain stores wait in its store buffer",
}
SEEN: Final = "the oldest store in the buffer reaches memory"
EMPTIES: Final = frozenset({ATOMIC_STEP, CALL, FENCE, RETURN})
"""Operations before which a CPU's store buffer is empty (Intel SDM volume 3, 9.2.3.9, 9.3)."""
_LEAVES: Final = answered.LISTS | answered.MAY_SLEEP | answered.RESET
"""Functions that are answered and need not contain a locked instruction; every other one contains
one, or a SEAMCALL.  tdx_quirk_reset_paddr() returns at once on a CPU without the erratum (Linux
7.3.4 arch/x86/virt/vmx/tdx/tdx.c)."""


def is_unlock_call(operation: Operation) -> bool:
    """Whether it is a plain store: queued_spin_unlock(), queued_write_unlock() (Linux 7.3.4
    include/asm-generic/qspinlock.h, qrwlock.h); a reader's is a locked subtraction."""
    name = operation.method if operation.kind == CALL else ""
    step = answered.LOCKS.get(name) or answered.RWLOCKS.get(name, "")
    return step.startswith(("unlock", "write_unlock"))


def empties(operation: Operation) -> bool:
    """Whether a CPU's store buffer is empty before an operation."""
    if operation.kind == CALL and operation.method in _LEAVES:
        return False
    return operation.kind in EMPTIES and not is_unlock_call(operation)


def looks_first(places: Places, place: int, buffer: tuple[int, ...]) -> bool:
    """Whether a call is a trylock that may fail by a plain load, while the CPU's stores wait.

    queued_spin_trylock(), queued_read_trylock(), queued_write_trylock(), mutex_trylock(): no
    locked instruction where the lock is seen held.  The CPU sees its own unlock that waits: then
    it is not.
    """
    tried = places.operation(place)
    if tried.kind != CALL or tried.method not in answered.LOOKS:
        return False
    if is_nowhere(tried.arguments[0]):
        return False
    waiting = map(places.operation, buffer)
    return not any(
        store.arguments[0] == tried.arguments[0] for store in waiting if store.kind == CALL
    )
