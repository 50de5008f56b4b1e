"""JSON lines: what `bpftrace -f json` writes around the lines of a script, and `dpamt boot
--record`."""

import json
from collections.abc import Iterator
from typing import Any, Final

from dpamt.abi.leaves import RAX_LEAF_MASK, RAX_VERSION_MASK, RAX_VERSION_SHIFT
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.trace.recording.lines import TooLong
from dpamt.trace.recording.model import Call, Health, Item, shown
from dpamt.trace.recording.text import TextReader

_RAX_KNOWN: Final = RAX_LEAF_MASK | RAX_VERSION_MASK << RAX_VERSION_SHIFT
_MOST_CPU: Final = 8191
_MOST_SECONDS: Final = 1e10


class _Wrong(Exception):  # noqa: N818  (caught where the line number is known)
    """A line that is not what it must be."""


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError):
        raise _Wrong("no JSON object") from None
    if not isinstance(found, dict):
        raise _Wrong("no JSON object")
    return found


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Wrong("a key twice")
    return found


class BpftraceJson:
    """`bpftrace -f json`: ``printf`` lines hold text lines, ``lost_events`` tells of losses."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.text = TextReader(health)
        self.pairing = self.text.pairing

    def items(self, chunks: Iterator[list[bytes | TooLong]]) -> Iterator[tuple[int, int, Item]]:
        """(time, CPU, item) of everything in the lines, in their order."""
        for lines in chunks:
            for line in lines:
                self.text.number += 1
                yield from self._line(line)
            self.health.lines = self.text.number

    def _line(self, line: bytes | TooLong) -> Iterator[tuple[int, int, Item]]:
        try:
            if isinstance(line, TooLong):
                raise _Wrong("longer than 65,536 bytes")
            if not line.strip():
                return
            found = _object(line)
            kind, data = found.get("type"), found.get("data")
            if kind == "printf":
                if not isinstance(data, str):
                    raise _Wrong("data is no text")
                for part in data.split("\n"):
                    if part:
                        item = self.text.line(part.encode("utf-8", "replace"))
                        if item is not None:
                            yield item
            elif kind == "lost_events":
                count = data.get("events") if isinstance(data, dict) else None
                yield self.text.lost(count if type(count) is int and count >= 0 else None, None)
        except _Wrong as wrong:
            where = b"" if isinstance(line, TooLong) else line
            self.health.damaged.add(f"line {self.text.number}: {wrong}: {shown(where)}")


class BootRecord:
    """`dpamt boot --record`: a line a call, the first says the format."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.number = 0

    def items(self, chunks: Iterator[list[bytes | TooLong]]) -> Iterator[tuple[int, int, Item]]:
        """(time, CPU, item) of every call, in the order of the lines."""
        health = self.health
        for lines in chunks:
            for line in lines:
                self.number += 1
                try:
                    if isinstance(line, TooLong):
                        raise _Wrong("longer than 65,536 bytes")
                    if not line.strip():
                        continue
                    call = self._call(_object(line))
                except _Wrong as wrong:
                    where = b"" if isinstance(line, TooLong) else line
                    health.damaged.add(f"line {self.number}: {wrong}: {shown(where)}")
                    continue
                if call is not None:
                    health.events += 1
                    health.calls += 1
                    yield call.end, call.cpu, call
            health.lines = self.number

    def _call(self, found: dict[str, Any]) -> Call | None:
        if "format" in found:
            return None
        before = _registers(found.get("before"), "before")
        changed = _registers(found.get("after"), "after")
        values = tuple(before.get(name, 0) for name in REGISTER_NAMES)
        after = tuple(
            changed.get(name, value) for name, value in zip(REGISTER_NAMES, values, strict=True)
        )
        cpu = found.get("cpu")
        if type(cpu) is not int or not 0 <= cpu <= _MOST_CPU:
            raise _Wrong("cpu is no CPU number")
        start, end = _time(found, "asked"), _time(found, "answered")
        if end < start:
            raise _Wrong("answered before it was asked")
        site, caller = found.get("site"), found.get("caller")
        if not isinstance(site, str) or not isinstance(caller, str):
            raise _Wrong("site and caller are no texts")
        return Call(
            start=start,
            end=end,
            cpu=cpu,
            pid=0,
            comm=b"",
            rax=_hex(found.get("rax"), "rax") & _RAX_KNOWN,
            before=values,
            status=_hex(found.get("status"), "status"),
            after=after,
            caller=(caller or site).encode("utf-8", "replace")[:300],
        )


def _registers(found: object, what: str) -> dict[str, int]:
    if not isinstance(found, dict):
        raise _Wrong(f"{what} is no object")
    for name in found:
        if name not in REGISTER_NAMES:
            raise _Wrong(f"{what} has a key that is no register")
    return {name: _hex(value, name) for name, value in found.items()}


def _hex(value: object, what: str) -> int:
    try:
        number = int(value, 16) if isinstance(value, str) and len(value) <= 20 else -1
    except ValueError:
        number = -1
    if not 0 <= number <= U64_MASK:
        raise _Wrong(f"{what} is no hexadecimal text of 64 bits")
    return number


def _time(found: dict[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) not in (int, float) or not 0 <= value <= _MOST_SECONDS:  # type: ignore[operator]
        raise _Wrong(f"{key} is no time in seconds")
    return round(value * 1e9)  # type: ignore[operator]
