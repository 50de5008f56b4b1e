"""What a boot with KVM comes to, in words and as JSON; the facts are made up."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import TDH_MEM_PAGE_AUG, TDH_MNG_CREATE, TDH_PHYMEM_PAMT_ADD
from dpamt.abi.pages import PT_EPT, PT_TDR
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.boot.console import Complaint
from dpamt.boot.interventions import Change
from dpamt.boot.kvm.allocations import Allocations, FailedLife
from dpamt.boot.kvm.compare import Compared
from dpamt.boot.kvm.coverage import Coverage, FunctionCoverage
from dpamt.boot.kvm.module_file import FileChange
from dpamt.boot.kvm.prepare import PreparedKvm
from dpamt.boot.kvm.reactions import Does, Reaction
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.sweep import Life, Sweep
from dpamt.boot.kvm.told import VmmTold
from dpamt.boot.outcome import Booted
from dpamt.host.kvm.differences import Difference
from dpamt.report.boot_text import _bottom
from dpamt.report.kvm_sweep_text import sweep_json, sweep_text
from dpamt.report.kvm_text import _failed_allocations, kvm_head, kvm_json, kvm_text

from .read_back import section

CALLS = {(TDH_MNG_CREATE, 0): 1234, (TDH_MEM_PAGE_AUG, TDX_OPERAND_BUSY): 7}
PHASES = [
    PhaseStock("a phase with a long name", CALLS, 211, 3, 40_999, 85, 66, 2),
    PhaseStock("second", {}, 12, 13, 14, 15, 16, 17),
]
EQUAL = Compared("merged", 41, (), ())


def booted(**changed: Any) -> Booted:
    changes = [
        FileChange(0x1F20, b"abc", b"xyz", "kvm-intel.ko: tdx_bringup+0x1", "no TDX there"),
        FileChange(0x30, bytes(20), bytes(range(20)), "kvm-intel.ko: .text", "the stub"),
    ]
    one = Booted([], [], phases=list(PHASES), **changed)
    one.prepared = PreparedKvm(Change(0, b"", b"", "", ""), Path("x.ko"), module_changes=changes)
    return one


def texts(one: Booted, compared: Compared | None = EQUAL, why: str = "") -> tuple[str, Any]:
    return kvm_text(one, compared, why), json.loads(json.dumps(kvm_json(one, compared, why)))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_complaint_that_comes_often_is_printed_once() -> None:
    booted = Booted([], [], initialized=1.0, ended="timeout")
    same = Complaint("WARNING", "x.c:1 at f", ("f+0x1/0x2",))
    booted.complaints = [same, Complaint("BUG", "y", ()), same, same]
    said = [line for line in _bottom(booted) if "KERNEL SAYS" in line]
    assert said == ["KERNEL SAYS: WARNING: x.c:1 at f (3 times)", "KERNEL SAYS: BUG: y"]


def test_what_was_changed_in_kvm() -> None:
    one = booted()
    text, document = texts(one)
    assert one.prepared is not None
    lines = section(text, "(done to|changed in) KVM$")
    assert lines[0].split()[0] == str(3 + 20)
    for change, said in zip(one.prepared.module_changes, document["module_changes"], strict=True):
        (at,) = [n for n, line in enumerate(lines) if line.split()[0] == f"{change.offset:#x}"]
        where = change.where.removeprefix("kvm-intel.ko: ")
        assert lines[at].split() == [
            hex(change.offset),
            str(len(change.new)),
            "bytes",
            *where.split(),
        ]
        assert lines[at + 1].strip() == change.why
        assert said == {
            "offset": change.offset,
            "where": change.where,
            "why": change.why,
            "old": change.old.hex(),
            "new": change.new.hex(),
        }


def test_the_table_of_phases() -> None:
    text, document = texts(booted())
    head, *rows = section(text, "TDs, phase by phase")[:3]
    assert head.split() == ["phase", "SEAMCALLs", "pairs", "TDs", "guest", "S-EPT", "control"]
    assert len({len(line) for line in (head, *rows)}) == 1
    for phase, line, said in zip(PHASES, rows, document["phases"], strict=True):
        *_, calls, pairs, tds, guest, sept, control = line.replace(",", "").split()
        counts = (phase.pairs, phase.tds, phase.guest_pages, phase.sept_pages, phase.control_pages)
        assert tuple(map(int, (pairs, tds, guest, sept, control))) == counts
        assert int(calls) == sum(phase.seamcalls.values())
        assert phase.name.startswith(line[2:22].strip())
        keys = ("pairs", "tds", "guest_pages", "sept_pages", "control_pages")
        assert tuple(said[key] for key in keys) == counts
        assert (said["name"], said["freed_pages"]) == (phase.name, phase.freed_pages)
        assert sum(row["count"] for row in said["seamcalls"]) == int(calls)
    assert document["phases"][0]["seamcalls"] == [
        {"leaf": "TDH.MEM.PAGE.AUG", "status": hex(TDX_OPERAND_BUSY),
         "status_name": "TDX_OPERAND_BUSY", "count": 7},
        {"leaf": "TDH.MNG.CREATE", "status": "0x0", "status_name": "TDX_SUCCESS", "count": 1234},
    ]  # fmt: skip


def test_what_the_vmm_and_the_guests_met() -> None:
    told = VmmTold(["TD 3 was not built"], passed_over=5)
    told.exits.update({(0, 40): 1200, (1, 40): 34, (1, 39): 8})
    one = booted(vmm=told)
    one.guests_refused.update({("ACCEPT", "0x1"): 1111})
    text, document = texts(one)
    assert " with 8 KVM_EXIT_MEMORY_FAULT, 1,234 KVM_EXIT_TDX." in flat(text)
    assert "The VMM: TD 3 was not built." in text
    assert "A guest: ACCEPT was answered 0x1, 1,111 times." in text
    assert re.search(r"(^| )5 commands were [^.]* TDs ", flat(text))
    assert document["exits"] == [
        {"td": 0, "exit": "KVM_EXIT_TDX", "count": 1200},
        {"td": 1, "exit": "KVM_EXIT_MEMORY_FAULT", "count": 8},
        {"td": 1, "exit": "KVM_EXIT_TDX", "count": 34},
    ]
    assert document["vmm_troubles"] == told.troubles
    assert document["guests"] == ["ACCEPT was answered 0x1, 1,111 times"]
    # Where lives fail one by one, each tells what its VMM met.
    for by_lives in (
        booted(vmm=told, allocations=Allocations(1)),
        booted(vmm=told, sweep=Sweep([])),
    ):
        text = flat(texts(by_lives)[0])
        assert "The VMM:" not in text
        assert " commands were " not in text
    silent = texts(booted())[1]
    assert (silent["exits"], silent["vmm_troubles"], silent["guests"]) == ([], [], [])
    assert " commands were " not in texts(booted(vmm=VmmTold()))[0]
    assert "KVM_RUN" not in texts(booted(vmm=VmmTold()))[0]


def test_checks() -> None:
    text, document = texts(booted(checks={"calls": [], "slots": ["moved", "lost"]}))
    calls, slots = section(text, "Checks")[:2]
    assert re.fullmatch("  calls: [a-z ]+", calls)
    assert slots == "  slots: moved; lost"
    assert document["checks"] == [
        {"name": "calls", "wrong": []},
        {"name": "slots", "wrong": ["moved", "lost"]},
    ]
    text, document = texts(booted())
    assert "Checks" not in text
    assert document["checks"] is None


def test_what_is_not_equal_and_why() -> None:
    different = (
        Difference("first", "TDH.MEM.PAGE.AUG TDX_SUCCESS", 1234, 5678, "because of this"),
        Difference("second", "pairs", 9, 8, "because of this"),
        Difference("second", "TDs", 1, 2, ""),
    )
    text, document = texts(booted(), Compared("v2", 41, different, ()))
    lines = section(text, "dpamt run on the same machine$")
    assert lines == [
        "  38 of 41 counts are equal (design v2); these are not:",
        "  because of this:",
        "    first: TDH.MEM.PAGE.AUG: 1,234 there, 5,678 here",
        "    second: pairs: 9 there, 8 here",
        "  NOT EXPLAINED:",
        "    second: TDs: 1 there, 2 here",
    ]
    assert (document["counts_compared"], document["not_compared"]) == (41, None)
    assert document["different"] == [
        {"phase": one.phase, "what": one.what, "model": one.model, "kernel": one.kernel,
         "because": one.because or None}
        for one in different
    ]  # fmt: skip
    text, document = texts(booted())
    assert "  41 of 41 counts are equal (design merged)." in text.splitlines()
    assert document["different"] == []
    text, document = texts(booted(), None, "it was told to inject")
    assert "  Not compared: it was told to inject." in text.splitlines()
    keys = ("counts_compared", "different", "not_compared")
    assert [document[key] for key in keys] == [None, None, "it was told to inject"]


def test_coverage() -> None:
    functions = (
        FunctionCoverage("tdx_a", frozenset((10, 11, 12, 15, 17)), frozenset((15,))),
        FunctionCoverage("tdx_b", frozenset((20, 21)), frozenset()),
        FunctionCoverage("tdx_c", frozenset((30,)), frozenset((30,))),
    )
    text, document = texts(booted(coverage=Coverage("tdx.c", functions)))
    lines = section(text, "KVM's TDX code ran$")
    assert "2 of 8 lines with code in tdx.c (25 %)." in flat("\n".join(lines))
    assert lines[-2:] == ["    tdx_a: 4 of 5: 10-12, 17", "    tdx_b: not called: 20-21"]
    assert not any("tdx_c" in line for line in lines)
    assert document["coverage"] == {
        "source": "tdx.c",
        "lines": 8,
        "ran": 2,
        "functions": [
            {"name": "tdx_a", "lines": 5, "missed": [10, 11, 12, 17]},
            {"name": "tdx_b", "lines": 2, "missed": [20, 21]},
            {"name": "tdx_c", "lines": 1, "missed": []},
        ],
    }
    nothing = "\n".join(texts(booted(coverage=Coverage("tdx.c", ())))[0].splitlines())
    assert "0 of 0 lines" in nothing
    assert texts(booted())[1]["coverage"] is None
    assert "TDX code ran" not in texts(booted())[0]


def test_allocations_are_grouped_by_what_asked_and_what_came() -> None:
    allocations = Allocations(1, keeps_freed=True)
    allocations.counted = 9
    fault = "failslab", "kvm_f", "ioctl: ENOMEM"
    allocations.lives = [
        FailedLife(1, 1, *fault),
        FailedLife(2, 2, *fault, pages=1),
        FailedLife(3, 3, call="ioctl: no error"),
    ]
    said = "\n".join(_failed_allocations(allocations))
    assert "   2 in kvm_f (failslab): ioctl: ENOMEM\n" in said
    assert "   1 that the kernel does not report: ioctl: no error\n" in said
    assert "3 of about 9 allocations failed" in said
    assert "after 1 of them something" in said
    assert "KASAN keeps it" in said


@pytest.mark.parametrize("left", ["tds", "pages", "pairs"])
def test_allocations_and_what_their_lives_left(left: str) -> None:
    allocations = Allocations(7)
    allocations.counted, allocations.done = 4321, True
    lives = [
        FailedLife(n, 7 * n, "failslab", "kvm_f", "ioctl: ENOMEM", ["a WARNING", "a WARNING"])
        for n in range(1, 5)
    ]
    setattr(lives[2], left, 5)
    lives[3].freed = 9
    allocations.lives = lives
    text, document = texts(booted(allocations=allocations))
    lines = section(text, "One of 7 allocations of a TD's life failed in turn")
    assert lines[0] == "     4 in kvm_f (failslab): ioctl: ENOMEM; a WARNING"
    said = flat("\n".join(lines))
    assert "4 of about 4,321 allocations failed, one in a life; after 1 of them something" in said
    assert "KASAN" not in said
    found = document["allocations"]
    assert (found["every"], found["counted"], found["all_done"]) == (7, 4321, True)
    for life, row in zip(lives, found["lives"], strict=True):
        assert row == {
            "life": life.number,
            "allocation": life.nth,
            "kind": life.kind,
            "function": life.where,
            "call": life.call,
            "reactions": life.reactions,
            "tds_left": life.tds,
            "pages_left": life.pages,
            "pairs_left": life.pairs,
            "pages_freed": life.freed,
        }
    assert "phase by phase" not in text
    assert "Each allocation of" in texts(booted(allocations=Allocations(1)))[0]


def test_the_head_says_what_of_a_scenario_has_no_effect() -> None:
    def head(shares: tuple[float, ...]) -> str:
        groups = [SimpleNamespace(share_2m=share) for share in shares]
        scenario: Any = SimpleNamespace(title="two of them", tds=groups)
        options: Any = SimpleNamespace(kvm=SimpleNamespace(script=SimpleNamespace(tds=[0, 0])))
        return kvm_head(scenario, options)

    assert head((0.0, 0.0)).startswith("2 TDs of 'two of them'; of its [host], ")
    assert "share_2m" not in head((0.0, 0.0))
    assert "share_2m" in head((0.0, 0.5))
    nothing: Any = SimpleNamespace(kvm=None)
    assert kvm_head(None, nothing) == ""


def life(number: int, nth: int, **more: Any) -> Life:
    facts: dict[str, Any] = {
        "came": True,
        "status": TDX_OPERAND_BUSY,
        "expected": Reaction(Does.AGAIN, "tdx_sept_aug"),
        "again": True,
    }
    line = f"TDH.MEM.PAGE.AUG:busy:nth={nth}"
    return Life(number, line, TDH_MEM_PAGE_AUG, nth, **{**facts, **more})


def swept(*lives: Life, done: bool = True) -> tuple[str, list[Any]]:
    sweep = Sweep(["TDH.MEM.PAGE.AUG:busy"])
    sweep.lives, sweep.done = list(lives), done
    return flat("\n".join(sweep_text(sweep))), json.loads(json.dumps(sweep_json(sweep)))


KIND = "TDH.MEM.PAGE.AUG:busy, call"
AGAIN = "makes the call again, and the TD goes on (tdx_sept_aug)"


def test_lives_that_are_alike_are_one_line() -> None:
    text, _ = swept(*(life(n, n) for n in (4, 5, 6)))
    assert f"{KIND}s 4-6: {AGAIN}" in text
    text, _ = swept(life(1, 4), life(2, 6))
    assert f"{KIND}s 4, 6: {AGAIN}" in text
    text, _ = swept(life(1, 4))
    assert f"{KIND} 4: {AGAIN}" in text
    assert "TDH.MEM.PAGE.AUG:busy. Each is what KVM's source says, unless NOT stands" in text


def test_the_sum_of_a_sweep() -> None:
    lives = (
        life(1, 1),
        life(2, 2, contradicts="it was not made again"),
        life(3, 3, came=False),
        life(4, 4, expected=None, status=TDX_SUCCESS),
        life(5, 5, kept=((0x1000, PT_TDR),)),
        life(6, 6, pairs=(0x200000,)),
        life(7, 7, counts={0x200000: 3}),
    )
    text, _ = swept(*lives)
    assert (
        "7 lives; in 6 the call came; KVM did as its source says in 4 of 5; after 3 of them "
        "something was not given back."
    ) in text
    assert "NOT ALL" not in text
    assert "NOT ALL: the script had no more lives" in swept(*lives, done=False)[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"came": False}, "not made in this life"),
        ({"contradicts": "it was not"}, f"NOT: {AGAIN}; it was not"),
        ({"expected": None}, "answered TDX_OPERAND_BUSY; not judged"),
        ({"met": 0x7000}, "not judged: it met page 0x7000, which an earlier life had lost"),
        ({"reactions": ["ioctl: EIO", "SEAMCALL TDH_MEM_PAGE_AUG failed"]}, f"{AGAIN}; ioctl: EIO"),
        ({"kept": ((0x1000, PT_TDR), (0x2000, PT_EPT), (0x3000, 99))},
         f"{AGAIN}; NOT GIVEN BACK: TDR 0x1000, S-EPT 0x2000, type 99 0x3000"),
        ({"pairs": (0x200000, 0x400000)},
         f"{AGAIN}; NOT GIVEN BACK: the page pair of 0x200000, the page pair of 0x400000"),
        ({"counts": {0x200000: 3, 0x400000: 1}},
         f"{AGAIN}; COUNTS TOO HIGH: that of 0x200000 by 3, that of 0x400000 by 1"),
        ({"freed": (0x5000, 0x6000)},
         f"{AGAIN}; NOT GIVEN BACK: FREED while the module has it: 0x5000, 0x6000"),
        ({"where": "tdx_sept_set"}, AGAIN),
    ],
)  # fmt: skip
def test_what_came_of_a_life(more: dict[str, Any], said: str) -> None:
    text, (document,) = swept(life(3, 9, **more))
    assert f"{KIND} 9: {said} 1 lives" in text
    assert document["made"] is more.get("came", True)
    assert document["status"] == (hex(TDX_OPERAND_BUSY) if document["made"] else None)
    assert document["contradiction"] == more.get("contradicts")


def test_who_called_is_said_of_pamt() -> None:
    one = Life(1, "TDH.PHYMEM.PAMT.ADD:busy:nth=2", TDH_PHYMEM_PAMT_ADD, 2, came=True)
    one.where, one.status = "tdx_sept_set_private_spte", TDX_OPERAND_BUSY
    assert "; called by tdx_sept_set_private_spte" in swept(one)[0]
    one.where = "tdx_td_init"
    assert "called by" not in swept(one)[0]


@pytest.mark.parametrize("many", [6, 7, 9])
def test_six_are_named_and_the_others_counted(many: int) -> None:
    pages = tuple((0x1000 * n, PT_TDR) for n in range(1, many + 1))
    regions = tuple(0x200000 * n for n in range(1, many + 1))
    one = life(1, 1, kept=pages, pairs=regions, counts=dict.fromkeys(regions, 2))
    one.freed = tuple(page for page, _ in pages)
    text, (document,) = swept(one)
    assert text.count("TDR 0x") == text.count("page pair of 0x") == text.count("that of 0x") == 6
    assert len(re.findall("0x", text.partition("FREED while the module has it: ")[2]
                          .partition(";")[0])) == 6  # fmt: skip
    more = f"{many - 6} more"
    assert ((f"{more} pages," in text), (f"{more} page pairs," in text)) == (many > 6, many > 6)
    assert (f"by 2, {more}" in text) == (many > 6)
    assert document["pages_left"] == [{"address": hex(page), "kind": "TDR"} for page, _ in pages]
    assert document["pairs_left"] == list(map(hex, regions))
    assert document["counts_left"] == [{"region": hex(at), "count": 2} for at in regions]
    assert document["pages_freed"] == list(map(hex, one.freed))


def test_a_life_as_json() -> None:
    one = life(3, 9, tries=4, where="tdx_sept_set", reactions=["ioctl: EIO"], tds=2)
    _, (document,) = swept(one)
    assert document == {
        "life": 3,
        "inject": "TDH.MEM.PAGE.AUG:busy:nth=9",
        "leaf": "TDH.MEM.PAGE.AUG",
        "call_of_leaf": 9,
        "made": True,
        "status": hex(TDX_OPERAND_BUSY),
        "tries": 4,
        "called_by": "tdx_sept_set",
        "reactions": ["ioctl: EIO"],
        "source_does": "makes the call again, and the TD goes on",
        "source_function": "tdx_sept_aug",
        "contradiction": None,
        "tds_left": 2,
        "pages_left": [],
        "pairs_left": [],
        "pages_freed": [],
        "counts_left": [],
    }
    one.expected = None
    _, (document,) = swept(one)
    assert (document["source_does"], document["source_function"]) == (None, None)
    assert texts(booted())[1]["sweep"] is None
    sweep = Sweep(["TDH.MEM.PAGE.AUG:busy"])
    sweep.lives = [one]
    text, whole = texts(booted(sweep=sweep))
    assert whole["sweep"] == [document]
    assert "phase by phase" not in text
    assert section(text, "SEAMCALLs of a TD's life that failed in turn")
