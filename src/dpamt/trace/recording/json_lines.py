"""JSON lines: what `bpftrace -f json` writes around the lines of a script, and `dpamt boot
--record`."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from dpamt.abi.leaves import RAX_LEAF_MASK, RAX_VERSION_MASK, RAX_VERSION_SHIFT
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.trace.recording.lines import TooLong
from dpamt.trace.recording.model import MOST_CALLER, Call, Health, Item, shown
from dpamt.trace.recording.registers import HEX
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

    def __init__(self, health: Health, text: TextReader) -> None:
        self.health = health
        self.text = text

    def batches(self, chunks: Iterable[list[bytes | TooLong]]) -> Iterator[list[Item]]:
        """Everything in the lines, in their order, some at a time."""
        text = self.text
        for lines in chunks:
            out: list[Item] = []
            printed: list[bytes] = []
            for line in lines:
                quick = _PRINTED(line) if type(line) is bytes else None
                if quick is not None:
                    printed.append(quick[1])
                    continue
                text.take(printed, out)
                printed.clear()
                text.number += 1
                self._line(line, out)
            text.take(printed, out)
            self.health.lines = text.number
            yield out

    def _line(self, line: bytes | TooLong, out: list[Item]) -> None:
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
                self.text.take(data.encode("utf-8", "replace").split(b"\n"), out, 0)
                self.text.end_stack()
            elif kind == "lost_events":
                count = data.get("events") if isinstance(data, dict) else None
                out.append(
                    self.text.lost(count if type(count) is int and count >= 0 else None, None)
                )
        except _Wrong as wrong:
            where = b"" if isinstance(line, TooLong) else line
            self.health.damaged.add(f"line {self.text.number}: {wrong}: {shown(where)}")


class BootRecord:
    """`dpamt boot --record`: a line a call, the first says the format."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.number = 0

    def batches(self, chunks: Iterable[list[bytes | TooLong]]) -> Iterator[list[Item]]:
        """Every call, in the order of the lines, some at a time."""
        health = self.health
        for lines in chunks:
            out: list[Item] = []
            for line in lines:
                self.number += 1
                quick = _RECORDED(line) if type(line) is bytes else None
                if quick is not None:
                    call = _quick_call(quick)
                    if call is not None:
                        out.append(call)
                        continue
                self._line(line, out)
            health.lines = self.number
            health.events += len(out)
            health.calls += len(out)
            yield out

    def _line(self, line: bytes | TooLong, out: list[Item]) -> None:
        try:
            if isinstance(line, TooLong):
                raise _Wrong("longer than 65,536 bytes")
            call = self._call(_object(line)) if line.strip() else None
        except _Wrong as wrong:
            where = b"" if isinstance(line, TooLong) else line
            self.health.damaged.add(f"line {self.number}: {wrong}: {shown(where)}")
            return
        if call is not None:
            out.append(call)

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
            caller=(caller or site).encode("utf-8", "replace")[:MOST_CALLER],
        )


_TEXT: Final = rb'"([^"\\\x00-\x1f\x80-\xff]*)"'
_WHOLE: Final = rb"(?:0|[1-9]\d{0,8})"
_NUMBER: Final = rb"(" + _WHOLE + rb"(?:\.\d{1,9})?)"
_REGISTERS: Final = (
    rb"\{"
    + rb"".join(
        b'(?:"' + name.encode() + b'": "(' + HEX + b')"(?:, (?=")|(?=\\})))?'
        for name in REGISTER_NAMES
    )
    + rb"\}"
)
_PRINTED: Final = re.compile(
    rb'\{"type": "printf", "data": "([^"\\\x00-\x1f\x80-\xff]*)(?:\\n)?"\}$'
).match
"""A line of `bpftrace -f json` whose text needs no decoding."""
_RECORDED: Final = re.compile(
    rb'\{"number": '
    + _WHOLE
    + rb', "cpu": ('
    + _WHOLE
    + rb'), "asked": '
    + _NUMBER
    + rb', "answered": '
    + _NUMBER
    + rb', "leaf": "[^"\\\x00-\x1f\x80-\xff]*", "rax": "('
    + HEX
    + rb')", "site": '
    + _TEXT
    + rb', "caller": '
    + _TEXT
    + rb', "before": '
    + _REGISTERS
    + rb', "status": "('
    + HEX
    + rb')", "status_name": "[^"\\\x00-\x1f\x80-\xff]*", "after": '
    + _REGISTERS
    + rb"\}$"
).match
"""A line as :meth:`dpamt.boot.call.Call.as_json` makes it."""
_BEFORE_AT: Final = 6
_STATUS_AT: Final = _BEFORE_AT + len(REGISTER_NAMES)
_AFTER_AT: Final = _STATUS_AT + 1
"""Places among the pattern's groups."""
_ZEROS: Final = (0,) * len(REGISTER_NAMES)
_LEFT_OUT: Final = (None,) * (len(REGISTER_NAMES) - 3)


def _quick_call(match: re.Match[bytes]) -> Call | None:
    """The call of a line that :data:`_RECORDED` matches; None where it has to be looked at."""
    groups = match.groups()
    cpu, asked, answered, rax, site, caller = groups[:_BEFORE_AT]
    number, start, end = int(cpu), int(float(asked) * 1e9 + 0.5), int(float(answered) * 1e9 + 0.5)
    if number > _MOST_CPU or end < start:
        return None
    before = after = _filled(groups[_BEFORE_AT:_STATUS_AT], _ZEROS)
    if match.lastindex != _AFTER_AT:
        after = _filled(groups[_AFTER_AT:], before)
    return Call(
        *(start, end, number, 0, b"", int(rax, 16) & _RAX_KNOWN, before),
        *(int(groups[_STATUS_AT], 16), after, (caller or site)[:MOST_CALLER]),
    )


def _filled(texts: tuple[bytes | None, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    """Registers; those that the line leaves out are the others."""
    rcx, rdx, r8 = texts[:3]
    return (
        int(rcx, 16) if rcx else others[0],
        int(rdx, 16) if rdx else others[1],
        int(r8, 16) if r8 else others[2],
        *(
            others[3:]
            if texts[3:] == _LEFT_OUT
            else [
                int(text, 16) if text else other
                for text, other in zip(texts[3:], others[3:], strict=True)
            ]
        ),
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
    return int(value * 1e9 + 0.5)  # type: ignore[operator]
