r"""Lines of ftrace's trace file, trace-cmd report, perf script and dpamt's bpftrace scripts.

All four write an event as task, CPU, time, event name and arguments::

    qemu-kvm-4711  [003] d..2. 12.345678: seamcall_begin: (__seamcall+0x0/0x40) fn=0x6 rcx=0x..
    qemu-kvm-4711  [003] 12.345678901: seamcall_begin: (ffffffff81000000) fn=0x6 rcx=0x...
    qemu-kvm  4711 [003]    12.345678: dpamt:seamcall_begin: (ffffffff81000000) fn=0x6 rcx=0x...

They differ in what stands between.  The events are those that `dpamt trace --how` defines; their
arguments may come in any order and may be fewer:

    event           arguments
    seamcall_begin  fn, rcx, rdx, r8 to r13, caller
    seamcall_end    status, rcx, rdx, r8 to r13 (after the call)
    seamcall        both in one line: fn, rcx.., status, out_rcx.., ns (how long it took), caller
    pamt_get_begin, pamt_put_begin   pfn, caller
    pamt_get_end, pamt_put_end       ret (of get)
    pamt_get, pamt_put               both in one line: pfn, ret, ns, caller

An event's line is taken apart by a pattern that is made from the first line of its kind, so that
the long run of equal lines costs two matches each.
"""

import re
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Final

from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.trace.recording.lines import TooLong
from dpamt.trace.recording.model import Call, Health, Item, Lost, PamtOp, seconds, shown
from dpamt.trace.recording.pairing import Pairing

_HEAD: Final = re.compile(
    rb"\s{0,32}(\S.{0,15}?)[- ] {0,12}(\d{1,10})(?:/\d{1,10})? {1,12}(?:\([ \d-]{1,10}\) {1,8})?"
    rb"\[(\d{1,4})\] {1,8}(?:[a-zA-Z.]\S{3,5} {1,8})?(\d{1,11})\.(\d{9}|\d{6}): {1,8}"
    rb"(?:[\w-]{1,64}:)?([\w.-]{1,64}): {0,32}"
)
_LOST: Final = re.compile(
    rb"(?:CPU:(\d{1,4}) \[(?:LOST )?(?:(\d{1,18}) )?EVENTS(?: DROPPED)?\]"
    rb"|Lost (\d{1,18}) events|.{0,80}PERF_RECORD_LOST(?:_SAMPLES)?\b.{0,20}?(\d{1,18})?)\s*$"
)
_OVERWRITTEN: Final = re.compile(rb"# entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})")
_NO_EVENT: Final = re.compile(
    rb"\s*$|#|cpus=\d|CPU \d{1,4} is empty|Attach(?:ing|ed) \d+ probe|version = \d"
    rb"|\s+(?:=> )?[0-9a-f]{8,16}[ :]|\s+=> |\s*\S.{0,60} <stack trace>\s*$"
)
"""Lines that belong to a tracer's output and are no event: comments, heads, stacks."""
_ADDRESS: Final = rb"(?:\((?:(\S{1,200}) <- )?[^()]{0,300}\) {0,8})?"
"""Where the probe is; at a function's end: where it returns to, its caller."""
_WHERE: Final = re.compile(_ADDRESS)
_PAIR: Final = re.compile(rb"([a-z][\w]{0,31})=(\S{1,300})")
_HEX: Final = re.compile(rb"0x[0-9a-fA-F]{1,16}")
_DECIMAL: Final = re.compile(rb"-?\d{1,20}")
_MOST_CPU: Final = 8191
_MOST_SHAPES: Final = 64
_KEYS_OUT: Final = tuple(f"out_{name}" for name in REGISTER_NAMES)

Values = dict[str, int | bytes]


class _Shape:
    """The pattern of lines of one event with the same arguments in the same order."""

    def __init__(self, keys: list[str], numbers: list[bool]) -> None:
        parts = [
            re.escape(key.encode()) + (rb"=(0x[0-9a-fA-F]{1,16})" if number else rb"=(\S{1,300})")
            for key, number in zip(keys, numbers, strict=True)
        ]
        self.match = re.compile(_ADDRESS + rb" {1,4}".join(parts) + rb"\s{0,4}$").match
        pairs = list(zip(keys, numbers, strict=True))
        self.numbers = [key for key, number in pairs if number]
        self.texts = [key for key, number in pairs if not number]
        places = {key: place for place, key in enumerate(keys, 2)}
        self._places = [places[key] for key in (*self.numbers, *self.texts)]
        self.tells_caller = "caller" in keys

    def values(self, match: re.Match[bytes]) -> Values:
        """Numbers where the line has them in hexadecimal, else the text."""
        groups = match.group(*self._places, 0)
        # One group more, so that it is a tuple, and zip() ends before it.
        values: Values = dict(zip(self.numbers, map(int, groups, repeat(16)), strict=False))
        for place, key in enumerate(self.texts, len(self.numbers)):
            values[key] = groups[place]
        if not self.tells_caller and match[1] is not None:
            values["caller"] = match[1]
        return values


class _Damaged(Exception):  # noqa: N818  (caught where the line number is known)
    """A line that looks like one of our events and is not."""


class TextReader:
    """Turns lines into calls; ``health`` tells what could not be."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.pairing = Pairing(health)
        self.number = 0
        self.time = 0
        self._shapes: dict[bytes, list[_Shape]] = {}
        self._last: dict[int, int] = {}
        """When each CPU's last event was."""
        self._handlers: dict[bytes, Callable[[int, int, int, bytes, Values], Item | None]] = {
            b"seamcall_begin": self._begin,
            b"seamcall_end": self._end,
            b"seamcall": self._whole,
            b"pamt_get_begin": lambda *event: self._op_begin(False, *event),
            b"pamt_put_begin": lambda *event: self._op_begin(True, *event),
            b"pamt_get_end": lambda *event: self._op_end(False, *event),
            b"pamt_put_end": lambda *event: self._op_end(True, *event),
            b"pamt_get": lambda *event: self._op_whole(False, *event),
            b"pamt_put": lambda *event: self._op_whole(True, *event),
        }

    def items(self, chunks: Iterator[list[bytes | TooLong]]) -> Iterator[tuple[int, int, Item]]:
        """(time, CPU, item) of everything in the lines, in their order."""
        health = self.health
        for lines in chunks:
            for line in lines:
                self.number += 1
                if isinstance(line, TooLong):
                    health.damaged.add(f"line {self.number}: longer than 65,536 bytes")
                    continue
                found = self.line(line)
                if found is not None:
                    yield found
            health.lines = self.number

    def line(self, line: bytes) -> tuple[int, int, Item] | None:
        """What one line has, if it completes something."""
        head = _HEAD.match(line)
        if head is None:
            return self._no_event(line)
        comm, pid, cpu_text, whole, fraction, name = head.groups()
        handler = self._handlers.get(name)
        if handler is None:
            self.health.other_events += 1
            return None
        cpu = int(cpu_text)
        scale = 1000 if len(fraction) == 6 else 1
        time = int(whole) * 1_000_000_000 + int(fraction) * scale
        try:
            if cpu > _MOST_CPU:
                raise _Damaged(f"CPU {cpu}")
            values = self._values(name, line, head.end())
            item = handler(time, cpu, int(pid), comm, values)
        except _Damaged as damaged:
            self._damage(line, str(damaged))
            return None
        self.health.events += 1
        last = self._last
        if time < last.get(cpu, 0):
            self.health.jumps.add(f"CPU {cpu} at {seconds(last[cpu])}: back to {seconds(time)}")
        self.time = last[cpu] = time
        return None if item is None else (time, cpu, item)

    def _values(self, name: bytes, line: bytes, start: int) -> Values:
        shapes = self._shapes.get(name)
        if shapes is not None:
            for shape in shapes:
                match = shape.match(line, start)
                if match is not None:
                    return shape.values(match)
        found: Values = {}
        keys, numbers = [], []
        for pair in _PAIR.finditer(line, start):
            key, value = pair[1].decode(), pair[2]
            if key in found:
                raise _Damaged(f"{key} twice")
            is_hex = _HEX.fullmatch(value) is not None
            found[key] = int(value, 16) if is_hex else value
            keys.append(key)
            numbers.append(is_hex)
        if not keys:
            raise _Damaged("an event without arguments")
        where = _WHERE.match(line, start)
        if where is not None and where[1] is not None:
            found.setdefault("caller", where[1])
        shape = _Shape(keys, numbers)
        shapes = self._shapes.setdefault(name, [])
        if len(shapes) < _MOST_SHAPES and shape.match(line, start) is not None:
            shapes.append(shape)
        return found

    # The events.

    def _begin(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        caller = values.get("caller", b"")
        begun = (
            time,
            cpu,
            comm,
            _number(values, "fn"),
            _registers(values),
            caller if isinstance(caller, bytes) else b"%#x" % caller,
        )
        return self.pairing.begin(pid, begun)

    def _end(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        return self.pairing.end(
            *(pid, cpu, time, _number(values, "status")),
            *(_outputs(values, REGISTER_NAMES), _caller(values)),
        )

    def _whole(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        before = _registers(values)
        outputs = _outputs(values, _KEYS_OUT)
        after = (
            tuple(old if new is None else new for old, new in zip(before, outputs, strict=True))
            if outputs
            else None
        )
        self.health.calls += 1
        status = _number(values, "status")
        rax = _number(values, "fn")
        start = _start(time, values)
        return Call(start, time, cpu, pid, comm, rax, before, status, after, _caller(values))

    def _op_begin(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        pfn = _number(values, "pfn") if "pfn" in values else None
        self.pairing.begin_op(pid, put, (time, cpu, comm, pfn, _caller(values)))
        return None

    def _op_end(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        return self.pairing.end_op(pid, cpu, put, time, _result(values), _caller(values))

    def _op_whole(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        pfn = _number(values, "pfn") if "pfn" in values else None
        self.health.ops += 1
        start = _start(time, values)
        return PamtOp(put, start, time, cpu, pid, comm, pfn, _result(values), _caller(values))

    # Lines that are no event.

    def _no_event(self, line: bytes) -> tuple[int, int, Item] | None:
        lost = _LOST.match(line)
        if lost is not None:
            cpu = int(lost[1]) if lost[1] else None
            count = next((int(number) for number in lost.groups()[1:] if number), None)
            return self.lost(count, cpu)
        written = _OVERWRITTEN.match(line)
        if written is not None and int(written[2]) > int(written[1]):
            return self.lost(int(written[2]) - int(written[1]), None)
        if _NO_EVENT.match(line) is None:
            self._damage(line, "no task, CPU, time and event in it")
        return None

    def lost(self, count: int | None, cpu: int | None) -> tuple[int, int, Item]:
        """The tracer says that it dropped events."""
        where = "" if cpu is None else f" of CPU {cpu}"
        number = "some" if count is None else f"{count:,}"
        self.health.lost.add(f"line {self.number}: {number} events{where}")
        self.health.lost_events += count or 0
        return self.time, -1 if cpu is None else cpu, Lost(count, cpu, self.time)

    def _damage(self, line: bytes, why: str) -> None:
        self.health.damaged.add(f"line {self.number}: {why}: {shown(line.strip())}")


def _number(values: Values, key: str) -> int:
    """An unsigned number of 64 bits."""
    value = values.get(key)
    if type(value) is int:
        return value
    if isinstance(value, bytes) and _DECIMAL.fullmatch(value):
        number = int(value)
        if 0 <= number <= U64_MASK:
            return number
    raise _Damaged(f"no {key}" if value is None else f"{key} is no number of 64 bits")


def _registers(values: Values) -> tuple[int, ...]:
    """Operands; one that was not recorded counts as 0."""
    found = tuple(map(values.get, REGISTER_NAMES, _ZEROS))
    for value in found:
        if type(value) is not int:
            return tuple(_number(values, name) if name in values else 0 for name in REGISTER_NAMES)
    return found  # type: ignore[return-value]


_ZEROS: Final = (0,) * len(REGISTER_NAMES)


def _outputs(values: Values, names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Outputs; None for one that was not recorded; empty where none was."""
    if names[0] not in values and names[1] not in values:
        return ()
    return tuple(_number(values, name) if name in values else None for name in names)


def _start(time: int, values: Values) -> int | None:
    if "ns" not in values:
        return None
    return time - min(_number(values, "ns"), time)


def _result(values: Values) -> int | None:
    """An errno, 0 or negative, as the kernel's int."""
    if "ret" not in values:
        return None
    value = values["ret"]
    if isinstance(value, bytes):
        if _DECIMAL.fullmatch(value) is None:
            raise _Damaged("ret is no number")
        value = int(value)
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _caller(values: Values) -> bytes:
    caller = values.get("caller", b"")
    return caller if isinstance(caller, bytes) else b"%#x" % caller
