"""Ageing against a plain loop and SimPy on the same work, and pages to regions against bincount.

    python -m benchmarks.bench_ageing [--json] [--rounds N]

Then weeks without 2M pages, in compiled code, against the same weeks with 90 % at 2M.

The work of the first: TDs with 2M folios on a host whose memory is fragmented come, take all their
memory, give ranges back and take them again, and go; all three arrive at the same count in every
region, which is checked.  Seconds are of processor time, medians over rounds that take turns.
"""

import argparse
import gc
import json
from os import times
from random import Random
from statistics import median
from time import process_time

import numpy as np

from benchmarks.plain_ageing import PlainHost, Step, run_loop, run_simpy
from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.cli.main import COLLECT_AFTER
from dpamt.plan.ageing.boot import boot_ageing
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.ageing.host_4k import ageing_host, warm_up
from dpamt.plan.ageing.tds import Td
from dpamt.plan.ageing.weeks import Weeks
from dpamt.plan.ageing.workload import Workload
from dpamt.plan.ageing.zap import region_runs
from dpamt.plan.mix import at_2m, parse_mix
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.size import machine_from_size

TARGET_EVENTS = 100
TARGET_BINCOUNT = 0.5
TARGET_4K = 3
WEEKS_HOST = "128GiB"
WEEKS_TDS = ("4x4GiB/4vcpu", "1x16GiB/8vcpu")
HOST = "8GiB"
RANGES = 1024
"""2 GiB a TD."""
VCPUS = 1
REPEATS = 5
"""Of the ageing simulation in one round: it takes some 12 ms, the others a second."""


def story(share_2m: float, seed: int = 1) -> list[Step]:
    """TDs 0 to 5, two alive at a time; the last one stays."""
    random = Random(seed)
    steps: list[Step] = []
    for number in range(6):
        steps.append(("create", number, 0, RANGES, False))
        first = 0
        while first < RANGES:
            count = min(random.randint(1, 16), RANGES - first)
            steps.append(("fault", number, first, count, random.random() < share_2m))
            first += count
        for index in random.sample(range(RANGES), 40):
            steps.append(("punch", number, index, 1, False))
            steps.append(("fault", number, index, 1, False))
        if number:
            steps.append(("destroy", number - 1, 0, 0, False))
    return steps


def run_ageing(host: AgeingHost, steps: list[Step]) -> None:
    tds: dict[int, Td] = {}
    for what, number, first, count, large in steps:
        if what == "create":
            tds[number] = host.create(count * SIZE_2M, VCPUS, True)
        elif what == "fault":
            host.fault(tds[number], 0, first * PAGES_PER_2M, count * PAGES_PER_2M, large)
        elif what == "punch":
            host.punch(tds[number], first * PAGES_PER_2M, PAGES_PER_2M)
        else:
            host.destroy(tds.pop(number))


def compare(share_2m: float, rounds: int) -> dict[str, float]:
    steps = story(share_2m)
    seconds: dict[str, list[float]] = {"ageing": [], "loop": [], "simpy": []}
    events = 0
    for _ in range(rounds):
        for _ in range(REPEATS):
            ageing = AgeingHost(boot_ageing(machine_from_size(HOST), 1, 0.1))
            start = process_time()
            run_ageing(ageing, steps)
            seconds["ageing"].append(process_time() - start)
        expected = {at: count for at, count in enumerate(ageing.counts) if count}
        for name, run in (("loop", run_loop), ("simpy", run_simpy)):
            sysinfo = ageing.sysinfo
            vcpu_pages = VCPUS * (1 + sysinfo.tdcx_pages_per_vcpu)
            plain = PlainHost(fresh_allocator(), 1 + sysinfo.tdcs_pages, vcpu_pages)
            start = process_time()
            events = run(plain, steps)
            seconds[name].append(process_time() - start)
            if plain.counts != expected:
                raise SystemExit(f"{name} arrives at other pairs than the ageing host")
    nanoseconds = {name: median(taken) / events * 1e9 for name, taken in seconds.items()}
    return {"share_2m": share_2m, "events": events, **nanoseconds}


def fresh_allocator() -> PageAllocator:
    """That of the booted host, with the bookkeeping of `dpamt run`."""
    kernel = boot_ageing(machine_from_size(HOST), 1, 0.1)
    booted = kernel.allocator
    allocator = PageAllocator(kernel.machine)
    for name in ("_front", "_zone_lists", "_zone_of", "_zones"):
        setattr(allocator, name, getattr(booted, name))
    return allocator


def pages_to_regions(rounds: int) -> list[dict[str, float]]:
    """Pages in runs, as a TD's single pages are: counted by region, both ways."""
    random = np.random.Generator(np.random.PCG64(1))
    rows = []
    for size in (1 << 12, 1 << 16, 1 << 20, 1 << 24):
        starts = random.integers(1, 1 + size // 16, size // 64) * 64
        pages = (starts[:, None] + np.arange(64)).ravel().astype(np.uint32)
        indices = (pages // PAGES_PER_2M).astype(np.intp)
        own, numpys = [], []
        repeats = max(1, (1 << 21) // size)
        for _ in range(max(rounds, 5)):
            start = process_time()
            for _ in range(repeats):
                region_runs(pages)
            own.append((process_time() - start) / repeats)
            start = process_time()
            for _ in range(repeats):
                np.bincount(indices)
            numpys.append((process_time() - start) / repeats)
        rows.append(
            {
                "pages": size,
                "own_ns": median(own) / size * 1e9,
                "bincount_ns": median(numpys) / size * 1e9,
                "of_bincount": median(numpys) / median(own),
            }
        )
    return rows


def weeks_at_4k(rounds: int) -> dict[str, float]:
    """Seconds of user time of four weeks on one host, with 90 % at 2M and with none.

    Booting the host and loading the compiled code are left out: they do not grow with the weeks.
    """
    warm_up()
    mixes = [parse_mix(text) for text in WEEKS_TDS]
    taken: dict[float, list[float]] = {0.0: [], 0.9: []}
    for _ in range(rounds):
        for share, seconds in taken.items():
            work = Workload(at_2m(mixes, share))
            kernel = boot_ageing(
                machine_from_size(WEEKS_HOST), 1, work.fragmentation, grouping=work.grouping
            )
            start = times().user
            weeks = Weeks(ageing_host(kernel, huge=share > 0), work, 1)
            for _hour in range(4 * 168):
                weeks.step()
            seconds.append(times().user - start)
    small, large = median(taken[0.0]), median(taken[0.9])
    return {"seconds_4k": small, "seconds_2m": large, "times": small / large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    gc.set_threshold(*COLLECT_AFTER)  # as in every command
    ageing = [compare(share, arguments.rounds) for share in (0.0, 0.5, 0.9)]
    regions = pages_to_regions(arguments.rounds)
    weeks = weeks_at_4k(arguments.rounds)
    if arguments.json:
        print(json.dumps({"ageing": ageing, "regions": regions, "weeks": weeks}))
        return
    for row in ageing:
        loop, simpy = (row[name] / row["ageing"] for name in ("loop", "simpy"))
        print(
            f"at 2M {row['share_2m']:.0%}: {row['events']:,.0f} page events; ns each: ageing "
            f"{row['ageing']:.2f}, loop {row['loop']:.0f} ({loop:.0f} times), SimPy "
            f"{row['simpy']:.0f} ({simpy:.0f} times); target {TARGET_EVENTS}"
        )
    for line in regions:
        print(
            f"{line['pages']:>10,} pages to regions: {line['own_ns']:.2f} ns, bincount "
            f"{line['bincount_ns']:.2f} ns: {line['of_bincount']:.2f} of its speed; target "
            f"{TARGET_BINCOUNT}"
        )
    print(
        f"four weeks on {WEEKS_HOST}: {weeks['seconds_2m']:.2f} s with 90 % at 2M, "
        f"{weeks['seconds_4k']:.2f} s at 4K: {weeks['times']:.1f} times; target {TARGET_4K}"
    )


if __name__ == "__main__":
    main()
