"""What a boot says that the module has, beside what `dpamt run` says of the same module.

TDs are built by the host of `dpamt run`, which counts for itself.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from dpamt.abi.leaves import LEAF_NAMES, TDH_MEM_PAGE_AUG, TDH_MNG_CREATE, TDH_PHYMEM_PAMT_ADD
from dpamt.abi.pages import PT_PAMT
from dpamt.abi.status import (
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_SUCCESS,
)
from dpamt.boot.exerciser import Told
from dpamt.boot.judge import wrong_answers, wrong_at_rest
from dpamt.boot.kvm.compare import compare
from dpamt.boot.kvm.freed import FreedPages
from dpamt.boot.kvm.judge import left_over
from dpamt.boot.kvm.stock import PhaseStock, Stocks
from dpamt.boot.outcome import Booted
from dpamt.platform.size import machine_from_size
from dpamt.run.facts import Snapshot
from dpamt.run.scenario import Side, TdGroup, scenario_from_text
from dpamt.run.story import run_on
from dpamt.run.td import Td
from dpamt.run.world import World

MEMORY = 8 << 20
FIELDS = ("tds", "guest_pages", "sept_pages", "control_pages", "pairs")


@contextmanager
def world(dynamic: bool, tds: int = 2) -> Iterator[tuple[World, Snapshot, list[Td]]]:
    """A host with TDs in use, and what it counts."""
    scenario = scenario_from_text('title = "x"\n[host]\nmachine = "x"\n', "x")
    mode, design = ("dynamic", "merged") if dynamic else ("static", "static")
    made = World(scenario, Side(mode, mode, design), machine_from_size("1GiB"))  # type: ignore[arg-type]
    made.boot()
    made.snapshot()
    group = TdGroup("vm", 1, MEMORY, 2, 0.0, 0.5, 1 << 20)
    alive = []
    for number in range(tds):
        td = Td(made, group, number, str(number))
        td.build()
        td.fault(0.5, lambda _: None)
        alive.append(td)
    made.tds_alive = tds
    yield made, made.snapshot(), alive


def booted(made: World) -> Booted:
    return Booted([], [], module=made.module, counts=Counter({(TDH_MNG_CREATE, 0): 7}))


@pytest.mark.parametrize("dynamic", [True, False])
def test_stock_is_what_the_host_counts(dynamic: bool) -> None:
    with world(dynamic) as (made, seen, _):
        stock = Stocks(("boot", "first")).take(2, booted(made), 5)
        wanted = (seen.tds.alive, seen.tds.guest_4k, seen.tds.sept, seen.tds.control, seen.pairs)
        assert tuple(getattr(stock, field) for field in FIELDS) == wanted
        assert (stock.name, stock.freed_pages) == ("first", 5)
        assert stock.tds == 2
        assert stock.pages == seen.tds.guest_4k + seen.tds.sept + seen.tds.control > 2048
        assert bool(stock.pairs) == dynamic


def test_a_phase_has_the_calls_since_the_one_before() -> None:
    stocks = Stocks(("boot", "first"))
    one = Booted([], [])
    key, other = (TDH_MNG_CREATE, TDX_SUCCESS), (TDH_MEM_PAGE_AUG, TDX_OPERAND_BUSY)
    one.counts.update({key: 5})
    assert stocks.take(1, one) == PhaseStock("boot", {key: 5}, 0, 0, 0, 0, 0)
    one.counts.update({key: 2, other: 3})
    assert stocks.take(2, one).seamcalls == {key: 2, other: 3}
    assert stocks.take(3, one) == PhaseStock("phase 3", {}, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("dynamic", [True, False])
def test_pages_that_the_module_has(dynamic: bool) -> None:
    with world(dynamic) as (made, seen, _):
        nobody: Any = None
        held = FreedPages(nobody, nobody).held(made.module)
        pairs = sum(kind == PT_PAMT for kind in held.values())
        assert pairs == (2 * seen.pairs if dynamic else 0)
        pages = seen.tds.guest_4k + seen.tds.sept + seen.tds.control
        assert len(held) == pages + pairs


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_is_left_at_the_end(dynamic: bool) -> None:
    with world(dynamic) as (made, seen, alive):
        (leak,) = left_over(made.module)
        pages = Counter(re_kinds(leak))
        assert leak.startswith("leak: 2 TDs alive when the machine restarted; not given back: ")
        assert pages["guest"] == seen.tds.guest_4k
        assert pages["S-EPT"] == seen.tds.sept
        assert pages["TDR"] == 2
        assert pages["TDR"] + pages["TDCX"] + pages["TDVPR"] == seen.tds.control
        assert (f", {seen.pairs} page pairs" in leak) == dynamic
        told = Told(counted=9)
        rest = wrong_at_rest(made.module, told)
        assert rest[0] == "leak: 2 TDs are left"
        assert (f"leak: {seen.pairs} page pairs are left and no TD uses them" in rest) == dynamic
        assert rest[-1] == "at-rest: the refcounts sum up to 9, and nobody uses a page"
        alive[1].destroy()
        assert left_over(made.module)[0].startswith("leak: 1 TD alive when")
        alive[0].destroy()
        assert left_over(made.module) == []
        assert wrong_at_rest(made.module, Told(counted=0)) == []
        assert wrong_at_rest(made.module, Told()) == []


def re_kinds(leak: str) -> dict[str, int]:
    """Pages by kind, as the sentence has them."""
    listed = leak.partition("not given back: ")[2].partition(" pages (")[0]
    parts = [part.split(" ") for part in listed.split(", ")]
    return {kind: int(count.replace(",", "")) for count, kind in parts}


def test_answers_that_a_correct_host_never_sees() -> None:
    counts = Counter({
        (TDH_MEM_PAGE_AUG, TDX_MISSING_PAMT_PAGE_PAIR | 3): 1_000,
        (TDH_MEM_PAGE_AUG, TDX_MISSING_PAMT_PAGE_PAIR | 4): 234,
        (TDH_MEM_PAGE_AUG, TDX_HPA_RANGE_NOT_FREE): 5,  # of PAMT.ADD alone
        (TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE): 6,
        (TDH_PHYMEM_PAMT_ADD, TDX_SUCCESS): 7,
        (TDH_PHYMEM_PAMT_ADD, TDX_OPERAND_BUSY): 8,
    })  # fmt: skip
    assert wrong_answers(counts) == [
        "double-add: TDH.PHYMEM.PAMT.ADD answered TDX_HPA_RANGE_NOT_FREE 6 times",
        "missing-pair: TDH.MEM.PAGE.AUG answered TDX_MISSING_PAMT_PAGE_PAIR 1,234 times",
    ]


SCENARIO = """
title = "two that come and go"
[host]
machine = "1GiB"
fragmentation = 0.5
[[td]]
name = "one"
memory = "4MiB"
vcpus = 2
image = "1MiB"
share_2m = 0.5
[[phase]]
name = "up"
steps = [{ do = "build" }, { do = "fault" }]
"""
NUMBERS = {name: leaf for leaf, name in LEAF_NAMES.items()}


def phases() -> tuple[Any, Any, list[PhaseStock]]:
    """A scenario, its machine, and what a kernel does that is the model's twin."""
    scenario, machine = scenario_from_text(SCENARIO, "x"), machine_from_size("1GiB")
    plain = replace(
        scenario,
        host=replace(scenario.host, fragmentation=0.0),
        sides=(Side("dynamic", "dynamic", "merged"),),
        tds=tuple(replace(group, share_2m=0.0) for group in scenario.tds),
    )
    facts = run_on(plain, machine)
    stocks = []
    for phase, seen in zip(facts.phases, facts.sides[0].snapshots, strict=True):
        calls = {(NUMBERS[row.leaf], 0): row.count for row in seen.seamcalls
                 if row.status == "TDX_SUCCESS"}  # fmt: skip
        tds = seen.tds
        counts = (seen.pairs, tds.alive, tds.guest_4k, tds.sept, tds.control)
        stocks.append(PhaseStock(phase.name, calls, *counts))
    return scenario, machine, stocks


def test_a_kernel_is_compared_row_by_row() -> None:
    scenario, machine, stocks = phases()
    same = compare(scenario, machine, "2.0.18", True, stocks)
    assert same.design == "merged"
    rows = sum(len(stock.seamcalls) + 5 for stock in stocks)
    assert same.counts >= rows
    # How guests left is not in what this kernel has counted.
    assert {one.what.split()[0] for one in same.different} == {"TDH.VP.ENTER"}
    up = stocks[1]
    spoilt = replace(up, sept_pages=up.sept_pages + 1)
    found = compare(scenario, machine, "2.0.18", True, [stocks[0], spoilt, *stocks[2:]])
    (row,) = [one for one in found.different if one not in same.different]
    assert (row.phase, row.what) == ("up", "S-EPT pages")
    assert (row.model, row.kernel) == (up.sept_pages, up.sept_pages + 1)
    assert not row.because
    assert any("up: S-EPT pages: " in text and "no line of the kernel" in text
               for text in found.findings())  # fmt: skip


def test_a_static_kernel_is_compared_with_a_static_model() -> None:
    scenario, machine, stocks = phases()
    assert compare(scenario, machine, "2.0.18", False, stocks).design == "static"
