"""Stacks below an event: the lines of perf script -g, ftrace's stacktrace, bpftrace's kstack.

    perf       <tab>ffffffff81001230 tdx_pamt_get+0x10 ([kernel.kallsyms])
    ftrace     <stack trace>, then lines of  => tdx_pamt_get
    trace-cmd  kernel_stack: <stack trace >, then lines of  => tdx_pamt_get (ffffffff81001230)
    bpftrace           tdx_pamt_get+16

A stack replaces the caller of its event: who added a page pair is seldom the function right above.
What is above and in the probed function itself is left out.
"""

import re
from itertools import dropwhile
from typing import Final

from dpamt.trace.recording.model import MOST_CALLER

SEPARATOR: Final = b" <- "
_MOST_FRAMES: Final = 12
_FRAME: Final = re.compile(
    rb"\s{1,64}[0-9a-f]{8,16}:? {1,8}(\S{1,300})(?: .{0,300})?$"
    rb"|\s{0,64}=> (\S{1,300})(?: .{0,300})?$"
    rb"|\s{1,64}([\w.$:@]{1,200}\+(?:0x)?[0-9a-f]{1,8})\s{0,8}$"
)
HEAD: Final = re.compile(
    rb"\s{0,32}\S.{0,30}?\[(\d{1,4})\] .{0,60}?(?:kernel_stack: {0,20})?<stack trace ?>\s*$"
)
_TRACERS: Final = re.compile(
    rb"k(?:ret)?probe_|opt_pre_handler|optimized_callback|aggr_pre_handler|\w*_int3\b|\w*rethook"
    rb"|\w*trampoline|ftrace_|perf_|trace_|\w*bpf_|0x[0-9a-f]+$|\[unknown\]"
)
_PROBED: Final = (
    re.compile(rb"__seamcall\w*(?:\+|$)"),
    re.compile(rb"tdx_pamt_(?:get|put)(?:\+|$)"),
)


def frame_of(line: bytes) -> bytes | None:
    """The function in a line of a stack; None for another line."""
    match = _FRAME.match(line)
    return None if match is None else match[match.lastindex or 0]


def caller_of(frames: list[bytes]) -> bytes:
    """The stack as a caller, innermost first, from the probed function's caller on; empty where it
    has the tracer's own functions only."""
    for probed in _PROBED:
        at = next((place for place, one in enumerate(frames) if probed.match(one)), None)
        if at is not None:
            frames = frames[at + 1 :]
            break
    else:
        frames = list(dropwhile(_TRACERS.match, frames))
    return SEPARATOR.join(frames[:_MOST_FRAMES])[:MOST_CALLER]
