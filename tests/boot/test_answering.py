"""The module's side of a boot, with the host of dpamt as its guest.

Host and module share the memory of a guest, a file; every SEAMCALL goes through what a boot answers
with.  What is written down is held against what the host did.
"""

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import (
    TDH_PHYMEM_PAGE_RDMD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_RD,
    leaf_name,
)
from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.abi.registers import REGISTER_NAMES, TdxModuleArgs
from dpamt.abi.status import TDX_SYS_BUSY
from dpamt.boot import answering as under_test
from dpamt.boot.answering import Answering
from dpamt.boot.call import Recording
from dpamt.boot.compare import differences, told_by_host, told_by_kernel
from dpamt.boot.exerciser import Exercise
from dpamt.boot.forced import parse_forced
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.interventions import SEAMCALL_SITES
from dpamt.boot.outcome import DYNAMIC, STATIC, Booted, BootOptions
from dpamt.boot.request import Request
from dpamt.errors import InputError
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Kernel
from dpamt.host.designs.load import load_design
from dpamt.module.injection_rules import parse_rule
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.size import machine_from_size
from dpamt.sync import Shared

SIZE = 1 << 30
MACHINE = machine_from_size("1GiB")


def registers(**named: int) -> TdxModuleArgs:
    made = TdxModuleArgs()
    for name, value in named.items():
        setattr(made, name, value)
    return made


class Guest:
    """What boots on it; ``told`` has each SEAMCALL as the host saw it: leaf, status."""

    def __init__(self, folder: Path, recording: bool = False, **options: Any) -> None:
        path = folder / "memory"
        with path.open("wb") as file:
            file.truncate(SIZE)
        self.memory = GuestMemory([(path, SIZE)])
        self.result = Booted([], [])
        self.file = io.StringIO()
        self.now = 0.0
        image: Any = SimpleNamespace(symbol=lambda _: None, name_of=lambda at: f"caller_{at:#x}")
        nothing: Any = None
        self.answering = Answering(
            BootOptions(Path("vmlinux"), **options),
            self.result,
            self.memory,
            nothing,
            image,
            Recording(self.file) if recording else None,
            self.clock,
        )
        self.told: list[tuple[int, int]] = []
        self.wrong: list[str] = []
        self.tdmrs_at: int | None = None
        """Where the host is made to say that its TDMR_INFOs are."""

    def clock(self) -> float:
        self.now += 0.5
        return self.now

    def load(self) -> None:
        assert not self.answering.is_loaded
        self.answering.load(MACHINE)
        assert self.answering.is_loaded

    def seamcall(self, cpu: int) -> Any:
        def called(rax: int, args: TdxModuleArgs) -> int:
            if rax == TDH_SYS_CONFIG and self.tdmrs_at is not None:
                args.rcx = self.tdmrs_at
            before = dict(zip(REGISTER_NAMES, args.as_tuple(), strict=True))
            request = Request(cpu, cpu % 2, {**before, "rax": rax, "rsp": 0x1000 + cpu})
            answer, wrong = self.answering.answer(request, self.clock())
            self.wrong += wrong
            status = answer.registers["rax"]
            for name in REGISTER_NAMES:
                setattr(args, name, answer.registers[name])
            self.told.append((rax, status))
            return status

        return called

    def boot(self, design: str) -> Kernel:
        kernel = Kernel(
            MACHINE,
            PageAllocator(MACHINE),
            self.memory,
            Shared(),
            [self.seamcall(cpu) for cpu in range(len(self.result.module.processors))],  # type: ignore[union-attr]
            load_design(design),
        )
        tdx_enable(kernel)
        return kernel


@pytest.fixture(autouse=True)
def stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def callers(_kernel: Any, _image: Any, stack: int, most: int) -> list[int]:
        assert most == 1
        return [stack + 0x8] if stack != 0x1001 else []

    monkeypatch.setattr(under_test, "callers", callers)


@pytest.mark.parametrize("design", ["static", "merged"])
def test_a_host_boots_on_it(tmp_path: Path, design: str) -> None:
    guest = Guest(tmp_path, recording=True)
    guest.load()
    kernel = guest.boot(design)
    result = guest.result
    assert guest.wrong == result.findings == []
    assert result.machine is MACHINE
    assert result.module is not None
    assert result.module.pamt.dynamic == (design == "merged")
    assert result.counts == Counter(guest.told)
    assert guest.answering.total == len(guest.told) == len(result.calls) > 20
    # What it was told at SYS.CONFIG is what dpamt's host tells on such a machine.
    told = told_by_kernel(result.tdmr_infos, kernel.log.lines)
    assert told.tdmrs
    assert differences(told, told_by_host(MACHINE, design == "merged", told)) == []
    head, *lines = map(json.loads, guest.file.getvalue().splitlines())
    assert head["format"] == 1
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    for call, (rax, status), line in zip(result.calls, guest.told, lines, strict=True):
        assert (call.rax, call.status) == (rax, status)
        assert call.site == SEAMCALL_SITES[call.cpu % 2]
        assert call.caller == ("" if call.cpu == 1 else f"caller_{0x1008 + call.cpu:#x}")
        assert call.answered == call.asked + 0.5
        assert line["leaf"] == leaf_name(rax)
    config = next(call for call in result.calls if call.leaf == TDH_SYS_CONFIG)
    assert config.before[1] == len(result.tdmr_infos)


def test_dynamic_pamt_is_asked_for_where_the_kernel_does_not(tmp_path: Path) -> None:
    guest = Guest(tmp_path, pamt=DYNAMIC)
    guest.load()
    guest.boot("static")
    assert guest.result.module is not None
    assert guest.result.module.pamt.dynamic
    config = next(call for call in guest.result.calls if call.leaf == TDH_SYS_CONFIG)
    assert config.status == 0


def test_a_module_without_dynamic_pamt_does_not_offer_it(tmp_path: Path) -> None:
    guest = Guest(tmp_path, pamt=STATIC)
    guest.load()
    assert guest.result.module is not None
    assert not guest.result.module.release.features0 & TDX_FEATURES0_DYNAMIC_PAMT
    guest.boot("merged")
    assert not guest.result.module.pamt.dynamic
    plain = Guest(tmp_path)
    plain.load()
    assert plain.result.module is not None
    assert plain.result.module.release.features0 & TDX_FEATURES0_DYNAMIC_PAMT


def test_a_release_that_does_not_know_dynamic_pamt_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old: Any = SimpleNamespace(name="1.0", knows_dynamic_pamt=False)
    monkeypatch.setattr(under_test, "release_named", lambda _: old)
    with pytest.raises(InputError, match=r"module 1\.0 has no Dynamic PAMT; expected another"):
        Guest(tmp_path, pamt=DYNAMIC).load()


def test_rules_answer_and_are_counted(tmp_path: Path) -> None:
    guest = Guest(
        tmp_path,
        forced=(parse_forced("TDH.SYS.INIT:answer=TDX_SYS_BUSY:nth=1"),),
    )
    guest.load()
    call = guest.seamcall(0)
    assert call(TDH_SYS_INIT, TdxModuleArgs()) == TDX_SYS_BUSY
    assert call(TDH_SYS_INIT, TdxModuleArgs()) == 0
    guest.answering.take_stock()
    ((text, seen, hits),) = guest.result.injected
    assert (text, seen, hits) == ("TDH.SYS.INIT:answer=TDX_SYS_BUSY:nth=1", 2, 1)
    injected = Guest(tmp_path, inject=(parse_rule("TDH.PHYMEM.PAGE.RDMD:busy=RCX:nth=1"),))
    injected.load()
    injected.boot("static")
    busy = injected.seamcall(0)(TDH_PHYMEM_PAGE_RDMD, registers(rcx=1 << 21))
    assert busy & 0xFFFFFFFF00000000 == 0x8000020000000000
    injected.answering.take_stock()
    ((_, seen, hits),) = injected.result.injected
    assert (seen, hits) == (1, 1)


def test_a_pointer_to_nowhere_is_told_once_for_each_leaf(tmp_path: Path) -> None:
    """All ones there; a guest that is hostile may do so."""
    for mode, expected in ((None, True), ("life", True), ("hostile", False)):
        exercise = None if mode is None else Exercise(mode, mode, {})
        guest = Guest(tmp_path, exercise=exercise)
        guest.load()
        guest.tdmrs_at = 1 << 44
        guest.boot("static")
        assert guest.result.tdmr_infos == []
        call = next(call for call in guest.result.calls if call.leaf == TDH_SYS_CONFIG)
        guest.seamcall(0)(
            call.rax, registers(**dict(zip(REGISTER_NAMES, call.before, strict=True)))
        )
        told = [text for text in guest.result.findings if "no memory" in text]
        assert bool(told) == expected
        assert len(told) <= 1
        assert all(text.startswith("TDH.SYS.CONFIG: a pointer to where the guest") for text in told)


def test_a_flood_of_calls_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_CALLS", 3)
    monkeypatch.setattr(under_test, "_KEPT_CALLS", 2)
    guest = Guest(tmp_path)
    guest.load()
    for number in range(1, 5):
        guest.seamcall(0)(TDH_SYS_RD, TdxModuleArgs())
        assert guest.result.ended == ("stopped" if number > 3 else "")
    assert guest.result.findings == ["more than 3 SEAMCALLs: a flood"]
    assert len(guest.result.calls) == 2


def test_the_module_s_tree_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the regions that a call names each time, in all of it now and then."""
    monkeypatch.setattr(under_test, "_WHOLE_EVERY", 4)
    guest = Guest(tmp_path)
    guest.load()
    guest.boot("merged")
    looked: list[Any] = []
    view = guest.answering._view
    assert view is not None

    def check(_view: Any, region: Any = "all") -> list[str]:
        looked.append(region)
        return [f"{region} is wrong"]

    monkeypatch.setattr(type(view), "check", check)
    monkeypatch.setattr(type(view), "check_region", check)
    guest.answering.total = 0
    guest.wrong.clear()
    call = guest.seamcall(0)
    for region in (3, 5, 7):
        call(TDH_PHYMEM_PAGE_RDMD, registers(rcx=region << 21))
        assert f"{region} is wrong" in guest.wrong
    assert "all" not in looked
    call(TDH_PHYMEM_PAGE_RDMD, registers(rcx=9 << 21))
    assert looked[-1] == "all"
    assert guest.wrong[-1] == "all is wrong"


class Counts:
    """The kernel's own counters, as the test says."""

    is_known, audits = True, 17

    def __init__(self, counted: dict[int, int]) -> None:
        self._counted = counted

    def counted(self) -> dict[int, int]:
        return self._counted

    def wrong_now(self, paired: dict[int, int]) -> list[str]:
        return [f"now {sorted(paired.items())}"]

    def wrong_at_rest(self, paired: dict[int, int]) -> list[str]:
        return [f"rest {sorted(paired.items())}", "another"]


def test_the_kernel_s_counters_are_held_against_the_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_COUNTS_EVERY", 3)
    guest = Guest(tmp_path)
    guest.load()
    assert guest.answering.wrong_at_rest() == []  # there is nothing yet
    kernel = guest.boot("merged")
    assert guest.answering.wrong_at_rest() == []  # such a kernel has no counters
    assert guest.answering.surplus() == {}
    counts: Any = Counts({5: 3, 9: 0})
    guest.answering._counts = counts
    pages = [kernel.allocator.alloc_page("x") for _ in range(2)]
    region = 9
    args = registers(rcx=region << 21 | 1)
    args.rdx, args.r8 = (page << 12 for page in pages if page is not None)
    guest.answering.total = 1
    guest.wrong.clear()
    assert guest.seamcall(0)(TDH_PHYMEM_PAMT_ADD, args) == 0
    assert guest.wrong == []
    guest.seamcall(0)(TDH_SYS_RD, TdxModuleArgs())
    assert guest.wrong == [f"now [({region}, 0)]"]
    assert (guest.result.audit.points, guest.result.audit.wrong) == (17, 1)
    assert guest.answering.wrong_at_rest() == [f"rest [({region}, 0)]", "another"]
    assert guest.result.audit.wrong == 3


def test_a_sweep_answers_in_the_place_of_the_module(tmp_path: Path) -> None:
    """It is given the CPU, the call, and who made it, which is looked up when it is asked for."""
    guest = Guest(tmp_path)
    guest.load()
    asked: list[Any] = []

    def seamcall(processor: Any, rax: int, args: TdxModuleArgs, where: Any) -> int:
        assert guest.result.module is not None
        asked.append((guest.result.module.processors.index(processor), rax, args.rcx, where()))
        args.rdx = 77
        return TDX_SYS_BUSY

    guest.answering.where = lambda stack: f"function_{stack:#x}"
    sweep: Any = SimpleNamespace(seamcall=seamcall)
    guest.result.sweep = sweep
    args = registers(rcx=5)
    assert guest.seamcall(1)(TDH_SYS_RD, args) == TDX_SYS_BUSY
    assert asked == [(1, TDH_SYS_RD, 5, "function_0x1001")]
    assert args.rdx == 77
    assert guest.result.counts == {(TDH_SYS_RD, TDX_SYS_BUSY): 1}
