"""Every tracer's text of a recording gives the same calls back."""

import io
from collections.abc import Iterable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.trace.recording.lines import TOO_LONG, chunks_of_lines
from dpamt.trace.recording.model import Call, Item, PamtOp
from dpamt.trace.recording.read import Recording
from tests.trace.recorded import WRITERS, Recorder, as_bytes, ftrace, td_of, world_of


@cache
def lived() -> list[Call | PamtOp]:
    """One TD from boot to end."""
    recorder = Recorder()
    world = world_of(recorder)
    td_of(world, 4).destroy()
    return recorder.items


def facts(items: Iterable[Item], with_ops: bool) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    names: tuple[str, ...]
    for item in items:
        if isinstance(item, Call):
            names = ("start", "end", "cpu", "rax", "before", "status", "after", "caller")
        elif isinstance(item, PamtOp) and with_ops:
            names = ("start", "end", "cpu", "put", "pfn", "caller")
        else:
            continue
        found.append(tuple(getattr(item, name) for name in names))
    return sorted(found, key=lambda fact: fact[1])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_every_form_gives_the_same(form: str) -> None:
    items = lived()
    recording = Recording(io.BytesIO(as_bytes(WRITERS[form](items))), form)
    read = list(recording)
    assert recording.form == form
    assert facts(read, form != "boot") == facts(items, form != "boot")
    health = recording.health
    assert health.whole, health
    assert health.calls == sum(isinstance(item, Call) for item in items)


def test_a_recording_in_pieces_is_the_same_as_in_one() -> None:
    data = as_bytes(ftrace(lived()))

    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 977) if size != -1 else -1)

    assert facts(Recording(Dribble(data), "x"), True) == facts(
        Recording(io.BytesIO(data), "x"), True
    )


def test_bpftrace_lines_of_two_cpus_come_in_order_again() -> None:
    lines = list(WRITERS["bpftrace"](lived()))
    head, body = lines[:2], lines[2:]
    # What bpftrace does: one CPU's buffer after the other.
    mixed = []
    for start in range(0, len(body), 500):
        mixed += sorted(body[start : start + 500], key=lambda line: "[001]" in line)
    recording = Recording(io.BytesIO(as_bytes(head + mixed)), "x")
    ends = [item.end for item in recording if isinstance(item, Call | PamtOp)]
    assert ends == sorted(ends)
    assert recording.health.whole


LINE = (
    "        qemu-kvm-4711    [003] d..2.  100.000005: seamcall_begin: (__seamcall+0x0/0x40) "
    "fn=0x6 rcx=0x0 rdx=0x1000 r8=0x2000"
)
END = "        qemu-kvm-4711    [003] d..2.  100.000009: seamcall_end: (x <- y) status=0x0"


def read_lines(*lines: str) -> tuple[list[Item], Recording]:
    recording = Recording(io.BytesIO(as_bytes(["# tracer: nop", *lines])), "x")
    return list(recording), recording


def test_losses_are_told() -> None:
    items, recording = read_lines(
        "# entries-in-buffer/entries-written: 10/250   #P:2",
        LINE,
        "CPU:1 [LOST 17 EVENTS]",
        "CPU:2 [EVENTS DROPPED]",
        "Lost 4 events",
        END,
    )
    assert recording.health.lost_events == 240 + 17 + 4
    assert recording.health.lost.count == 4
    assert not recording.health.whole
    assert sum(isinstance(item, Call) for item in items) == 1


def test_a_clock_that_steps_back_is_told() -> None:
    _items, recording = read_lines(LINE, END, LINE.replace("100.0", "99.0"), END)
    assert recording.health.jumps.count == 1
    assert "CPU 3 at 100.000009" in recording.health.jumps.first[0]
    far = [line.replace("100.0", "9100.0") for line in (LINE, END)]
    _items, recording = read_lines(LINE, END, *far)
    assert recording.health.gaps.count == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (LINE.replace("100.000005", "-1.000005"), "no task"),
        (LINE.replace("[003]", "[9003]"), "CPU 9003"),
        (LINE.replace("[003]", "[003] [004]"), "no task"),
        (LINE.replace("fn=0x6", "fn=0x6 fn=0x7"), "fn twice"),
        (LINE.replace("fn=0x6", "fn=six"), "fn is no number"),
        (LINE.replace("fn=0x6", ""), "no fn"),
        (LINE.replace("rcx=0x0", "rcx=0x10000000000000000"), "rcx is no number"),
        (LINE.replace("rcx=0x0", "rcx=-5"), "rcx is no number"),
        (LINE[:80], "an event without arguments"),
        ("\x1b[2J\x07 hello", "no task"),
        ("[003] " * 4000, "no task"),
    ],
)
def test_a_damaged_line_is_named_and_counted(line: str, why: str) -> None:
    _items, recording = read_lines(LINE, END, line)
    health = recording.health
    assert health.damaged.count == 1, health
    assert health.damaged.first[0].startswith(f"line 4: {why}")
    assert health.damaged.first[0].isprintable()
    assert len(health.damaged.first[0]) < 140


def test_calls_without_an_answer_and_answers_without_a_call() -> None:
    items, recording = read_lines(END, *[LINE] * 5)
    assert recording.health.orphans == 1
    assert recording.health.unanswered == 5
    assert [item.status for item in items if isinstance(item, Call)] == [None] * 5


def test_a_line_of_a_gigabyte_takes_no_memory() -> None:
    class Once:
        def __init__(self) -> None:
            self.pieces = [
                f"# tracer: nop\n{LINE}\n".encode(),
                *[b"x" * (1 << 20)] * 64,
                f"\n{END}\n".encode(),
            ]

        def read(self, _size: int, /) -> bytes:
            return self.pieces.pop(0) if self.pieces else b""

    recording = Recording(Once(), "x")
    assert sum(isinstance(item, Call) for item in recording) == 1
    assert recording.health.damaged.first == ["line 3: longer than 65,536 bytes"]


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_lines_are_those_of_split(data: bytes, longest: int) -> None:
    class Bits(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(97)

    found = [line for lines in chunks_of_lines(Bits(data), longest) for line in lines]
    parts = data.split(b"\n")
    if not parts[-1]:
        parts.pop()
    assert found == [TOO_LONG if len(part) > longest else part for part in parts]


@settings(max_examples=300)
@given(st.data())
def test_no_text_whatever_raises(data: st.DataObject) -> None:
    good = as_bytes(ftrace(lived()[:6])).splitlines()
    lines = []
    for _ in range(data.draw(st.integers(1, 5))):
        line = bytearray(data.draw(st.sampled_from(good)))
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.integers(0, len(line) - 1)) if line else 0
            line[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        lines.append(bytes(line))
    recording = Recording(io.BytesIO(b"# tracer: nop\n" + b"\n".join(lines)), "x")
    for _item in recording:
        pass
    assert recording.health.lines >= len(lines)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "cpu",
                        "asked",
                        "answered",
                        "rax",
                        "before",
                        "after",
                        "status",
                        "site",
                        "type",
                        "caller",
                        "data",
                        "rcx",
                        "events",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(['{"format": 1}', '{"type": "printf", "data": "x"}']),
)
def test_no_json_whatever_raises(value: object, head: str) -> None:
    import json

    recording = Recording(io.BytesIO(as_bytes([head, json.dumps(value)])), "x")
    assert not [item for item in recording if isinstance(item, Call)]


def test_json_that_is_nested_deeply_or_twice_is_damaged() -> None:
    record = next(iter(list(WRITERS["boot"](lived()))[1:]))
    lines = ['{"format": 1}', "[" * 50_000, record.replace('"cpu": ', '"cpu": 7, "cpu": '), record]
    recording = Recording(io.BytesIO(as_bytes(lines)), "x")
    assert len(list(recording)) == 1
    assert recording.health.damaged.count == 2
    assert "a key twice" in recording.health.damaged.first[1]


def test_what_is_no_recording_is_refused() -> None:
    for data, why in (
        (b"", "empty"),
        (b"\0\1\2tracing", "binary"),
        (b'{"hello": 1}\n', "JSON lines of no kind"),
    ):
        with pytest.raises(InputError, match=why):
            Recording(io.BytesIO(data), "x")


def test_the_caller_is_where_the_function_returns_to() -> None:
    items, _recording = read_lines(
        LINE, END.replace("x <- y", "tdh_vp_rd+0x5c/0x120 <- __seamcall")
    )
    (call,) = (item for item in items if isinstance(item, Call))
    assert call.caller == b"tdh_vp_rd+0x5c/0x120"
