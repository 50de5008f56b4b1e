"""A recording as a Chrome trace-event file for ui.perfetto.dev, written while it is read.

A track for each CPU with SEAMCALLs inside gets and puts; page pairs and their bytes as counters;
findings as instants.
"""

import json
from typing import IO, Any, Final

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.own_files import STAMP
from dpamt.trace.judge.judge import Judge
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import MOST_CALLER, Call, Item, PamtOp, shown

MOST: Final = 1_000_000
"""Slices in a file; more no viewer takes."""
_PROCESS: Final = 1
_PAIR_BYTES: Final = 8192


class PerfettoOut:
    """Events to an open text file; ``judge`` has seen each item before it comes here."""

    def __init__(self, file: IO[str], judge: Judge) -> None:
        self._file = file
        self._judge = judge
        self._first: int | None = None
        self._pairs = -1
        self._cpus: set[int] = set()
        self.slices = 0
        self.left_out = 0
        file.write(
            f'{{"otherData": {json.dumps(STAMP)}, "displayTimeUnit": "ms", "traceEvents": [\n'
        )
        name = {"name": "SEAMCALLs"}
        self._write({"ph": "M", "pid": _PROCESS, "name": "process_name", "args": name}, "")

    def add(self, item: Item) -> None:
        """One more item."""
        if isinstance(item, Call):
            name, args = item.name, _registers(item)
        elif isinstance(item, PamtOp):
            name = f"tdx_pamt_{'put' if item.put else 'get'}"
            args = {"page": None if item.pfn is None else f"{item.pfn << 12:#x}"}
            if item.result is not None:
                args["result"] = str(item.result)
            if item.waited is not None:
                args["waited for locks (us)"] = item.waited / 1000
        else:
            self._instant("events lost", item.at, {"count": item.count, "cpu": item.cpu})
            return
        if self.slices >= MOST:
            self.left_out += 1
            return
        self.slices += 1
        start = item.end if item.start is None else item.start
        if item.cpu not in self._cpus:
            self._cpus.add(item.cpu)
            track = {"name": f"CPU{item.cpu}"}
            self._write(
                {
                    "ph": "M",
                    "pid": _PROCESS,
                    "tid": item.cpu + 1,
                    "name": "thread_name",
                    "args": track,
                }
            )
        if item.caller:
            args["caller"] = shown(item.caller, MOST_CALLER)
        if item.comm:
            args["task"] = f"{shown(item.comm)}-{item.pid}"
        self._write(
            {
                "ph": "X",
                "pid": _PROCESS,
                "tid": item.cpu + 1,
                "ts": self._time(start),
                "dur": (item.end - start) / 1000,
                "name": name,
                "args": args,
            }
        )
        pairs = self._judge.state.pairs
        if pairs != self._pairs:
            self._pairs = pairs
            for counter, value in (("page pairs", pairs), ("bytes in pairs", pairs * _PAIR_BYTES)):
                self._write(
                    {
                        "ph": "C",
                        "pid": _PROCESS,
                        "ts": self._time(item.end),
                        "name": counter,
                        "args": {"now": value},
                    }
                )

    def finish(self, judged: Judgement) -> None:
        """The findings, and the end of the file."""
        for finding in judged.findings.first:
            args = {"what": finding.what, "because": finding.because, "caller": finding.caller}
            self._instant(finding.kind, finding.at, args)
        self._file.write("\n]}\n")

    def _instant(self, name: str, at: int, args: dict[str, Any]) -> None:
        self._write(
            {
                "ph": "i",
                "s": "g",
                "pid": _PROCESS,
                "tid": 0,
                "ts": self._time(at),
                "name": name,
                "args": args,
            }
        )

    def _time(self, at: int) -> float:
        if self._first is None:
            self._first = at
        return (at - self._first) / 1000

    def _write(self, event: dict[str, Any], separator: str = ",\n") -> None:
        self._file.write(separator + json.dumps(event))


def _registers(call: Call) -> dict[str, Any]:
    after = call.before if call.after is None else call.after
    told = {
        name: f"{old:#x} -> {new:#x}" if old != new else f"{old:#x}"
        for name, old, new in zip(REGISTER_NAMES, call.before, after, strict=True)
        if old or new
    }
    status = "no answer" if call.status is None else status_name(call.status)
    return {"status": status, **told}
