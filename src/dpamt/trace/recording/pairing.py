"""Begin and end of calls put together: events of a task, the last begun ended first.

A task makes one SEAMCALL at a time, but an interrupt may make one on top of it; deeper than
``_DEEPEST`` something was lost.  Events of the idle task are kept by CPU.
"""

from typing import Final, TypeVar

from dpamt.trace.recording.model import Call, Health, PamtOp
from dpamt.trace.recording.registers import Registers

_DEEPEST: Final = 3
_MOST_TASKS: Final = 1 << 16
"""Under way at once."""
_Key = TypeVar("_Key")
_Begun = TypeVar("_Begun", Call, PamtOp)
_NONE: Final[tuple[int, bytes]] = (-1, b"")


class Pairing:
    """Calls, operations and waits for locks under way, by task."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._calls: dict[int, list[Call]] = {}
        self._ops: dict[tuple[int, bool], list[PamtOp]] = {}
        self._waits: dict[int, tuple[int, bytes]] = {}

    def begin(self, call: Call) -> Call | None:
        """A call has begun; returns one that was begun long ago and never answered."""
        key = call.pid or -1 - call.cpu
        stack = self._calls.get(key)
        if stack is None:
            forgotten = self._too_many(self._calls)
            self._calls[key] = [call]
            return None if forgotten is None else self._unanswered(forgotten, call.end)
        stack.append(call)
        if len(stack) <= _DEEPEST:
            return None
        return self._unanswered(stack.pop(0), call.end)

    def end(
        self, pid: int, cpu: int, end: int, status: int, after: Registers | None, to: bytes
    ) -> Call | None:
        """The answer of the task's last call.

        ``to``: where the function returns to, for a call without a caller.
        """
        key = pid or -1 - cpu
        stack = self._calls.get(key)
        if not stack:
            self._health.orphans += 1
            return None
        call = stack.pop()
        if not stack:
            del self._calls[key]
        self._health.calls += 1
        if call.end > end:
            call.start = None  # a clock that stepped back in between leaves no duration
        call.answer(end, status, after)
        call.cpu = cpu
        if not call.caller:
            call.caller = to
        return call

    def begin_op(self, op: PamtOp) -> None:
        """A get or put has begun."""
        key = (op.pid or -1 - op.cpu, op.put)
        stack = self._ops.get(key)
        if stack is None:
            self._health.unanswered += self._too_many(self._ops) is not None
            stack = self._ops[key] = []
        stack.append(op)
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
        op = stack.pop()
        if not stack:
            del self._ops[key]
        self._health.ops += 1
        if op.end > end:
            op.start = None
        op.end, op.cpu, op.result = end, cpu, result
        if not op.caller:
            op.caller = to
        return op

    def _too_many(self, begun: dict[_Key, list[_Begun]]) -> _Begun | None:
        """Of more tasks than any host has at once, the one that began first is forgotten."""
        if len(begun) < _MOST_TASKS:
            return None
        first, *others = begun.pop(next(iter(begun)))
        self._health.unanswered += len(others)
        return first

    def begin_wait(self, pid: int, cpu: int, at: int, lock: bytes) -> None:
        """The task waits for a lock."""
        if len(self._waits) >= _MOST_TASKS:
            self._waits.clear()
        self._waits[pid or -1 - cpu] = at, lock

    def end_wait(self, pid: int, cpu: int, at: int, lock: bytes) -> None:
        """The task has the lock: what it waited counts for its get or put."""
        key = pid or -1 - cpu
        since, waited_for = self._waits.pop(key, _NONE)
        if waited_for != lock or since < 0:
            return
        for put in (False, True):
            stack = self._ops.get((key, put))
            if stack and (stack[-1].start or 0) <= since <= at:
                stack[-1].waited = (stack[-1].waited or 0) + at - since

    def finish(self, at: int) -> list[Call]:
        """At the end of the recording: calls that were never answered."""
        left = [self._unanswered(call, at) for stack in self._calls.values() for call in stack]
        self._health.unanswered += sum(len(stack) for stack in self._ops.values())
        self._calls.clear()
        self._ops.clear()
        return left

    def _unanswered(self, call: Call, at: int) -> Call:
        self._health.unanswered += 1
        call.end = max(at, call.end)
        return call
