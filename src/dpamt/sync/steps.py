"""Which methods of words are steps, and what each kind of step does to a word or a lock.

One place for the names.  The observed words (:mod:`.observed`) make steps of them, the discipline
(:mod:`.discipline`) looks for them in code, and the verifier reads here which steps wait, take,
drop or only look.
"""

from typing import Final

IRQS_OFF: Final = {
    "lock_irqsave": "unlock_irqrestore",
    "read_lock_irqsave": "read_unlock_irqrestore",
    "write_lock_irqsave": "write_unlock_irqrestore",
}
"""Steps that take a lock and keep interrupts off their CPU, with the one that undoes both."""
SOFTIRQS_OFF: Final = {
    "lock_bh": "unlock_bh",
    "read_lock_bh": "read_unlock_bh",
    "write_lock_bh": "write_unlock_bh",
}
"""The same of softirqs."""
_SPIN_LOCKS: Final = ("lock", "lock_irqsave", "lock_bh")
_SPIN_UNLOCKS: Final = ("unlock", "unlock_irqrestore", "unlock_bh")
_READ_LOCKS: Final = ("read_lock", "read_lock_irqsave", "read_lock_bh")
_READ_UNLOCKS: Final = ("read_unlock", "read_unlock_irqrestore", "read_unlock_bh")
_WRITE_LOCKS: Final = ("write_lock", "write_lock_irqsave", "write_lock_bh")
_WRITE_UNLOCKS: Final = ("write_unlock", "write_unlock_irqrestore", "write_unlock_bh")

READS: Final = frozenset({"load", "contended", "is_locked", "is_write_locked"})
"""Steps that change nothing."""
READ_WAITS: Final = frozenset(_READ_LOCKS)
"""Steps that wait for a writer only."""
SHARES: Final = frozenset(
    {"try_shared", "release_shared", "read_trylock", *_READ_LOCKS, *_READ_UNLOCKS}
)
"""Steps that only those notice who want the word for themselves."""
WAITS: Final = frozenset({*_SPIN_LOCKS, *_READ_LOCKS, *_WRITE_LOCKS})
"""Steps that wait."""
TRIES: Final = frozenset({"trylock", "read_trylock", "write_trylock"})
"""Steps that take a kernel's lock or see that they cannot: they look at it and never wait."""
ACQUIRES: Final[dict[str, bool | None]] = {
    **dict.fromkeys((*_SPIN_LOCKS, *_WRITE_LOCKS, "trylock", "write_trylock"), True),
    **dict.fromkeys((*_READ_LOCKS, "read_trylock"), False),
    "promote": True,
    "try_shared": None,
    "try_exclusive": None,
    "try_shared_guest": None,
    "try_exclusive_guest": None,
}
"""Steps that take a lock: exclusively, shared, or (None) as their name says and if they succeed."""
LOOKS: Final = frozenset({"is_locked", "is_write_locked"}) | TRIES
"""Steps that see whether a lock that others wait for is held, and do not wait for it themselves."""
LOCK_READS: Final = frozenset({"contended"}) | LOOKS
"""Reads of the lock itself: who fails to take it changes what its holder sees."""
UNLOCKS: Final = frozenset({*_SPIN_UNLOCKS, *_READ_UNLOCKS, *_WRITE_UNLOCKS})
STORES_AND_RELEASES: Final = "store_and_release"
"""The step that writes the word and drops its lock in one."""
RELEASES: Final = UNLOCKS | {"release_shared", "release_exclusive", STORES_AND_RELEASES}
"""Steps that drop a lock; UNLOCKS are of locks that others wait for."""
PAGE_READS: Final = frozenset({"any_exclusive", "any_non_zero", "payloads"})
PAGE_WRITES: Final = frozenset({"fill", "fill_run", "zero"})
"""Steps on a whole page of entries."""

WORD_STEPS: Final = (
    "load",
    "store",
    "add",
    "add_unless",
    "inc_not_zero",
    "compare_and_swap",
    "cmpxchg",
    "xchg",
    "inc",
    "dec",
    "inc_return",
    "dec_return",
    "sub_return",
    "fetch_add",
    "dec_and_test",
    "dec_if_positive",
    "set_bits",
    "clear_bits",
)
HOST_PRIORITY_STEPS: Final = (
    "try_shared",
    "try_exclusive",
    "promote",
    "try_shared_guest",
    "try_exclusive_guest",
    "release_shared",
    "release_exclusive",
    "contended",
    "load",
    "store",
)
SHARED_EXCLUSIVE_STEPS: Final = (
    "try_shared",
    "try_exclusive",
    "release_shared",
    "release_exclusive",
)
ENTRY_STEPS: Final = (
    "try_shared",
    "try_exclusive",
    "try_exclusive_guest",
    "release_shared",
    "release_exclusive",
    STORES_AND_RELEASES,
    "load",
    "store",
    "clear",
)


SPIN_STEPS: Final = (*_SPIN_LOCKS, *_SPIN_UNLOCKS, "trylock", "is_locked")
MUTEX_STEPS: Final = ("lock", "unlock", "trylock", "is_locked")
RW_STEPS: Final = (
    *_READ_LOCKS,
    *_READ_UNLOCKS,
    "read_trylock",
    *_WRITE_LOCKS,
    *_WRITE_UNLOCKS,
    "write_trylock",
    "is_locked",
    "is_write_locked",
)
OF_WORDS: Final = frozenset(
    {
        *(*WORD_STEPS, *HOST_PRIORITY_STEPS, *SHARED_EXCLUSIVE_STEPS, *ENTRY_STEPS),
        *(*PAGE_READS, *PAGE_WRITES, *SPIN_STEPS, *MUTEX_STEPS, *RW_STEPS),
    }
)
"""All of them, whatever they are steps of."""
