"""What a CPU keeps off by itself: interrupts by IF in RFLAGS, preemption by preempt_count.

A function that is answered leaves IF as the kernel's does.  The search's own rules
(:mod:`dpamt.verify.explore.context`) know only what locks keep off; code that does it by CLI, POPF
or a raised preempt_count is judged by what the CPU's state is where it calls what may sleep.

Source: Linux 7.3.4 include/linux/spinlock_api_smp.h, arch/x86/include/asm/irqflags.h, preempt.h;
kernel/sched/core.c (``__might_resched()``: preempt_count, irqs_disabled(), rcu_preempt_depth()).
"""

from typing import Final

from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.emulator import FIRST_FLAGS
from dpamt.verify.machine_code.operations import Operation

INTERRUPTS: Final = 0x200
"""IF in RFLAGS."""
_SAVES: Final = "_irqsave"
_RESTORES: Final = "_irqrestore"
_IRQ: Final = "_irq"
_SLEEPS: Final = frozenset(
    {*answered.ALLOC, *answered.MAY_SLEEP, "mutex_lock", "mutex_lock_nested"}
)


def flags_after(operation: Operation, flags: int, value: int) -> tuple[int, int]:
    """RAX and RFLAGS behind an answered call that found RFLAGS as ``flags``.

    ``value`` is what the call gives if it is none that saves them.
    """
    name, is_on = operation.method, flags & INTERRUPTS
    if name.endswith(_SAVES):
        return FIRST_FLAGS & ~INTERRUPTS | is_on, FIRST_FLAGS & ~INTERRUPTS
    if name.endswith(_RESTORES):
        is_on = operation.arguments[1] & INTERRUPTS
    elif name.endswith(_IRQ):
        is_on = INTERRUPTS if "unlock" in name else 0
    return value, FIRST_FLAGS & ~INTERRUPTS | is_on


def sections(operation: Operation) -> int:
    """By how many an answered call makes the sections more that keep interrupts off."""
    if not operation.method.endswith((_SAVES, _RESTORES, _IRQ)):
        return 0
    return -1 if "unlock" in operation.method else 1


def sleepless(flags: int, preempt_count: int, rcu_depth: int) -> str:
    """Why nothing may sleep; ``preempt_count`` is what was added to it.  Empty: it may."""
    if preempt_count > 0:
        return f"preempt_count raised by {preempt_count}"
    if rcu_depth:
        return "an RCU read section open"
    return "" if flags & INTERRUPTS else "interrupts off"


def may_sleep(operation: Operation) -> bool:
    """Whether an answered call may sleep."""
    return operation.method in _SLEEPS
