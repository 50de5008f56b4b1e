"""Figures that others have given, and what real hosts printed."""

import pytest

from dpamt.host.core.refcounts import refcount_pages
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import plan_host
from dpamt.platform.read_machine import machine_from_text

GIB = 1 << 30
MIB = 1 << 20


def whole(size: int) -> str:
    """An e820 text of that much memory in one piece from address 0."""
    return f"BIOS-e820: [mem 0x0000000000000000-{size - 1:#018x}] usable\n"


@pytest.mark.parametrize(
    ("gib", "static", "dynamic", "at_max_pa", "times"),
    [(256, 1.02, 0.01, 8.01, 100), (2048, 8.19, 0.08, 8.08, 99)],
)
def test_the_table_of_the_v6_cover(
    gib: int, static: float, dynamic: float, at_max_pa: float, times: float
) -> None:
    """`[PATCH v6 00/11] Dynamic PAMT` (2026-05-25).

    Its static figures are 0.4 % of RAM, where 4104 KB a GiB is 0.391 %; hence the tolerance there.
    """
    host = plan_host(machine_from_text(whole(gib * GIB), "cover")).host
    assert host.static.total / GIB == pytest.approx(static, rel=0.025)
    assert round(host.dynamic.total / GIB, 2) == dynamic
    assert host.static.total / host.dynamic.total == pytest.approx(times, rel=0.025)
    top = host.tops[-1]
    assert top.max_pfn << 12 == 1 << 52
    assert top.refcounts == 8 * GIB
    assert round(top.total / GIB, 2) == at_max_pa
    assert round(top.total / host.static.total) == round(at_max_pa / static)


def test_a_sparse_map_of_one_s_own_loses() -> None:
    """256 GiB and one MiB far up: what the cover calls about 8 times worse, at 2^46 an eighth."""
    far = (1 << 46) - MIB
    text = whole(4 * GIB) + f"BIOS-e820: [mem {far:#018x}-{far + MIB - 1:#018x}] usable\n"
    plan = plan_host(machine_from_text(text, "sparse"))
    assert plan.host.dynamic.refcounts == 128 * MIB
    assert plan.host.dynamic.total > 6 * plan.host.static.total
    assert plan.break_even.pairs < 0
    assert (plan.break_even.packed, plan.answer.kind) == (0.0, "costs")
    assert plan.found
    sparse = plan.host.verdict("v2")  # counters only where memory is
    assert sparse.refcount_bytes < MIB


def test_two_mib_of_refcounts_a_tib() -> None:
    assert refcount_pages((1 << 40) >> 12) << 12 == 2 * MIB


@pytest.mark.parametrize(("gib", "told"), [(704, 3), (4096, 16)])
def test_a_guest_that_is_all_private_at_4k(gib: int, told: int) -> None:
    """V. Annapurve, 2025-09-10: about 3 GB for 704 GB, about 16 GB for 4096 GB."""
    plan = plan_host("8TiB", [parse_mix(f"{gib}GiB/8vcpu")])
    assert plan.mix is not None
    assert plan.mix.pairs.minimum * 8192 / GIB == pytest.approx(told, rel=0.1)
    assert plan.mix.pairs.fresh * 8192 / GIB == pytest.approx(told, rel=0.1)


def test_a_guest_with_4k_pages_only_where_memory_is_shared() -> None:
    """V. Annapurve, 2025-09-10: about 5 MB for 704 GB; Linux guests share at most 1 GiB."""
    plan = plan_host("1TiB", [parse_mix(f"704GiB/8vcpu@2M={100 * 703 / 704:.4f}%")])
    assert plan.mix is not None
    assert plan.mix.pairs.minimum * 8192 < 5 * MIB < plan.mix.pairs.worst * 8192
    assert plan.mix.pairs.fresh * 8192 == pytest.approx(5 * MIB, rel=0.25)


def test_the_documented_log_lines() -> None:
    """262668 KB static: 64 GB in 3 TDMRs; 10092 KB dynamic: 252 GB in 3 TDMRs."""
    for gib, mode, kib in ((64, "static", 262668), (252, "dynamic", 10092)):
        third = gib // 3 * GIB
        parts = [
            (0, third),
            (third + 8 * GIB, third),
            (2 * third + 99 * GIB, gib * GIB - 2 * third),
        ]
        text = "".join(
            f"BIOS-e820: [mem {start:#018x}-{start + size - 1:#018x}] usable\n"
            for start, size in parts
        )
        host = plan_host(machine_from_text(text, "documented")).host
        assert len(host.tdmrs) == 3
        assert getattr(host, mode).boot >> 10 == kib


def test_a_real_host_s_log_line_comes_out() -> None:
    host = plan_host("host-1tib").host
    assert (host.recorded_pamt_kib, host.static.boot >> 10) == (4202516, 4202516)
    assert host.recorded_is == "static"


def test_the_map_on_which_linux_ran_out_of_reserved_areas() -> None:
    plan = plan_host("reserved-areas")
    plain, patched = plan.host.verdict("linux-7.3.4"), plan.host.verdict("linux-7.3.4+cmr-holes")
    assert not plain.initialises
    assert (plain.reserved_used, plain.reserved_max) == (17, 16)
    assert "TDMR [0x0, 0x80000000): reserved areas exhausted" in plain.reason
    assert patched.initialises
    assert (patched.reserved_used or 0) <= patched.reserved_max
    assert plan.host.verdict("merged").initialises is False
    assert plan.host.static.boot >> 10 == patched.pamt_kib


def test_break_even_is_where_both_cost_the_same() -> None:
    plan = plan_host("1TiB")
    host, point = plan.host, plan.break_even
    assert abs(host.dynamic.total + point.pairs * 8192 - host.static.total) < 8192
    assert point.packed is not None
    below, above = (
        next(at for at in point.curve if at.share >= share) for share in (0.9, point.packed)
    )
    assert below.packed < host.static.total <= above.packed
