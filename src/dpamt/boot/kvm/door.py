"""The page that the VMM and dpamt share: phases end there, and the VMM waits until they are seen.

The VMM prints where the page lies in guest memory, writes a number into its first word, and waits
until the second has it too.  Behind them is a text for each TD: the step of its making that is not
done yet.
"""

import re
from typing import Final

from dpamt.boot.console import Console
from dpamt.boot.guest_memory import GuestMemory, NoSuchMemory

_SAID: Final = re.compile(r"\bdpamt: door (0x[0-9a-f]+)\n")
_MARK: Final = b"dpamt: door 0x"
_BYTES: Final = 4096
_TEXT: Final = 64
"""Bytes of the text of a TD; the first of them lies behind the words (vmm.c, tell_step)."""


class Door:
    """One guest's door."""

    def __init__(self, memory: GuestMemory, console: Console) -> None:
        self._memory = memory
        self._console = console
        self._words: memoryview | None = None
        self._seen = 0

    def knocked(self) -> int:
        """The number that the VMM waits with; 0: it does not wait."""
        if self._words is None and not self._find():
            return 0
        assert self._words is not None
        said = self._words[0]
        return said if said != self._seen else 0

    def open(self, number: int, enough: bool = False) -> None:
        """Let the VMM go on; ``enough``: to its end, whatever its script still has."""
        assert self._words is not None
        self._words[2] = enough
        self._seen = number
        self._words[1] = number

    @property
    def allocation_failed(self) -> bool:
        """Whether an allocation failed that the script wanted to fail, in the phase that ended."""
        return self._words is not None and bool(self._words[3])

    @property
    def free_pages(self) -> int:
        """Free pages of the machine when the phase ended; 0: not known."""
        return self._words[4] if self._words is not None else 0

    def standing(self, tds: int) -> list[str]:
        """By TD: the step that its VMM has begun and not finished; empty: none."""
        if self._words is None:
            return []
        data = self._words.tobytes()
        texts = (data[at : at + _TEXT] for at in range(_TEXT, _TEXT * (tds + 1), _TEXT))
        return [text.partition(b"\0")[0].decode("ascii", "replace") for text in texts]

    def _find(self) -> bool:
        if not self._console.says(_MARK):
            return False
        found = _SAID.search(self._console.text())
        if found is None:
            return False
        try:
            self._words = self._memory.words(int(found[1], 16), _BYTES)
        except NoSuchMemory:
            return False
        return True
