"""What a recording is made of: SEAMCALLs, gets and puts, losses; and how healthy the recording is.

Times are nanoseconds of the recording's own clock.  Registers are in the order of
:data:`dpamt.abi.registers.REGISTER_NAMES`.
"""

from dataclasses import dataclass, field
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK

KEPT_EXAMPLES: Final = 5


class Call:
    """One SEAMCALL.  ``start``: None where only its end was recorded; ``status`` and ``after``:
    None where its answer was not.  ``caller`` is the symbol it was called from, ``pid`` the task.
    """

    __slots__ = ("after", "before", "caller", "comm", "cpu", "end", "pid", "rax", "start", "status")

    def __init__(
        self,
        start: int | None,
        end: int,
        cpu: int,
        pid: int,
        comm: bytes,
        rax: int,
        before: tuple[int, ...],
        status: int | None,
        after: tuple[int, ...] | None,
        caller: bytes,
    ) -> None:
        self.start = start
        self.end = end
        self.cpu = cpu
        self.pid = pid
        self.comm = comm
        self.rax = rax
        self.before = before
        self.status = status
        self.after = after
        self.caller = caller

    @property
    def leaf(self) -> int:
        """The leaf number, without version."""
        return self.rax & RAX_LEAF_MASK

    @property
    def name(self) -> str:
        """The leaf's name, or its number."""
        return LEAF_NAMES.get(self.leaf, f"leaf {self.leaf}")


class PamtOp:
    """One tdx_pamt_get() or tdx_pamt_put().  ``pfn`` and ``result``: None where not recorded."""

    __slots__ = ("caller", "comm", "cpu", "end", "pfn", "pid", "put", "result", "start")

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


@dataclass(slots=True)
class Lost:
    """Events that the tracer dropped: how many (None: it does not say), on which CPU, when."""

    count: int | None
    cpu: int | None
    at: int


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
