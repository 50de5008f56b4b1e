r"""Lines of ftrace's trace file, trace-cmd report, perf script and dpamt's bpftrace scripts.

All four write an event as task, CPU, time, event name and arguments::

    qemu-kvm-4711  [003] d..2. 12.345678: seamcall_begin: (__seamcall+0x0/0x40) fn=0x6 rcx=0x..
    qemu-kvm-4711  [003] 12.345678901: seamcall_begin: (ffffffff81000000) fn=0x6 rcx=0x...
    qemu-kvm  4711 [003]    12.345678: dpamt:seamcall_begin: (ffffffff81000000) fn=0x6 rcx=0x...

They differ in what stands between.  Events and their arguments are those of :mod:`.events`; below
an event may be its stack (:mod:`.stacks`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dpamt.trace.recording.events import Damaged, Events
from dpamt.trace.recording.lines import TooLong
from dpamt.trace.recording.model import Call, Health, Item, Lost, PamtOp, seconds, shown
from dpamt.trace.recording.stacks import HEAD, caller_of, frame_of

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
)
"""Lines that belong to a tracer's output and are no event: comments, heads."""
_STACK_EVENTS: Final = (b"kernel_stack", b"user_stack")
"""What trace-cmd report has above a stack."""
_MOST_CPU: Final = 8191
_HELD: Final = 64
"""Items that wait for a stack below them when a piece of the stream ends."""
_SECOND: Final = 1_000_000_000
_MOST_KEPT: Final = 1 << 14
_MOST_FRAMES: Final = 256
_TAB: Final = 9
"""No event's line begins so, a line of a stack may."""


class _Decimals(dict[bytes, int]):
    """Decimal texts that come again and again: tasks, CPUs."""

    def __missing__(self, text: bytes) -> int:
        if len(self) >= _MOST_KEPT:
            self.clear()
        number = self[text] = int(text)
        return number


class TextReader:
    """Turns lines into calls; ``health`` tells what could not be."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.events = Events(health)
        self.pairing = self.events.pairing
        self.number = 0
        """Of the line."""
        self.time = 0
        self._decimal = _Decimals()
        self._second: tuple[bytes, int] = b"", 0
        self._last: dict[int, int] = {}
        """When each CPU's last event was."""
        self._target: dict[int, Call | PamtOp | None] = {}
        """What each CPU's last event was about: a stack below is its caller."""
        self._cpu = -1
        self._frames: list[bytes] = []

    def batches(self, chunks: Iterable[list[bytes | TooLong]]) -> Iterator[list[Item]]:
        """Everything in the lines, in their order, some at a time."""
        held: list[Item] = []
        for lines in chunks:
            out = held
            self.take(lines, out)
            self.health.lines = self.number
            held = out[-_HELD:]
            del out[-_HELD:]
            yield out
        self.end_stack()
        yield held

    def take(self, lines: Sequence[bytes | TooLong], out: list[Item], step: int = 1) -> None:
        """Lines; what they complete is added to ``out``.  ``step``: how many lines of the file each
        of them is (0: parts of the same)."""
        # The loop that every event goes through: what it needs is in locals.
        match_head, quick, decimal = _HEAD.match, self.events.quick, self._decimal
        last, targets, events, frames = self._last, self._target, self.events, self._frames
        whole_second, second_ns = self._second
        number = 0
        for line in lines:
            self.number += step
            if type(line) is not bytes:
                self.health.damaged.add(f"line {self.number}: longer than 65,536 bytes")
                continue
            if not line:
                continue
            head = None if line[0] == _TAB else match_head(line)
            if head is None:
                self._no_event(line, out)
                continue
            comm, pid, cpu_text, whole, fraction, name = head.groups()
            way = quick.get(name)
            if way is None:
                self._other(name, line, head)
                continue
            if frames:
                self.end_stack()
            cpu = decimal[cpu_text]
            if whole != whole_second:
                whole_second, second_ns = self._second = whole, int(whole) * _SECOND
            time = second_ns + int(fraction) * (1000 if len(fraction) == 6 else 1)
            match = way[0](line, head.end())
            if match is not None and cpu <= _MOST_CPU:
                item = way[1](match.groups(), time, cpu, decimal[pid], comm)
            else:
                try:
                    if cpu > _MOST_CPU:
                        raise Damaged(f"CPU {cpu}")
                    item = events.general(name, line, head.end(), time, cpu, int(pid), comm)
                except Damaged as damaged:
                    self._damage(line, str(damaged))
                    continue
            number += 1
            if time < last.get(cpu, 0):
                self.health.jumps.add(f"CPU {cpu} at {seconds(last[cpu])}: back to {seconds(time)}")
            self.time = last[cpu] = time
            targets[cpu] = events.target
            self._cpu = cpu
            if item is not None:
                out.append(item)
        self.health.events += number

    # Lines that are no event of ours.

    def _other(self, name: bytes, line: bytes, head: re.Match[bytes]) -> None:
        self.end_stack()
        if name in _STACK_EVENTS:
            self._cpu = self._decimal[head[3]]
            return
        if name in (b"contention_begin", b"contention_end"):
            time = int(head[4]) * _SECOND + int(head[5].ljust(9, b"0"))
            try:
                self.events.contention(
                    *(name == b"contention_begin", line, head.end()),
                    *(time, self._decimal[head[3]], int(head[2])),
                )
            except Damaged as damaged:
                self._damage(line, str(damaged))
        self._target.pop(self._decimal[head[3]], None)
        self._cpu = -1
        self.health.other_events += 1

    def _no_event(self, line: bytes, out: list[Item]) -> None:
        frame = frame_of(line)
        if frame is not None:
            if len(self._frames) < _MOST_FRAMES:
                self._frames.append(frame)
            return
        stack = HEAD.match(line)
        if stack is not None:
            self.end_stack()
            self._cpu = self._decimal[stack[1]]
            return
        lost = _LOST.match(line)
        if lost is not None:
            cpu = int(lost[1]) if lost[1] else None
            count = next((int(number) for number in lost.groups()[1:] if number), None)
            out.append(self.lost(count, cpu))
            return
        written = _OVERWRITTEN.match(line)
        if written is not None and int(written[2]) > int(written[1]):
            out.append(self.lost(int(written[2]) - int(written[1]), None))
        elif _NO_EVENT.match(line) is None:
            self._damage(line, "no task, CPU, time and event in it")

    def end_stack(self) -> None:
        """The frames so far are the caller of what the CPU's last event was about."""
        if not self._frames:
            return
        target = self._target.pop(self._cpu, None)
        caller = caller_of(self._frames)
        if target is not None and caller:
            target.caller = caller
        self._frames.clear()
        self._cpu = -1

    def lost(self, count: int | None, cpu: int | None) -> Lost:
        """The tracer says that it dropped events."""
        where = "" if cpu is None else f" of CPU {cpu}"
        number = "some" if count is None else f"{count:,}"
        self.health.lost.add(f"line {self.number}: {number} events{where}")
        self.health.lost_events += count or 0
        return Lost(count, cpu, self.time)

    def _damage(self, line: bytes, why: str) -> None:
        self.health.damaged.add(f"line {self.number}: {why}: {shown(line.strip())}")
