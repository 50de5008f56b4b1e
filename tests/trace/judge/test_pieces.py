"""A recording judged in pieces of any size says the same as in one."""

import io
import json
from functools import cache

import pytest

from dpamt.report.trace_json import trace_json
from dpamt.trace.judge.judge import Judge
from dpamt.trace.recording.read import Recording
from tests.trace.recorded import WRITERS, Recorder, as_bytes, td_of, world_of


@cache
def text(form: str) -> bytes:
    """A TD's life with a loss, a damaged line, a clock that steps back and disorder."""
    recorder = Recorder()
    world = world_of(recorder, memory="256MiB")
    td_of(world, 4).destroy()
    lines = list(WRITERS[form](recorder.items))
    middle = len(lines) // 2
    if form == "bpftrace":
        lines[middle : middle + 900] = sorted(
            lines[middle : middle + 900], key=lambda line: "[001]" in line
        )
    if form != "boot":
        lines.insert(middle, "Lost 4 events")
    lines.insert(middle // 2, "this is no event")
    lines.append(lines[middle - 1])
    return as_bytes(lines)


def judged(data: bytes, form: str, size: int) -> str:
    class Pieces(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(size)

    recording = Recording(Pieces(data), "x", form)
    judge = Judge(recording.health)
    for batch in recording.batches():
        judge.take_all(batch)
    return json.dumps(trace_json(judge.judgement(form, "x")))


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_the_size_of_the_pieces_does_not_matter(form: str) -> None:
    data = text(form)
    whole = judged(data, form, len(data))
    assert json.loads(whole)["health"]["damaged"]["count"] >= 1
    for size in (997, 65_536, 1 << 20):
        assert judged(data, form, size) == whole
