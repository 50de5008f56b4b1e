"""KeyIDs and what guards them: the KeyID ownership table, key engines, cache write-back.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18.
"""

from typing import Final

from dpamt.platform.machine import Machine
from dpamt.sync import Shared

KOT_STATE_MASK: Final = 0xFF
KOT_PACKAGES_SHIFT: Final = 8
"""A KOT entry: state (:mod:`dpamt.abi.states`) | packages with caches not written back << 8."""


class Keys:
    """The private KeyIDs of a machine, with their locks.

    ``kot`` holds an entry per KeyID.  ``write_back`` holds, for a package whose PHYMEM.CACHE.WB was
    interrupted and may be resumed, the KeyIDs it is for, a bit each; else 0.
    """

    def __init__(self, shared: Shared, machine: Machine) -> None:
        self.first, self.end = machine.private_keyids
        self.kot = shared.words("module.kot")
        self.kot_locks = shared.shared_exclusive_locks("module.kot.lock")
        self.kot_lock = self.kot_locks.at(0)
        self.key_engines = shared.shared_exclusive_locks("module.ket.lock")
        """By package: the lock behind TDX_OPERAND_BUSY | KET."""
        self.write_back = shared.words("module.wbcache")
        self.write_back_lock = shared.shared_exclusive_locks("module.wbcache.lock")
        """By package: the lock behind TDX_OPERAND_BUSY | WBCACHE."""

    def is_private(self, keyid: int) -> bool:
        """Whether the KeyID is one of the private ones."""
        return self.first <= keyid < self.end

    def in_state(self, state: int) -> int:
        """Private KeyIDs whose KOT entry is in ``state``, a bit each; the caller holds the lock."""
        found = 0
        keyid = self.first
        while keyid < self.end:
            entry = self.kot.at(keyid).load()
            if entry & KOT_STATE_MASK == state:
                found |= 1 << keyid
            keyid += 1
        return found
