"""A recording opened: which tracer wrote it, and its items in the order of time."""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from dpamt.errors import InputError
from dpamt.trace.recording.json_lines import BootRecord, BpftraceJson
from dpamt.trace.recording.lines import Readable, chunks_of_lines
from dpamt.trace.recording.model import Health, Item, Lost
from dpamt.trace.recording.order import ordered, watched
from dpamt.trace.recording.symbols import Symbols
from dpamt.trace.recording.text import TextReader

FORMATS: Final = {
    "ftrace": "ftrace's trace file",
    "trace-cmd": "trace-cmd report, or ftrace's trace_pipe",
    "perf": "perf script",
    "bpftrace": "a bpftrace script of dpamt's, as text",
    "bpftrace-json": "the same with -f json",
    "boot": "dpamt boot --record",
}
BPFTRACE_HEAD: Final = b"# dpamt trace: bpftrace"
"""What dpamt's bpftrace scripts print first."""
_LOOKED_AT: Final = 1 << 16
_PERF: Final = re.compile(rb"^.{1,60}: +[\w-]+:[\w.-]+: ", re.MULTILINE)


class _Again:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: Readable, health: Health) -> None:
        self._head = head
        self._stream = stream
        self._health = health

    def read(self, size: int, /) -> bytes:
        """As any binary stream."""
        if self._head:
            data, self._head = self._head, b""
        else:
            data = self._stream.read(size)
        self._health.bytes += len(data)
        return data


class Recording:
    """A recording under way: iterate over it once; ``health`` grows while it is read.

    Raises InputError for what no tracer has written.
    """

    def __init__(
        self,
        stream: BinaryIO | Readable,
        name: str,
        form: str | None = None,
        symbols: Symbols | None = None,
    ) -> None:
        self.name = name
        self._symbols = symbols
        self.health = Health()
        head = stream.read(_LOOKED_AT)
        if not head:
            raise InputError(f"{name}: empty; expected a recording (dpamt trace --how TOOL)")
        self.form = form or _form_of(head, name)
        self._stream = _Again(head, stream, self.health)

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[Item]]:
        """The items, some at a time: a caller that takes them so is quicker."""
        if self._symbols is None:
            yield from self._read()
            return
        named = self._symbols.named
        for batch in self._read():
            for item in batch:
                if not isinstance(item, Lost):
                    item.caller = named(item.caller)
            yield batch

    def _read(self) -> Iterator[list[Item]]:
        chunks = chunks_of_lines(self._stream)
        health = self.health
        if self.form == "boot":
            yield from watched(ordered(BootRecord(health).batches(chunks), health), health)
            return
        text = TextReader(health)
        if self.form == "bpftrace-json":
            batches = BpftraceJson(health, text).batches(chunks)
        else:
            batches = text.batches(chunks)
        if self.form.startswith("bpftrace"):
            batches = ordered(batches, health)
        yield from watched(batches, health)
        left: list[Item] = [*text.pairing.finish(health.last or 0)]
        yield left


def _form_of(head: bytes, name: str) -> str:
    start = head.lstrip()
    if start.startswith(b"{"):
        line = start.split(b"\n", 1)[0]
        if b'"format"' in line[:200]:
            return "boot"
        if b'"type"' in line[:200]:
            return "bpftrace-json"
        raise InputError(
            f"{name}: JSON lines of no kind that is known; expected bpftrace -f json or dpamt boot "
            "--record (or say --format)"
        )
    if head.startswith(b"# tracer:") or b"\n# tracer:" in head:
        return "ftrace"
    if start.startswith((b"cpus=", b"version = ")) or b"EVENTS DROPPED" in head:
        return "trace-cmd"
    if start.startswith(b"Attach") or BPFTRACE_HEAD in head:
        return "bpftrace"
    if _PERF.search(head) is not None:
        return "perf"
    if b"\0" in head:
        raise InputError(
            f"{name}: binary; expected text (trace-cmd report, perf script), not the tracer's own "
            "file"
        )
    return "trace-cmd"
