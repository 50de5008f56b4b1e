"""The table: which functions are answered here, which count as nothing, which are refused.

What is not in it is executed, instruction by instruction.  What an object does not define and is
not in it is refused by name.  docs/machine-code.md shows this table.

Source: Linux 7.3.4 kernel/locking/spinlock.c (``_raw_*``), kernel/locking/mutex.c, mm/page_alloc.c
(``alloc_pages_noprof``, ``__free_pages``), arch/x86/virt/vmx/tdx/seamcall.S, tdx.c
(``tdx_quirk_reset_paddr``), lib/list_debug.c, arch/x86/lib/retpoline.S,
Documentation/trace/ftrace.rst (``__fentry__``).
"""

import re
from typing import Final

from dpamt.kernel_image.elf import ElfImage, plain_name
from dpamt.kernel_image.refused import GENERAL

LOCKS: Final = {
    "_raw_spin_lock": "lock",
    "_raw_spin_lock_nested": "lock",
    "_raw_spin_unlock": "unlock",
    "_raw_spin_trylock": "trylock",
    "_raw_spin_lock_irqsave": "lock_irqsave",
    "_raw_spin_unlock_irqrestore": "unlock_irqrestore",
    "_raw_spin_lock_bh": "lock_bh",
    "_raw_spin_unlock_bh": "unlock_bh",
    "_raw_spin_lock_irq": "lock_irqsave",
    "_raw_spin_unlock_irq": "unlock_irqrestore",
}
"""Spinlocks: the step of a lock that each function is."""
RWLOCKS: Final = {
    "_raw_read_lock": "read_lock",
    "_raw_read_unlock": "read_unlock",
    "_raw_read_trylock": "read_trylock",
    "_raw_read_lock_irqsave": "read_lock_irqsave",
    "_raw_read_unlock_irqrestore": "read_unlock_irqrestore",
    "_raw_write_lock": "write_lock",
    "_raw_write_unlock": "write_unlock",
    "_raw_write_trylock": "write_trylock",
    "_raw_write_lock_irqsave": "write_lock_irqsave",
    "_raw_write_unlock_irqrestore": "write_unlock_irqrestore",
}
LOOKS: Final = {
    "_raw_spin_trylock": "is_locked",
    "_raw_read_trylock": "is_write_locked",
    "_raw_write_trylock": "is_locked",
    "mutex_trylock": "is_locked",
}
"""Trylocks that look at the lock with a plain load before they try (Linux 7.3.4
include/asm-generic/qspinlock.h, qrwlock.h; kernel/locking/mutex.c, __mutex_trylock_common()): the
step that this is."""
MUTEXES: Final = {
    "mutex_lock": "lock",
    "mutex_lock_nested": "lock",
    "mutex_unlock": "unlock",
    "mutex_trylock": "trylock",
}
COUNT_AND_LOCK: Final = frozenset({"atomic_dec_and_lock", "_atomic_dec_and_lock"})
"""Lowers a count, under a lock that stays taken where it falls to 0 (lib/dec_and_lock.c).  Of an
object; an image that has it executes it."""
ALLOC: Final = frozenset({"alloc_pages_noprof", "alloc_pages", "alloc_pages_mpol_noprof"})
FREE: Final = frozenset({"__free_pages", "__free_page"})
FREE_ORDER: Final = frozenset({"__free_pages"})
"""Those that are given an order too."""
SEAMCALLS: Final = {
    "__seamcall": False,
    "__seamcall_ret": True,
    "__seamcall_saved_ret": True,
}
"""Whether the registers come back."""
SAVES: Final = "__seamcall_saved_ret"
RESET: Final = frozenset({"tdx_quirk_reset_paddr", "tdx_quirk_reset_page"})
PRINT: Final = frozenset({"_printk", "printk", "__warn_printk"})
WARNS: Final = frozenset({"__SCT__WARN_trap", "__WARN_trap", "warn_slowpath_fmt"})
"""A WARN with a message (arch/x86/include/asm/bug.h): __bug_table names the call."""
LISTS: Final = frozenset(
    {"__list_add_valid_or_report", "__list_del_entry_valid_or_report", "__list_add_valid"}
)
"""Checks of lists: they find nothing wrong; the list itself is executed."""
MAY_SLEEP: Final = frozenset(
    {
        *("__might_sleep", "__might_resched", "__cond_resched"),
        *("__SCT__might_resched", "__SCT__cond_resched"),
    }
)
NOTHING: Final = frozenset(
    {
        *("__fentry__", "mcount", "preempt_schedule", "preempt_schedule_thunk"),
        *("preempt_schedule_notrace", "preempt_schedule_notrace_thunk"),
        *("__rcu_read_lock", "__rcu_read_unlock", "lock_acquire", "lock_release"),
        *("__SCT__preempt_schedule", "__SCT__preempt_schedule_notrace"),
        *("__sanitizer_cov_trace_pc", "__cant_sleep", "rcu_read_unlock_strict"),
    }
)
"""Tracing, preemption (another CPU may come in at each step as it is), RCU's marks of readers,
lockdep (its rules are checked here by the steps: docs/verify.md, context and lock-order)."""
RCU: Final = {"__rcu_read_lock": 1, "__rcu_read_unlock": -1}
"""Of these: by how many an RCU read section is deeper (CONFIG_PREEMPT_RCU); nothing may sleep in
one, and nothing waits for its end here."""
_NOTHING_BEGINS: Final = ("__tsan_", "__msan_", "__asan_", "kmsan_", "__kcsan_", "__cfi_")
"""Sanitizers' calls: what they check is not checked here."""
_DOES_WORK: Final = re.compile(
    r"__[tma]san_(atomic|mem(cpy|set|move)|metadata_ptr|get_context|poison_alloca|set_shadow)"
)
"""Those that stand for an access of the code itself, or return a pointer: refused."""
_THUNK: Final = "__x86_indirect_thunk_"
RETURN_THUNKS: Final = frozenset(
    {"__x86_return_thunk", "srso_return_thunk", "retbleed_return_thunk"}
)
REFUSED: Final = frozenset(
    {
        *("schedule", "schedule_timeout", "msleep", "usleep_range_state", "wait_for_completion"),
        *("queue_work_on", "__queue_work", "flush_work", "call_rcu", "synchronize_rcu", "panic"),
        *("__kmalloc_noprof", "kmem_cache_alloc_noprof", "kfree", "vzalloc_noprof", "vfree"),
        *("lock_is_held_type", "_raw_spin_lock_nest_lock", "queued_spin_lock_slowpath"),
        *("smp_call_function_many", "on_each_cpu_cond_mask", "down_read", "down_write"),
    }
)
"""Known, and not answered yet: a thread that comes there ends the search with one line."""
_CALLS: Final = frozenset(
    {
        *LOCKS,
        *RWLOCKS,
        *MUTEXES,
        *ALLOC,
        *FREE,
        *SEAMCALLS,
        *RESET,
        *PRINT,
        *WARNS,
        *LISTS,
        *MAY_SLEEP,
    }
)


def is_answered(name: str) -> bool:
    """Whether a function of that name is answered, wherever it lies."""
    return name in _CALLS


class Answered:
    """The table by address, for one image."""

    def __init__(self, image: ElfImage) -> None:
        self._names: dict[int, str] = {}
        self._passed: dict[int, str] = {}
        self._passed_names: dict[int, str] = {}
        self._refused: dict[int, str] = {}
        for full, symbol in image.symbols.items():
            name = plain_name(full)
            if symbol.is_function or name in _CALLS or name.startswith(("__x86_", "__SCT__")):
                self._enter(name, symbol.address, False)
        for name, address in image.externs.items():
            self._enter(name, address, True)

    def _enter(self, name: str, address: int, extern: bool) -> None:
        if name in _CALLS or (extern and name in COUNT_AND_LOCK):
            self._names[address] = name
        elif _DOES_WORK.match(name):
            self._refused[address] = name
        elif name in NOTHING or name.startswith(_NOTHING_BEGINS) or name in RETURN_THUNKS:
            self._passed[address] = ""
            self._passed_names[address] = name
        elif name.startswith(_THUNK) and name[len(_THUNK) :] in GENERAL:
            self._passed[address] = name[len(_THUNK) :]
            self._passed_names[address] = f"{_THUNK}*"
        elif name in REFUSED or extern:
            self._refused[address] = name

    def stops_at(self, address: int) -> bool:
        """Whether the CPU stops at a function's first instruction."""
        return address in self._names or address in self._passed or address in self._refused

    def name_at(self, address: int) -> str:
        """The function that is answered there; empty: none."""
        return self._names.get(address, "")

    def is_lock(self, address: int) -> bool:
        """Whether the function that is answered there takes a lock, tries to, or lets it go."""
        name = self.name_at(address)
        return name in LOCKS or name in RWLOCKS or name in MUTEXES

    def refuses(self, address: int) -> str:
        """The function there that nobody answers; empty: none."""
        return self._refused.get(address, "")

    def passes(self, address: int) -> str | None:
        """None: it is no function that counts as nothing.  A register's name: jump there."""
        return self._passed.get(address)

    def passed_name(self, address: int) -> str:
        """The name of a function that counts as nothing, or as a jump."""
        return self._passed_names[address]
