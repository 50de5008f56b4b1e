"""What reading and judging a long recording takes: events a second of CPU time, and memory.

    python -m benchmarks.bench_trace [--events 10000000] [--form ftrace] [--json]

A TD's whole life on a booted host is recorded once, as a tracer's text, and comes again and again
with the clock going on.  The stream is made while it is read; what making it takes is measured
before and taken off.  An event is a line: begin or end of a call, or both in one.
"""

import argparse
import json
import re
import resource
import time
from collections.abc import Iterator

from tests.trace.recorded import WRITERS, Recorder, as_bytes, td_of, world_of

from dpamt.trace.judge.judge import Judge
from dpamt.trace.recording.read import Recording

ASKED = 200_000
"""Events a second."""
MOST_GROWTH = 64 << 20
"""Bytes of memory that a stream of any length may take beside the first life."""
_SETTLED = 200_000
"""Events after which a reader's windows are full."""
_TIME = re.compile(rb"(\d+)\.(\d{6})(\d{3})?:")


class Lives:
    """A stream of lives; ``read`` as of a file."""

    def __init__(self, form: str, events: int) -> None:
        recorder = Recorder()
        world = world_of(recorder)
        self.head = as_bytes(WRITERS[form](recorder.items))
        begin = len(recorder.items)
        td_of(world, 64, 2, 0.25).destroy()
        body = list(WRITERS[form](recorder.items[begin:]))
        self.lines = [line.encode() for line in body if _TIME.search(line.encode())]
        self.again = -(-events // len(self.lines))
        self.events = self.again * len(self.lines)
        self._pieces = self._made()

    def _made(self) -> Iterator[bytes]:
        parts = []
        for line in self.lines:
            match = _TIME.search(line)
            assert match is not None
            at = int(match[1]) * 10**6 + int(match[2])
            parts.append((line[: match.start()], at, (match[3] or b"") + line[match.end() - 1 :]))
        span = parts[-1][1] - parts[0][1] + 10
        yield self.head
        for number in range(self.again):
            shift = number * span
            for start in range(0, len(parts), 4096):
                yield b"".join(
                    b"%s%d.%06d%s\n" % (before, *divmod(at + shift, 10**6), after)
                    for before, at, after in parts[start : start + 4096]
                )

    def read(self, _size: int, /) -> bytes:
        """The next piece."""
        return next(self._pieces, b"")


def measure(form: str, events: int) -> dict[str, float | int | str]:
    """Rate, memory and what the judge says."""
    idle = Lives(form, events // 10)
    before = time.process_time()
    while idle.read(0):
        pass
    making = time.process_time() - before
    lives = Lives(form, events)
    making *= lives.events / idle.events
    recording = Recording(lives, form, form)
    judge = Judge(recording.health)
    memory = 0
    before = time.process_time()
    for batch in recording.batches():
        judge.take_all(batch)
        if not memory and recording.health.events > _SETTLED:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = time.process_time() - before - making
    judged = judge.judgement(form, form)
    return {
        "form": form,
        "events": recording.health.events,
        "seconds_of_cpu": round(spent, 2),
        "events_a_second": round(recording.health.events / spent),
        "bytes": recording.health.bytes,
        "grown": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory),
        "findings": sum(judged.findings.counts.values()),
        "pairs_at_end": judged.pairs_now,
    }


def main() -> int:
    """Print it; 1 when it is slower than asked, grows, or finds something."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--form", default="ftrace", choices=("ftrace", "trace-cmd", "bpftrace"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.form, options.events)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(
                f"  {name:18}{value:>20,}"
                if isinstance(value, int)
                else f"  {name:18}{value!s:>20}"
            )
    rate, grown = found["events_a_second"], found["grown"]
    assert isinstance(rate, int)
    assert isinstance(grown, int)
    return int(rate < ASKED or grown > MOST_GROWTH or bool(found["findings"]))


if __name__ == "__main__":
    raise SystemExit(main())
