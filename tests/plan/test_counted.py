"""A kernel's counters beside the plan of its host."""

import json
from pathlib import Path

import pytest

from dpamt.plan.counted import in_use_now
from dpamt.plan.plan import plan_host
from dpamt.trace.judge.counts import Counters
from tests.cli.command import dpamt, refused

HOST = plan_host("4GiB").host
TDMRS = tuple((one.end - one.base, one.level_1g, one.level_2m, one.bitmap) for one in HOST.tdmrs)


def test_what_the_plan_says_is_what_the_kernel_has() -> None:
    now = in_use_now(Counters({2049: 5, 2052: 63}, TDMRS), HOST)
    assert now.differences == ()
    assert (now.pairs, now.pages, now.pair_bytes, now.packed) == (2, 68, 16 << 10, 1)
    assert now.all == sum(one.dynamic for one in HOST.tdmrs) + (16 << 10)


@pytest.mark.parametrize(
    ("counters", "why"),
    [
        (Counters({}, ()), "no TDMRs"),
        (Counters({}, TDMRS[:1]), "another host, or other memory"),
        (Counters({}, tuple((*one[:3], one[3] + 4096) for one in TDMRS)), "KiB of PAMT"),
        (Counters({1: -1, 2: 513, 3: 512}, TDMRS), "2 counters are below 0 or above 512"),
    ],
)
def test_what_differs_is_told(counters: Counters, why: str) -> None:
    (difference,) = in_use_now(counters, HOST).differences
    assert why in difference


def test_the_command(tmp_path: Path) -> None:
    keys = ("size", "pamt_1g_size", "pamt_2m_size", "pamt_4k_or_bitmap_size")
    tdmrs = [dict(zip(keys, one, strict=True)) for one in TDMRS]
    file = tmp_path / "counts.json"
    file.write_text(json.dumps({"dpamt_counts": 1, "regions": [[2049, 5]], "tdmrs": tdmrs}))
    words = ("plan", "4GiB", "--counts", str(file))
    ended = dpamt(*words)
    assert ended.code == 0
    assert ended.out.startswith("In use now, by the kernel's counters in")
    assert "1 page pair " in ended.out
    document = json.loads(dpamt(*words, "--json").out)
    assert document["hosts"][0]["in_use_now"]["pair_bytes"] == 8192
    other = dpamt("plan", "8GiB", "--counts", str(file))
    assert other.code == 1
    assert "DIFFERS from the plan" in " ".join(other.out.split())
    assert "those of one host" in refused("plan", "4GiB", "8GiB", "--counts", str(file))
    said = refused("plan", "4GiB", "--counts", "README.md")
    assert "expected what the script of dpamt trace --how drgn prints" in said
