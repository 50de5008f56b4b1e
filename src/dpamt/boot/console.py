"""The guest's serial console: its lines as they come, and what in them is a complaint."""

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from threading import Lock, Thread
from time import monotonic
from typing import Final

MAX_BYTES: Final = 16 << 20
"""A guest that says more is cut: the first bytes are kept."""

_STAMP: Final = re.compile(r"^(?:\x1b\[[0-9;]*m)*\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
_COMPLAINTS: Final = (
    ("WARNING", re.compile(r"^WARNING: (?:CPU: \d+ PID: \d+ at )?(.*)")),
    ("lockdep", re.compile(r"^(?:WARNING|INFO|BUG): (possible .*|.*lock.* detected.*)")),
    ("BUG", re.compile(r"^(?:kernel )?BUG(?: at |: )(.*)")),
    ("Oops", re.compile(r"^Oops: (.*)")),
    ("panic", re.compile(r"^Kernel panic - not syncing: (.*)")),
    ("sanitizer", re.compile(r"^BUG: (K(?:ASAN|CSAN|MSAN): .*)|^(UBSAN: .*)")),
    ("refcount", re.compile(r"^(refcount_t: .*)")),
    ("stall", re.compile(r"^(?:rcu: )?(INFO: .*(?:stall|blocked for).*)")),
    ("MSR", re.compile(r"^(unchecked MSR access error: .*)")),
)
"""Kind and first line of what a kernel prints when something is wrong; the first kind that fits."""
_ENDS: Final = re.compile(r"^---\[ end |^</TASK>$|^ </TASK>$")
_TRACE_LINES: Final = 60


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something the kernel itself says is wrong: kind, first line, and the functions on the stack
    (innermost first, as printed)."""

    kind: str
    text: str
    stack: tuple[str, ...]


class Console:
    """Reads a pipe or a socket until it ends; ``lines()`` is what came so far, without its time
    stamps."""

    def __init__(self, end: FileIO | socket.socket) -> None:
        self._end = end
        self._text = bytearray()
        self._lock = Lock()
        self.last = monotonic()
        """When something came last."""
        self._thread = Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._end.fileno(), 1 << 16)
            except (OSError, ValueError):  # closed meanwhile
                return
            if not data:
                return
            with self._lock:
                self.last = monotonic()
                self._text.extend(data[: MAX_BYTES - len(self._text)])

    def finish(self) -> None:
        """Wait for the rest of a guest that has ended."""
        self._thread.join(2.0)

    def text(self) -> str:
        """Everything so far; carriage returns left out."""
        with self._lock:
            return self._text.decode(errors="replace").replace("\r", "")

    def says(self, what: bytes) -> bool:
        """Whether these bytes came."""
        with self._lock:
            return what in self._text

    def lines(self) -> list[str]:
        """The lines so far, time stamps cut."""
        return plain_lines(self.text())


def plain_lines(text: str) -> list[str]:
    """The lines of a console text without time stamps."""
    return [_STAMP.sub("", line) for line in text.split("\n")]


def complaints(lines: list[str]) -> list[Complaint]:
    """Everything that is wrong by the kernel's own account, in order."""
    return list(_complaints(lines))


def _complaints(lines: list[str]) -> Iterator[Complaint]:
    at = 0
    while at < len(lines):
        found = _complaint_of(lines[at])
        at += 1
        if found is None:
            continue
        end = at
        while end < min(len(lines), at + _TRACE_LINES):
            if _ENDS.match(lines[end]) or _complaint_of(lines[end]) is not None:
                break
            end += 1
        kind, text = found
        yield Complaint(kind, text, _stack(lines[at:end]))


def _complaint_of(line: str) -> tuple[str, str] | None:
    for kind, pattern in sorted(_COMPLAINTS, key=lambda item: item[0] in ("WARNING", "BUG")):
        match = pattern.match(line)
        if match:
            return kind, next(group for group in match.groups() if group)
    return None


_FRAME: Final = re.compile(r"^ *(?:RIP: \d+:)?([A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+)")


def _stack(lines: list[str]) -> tuple[str, ...]:
    """Frames that are certain: those with a question mark are leftovers."""
    frames = (_FRAME.match(line) for line in lines)
    return tuple(dict.fromkeys(frame.group(1) for frame in frames if frame))
