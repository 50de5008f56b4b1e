"""KVM's part in a boot: what is judged at its end, and by whom; nothing here runs a guest."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import TDH_MEM_PAGE_AUG
from dpamt.abi.status import TDX_MISSING_PAMT_PAGE_PAIR
from dpamt.boot.console import Complaint
from dpamt.boot.kvm import running
from dpamt.boot.kvm.allocations import Allocations
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.running import KvmRun
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.sweep import Sweep
from dpamt.boot.outcome import Booted

SCRIPT = Script("phase 1\n", ("boot", "first"), ("one", "two"))
TROUBLE = "dpamt: td 0 error -12 hw 0x0"
WRONG = Counter({(TDH_MEM_PAGE_AUG, TDX_MISSING_PAMT_PAGE_PAIR): 3})


class Freed:
    """Pages that the kernel has freed: as the test says."""

    def __init__(self, pages: Mapping[int, int]) -> None:
        self.pages = dict(pages)

    def held(self, _module: Any) -> dict[int, int]:
        return {**self.pages, 99: 1}

    def free_among(self, pages: Mapping[int, int]) -> list[int]:
        return [page for page in sorted(pages) if page in self.pages]

    def wrong(self, pages: Mapping[int, int]) -> list[str]:
        return [f"freed: {page}" for page in self.free_among(pages)]


class Door:
    def __init__(self, *knocks: int) -> None:
        self.knocks = list(knocks)
        self.opened: list[tuple[int, bool]] = []
        self.allocation_failed, self.free_pages = True, 1234
        self.steps = ["ioctl", "", "never asked"]

    def knocked(self) -> int:
        return self.knocks.pop(0) if self.knocks else 0

    def open(self, phase: int, enough: bool) -> None:
        self.opened.append((phase, enough))

    def standing(self, tds: int) -> list[str]:
        return self.steps[:tds]


def run(
    result: Booted,
    freed: Mapping[int, int] | None = None,
    knocks: tuple[int, ...] = (),
    **more: Any,
) -> tuple[KvmRun, Door]:
    nothing: Any = None
    console: Any = SimpleNamespace(lines=list)
    pages: Any = Freed(freed or {})
    made = KvmRun(KvmOptions(SCRIPT, **more), nothing, nothing, nothing, console, result, pages)
    door: Any = Door(*knocks)
    made._door = door
    return made, door


def test_a_phase_is_taken_stock_of_when_the_vmm_knocks(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Booted([], [], module=SimpleNamespace())  # type: ignore[arg-type]
    made, door = run(result, {5: 1, 6: 1}, (0, 2))
    stock = PhaseStock("first", {}, 1, 2, 3, 4, 5)
    taken: list[tuple[Any, ...]] = []

    def take(*told: Any) -> PhaseStock:
        taken.append(told)
        return stock

    monkeypatch.setattr(made._stocks, "take", take)
    made.look()
    assert (result.phases, door.opened) == ([], [])
    made.look()
    assert result.phases == [stock]
    assert taken == [(2, result, 2)]  # the phase, and two pages that the kernel has freed
    assert door.opened == [(2, False)]
    assert result.findings == ["freed: 5", "freed: 6"]


def test_lives_go_on_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Booted([], [])
    told: list[tuple[Any, ...]] = []

    def next_life(*facts: Any) -> bool:
        told.append(facts)
        return len(told) < 2

    result.allocations = Allocations(1)
    monkeypatch.setattr(result.allocations, "next_life", next_life)
    made, door = run(result, {}, (1, 2))
    made.look()
    made.look()
    assert door.opened == [(1, False), (2, True)]
    assert [facts[1:] for facts in told] == [(True, 1234)] * 2
    result = Booted([], [])
    result.sweep = Sweep([])
    result.sweep.next_life = lambda *_: False  # type: ignore[method-assign]
    made, door = run(result, {}, (1,))
    made.look()
    assert door.opened == [(1, True)]


def test_where_a_vmm_is_stuck() -> None:
    made, door = run(Booted([], []))
    assert made.stands(4.9) == ["stuck: one is in ioctl"]
    assert made.stands(12.3) == ["stuck: one is in ioctl; no SEAMCALL for 12 s"]
    door.steps = ["", ""]
    assert made.stands(1.0) == []
    assert made.stands(5.0) == ["stuck: no SEAMCALL for 5 s"]


def judged(result: Booted, injects: bool = False, **more: Any) -> list[str]:
    result.console = [TROUBLE]
    made, _ = run(result, **more)
    guests: Any = SimpleNamespace(refused=lambda: Counter({("ACCEPT", "0x1"): 2}))
    made.judge(guests, b"", injects, False)
    return result.findings


def test_what_the_vmm_the_guests_and_the_module_met() -> None:
    found = judged(Booted([], [], counts=Counter(WRONG)))
    assert [text.partition(":")[0] for text in found] == ["the VMM", "a guest", "missing-pair"]
    assert found[1] == "a guest: ACCEPT was answered 0x1, 2 times"
    injected = judged(Booted([], [], counts=Counter(WRONG)), injects=True)
    assert [text.partition(":")[0] for text in injected] == ["missing-pair"]


@pytest.mark.parametrize("ended", ["reboot", "stopped"])
def test_what_is_left_counts_when_the_machine_has_ended(
    ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "left_over", lambda _module: ["leak: all of it"])
    result = Booted([], [], module=SimpleNamespace(), ended=ended)  # type: ignore[arg-type]
    assert ("leak: all of it" in judged(result)) == (ended == "reboot")


def test_checks_are_findings() -> None:
    checks: Any = SimpleNamespace(wrong=lambda *_: {"calls": ["one", "two"], "slots": []})
    result = Booted([], [])
    found = judged(result, checks=checks)
    assert found[:2] == ["check: one", "check: two"]
    assert result.checks == {"calls": ["one", "two"], "slots": []}


def test_a_sweep_judges_for_itself() -> None:
    """Counts that are left are those of its lives; warnings that a failure brings are due."""
    result = Booted([], [], counts=Counter(WRONG))
    result.findings = ["leak: region 0x5", "refcounts: more", "another"]
    due = Complaint("WARNING", "arch/x86/kvm/vmx/tdx.c:5 at f+0x1/0x2", ())
    result.complaints = [due, Complaint("BUG", "it", ())]
    result.sweep = Sweep([])
    result.sweep.finish = lambda *_: None  # type: ignore[method-assign]
    result.sweep.findings = lambda: ["a life"]  # type: ignore[method-assign]
    assert judged(result) == ["another", "a life"]
    assert [one.kind for one in result.complaints] == ["BUG"]
    assert result.vmm is not None


def test_allocations_judge_for_themselves() -> None:
    result = Booted([], [], counts=Counter(WRONG))
    result.allocations = Allocations(1)
    result.allocations.finish = lambda *_: None  # type: ignore[method-assign]
    result.allocations.findings = lambda: ["a life"]  # type: ignore[method-assign]
    assert judged(result) == ["a life"]


def test_who_makes_a_call_is_the_innermost_function_of_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {1: "kvm_vm_ioctl+0x1 [kvm]", 2: "tdx_sept_map.isra.0+0x12 [kvm_intel]",
             3: "tdx_td_init+0x3 [kvm_intel]", 4: "schedule+0x4"}  # fmt: skip
    code: Any = SimpleNamespace(name_of=lambda address: names.get(address, ""))
    asked: list[Any] = []

    def callers(_kernel: Any, _image: Any, stack: int, most: int, is_module: Any) -> list[int]:
        asked.append((stack, most, [at for at in names if is_module(at)]))
        return [4, 1, 2, 3]

    monkeypatch.setattr(running, "callers", callers)
    monkeypatch.setattr(running, "LoadedCode", lambda *_: code)
    made, _ = run(Booted([], []))
    assert made.where(0x1000) == ""  # no modules are known yet
    made._result.prepared = SimpleNamespace(modules={"kvm.ko": Path("x")})  # type: ignore[assignment]
    assert made.where(0x1000) == "tdx_sept_map"
    assert asked == [(0x1000, 24, [2, 3])]
