"""The SEAMCALLs of a boot as a Chrome trace-event file, for ui.perfetto.dev: one track a CPU."""

import json
from collections.abc import Sequence
from typing import Any, Final

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.boot.call import Call
from dpamt.own_files import STAMP

_PROCESS: Final = 1
_MICROSECONDS: Final = 1e6


def calls_trace(calls: Sequence[Call], cpus: int) -> str:
    """The file's text: each SEAMCALL a slice from when it was asked to when it was answered."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": "SEAMCALLs"}}
    ]
    for cpu in range(cpus):
        name = {"name": f"CPU{cpu}"}
        events.append(
            {"ph": "M", "pid": _PROCESS, "tid": cpu + 1, "name": "thread_name", "args": name}
        )
    events += [_slice(call) for call in calls]
    document = {"otherData": STAMP, "traceEvents": events, "displayTimeUnit": "ms"}
    return json.dumps(document, indent=1) + "\n"


def _slice(call: Call) -> dict[str, Any]:
    registers = {
        name: f"{old:#x} -> {new:#x}" if old != new else f"{old:#x}"
        for name, old, new in zip(REGISTER_NAMES, call.before, call.after, strict=True)
        if old or new
    }
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": call.cpu + 1,
        "ts": round(call.asked * _MICROSECONDS, 1),
        "dur": round((call.answered - call.asked) * _MICROSECONDS, 1),
        "name": call.name,
        "args": {"status": status_name(call.status), "caller": call.caller, **registers},
    }
