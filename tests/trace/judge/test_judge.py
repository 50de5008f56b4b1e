"""The judge against the module itself: silent where nothing is wrong, and each fault is named."""

import io
from collections.abc import Iterable
from itertools import cycle
from random import Random

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import LEVEL_2M
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.errors import Finding
from dpamt.run.td import StepFailed, Td
from dpamt.trace.judge.judge import Judge
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import Call, Item
from dpamt.trace.recording.read import Recording
from tests.trace.recorded import WRITERS, Recorder, SmallWorld, as_bytes, td_of, world_of

DESIGNS = ("merged", "v2", "v4", "v5", "v6", "lazy", "per-2m-lock", "static")


def judged(items: Iterable[Item], form: str = "ftrace") -> tuple[Judgement, Judge]:
    """What the judge says of the text of these items alone."""
    recording = Recording(io.BytesIO(as_bytes(WRITERS[form](items))), "x")  # type: ignore[arg-type]
    judge = Judge(recording.health)
    for item in recording:
        judge.take(item)
    return judge.judgement(form, "x"), judge


def live(recorder: Recorder, design: str, boot: bool = True) -> tuple[SmallWorld, Td]:
    """TDs that come and go, with 2M pages, splits, conversions and balloons.

    Not in v5: it forgets the get of a split's S-EPT page, and the judge says so (below).
    """
    world = world_of(recorder, design, "256MiB", boot)
    first = td_of(world, 4, number=1)
    second = td_of(world, 8, share_2m=0.0 if design in ("static", "lazy", "v5") else 0.6, number=2)
    random = Random(design)
    for td in (first, second):
        td.convert(0.1, 16 << 10, random, lambda _ranges: None)
        td.balloon(0.3, random, lambda _ranges: None)
    second.split(0.5, random, lambda _ranges: None)
    first.destroy()
    return world, second


def found(judgement: Judgement, design: str) -> dict[str, int]:
    """Kinds and counts; the lazy design waits for the module to miss a pair."""
    counts = dict(judgement.findings.counts)
    if design == "lazy":
        assert counts.pop("missing-pair", 0) > 0 or not judgement.adds
    return counts


@pytest.mark.parametrize(
    ("design", "form"),
    [*zip(DESIGNS, cycle(["ftrace", "bpftrace"])), ("merged", "perf"), ("v6", "boot")],
)
def test_nothing_is_found_where_nothing_is_wrong(design: str, form: str) -> None:
    recorder = Recorder()
    world, second = live(recorder, design)
    judgement, judge = judged(recorder.items, form)
    assert found(judgement, design) == {}, judgement.findings.first[:3]
    assert judgement.from_boot
    assert judgement.dynamic is (design != "static")
    view, state = world.view, judge.state
    assert {index for index, region in state.regions.items() if region.state == 2} == (
        set(view.pairs())
    )
    assert judgement.pairs_now == len(view.pairs())
    used = {
        index << 9 | slot
        for index, region in state.regions.items()
        for slot in range(512)
        if region.used >> slot & 1
    }
    assert used == set(view.used_pages())
    large = {index << 9 for index, region in state.regions.items() if region.state == 3}
    assert large == set(view.large_pages(LEVEL_2M))
    for tdr, children in view.tds().items():
        assert state.tds[tdr].children == children
    second.destroy()
    judgement, judge = judged(recorder.items, form)
    assert found(judgement, design) == {}
    assert (judgement.pairs_now, judgement.pages_now, judgement.tds_now) == (0, 0, 0)


@pytest.mark.parametrize("design", ["merged", "v5", "lazy", "static"])
def test_a_recording_that_begins_late_knows_less_and_nothing_wrong(design: str) -> None:
    recorder = Recorder()
    world, second = live(recorder, design, boot=False)
    second.destroy()
    for start in (0, len(recorder.items) // 2):
        judgement, judge = judged(recorder.items[start:])
        assert found(judgement, design) == {}, (start, judgement.findings.first[:3])
        assert not judgement.from_boot
        pairs = {index for index, region in judge.state.regions.items() if region.state == 2}
        assert pairs <= set(world.view.pairs())


def test_a_loss_in_the_middle_makes_everything_unknown_again() -> None:
    recorder = Recorder()
    live(recorder, "merged")
    lines = list(WRITERS["ftrace"](recorder.items))
    for start in (200, 3001, 9000):
        cut = [*lines[:start], "CPU:1 [LOST 400 EVENTS]", *lines[start + 400 :]]
        recording = Recording(io.BytesIO(as_bytes(cut)), "x")
        judge = Judge(recording.health)
        for item in recording:
            judge.take(item)
        judgement = judge.judgement("ftrace", "x")
        assert "impossible-answer" not in judgement.findings.counts, judgement.findings.first
        assert judgement.forgotten == 1
        assert not judgement.from_boot


class _Once:
    """A fault that happens at the n-th call of a leaf."""

    def __init__(self, number: int, nth: int, answer: int | None = 0) -> None:
        self.number, self.nth, self.answer = number, nth, answer
        self.region = -1

    def __call__(self, rax: int, args: TdxModuleArgs, seamcall: SeamCall) -> int:
        if rax & 0xFFFF == self.number:
            self.nth -= 1
            if not self.nth:
                self.region = args.rcx >> 21
                return 0 if self.answer is None else self.answer
        return seamcall(rax, args)


def with_fault(fault: _Once, design: str = "merged") -> Judgement:
    recorder = Recorder(fault=fault)
    world = world_of(recorder, design)
    try:
        td = td_of(world, 8)
        td.destroy()
    except (StepFailed, Finding):
        pass
    return judged(recorder.items)[0]


def test_a_falsely_successful_add_is_named() -> None:
    fault = _Once(leaf.TDH_PHYMEM_PAMT_ADD, 2)
    judgement = with_fault(fault)
    first = judgement.findings.first[0]
    assert first.kind == "missing-pair"
    impossible = [one for one in judgement.findings.first if one.kind == "impossible-answer"]
    assert "TDX_MISSING_PAMT_PAGE_PAIR" in impossible[0].what
    assert f"region {fault.region << 21:#x} has a page pair" in impossible[0].because
    assert "TDH.PHYMEM.PAMT.ADD at" in impossible[0].because


def test_a_lost_remove_is_named() -> None:
    """The module says that it took the pair out, and did not: shows at the region's next ADD."""
    recorder = Recorder()
    world = world_of(recorder)
    lost: list[int] = []

    def lose_one(rax: int, args: TdxModuleArgs, seamcall: SeamCall) -> int:
        if rax == leaf.TDH_PHYMEM_PAMT_REMOVE and not lost:
            lost.append(args.rcx >> 21)
            pair = world.view.pairs()[lost[0]]
            args.rdx, args.r8 = pair.pfn0 << 12, pair.pfn1 << 12
            return 0
        return seamcall(rax, args)

    recorder.fault = lose_one

    def live_on() -> None:
        for number in range(1, 9):
            td_of(world, 8, number=number).destroy()

    with pytest.raises((StepFailed, Finding)):
        live_on()
    judgement = judged(recorder.items)[0]
    impossible = [one for one in judgement.findings.first if one.kind == "impossible-answer"]
    first = impossible[0]
    assert "TDH.PHYMEM.PAMT.ADD answered TDX_HPA_RANGE_NOT_FREE" in first.what
    assert f"region {lost[0] << 21:#x} has no page pair" in first.because
    assert "TDH.PHYMEM.PAMT.REMOVE at" in first.because
    assert judgement.findings.counts["double-add"] >= 1


def test_a_put_too_many_is_named_with_its_caller() -> None:
    recorder = Recorder()
    world = world_of(recorder)
    td = td_of(world, 8)
    used = next(iter(world.view.used_pages()))
    region = used >> 9
    kernel = world.kernel
    for _ in range(kernel.pamt_refcounts.at(region).load()):
        kernel.tdx_pamt_put(kernel, kernel.cpus[0], used)
    td.destroy()
    judgement = judged(recorder.items)[0]
    (bad, *_) = [one for one in judgement.findings.first if one.kind == "bad-remove"]
    assert "TDX_PAMT_PAGE_NOT_EMPTY" in bad.what
    assert "of its pages are in use" in bad.because
    kernel.tdx_pamt_put(kernel, kernel.cpus[0], 5 << 9)
    judgement = judged(recorder.items)[0]
    (put, *_) = [one for one in judgement.findings.first if one.kind == "put-too-many"]
    assert "tdx_sept_remove_private_spte" in put.caller


def test_a_forgotten_put_is_a_leak_with_its_caller() -> None:
    recorder = Recorder()
    world = world_of(recorder)
    td = td_of(world, 8)
    kernel = world.kernel
    put = kernel.tdx_pamt_put
    forgotten = next(page for page, use in world.view.used_pages().items() if use.type == 3)
    kernel.tdx_pamt_put = lambda kernel, cpu, pfn: (
        None if pfn == forgotten else put(kernel, cpu, pfn)
    )
    td.destroy()
    recorder.now += 10_000_000_000
    kernel.tdx_pamt_get(kernel, kernel.cpus[0], 77 << 9, None)
    recorder.now += 10_000_000_000
    judgement = judged(recorder.items)[0]
    leaks = [one for one in judgement.findings.first if one.kind == "leak"]
    assert judgement.findings.counts["leak"] == len(world.view.pairs()) - 1
    assert leaks[0].caller == "tdx_sept_set_private_spte+0x51 (qemu)"
    assert f"region {forgotten >> 9 << 21:#x}" in leaks[0].because


def test_the_split_of_v5_puts_more_than_it_gets() -> None:
    """Found in review of that series: its split forgets the get of the new S-EPT page."""
    recorder = Recorder()
    world = world_of(recorder, "v5")
    td = td_of(world, 8, share_2m=1.0)
    td.split(1.0, Random(1), lambda _ranges: None)
    td.destroy()
    assert judged(recorder.items)[0].findings.counts["put-too-many"] > 0


def test_without_registers_after_a_call_pages_are_not_followed_and_nothing_is_wrong() -> None:
    """Kernels before 6.9, by kprobe events."""
    recorder = Recorder()
    world, second = live(recorder, "merged")
    second.destroy()
    lines = [
        line[: line.index(" rcx=")] if "seamcall_end" in line else line
        for line in WRITERS["ftrace"](recorder.items)
    ]
    recording = Recording(io.BytesIO(as_bytes(lines)), "x")
    judge = Judge(recording.health)
    for item in recording:
        judge.take(item)
    judgement = judge.judgement("ftrace", "x")
    assert judgement.findings.counts == {}
    assert judgement.blind
    assert judgement.pairs_now == len(world.view.pairs()) == 0


def test_a_leak_is_told_with_its_whole_stack() -> None:
    recorder = Recorder()
    td_of(world_of(recorder, memory="256MiB"), 4)
    stack = b" <- ".join(b"function_number_%d+0x10" % number for number in range(9))
    # An ADD whose pair nobody uses, and a call to end with.
    now, pair = recorder.now, (90 << 21, (90 << 21) + 4096)
    before = (100 << 21 | 1, *pair, *[0] * 5)
    add = leaf.TDH_PHYMEM_PAMT_ADD
    lonely = Call(now, now + 9, 0, 7, b"q", add, before, 0, None, stack)
    end = Call(now + 10**9, now + 2 * 10**9, 0, 7, b"q", leaf.TDH_SYS_RD, (0,) * 8, 0, None, b"")
    judge = Judge(Recording(io.BytesIO(b"# tracer: nop\n"), "x").health)
    judge.take_all([*recorder.items, lonely, end])
    found = judge.judgement("ftrace", "x").findings.first
    (leak,) = [one for one in found if one.kind == "leak"]
    assert stack.decode() in leak.caller
