"""The quick way through a line and the general one say the same; stacks and waits are read."""

import io
from collections.abc import Iterator
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.trace.judge.judge import Judge
from dpamt.trace.recording import events, json_lines
from dpamt.trace.recording.model import Call, Health, Item, PamtOp
from dpamt.trace.recording.read import Recording
from tests.trace.recorded import WRITERS, as_bytes

from .test_read import lived


def facts(items: Iterator[Item]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for item in items:
        if isinstance(item, Call):
            names = ("start", "end", "cpu", "pid", "comm", "rax", "before", "status", "after")
        elif isinstance(item, PamtOp):
            names = ("start", "end", "cpu", "pid", "comm", "pfn", "result", "put", "waited")
        else:
            found.append((item.count, item.cpu, item.at))
            continue
        found.append((*(getattr(item, name) for name in (*names, "caller")),))
    return found


def read(data: bytes, form: str) -> tuple[list[tuple[object, ...]], Health]:
    recording = Recording(io.BytesIO(data), "x", form)
    return facts(iter(recording)), recording.health


def never(*_arguments: object) -> None:
    return None


def both(data: bytes, form: str) -> None:
    quick = read(data, form)
    with (
        patch.object(events, "_quick", lambda *_parts: never),
        patch.object(json_lines, "_PRINTED", never),
        patch.object(json_lines, "_RECORDED", never),
    ):
        general = read(data, form)
    assert quick == general


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_good_lines(form: str) -> None:
    both(as_bytes(WRITERS[form](lived()[-2000:])), form)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.integers(0, 1 << 32))
def test_damaged_lines(form: str, seed: int) -> None:
    """Characters changed, left out and doubled, where they hurt most."""
    random = Random(seed)
    lines = [bytearray(line) for line in as_bytes(WRITERS[form](lived()[:40])).splitlines()]
    for line in random.sample([line for line in lines[1:] if len(line) > 40], 12):
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(line) - 20)
            change = random.choice(
                (b"", b" ", b"=", b"0x", b"x", b"-1", b"\t", b"\xff", b'"', b"9")
            )
            line[at : at + random.randint(0, 2)] = change
    both(b"\n".join(lines), form)


def test_registers_in_another_order_and_missing_ones() -> None:
    head = "qemu-7 [001] 100.0000{}: "
    lines = [
        head.format("01") + "seamcall_begin: rdx=0x2 fn=0x6 rcx=0x1",
        head.format("02") + "seamcall_end: r13=0x5 status=0x0 rcx=0x9",
        head.format("03") + "seamcall: status=0x1 fn=12 caller=0xFF ns=4",
    ]
    both(as_bytes(lines), "trace-cmd")
    recording = Recording(io.BytesIO(as_bytes(lines)), "x", "trace-cmd")
    one, other = (item for item in recording if isinstance(item, Call))
    assert one.before == (1, 2, 0, 0, 0, 0, 0, 0)
    assert one.after == (9, 2, 0, 0, 0, 0, 0, 5)
    assert (other.rax, other.status, other.caller, other.start) == (12, 1, b"0xFF", 100_000_002_996)


@pytest.mark.parametrize(
    ("where", "caller"),
    [
        ("(tdh_mng_create+0x88/0xa7 <- __seamcall)", b"tdh_mng_create+0x88/0xa7"),
        ("(ffffffff8105d3f0 <- ffffffff8105eba4)", b"ffffffff8105eba4"),
        ("(tdx_set+0x5/0x9 [kvm_intel] <- __seamcall)", b"tdx_set+0x5/0x9"),
        ("(ffffffff8105d3f0)", b""),
        ("", b""),
    ],
)
@pytest.mark.parametrize("tail", ["status=0x0", "status=0"], ids=["quick", "general"])
def test_the_caller_is_where_the_tracer_writes_it(where: str, caller: bytes, tail: str) -> None:
    lines = [
        "qemu-7 [001] 100.000001: seamcall_begin: fn=0x6",
        f"qemu-7 [001] 100.000002: seamcall_done: {where} {tail}",
    ]
    (call,) = Recording(io.BytesIO(as_bytes(lines)), "x", "trace-cmd")
    assert isinstance(call, Call)
    assert (call.caller, call.after) == (caller, None)


BEGIN = "seamcall_begin: (ffffffff81001230) fn=0x3a rcx=0x0"
GET = "pamt_get_begin: (ffffffff81001230) pfn=0x200"
STACKS = {
    "perf": (
        "qemu-kvm  4711 [003]   100.000001: dpamt:{}",
        "\tffffffff81001230 __seamcall_ret+0x0 ([kernel.kallsyms])",
        "\tffffffff81001240 tdx_pamt_get+0x51 ([kernel.kallsyms])",
        "\tffffffffc0001240 tdx_sept_set_private_spte+0x90 ([kvm_intel])",
        "",
    ),
    "ftrace": (
        "        qemu-kvm-4711    [003] d..2.  100.000001: {}",
        "        qemu-kvm-4711    [003] d..2.  100.000002: <stack trace>",
        " => __seamcall_ret",
        " => tdx_pamt_get+0x51",
        " => tdx_sept_set_private_spte+0x90",
    ),
    "trace-cmd": (
        "        qemu-kvm-4711  [003]   100.000001: {}",
        "        qemu-kvm-4711  [003]   100.000002: kernel_stack:         <stack trace >",
        "=> __seamcall_ret (ffffffff81001230)",
        "=> tdx_pamt_get+0x51 (ffffffff81001240)",
        "=> tdx_sept_set_private_spte+0x90 (ffffffffc0001240)",
    ),
    "bpftrace": (
        "qemu-kvm-4711 [003] 100.000001000: {}",
        "        __seamcall_ret+1",
        "        tdx_pamt_get+0x51",
        "        tdx_sept_set_private_spte+0x90",
        "",
    ),
}


@pytest.mark.parametrize("form", sorted(STACKS))
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_a_stack_below_an_event_is_its_caller(form: str, size: int) -> None:
    head, *stack = STACKS[form]
    ends = [head.format("seamcall_end: status=0x0"), head.format("pamt_get_end: ret=0")]
    lines = [head.format(GET), head.format(BEGIN), *stack, *ends]
    if form == "ftrace":
        lines.insert(0, "# tracer: nop")

    class Slow(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(size)

    recording = Recording(Slow(as_bytes(lines)), "x", form)
    call, get = recording
    assert recording.health.whole, recording.health
    assert call.caller == b"tdx_pamt_get+0x51 <- tdx_sept_set_private_spte+0x90"  # type: ignore[union-attr]
    assert get.caller == b""  # type: ignore[union-attr]


def test_a_stack_of_somebody_else_is_nobodys() -> None:
    head, *stack = STACKS["perf"]
    other = "qemu-kvm  4711 [003]   100.000001: sched:sched_switch: prev=1"
    lines = [head.format(BEGIN), other, *stack, head.format("seamcall_end: status=0x0")]
    recording = Recording(io.BytesIO(as_bytes(lines)), "x", "perf")
    (call,) = recording
    assert call.caller == b""  # type: ignore[union-attr]
    assert recording.health.other_events == 1


def test_a_wait_for_a_lock_counts_for_its_get() -> None:
    head = "qemu-7 [001] 100.0000{:02}: "
    lines = [
        head.format(1) + "pamt_get_begin: pfn=0x200",
        head.format(2) + "contention_begin: 0xffffffff82345678 (flags=SPIN)",
        head.format(3).replace("-7", "-8")
        + "lock:contention_begin: 0xffffffff82345678 (flags=SPIN)",
        head.format(7) + "contention_end: 0xffffffff82345678 (ret=0)",
        head.format(9) + "pamt_get_end: ret=0",
        head.format(11) + "contention_begin: (flags=SPIN)",
    ]
    recording = Recording(io.BytesIO(as_bytes(lines)), "x", "trace-cmd")
    (get,) = recording
    assert isinstance(get, PamtOp)
    assert get.waited == 5000
    assert recording.health.damaged.count == 1
    assert "no address of a lock" in recording.health.damaged.first[0]


def test_more_tasks_than_any_host_has_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpamt.trace.recording.pairing._MOST_TASKS", 3)
    lines = [f"q-{pid} [001] 100.{pid:06}: seamcall_begin: fn=0x6" for pid in range(1, 9)]
    lines += [f"q-{pid} [001] 101.{pid:06}: pamt_get_begin: pfn=0x6" for pid in range(1, 9)]
    recording = Recording(io.BytesIO(as_bytes(lines)), "x", "trace-cmd")
    calls = list(recording)
    assert len(calls) == 8
    assert all(isinstance(call, Call) and call.status is None for call in calls)
    assert recording.health.unanswered == 16


def test_a_text_of_random_addresses_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpamt.trace.judge.state._MOST_REGIONS", 50)
    pages = [(number << 21, 0, number << 21, *[0] * 5) for number in range(60)]
    augs = [Call(1, 2, 0, 1, b"q", 6, page, 0, None, b"") for page in pages]
    judge = Judge(Health())
    with pytest.raises(InputError, match="expected the recording of one host"):
        judge.take_all(augs)
