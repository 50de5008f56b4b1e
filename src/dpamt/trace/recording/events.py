"""The events of a recording, from their arguments: the quick way and the general one.

    event           arguments
    seamcall_begin  fn, rcx, rdx, r8 to r13, caller
    seamcall_end    status, rcx, rdx, r8 to r13 (after the call)
    seamcall_done   status: the end of __seamcall(), which gives no registers back
    seamcall        both in one line: fn, rcx.., status, out_rcx.., ns (how long it took), caller
    pamt_get_begin, pamt_put_begin   pfn, caller
    pamt_get_end, pamt_put_end       ret (of get)
    pamt_get, pamt_put               both in one line: pfn, ret, ns, waited, caller
    contention_begin, contention_end a lock's address (the kernel's own events)

Arguments may come in any order and may be fewer.  In the order above, which is the one that the
scripts of `dpamt trace --how` write, an event is one match of one pattern and its registers are
left as text.  Everything else goes the general way: a table of the arguments, and each looked at.
Both give the same of every line (tests/trace/recording/test_ways.py).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.trace.recording.model import Call, Health, Item, PamtOp
from dpamt.trace.recording.pairing import Pairing
from dpamt.trace.recording.registers import HEX, OUT, run

_ADDRESS: Final = (
    rb"(?:\((?:[0-9a-f]{8,16} <- ([0-9a-f]{8,16})"
    rb"|(?:(\S{1,200})(?: \[[\w-]{1,64}\])? <- )?[^()]{0,300})\) {0,8})?"
)
"""Where the probe is; at a function's end: where it returns to, its caller.  The kernel writes the
caller first, by name; perf and trace-cmd write it last, as an address."""
_WHERE: Final = re.compile(_ADDRESS)
_PAIRS: Final = re.compile(rb"([a-z][\w]{0,31})=(?:(" + HEX + rb")(?!\S)|(\S{1,300}))").findall
_DECIMAL: Final = re.compile(rb"-?\d{1,20}")
_LOCK: Final = re.compile(rb"(?:lock_addr=)?(?:0x)?([0-9a-f]{4,16})\b")
_KEYS_OUT: Final = tuple(OUT + name for name in REGISTER_NAMES)
_ZEROS: Final = (0,) * len(REGISTER_NAMES)
_MOST_KEPT: Final = 1 << 12

Values = dict[str, int | bytes]


class Damaged(Exception):  # noqa: N818  (caught where the line number is known)
    """A line that looks like one of our events and is not."""


class _Numbers(dict[bytes, int]):
    """Hexadecimal texts that come again and again: leaves, statuses."""

    def __missing__(self, text: bytes) -> int:
        if len(self) >= _MOST_KEPT:
            self.clear()
        number = self[text] = int(text, 16)
        return number


def _quick(first: bytes, *others: bytes) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """A pattern of arguments in this order."""
    return re.compile(_ADDRESS + first + b"".join(others) + rb"\s{0,4}$").match


def _then(part: bytes) -> bytes:
    return rb" {1,4}" + part


def _maybe(part: bytes) -> bytes:
    return rb"(?:" + _then(part) + rb")?"


_FN: Final = rb"fn=(" + HEX + rb")"
_STATUS: Final = rb"status=(" + HEX + rb")"
_PFN: Final = rb"pfn=(" + HEX + rb")"
_RET: Final = rb"ret=(-?\d{1,18})"
_NS: Final = rb"ns=(\d{1,19})"
_WAITED: Final = rb"waited=(\d{1,19})"
_CALLER: Final = rb"caller=(\S{1,300})"
_BEFORE: Final = rb"(" + run() + rb")"
_AFTER: Final = rb"(" + run(OUT) + rb")"


Groups = tuple[Any, ...]
"""Of a pattern: bytes, or None for what the line does not have."""
Maker = Callable[[Groups, int, int, int, bytes], Item | None]
"""Groups of a pattern, time, CPU, task, its name."""
General = Callable[[int, int, int, bytes, Values], Item | None]


class Events:
    """Makes items of events; ``target`` is what the last one was about."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.pairing = Pairing(health)
        self._number = _Numbers()
        self.target: Call | PamtOp | None = None
        get, put = self._op_makers(False), self._op_makers(True)
        op_begin, op_end = _quick(_PFN, _maybe(_CALLER)), _quick(_RET)
        op_whole = _quick(_PFN, *map(_maybe, (_RET, _NS, _WAITED, _CALLER)))
        self.quick: dict[bytes, tuple[Callable[[bytes, int], re.Match[bytes] | None], Maker]] = {
            b"seamcall_begin": (_quick(_FN, _maybe(_BEFORE), _maybe(_CALLER)), self._begin),
            b"seamcall_end": (_quick(_STATUS, _maybe(_BEFORE), _maybe(_CALLER)), self._end),
            b"seamcall_done": (_quick(_STATUS, _maybe(_BEFORE), _maybe(_CALLER)), self._done),
            b"seamcall": (
                _quick(
                    *(_FN, _then(_BEFORE), _then(_STATUS)),
                    *map(_maybe, (_AFTER, _NS, _CALLER)),
                ),
                self._whole,
            ),
            b"pamt_get_begin": (op_begin, get[0]),
            b"pamt_put_begin": (op_begin, put[0]),
            b"pamt_get_end": (op_end, get[1]),
            b"pamt_put_end": (op_end, put[1]),
            b"pamt_get": (op_whole, get[2]),
            b"pamt_put": (op_whole, put[2]),
        }
        """By event: the pattern of what dpamt's scripts write, and what is made of it."""
        self._general: dict[bytes, General] = {
            b"seamcall_begin": self._begin_of,
            b"seamcall_end": self._end_of,
            b"seamcall_done": self._done_of,
            b"seamcall": self._whole_of,
            b"pamt_get_begin": lambda *event: self._op_begin_of(False, *event),
            b"pamt_put_begin": lambda *event: self._op_begin_of(True, *event),
            b"pamt_get_end": lambda *event: self._op_end_of(False, *event),
            b"pamt_put_end": lambda *event: self._op_end_of(True, *event),
            b"pamt_get": lambda *event: self._op_whole_of(False, *event),
            b"pamt_put": lambda *event: self._op_whole_of(True, *event),
        }

    # The quick way.

    def _begin(self, groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
        at, where, fn, before, caller = groups
        call = Call(
            *(time, time, cpu, pid, comm, self._number[fn], before or _ZEROS, None, None),
            caller or where or at or b"",
        )
        self.target = call
        return self.pairing.begin(call)

    def _end(self, groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
        at, where, status, after, caller = groups
        call = self.target = self.pairing.end(
            pid, cpu, time, self._number[status], after, caller or where or at or b""
        )
        return call

    def _done(self, groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
        at, where, status, _registers, caller = groups
        return self._end((at, where, status, None, caller), time, cpu, pid, comm)

    def _whole(self, groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
        at, where, fn, before, status, after, spent, caller = groups
        self._health.calls += 1
        number = self._number
        call = self.target = Call(
            None if spent is None else time - min(int(spent), time),
            *(time, cpu, pid, comm, number[fn], before, number[status], after),
            caller or where or at or b"",
        )
        return call

    def _op_makers(self, put: bool) -> tuple[Maker, Maker, Maker]:
        health, pairing = self._health, self.pairing

        def begin(groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
            at, where, pfn, caller = groups
            op = self.target = PamtOp(
                put, time, time, cpu, pid, comm, int(pfn, 16), None, caller or where or at or b""
            )
            pairing.begin_op(op)
            return None

        def end(groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
            at, where, ret = groups
            op = self.target = pairing.end_op(
                pid, cpu, put, time, _errno(int(ret)), where or at or b""
            )
            return op

        def whole(groups: Groups, time: int, cpu: int, pid: int, comm: bytes) -> Item | None:
            at, where, pfn, ret, spent, waited, caller = groups
            health.ops += 1
            op = self.target = PamtOp(
                put,
                None if spent is None else time - min(int(spent), time),
                *(time, cpu, pid, comm, int(pfn, 16), None if ret is None else _errno(int(ret))),
                *(caller or where or at or b"", None if waited is None else int(waited)),
            )
            return op

        return begin, end, whole

    # The general way.

    def general(
        self, name: bytes, line: bytes, start: int, time: int, cpu: int, pid: int, comm: bytes
    ) -> Item | None:
        """One event whose arguments begin at ``start``.  Raises Damaged."""
        return self._general[name](time, cpu, pid, comm, _values(line, start))

    def contention(
        self, begins: bool, line: bytes, start: int, time: int, cpu: int, pid: int
    ) -> None:
        """A task waits for a lock, or has waited.  Raises Damaged."""
        match = _LOCK.match(line, start)
        if match is None:
            raise Damaged("no address of a lock")
        if begins:
            self.pairing.begin_wait(pid, cpu, time, match[1])
        else:
            self.pairing.end_wait(pid, cpu, time, match[1])

    def _begin_of(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        rax, before = _number(values, "fn"), _registers(values)
        call = Call(time, time, cpu, pid, comm, rax, before, None, None, _caller(values))
        self.target = call
        return self.pairing.begin(call)

    def _end_of(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        status, outputs = _number(values, "status"), _outputs(values, REGISTER_NAMES)
        call = self.pairing.end(pid, cpu, time, status, None, _caller(values))
        if call is not None and outputs:
            call.answer(time, status, _filled(call.before, outputs))
        self.target = call
        return call

    def _done_of(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        for name in REGISTER_NAMES:
            if name in values:
                _number(values, name)
                del values[name]
        return self._end_of(time, cpu, pid, comm, values)

    def _whole_of(self, time: int, cpu: int, pid: int, comm: bytes, values: Values) -> Item | None:
        before, outputs = _registers(values), _outputs(values, _KEYS_OUT)
        after = _filled(before, outputs) if outputs else None
        status, rax = _number(values, "status"), _number(values, "fn")
        start, caller = _start(time, values), _caller(values)
        self._health.calls += 1
        call = self.target = Call(start, time, cpu, pid, comm, rax, before, status, after, caller)
        return call

    def _op_begin_of(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        pfn = _number(values, "pfn") if "pfn" in values else None
        op = self.target = PamtOp(put, time, time, cpu, pid, comm, pfn, None, _caller(values))
        self.pairing.begin_op(op)
        return None

    def _op_end_of(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        result, caller = _result(values), _caller(values)
        op = self.target = self.pairing.end_op(pid, cpu, put, time, result, caller)
        return op

    def _op_whole_of(
        self, put: bool, time: int, cpu: int, pid: int, comm: bytes, values: Values
    ) -> Item | None:
        pfn = _number(values, "pfn") if "pfn" in values else None
        start, result = _start(time, values), _result(values)
        waited = _number(values, "waited") if "waited" in values else None
        self._health.ops += 1
        op = self.target = PamtOp(
            put, start, time, cpu, pid, comm, pfn, result, _caller(values), waited
        )
        return op


def _values(line: bytes, start: int) -> Values:
    """Arguments by name: numbers where the line has them in hexadecimal, else the text."""
    found: Values = {}
    for name, number, text in _PAIRS(line, start):
        key = name.decode()
        if key in found:
            raise Damaged(f"{key} twice")
        found[key] = (text or number) if text or key == "caller" else int(number, 16)
    if not found:
        raise Damaged("an event without arguments")
    where = _WHERE.match(line, start)
    if where is not None and where.lastindex:
        found.setdefault("caller", where[where.lastindex])
    return found


def _number(values: Values, key: str) -> int:
    """An unsigned number of 64 bits."""
    value = values.get(key)
    if type(value) is int:
        return value
    if isinstance(value, bytes) and _DECIMAL.fullmatch(value):
        number = int(value)
        if 0 <= number <= U64_MASK:
            return number
    raise Damaged(f"no {key}" if value is None else f"{key} is no number of 64 bits")


def _registers(values: Values) -> tuple[int, ...]:
    """Operands; one that was not recorded counts as 0."""
    found = tuple(map(values.get, REGISTER_NAMES, _ZEROS))
    if any(type(value) is not int for value in found):
        return tuple(_number(values, name) if name in values else 0 for name in REGISTER_NAMES)
    return found  # type: ignore[return-value]


def _outputs(values: Values, names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Outputs; None for one that was not recorded; empty where none was."""
    if names[0] not in values and names[1] not in values:
        return ()
    return tuple(_number(values, name) if name in values else None for name in names)


def _filled(before: tuple[int, ...], outputs: tuple[int | None, ...]) -> tuple[int, ...]:
    """Registers after a call; one that was not recorded stayed as it was."""
    return tuple(old if new is None else new for old, new in zip(before, outputs, strict=True))


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
            raise Damaged("ret is no number")
        value = int(value)
    return _errno(value)


def _errno(value: int) -> int:
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _caller(values: Values) -> bytes:
    caller = values.get("caller", b"")
    return caller if isinstance(caller, bytes) else b"%#x" % caller
