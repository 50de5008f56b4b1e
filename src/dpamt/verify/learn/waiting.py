"""What a frame keeps on its value stack while a call that it makes is under way: from its bytecode.

A place shows code positions and live locals.  It is the whole state of a thread only if nothing
waits on the value stack of a frame below the call that is under way: no operand of an expression
(``a() + b()``), no exit of a ``with``, no subject of a ``match``, no position of an iterator that
the locals do not show.  The AST check of :mod:`dpamt.sync.discipline` refuses such code by the
names of what is called; a method kept in a local, or handed to a function written in C, has no such
name.  So here the same is proved for each frame of each place, whatever the call was named.

The stack is worked out by abstract interpretation over all ways through the code: each slot has a
tag, what pushed it, by name where it was loaded by name; so a call is named by the tag of its
callable, on whatever way its arguments came.  Two tags may wait: the iterator of a ``for`` over
``range(...)`` (:mod:`dpamt.verify.learn.liveness` shows its position by the loop's variable) and
the exception that was handled before, which a handler's frame puts back at its end (a bare
``raise`` there is refused by the AST check).

The same bytecode says what becomes of the call's result: :func:`is_dropped`.

Source: CPython's ``dis`` documentation, ``dis.stack_effect``, Objects/exception_handling_notes.txt;
3.11 to 3.14.
"""

import builtins
import dis
import sys
from functools import cache
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Final, NamedTuple

from dpamt.errors import InputError, ModelError
from dpamt.verify.learn.liveness import NO_FALL_THROUGH, exception_handlers

_VALUE: Final = "value"
_RANGE: Final = "global range"
_RANGE_OBJECT: Final = "range-object"
_ITERATOR: Final = "iterator-over-range"
_BEFORE: Final = "exception-handled-before"
_MAY_WAIT: Final = frozenset({_ITERATOR, _BEFORE})
_JUMPS: Final = frozenset({*dis.hasjrel, *dis.hasjabs})
_PASSED: Final = frozenset(
    {"CACHE", "NOP", "RESUME", "EXTENDED_ARG", "PRECALL", "KW_NAMES", "JUMP_FORWARD", "NOT_TAKEN"}
)
"""Instructions that do nothing to a value on the stack."""

_CALLS: Final = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX"})
_LOADED: Final = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_METHOD": "attribute",
    "LOAD_ATTR": "attribute",
    "LOAD_SUPER_ATTR": "attribute",
    "LOAD_FAST": "local",
    "LOAD_FAST_BORROW": "local",
    "LOAD_FAST_CHECK": "local",
    "LOAD_DEREF": "local",
}

_NULL_ABOVE: Final = sys.version_info >= (3, 13)
_POPS: Final = frozenset({"POP_TOP", "STORE_FAST", "STORE_DEREF", "STORE_GLOBAL", "STORE_NAME"})
"""Instructions besides jumps that leave what is below the top as it was."""

_HOOKS: Final = frozenset({"tdx_pamt_get", "tdx_pamt_put", "tdx_pamt_demote"})
"""Attributes of the kernel that are functions of the design, whatever these are called there."""

DROPPED: Final = "dropped"
RETURNED: Final = "returned"
USED: Final = "used"

Tags = tuple[str, ...]


class Call(NamedTuple):
    """A call instruction: how it names what it calls, and what waits below it."""

    named: str
    """``global NAME``, ``attribute NAME``, ``local NAME``; empty: not to be seen."""
    waits: bool
    """Whether something waits there that the locals do not show."""
    result: str
    """What becomes of the result: DROPPED, RETURNED or USED."""


class _Calls:
    """The calls of one code object, by the offset of their instruction."""

    def __init__(self, code: CodeType) -> None:
        self._instructions: list[dis.Instruction] = []
        self._at: dict[int, int] = {}
        """By offset: the number of the instruction there, or of the one that it extends."""
        for instruction in dis.get_instructions(code):
            self._at[instruction.offset] = len(self._instructions)
            if instruction.opname not in ("CACHE", "EXTENDED_ARG"):
                self._instructions.append(instruction)
        self._handlers = exception_handlers(code)
        self._before: list[Tags | None] = [None] * len(self._instructions)
        self.found: dict[int, Call] = {}
        self._solve()
        for n, instruction in enumerate(self._instructions):
            tags = self._before[n]
            if instruction.opname in _CALLS and tags is not None:
                self.found[instruction.offset] = self._call(n, tags)
        # f_lasti may lie in the inline cache of a call: its entries count as the call.
        for offset, call in list(self.found.items()):
            following = self._instructions[self._at[offset] + 1 :]
            for inside in range(offset + 2, following[0].offset if following else 0, 2):
                self.found[inside] = call

    def _solve(self) -> None:
        pending: list[tuple[int, Tags]] = [(0, ())]
        while pending:
            n, tags = pending.pop()
            known = self._before[n]
            if known is not None:
                merged = tuple(a if a == b else _VALUE for a, b in zip(known, tags, strict=False))
                if merged == known:
                    continue
                tags = merged
            self._before[n] = tags
            pending += self._after(n, tags)

    def _after(self, n: int, tags: Tags) -> list[tuple[int, Tags]]:
        """The instructions that may come next, with the stack before each."""
        instruction = self._instructions[n]
        name = instruction.opname
        following = []
        for row in self._handlers:
            if row.start <= instruction.offset < row.end:
                kept = tags[: row.depth]
                lasti = (_VALUE,) if row.keeps_position else ()
                following.append((self._at[row.target], (*kept, *lasti, _VALUE)))
        if instruction.opcode in _JUMPS:
            target = self._at[instruction.argval]
            following.append((target, self._done(n, tags, True)))
        if name not in NO_FALL_THROUGH and n + 1 < len(self._instructions):
            following.append((n + 1, self._done(n, tags, False)))
        return following

    def _done(self, n: int, tags: Tags, jump: bool) -> Tags:
        """The stack after an instruction."""
        instruction = self._instructions[n]
        name, argument = instruction.opname, instruction.arg or 0
        if name in _PASSED:
            return tags
        if name == "COPY":
            return (*tags, tags[-argument])
        if name == "SWAP":
            swapped = list(tags)
            swapped[-1], swapped[-argument] = swapped[-argument], swapped[-1]
            return tuple(swapped)
        if name == "GET_ITER":
            return (*tags[:-1], _ITERATOR if tags[-1] == _RANGE_OBJECT else _VALUE)
        if name == "PUSH_EXC_INFO":
            return (*tags[:-1], _BEFORE, tags[-1])
        if name in _CALLS:
            below = len(tags) - _own(name, argument)
            made = _RANGE_OBJECT if _RANGE in tags[below : below + 2] else _VALUE
            return (*tags[:below], made)
        takes = instruction.opcode >= dis.HAVE_ARGUMENT
        effect = dis.stack_effect(instruction.opcode, instruction.arg if takes else None, jump=jump)
        how = _LOADED.get(name, "")
        pushed = f"{how} {instruction.argval}" if how else _VALUE
        if how == "attribute":  # in the place of the object, perhaps with self
            objects = 3 if name == "LOAD_SUPER_ATTR" else 1
            return (*tags[:-objects], *[pushed] * (effect + objects))
        if name == "LOAD_GLOBAL" and effect == 2:  # with a NULL: below it, from 3.13 on above
            return (*tags, *((pushed, _VALUE) if _NULL_ABOVE else (_VALUE, pushed)))
        if effect > 0:
            return (*tags, *[pushed] * effect)
        left = tags[: len(tags) + effect]
        if name in _POPS or instruction.opcode in _JUMPS or not left or left[-1] in _MAY_WAIT:
            return left
        return (*left[:-1], _VALUE)  # perhaps a result, in the place of an operand

    def _call(self, n: int, tags: Tags) -> Call:
        """A call with this stack before it: its own operands are on top."""
        instruction = self._instructions[n]
        depth = len(tags) - _own(instruction.opname, instruction.arg or 0)
        wrong = [tag for tag in tags[:depth] if tag not in _MAY_WAIT]
        named = next((tag for tag in tags[depth : depth + 2] if " " in tag), "")
        return Call(named, bool(wrong), self._drops(n))

    def _drops(self, n: int) -> str:
        """What becomes of the result: by the instruction that comes next."""
        name = self._instructions[n + 1].opname if n + 1 < len(self._instructions) else ""
        return {"POP_TOP": DROPPED, "RETURN_VALUE": RETURNED}.get(name, USED)


def _own(name: str, argument: int) -> int:
    """How many slots a call takes off the stack: callable, NULL or self, arguments."""
    if name == "CALL_FUNCTION_EX":
        always = dis.stack_effect(dis.opmap[name], 0) == -3  # keywords or NULL: from 3.14 on
        return 4 if always else 3 + (argument & 1)
    return argument + (3 if name == "CALL_KW" else 2)


@cache
def _calls_of(code: CodeType) -> dict[int, Call]:
    return _Calls(code).found


def call_under_way(frame: FrameType) -> Call | None:
    """The call that a frame is in; None: it is in no call instruction (an operator, an import)."""
    return _calls_of(frame.f_code).get(frame.f_lasti)


def check_nothing_waits(frame: FrameType, called: str) -> None:
    """Raise unless the frame's position and locals are all there is to it.

    ``called`` is the name of what it calls: of the function of the next frame in, or of the step.
    In a function of dpamt a breach is a ModelError.  In a user's it is an InputError that names the
    line; there the callable must also be the one that runs: a function written in C that was handed
    a step (``map(word.load, ...)``) keeps a position of its own.
    """
    call = call_under_way(frame)
    ours = frame.f_globals.get("__name__", "").startswith("dpamt.")
    if call is not None and not call.waits and (ours or _is_itself(frame, call.named, called)):
        return
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    why = "inside another expression or a function that is not Python's"
    text = f"{where}: {called}() is called {why}; expected it alone in its statement"
    raise ModelError(text) if ours else InputError(text)


def _is_itself(frame: FrameType, named: str, called: str) -> bool:
    """Whether what a user's frame calls is the Python function that runs, by all that is seen."""
    how, _, name = named.partition(" ")
    if how == "attribute":
        return name == called or name in _HOOKS
    if how == "local":
        value = frame.f_locals.get(name)
    elif how == "global":
        missing = getattr(builtins, name, None)
        value = frame.f_globals.get(name, missing)
    else:
        return False
    return isinstance(value, (FunctionType, MethodType)) or (
        isinstance(value, type) and isinstance(getattr(value, "__init__", None), FunctionType)
    )


def is_dropped(frame: FrameType | None, stop: CodeType) -> bool:
    """Whether nobody ever looks at the result of the call that ``frame`` is in.

    Its frame drops it, or returns it and a frame further out drops it, below that of ``stop``.
    This holds for every value of the result: the code that could look at it is not there.
    """
    while frame is not None and frame.f_code is not stop:
        call = call_under_way(frame)
        if call is None or call.result == USED:
            return False
        if call.result == DROPPED:
            return True
        frame = frame.f_back
    return False
