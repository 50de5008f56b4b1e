"""A boot as text, as JSON and as a trace: what was counted is what is printed, number by number.

The facts are made up, each number another one, so that none can stand for another.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import LEAF_NAMES, TDH_PHYMEM_PAMT_ADD
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.abi.tdmr import TdmrInfo
from dpamt.boot.call import Call
from dpamt.boot.compare import Told
from dpamt.boot.console import Complaint
from dpamt.boot.hold import parse_hold
from dpamt.boot.interventions import Change, Place
from dpamt.boot.outcome import Booted, BootOptions, RefcountAudit
from dpamt.boot.page_state import Kept
from dpamt.boot.schedule import Followed, Point, SeenWord
from dpamt.report import boot_text as module_under_test
from dpamt.report.boot_perfetto import calls_trace
from dpamt.report.boot_text import boot_json, boot_text

from .read_back import cells, section

CHANGED = "(done|changed) (to it|in the kernel)$"
HOLDS = ("0@TDH.PHYMEM.PAMT.ADD:until=1:3", "1@TDH.SYS.INIT:until=0:2")
OPTIONS = BootOptions(
    Path("/boot/vmlinux"),
    transport="gdb",
    cpus=7,
    memory=3 << 30,
    nodes=2,
    hold=tuple(parse_hold(text, 7) for text in HOLDS),
)


@pytest.fixture(autouse=True)
def view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "ModuleView", lambda module: module)


def module(pairs: int, tds: int, dynamic: bool = True) -> Any:
    return SimpleNamespace(
        pamt=SimpleNamespace(dynamic=dynamic), pairs=lambda: [0] * pairs, tds=lambda: [0] * tds
    )


def booted(**changed: Any) -> Booted:
    facts: dict[str, Any] = {
        "places": [],
        "changes": [
            Change(0xFFFFFFFF81001234, b"\x0f\x01\xcf", b"\x90" * 3, "seamcall+0x4", "it stops"),
            Change(0xFFFFFFFF82005678, bytes(11), bytes(range(11)), "empty space", "the stub"),
        ],
        "initialized": 1.234,
        "seconds": 45.678,
        "ended": "reboot",
        "held": [0, 0],
        "console": ["Linux version 7", "virt/tdx: BIOS enabled", "virt/tdx: module initialized"],
    }
    return Booted(**{**facts, **changed})


def texts(one: Booted, **more: Any) -> tuple[str, Any]:
    told, host = more.get("told"), more.get("host")
    text = boot_text(OPTIONS, one, told, host, more.get("console", False), more.get("head", ""))
    return text, json.loads(json.dumps(boot_json(OPTIONS, one, told, host)))


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("nodes", "said"), [(1, "1 NUMA node;"), (2, "2 NUMA nodes;")])
def test_the_machine(nodes: int, said: str) -> None:
    options = BootOptions(Path("vm"), Path("bzImage"), cpus=5, memory=12345 << 20, nodes=nodes)
    text = boot_text(options, booted(held=[]), None, None, False)
    assert f"  5 CPUs, 12,345 MiB, {said} transport mailbox" in text.splitlines()
    assert "  bzImage" in text.splitlines()
    document = boot_json(options, booted(held=[]), None, None)
    assert (document["cpus"], document["memory_bytes"], document["nodes"]) == (
        5,
        12345 << 20,
        nodes,
    )
    assert (document["vmlinux"], document["transport"], document["format"]) == ("vm", "mailbox", 1)
    assert "  /boot/vmlinux" in boot_text(OPTIONS, booted(), None, None, False).splitlines()


def test_what_was_changed() -> None:
    one = booted()
    text, document = texts(one)
    lines = section(text, CHANGED)
    assert lines[0].split()[0] == str(3 + 11)
    for change, said in zip(one.changes, document["changes"], strict=True):
        (line,) = [line for line in lines if f"{change.address:#x}" in line]
        address, size, word, *where = line.split()
        assert (int(address, 16), int(size), word) == (change.address, len(change.new), "bytes")
        assert " ".join(where) == change.where
        assert lines[lines.index(line) + 1] == f"      {change.why}"
        assert said == {
            "address": f"{change.address:#x}",
            "where": change.where,
            "why": change.why,
            "old": change.old.hex(),
            "new": change.new.hex(),
        }
    place = Place("SEAMCALL", "seamcall", 0xFFFFFFFF81001234, 4, "it is one")
    lines = section(texts(booted(changes=[], places=[place]))[0], CHANGED)
    assert lines[0].startswith("  Nothing is changed")
    assert lines[1:] == ["  0xffffffff81001234  seamcall", "      it is one"]


def test_what_the_kernel_said_of_tdx() -> None:
    text, document = texts(booted())
    lines = section(text, "What the kernel said of TDX")
    assert lines == ["  virt/tdx: BIOS enabled", "  virt/tdx: module initialized"]
    assert section(texts(booted(console=["Linux"]))[0], "What the kernel said") == ["  nothing"]
    assert document["console"] == booted().console
    assert "Linux version 7" not in text
    assert texts(booted(), console=True)[0].endswith(
        "\n\nConsole\n-------\n" + "\n".join(booted().console) + "\n"
    )


@pytest.mark.parametrize("seed", range(3))
def test_seamcalls_are_counted(seed: int) -> None:
    chance = random.Random(seed)
    counts = Counter(
        {
            (leaf, status): chance.randrange(1, 90_000)
            for leaf in chance.sample(sorted(LEAF_NAMES), 5)
            for status in (TDX_SUCCESS, TDX_OPERAND_BUSY)
        }
    )
    text, document = texts(booted(counts=counts))
    lines = section(text, "^SEAMCALLs$")[: len(counts) + 1]
    found = {}
    for line in lines[:-1]:
        name, number, status = cells(line)
        found[name, status] = int(number.replace(",", ""))
    names = {TDX_SUCCESS: "done", TDX_OPERAND_BUSY: "TDX_OPERAND_BUSY"}
    assert found == {(LEAF_NAMES[leaf], names[status]): n for (leaf, status), n in counts.items()}
    assert cells(lines[-1]) == ["all", f"{sum(counts.values()):,}"]
    assert len({re.search(r"[\d,]+(?=$|  )", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    names[TDX_SUCCESS] = "TDX_SUCCESS"
    assert document["seamcalls"] == [
        {"leaf": LEAF_NAMES[leaf], "status": hex(status), "status_name": names[status], "count": n}
        for (leaf, status), n in sorted(counts.items())
    ]


def test_no_seamcall() -> None:
    over = booted(ended="timeout", initialized=None, changes=[])
    text = flat(texts(over)[0])
    assert "None: the time was over before the first" in text
    assert "The time was over, after 45.68 s, before the kernel made its first" in text
    other = flat(texts(booted(initialized=None))[0])
    assert re.search(r"None\. .* kernel .* TDX .* KVM", other)
    assert "TDX module NOT initialized; the run took 45.68 s and ended by reboot." in other
    late = booted(ended="timeout", initialized=None, counts=Counter({(TDH_PHYMEM_PAMT_ADD, 0): 1}))
    assert "NOT initialized" in flat(texts(late)[0])


def test_the_bottom_line() -> None:
    text, document = texts(booted())
    assert (
        "TDX module initialized 1.23 s after the start; the run took 45.68 s and ended by reboot."
        in flat(text)
    )
    assert (document["initialized_seconds"], document["seconds"]) == (1.234, 45.678)
    assert document["ended"] == "reboot"
    facts: tuple[dict[str, Any], ...] = (
        {"findings": ["leak: a page", "another"]},
        {"complaints": [Complaint("BUG", "it", ())]},
        {"initialized": None},
        {},
    )
    for changed in facts:
        text, document = texts(booted(**changed))
        assert document["clean"] is (not changed)
        assert ("\nClean: " in text) is (not changed)
        assert document["findings"] == changed.get("findings", [])
        assert all(f"FINDING: {finding}" in text for finding in document["findings"])


def test_stacks_and_complaints() -> None:
    frames = tuple(f"f{n}+0x{n}/0x9" for n in range(9))
    one = booted(
        stacks=["CPU 0: a < b"],
        complaints=[Complaint("WARNING", "x", frames)] * 1234 + [Complaint("BUG", "y", ())],
    )
    text, document = texts(one)
    assert "KERNEL SAYS: WARNING: x (1,234 times)" in text
    assert "KERNEL SAYS: BUG: y\n" in text
    assert [line for line in text.splitlines() if line.startswith("    f")] == [
        f"    {frame}" for frame in frames[:6]
    ]
    assert "\n  CPU 0: a < b\n" in text
    assert document["stacks"] == one.stacks
    assert len(document["complaints"]) == 1235
    assert document["complaints"][0] == {"kind": "WARNING", "text": "x", "stack": list(frames)}


def test_pamt_at_the_end() -> None:
    for dynamic, mode in ((True, "Dynamic"), (False, "static")):
        text, document = texts(booted(module=module(12, 3, dynamic)))
        assert f"The module at the end: {mode} PAMT, 12 page pairs, 3 TDs." in flat(text)
        assert (document["pairs"], document["tds"], document["dynamic_pamt"]) == (12, 3, dynamic)
    text, document = texts(booted())
    assert "The module at the end" not in text
    assert (document["pairs"], document["tds"], document["dynamic_pamt"]) == (None, None, None)


@pytest.mark.parametrize(("tds", "said"), [(0, ""), (1, "1 TD was"), (2, "2 TDs were")])
def test_tds_that_are_alive_at_the_end(tds: int, said: str) -> None:
    text = texts(booted(module=module(1, tds)))[0]
    assert ("alive when the machine restarted" in text) == bool(tds)
    assert f"{said} alive when the machine restarted." in text or not said
    assert "alive when" not in texts(booted(module=module(1, tds), ended="stopped"))[0]


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        (RefcountAudit("pamt_refcounts", "", 1234, 0),
         "refcounts audited at 1,234 quiet points: clean (pamt_refcounts)"),
        (RefcountAudit("pamt_refcounts", "", 1, 5),
         "refcounts audited at 1 quiet point: 5 contradictions, see below (pamt_refcounts)"),
        (RefcountAudit("", "no symbol", 0, 0), "refcounts NOT audited: no symbol"),
        (RefcountAudit(), "refcounts not audited: this kernel has no Dynamic PAMT of its own"),
    ],
)  # fmt: skip
def test_the_audit_of_the_counters(audit: RefcountAudit, said: str) -> None:
    text, document = texts(booted(module=module(0, 0), audit=audit))
    assert said in flat(text)
    assert document["refcount_audit"] == {
        "counters": audit.name or None,
        "not_found": audit.not_found or None,
        "quiet_points": audit.points,
        "contradictions": audit.wrong,
    }
    for other in (None, module(0, 0, dynamic=False)):
        assert "refcounts" not in texts(booted(module=other, audit=audit))[0]


def test_against_the_host() -> None:
    mine = Told((TdmrInfo(0, 1 << 30), TdmrInfo(1 << 30, 1 << 30)), 8236)
    text, document = texts(booted(), told=mine, host=mine)
    assert "2 TDMR_INFO structures equal byte for byte" in flat(text)
    assert "8236 KB allocated for PAMT by both" in flat(text)
    assert (document["pamt_kib"], document["differences_from_host"]) == (8236, [])
    other = Told((mine.tdmrs[0], TdmrInfo(1 << 30, 2 << 30)), 4100)
    text, document = texts(booted(), told=mine, host=other)
    assert "equal byte for byte" not in text
    assert document["differences_from_host"] == [
        "PAMT: the kernel allocated 8236 KB, dpamt 4100 KB",
        "TDMR 1: size 0x40000000 by the kernel, 0x80000000 by dpamt",
    ]
    assert all(line in flat(text) for line in document["differences_from_host"])
    for one, two in ((mine, None), (None, mine), (None, None)):
        text, document = texts(booted(), told=one, host=two)
        assert "memory map" not in text
        assert document["differences_from_host"] is None
        assert document["pamt_kib"] == (None if one is None else 8236)


def test_rules_and_core() -> None:
    one = booted(injected=[("TDH.SYS.INIT:busy", 17, 5)], held=[4, 9], core=(123_456 << 20, 98_765))
    text, document = texts(one)
    assert "injected TDH.SYS.INIT:busy: 5 of 17 calls" in text
    assert document["injected"] == [{"rule": "TDH.SYS.INIT:busy", "seen": 17, "hits": 5}]
    for rule, times in zip(HOLDS, (4, 9), strict=True):
        assert f"held {rule}: {times} times" in text
        assert {"rule": rule, "times": times} in document["held"]
    assert "core: 123,456 MiB of the guest's memory, after 98,765 SEAMCALLs" in flat(text)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ((0, 0), "gave back every PAMT page"),
        ((7, 1234), "did not give back 1,241 of its PAMT pages"),
    ],
)
def test_pages_that_a_failed_initialisation_kept(held: tuple[int, int], said: str) -> None:
    kept = [Kept(0x1000 * n, 2000, each) for n, each in enumerate(held)]
    one = booted(initialized=None, tdmr_infos=[b"x"], pamt_kept=kept)
    text, document = texts(one)
    assert f"The kernel {said} after that." in flat(text)
    assert [part["held"] for part in document["pamt_pages_kept"]] == list(held)
    assert all(set(part) == {"first", "pages", "held"} for part in document["pamt_pages_kept"])
    assert "after that" not in texts(booted(tdmr_infos=[b"x"], pamt_kept=kept))[0]


IN_C = (
    Point(0, "load", -1, 3, 1),
    Point(1, "TDH.PHYMEM.PAMT.ADD", TDH_PHYMEM_PAMT_ADD, "TDX_SUCCESS", 4),
    Point(0, "TDH.PHYMEM.PAMT.REMOVE", TDH_PHYMEM_PAMT_ADD + 1, "TDX_SUCCESS", 6),
)
AT_INSTRUCTIONS = (
    Point(0, "load", -1, 3, 162, 0xFFFFFFFF81001234, "tdx_pamt_get tdx.c:2112", "refs[0x5]", 3),
    Point(1, "add", -1, 4, 170, 0xFFFFFFFF81001250, "tdx_pamt_put tdx.c:2150", "refs[0x6]", 5),
    Point(1, "store", -1, None, 171, 0xFFFFFFFF81001250, "tdx_pamt_put tdx.c:2151", "refs[0x7]", 9),
    Point(0, "lock", -1, None, 175, 0xFFFFFFFF81001260, "tdx_pamt_put tdx.c:2152", "pamt_lock"),
)


def followed(points: tuple[Point, ...], done: list[Any], **more: Any) -> Followed:
    return Followed("v2", "bad-remove", "it is in use", 2, list(points), done, **more)


def test_a_counterexample_in_c() -> None:
    one = followed(IN_C, [3, "TDX_SUCCESS"], words=[None, None], departure="CPU 0 did less")
    text, document = texts(booted(followed=one))
    lines = section(text, "The counterexample in C")
    assert "bad-remove: it is in use; 2 CPUs, 3 steps, design v2." in flat("\n".join(lines))
    assert [cells(line) for line in lines if "CPU 1" in line] == [
        ["4", "CPU 1", "TDH.PHYMEM.PAMT.ADD", "TDX_SUCCESS"]
    ]
    assert not any("load" in line for line in lines)
    assert re.search("After 2 steps [a-z ]+: CPU 0 did less\\.", flat(text))
    assert "breakpoints" not in text
    replay = document["replay"]
    assert {key: replay[key] for key in ("design", "broken", "text", "same", "departure")} == {
        "design": "v2",
        "broken": "bad-remove",
        "text": "it is in use",
        "same": False,
        "departure": "CPU 0 did less",
    }
    assert [
        (step["cpu"], step["at"], step["what"], step["result"]) for step in replay["steps"]
    ] == [
        (0, 1, "load", 3),
        (1, 4, "TDH.PHYMEM.PAMT.ADD", "TDX_SUCCESS"),
    ]
    for key in ("address", "site", "word", "word_address", "before", "after"):
        assert replay["steps"][0][key] is None
    whole = followed(IN_C, [3, "TDX_SUCCESS", "TDX_SUCCESS"], words=[None] * 3)
    text, document = texts(booted(followed=whole))
    assert re.search("All 3 steps [a-z]+ in C as in", flat(text))
    assert document["replay"]["same"] is True
    assert "It ended after 1 of its steps." in flat(
        texts(booted(followed=followed(IN_C, [3], words=[None])))[0]
    )
    assert texts(booted())[1]["replay"] is None


def test_a_counterexample_at_instructions() -> None:
    words = [SeenWord(0x1000, 3, 3), SeenWord(0x2008, 4, -7), SeenWord(0x3010, 1, 9), None]
    one = followed(AT_INSTRUCTIONS, [3, 6, None, None], words=words)
    text, document = texts(booted(followed=one))
    lines = section(text, "The counterexample at the kernel's own instructions")
    said = flat("\n".join(lines))
    assert "3 breakpoints on single vCPUs" in said
    assert (
        "162 CPU 0 ffffffff81001234 tdx_pamt_get tdx.c:2112 refs[0x5].load(): 3, the same" in said
    )
    assert "refs[0x6].add(): 4 -> -7, the counterexample has 4 and 5" in said
    assert "refs[0x7].store(): 1 -> 9, the same" in said
    assert "pamt_lock.lock()" in said
    assert re.search("All 4 steps [a-z]+ on the vCPUs as in", said)
    assert max(map(len, lines)) <= 80
    steps = document["replay"]["steps"]
    for point, came, word, step in zip(AT_INSTRUCTIONS, one.done, words, steps, strict=True):
        assert step == {
            "cpu": point.cpu,
            "at": point.at,
            "what": point.what,
            "result": came,
            "expected": point.expected,
            "address": hex(point.address),
            "site": point.site,
            "word": point.word,
            "word_address": word and hex(word.address),
            "before": word and word.before,
            "after": word and word.after,
            "expected_after": point.after,
        }


def test_all_of_it_in_its_order() -> None:
    one = booted(module=module(1, 1), followed=followed(IN_C, [3], words=[None]))
    told = Told((), 1)
    text = boot_text(OPTIONS, one, told, told, True, "What has no effect.", "KVM\n---\nits part\n")
    titles = re.findall(r"^(.*)\n(-+)$", text, re.M)
    patterns: tuple[str, ...] = (
        "^Kernel$",
        CHANGED,
        "the kernel said of TDX$",
        "^SEAMCALLs$",
        "the same memory map$",
    )
    patterns += ("^The counterexample in C$", "^KVM$", "^Bottom line$", "^Console$")
    for (title, _), pattern in zip(titles, patterns, strict=True):
        assert re.search(pattern, title)
    assert all(len(title) == len(rule) for title, rule in titles)
    assert "What has no effect." in section(text, "Kernel")[2]
    flush = {*(title for title, _ in titles), *(rule for _, rule in titles), "its part", ""}
    flush.update(one.console)
    others = [line for line in text.split("\n") if line not in flush and line[:2] != "  "]
    beginnings: tuple[str, ...] = (
        "The module at the end:",
        "held ",
        "held ",
        "TDX module initialized 1.23 s",
    )
    beginnings += ("reboot.", "1 TD was alive", "Clean: ")
    assert all(line.startswith(begins) for line, begins in zip(others, beginnings, strict=True))
    plain = boot_text(OPTIONS, one, None, None, False)
    assert section(plain, "Kernel")[2:] == section(text, "Kernel")[3:]


def test_a_trace_has_a_slice_for_each_call() -> None:
    """Times in microseconds, as the trace-event format has them; registers that say something."""
    before = (7, 0, 5, *[0] * (len(REGISTER_NAMES) - 3))
    after = (7, 0, 6, *before[3:])
    answers = (TDX_SUCCESS, TDX_OPERAND_BUSY)
    calls = [
        Call(
            n, n, n / 8, n / 8 + 2e-6 * n, "s", f"caller{n}", TDH_PHYMEM_PAMT_ADD, before, s, after
        )
        for n, s in enumerate(answers, start=1)
    ]
    document = json.loads(calls_trace(calls, 3))
    assert document["displayTimeUnit"] == "ms"
    events = document["traceEvents"]
    (process,) = [event for event in events if event["name"] == "process_name"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == {1: "CPU0", 2: "CPU1", 3: "CPU2"}
    assert {event["ph"] for event in events} == {"M", "X"}
    assert {event["pid"] for event in events} == {process["pid"]}
    assert isinstance(process["pid"], int)
    assert process["args"]["name"] == "SEAMCALLs"
    slices = [event for event in events if event["ph"] == "X"]
    for call, one in zip(calls, slices, strict=True):
        assert tracks[one["tid"]] == f"CPU{call.cpu}"
        assert one["ts"] == pytest.approx(call.asked * 1e6, abs=0.06)
        assert one["dur"] == pytest.approx((call.answered - call.asked) * 1e6, abs=0.06)
        assert one["name"] == "TDH.PHYMEM.PAMT.ADD"
        args = dict(one["args"])
        assert args.pop("caller") == call.caller
        assert args.pop("status") == ("TDX_OPERAND_BUSY" if call.status else "TDX_SUCCESS")
        assert sorted(args.values()) == sorted([hex(call.before[0]), "0x5 -> 0x6"])
