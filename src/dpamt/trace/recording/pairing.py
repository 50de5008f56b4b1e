"""Begin and end of calls put together: events of a task, the last begun ended first.

A task makes one SEAMCALL at a time, but an interrupt may make one on top of it; deeper than
``_DEEPEST`` something was lost.  Events of the idle task are kept by CPU.
"""

from typing import Final

from dpamt.trace.recording.model import Call, Health, PamtOp

_DEEPEST: Final = 3

Begun = tuple[int, int, bytes, int, tuple[int, ...], bytes]
"""start, cpu, comm, rax, registers, caller."""

BegunOp = tuple[int, int, bytes, int | None, bytes]
"""start, cpu, comm, pfn, caller."""


class Pairing:
    """Calls and operations under way, by task."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._calls: dict[int, list[Begun]] = {}
        self._ops: dict[tuple[int, bool], list[BegunOp]] = {}

    def begin(self, pid: int, begun: Begun) -> Call | None:
        """A call has begun; returns one that was begun long ago and never answered."""
        key = pid or -1 - begun[1]
        stack = self._calls.get(key)
        if stack is None:
            self._calls[key] = [begun]
            return None
        stack.append(begun)
        if len(stack) <= _DEEPEST:
            return None
        return self._unanswered(pid, stack.pop(0), begun[0])

    def end(
        self,
        pid: int,
        cpu: int,
        end: int,
        status: int,
        after: tuple[int | None, ...],
        to: bytes,
    ) -> Call | None:
        """The answer of the task's last call.  Registers that are None stayed as they were.

        ``to``: where the function returns to, for a call without a caller.
        """
        key = pid or -1 - cpu
        stack = self._calls.get(key)
        if not stack:
            self._health.orphans += 1
            return None
        start, _cpu, comm, rax, before, caller = stack.pop()
        if not stack:
            del self._calls[key]
        self._health.calls += 1
        known = None
        if after:
            known = tuple(
                old if new is None else new for old, new in zip(before, after, strict=True)
            )
        # A clock that stepped back in between leaves no duration.
        begun = start if start <= end else None
        return Call(begun, end, cpu, pid, comm, rax, before, status, known, caller or to)

    def begin_op(self, pid: int, put: bool, begun: BegunOp) -> None:
        """A get or put has begun."""
        key = (pid or -1 - begun[1], put)
        stack = self._ops.setdefault(key, [])
        stack.append(begun)
        if len(stack) > _DEEPEST:
            stack.pop(0)
            self._health.unanswered += 1

    def end_op(
        self, pid: int, cpu: int, put: bool, end: int, result: int | None, to: bytes
    ) -> PamtOp | None:
        """The end of the task's last get or put; ``to`` as in :meth:`end`."""
        key = (pid or -1 - cpu, put)
        stack = self._ops.get(key)
        if not stack:
            self._health.orphans += 1
            return None
        start, _cpu, comm, pfn, caller = stack.pop()
        if not stack:
            del self._ops[key]
        self._health.ops += 1
        begun = start if start <= end else None
        return PamtOp(put, begun, end, cpu, pid, comm, pfn, result, caller or to)

    def finish(self, at: int) -> list[Call]:
        """At the end of the recording: calls that were never answered."""
        left = [
            self._unanswered(max(key, 0), begun, at)
            for key, stack in self._calls.items()
            for begun in stack
        ]
        self._health.unanswered += sum(len(stack) for stack in self._ops.values())
        self._calls.clear()
        self._ops.clear()
        return left

    def _unanswered(self, pid: int, begun: Begun, at: int) -> Call:
        start, cpu, comm, rax, before, caller = begun
        self._health.unanswered += 1
        return Call(start, max(at, start), cpu, pid, comm, rax, before, None, None, caller)
