"""The first screen: what is said of a host, and that no line below says otherwise."""

import pytest
from hypothesis import given, settings

from dpamt.errors import InputError
from dpamt.plan.answer import EXIT_CODES
from dpamt.plan.mix import TdMix, parse_mix
from dpamt.plan.plan import plan_host
from dpamt.platform.machine import Machine
from dpamt.platform.read_machine import machine_from_text
from dpamt.report.plan_answer import headline
from dpamt.report.plan_text import plan_text

from .hosts import hosts, mixes


@pytest.mark.parametrize(
    ("host", "tds", "kind", "said"),
    [
        ("64GiB", "4x8GiB/4vcpu", "saves", "saves 125.1 MiB with these TDs"),
        ("host-1tib", "31x32GiB/16vcpu", "marginal", "next to nothing"),
        ("2TiB", "40x32GiB/8vcpu", "does-not-fit", "40 TDs on 31 guest KeyIDs"),
        ("16TiB", "8x1900GiB/128vcpu", "marginal", "next to nothing"),
        ("64GiB", "5x16GiB", "does-not-fit", "of memory in either mode"),
        ("reserved-areas", "4x32GiB", "failed-in-its-log", "more reserved areas"),
        ("module-too-old", "4x32GiB", "failed-in-its-log", "TDX module 1.0 does not know"),
    ],
)
def test_hosts_that_people_have(host: str, tds: str, kind: str, said: str) -> None:
    plan = plan_host(host, [parse_mix(tds)])
    assert plan.answer.kind == kind
    assert said in headline(plan).sentence
    first = " ".join(" ".join(plan_text([plan]).splitlines()[:10]).split())
    assert headline(plan).sentence in first
    assert headline(plan).todo[:40] in first


def test_today_and_tomorrow_are_told_whatever_was_asked_for() -> None:
    """A share of 2M that no merged kernel gives does not change what is said of today."""
    plain, large = (plan_host("1TiB", [parse_mix(f"20x16GiB/4vcpu{s}")]) for s in ("", "@2M=90%"))
    assert plain.today == large.today
    assert plain.tomorrow == large.tomorrow
    assert plain.answer.today == large.answer.today
    assert plain.answer.tomorrow.share_assumed
    assert not large.answer.tomorrow.share_assumed
    assert "(assumed)" in plan_text([plain])
    assert "2M (assumed)" not in plan_text([large])


@settings(max_examples=60, deadline=None)
@given(hosts(), mixes())
def test_the_headline_contradicts_nothing(host: Machine, kinds: list[TdMix]) -> None:
    """Its kind, its exit code and the figures below it say the same."""
    plan = plan_host(host, kinds)
    told, now = plan.answer, plan.today
    assert now is not None
    assert told.exit_code == EXIT_CODES[told.kind] == int(plan.found)
    up = [verdict.initialises for verdict in plan.host.vintages if verdict.vintage in
          ("linux-7.3.4", "merged")]  # fmt: skip
    if not any(up):
        assert told.kind in ("does-not-come-up", "needs-a-patch")
        assert "does not come up" in headline(plan).sentence
        return
    assert (told.kind == "does-not-fit") == (not now.fits)
    if told.kind in ("saves", "costs"):
        assert (told.today.saved > 0) == (told.kind == "saves")
        assert told.today.saved == plan.host.static.total - now.dynamic.fresh
    if told.kind == "saves":
        assert "costs" not in headline(plan).sentence


def test_2m_pages_on_a_host_without_a_whole_2m_region_are_refused() -> None:
    text = "".join(
        f"BIOS-e820: [mem {base:#018x}-{base + (1 << 20) - 1:#018x}] usable\n"
        for base in range(1 << 20, 60 << 20, 2 << 20)
    )
    machine = machine_from_text(text, "fragments")
    with pytest.raises(InputError, match="no 2M region that is memory from end to end"):
        plan_host(machine, [parse_mix("1x2MiB@2M=100%")])
    plan = plan_host(machine, [parse_mix("1x2MiB")])
    assert plan.host.whole_regions == 0
    assert plan.host.capacities == ((256, len(text.splitlines())),)


def test_more_cmrs_than_can_be_are_dpamt_s_own_guess() -> None:
    text = "".join(
        f"BIOS-e820: [mem {base:#018x}-{base + (64 << 20) - 1:#018x}] usable\n"
        for base in range(1 << 30, 41 << 30, 1 << 30)
    )
    with pytest.raises(InputError, match="40 CMRs, which dpamt derived from the memory map"):
        machine_from_text(text, "islands")


def test_the_log_is_believed_against_the_model() -> None:
    """CMRs alone look harmless; the log says that areas ran out."""
    log = (
        "virt/tdx: CMR: [0x100000, 0x6f800000)\nvirt/tdx: CMR: [0x100000000, 0x107a000000)\n"
        "virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.\n"
    )
    plan = plan_host(machine_from_text(log, "log"))
    assert plan.host.verdict("merged").initialises
    assert plan.answer.kind == "failed-in-its-log"
    assert plan.found
    text = " ".join(plan_text([plan]).split())
    assert "TDX comes up here" not in text
    assert "it does not show what failed" in text


MAP = "BIOS-e820: [mem 0x0000000000100000-0x000000103fffffff] usable\n"


@pytest.mark.parametrize(
    "processor",
    [
        "AMD EPYC 9654 96-Core Processor (family: 0x19, model: 0x11, stepping: 0x1)",
        "AMD EPYC (family: 0x1a, model: 0x2, stepping: 0x1)",
        "Hygon C86 7285 32-core Processor (family: 0x18, model: 0x1, stepping: 0x1)",
    ],
)
def test_a_processor_that_is_not_intels(processor: str) -> None:
    """Any machine's dmesg has a memory map that TDX could live on."""
    log = f"[    0.000000] {MAP}[    0.259513] smpboot: CPU0: {processor}\n"
    plan = plan_host(machine_from_text(log, "log"))
    assert (plan.answer.kind, plan.found) == ("failed-in-its-log", True)
    said = " ".join(plan_text([plan]).split())
    assert (
        "TDX did not come up on this host: the processor is not one of Intel's, and TDX is "
        "(line 2 of its log)." in said
    )


@pytest.mark.parametrize("processor", ["Intel(R) Xeon(R) Platinum 8592+", "Genuine Intel(R) 0000"])
def test_a_log_without_tdx_is_no_success(processor: str) -> None:
    log = (
        f"[    0.000000] {MAP}[    0.25] smpboot: CPU0: {processor} (family: 0x6, model: 0xcf, "
        "stepping: 0x2)\n"
    )
    plan = plan_host(machine_from_text(log, "log"))
    assert headline(plan).sentence.startswith(
        "TDX can come up here, by the memory map; the log does not say that it did; while no TD"
    )
    size = plan_host(machine_from_text(MAP, "e820"))  # not a log: nothing could be said in it
    assert headline(size).sentence.startswith("TDX comes up here; ")


def lines_of(*logs: str) -> list[str]:
    plans = [plan_host(machine_from_text(log, f"log{at}")) for at, log in enumerate(logs)]
    return plan_text(plans).splitlines()


AMD = f"[    0.000000] {MAP}[    0.259513] smpboot: CPU0: AMD EPYC 9654 (family: 0x19, model: 0)\n"
OLD = (
    f"{MAP}virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, "
    "minor_version 0, build_date 20220101, build_num 1\n"
    "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000\n"
    "virt/tdx: module initialization failed (-5)\n"
)


def test_no_sizes_for_when_it_comes_up_where_it_cannot() -> None:
    said = lines_of(AMD)
    assert not any("when it comes up" in line for line in said)
    assert "Sizes of another machine, with TDX and with this memory map:" in said
    assert "  line 2: smpboot: CPU0: AMD EPYC 9654 (family: 0x19, model: 0)" in said
    assert "Sizes for when it comes up:" in lines_of(OLD)


def test_hosts_on_which_tdx_is_not_up_are_no_silent_part_of_the_sum() -> None:
    up = "virt/tdx: TDX-Module initialized\n" + MAP
    said = lines_of(up, AMD, OLD)
    alone = lines_of(up, OLD)
    total = [line for line in said if line.startswith("  Together: ")]
    assert total == [line for line in alone if line.startswith("  Together: ")]
    assert len(total) == 1
    assert "  Not counted, for TDX cannot come up there: log1." in said
    assert any(line.startswith("  TDX is not up on log2: ") for line in said)
    assert not any("not up on" in line or "Not counted" in line for line in lines_of(up, up))
    assert not any(line.startswith("  Together: ") for line in lines_of(AMD, AMD))


def test_a_line_that_two_causes_know_is_shown_once() -> None:
    said = lines_of(OLD)
    assert sum("SEAMCALL (0x0000000000000022) failed" in line for line in said) == 1


@pytest.mark.parametrize("tds", [[], ["1x4GiB"]])
def test_a_host_that_has_dynamic_pamt_on_is_not_told_to_take_it(tds: list[str]) -> None:
    log = f"virt/tdx: Enable Dynamic PAMT\n{MAP}virt/tdx: TDX-Module initialized\n"
    mixes = [parse_mix(td) for td in tds]
    on = headline(plan_host(machine_from_text(log, "on"), mixes)).todo
    off = headline(plan_host(machine_from_text(log.partition("\n")[2], "off"), mixes)).todo
    assert "this host has Dynamic PAMT on, by its own log" in on
    assert "se Dynamic PAMT" not in on
    assert "se Dynamic PAMT" in off
    failed = (
        f"virt/tdx: Enable Dynamic PAMT\n{MAP}virt/tdx: TDX-Module initialization failed (-5)\n"
    )
    assert "has Dynamic PAMT on" not in plan_text([plan_host(machine_from_text(failed, "x"))])


def test_cells_of_the_first_screen_do_not_touch() -> None:
    """The longest thing that a host can be short of is wider than its column."""
    plan = plan_host("64GiB", [parse_mix("40x16GiB")])
    lines = plan_text([plan]).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  TDs fit"))
    rows = lines[at : at + 3]
    assert [row[36:58].strip() for row in rows] == ["no: KeyIDs", "memory", ""]
    assert [row[58:].strip() for row in rows] == ["no: KeyIDs", "memory", "2M regions"]
    assert all(row[58:60] in ("  ", "") for row in rows)


def test_what_a_host_would_have_is_not_called_its_own() -> None:
    """Its module has no Dynamic PAMT, and the table has what that would save."""
    said = lines_of(f"virt/tdx: Module version: 1.5.24\n{MAP}virt/tdx: TDX-Module initialized\n")
    at = said.index("Sizes for when it has Dynamic PAMT:")
    assert "static" in said[at + 1]
    assert any("has no Dynamic" in line for line in said[:at])
