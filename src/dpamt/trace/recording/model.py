"""What a recording is made of: SEAMCALLs, gets and puts, losses; and how healthy the recording is.

Times are nanoseconds of the recording's own clock.  Registers are in the order of
:data:`dpamt.abi.registers.REGISTER_NAMES`.
"""

from dataclasses import dataclass, field
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.trace.recording.registers import Registers, registers_in

KEPT_EXAMPLES: Final = 5
MOST_CALLER: Final = 300
"""Bytes of a caller, or of a stack."""


class Call:
    """One SEAMCALL.  ``start``: None where only its end was recorded; ``status`` and ``after``:
    None where its answer was not.  ``caller`` is the symbol it was called from, or the stack, the
    innermost first and `` <- `` between; ``pid`` the task.

    Registers may be given as the text that has them (:mod:`.registers`): few are ever looked at.
    """

    __slots__ = (
        "_after",
        "_before",
        "caller",
        "comm",
        "cpu",
        "end",
        "pid",
        "rax",
        "start",
        "status",
    )

    def __init__(
        self,
        start: int | None,
        end: int,
        cpu: int,
        pid: int,
        comm: bytes,
        rax: int,
        before: Registers,
        status: int | None,
        after: Registers | None,
        caller: bytes,
    ) -> None:
        self.start = start
        self.end = end
        self.cpu = cpu
        self.pid = pid
        self.comm = comm
        self.rax = rax
        self._before = before
        self.status = status
        self._after = after
        self.caller = caller

    @property
    def before(self) -> tuple[int, ...]:
        """Registers before the call."""
        before = self._before
        if type(before) is bytes:
            before = self._before = registers_in(before)
        return before  # type: ignore[return-value]

    @property
    def after(self) -> tuple[int, ...] | None:
        """Registers after the call."""
        after = self._after
        if type(after) is bytes:
            after = self._after = registers_in(after)
        return after  # type: ignore[return-value]

    def answer(self, end: int, status: int, after: Registers | None) -> None:
        """The answer has come."""
        self.end = end
        self.status = status
        self._after = after

    @property
    def leaf(self) -> int:
        """The leaf number, without version."""
        return self.rax & RAX_LEAF_MASK

    @property
    def name(self) -> str:
        """The leaf's name, or its number."""
        return LEAF_NAMES.get(self.leaf, f"leaf {self.leaf}")


class PamtOp:
    """One tdx_pamt_get() or tdx_pamt_put().  ``pfn`` and ``result``: None where not recorded;
    ``waited``: nanoseconds for locks, None where nothing tells of locks."""

    __slots__ = ("caller", "comm", "cpu", "end", "pfn", "pid", "put", "result", "start", "waited")

    def __init__(
        self,
        put: bool,
        start: int | None,
        end: int,
        cpu: int,
        pid: int,
        comm: bytes,
        pfn: int | None,
        result: int | None,
        caller: bytes,
        waited: int | None = None,
    ) -> None:
        self.put = put
        self.start = start
        self.end = end
        self.cpu = cpu
        self.pid = pid
        self.comm = comm
        self.pfn = pfn
        self.result = result
        self.caller = caller
        self.waited = waited


@dataclass(slots=True)
class Lost:
    """Events that the tracer dropped: how many (None: it does not say), on which CPU, when."""

    count: int | None
    cpu: int | None
    at: int

    @property
    def end(self) -> int:
        """When, as the other items have it."""
        return self.at


Item = Call | PamtOp | Lost


@dataclass(slots=True)
class Examples:
    """A count, and the first few of what was counted."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < KEPT_EXAMPLES:
            self.first.append(text)


@dataclass(slots=True)
class Health:
    """What was read, and what of it cannot be relied on."""

    lines: int = 0
    bytes: int = 0
    events: int = 0
    """Lines that are an event of ours."""
    other_events: int = 0
    """Lines that are an event of somebody else's."""
    calls: int = 0
    ops: int = 0
    damaged: Examples = field(default_factory=Examples)
    lost_events: int = 0
    """Those whose number the tracer gives."""
    lost: Examples = field(default_factory=Examples)
    jumps: Examples = field(default_factory=Examples)
    """Steps back of a CPU's clock."""
    gaps: Examples = field(default_factory=Examples)
    """Steps forward of more than an hour."""
    late: int = 0
    """Events that came too late to be put in order."""
    unanswered: int = 0
    """Calls whose answer was never recorded."""
    orphans: int = 0
    """Answers whose call was never recorded."""
    first: int | None = None
    last: int | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is missing as far as the recording itself tells."""
        return not (
            self.damaged.count
            or self.lost.count
            or self.jumps.count
            or self.late
            or self.unanswered
            or self.orphans
        )


def shown(data: bytes, most: int = 60) -> str:
    """Bytes from outside as a report may print them: no control characters, cut short."""
    text = data[: most + 1].decode("utf-8", "replace")
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(data) <= most else clean[:most] + "..."


def seconds(time: int) -> str:
    """Nanoseconds as seconds, to the microsecond."""
    return f"{time / 1e9:.6f}"
