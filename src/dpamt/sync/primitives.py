"""What a design may call of words, locks and their makers, for who calls something else."""

from typing import Final

from dpamt.sync.kernel_locks import Mutex, RwLock, RwLocks, SpinLock, SpinLocks
from dpamt.sync.shared import Shared
from dpamt.sync.steps import MUTEX_STEPS, RW_STEPS, SPIN_STEPS, WORD_STEPS
from dpamt.sync.words import Word, Words

PRIMITIVES: Final[tuple[tuple[type, str, tuple[str, ...]], ...]] = (
    (Word, "a word", WORD_STEPS),
    (SpinLock, "a spinlock", SPIN_STEPS),
    (Mutex, "a mutex", MUTEX_STEPS),
    (RwLock, "a reader/writer lock", RW_STEPS),
    (Words, "an array of words", ("at", "clear")),
    (SpinLocks, "an array of spinlocks", ("at",)),
    (RwLocks, "an array of reader/writer locks", ("at",)),
    (
        Shared,
        "kernel.shared",
        ("words", "spinlock", "spinlocks", "rwlock", "rwlocks", "mutex"),
    ),
)
"""By class: its name for people, and the operations that threads may use, each one step; of arrays,
how a word or lock is found, and of the maker, what it makes."""

_LINUX: Final = ("atomic_", "spin_", "read_", "write_", "mutex_", "raw_", "local_", "this_cpu_")
_BARE: Final = ("xchg", "cmpxchg", "try_cmpxchg", "smp_mb", "call_rcu", "queue_work")


def missing(error: Exception) -> str:
    """One line for an operation that is not there, with those that are; empty for other errors."""
    if isinstance(error, AttributeError):
        for kind, named, operations in PRIMITIVES:
            if isinstance(error.obj, kind):
                return f"{named} has no {error.name}; expected one of {', '.join(operations)}"
    name = error.name if isinstance(error, NameError) else None
    if name and (name in _BARE or name.startswith(_LINUX)):
        words, spin, rw = (", ".join(PRIMITIVES[n][2]) for n in (0, 1, 3))
        return (
            f"{name} is not there; expected a method of a word ({words}), of a spinlock ({spin}) "
            f"or of a reader/writer lock ({rw}), or an import from dpamt.host.core (atomic, "
            "workqueue)"
        )
    return ""
