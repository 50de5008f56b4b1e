"""What a page costs in bulk, beside page by page, and what it takes to fill a host of 1 TiB.

    python -m benchmarks.bench_bulk [--json] [--no-fill]

The ratios are medians over interleaved rounds of one run.  A fill is the 1 TiB host whose dmesg
comes with dpamt, filled with TDs of 64 GiB at 4K throughout: guest_memfd folios, S-EPT pages, AUG,
and for each 2M region its own page pair by the design's get; each size in a process of its own.
"full" goes on until the allocator has nothing left: pairs and S-EPT pages take the rest of the TiB.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import correlation, linear_regression, median
from time import perf_counter

from tests.host.rig import booted, make_td
from tests.module.rig import FIRST, Rig

from benchmarks.bench_seamcall import time_of
from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.cli.main import COLLECT_AFTER
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.designs.load import load_design
from dpamt.host.kvm.build import tdx_td_finalize
from dpamt.host.kvm.bulk import fault_in_run
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.module.bulk import ModuleBulk
from dpamt.module.module import TdxModule
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.platform.read_machine import packaged_host
from dpamt.sync import Shared

TARGET = 50
BULK_REPEATS = 16
"""Ranges in a row in bulk, for one page by page: both take a while."""
SECONDS_TARGET = 60
GIB_TARGET = 4
FILLS = (64, 128, 256, 512, 0)
"""GiB; 0: all there is."""
TD_GIB = 64
HOST = "host-1tib"
DESIGN = "merged"


class Seamcalls:
    """AUG, and BLOCK, TRACK and REMOVE, of a region, by the module alone."""

    def __init__(self) -> None:
        rig = Rig(True)
        self.seamcall = rig.module.processor(0).seamcall
        self.bulk = ModuleBulk(rig.module.processor(0))
        self.tdr = rig.make_td(FIRST, rig.hkid + 1)
        self.first = FIRST + 8 * SIZE_2M
        rig.add_pair(self.first)
        self.pages = range(self.first >> PAGE_SHIFT, (self.first + SIZE_2M) >> PAGE_SHIFT)

    def aug(self) -> None:
        seamcall, tdr, first = self.seamcall, self.tdr, self.first
        for gpa in range(0, SIZE_2M, PAGE_SIZE):
            args = TdxModuleArgs()
            args.rcx = gpa
            args.rdx = tdr
            args.r8 = first + gpa
            if seamcall(leaf.TDH_MEM_PAGE_AUG, args):
                raise SystemExit("AUG refused")

    def zap(self) -> None:
        seamcall, tdr, first = self.seamcall, self.tdr, self.first
        for gpa in range(0, SIZE_2M, PAGE_SIZE):
            for number, rcx in (
                (leaf.TDH_MEM_RANGE_BLOCK, gpa),
                (leaf.TDH_MEM_TRACK, tdr),
                (leaf.TDH_MEM_PAGE_REMOVE, gpa),
                (leaf.TDH_PHYMEM_PAGE_WBINVD, first + gpa),
            ):
                args = TdxModuleArgs()
                args.rcx = rcx
                args.rdx = tdr
                if seamcall(number, args):
                    raise SystemExit("zap refused")

    def aug_in_bulk(self) -> None:
        if self.bulk.page_aug(self.tdr >> PAGE_SHIFT, 0, self.pages) != PAGES_PER_2M:
            raise SystemExit("AUG refused in bulk")

    def zap_in_bulk(self) -> None:
        if self.bulk.page_zap(self.tdr >> PAGE_SHIFT, 0, PAGES_PER_2M, True) != PAGES_PER_2M:
            raise SystemExit("zap refused in bulk")


class Faults:
    """Faults on all pages of a 2M range, and the hole that undoes them."""

    def __init__(self, huge: bool) -> None:
        self.host = booted(DESIGN, 64)
        self.vm = make_td(self.host, 16, huge=huge)
        self.bulk = ModuleBulk(self.host.module.processor(0))
        self.cpu, self.vcpu = self.host.cpu, self.vm.vcpus[0]
        self._fault(PAGES_PER_2M)

    def _fault(self, gfn: int) -> None:
        self.cpu.running_vcpu = self.vcpu
        if tdx_handle_ept_violation(self.vm, self.vcpu, self.cpu, gfn << PAGE_SHIFT, 0):
            raise SystemExit("fault refused")

    def faults(self) -> None:
        for gfn in range(PAGES_PER_2M):
            self._fault(gfn)

    def faults_in_bulk(self) -> None:
        gfn = 0
        while gfn < PAGES_PER_2M:
            done = fault_in_run(self.vm, self.vcpu, self.cpu, self.bulk, gfn, PAGES_PER_2M - gfn)
            if not done:
                self._fault(gfn)
                done = 1
            gfn += done

    def hole(self) -> None:
        kvm_gmem_punch_hole(self.vm, self.cpu, 0, SIZE_2M)

    def hole_in_bulk(self) -> None:
        self.cpu.bulk = self.bulk
        self.hole()
        self.cpu.bulk = None


def measure_ratios(rounds: int) -> dict[str, dict[str, float]]:
    """Name to the median nanoseconds of a page one by one and in bulk, and their ratio."""
    calls, folio, single = Seamcalls(), Faults(True), Faults(False)
    calls_in_bulk, folio_in_bulk, single_in_bulk = Seamcalls(), Faults(True), Faults(False)
    steps: list[tuple[str, Callable[[], None], Callable[[], None], list[tuple[int, float]]]] = []
    for name, one_by_one, in_bulk in (
        ("AUG", calls.aug, calls_in_bulk.aug_in_bulk),
        ("BLOCK+TRACK+REMOVE+WBINVD", calls.zap, calls_in_bulk.zap_in_bulk),
        ("fault, folio", folio.faults, folio_in_bulk.faults_in_bulk),
        ("punch hole, folio", folio.hole, folio_in_bulk.hole_in_bulk),
        ("fault, single pages", single.faults, single_in_bulk.faults_in_bulk),
        ("punch hole, single pages", single.hole, single_in_bulk.hole_in_bulk),
    ):
        steps.append((name, one_by_one, in_bulk, []))
    for _ in range(rounds):
        for at in range(0, len(steps), 2):
            use, undo = steps[at], steps[at + 1]
            alone = time_of(use[1]), time_of(undo[1])
            used = undone = 0
            for _ in range(BULK_REPEATS):
                used += time_of(use[2])
                undone += time_of(undo[2])
            use[3].append((alone[0], used / BULK_REPEATS))
            undo[3].append((alone[1], undone / BULK_REPEATS))
    return {
        name: {
            "one_by_one_ns": median(alone for alone, _ in times) / PAGES_PER_2M,
            "bulk_ns": median(bulk for _, bulk in times) / PAGES_PER_2M,
            "ratio": median(alone / bulk for alone, bulk in times),
        }
        for name, _, _, times in steps
    }


class Filler:
    """The 1 TiB host, booted; TDs are added to it."""

    def __init__(self) -> None:
        machine = packaged_host(HOST)
        shared, memory = Shared(), PhysicalMemory()
        self.module = TdxModule(memory, machine, shared=shared)
        self.allocator = PageAllocator(machine)
        self.kernel = Kernel(
            machine,
            self.allocator,
            memory,
            shared,
            [lp.seamcall for lp in self.module.processors],
            load_design(DESIGN),
        )
        if tdx_enable(self.kernel):
            raise SystemExit("no module")
        self.cpu: Cpu = self.kernel.cpus[0]
        self.bulk = ModuleBulk(self.module.processor(0))

    def fill(self, gib: int) -> int:
        """Add TDs until so many GiB of theirs are in use, or all there is (0): the pages."""
        pages = 0
        while not gib or pages < gib << 18:
            mapped = self._fill_td()
            pages += mapped
            if mapped < TD_GIB << 18:
                break
        return pages

    def _fill_td(self) -> int:
        vm, cpu = Vm(self.kernel, TD_GIB << 30, True), self.cpu
        if tdx_td_init(vm, cpu, 1):
            raise SystemExit("no TD")
        vcpu = tdx_vcpu_create(vm)
        if not isinstance(vcpu, Vcpu) or tdx_vcpu_init(vm, vcpu, cpu) or tdx_td_finalize(vm, cpu):
            raise SystemExit("no VCPU")
        cpu.running_vcpu = vcpu
        gfn = 0
        while gfn < vm.memory_pages:
            most = PAGES_PER_2M - gfn % PAGES_PER_2M
            done = fault_in_run(vm, vcpu, cpu, self.bulk, gfn, most)
            if not done:
                if not vm.kernel.allocator.free_count:
                    break
                done = 1 + tdx_handle_ept_violation(vm, vcpu, cpu, gfn << PAGE_SHIFT, 0)
            if done <= 0:
                break
            gfn += done
        cpu.running_vcpu = None
        return gfn


def fill_here(gib: int) -> dict[str, float]:
    """Fill in this process: GiB of TD memory, seconds, peak GiB of this process."""
    gc.set_threshold(*COLLECT_AFTER)  # as in every command
    filler = Filler()
    start = perf_counter()
    pages = filler.fill(gib)
    seconds = perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    pairs = filler.kernel.pamt_pairs.load()
    return {"gib": pages / (1 << 18), "seconds": seconds, "peak_gib": peak, "pairs": pairs}


def measure_fills() -> list[dict[str, float]]:
    """Each fill in a process of its own."""
    found = []
    for gib in FILLS:
        command = [sys.executable, "-m", "benchmarks.bench_bulk", "--fill", str(gib)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found.append(json.loads(done.stdout))
    return found


def fit(fills: list[dict[str, float]]) -> dict[str, float]:
    """Seconds as a line over GiB."""
    sizes, seconds = [row["gib"] for row in fills], [row["seconds"] for row in fills]
    slope, intercept = linear_regression(sizes, seconds)
    return {
        "seconds_per_gib": slope,
        "intercept_seconds": intercept,
        "r_squared": correlation(sizes, seconds) ** 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="pages in bulk, and a host of 1 TiB filled")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-fill", action="store_true")
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill is not None:
        print(json.dumps(fill_here(options.fill)))
        return
    ratios = measure_ratios(options.rounds)
    fills = [] if options.no_fill else measure_fills()
    line = fit(fills) if fills else {}
    if options.json:
        print(
            json.dumps({"target": TARGET, "ratios": ratios, "fills": fills, "fit": line}, indent=2)
        )
        return
    print(f"{'a page':27} {'one by one':>12} {'in bulk':>10} {'ratio':>7}   (target {TARGET})")
    for name, row in ratios.items():
        alone, bulk, ratio = row["one_by_one_ns"], row["bulk_ns"], row["ratio"]
        print(f"{name:27} {alone:9.0f} ns {bulk:7.1f} ns {ratio:7.0f}")
    if fills:
        print(f"\n{'TD memory at 4K':>16} {'pairs':>9} {'seconds':>8} {'peak':>10}", end="")
        print(f"   (targets {SECONDS_TARGET} s, {GIB_TARGET} GiB)")
        for row in fills:
            size = f"{row['gib']:.1f} GiB"
            print(f"{size:>16} {row['pairs']:>9,} {row['seconds']:8.1f} {row['peak_gib']:6.2f} GiB")
        print(
            f"seconds = {line['intercept_seconds']:.2f} + {line['seconds_per_gib']:.4f} a GiB, "
            f"R^2 = {line['r_squared']:.5f}"
        )


if __name__ == "__main__":
    main()
