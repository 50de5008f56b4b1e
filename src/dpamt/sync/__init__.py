"""The words that CPUs share: atomic integers and locks, in sparse arrays addressed by index.

All state that two CPUs can touch at once lives here and nowhere else.  In a plain run a word is an
integer and an operation is a direct method call.  Each method call is one visible step (finding a
word in its array is none): code above makes one at a time, keeps its result in a local, and never
has two of them in one expression, so that the same code can also be run step by step and its state
be copied, hashed and compared.
"""

from dpamt.sync.entry_pages import ENTRIES_PER_PAGE, EntryPage, EntryPages
from dpamt.sync.host_priority import (
    BUSY,
    BUSY_HOST_PRIORITY,
    HostPriorityWord,
    HostPriorityWords,
)
from dpamt.sync.kernel_locks import Deadlock, Mutex, RwLock, RwLocks, SpinLock, SpinLocks
from dpamt.sync.lock_set import (
    DECLINED,
    EXCLUSIVE,
    SHARED,
    EntryPath,
    LockSet,
    StepLockSet,
    Way,
    way_down,
)
from dpamt.sync.shared import Shared, Snapshot
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.words import Word, Words

__all__ = [
    "BUSY",
    "BUSY_HOST_PRIORITY",
    "DECLINED",
    "ENTRIES_PER_PAGE",
    "EXCLUSIVE",
    "SHARED",
    "Deadlock",
    "EntryPage",
    "EntryPages",
    "EntryPath",
    "HostPriorityWord",
    "HostPriorityWords",
    "LockSet",
    "Mutex",
    "RwLock",
    "RwLocks",
    "Shared",
    "SharedExclusiveLock",
    "SharedExclusiveLocks",
    "Snapshot",
    "SpinLock",
    "SpinLocks",
    "StepLockSet",
    "Way",
    "Word",
    "Words",
    "way_down",
]
