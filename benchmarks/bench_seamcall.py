"""What a SEAMCALL costs, in bare Python calls.

    python -m benchmarks.bench_seamcall [--json]

Everything is measured in one run, interleaved over many rounds; a cost is the median over the
rounds of its ratio to a bare call of a function with nine integer arguments, so that a slower or
busier machine changes both alike.  The module is the real one, its TD built by real SEAMCALLs, and
a call is measured through the whole ABI, with the making of its registers.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import process_time_ns

from tests.module.rig import FIRST, Rig

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs

BATCH = 400
"""Calls in one measurement: the 4K pages of most of a region."""
_CALLS_PER_BARE = 10


def _nine(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int) -> int:
    return a


def bare_calls() -> None:
    """A call of a function with nine integer arguments, many times."""
    for n in range(BATCH * _CALLS_PER_BARE):
        _nine(n, 2, 3, 4, 5, 6, 7, 8, 9)


class Subject:
    """A TD and the batches of SEAMCALLs that are measured; each leaves the TD as it was."""

    def __init__(self, dynamic: bool) -> None:
        rig = Rig(dynamic)
        self.seamcall = rig.module.processor(0).seamcall
        self.tdr = rig.make_td(FIRST, rig.hkid + 1)
        self.pages = FIRST + 8 * SIZE_2M
        rig.add_pair(self.pages)
        self.bare_region = FIRST + 9 * SIZE_2M
        self.pair = rig.take_pair()

    def _must(self, rax: int, args: TdxModuleArgs) -> None:
        status = self.seamcall(rax, args)
        if status:
            raise SystemExit(f"{leaf.LEAF_NAMES[rax]} gave {status:#x}")

    def aug(self) -> None:
        """PAGE.AUG of BATCH 4K pages."""
        seamcall = self.seamcall
        tdr = self.tdr
        page = self.pages
        number = leaf.TDH_MEM_PAGE_AUG
        for gpa in range(0, BATCH * PAGE_SIZE, PAGE_SIZE):
            args = TdxModuleArgs()
            args.rcx = gpa
            args.rdx = tdr
            args.r8 = page + gpa
            if seamcall(number, args):
                raise SystemExit("AUG refused")

    def remove(self) -> None:
        """What takes the pages of :meth:`aug` away again: not measured."""
        for gpa in range(0, BATCH * PAGE_SIZE, PAGE_SIZE):
            self._must(leaf.TDH_MEM_RANGE_BLOCK, TdxModuleArgs.of(rcx=gpa, rdx=self.tdr))
        self._must(leaf.TDH_MEM_TRACK, TdxModuleArgs.of(rcx=self.tdr))
        for gpa in range(0, BATCH * PAGE_SIZE, PAGE_SIZE):
            self._must(leaf.TDH_MEM_PAGE_REMOVE, TdxModuleArgs.of(rcx=gpa, rdx=self.tdr))

    def cycle(self) -> None:
        """AUG, BLOCK, TRACK and REMOVE of one page, BATCH times."""
        seamcall = self.seamcall
        tdr = self.tdr
        page = self.pages
        for gpa in range(0, BATCH * PAGE_SIZE, PAGE_SIZE):
            args = TdxModuleArgs()
            args.rcx = gpa
            args.rdx = tdr
            args.r8 = page + gpa
            failed = seamcall(leaf.TDH_MEM_PAGE_AUG, args)
            args = TdxModuleArgs()
            args.rcx = gpa
            args.rdx = tdr
            failed |= seamcall(leaf.TDH_MEM_RANGE_BLOCK, args)
            args = TdxModuleArgs()
            args.rcx = tdr
            failed |= seamcall(leaf.TDH_MEM_TRACK, args)
            args = TdxModuleArgs()
            args.rcx = gpa
            args.rdx = tdr
            failed |= seamcall(leaf.TDH_MEM_PAGE_REMOVE, args)
            if failed:
                raise SystemExit("AUG, BLOCK, TRACK or REMOVE refused")

    def pair_cycle(self) -> None:
        """PAMT.ADD and PAMT.REMOVE of one pair, BATCH times."""
        seamcall = self.seamcall
        region = self.bare_region | 1
        page0, page1 = self.pair
        for _ in range(BATCH):
            args = TdxModuleArgs()
            args.rcx = region
            args.rdx = page0
            args.r8 = page1
            failed = seamcall(leaf.TDH_PHYMEM_PAMT_ADD, args)
            args = TdxModuleArgs()
            args.rcx = region
            failed |= seamcall(leaf.TDH_PHYMEM_PAMT_REMOVE, args)
            if failed:
                raise SystemExit("PAMT.ADD or PAMT.REMOVE refused")


def time_of(batch: Callable[[], None]) -> int:
    """Nanoseconds of this process in one batch: what other processes take does not count."""
    start = process_time_ns()
    batch()
    return process_time_ns() - start


def bare_cost() -> float:
    """Nanoseconds of one bare call, now."""
    return time_of(bare_calls) / BATCH / _CALLS_PER_BARE


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Name of each measurement to its median nanoseconds and its cost in bare calls."""
    dynamic, static = Subject(True), Subject(False)
    batches = {
        "AUG 4K": dynamic.aug,
        "AUG 4K, static PAMT": static.aug,
        "AUG+BLOCK+TRACK+REMOVE": dynamic.cycle,
        "PAMT.ADD+REMOVE": dynamic.pair_cycle,
    }
    after = {"AUG 4K": dynamic.remove, "AUG 4K, static PAMT": static.remove}
    ratios: dict[str, list[float]] = {name: [] for name in batches}
    costs: dict[str, list[float]] = {name: [] for name in batches}
    bare: list[float] = []
    for _ in range(rounds):
        for name, batch in batches.items():
            before = bare_cost()
            cost = time_of(batch) / BATCH
            unit = (before + bare_cost()) / 2
            if name in after:
                after[name]()
            bare.append(unit)
            costs[name].append(cost)
            ratios[name].append(cost / unit)
    result = {"bare call": {"ns": median(bare), "bare_calls": 1.0}}
    for name in batches:
        result[name] = {"ns": median(costs[name]), "bare_calls": median(ratios[name])}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of a SEAMCALL in bare Python calls")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':24} {'ns':>9} {'bare calls':>11}")
    for name, cost in result.items():
        print(f"{name:24} {cost['ns']:9.0f} {cost['bare_calls']:11.1f}")


if __name__ == "__main__":
    main()
