"""The checks: their files read, and held against what a VMM and a module say."""

from collections.abc import Mapping

import pytest

from dpamt.boot.kvm import guest
from dpamt.boot.kvm.selftests import NAMES, load_checks
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.told import VmmTold, read_vmm


def stocks(counts: Mapping[int, Mapping[str, int]], phases: int) -> list[PhaseStock]:
    """Phases that have what is due, and nothing else."""
    fields = ("pairs", "tds", "guest_pages", "sept_pages", "control_pages")
    return [
        PhaseStock(f"p{n}", {}, **{name: counts.get(n, {}).get(name, 0) for name in fields})
        for n in range(phases)
    ]


def test_every_file_is_read_and_uses_its_tds_in_their_order() -> None:
    checks = load_checks()
    assert [check.name for check in checks.checks] == list(NAMES)
    lines = checks.script.text.splitlines()
    phases = [line for line in lines if line.startswith("phase ")]
    assert phases == [f"phase {n}" for n in range(1, len(checks.script.phases) + 1)]
    for td in range(len(checks.script.tds)):
        verbs = [line.split()[0] for line in lines if line.split()[1:2] == [str(td)]]
        assert verbs[:1] == ["td"] or "phase" in verbs
        assert verbs.count("build") == 1
    assert len(checks.script.tds) <= 32
    for check in checks.checks:
        assert check.title
        assert check.stocks
        last = check.stocks[max(check.stocks)]
        assert (last["tds"], last["guest_pages"], last["pairs"]) == (0, 0, 0)


def test_words_of_a_call() -> None:
    (line,) = [
        one
        for one in load_checks(("devices",)).script.text.splitlines()
        if one.startswith("words 0 0 ")
    ]
    words = [int(one) for one in line.split()[3:]]
    assert words[:5] == [
        guest.word(guest.REGISTER, 1, 12),
        guest.word(guest.REGISTER, 1, 13),
        guest.word(guest.REGISTER, 0x50, 14),
        guest.word(guest.REGISTER, 0x11, 15),
        guest.word(guest.CALL, 30),
    ]
    assert guest.word(guest.EXPECT, 0, 1) in words
    assert guest.word(guest.RETURNS, 0x88, 0) in words
    assert guest.word(guest.REGISTER, 1 << 35 | 0x40000000, 14) in words


@pytest.mark.parametrize("name", NAMES)
def test_a_count_that_is_not_there_is_told(name: str) -> None:
    checks = load_checks((name,))
    (check,) = checks.checks
    told = VmmTold()
    for (td, vcpu), wanted in check.exits.items():
        lines = [line for sentence in wanted for line in said(td, vcpu, sentence)]
        told.saw.update(read_vmm(lines, checks.script.tds).saw)
    phases = stocks(check.stocks, len(checks.script.phases))
    assert checks.wrong(told, phases) == {name: []}
    index, due = next((i, due) for i, due in check.stocks.items() if "guest_pages" in due)
    changed = stocks({**check.stocks, index: {**due, "guest_pages": 99}}, len(phases))
    ((wrong,),) = checks.wrong(told, changed).values()
    assert f"99 guest pages, where {due['guest_pages']} are due" in wrong
    assert checks.wrong(told, phases[:-1])[name] == [f"{name}: the run did not come to its end"]


def said(td: int, vcpu: int, sentence: str) -> list[str]:
    """The VMM's line for an exit."""
    name, *rest = sentence.split()
    kinds = {"IO": 2, "MAP_GPA": 3, "MMIO": 6, "SHUTDOWN": 8, "SYSTEM_EVENT": 24}
    kinds |= {"MEMORY_FAULT": 39, "TDX": 40}
    carried: list[str] = []
    if name in ("IO", "MMIO"):
        value = rest[5] if len(rest) > 5 else "0x0"
        carried = [hex(rest[0] in ("out", "write")), rest[1], hex(int(rest[3])), value]
    elif name == "MAP_GPA":
        carried = [rest[0], hex(int(rest[2])), hex(16 * (rest[3] == "private"))]
    elif name == "SYSTEM_EVENT":
        carried = [hex(int(rest[0])), "0x10", rest[1]]
    elif name == "MEMORY_FAULT":
        carried = [hex(8 * (rest[1] == "private")), rest[0], "0x1000"]
    return [" ".join([f"dpamt: td {td} vcpu {vcpu} saw {kinds[name]}", *carried])]


@pytest.mark.parametrize(
    ("saw", "told"),
    [
        ([], "exit 1: no exit, where SYSTEM_EVENT 7 0xabc is due"),
        (["SYSTEM_EVENT 7 0xabd"], "exit 1: SYSTEM_EVENT 7 0xabd, where SYSTEM_EVENT 7 0xabc"),
        (["SYSTEM_EVENT 7 0xabc", "SHUTDOWN"], "exit 2: SHUTDOWN, where no exit is due"),
    ],
)
def test_an_exit_that_did_not_come_is_told(saw: list[str], told: str) -> None:
    checks = load_checks(("life-and-death",))
    (check,) = checks.checks
    lines = [line for sentence in saw for line in said(1, 0, sentence)]
    lines += said(2, 0, "SHUTDOWN")
    phases = stocks(check.stocks, len(checks.script.phases))
    ((wrong,),) = checks.wrong(read_vmm(lines, checks.script.tds), phases).values()
    assert told in wrong
