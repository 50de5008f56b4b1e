"""The compiled host without 2M pages against the one in Python, page for page."""

import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.plan.ageing.boot import Grouping, boot_ageing
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.ageing.pages import OutOfMemory
from dpamt.plan.ageing.weeks import Weeks
from dpamt.plan.ageing.workload import Workload
from dpamt.plan.mix import parse_mix
from dpamt.platform.machine import Machine
from dpamt.platform.read_machine import packaged_host
from dpamt.platform.size import machine_from_size
from tests.host.rig import small_machine

pytest.importorskip("numba")

from dpamt.plan.ageing import pages_4k
from dpamt.plan.ageing.host_4k import (
    LEAST_PAGES,
    Host4k,
    ageing_host,
)

MACHINES = {
    "small": small_machine(),
    "two zones": machine_from_size("5GiB"),
    "fragments": replace(packaged_host("reserved-areas"), source="fragments"),
}


class Pair:
    """The same events on both hosts; TDs are pairs, None where memory did not suffice."""

    def __init__(self, machine: Machine, share: float, grouping: Grouping, seed: int) -> None:
        self.hosts: list[Any] = [
            kind(boot_ageing(machine, seed, share, grouping=grouping))
            for kind in (AgeingHost, Host4k)
        ]
        self.tds: list[tuple[Any, Any]] = []
        self.shortages = 0

    def do(self, what: str, *arguments: Any, td: int = 0) -> None:
        ended = []
        for at, host in enumerate(self.hosts):
            own = () if what == "create" else (self.tds[td][at],)
            try:
                ended.append(getattr(host, what)(*own, *arguments))
            except OutOfMemory:
                ended.append("short")
        assert (ended[0] == "short") == (ended[1] == "short")
        self.shortages += ended[0] == "short"
        if what == "create" and ended[0] != "short":
            self.tds.append((ended[0], ended[1]))
        if what == "destroy":
            del self.tds[td]

    def compare(self) -> None:
        python, compiled = self.hosts
        assert list(python.counts) == compiled.counts.tolist()
        assert python.pairs == compiled.pairs == np.count_nonzero(compiled.counts)
        assert python.allocator.snapshot() == compiled.allocator.snapshot()


def events(pair: Pair, random: Random, mib: int, steps: int, most: int) -> None:
    pages = mib * 256
    for _step in range(steps):
        what = random.choice(("create", "fault", "fault", "punch", "punch", "destroy"))
        if what == "create" or not pair.tds:
            if len(pair.tds) < most:
                pair.do("create", mib << 20, 1 + random.randrange(4), False, random.randrange(700))
        else:
            at = random.randrange(len(pair.tds))
            first = random.randrange(pages)
            if random.random() < 0.3:
                first -= first % PAGES_PER_2M
            count = min(random.choice((1, 16, 512, 1500, pages)), pages - first)
            if what == "fault":
                vcpus = len(pair.tds[at][0].vcpus)
                pair.do("fault", random.randrange(vcpus), first, count, td=at)
            elif what == "punch":
                pair.do("punch", first, count, td=at)
            else:
                pair.do("destroy", td=at)
        pair.compare()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("grouping", ["page-block", "scattered"])
@pytest.mark.parametrize("seed", range(4))
def test_any_events(share: float, grouping: Grouping, seed: int) -> None:
    """On a host so small that it runs out of memory now and then."""
    random = Random(f"{share} {grouping} {seed}")
    pair = Pair(MACHINES["small"], share, grouping, seed)
    events(pair, random, random.choice((16, 96, 256)), 40, 9)
    while pair.tds:
        pair.do("destroy")
    pair.compare()
    assert pair.hosts[1].pairs == 0


def test_a_host_that_runs_out_of_memory() -> None:
    """In the middle of a fault, of a pool and of a new TD."""
    pair = Pair(MACHINES["small"], 0.2, "scattered", 1)
    random = Random(2)
    size = pair.hosts[0].allocator.free_count >> 2
    for _ in range(7):
        pair.do("create", size // PAGES_PER_2M * SIZE_2M, 3, False, 10)
        if pair.tds:
            at = len(pair.tds) - 1
            pair.do("fault", 0, 0, size // PAGES_PER_2M * PAGES_PER_2M, td=at)
        pair.compare()
    events(pair, random, 64, 20, 9)
    assert pair.shortages > 3


@pytest.mark.parametrize("name", ["two zones", "fragments"])
def test_memory_in_several_pieces(name: str) -> None:
    pair = Pair(MACHINES[name], 0.1, "page-block", 3)
    events(pair, Random(name), 700, 12, 4)


def test_folios_of_vms_that_are_no_tds() -> None:
    python, compiled = Pair(MACHINES["small"], 0.4, "scattered", 5).hosts
    regions = [
        [first + at for first, count in host.allocator.folios(40) for at in range(count)]
        for host in (python, compiled)
    ]
    assert regions[0] == regions[1]
    assert python.allocator.snapshot() == compiled.allocator.snapshot()
    for host in (python, compiled):
        for region in regions[0][::2]:
            host.allocator.free_folios(region)
        assert len(host.allocator.folios(100_000)) > 0
    assert python.allocator.snapshot() == compiled.allocator.snapshot()


def test_weeks_are_the_same_on_both() -> None:
    tds = [parse_mix("3x512MiB/2vcpu"), parse_mix("1x2GiB/4vcpu")]
    work = Workload(tds, mean_life_hours=5, converted_per_hour=0.01, ballooned_per_hour=0.02)
    ways = []
    for kind in (AgeingHost, Host4k):
        kernel = boot_ageing(machine_from_size("8GiB"), 4, 0.1, grouping="page-block")
        weeks = Weeks(kind(kernel), work, 4)
        samples = [weeks.step() for _ in range(30)]
        ways.append((samples, weeks.refused, weeks.page_events, weeks.regions()))
    assert ways[0] == ways[1]


def test_when_the_compiled_host_is_taken() -> None:
    large = machine_from_size("8GiB")
    assert large.max_pfn >= LEAST_PAGES > small_machine().max_pfn
    assert isinstance(ageing_host(boot_ageing(large), huge=False), Host4k)
    assert isinstance(ageing_host(boot_ageing(large), huge=True), AgeingHost)
    assert isinstance(ageing_host(boot_ageing(large), False, "pool"), AgeingHost)
    assert isinstance(ageing_host(boot_ageing(small_machine()), huge=False), AgeingHost)


@pytest.mark.parametrize("seed", range(3))
def test_buddies_that_merge_again_and_again(seed: int) -> None:
    """More chunks come and go than a stack has room for: the zones stay alike."""
    python, compiled = Pair(MACHINES["small"], 0.1, "scattered", seed).hosts
    memory, zones = compiled.allocator.memory, python.allocator.zones
    random = Random(seed)
    held: list[tuple[int, int, int]] = []
    pushed = 0
    for _ in range(60_000):
        if len(held) < random.randrange(40):
            zone, order = random.randrange(len(zones)), random.randrange(10)
            taken = zones[zone].take(order)
            found = pages_4k.take(memory, zone, order, order)
            assert (taken or (0, 0)) == tuple(found)
            if taken is not None:
                held.append((zone, taken[0], 1 << order))
        elif held:
            zone, start, pages = held.pop(random.randrange(len(held)))
            zones[zone].release(start, start + pages)
            pages_4k.release(memory, start, start + pages)
            pushed += 1
    room = memory.stack_limit - memory.stack_begin
    assert pushed > 10 * room[:, 9].max()
    assert (memory.stack_end <= memory.stack_limit).all()
    assert python.allocator.snapshot() == compiled.allocator.snapshot()


def test_without_numba_python_does_it() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from dpamt.plan.ageing.boot import boot_ageing\n"
        "from dpamt.plan.ageing.host_4k import ageing_host, prepare\n"
        "from dpamt.platform.size import machine_from_size\n"
        "machine = machine_from_size('5GiB')\n"
        "prepare(machine.max_pfn)\n"
        "print(type(ageing_host(boot_ageing(machine), huge=False)).__name__)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "AgeingHost\n"
